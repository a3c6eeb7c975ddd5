//! What is switched between ports of bridges. There are no connections to ask here, so every rule judges a packet by itself.
//!
//! A container that takes over the hardware address of another, or answers for its IPv6 address, can disturb packets to it:
//! the bridge sends them to the wrong port. It cannot read them, because nothing leaves by a port that is not for an address
//! behind it.

use super::phrase::{ARP, IPV4, IPV6, Part, when};
use super::sets::{SetId, Version};
use super::{DropReason, Line, Outline};
use crate::firewall::nft::Hook;
use Part::{ArpSender, Destination, InName, OutName, Source};

/// Before br_netfilter (0), which would hand packets to the `inet` chains first.
const EARLY: i32 = -300;
const FILTER: i32 = -200;

/// RFC 4861: what only routers say.
const ROUTER_ADVERTISEMENT: u8 = 134;
const REDIRECT: u8 = 137;

pub(super) fn chains() -> Vec<Outline> {
    vec![
        Outline::called("from-port", from_port()),
        Outline::hooked(
            "ingress",
            "filter",
            Hook::Prerouting,
            EARLY,
            vec![when().is_in(&[InName], SetId::Ports).goto("from-port")],
        ),
        Outline::called("member", member()),
        Outline::hooked("forward", "filter", Hook::Forward, FILTER, forward()),
        Outline::called("to-port", to_port()),
        Outline::hooked(
            "egress",
            "filter",
            Hook::Postrouting,
            FILTER,
            vec![when().is_in(&[OutName], SetId::Ports).goto("to-port")],
        ),
    ]
}

fn from_port() -> Vec<Line> {
    let (v4, v6) = (SetId::PortSources(Version::V4), SetId::PortSources(Version::V6));
    let ip6 = || when().ether_type(IPV6);
    vec![
        when().ether_type(IPV4).is_in(&[InName, Source(Version::V4)], v4).accept(),
        when().ether_type(ARP).is_in(&[InName, ArpSender], v4).accept(),
        // A probe for an address (RFC 5227) claims none.
        when().ether_type(ARP).starts_with(ArpSender, &[0; 4]).accept(),
        ip6().icmpv6(ROUTER_ADVERTISEMENT).drop(DropReason::Protocol),
        ip6().icmpv6(REDIRECT).drop(DropReason::Protocol),
        ip6().is_in(&[InName, Source(Version::V6)], v6).accept(),
        ip6().is_link_local(Source(Version::V6)).accept(),
        ip6().starts_with(Source(Version::V6), &[0; 16]).accept(),
        when().ether_type(IPV4).drop(DropReason::GuestSource),
        when().ether_type(ARP).drop(DropReason::GuestSource),
        ip6().drop(DropReason::GuestSource),
        // Anything else could carry packets past the rules.
        when().drop(DropReason::Protocol),
    ]
}

fn forward() -> Vec<Line> {
    vec![
        when().is_not_in(&[InName], SetId::Ports).is_not_in(&[OutName], SetId::Ports).accept(),
        when().is_marked().accept(),
        when().mark_network(InName, SetId::PortNetworks).goto("member"),
        when().mark_network(OutName, SetId::PortNetworks).drop(DropReason::Isolated),
    ]
}

/// From a member, whose network is the mark.
fn member() -> Vec<Line> {
    vec![when().is_peer(OutName, SetId::PortPeers).unmark().accept(), when().drop(DropReason::Isolated)]
}

/// What a bridge floods, or sends to a station that took over the hardware address of another, ends here.
fn to_port() -> Vec<Line> {
    let ip6 = || when().ether_type(IPV6);
    vec![
        when().to_group().accept(),
        when().ether_type(IPV4).is_in(&[OutName, Destination(Version::V4)], SetId::PortSources(Version::V4)).accept(),
        ip6().is_in(&[OutName, Destination(Version::V6)], SetId::PortSources(Version::V6)).accept(),
        ip6().is_link_local(Destination(Version::V6)).accept(),
        when().ether_type(ARP).accept(),
        when().drop(DropReason::Misdelivered),
    ]
}
