//! What a ruleset is made of. Objects are named by family, table and name; rules by a handle of the kernel's.

use super::Expression;
use std::cmp::Ordering;

/// A protocol family: which packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// All of them; only for questions.
    Any,
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// Frames between ports of bridges.
    Bridge,
    /// Another, such as `arp`, by its number.
    Other(u8),
}

/// The numbers of `NFPROTO_…`.
const FAMILIES: [(Family, u8); 5] =
    [(Family::Any, 0), (Family::Inet, 1), (Family::Ipv4, 2), (Family::Bridge, 7), (Family::Ipv6, 10)];

impl Family {
    pub(super) fn to_wire(self) -> u8 {
        match self {
            Self::Other(wire) => wire,
            known => FAMILIES.iter().find(|(family, _)| *family == known).map_or(0, |(_, wire)| *wire),
        }
    }

    pub(super) fn from_wire(wire: u8) -> Self {
        FAMILIES.iter().find(|(_, known)| *known == wire).map_or(Self::Other(wire), |(family, _)| *family)
    }

    /// Its name, as `nft` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Bridge => "bridge",
            Self::Other(_) => "other",
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Name.
    pub name: String,
    /// Comment, by which its owner knows it.
    pub comment: Option<String>,
    /// Whether only the socket that made it may change it (`NFT_TABLE_F_OWNER`).
    pub owned: bool,
    /// Whether it is switched off (`NFT_TABLE_F_DORMANT`).
    pub dormant: bool,
}

/// Where packets come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// On the way to this host.
    Input,
    /// On the way through this host.
    Forward,
    /// On the way from this host.
    Output,
    /// After routing.
    Postrouting,
    /// Another, such as `ingress`, by its number.
    Other(u32),
}

/// The numbers of `NF_INET_…`, the same as those of `NF_BR_…`.
const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];

impl Hook {
    pub(super) fn to_wire(self) -> u32 {
        match self {
            Self::Other(wire) => wire,
            known => (0..).zip(HOOKS).find(|(_, hook)| *hook == known).map_or(0, |(wire, _)| wire),
        }
    }

    pub(super) fn from_wire(wire: u32) -> Self {
        usize::try_from(wire).ok().and_then(|wire| HOOKS.get(wire)).copied().unwrap_or(Self::Other(wire))
    }
}

/// What makes a chain see packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `filter`, `nat` or `route`.
    pub kind: String,
    /// Where.
    pub hook: Hook,
    /// Lower numbers see packets first.
    pub priority: i32,
    /// Whether packets that no rule decides about are dropped.
    pub drops: bool,
}

/// A chain: with a base it sees packets, without one it is only jumped to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Where it is hooked in.
    pub base: Option<Base>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Its chain.
    pub chain: String,
    /// The kernel's name for it; `None` for one that is to be made.
    pub handle: Option<u64>,
    /// What it does.
    pub expressions: Vec<Expression>,
    /// Comment, by which its owner knows it.
    pub comment: Option<String>,
}

/// A data type: the number `nft` has for it, by which it prints values, and the length of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    number: u32,
    len: u32,
}

/// Bits of each part in the number of a concatenation.
const CONCATENATION_BITS: u32 = 6;

impl Kind {
    /// `ipv4_addr`: four bytes.
    pub const IPV4: Self = Self { number: 7, len: 4 };
    /// `ipv6_addr`: 16 bytes.
    pub const IPV6: Self = Self { number: 8, len: 16 };
    /// `inet_proto`: one byte.
    pub const PROTOCOL: Self = Self { number: 12, len: 1 };
    /// `inet_service`: a port, two bytes in network order.
    pub const PORT: Self = Self { number: 13, len: 2 };
    /// `ifname`: 16 bytes, padded with zeros.
    pub const INTERFACE: Self = Self { number: 41, len: 16 };
    /// `mark`: four bytes in host order; as part of a range, in network order.
    pub const MARK: Self = Self { number: 19, len: 4 };

    /// This type and then `other`, each padded to whole registers.
    #[must_use]
    pub const fn then(self, other: Self) -> Self {
        Self {
            number: self.number << CONCATENATION_BITS | other.number,
            len: self.len.next_multiple_of(4) + other.len.next_multiple_of(4),
        }
    }

    pub(super) const fn of_wire(number: u32, len: u32) -> Self {
        Self { number, len }
    }

    pub(super) const fn number(self) -> u32 {
        self.number
    }

    /// Length of a value in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.len
    }
}

/// A set, or with `value` a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: String,
    /// Name.
    pub name: String,
    /// Type of the keys.
    pub key: Kind,
    /// Type of the values of a map.
    pub value: Option<Kind>,
    /// Whether it holds ranges of keys.
    pub ranges: bool,
    /// Of ranges of keys with several parts, the length of each part in bytes; else empty.
    pub parts: Vec<u32>,
}

/// An element of a set. Ordered by key, the end of a range before the beginning of the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// A key, or the first key of a range, and what it stands for in a map.
    Key {
        /// The bytes of the key.
        key: Box<[u8]>,
        /// The bytes of the value.
        value: Option<Box<[u8]>>,
    },
    /// The first key behind a range.
    RangeEnd(Box<[u8]>),
    /// A range of keys of several parts, each part from the one to the other.
    Span {
        /// The lowest of each part.
        first: Box<[u8]>,
        /// The highest of each part.
        last: Box<[u8]>,
    },
}

impl Element {
    /// A key of a set.
    #[must_use]
    pub fn key(key: &[u8]) -> Self {
        Self::Key { key: key.into(), value: None }
    }

    /// A key of a map and its value.
    #[must_use]
    pub fn pair(key: &[u8], value: &[u8]) -> Self {
        Self::Key { key: key.into(), value: Some(value.into()) }
    }

    fn rank(&self) -> (&[u8], bool, Option<&[u8]>) {
        match self {
            Self::RangeEnd(key) => (key, false, None),
            Self::Key { key, value } => (key, true, value.as_deref()),
            Self::Span { first, last } => (first, true, Some(last)),
        }
    }
}

impl PartialOrd for Element {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Element {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// The elements of a range from `first` to `last`, both in it. A range up to the last key of all has no end.
#[must_use]
pub fn range(first: &[u8], last: &[u8], value: Option<&[u8]>) -> Vec<Element> {
    let mut elements = vec![Element::Key { key: first.into(), value: value.map(Into::into) }];
    let mut end = last.to_vec();
    for byte in end.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            elements.push(Element::RangeEnd(end.into()));
            break;
        }
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_end_behind_their_last_key() {
        let ends = |first: [u8; 2], last: [u8; 2]| range(&first, &last, None).get(1).cloned();
        assert_eq!(ends([1, 0], [1, 7]), Some(Element::RangeEnd([1, 8].into())));
        assert_eq!(ends([1, 0], [1, 255]), Some(Element::RangeEnd([2, 0].into())));
        assert_eq!(ends([255, 0], [255, 255]), None);
    }

    #[test]
    fn concatenations_are_padded() {
        let kind = Kind::PROTOCOL.then(Kind::PORT);
        assert_eq!((kind.number(), kind.bytes()), (12 << 6 | 13, 8));
        let three = Kind::IPV6.then(Kind::PROTOCOL).then(Kind::PORT);
        assert_eq!((three.number(), three.bytes()), ((8 << 6 | 12) << 6 | 13, 24));
    }
}
