//! Looking at the chains of others: which of them close, and where an opening would stand.

use crate::firewall::error::FirewallError;
use crate::firewall::limits::OPENINGS_MAX;
use crate::firewall::nft::{Chain, Expression, Family, Hook, Nft, NftError, Rule, Table, Verdict};
use crate::firewall::ruleset::{TABLE_COMMENT, table_name};
use nix::errno::Errno;
use std::collections::HashMap;

/// Docker's chain for the rules of others, called first from FORWARD and kept across its restarts.
const DOCKER_USER: &str = "DOCKER-USER";

/// How deep chains call one another at most (`NFT_JUMP_STACK_SIZE`).
const CALLS_MAX: u32 = 16;

/// A base chain of others that decides about packets of ours.
#[derive(Debug)]
pub(super) struct ForeignChain {
    pub(super) family: Family,
    pub(super) table: String,
    pub(super) hook: Hook,
    /// The chain itself.
    pub(super) own: Stand,
    /// Whether a packet that no rule knows is dropped.
    pub(super) closes: bool,
    /// Whether its table is closed to everybody but its maker.
    pub(super) owned: bool,
    /// Docker's chain for the rules of others beside it, if it is there.
    docker_user: Option<Stand>,
}

/// A chain in which an opening may stand.
#[derive(Debug)]
pub(super) struct Stand {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
    /// Position of the rule behind which no packet comes.
    pub(super) end: usize,
    /// Whether the opening should stand here.
    pub(super) is_right: bool,
}

impl ForeignChain {
    /// As `family table chain`.
    pub(super) fn title(&self) -> String {
        format!("{} {} {}", self.family.name(), self.table, self.own.name)
    }

    /// Whether iptables-nft made it.
    pub(super) fn is_of_iptables(&self) -> bool {
        is_of_iptables(self.family, &self.table, &self.own.name)
    }

    /// The chains in which an opening may stand.
    pub(super) fn stands(&self) -> impl Iterator<Item = &Stand> {
        [&self.own].into_iter().chain(&self.docker_user)
    }
}

fn is_of_iptables(family: Family, table: &str, chain: &str) -> bool {
    matches!(family, Family::Ipv4 | Family::Ipv6) && table == "filter" && matches!(chain, "FORWARD" | "INPUT")
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
        let Some(table) = table.filter(|table| !is_of_this_program(table)) else { continue };
        let routed = match chain.family {
            Family::Inet | Family::Ipv4 | Family::Ipv6 => true,
            Family::Bridge => false,
            Family::Any | Family::Other(_) => continue,
        };
        match (base.kind.as_str(), base.hook) {
            ("filter", Hook::Forward | Hook::Input | Hook::Output) => {}
            ("nat", Hook::Postrouting) if routed && !found.others_forward => {
                found.others_forward = !rules(nft, table, &chain.name)?.is_empty();
                continue;
            }
            _ => continue,
        }
        if found.chains.len() == OPENINGS_MAX {
            break;
        }
        let foreign = look_at(nft, table, chain, base.hook, base.drops, &chains)?;
        let is_strange = |rule: &Rule| comment(rule).is_none_or(|comment| !is_of_opening(comment));
        found.others_forward |= routed && base.hook == Hook::Forward && foreign.own.rules.iter().any(is_strange);
        found.chains.push(foreign);
    }
    Ok(found)
}

fn look_at(
    nft: &mut Nft,
    table: &Table,
    chain: &Chain,
    hook: Hook,
    drops: bool,
    chains: &[Chain],
) -> Result<ForeignChain, FirewallError> {
    let mut courses = Courses { nft, table, known: HashMap::new() };
    let rules = rules(courses.nft, table, &chain.name)?;
    let (end, closes) = match courses.of_rules(&rules, CALLS_MAX)? {
        Course::Closed(position) => (position, true),
        Course::Open(position) => (position, false),
        Course::Through => (rules.len(), drops),
    };
    let mut own = Stand { name: chain.name.clone(), rules, end, is_right: true };
    let mut docker_user = None;
    let is_docker_user =
        |other: &Chain| (other.family, &other.table) == (chain.family, &chain.table) && other.name == DOCKER_USER;
    if hook == Hook::Forward
        && is_of_iptables(chain.family, &chain.table, &chain.name)
        && chains.iter().any(is_docker_user)
    {
        let rules = self::rules(courses.nft, table, DOCKER_USER)?;
        let end = match courses.of_rules(&rules, CALLS_MAX)? {
            Course::Closed(position) | Course::Open(position) => position,
            Course::Through => rules.len(),
        };
        let is_right = own.rules.iter().take(own.end.saturating_add(1)).any(|rule| calls(rule, DOCKER_USER));
        own.is_right = !is_right;
        docker_user = Some(Stand { name: DOCKER_USER.into(), rules, end, is_right });
    }
    // One that is switched off drops nothing, but an opening may have stood in it before.
    let closes = closes && !table.dormant;
    let (family, table, owned) = (table.family, table.name.clone(), table.owned);
    Ok(ForeignChain { family, table, hook, own, closes, owned, docker_user })
}

/// What becomes of a packet that no rule of a chain is particular about.
#[derive(Clone, Copy, Debug)]
enum Course {
    /// Dropped, by the rule at this position or what it calls.
    Closed(usize),
    /// Accepted, by the rule at this position or what it calls.
    Open(usize),
    /// It comes out at the end.
    Through,
}

/// Courses of the chains of a table.
struct Courses<'a> {
    nft: &'a mut Nft,
    table: &'a Table,
    known: HashMap<String, Course>,
}

impl Courses<'_> {
    fn of_rules(&mut self, rules: &[Rule], calls_max: u32) -> Result<Course, FirewallError> {
        for (position, rule) in rules.iter().enumerate() {
            let Some((last, before)) = rule.expressions.split_last() else { continue };
            if !before.iter().all(Expression::is_transparent) {
                continue;
            }
            let (called, comes_back) = match last {
                last if last.is_final() => return Ok(Course::Closed(position)),
                Expression::Verdict(Verdict::Accept) => return Ok(Course::Open(position)),
                Expression::Verdict(Verdict::Return) => return Ok(Course::Through),
                Expression::Verdict(Verdict::Jump(chain)) => (chain, true),
                Expression::Verdict(Verdict::Goto(chain)) => (chain, false),
                _ => continue,
            };
            match self.of_chain(called, calls_max)? {
                Course::Closed(_) => return Ok(Course::Closed(position)),
                Course::Open(_) => return Ok(Course::Open(position)),
                Course::Through if comes_back => {}
                Course::Through => return Ok(Course::Through),
            }
        }
        Ok(Course::Through)
    }

    fn of_chain(&mut self, chain: &str, calls_max: u32) -> Result<Course, FirewallError> {
        if let Some(known) = self.known.get(chain) {
            return Ok(*known);
        }
        let Some(calls_max) = calls_max.checked_sub(1) else { return Ok(Course::Through) };
        let rules = rules(self.nft, self.table, chain)?;
        let course = self.of_rules(&rules, calls_max)?;
        self.known.insert(chain.into(), course);
        Ok(course)
    }
}

/// Whether the rule calls `chain` for every packet.
fn calls(rule: &Rule, chain: &str) -> bool {
    match rule.expressions.split_last() {
        Some((Expression::Verdict(Verdict::Jump(to)), before)) => {
            to == chain && before.iter().all(Expression::is_transparent)
        }
        _ => false,
    }
}

/// Rules of a chain; none where it went meanwhile, which the generation tells.
fn rules(nft: &mut Nft, table: &Table, chain: &str) -> Result<Vec<Rule>, FirewallError> {
    match nft.rules(table.family, &table.name, Some(chain)) {
        Err(NftError::List { errno: Errno::ENOENT, .. }) => Ok(Vec::new()),
        other => Ok(other?),
    }
}

/// The comment of a rule: its own, or that of xtables, which it has after `iptables-save` and `iptables-restore`.
pub(super) fn comment(rule: &Rule) -> Option<&str> {
    rule.comment.as_deref().or_else(|| rule.expressions.iter().find_map(xtables_comment))
}

fn xtables_comment(expression: &Expression) -> Option<&str> {
    match expression {
        Expression::XtMatch { name, info, .. } if name == "comment" => {
            std::str::from_utf8(info.split(|byte| *byte == 0).next()?).ok()
        }
        _ => None,
    }
}

/// The comment of openings of an instance.
pub(super) fn opening_comment(instance: &str) -> String {
    format!("{TABLE_COMMENT} {instance}")
}

/// Whether it is one of an opening, whichever instance.
fn is_of_opening(comment: &str) -> bool {
    comment.starts_with(&opening_comment(""))
}

/// Another instance is no stranger: it lets pass what is not its own.
fn is_of_this_program(table: &Table) -> bool {
    table.comment.as_deref() == Some(TABLE_COMMENT) && table.name.starts_with(&table_name(""))
}
