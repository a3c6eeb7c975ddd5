//! Which peer an inner address belongs to: the allowed-IPs table, by longest prefix, for both families.
//!
//! Outbound packets ask for their destination, inbound ones for their source (paper, section 2, "cryptokey routing").
//! A prefix belongs to one peer, the last to claim it. Each worker owns a copy and changes it between batches, so there
//! is no lock, no sharing and no version to check: lookups take `&self`, changes `&mut self`.
//!
//! Left out: what a value means (a peer reference elsewhere, any small `Copy` type here), memory of the last answer,
//! which the worker keeps per batch, and a bound on the number of prefixes, which whoever accepts configuration sets.
//!
//! # Design
//!
//! Assumed: 1 to 100,000 prefixes, usually host routes and subnets of one overlay; millions of lookups a second, a
//! change now and then or many at once at start; a copy per worker, so bytes matter.
//!
//! A trie per family. A node decides six bits. Prefixes that end within those bits are in its `ends` bitmap (a heap of
//! 63 places, their values in a block in the order of the bits), the ways on in its `slots` bitmap (their children in a
//! block likewise). Bits in which all prefixes below a node agree are skipped: the node has the full key to compare. Up
//! to eight prefixes behind one slot need no node and lie in a bucket, which is scanned.
//!
//! ```text
//!  node  ends ▮▯▮▯… ──rank──► values   [V V …]
//!        slots ▯▮▮▯… ──rank──► children [node 7 | bucket 3 leaves @ 40 | …]
//!        key, pos                          │             └─► leaves [/32 V][/30 V][/26 V]
//!                                          └─► node 7 …
//! ```
//!
//! `node` has the parts, `arena` the blocks, `bits` the bit strings, `trie` looking up and adding, `removal` taking
//! away (a covering prefix answers again by itself: nothing is copied down), `compact` the tidying, `iter` the walk.
//!
//! Cost of a lookup: two dependent reads a level (node, child), one at the end (bucket or value), but few levels. With
//! 100,000 random prefixes there are three levels; the upper two (some 100 KiB) stay in a core's second cache, so what
//! misses it is the last child, the bucket or value, and for IPv4 the last node. With tens of prefixes everything is in
//! the first cache and what costs is counting bits and one or two wrong guesses of a branch.
//!
//! Measured on a shared Zen 4 server core at 2.6 GHz, generic x86-64 build, nanoseconds a lookup, overlapping as in a
//! batch, the best of forty passes over 2^18 destinations (the tables of `benches/benches/route.rs`):
//!
//! ```text
//! prefixes           1     10    100  1,000  10,000  100,000
//! IPv4 random        6      8     15     19      27       35     /8 to /32
//! IPv4 hosts         6     20     17     25      24       36     consecutive /32
//! IPv6 random        8     14     19     29      32       57     /16 to /128
//! IPv6 hosts         8     25     25     35      37       60     consecutive /128
//! ```
//! The last column depends on who else uses the third cache: with busy neighbours it doubles.
//!
//! Cost of a change: 0.1 to 0.3 µs, the copying below included. Memory from some 1,000 prefixes on: 9 to 20 bytes each
//! for IPv4 and 20 to 41 for IPv6. An empty table has 80 bytes on the heap and 2.5 KiB inline.
//!
//! Known weaknesses:
//! - Prefixes made for it (nested, six bits apart) lead a lookup through up to 6 nodes for IPv4 and 22 for IPv6, and
//!   many such chains cost up to 120 bytes a prefix. Only who configures peers can do that.
//! - Tidying copies the table when a quarter of it is waste. Spread over changes it is small, but the one change that
//!   starts it waits: 1 to 3 ms at 100,000 prefixes, with twice the memory meanwhile.
//! - [`AllowedIps::remove_all_of`] walks the whole table, 1 to 2 ms at 100,000 prefixes: no list per peer is kept. To
//!   remove many peers, call [`AllowedIps::retain`] once.
//! - A table is limited to 2^28 prefixes (several GiB); one more panics.
//! - On x86-64 without the `popcnt` target feature the bit counts take a dozen instructions each; a build for
//!   `x86-64-v3` answers in about two thirds of the time.

mod arena;
mod bits;
mod compact;
mod iter;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod naive;
mod node;
mod removal;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sound;
#[cfg(test)]
mod tests;
mod trie;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use trie::Trie;

/// A table from prefixes of both families to values.
///
/// Host bits of prefixes are ignored: `10.1.2.3/8` is `10.0.0.0/8`. IPv4 addresses mapped into IPv6 are IPv6.
#[derive(Clone)]
pub struct AllowedIps<V> {
    v4: Trie<u32, V>,
    v6: Trie<u128, V>,
}

impl<V: Copy + Eq> AllowedIps<V> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self { v4: Trie::new(), v6: Trie::new() }
    }

    /// Gives a prefix to `value` and returns who had it before.
    pub fn insert(&mut self, prefix: IpNet, value: V) -> Option<V> {
        match prefix {
            IpNet::V4(net) => self.v4.insert(net.addr().to_bits(), net.prefix_len().into(), value),
            IpNet::V6(net) => self.v6.insert(net.addr().to_bits(), net.prefix_len().into(), value),
        }
    }

    /// Takes a prefix out, whoever has it, and returns who had it. Shorter prefixes that cover it answer again.
    pub fn remove(&mut self, prefix: IpNet) -> Option<V> {
        self.remove_if(prefix, None)
    }

    /// Takes a prefix out only if `value` has it; whether it did.
    pub fn remove_held_by(&mut self, prefix: IpNet, value: V) -> bool {
        self.remove_if(prefix, Some(value)).is_some()
    }

    fn remove_if(&mut self, prefix: IpNet, holder: Option<V>) -> Option<V> {
        match prefix {
            IpNet::V4(net) => self.v4.remove(net.addr().to_bits(), net.prefix_len().into(), holder),
            IpNet::V6(net) => self.v6.remove(net.addr().to_bits(), net.prefix_len().into(), holder),
        }
    }

    /// Takes out every prefix of `value`. Walks the whole table.
    pub fn remove_all_of(&mut self, value: V) {
        self.retain(|_, holder| holder != value);
    }

    /// Keeps the prefixes for which `keep` says so. Walks the whole table once.
    pub fn retain(&mut self, mut keep: impl FnMut(IpNet, V) -> bool) {
        let doomed: Vec<_> = self.iter().filter(|&(prefix, value)| !keep(prefix, value)).collect();
        for (prefix, _) in doomed {
            self.remove(prefix);
        }
    }

    /// Takes out everything and gives the memory back.
    pub fn clear(&mut self) {
        *self = Self::new();
    }

    /// Who has the longest prefix that covers an IPv4 address.
    #[inline]
    #[must_use]
    pub fn lookup_v4(&self, addr: impl Into<Ipv4Addr>) -> Option<V> {
        self.v4.lookup(addr.into().to_bits())
    }

    /// Who has the longest prefix that covers an IPv6 address.
    #[inline]
    #[must_use]
    pub fn lookup_v6(&self, addr: impl Into<Ipv6Addr>) -> Option<V> {
        self.v6.lookup(addr.into().to_bits())
    }

    /// Who has the longest prefix that covers an address.
    #[inline]
    #[must_use]
    pub fn lookup(&self, addr: IpAddr) -> Option<V> {
        match addr {
            IpAddr::V4(addr) => self.lookup_v4(addr),
            IpAddr::V6(addr) => self.lookup_v6(addr),
        }
    }

    /// Every prefix and who has it: IPv4 first, otherwise in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, V)> + '_ {
        // Lengths come from prefixes that were put in, so they fit their family.
        let v4 = self
            .v4
            .iter()
            .map(|(bits, len, value)| (IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), len as u8)), value));
        let v6 = self
            .v6
            .iter()
            .map(|(bits, len, value)| (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_bits(bits), len as u8)), value));
        v4.chain(v6)
    }

    /// Number of prefixes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.v4.len + self.v6.len
    }

    /// Whether there is no prefix.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes the table holds on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.v4.heap_bytes() + self.v6.heap_bytes()
    }
}

impl<V: Copy + Eq> Default for AllowedIps<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V: Copy + Eq + fmt::Debug> fmt::Debug for AllowedIps<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}
