//! The process of the daemon and what it keeps: rights, descriptors, data directory, lock, addresses.

use super::{Finding, when};
use crate::cli::doctor::facts::{Facts, PortFacts, Reach};
use crate::host::ports::{Holder, Protocol};

/// `CAP_NET_ADMIN` of `linux/capability.h`.
const NET_ADMIN: u32 = 12;

pub(super) fn capability_missing(facts: &Facts) -> Vec<Finding> {
    let lacks = |capabilities: &u64| capabilities & (1 << NET_ADMIN) == 0;
    let Some(process) = &facts.process else {
        // Root of a container may have less than a daemon started there needs.
        let Some(own) = facts.own_capabilities.filter(|own| facts.root && lacks(own)) else { return Vec::new() };
        let finding = Finding::error("root may not change the network here: a daemon could not either");
        let finding = finding.seen(format!("CapEff of this process is {own:016x}, without CAP_NET_ADMIN"));
        return vec![finding.fix("give the container --cap-add NET_ADMIN")];
    };
    let Some(capabilities) = process.capabilities.filter(lacks) else { return Vec::new() };
    let finding = Finding::error("the daemon may not change the network: it lacks CAP_NET_ADMIN")
        .seen(format!("CapEff of {} (process {}) is {capabilities:016x}", process.name, process.pid));
    let fix =
        "systemctl edit ginneld: CapabilityBoundingSet=CAP_NET_ADMIN CAP_CHOWN; in a container --cap-add NET_ADMIN";
    vec![finding.fix(fix)]
}

pub(super) fn descriptors_short(facts: &Facts) -> Vec<Finding> {
    let Some(process) = &facts.process else { return Vec::new() };
    let (Some(open), Some(most)) = (process.open_fds, process.max_fds) else { return Vec::new() };
    // At 90 % there is time left to do something.
    when(open.saturating_mul(10) > most.saturating_mul(9), || {
        Finding::warning("the daemon is short of descriptors: soon new connections are turned away")
            .seen(format!("{open} of {most} are open"))
            .fix(format!(
                "find out what holds them: ls -l /proc/{}/fd; then raise LimitNOFILE of the unit",
                process.pid
            ))
    })
}

pub(super) fn dir_unusable(facts: &Facts) -> Vec<Finding> {
    let dir = facts.state.dir.display();
    let Some(problem) = &facts.state.problem else { return Vec::new() };
    let finding = Finding::error("the data directory cannot be used: key and state of the node are there");
    vec![finding.seen(format!("{dir}: {problem}")).fix(format!("sudo install -d -m 0700 {dir}"))]
}

pub(super) fn dir_open(facts: &Facts) -> Vec<Finding> {
    let dir = &facts.state.dir;
    let key = dir.join("private.key");
    let mut found = Vec::new();
    for (path, file, most, mend) in [(dir, facts.state.found, 0o700, "0700"), (&key, facts.state.key, 0o600, "0600")] {
        let Some(file) = file.filter(|file| file.mode & 0o777 & !most != 0) else { continue };
        let path = path.display();
        let finding = Finding::warning("others may look at what only the daemon is to see");
        let finding = finding.seen(format!("{path} has mode {:04o}", file.mode & 0o7777));
        found.push(finding.fix(format!("sudo chmod {mend} {path}")));
    }
    found
}

pub(super) fn lock_silent(facts: &Facts) -> Vec<Finding> {
    let Some(pid) = facts.state.locked_by else { return Vec::new() };
    let unanswered = matches!(facts.socket.reach, Reach::Missing | Reach::Dead | Reach::Silent(_));
    when(unanswered, || {
        Finding::error("a process holds the data directory, so no other daemon can start on it, and does not answer")
            .seen(format!("{} is locked by process {pid}", facts.state.dir.join("lock").display()))
            .seen(format!("nobody answers at {}", facts.socket.path.display()))
            .fix(format!("ask at its own socket with --socket, or end it: sudo kill {pid}"))
    })
}

pub(super) fn address_taken(facts: &Facts) -> Vec<Finding> {
    let ours = facts.process.as_ref().map(|process| process.pid);
    let foreign = |port: &PortFacts| match port.holder.clone()? {
        Holder::Process { pid, .. } if Some(pid) == ours => None,
        Holder::Process { pid, name } => Some(format!("{name} (process {pid})")),
        // A daemon that answers has what it needs, and root would know who else it is.
        Holder::Unknown if facts.daemon.is_some() && !facts.root => None,
        Holder::Unknown => Some("somebody this user cannot see, or the kernel".to_owned()),
    };
    let finding = |port: &PortFacts| {
        let PortFacts { purpose, protocol, address, .. } = port;
        let holder = foreign(port)?;
        let text = format!("the {} address for {purpose} is somebody else's", protocol.name());
        let family = if *protocol == Protocol::Udp { "-ulpn" } else { "-tlpn" };
        let finding = Finding::error(text).seen(format!("{address} is held by {holder}"));
        Some(
            finding
                .fix(format!("stop that program (sudo ss {family} 'sport = {}'), or choose another", address.port())),
        )
    };
    facts.ports.iter().filter_map(finding).collect()
}
