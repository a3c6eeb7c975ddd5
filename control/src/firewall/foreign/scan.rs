//! Looking at the chains of others: which of them close, and where an opening would stand.

use crate::firewall::error::FirewallError;
use crate::firewall::limits::OPENINGS_MAX;
use crate::firewall::nft::{Chain, Expression, Family, Hook, Nft, NftError, Rule, Table, Verdict};
use crate::firewall::ruleset::TABLE_COMMENT;
use nix::errno::Errno;

/// Docker's chain for the rules of others, called first from FORWARD and kept across its restarts.
const DOCKER_USER: &str = "DOCKER-USER";

/// A base chain of others that decides about packets of ours.
#[derive(Debug)]
pub(super) struct ForeignChain {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) hook: Hook,
    /// The chain itself, by name.
    pub(super) name: String,
    /// Whether a packet that no rule knows is dropped.
    pub(super) closes: bool,
    /// Whether its table is closed to everybody but its maker.
    pub(super) owned: bool,
    /// Its rules.
    pub(super) rules: Vec<Rule>,
    /// Docker's chain for others beside it, if it is there.
    pub(super) docker_user: Option<DockerUser>,
}

/// Docker's chain for the rules of others.
#[derive(Debug)]
pub(super) struct DockerUser {
    pub(super) rules: Vec<Rule>,
    /// Whether it is called for every packet.
    pub(super) is_called: bool,
}

impl ForeignChain {
    /// As `family table chain`.
    pub(super) fn title(&self) -> String {
        format!("{} {} {}", self.family.name(), self.table, self.name)
    }

    /// Whether iptables-nft made it.
    pub(super) fn is_of_iptables(&self) -> bool {
        matches!(self.family, Family::Ipv4 | Family::Ipv6)
            && self.table == "filter"
            && matches!(self.name.as_str(), "FORWARD" | "INPUT")
    }

    /// The chains in which an opening may stand, by name and rules, and whether it should stand there.
    pub(super) fn stands(&self) -> Vec<(&str, &[Rule], bool)> {
        let in_docker_user = self.docker_user.as_ref().is_some_and(|chain| chain.is_called);
        let mut stands = vec![(self.name.as_str(), self.rules.as_slice(), !in_docker_user)];
        stands.extend(self.docker_user.as_ref().map(|chain| (DOCKER_USER, chain.rules.as_slice(), in_docker_user)));
        stands
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The base chains of others that see forwarded, incoming or outgoing packets, at most [`OPENINGS_MAX`]. Beyond that,
    /// nobody could say what they do together.
    pub(super) chains: Vec<ForeignChain>,
    /// Whether others have rules for packets that pass through.
    pub(super) others_forward: bool,
}

/// Looks at the whole ruleset.
pub(super) fn scan(nft: &mut Nft) -> Result<Scan, FirewallError> {
    let tables = nft.tables(Family::Any)?;
    let chains = nft.chains(Family::Any, None)?;
    let mut found = Scan::default();
    for chain in &chains {
        let Some(base) = &chain.base else { continue };
        let table = tables.iter().find(|table| table.family == chain.family && table.name == chain.table);
        let speaks = matches!(chain.family, Family::Inet | Family::Ipv4 | Family::Ipv6 | Family::Bridge);
        if !speaks || table.is_none_or(is_of_this_program) {
            continue;
        }
        let routed = chain.family != Family::Bridge;
        match (base.kind.as_str(), base.hook) {
            ("filter", Hook::Forward | Hook::Input | Hook::Output) => {}
            ("nat", Hook::Postrouting) if routed && !found.others_forward => {
                found.others_forward = !rules(nft, chain.family, &chain.table, &chain.name)?.is_empty();
                continue;
            }
            _ => continue,
        }
        if found.chains.len() == OPENINGS_MAX {
            break;
        }
        let rules = rules(nft, chain.family, &chain.table, &chain.name)?;
        found.others_forward |= routed && base.hook == Hook::Forward && rules.iter().any(|rule| !is_opening(rule));
        let mut foreign = ForeignChain {
            family: chain.family,
            table: chain.table.clone(),
            hook: base.hook,
            name: chain.name.clone(),
            closes: base.drops || rules.iter().any(closes_all),
            owned: table.is_some_and(|table| table.owned),
            rules,
            docker_user: None,
        };
        let is_docker_user =
            |other: &&Chain| (other.family, &other.table) == (chain.family, &chain.table) && other.name == DOCKER_USER;
        if foreign.is_of_iptables() && foreign.name == "FORWARD" && chains.iter().any(|other| is_docker_user(&other)) {
            foreign.docker_user = Some(DockerUser {
                rules: self::rules(nft, chain.family, &chain.table, DOCKER_USER)?,
                is_called: calls_first(&foreign.rules, DOCKER_USER),
            });
        }
        found.chains.push(foreign);
    }
    Ok(found)
}

/// An opening of this program, whichever instance.
fn is_opening(rule: &Rule) -> bool {
    rule.comment.as_deref().is_some_and(|comment| comment.starts_with(TABLE_COMMENT))
}

/// Rules of a chain; none where it went meanwhile, which the generation tells.
fn rules(nft: &mut Nft, family: Family, table: &str, chain: &str) -> Result<Vec<Rule>, FirewallError> {
    match nft.rules(family, table, Some(chain)) {
        Err(NftError::List { errno: Errno::ENOENT, .. }) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// Another instance is no stranger: it lets pass what is not its own.
fn is_of_this_program(table: &Table) -> bool {
    table.comment.as_deref() == Some(TABLE_COMMENT) && table.name.starts_with("ginnel-")
}

pub(super) fn closes_all(rule: &Rule) -> bool {
    let Some((last, before)) = rule.expressions.split_last() else { return false };
    last.is_final() && before.iter().all(Expression::is_transparent)
}

/// Whether `chain` is called for every packet, before any rule that closes.
fn calls_first(rules: &[Rule], chain: &str) -> bool {
    let calls = |rule: &Rule| match rule.expressions.split_last() {
        Some((Expression::Verdict(Verdict::Jump(to)), before)) => {
            to == chain && before.iter().all(Expression::is_transparent)
        }
        _ => false,
    };
    rules.iter().take_while(|rule| !closes_all(rule)).any(calls)
}
