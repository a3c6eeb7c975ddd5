//! What is routed. See the figure in the module above.

use super::phrase::{ICMP, ICMPV6, Part, when};
use super::sets::{SetId, Version};
use super::{DropReason, Line, Outline};
use crate::firewall::nft::Hook;
use Part::{Destination, DestinationPort, InName, OutName, Protocol, Source};

/// Before conntrack (-200), so that what is forged costs no entry there.
const RAW: i32 = -300;

/// `NF_IP_PRI_NAT_DST` and `NF_IP_PRI_NAT_SRC`.
const NAT_DESTINATION: i32 = -100;
const NAT_SOURCE: i32 = 100;

/// Behind the translation of destinations.
const TRANSLATED: i32 = -90;

/// Before the filters of others (0), so that they see our mark.
const FILTER: i32 = -10;

const LOOPBACK_V4: [u8; 1] = [127];
const LOOPBACK_V6: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// RFC 5771, section 4, and RFC 4291, section 2.7: groups of one link. RFC 919: everybody on it.
const LINK_GROUPS_V4: [u8; 3] = [224, 0, 0];
const LINK_GROUPS_V6: [u8; 2] = [0xff, 0x02];
const BROADCAST_V4: [u8; 4] = [255; 4];

pub(super) fn chains() -> Vec<Outline> {
    vec![
        Outline::called("from-guest", from_guest()),
        Outline::called("from-tunnel", from_tunnel()),
        Outline::hooked("source", "filter", Hook::Prerouting, RAW, source()),
        Outline::called("to-published", Version::BOTH.into_iter().flat_map(to_published).collect()),
        Outline::hooked("publish", "nat", Hook::Prerouting, NAT_DESTINATION, publish()),
        Outline::hooked("publish-local", "nat", Hook::Output, NAT_DESTINATION, publish_local()),
        Outline::hooked("switched", "filter", Hook::Prerouting, TRANSLATED, switched()),
        Outline::called("pass", vec![when().clamp_segments(), when().mark(), when().accept()]),
        Outline::called("admit", vec![when().mark(), when().accept()]),
        Outline::called("apart", apart()),
        Outline::called("member", member()),
        Outline::called("fence", fence()),
        Outline::hooked("forward", "filter", Hook::Forward, FILTER, forward()),
        Outline::called("from-overlay", from_overlay()),
        Outline::hooked("input", "filter", Hook::Input, FILTER, input()),
        Outline::hooked("output", "filter", Hook::Output, FILTER, output()),
        Outline::hooked("egress", "nat", Hook::Postrouting, NAT_SOURCE, egress()),
    ]
}

fn source() -> Vec<Line> {
    let mut rules = vec![
        when().is_in(&[InName], SetId::Guests).goto("from-guest"),
        when().is_in(&[InName], SetId::Ours).goto("from-tunnel"),
        when().name_is(InName, true, "lo").accept(),
    ];
    // Where a route leads back to the source by the interface it came from, an address of the prefix is no forgery: a
    // network of the host's own may lie within the prefix of a cluster.
    rules.extend(Version::BOTH.map(|version| {
        when()
            .version(version)
            .is_in(&[Source(version)], SetId::Prefixes(version))
            .route_back(false)
            .drop(DropReason::ForeignSource)
    }));
    rules
}

fn from_guest() -> Vec<Line> {
    let v6 = || when().version(Version::V6);
    let mut rules = vec![to_loopback()];
    rules
        .extend(Version::BOTH.map(|version| {
            when().version(version).is_in(&[InName, Source(version)], SetId::Sources(version)).accept()
        }));
    // Neighbour discovery: addresses that are not routed, and none at all.
    rules.push(v6().is_link_local(Source(Version::V6)).accept());
    rules.push(v6().starts_with(Source(Version::V6), &[0; 16]).accept());
    rules.push(when().drop(DropReason::GuestSource));
    rules
}

/// WireGuard has checked the source against the peer; what is left is a peer that may send from everywhere.
fn from_tunnel() -> Vec<Line> {
    let mut rules = vec![to_loopback(), when().source_is_local().drop(DropReason::TunnelSource)];
    rules.extend(Version::BOTH.map(|version| {
        when().version(version).is_in(&[Source(version)], SetId::Hosted(version)).drop(DropReason::TunnelSource)
    }));
    rules
}

/// `route_localnet`, which published ports need, would let these in.
fn to_loopback() -> Line {
    when().version(Version::V4).starts_with(Destination(Version::V4), &LOOPBACK_V4).drop(DropReason::Loopback)
}

fn publish() -> Vec<Line> {
    vec![when().destination_is_local().goto("to-published")]
}

/// The kernel routes nothing from `::1` to another interface, so that a connection to it is better refused than lost.
fn publish_local() -> Vec<Line> {
    let mut rules = vec![when().version(Version::V6).starts_with(Destination(Version::V6), &LOOPBACK_V6).accept()];
    rules.extend(publish());
    rules
}

fn to_published(version: Version) -> [Line; 2] {
    let at = [Destination(version), Protocol, DestinationPort];
    let anywhere = [Protocol, DestinationPort];
    [
        when().version(version).translate(version, &at, SetId::PublishedAt(version)),
        when().version(version).translate(version, &anywhere, SetId::Published(version)),
    ]
}

fn switched() -> Vec<Line> {
    vec![when().is_in(&[InName], SetId::Guests).is_translated().mark()]
}

fn forward() -> Vec<Line> {
    let mut rules = vec![
        when().is_not_in(&[InName], SetId::Ours).is_not_in(&[OutName], SetId::Ours).accept(),
        when().is_invalid().drop(DropReason::Invalid),
    ];
    rules.extend(Version::BOTH.map(|version| {
        when()
            .is_not_in(&[OutName], SetId::Ours)
            .version(version)
            .is_in(&[Destination(version)], SetId::Prefixes(version))
            .drop(DropReason::Unrouted)
    }));
    rules.extend([
        // Before the state: what is apart stays apart although it once was connected.
        when().is_in(&[InName], SetId::Ours).is_in(&[OutName], SetId::Ours).jump("fence"),
        when().is_established().goto("pass"),
        when().is_translated().goto("pass"),
        // Their sources were looked at on the way in.
        when().is_in(&[InName], SetId::Guests).goto("pass"),
    ]);
    rules.extend(Version::BOTH.map(|version| {
        when()
            .is_in(&[InName], SetId::Ours)
            .version(version)
            .is_in(&[Source(version)], SetId::Prefixes(version))
            .goto("pass")
    }));
    rules.push(when().drop(DropReason::Unasked));
    rules
}

/// Returns what may pass. The mark carries the network of the source from one rule to the next; what it was before is lost
/// between members.
fn fence() -> Vec<Line> {
    let mut rules = vec![when().is_translated().back()];
    for version in Version::BOTH {
        let (networks, ranges) = (SetId::Networks(version), SetId::RangeNetworks(version));
        let of = || when().version(version);
        rules.push(of().mark_network(Source(version), networks).goto("member"));
        rules.push(of().mark_network(Source(version), ranges).goto("member"));
        rules.push(of().mark_network(Destination(version), networks).goto("apart"));
        rules.push(of().mark_network(Destination(version), ranges).goto("apart"));
    }
    rules
}

/// From a member, whose network is the mark.
fn member() -> Vec<Line> {
    let mut rules = Vec::new();
    for version in Version::BOTH {
        let to = Destination(version);
        rules.push(when().version(version).is_peer(to, SetId::Peers(version)).unmark().back());
        rules.push(when().version(version).is_range_peer(to, SetId::RangePeers(version)).unmark().back());
    }
    rules.push(when().goto("apart"));
    rules
}

/// Two that are not of one network, one of them a member. What never leaves a link is not routed, so it was switched, and
/// the bridge has judged it.
fn apart() -> Vec<Line> {
    let v4 = |to: &[u8]| when().version(Version::V4).starts_with(Destination(Version::V4), to).unmark().back();
    let v6 = || when().version(Version::V6);
    vec![
        v4(&LINK_GROUPS_V4),
        v4(&BROADCAST_V4),
        v6().starts_with(Destination(Version::V6), &LINK_GROUPS_V6).unmark().back(),
        v6().is_link_local(Destination(Version::V6)).unmark().back(),
        v6().is_link_local(Source(Version::V6)).unmark().back(),
        when().drop(DropReason::Isolated),
    ]
}

fn input() -> Vec<Line> {
    let mut rules = vec![
        when().is_in(&[InName], SetId::Ours).goto("from-overlay"),
        when().name_is(InName, true, "lo").accept(),
        // Answers to what the host sent from an overlay address, whose source was translated on the way out.
        when().is_established().accept(),
        // At any address: a guest, which is outside, knows the tunnel at the node's overlay address.
        when().is_in(&[Protocol, DestinationPort], SetId::PublicServices).goto("admit"),
    ];
    rules.extend(Version::BOTH.map(|version| {
        when()
            .version(version)
            .is_in(&[Destination(version)], SetId::Prefixes(version))
            .destination_is_elsewhere()
            .drop(DropReason::ForeignInput)
    }));
    rules
}

fn from_overlay() -> Vec<Line> {
    let service = [Protocol, DestinationPort];
    // An address of the host may be a member like any other; all its other addresses are in reach of everybody.
    let mut rules =
        Vec::from(Version::BOTH.map(|version| {
            when().version(version).is_in(&[Destination(version)], SetId::Declared(version)).jump("fence")
        }));
    rules.extend([
        when().is_established().goto("admit"),
        when().is_in(&service, SetId::Services).goto("admit"),
        when().is_in(&service, SetId::PublicServices).goto("admit"),
        when().protocol(ICMP).goto("admit"),
        when().protocol(ICMPV6).goto("admit"),
    ]);
    rules
}

fn output() -> Vec<Line> {
    let mut rules = vec![when().is_not_in(&[OutName], SetId::Ours).accept()];
    rules.extend(
        Version::BOTH
            .map(|version| when().version(version).is_in(&[Source(version)], SetId::Declared(version)).jump("fence")),
    );
    rules.push(when().goto("admit"));
    rules
}

fn egress() -> Vec<Line> {
    let mut rules = Vec::new();
    for version in Version::BOTH {
        let of = || when().version(version);
        rules.push(
            of().is_in(&[Source(version)], SetId::Prefixes(version))
                .is_not_in(&[OutName], SetId::Ours)
                .name_is(OutName, false, "lo")
                .masquerade(),
        );
        // A container that reached a neighbour, or itself, through the host: the answer has to come back through the host.
        rules.push(of().is_in(&[OutName, Source(version)], SetId::Sources(version)).is_translated().masquerade());
    }
    // Published by this host for a container of another one: the same.
    rules.push(when().is_in(&[OutName], SetId::Ours).is_not_in(&[OutName], SetId::Guests).is_translated().masquerade());
    // The host that dialled its own loopback address; see `to_loopback`.
    let v4 = when().version(Version::V4).starts_with(Source(Version::V4), &LOOPBACK_V4);
    rules.push(v4.is_in(&[OutName], SetId::Ours).masquerade());
    rules
}
