//! How the firewall is: for `status`, metrics and whoever asks why packets do not arrive.

use super::ruleset::DropReason;
use std::collections::BTreeMap;
use std::time::Duration;

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Stable name of the kind.
    pub code: &'static str,
    /// What was found.
    pub detail: String,
    /// A command that mends it, if one does.
    pub remedy: Option<String>,
}

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heal {
    /// Who had changed the ruleset last, where the kernel tells: program and process.
    pub culprit: Option<String>,
    /// From the event that told of it until all was back.
    pub took: Duration,
}

/// State of the firewall.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// Whether the rules were in place when last looked at.
    pub in_place: bool,
    /// Repairs so far.
    pub heals: u64,
    /// The last of them.
    pub last_heal: Option<Heal>,
    /// Chains of others in which an opening of ours is, as `family table chain`.
    pub openings: Vec<String>,
    /// Whether others have rules for packets that pass through this host: then forwarding is not ours alone to switch off.
    pub others_forward: bool,
    /// What stands in the way.
    pub findings: Vec<Finding>,
}

/// Packets dropped since the rules were made.
pub type Drops = BTreeMap<DropReason, u64>;
