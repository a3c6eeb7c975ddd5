//! The checks: a code that never changes its meaning, what it is about, and a function of the facts.

mod host;
mod peers;
mod reach;
mod state;

use super::facts::Facts;
use crate::ipc::wire::Severity;
use serde::Serialize;

/// One check.
pub(super) struct Check {
    pub(super) code: &'static str,
    /// As the paper has it.
    pub(super) about: &'static str,
    run: fn(&Facts) -> Vec<Finding>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) code: &'static str,
    pub(super) severity: Severity,
    pub(super) text: String,
    /// What it was seen by.
    pub(super) evidence: Vec<String>,
    /// What mends it, a command where there is one.
    pub(super) fix: Option<String>,
}

/// All checks, in the order in which one thing depends on another.
pub(super) const CHECKS: &[Check] = &[
    check("G001", "the configuration file has mistakes", reach::config_wrong),
    check("G002", "the configuration file has keys that nothing goes by", reach::config_unread),
    check("G010", "there is no socket: no daemon runs here, or it has another socket", reach::socket_missing),
    check("G011", "nobody is behind the socket: the daemon was killed", reach::socket_dead),
    check("G012", "the socket may not be opened by the one who asks", reach::socket_denied),
    check("G013", "the daemon does not answer", reach::daemon_silent),
    check("G014", "the daemon gives the one who asks no role", reach::no_role),
    check("G015", "the daemon runs another version than this program", reach::versions_differ),
    check("G020", "`/dev/net/tun` is missing", host::tun_missing),
    check("G021", "`/dev/net/tun` may not be opened", host::tun_denied),
    check("G022", "the daemon lacks `CAP_NET_ADMIN`, or would if it were started here", state::capability_missing),
    check("G023", "the daemon is short of descriptors", state::descriptors_short),
    check("G030", "the data directory cannot be used", state::dir_unusable),
    check("G031", "data directory or key are open to others", state::dir_open),
    check("G032", "a process holds the data directory and does not answer", state::lock_silent),
    check("G033", "an address the daemon is to have is somebody else's", state::address_taken),
    check("G040", "the host does not forward packets of its containers", host::forwarding_off),
    check("G041", "strict reverse-path filtering drops answers from the overlay", host::reverse_path_strict),
    check("G042", "packets of the overlay are larger than a path to a peer takes", host::mtu_too_large),
    check("G043", "links were left behind", host::links_left),
    check("G044", "the kernel has no nf_tables", host::nf_tables_missing),
    check("G045", "the kernel follows no connections, or has no room for more", host::conntrack),
    check("G050", "the clock of this host is wrong", peers::clock_wrong),
    check("G051", "there never was a handshake with a peer", peers::never_heard),
    check("G052", "a peer does not answer any more", peers::fallen_silent),
    check("G053", "many packets are dropped", peers::drops),
    check("G054", "an offload failed", peers::offload_failed),
    check("G060", "the daemon reports a condition", peers::conditions),
    check("G070", "`ginnel demo` needs root here", host::user_namespaces_off),
];

const fn check(code: &'static str, about: &'static str, run: fn(&Facts) -> Vec<Finding>) -> Check {
    Check { code, about, run }
}

/// Everything that is wrong, in the order of the checks.
pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    let found = |check: &Check| {
        let mut found = (check.run)(facts);
        found.iter_mut().for_each(|finding| finding.code = check.code);
        found
    };
    CHECKS.iter().flat_map(found).collect()
}

impl Finding {
    fn new(severity: Severity, text: impl Into<String>) -> Self {
        Self { code: "", severity, text: text.into(), evidence: Vec::new(), fix: None }
    }

    fn error(text: impl Into<String>) -> Self {
        Self::new(Severity::Error, text)
    }

    fn warning(text: impl Into<String>) -> Self {
        Self::new(Severity::Warning, text)
    }

    fn info(text: impl Into<String>) -> Self {
        Self::new(Severity::Info, text)
    }

    fn seen(mut self, evidence: impl Into<String>) -> Self {
        self.evidence.push(evidence.into());
        self
    }

    fn all_seen(mut self, evidence: impl IntoIterator<Item = String>) -> Self {
        self.evidence.extend(evidence);
        self
    }

    fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

/// A finding where `wrong` holds.
fn when(wrong: bool, finding: impl FnOnce() -> Finding) -> Vec<Finding> {
    if wrong { vec![finding()] } else { Vec::new() }
}

#[cfg(test)]
mod tests;
