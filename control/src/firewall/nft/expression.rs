//! Expressions: what a rule is made of, evaluated in order until one does not match.
//!
//! Values go through sixteen registers of four bytes. Numbers of the packet are in network order there, those of the
//! kernel (marks, connection states, interface indices) in host order.

use super::Family;

/// A register, counted in units of four bytes. Longer values take the following ones as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// Registers there are.
    pub const COUNT: u8 = 16;

    /// Register `number`, below [`Register::COUNT`].
    ///
    /// # Panics
    /// Where there is no such register.
    #[must_use]
    pub const fn new(number: u8) -> Self {
        assert!(number < Self::COUNT, "there are 16 registers");
        Self(number)
    }

    /// Its number on the wire. Every fourth has an older one as well, which is the one the kernel tells.
    pub(super) fn to_wire(self) -> u32 {
        if self.0.is_multiple_of(4) { 1 + u32::from(self.0 / 4) } else { 8 + u32::from(self.0) }
    }

    pub(super) fn from_wire(wire: u32) -> Option<Self> {
        let number = match wire {
            1..=4 => (wire - 1) * 4,
            8..=23 => wire - 8,
            _ => return None,
        };
        u8::try_from(number).ok().map(Self)
    }
}

/// What a rule decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet is gone.
    Drop,
    /// The packet passes this base chain; others still see it.
    Accept,
    /// On with the rules of another chain, then back.
    Jump(String),
    /// On with the rules of another chain, not back.
    Goto(String),
    /// Back to where this chain was jumped to from; from a base chain, its policy.
    Return,
}

/// Headers of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Ethernet.
    Link,
    /// IP, or ARP.
    Network,
    /// TCP, UDP, ICMP.
    Transport,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaKey {
    /// `EtherType`, two bytes in network order.
    Protocol,
    /// Mark, four bytes in host order.
    Mark,
    /// Name of the interface it came in by, 16 bytes, padded with zeros.
    InName,
    /// Name of the interface it goes out by, as above.
    OutName,
    /// Protocol family of the hook, one byte.
    NetworkFamily,
    /// Transport protocol, one byte.
    TransportProtocol,
}

/// What conntrack knows of the connection of a packet, four bytes in host order each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackKey {
    /// State bits: invalid 1, established 2, related 4, new 8, untracked 64.
    State,
    /// `IPS_…` bits; 32: its destination was translated.
    Status,
}

/// What a routing lookup is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FibResult {
    /// Whether there is a route, one byte.
    Present,
    /// Type of the address (`RTN_…`), four bytes in host order; 2: local.
    AddressType,
}

/// One expression.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "fields are what the variant says: a source, a destination, a length in bytes")]
pub enum Expression {
    /// Loads a fact about the packet.
    Meta { key: MetaKey, into: Register },
    /// Sets a fact about the packet.
    SetMeta { key: MetaKey, from: Register },
    /// Loads bytes of the packet; does not match where they are not there.
    Payload { header: Header, offset: u32, len: u32, into: Register },
    /// Matches where the register holds `value`, or does not.
    Compare { from: Register, equal: bool, value: Vec<u8> },
    /// `into = (from & mask) ^ xor`.
    Bitwise { from: Register, into: Register, mask: Vec<u8>, xor: Vec<u8> },
    /// Turns a number of two or four bytes from host to network order.
    ToNetworkOrder { from: Register, into: Register, len: u32 },
    /// Loads a constant.
    Immediate { into: Register, value: Vec<u8> },
    /// Matches where the set has the key in `from`, or does not where `inverted`. From a map, loads its value.
    Lookup { set: String, from: Register, into: Option<Register>, inverted: bool },
    /// Ends the rule.
    Verdict(Verdict),
    /// Loads what conntrack knows.
    Conntrack { key: ConntrackKey, into: Register },
    /// Looks up the route to the source or the destination, through the incoming interface only where `through_in`.
    Fib { source: bool, through_in: bool, result: FibResult, into: Register },
    /// Loads the largest TCP segment for the routes of the packet in both directions, two bytes in host order.
    RouteSegment { into: Register },
    /// Overwrites part of a TCP option; the kernel only ever lowers a segment size.
    WriteTcpOption { kind: u8, offset: u32, len: u32, from: Register },
    /// Counts packets that got here.
    Counter { packets: u64, bytes: u64 },
    /// Translates the destination.
    DestinationNat { family: Family, address: Register, port: Register },
    /// Translates the source to the address of the interface the packet leaves by.
    Masquerade,
    /// A match of xtables, as iptables-nft makes them.
    XtMatch { name: String, revision: u32, info: Vec<u8> },
    /// An action of xtables; its parameters are not read.
    XtTarget { name: String },
    /// Something that this project does not write, by its kernel name.
    Other(String),
}

impl Expression {
    /// A counter at zero.
    pub const COUNTER: Self = Self::Counter { packets: 0, bytes: 0 };

    /// Whether it can stand between a packet and the verdict behind it. Not: one that counts, logs, or matches each
    /// packet.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        match self {
            Self::Counter { .. } => true,
            Self::XtMatch { name, .. } => name == "comment",
            Self::Other(name) => matches!(name.as_str(), "log" | "last"),
            _ => false,
        }
    }

    /// Whether it ends a packet's life by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Verdict(Verdict::Drop) => true,
            Self::XtTarget { name } => name == "REJECT",
            Self::Other(name) => name == "reject",
            _ => false,
        }
    }
}

/// Whether two rules are the same, whatever they counted.
#[must_use]
pub fn equal_but_for_counts(a: &[Expression], b: &[Expression]) -> bool {
    let equal = |(a, b): (&Expression, &Expression)| match (a, b) {
        (Expression::Counter { .. }, Expression::Counter { .. }) => true,
        // What is not understood may be anything.
        (Expression::Other(_) | Expression::XtTarget { .. }, _) => false,
        (a, b) => a == b,
    };
    a.len() == b.len() && a.iter().zip(b).all(equal)
}
