//! The configuration, and the way to the daemon.

use super::{Finding, when};
use crate::cli::doctor::facts::{Facts, FileFacts, Reach};

const START: &str = "sudo systemctl start ginneld";

pub(super) fn config_wrong(facts: &Facts) -> Vec<Finding> {
    let path = facts.config.path.display();
    when(!facts.config.problems.is_empty(), || {
        Finding::error(format!("{path} is of no use: a daemon does not start with it, nor reload it"))
            .all_seen(facts.config.problems.clone())
            .fix(format!("mend it, then: ginneld --check-config --config {path}"))
    })
}

pub(super) fn config_unread(facts: &Facts) -> Vec<Finding> {
    when(!facts.config.unread.is_empty(), || {
        Finding::info("this version has nothing that goes by some keys of the configuration").seen(format!(
            "{}: {}",
            facts.config.path.display(),
            facts.config.unread.join(", ")
        ))
    })
}

pub(super) fn socket_missing(facts: &Facts) -> Vec<Finding> {
    let path = facts.socket.path.display();
    when(facts.socket.reach == Reach::Missing, || {
        Finding::error("no daemon runs here, or it has another socket")
            .seen(format!("{path} is not there"))
            .fix(format!("{START}, or name its socket with --socket"))
    })
}

pub(super) fn socket_dead(facts: &Facts) -> Vec<Finding> {
    let path = facts.socket.path.display();
    when(facts.socket.reach == Reach::Dead, || {
        Finding::error("the daemon that made the socket is gone")
            .seen(format!("connections to {path} are refused"))
            .fix(format!("{START}, then look why it ended: journalctl -u ginneld -n 50"))
    })
}

pub(super) fn socket_denied(facts: &Facts) -> Vec<Finding> {
    let path = facts.socket.path.display();
    when(facts.socket.reach == Reach::Denied, || {
        let finding = Finding::error("the socket may not be opened by you");
        let finding = match facts.socket.file {
            Some(FileFacts { uid, gid, mode }) => {
                finding.seen(format!("{path} is of user {uid} and group {gid}, mode {mode:04o}"))
            }
            None => finding.seen(format!("{path} cannot be looked at")),
        };
        finding.fix("ask as root, or join its group: sudo usermod -aG ginnel $USER, and log in again")
    })
}

pub(super) fn daemon_silent(facts: &Facts) -> Vec<Finding> {
    let Reach::Silent(why) = &facts.socket.reach else { return Vec::new() };
    let held = facts.process.as_ref().map(|process| format!("{} is process {}", process.name, process.pid));
    let finding =
        Finding::error("something is behind the socket and does not answer as a daemon does").seen(why.clone());
    vec![finding.all_seen(held).fix("journalctl -u ginneld -n 50, then: sudo systemctl restart ginneld")]
}

pub(super) fn no_role(facts: &Facts) -> Vec<Finding> {
    let Reach::NoRole(why) = &facts.socket.reach else { return Vec::new() };
    let finding = Finding::error("the daemon lets you connect and tells you nothing").seen(why.clone());
    vec![finding.fix(format!("ask as root, or add yourself to access.read in {}", facts.config.path.display()))]
}

pub(super) fn versions_differ(facts: &Facts) -> Vec<Finding> {
    let ours = env!("CARGO_PKG_VERSION");
    let theirs = facts.daemon.as_ref().and_then(|daemon| daemon.status.version.as_deref());
    let Some(theirs) = theirs.filter(|theirs| *theirs != ours) else { return Vec::new() };
    let finding = Finding::info("the daemon is of another version than this program");
    vec![finding.seen(format!("daemon {theirs}, ginnel {ours}")).fix("sudo systemctl restart ginneld")]
}
