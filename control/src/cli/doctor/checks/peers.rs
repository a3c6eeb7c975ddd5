//! What the daemon tells of itself: its peers, its packets, its offloads, its conditions; and the clock they go by.

use super::{Finding, when};
use crate::cli::doctor::facts::Facts;
use crate::cli::json::key;
use crate::cli::table::age;
use crate::ipc::wire::PeerStatus;

/// A clock before this is one that was never set: 1 January 2025.
const CLOCK_MIN: i64 = 1_735_689_600;

/// A handshake so far ahead is no difference of reading.
const AHEAD_SECS: i64 = 5;

/// The life of a session (WireGuard paper, section 6.1: `REJECT_AFTER_TIME`).
const SESSION_SECS: i64 = 180;

/// Findings name so many peers.
const NAMED_MAX: usize = 5;

/// One packet of so many lost is much.
const DROP_SHARE: u64 = 100;

/// Fewer packets than this say nothing about a share.
const PACKETS_MIN: u64 = 10_000;

pub(super) fn clock_wrong(facts: &Facts) -> Vec<Finding> {
    let fix = "timedatectl status, then: sudo timedatectl set-ntp true";
    if facts.now < CLOCK_MIN {
        let text = "the clock was never set: peers that knew this node before refuse its handshakes";
        return vec![Finding::error(text).seen(format!("it shows {} s after 1970", facts.now)).fix(fix)];
    }
    let ahead: Vec<_> = peers(facts).filter(|peer| peer.last_handshake_unix_secs > facts.now + AHEAD_SECS).collect();
    when(!ahead.is_empty(), || {
        // Initiations carry the time, and a peer takes none that is older than the last (section 5.1).
        Finding::error("the clock was set back: peers refuse handshakes of this node until it has caught up")
            .all_seen(ahead.iter().take(NAMED_MAX).map(|peer| {
                let secs = peer.last_handshake_unix_secs - facts.now;
                format!("the last handshake with {} lies {secs} s ahead", name(peer))
            }))
            .fix(fix)
    })
}

pub(super) fn never_heard(facts: &Facts) -> Vec<Finding> {
    let silent: Vec<_> =
        peers(facts).filter(|peer| peer.last_handshake_unix_secs == 0 && peer.healthy != Some(true)).collect();
    when(!silent.is_empty(), || {
        let evidence = silent.iter().take(NAMED_MAX).map(|peer| match peer.endpoint.as_str() {
            "" => format!("{} has no endpoint: it has to call first", name(peer)),
            endpoint => format!(
                "{} at {endpoint}: {} bytes sent, {} received",
                name(peer),
                bytes(peer.tx_bytes),
                bytes(peer.rx_bytes)
            ),
        });
        Finding::warning(format!("{} of {} peers were never heard of", silent.len(), count(facts)))
            .all_seen(evidence)
            .fix("see on both sides that keys, endpoint and UDP port are right and open: ginnel peers; nc -vzu ENDPOINT PORT")
    })
}

pub(super) fn fallen_silent(facts: &Facts) -> Vec<Finding> {
    let silent = |peer: &&PeerStatus| {
        let then = peer.last_handshake_unix_secs;
        then > 0 && facts.now - then > SESSION_SECS && peer.healthy == Some(false)
    };
    let silent: Vec<_> = peers(facts).filter(silent).collect();
    when(!silent.is_empty(), || {
        let evidence = silent.iter().take(NAMED_MAX).map(|peer| {
            let then = age(peer.last_handshake_unix_secs, facts.now);
            format!("{} at {}: last handshake {then}", name(peer), or_nowhere(&peer.endpoint))
        });
        Finding::warning(format!("{} of {} peers do not answer any more", silent.len(), count(facts)))
            .all_seen(evidence)
            .fix("see whether that node runs and the path to it is open; ginnel events --kind peer_health_changed")
    })
}

pub(super) fn drops(facts: &Facts) -> Vec<Finding> {
    let Some(daemon) = &facts.daemon else { return Vec::new() };
    let total = |name: &str| daemon.status.totals.get(name).copied().unwrap_or(0);
    let share_of = |moved: u64, way: &str| {
        let worst = daemon.status.drops.iter().filter(|(reason, _)| reason.starts_with(way)).max_by_key(|drop| drop.1);
        let (reason, packets) = worst.filter(|worst| moved >= PACKETS_MIN && *worst.1 > moved / DROP_SHARE)?;
        let finding = Finding::warning(format!("more than one {way} packet of {DROP_SHARE} was dropped"));
        let finding = finding.seen(format!("{reason}: {packets} of {moved}"));
        Some(
            finding
                .fix(format!("what to do about {reason} is in docs/operate.md, section Drops; watch it: ginnel top")),
        )
    };
    let outbound = share_of(total("tun_rx_packets"), "outbound");
    outbound.into_iter().chain(share_of(total("link_rx_datagrams"), "inbound")).collect()
}

pub(super) fn offload_failed(facts: &Facts) -> Vec<Finding> {
    let Some(daemon) = &facts.daemon else { return Vec::new() };
    let failed = daemon.status.offloads.iter().filter_map(|offload| {
        let reason = offload.reason.as_deref().filter(|reason| reason.starts_with("failed"))?;
        let name = &offload.name;
        let finding = Finding::info("packets go one by one where the kernel could take many: an offload failed");
        let finding = finding.seen(format!("{name} {reason}, {} batches went the slow way", offload.fallbacks));
        Some(finding.fix("it is tried again at the next start: sudo systemctl restart ginneld"))
    });
    failed.collect()
}

pub(super) fn conditions(facts: &Facts) -> Vec<Finding> {
    let Some(daemon) = &facts.daemon else { return Vec::new() };
    let found = daemon.conditions.iter().map(|condition| {
        let subject = condition.subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
        let since = age(i64::try_from(condition.since_unix_secs).unwrap_or(i64::MAX), facts.now);
        let finding = Finding::new(condition.severity, condition.text.clone());
        let finding = finding.seen(format!("{}{subject}, since {since}", condition.code));
        match &condition.hint {
            Some(hint) => finding.fix(hint.clone()),
            None => finding,
        }
    });
    found.collect()
}

fn peers(facts: &Facts) -> impl Iterator<Item = &PeerStatus> {
    facts.daemon.iter().flat_map(|daemon| &daemon.status.peers)
}

fn count(facts: &Facts) -> usize {
    peers(facts).count()
}

fn name(peer: &PeerStatus) -> String {
    key(&peer.public_key)
}

fn or_nowhere(endpoint: &str) -> &str {
    if endpoint.is_empty() { "an unknown place" } else { endpoint }
}

fn bytes(count: Option<u64>) -> String {
    count.map_or_else(|| "?".to_owned(), |count| count.to_string())
}
