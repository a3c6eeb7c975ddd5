//! What is routed. See the figure in the module above.

use super::phrase::{ICMP, ICMPV6, Part, when};
use super::sets::{SetId, Version};
use super::{DropReason, Line, Outline, network_chain};
use crate::firewall::desired::NetworkId;
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
        Outline::called("fence", fence()),
        Outline::hooked("forward", "filter", Hook::Forward, FILTER, forward()),
        Outline::called("to-host-member", to_host_member()),
        Outline::called("from-overlay", from_overlay()),
        Outline::hooked("input", "filter", Hook::Input, FILTER, input()),
        Outline::hooked("output", "filter", Hook::Output, FILTER, output()),
        Outline::hooked("egress", "nat", Hook::Postrouting, NAT_SOURCE, egress()),
    ]
}

/// The chain of an isolation network: where packets from its members come by.
pub(super) fn network(network: NetworkId) -> Outline {
    let mut rules = Vec::new();
    for version in Version::BOTH {
        let to = |set| when().version(version).is_in(&[Destination(version)], set).back();
        rules.push(to(SetId::MembersOf(network, version)));
        rules.push(to(SetId::RangesOf(network, version)));
    }
    rules.push(when().goto("apart"));
    Outline::called(network_chain(network), rules)
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
        when().jump("fence"),
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

/// Returns what may pass.
fn fence() -> Vec<Line> {
    let mut rules = Vec::new();
    for version in Version::BOTH {
        let of = || when().version(version);
        rules.push(of().branch(Source(version), SetId::Networks(version)));
        rules.push(of().branch(Source(version), SetId::RangeNetworks(version)));
        rules.push(of().is_in(&[Destination(version)], SetId::Members(version)).goto("apart"));
        rules.push(of().is_in(&[Destination(version)], SetId::Ranges(version)).goto("apart"));
    }
    rules
}

/// Between two addresses that are not of one network. Beyond the overlay there is none.
fn apart() -> Vec<Line> {
    let (v4, v6) = (|| when().version(Version::V4), || when().version(Version::V6));
    let mut rules = vec![
        when().is_translated().back(),
        // What never leaves a link is not routed, so it was switched, and the bridge has judged it.
        v4().starts_with(Destination(Version::V4), &LINK_GROUPS_V4).back(),
        v4().starts_with(Destination(Version::V4), &BROADCAST_V4).back(),
        v6().starts_with(Destination(Version::V6), &LINK_GROUPS_V6).back(),
        v6().is_link_local(Destination(Version::V6)).back(),
        v6().is_link_local(Source(Version::V6)).back(),
        when().is_in(&[InName], SetId::Ours).is_in(&[OutName], SetId::Ours).drop(DropReason::Isolated),
    ];
    // On the way to the host and from it there is but one interface.
    rules.extend(Version::BOTH.map(|version| {
        let within = SetId::Prefixes(version);
        let of = when().version(version);
        of.is_in(&[Source(version)], within).is_in(&[Destination(version)], within).drop(DropReason::Isolated)
    }));
    rules
}

fn input() -> Vec<Line> {
    let mut rules = vec![
        when().is_in(&[InName], SetId::Ours).goto("from-overlay"),
        when().name_is(InName, true, "lo").accept(),
        // Answers to what the host sent from an overlay address, whose source was translated on the way out.
        when().is_established().accept(),
    ];
    rules.extend(Version::BOTH.map(|version| {
        when()
            .version(version)
            .is_in(&[Destination(version)], SetId::Prefixes(version))
            .destination_is_elsewhere()
            .drop(DropReason::ForeignInput)
    }));
    rules.push(when().is_in(&[Protocol, DestinationPort], SetId::PublicServices).goto("admit"));
    rules
}

fn from_overlay() -> Vec<Line> {
    let service = [Protocol, DestinationPort];
    vec![
        when().jump("to-host-member"),
        when().is_established().goto("admit"),
        when().is_in(&service, SetId::Services).goto("admit"),
        when().is_in(&service, SetId::PublicServices).goto("admit"),
        when().protocol(ICMP).goto("admit"),
        when().protocol(ICMPV6).goto("admit"),
    ]
}

/// An address of the host may be a member like any other; all its other addresses are in reach of everybody.
fn to_host_member() -> Vec<Line> {
    Version::BOTH
        .map(|version| when().version(version).is_in(&[Destination(version)], SetId::Members(version)).goto("fence"))
        .into()
}

fn output() -> Vec<Line> {
    let mut rules = vec![when().is_not_in(&[OutName], SetId::Ours).accept()];
    rules.extend(
        Version::BOTH
            .map(|version| when().version(version).is_in(&[Source(version)], SetId::Members(version)).jump("fence")),
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
