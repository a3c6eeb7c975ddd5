//! Making, keeping and removing the openings.

use super::legacy;
use super::scan::{ForeignChain, Scan, Stand, comment, opening_comment, scan};
use crate::firewall::error::FirewallError;
use crate::firewall::health::Finding;
use crate::firewall::limits::{COMMIT_TRIES_MAX, OPENINGS_MAX};
use crate::firewall::nft::{
    Batch, Expression, Family, Hook, MetaKey, Nft, NftError, Register, Rule, Verdict, equal_but_for_counts,
};
use crate::firewall::ruleset::MARK;
use crate::host::Netns;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// What a look at the chains of others came to.
#[derive(Debug, Default)]
pub(in crate::firewall) struct Openings {
    /// Chains with an opening of ours.
    pub(in crate::firewall) open: Vec<String>,
    /// What stands in the way.
    pub(in crate::firewall) findings: Vec<Finding>,
    /// Whether others have rules for packets that pass through.
    pub(in crate::firewall) others_forward: bool,
}

impl Openings {
    /// Makes the openings that are needed and removes those that are not.
    /// `prefixes` are those of the overlay, for the words to the operator.
    pub(in crate::firewall) fn make(
        nft: &mut Nft,
        instance: &str,
        prefixes: &BTreeSet<IpNet>,
        netns: &Netns,
    ) -> Result<Self, FirewallError> {
        let mut refused = BTreeSet::new();
        // Each turn makes one change: what was read before it no longer counts after it.
        for _ in 0..(OPENINGS_MAX * 2 + COMMIT_TRIES_MAX as usize) {
            let generation = nft.generation()?;
            let found = scan(nft)?;
            let next = found.chains.iter().filter(|chain| !refused.contains(&chain.title())).find_map(|chain| {
                let batch = change(chain, instance, may_open(chain));
                (!batch.is_empty()).then_some((chain, batch))
            });
            let Some((chain, batch)) = next else {
                // The list of tables is that of the reading thread's namespace.
                let legacy = netns.run_in(legacy::findings).unwrap_or_default();
                return Ok(Self::of(&found, instance, prefixes, legacy));
            };
            match nft.commit(&batch, Some(generation)) {
                Ok(()) | Err(NftError::Superseded) => {}
                Err(NftError::Refused(refusal)) => {
                    tracing::debug!(chain = chain.title(), %refusal, "no opening");
                    refused.insert(chain.title());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(FirewallError::Contended)
    }

    fn of(found: &Scan, instance: &str, prefixes: &BTreeSet<IpNet>, legacy: Vec<Finding>) -> Self {
        let others_forward = found.others_forward || !legacy.is_empty();
        let mut openings = Self { open: Vec::new(), findings: legacy, others_forward };
        for chain in &found.chains {
            let holds_ours = |stand: &&Stand| stand.rules.iter().any(|rule| is_ours(rule, instance));
            if let Some(stand) = chain.stands().find(holds_ours) {
                openings.open.push(format!("{} {} {}", chain.family.name(), chain.table, stand.name));
            } else if chain.closes {
                openings.findings.push(finding(chain, prefixes));
            }
        }
        openings.findings.sort_unstable();
        openings
    }
}

/// Removes every opening of the instance.
pub(in crate::firewall) fn close(nft: &mut Nft, instance: &str) -> Result<(), FirewallError> {
    for _ in 0..COMMIT_TRIES_MAX {
        let generation = nft.generation()?;
        let mut batch = Batch::default();
        for chain in scan(nft)?.chains {
            batch.extend(change(&chain, instance, false));
        }
        match nft.commit(&batch, Some(generation)) {
            Ok(()) => return Ok(()),
            Err(NftError::Superseded) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(FirewallError::Contended)
}

/// Only what passes through the host or comes to it is opened: what the host itself may send is for its owner to say, and
/// frames between ports have no mark of ours.
fn may_open(chain: &ForeignChain) -> bool {
    let hooked = matches!(chain.hook, Hook::Forward | Hook::Input);
    chain.closes && hooked && !chain.owned && chain.family != Family::Bridge
}

/// What is to be done about a chain so that it has one opening, at the right place, or none.
fn change(chain: &ForeignChain, instance: &str, open: bool) -> Batch {
    let mut batch = Batch::default();
    for stand in chain.stands() {
        let opening = opening(chain, &stand.name, instance);
        let wanted = open && stand.is_right;
        let mut stands = false;
        for (position, rule) in stand.rules.iter().enumerate().filter(|(_, rule)| is_ours(rule, instance)) {
            let same = equal_but_for_counts(&rule.expressions, &opening.expressions);
            let good = wanted && !stands && position < stand.end && same;
            stands |= good;
            if !good {
                batch.delete_rule(rule);
            }
        }
        if wanted && !stands {
            batch.insert_rule(&opening);
        }
    }
    batch
}

fn is_ours(rule: &Rule, instance: &str) -> bool {
    comment(rule) == Some(&opening_comment(instance))
}

fn opening(chain: &ForeignChain, stand: &str, instance: &str) -> Rule {
    let mut expressions = if chain.is_of_iptables() { xt_marked() } else { marked() };
    expressions.extend([Expression::COUNTER, Expression::Verdict(Verdict::Accept)]);
    Rule {
        family: chain.family,
        table: chain.table.clone(),
        chain: stand.into(),
        handle: None,
        expressions,
        comment: Some(opening_comment(instance)),
    }
}

/// `-m mark --mark MARK/MARK`: `xt_mark_mtinfo1`, mark, mask, inversion, aligned to eight bytes.
fn xt_marked() -> Vec<Expression> {
    let mut info = [MARK.to_ne_bytes(), MARK.to_ne_bytes()].concat();
    info.resize(16, 0);
    vec![Expression::XtMatch { name: "mark".into(), revision: 1, info }]
}

fn marked() -> Vec<Expression> {
    let register = Register::new(0);
    let mark = MARK.to_ne_bytes();
    vec![
        Expression::Meta { key: MetaKey::Mark, into: register },
        Expression::Bitwise { from: register, into: register, mask: mark.into(), xor: vec![0; 4] },
        Expression::Compare { from: register, equal: true, value: mark.into() },
    ]
}

fn finding(chain: &ForeignChain, prefixes: &BTreeSet<IpNet>) -> Finding {
    let title = chain.title();
    let what = match chain.hook {
        _ if chain.family == Family::Bridge => "frames between containers",
        Hook::Forward => "packets between containers and elsewhere",
        Hook::Input => "packets of containers to this host",
        _ => "packets of this host to containers",
    };
    let why = if chain.owned { ", and its owner lets nobody else change it" } else { "" };
    let remedy = match chain.table.as_str() {
        "firewalld" => {
            let sources = prefixes.iter().map(|prefix| format!(" --add-source={prefix}"));
            let sources: String = sources.collect();
            Some(format!("firewall-cmd --permanent --zone=trusted{sources} && firewall-cmd --reload"))
        }
        // What is switched has no mark, and what is owned takes no rule.
        _ if chain.family == Family::Bridge || chain.owned => None,
        _ => Some(format!("nft insert rule {title} meta mark and {MARK:#x} == {MARK:#x} accept")),
    };
    Finding { code: "foreign_drop", detail: format!("chain {title} drops {what}{why}"), remedy }
}
