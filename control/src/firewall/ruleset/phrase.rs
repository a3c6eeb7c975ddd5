//! Rules in words: each method adds the expressions of one condition or action, the last one ends the rule.
//!
//! Conditions load what they need into the first registers each time, so they do not disturb one another.

use super::sets::{SetId, Version};
use super::{DropReason, Line, MARK};
use crate::firewall::nft::{ConntrackKey, Expression, Family, FibResult, Header, MetaKey, Register, Verdict};

/// Bits of a connection's state (`nf_conntrack_common.h`).
const STATE_INVALID: u32 = 1;
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;

/// `IPS_DST_NAT`: its destination was translated.
const STATUS_DNAT: u32 = 32;

/// `RTN_LOCAL`.
const LOCAL: u32 = 2;

/// Length of an interface name in sets and comparisons.
const NAME_LEN: usize = 16;

/// IANA protocol numbers.
pub(super) const ICMP: u8 = 1;
const TCP: u8 = 6;
pub(super) const ICMPV6: u8 = 58;

/// Flags of a TCP header, at offset 13.
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// `EtherType`s.
pub(super) const IPV4: u16 = 0x0800;
pub(super) const ARP: u16 = 0x0806;
pub(super) const IPV6: u16 = 0x86dd;

const fn register(number: u8) -> Register {
    Register::new(number)
}

/// Registers that a value of `len` bytes takes.
fn registers(len: u32) -> u8 {
    u8::try_from(len.div_ceil(4)).unwrap_or(Register::COUNT)
}

/// Part of a key.
#[derive(Clone, Copy)]
pub(super) enum Part {
    Mark,
    InName,
    OutName,
    Source(Version),
    Destination(Version),
    Protocol,
    DestinationPort,
    /// Of an ARP packet: the address that its sender claims.
    ArpSender,
}

impl Part {
    fn len(self) -> u32 {
        match self {
            Self::InName | Self::OutName => 16,
            Self::Source(version) | Self::Destination(version) => version.address_len(),
            Self::Protocol => 1,
            Self::DestinationPort => 2,
            Self::Mark | Self::ArpSender => 4,
        }
    }

    fn load(self, into: Register) -> Expression {
        let payload = |header, offset| Expression::Payload { header, offset, len: self.len(), into };
        match self {
            Self::Mark => Expression::Meta { key: MetaKey::Mark, into },
            Self::InName => Expression::Meta { key: MetaKey::InName, into },
            Self::OutName => Expression::Meta { key: MetaKey::OutName, into },
            Self::Protocol => Expression::Meta { key: MetaKey::TransportProtocol, into },
            Self::Source(Version::V4) => payload(Header::Network, 12),
            Self::Destination(Version::V4) => payload(Header::Network, 16),
            Self::Source(Version::V6) => payload(Header::Network, 8),
            Self::Destination(Version::V6) => payload(Header::Network, 24),
            Self::DestinationPort => payload(Header::Transport, 2),
            // RFC 826, with 6-byte hardware addresses.
            Self::ArpSender => payload(Header::Network, 14),
        }
    }
}

impl Version {
    fn address_len(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    fn family(self) -> Family {
        match self {
            Self::V4 => Family::Ipv4,
            Self::V6 => Family::Ipv6,
        }
    }
}

/// A rule that is being said.
#[derive(Default)]
pub(super) struct Phrase(Vec<Expression>);

/// Starts a rule.
pub(super) fn when() -> Phrase {
    Phrase::default()
}

#[allow(clippy::wrong_self_convention, reason = "conditions are said, not asked")]
impl Phrase {
    // Conditions.

    /// The key made of `parts` is in the set.
    pub(super) fn is_in(self, parts: &[Part], set: SetId) -> Self {
        self.lookup(parts, set, None, false)
    }

    /// The key made of `parts` is not in the set.
    pub(super) fn is_not_in(self, parts: &[Part], set: SetId) -> Self {
        self.lookup(parts, set, None, true)
    }

    /// The map has a network for the part; the mark is that network from then on.
    pub(super) fn mark_network(self, part: Part, networks: SetId) -> Self {
        self.lookup(&[part], networks, Some(register(0)), false).set_mark()
    }

    /// The part is a peer in the network that the mark is.
    pub(super) fn is_peer(self, part: Part, peers: SetId) -> Self {
        self.is_in(&[Part::Mark, part], peers)
    }

    /// As [`Phrase::is_peer`], for a set of ranges, which are compared from the left.
    pub(super) fn is_range_peer(mut self, part: Part, peers: SetId) -> Self {
        let network = register(0);
        self = self.load(Part::Mark);
        self.0.push(Expression::ToNetworkOrder { from: network, into: network, len: 4 });
        self.0.push(part.load(register(1)));
        self.0.push(Expression::Lookup { set: peers.name().into(), from: network, into: None, inverted: false });
        self
    }

    /// The mark is none from then on.
    pub(super) fn unmark(mut self) -> Self {
        self.0.push(Expression::Immediate { into: register(0), value: vec![0; 4] });
        self.set_mark()
    }

    /// The interface is called so, or with `equal` false, not.
    pub(super) fn name_is(self, part: Part, equal: bool, name: &str) -> Self {
        let mut padded = [0; NAME_LEN];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        self.load(part).compare(equal, &padded)
    }

    /// Of this version, in the `inet` family.
    pub(super) fn version(mut self, version: Version) -> Self {
        self.0.push(Expression::Meta { key: MetaKey::NetworkFamily, into: register(0) });
        let number = match version {
            Version::V4 => 2,
            Version::V6 => 10,
        };
        self.compare(true, &[number])
    }

    /// Frames of this type, in the `bridge` family.
    pub(super) fn ether_type(mut self, number: u16) -> Self {
        self.0.push(Expression::Meta { key: MetaKey::Protocol, into: register(0) });
        self.compare(true, &number.to_be_bytes())
    }

    /// Frames for a group of stations.
    pub(super) fn to_group(mut self) -> Self {
        self.0.push(Expression::Payload { header: Header::Link, offset: 0, len: 1, into: register(0) });
        self.masked(&[1]).compare(false, &[0])
    }

    /// Of this transport protocol.
    pub(super) fn protocol(self, number: u8) -> Self {
        self.load(Part::Protocol).compare(true, &[number])
    }

    /// ICMPv6 of this type.
    pub(super) fn icmpv6(mut self, number: u8) -> Self {
        self = self.protocol(ICMPV6);
        self.0.push(Expression::Payload { header: Header::Transport, offset: 0, len: 1, into: register(0) });
        self.compare(true, &[number])
    }

    /// The part starts with these bytes.
    pub(super) fn starts_with(mut self, part: Part, prefix: &[u8]) -> Self {
        let mut load = part.load(register(0));
        if let Expression::Payload { len, .. } = &mut load {
            *len = u32::try_from(prefix.len()).unwrap_or(*len);
        }
        self.0.push(load);
        self.compare(true, prefix)
    }

    /// The IPv6 address is link-local (`fe80::/10`).
    pub(super) fn is_link_local(self, part: Part) -> Self {
        let mut mask = [0; 16];
        mask[..2].copy_from_slice(&[0xff, 0xc0]);
        let mut prefix = [0; 16];
        prefix[..2].copy_from_slice(&[0xfe, 0x80]);
        self.load(part).masked(&mask).compare(true, &prefix)
    }

    /// A route to the source leads through the interface it came in by, or with `there` false, none.
    pub(super) fn route_back(mut self, there: bool) -> Self {
        self.0.push(Expression::Fib { source: true, through_in: true, result: FibResult::Present, into: register(0) });
        // One byte, but a register is compared as a whole.
        self.compare(true, &[u8::from(there), 0, 0, 0])
    }

    /// The source is an address of this host.
    pub(super) fn source_is_local(self) -> Self {
        self.address_type(true, false, true)
    }

    /// The destination is an address of this host.
    pub(super) fn destination_is_local(self) -> Self {
        self.address_type(false, false, true)
    }

    /// The destination is not an address of the interface it came in by.
    pub(super) fn destination_is_elsewhere(self) -> Self {
        self.address_type(false, true, false)
    }

    /// Conntrack could not make sense of it.
    pub(super) fn is_invalid(self) -> Self {
        self.conntrack(ConntrackKey::State, STATE_INVALID)
    }

    /// Belongs to a connection that was admitted.
    pub(super) fn is_established(self) -> Self {
        self.conntrack(ConntrackKey::State, STATE_ESTABLISHED | STATE_RELATED)
    }

    /// Belongs to a connection whose destination was translated.
    pub(super) fn is_translated(self) -> Self {
        self.conntrack(ConntrackKey::Status, STATUS_DNAT)
    }

    /// Carries our mark.
    pub(super) fn is_marked(self) -> Self {
        self.load(Part::Mark).masked(&MARK.to_ne_bytes()).compare(false, &[0; 4])
    }

    // Actions.

    /// Sets our mark.
    pub(super) fn mark(mut self) -> Line {
        let mark = register(0);
        self = self.load(Part::Mark);
        self.0.push(Expression::Bitwise {
            from: mark,
            into: mark,
            mask: (!MARK).to_ne_bytes().into(),
            xor: MARK.to_ne_bytes().into(),
        });
        self.set_mark().end(None)
    }

    /// Lowers the segment size that a SYN offers to what the route takes, in both directions.
    pub(super) fn clamp_segments(mut self) -> Line {
        let value = register(0);
        self = self.protocol(TCP);
        self.0.push(Expression::Payload { header: Header::Transport, offset: 13, len: 1, into: value });
        self = self.masked(&[SYN | RST]).compare(true, &[SYN]);
        self.0.push(Expression::RouteSegment { into: value });
        self.0.push(Expression::ToNetworkOrder { from: value, into: value, len: 2 });
        // Option 2, RFC 9293 section 3.7.1: its value is behind kind and length.
        self.0.push(Expression::WriteTcpOption { kind: 2, offset: 2, len: 2, from: value });
        self.end(None)
    }

    /// Translates the destination to what the map has for `parts`.
    pub(super) fn translate(mut self, version: Version, parts: &[Part], map: SetId) -> Line {
        self = self.lookup(parts, map, Some(register(0)), false);
        let port = register(registers(version.address_len()));
        self.0.push(Expression::DestinationNat { family: version.family(), address: register(0), port });
        self.end(None)
    }

    /// Translates the source to the address of the interface the packet leaves by.
    pub(super) fn masquerade(mut self) -> Line {
        self.0.push(Expression::Masquerade);
        self.end(None)
    }

    /// Counts and drops.
    pub(super) fn drop(mut self, reason: DropReason) -> Line {
        self.0.push(Expression::COUNTER);
        self.0.push(Expression::Verdict(Verdict::Drop));
        self.end(Some(reason.name()))
    }

    /// Ends our base chain.
    pub(super) fn accept(self) -> Line {
        self.verdict(Verdict::Accept)
    }

    /// Goes back to the calling chain.
    pub(super) fn back(self) -> Line {
        self.verdict(Verdict::Return)
    }

    /// Goes on with another chain and comes back.
    pub(super) fn jump(self, chain: &str) -> Line {
        self.verdict(Verdict::Jump(chain.into()))
    }

    /// Goes on with another chain.
    pub(super) fn goto(self, chain: &str) -> Line {
        self.verdict(Verdict::Goto(chain.into()))
    }

    fn verdict(mut self, verdict: Verdict) -> Line {
        self.0.push(Expression::Verdict(verdict));
        self.end(None)
    }

    fn end(self, comment: Option<&'static str>) -> Line {
        Line { expressions: self.0, comment }
    }

    // What conditions are made of.

    fn load(mut self, part: Part) -> Self {
        self.0.push(part.load(register(0)));
        self
    }

    fn lookup(mut self, parts: &[Part], set: SetId, into: Option<Register>, inverted: bool) -> Self {
        let mut next = 0;
        for part in parts {
            self.0.push(part.load(register(next)));
            next += registers(part.len());
        }
        self.0.push(Expression::Lookup { set: set.name().into(), from: register(0), into, inverted });
        self
    }

    fn set_mark(mut self) -> Self {
        self.0.push(Expression::SetMeta { key: MetaKey::Mark, from: register(0) });
        self
    }

    fn masked(mut self, mask: &[u8]) -> Self {
        let value = register(0);
        let xor = vec![0; mask.len()];
        self.0.push(Expression::Bitwise { from: value, into: value, mask: mask.into(), xor });
        self
    }

    fn compare(mut self, equal: bool, value: &[u8]) -> Self {
        self.0.push(Expression::Compare { from: register(0), equal, value: value.into() });
        self
    }

    fn conntrack(mut self, key: ConntrackKey, bits: u32) -> Self {
        self.0.push(Expression::Conntrack { key, into: register(0) });
        self.masked(&bits.to_ne_bytes()).compare(false, &[0; 4])
    }

    fn address_type(mut self, source: bool, through_in: bool, local: bool) -> Self {
        self.0.push(Expression::Fib { source, through_in, result: FibResult::AddressType, into: register(0) });
        self.compare(local, &LOCAL.to_ne_bytes())
    }
}
