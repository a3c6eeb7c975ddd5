//! The table against a naive twin, a list that is searched from end to end, and the cases worth a name.

use super::AllowedIps;
use super::arena::room;
use super::bits::{Bits, STRIDE};
use super::node::{BUCKET_MAX, FOLD_MAX, Target};
use super::trie::{ROOT, Trie};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A peer reference as workers use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Peer(u32);

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn table(entries: &[(&str, u32)]) -> AllowedIps<Peer> {
    let mut table = AllowedIps::new();
    for (prefix, peer) in entries {
        table.insert(net(prefix), Peer(*peer));
    }
    check(&table);
    table
}

#[test]
fn an_empty_table_answers_nothing() {
    let mut table = AllowedIps::<Peer>::new();
    assert!(table.is_empty());
    assert_eq!(table.lookup(ip("0.0.0.0")), None);
    assert_eq!(table.lookup(ip("::")), None);
    assert_eq!(table.remove(net("0.0.0.0/0")), None);
    assert_eq!(table.remove(net("fd00::1/128")), None);
    assert_eq!(table.iter().count(), 0);
}

#[test]
fn the_longest_prefix_answers() {
    let table = table(&[
        ("0.0.0.0/0", 0),
        ("10.0.0.0/8", 1),
        ("10.64.0.0/10", 2),
        ("10.64.1.0/24", 3),
        ("10.64.1.128/25", 4),
        ("10.64.1.200/32", 5),
        ("::/0", 10),
        ("fd00::/8", 11),
        ("fd00:1::/32", 12),
        ("fd00:1::/64", 13),
        ("fd00:1::7/128", 14),
        ("fd00:1::6/127", 15),
    ]);
    for (addr, peer) in [
        ("192.0.2.1", 0),
        ("255.255.255.255", 0),
        ("10.0.0.0", 1),
        ("10.63.255.255", 1),
        ("10.64.0.1", 2),
        ("10.127.255.255", 2),
        ("10.64.1.127", 3),
        ("10.64.1.128", 4),
        ("10.64.1.200", 5),
        ("10.64.1.201", 4),
        ("2001:db8::1", 10),
        ("fd01::", 11),
        ("fd00:1:0:1::", 12),
        ("fd00:1::8", 13),
        ("fd00:1::7", 14),
        ("fd00:1::6", 15),
    ] {
        assert_eq!(table.lookup(ip(addr)), Some(Peer(peer)), "{addr}");
    }
}

#[test]
fn families_do_not_mix() {
    let table = table(&[("0.0.0.0/0", 1), ("10.0.0.0/8", 2)]);
    assert_eq!(table.lookup(ip("::")), None);
    assert_eq!(table.lookup(ip("::ffff:10.0.0.1")), None, "a mapped address is IPv6");
    assert_eq!(table.lookup_v4([10, 0, 0, 1]), Some(Peer(2)));
    assert_eq!(table.lookup_v4(0x0b00_0001), Some(Peer(1)));
    assert_eq!(table.lookup_v6(1u128), None);
}

#[test]
fn host_bits_do_not_count() {
    let mut table = AllowedIps::new();
    assert_eq!(table.insert(net("10.1.2.3/8"), Peer(1)), None);
    assert_eq!(table.insert(net("10.9.9.9/8"), Peer(2)), Some(Peer(1)));
    assert_eq!(table.insert(net("fd00::1/64"), Peer(3)), None);
    assert_eq!(table.iter().collect::<Vec<_>>(), [(net("10.0.0.0/8"), Peer(2)), (net("fd00::/64"), Peer(3))]);
    assert_eq!(table.remove(net("10.255.255.255/8")), Some(Peer(2)));
    assert_eq!(table.remove(net("fd00::ffff/64")), Some(Peer(3)));
    assert!(table.is_empty());
}

#[test]
fn the_last_to_claim_a_prefix_has_it() {
    let mut table = table(&[("10.0.0.0/24", 1), ("10.0.0.0/25", 1), ("fd00::/48", 1)]);
    assert_eq!(table.insert(net("10.0.0.0/24"), Peer(2)), Some(Peer(1)));
    assert_eq!(table.insert(net("10.0.0.0/24"), Peer(2)), Some(Peer(2)));
    assert_eq!(table.insert(net("fd00::/48"), Peer(2)), Some(Peer(1)));
    assert_eq!(table.len(), 3);
    assert_eq!(table.lookup(ip("10.0.0.200")), Some(Peer(2)));
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(Peer(1)));
    table.remove_all_of(Peer(1));
    assert_eq!(table.lookup(ip("10.0.0.1")), Some(Peer(2)));
    assert_eq!(table.len(), 2);
}

#[test]
fn only_the_holder_loses_a_prefix() {
    let mut table = table(&[("10.0.0.0/24", 1), ("fd00::/64", 2), ("0.0.0.0/0", 3)]);
    assert!(!table.remove_held_by(net("10.0.0.0/24"), Peer(2)));
    assert!(!table.remove_held_by(net("10.0.0.0/25"), Peer(1)));
    assert!(!table.remove_held_by(net("0.0.0.0/0"), Peer(1)));
    assert_eq!(table.len(), 3);
    assert!(table.remove_held_by(net("10.0.0.0/24"), Peer(1)));
    assert!(table.remove_held_by(net("fd00::/64"), Peer(2)));
    assert!(table.remove_held_by(net("0.0.0.0/0"), Peer(3)));
    assert!(table.is_empty());
}

#[test]
fn the_covering_prefix_answers_again() {
    let mut table = table(&[("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.1/32", 3)]);
    for (prefix, peer) in [("10.1.1.1/32", 2), ("10.1.0.0/16", 1), ("10.0.0.0/8", 0)] {
        assert!(table.remove(net(prefix)).is_some());
        assert_eq!(table.lookup(ip("10.1.1.1")), Some(Peer(peer)), "without {prefix}");
        check(&table);
    }
    table.remove(net("0.0.0.0/0"));
    assert_eq!(table.lookup(ip("10.1.1.1")), None);
}

#[test]
fn removing_a_peer_leaves_the_others() {
    let mut table = AllowedIps::new();
    for host in 0..1_000u32 {
        table.insert(Ipv4Net::from(Ipv4Addr::from_bits(0x0a00_0000 + host)).into(), Peer(host % 10));
        table.insert(Ipv6Net::from(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(host))).into(), Peer(host % 10));
    }
    table.insert(net("10.0.0.0/8"), Peer(99));
    table.remove_all_of(Peer(7));
    check(&table);
    assert_eq!(table.len(), 1_801);
    for host in 0..1_000u32 {
        let other = (host % 10 != 7).then_some(Peer(host % 10));
        assert_eq!(table.lookup_v4(0x0a00_0000 + host), other.or(Some(Peer(99))));
        assert_eq!(table.lookup_v6(0xfd00 << 112 | u128::from(host)), other);
    }
    table.retain(|prefix, _| prefix == net("10.0.0.0/8"));
    assert_eq!(table.iter().collect::<Vec<_>>(), [(net("10.0.0.0/8"), Peer(99))]);
    table.clear();
    assert!(table.is_empty());
}

/// Every length of one address at once, put in and taken out in both directions: all strides, all folds.
#[test]
fn a_chain_of_every_length() {
    let v4 = (0..=32).map(|len| IpNet::new(ip("172.19.85.171"), len).unwrap());
    let v6 = (0..=128).map(|len| IpNet::new(ip("2001:db8:5555:aaaa:cccc:3333:f0f0:8001"), len).unwrap());
    for chain in [v4.collect::<Vec<_>>(), v6.collect()] {
        let longest = chain[chain.len() - 1].addr();
        for (upwards, outermost_first) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut table = AllowedIps::new();
            let order = |up: bool| -> Box<dyn Iterator<Item = &IpNet>> {
                if up { Box::new(chain.iter()) } else { Box::new(chain.iter().rev()) }
            };
            for prefix in order(upwards) {
                table.insert(*prefix, u32::from(prefix.prefix_len()));
                check(&table);
            }
            assert_eq!(table.lookup(longest), Some(chain.len() as u32 - 1));
            for prefix in order(outermost_first) {
                assert_eq!(table.remove(*prefix), Some(u32::from(prefix.prefix_len())));
                check(&table);
                let left = table.iter().map(|(_, len)| len).max();
                assert_eq!(table.lookup(longest), left);
            }
            assert!(table.is_empty());
        }
    }
}

#[test]
fn memory_stays_modest() {
    assert!(AllowedIps::<Peer>::new().heap_bytes() <= 80);
    assert!(table(&[("10.0.0.2/32", 1), ("fd00::2/128", 1)]).heap_bytes() <= 256);
    let mut random = Random(1);
    let mut small = AllowedIps::new();
    for host in 0..100 {
        small.insert(Ipv4Net::from(Ipv4Addr::from_bits(0x0ac8_0000 + host)).into(), Peer(host));
    }
    assert!(small.heap_bytes() <= 100 * 40, "{}", small.heap_bytes());

    // Full-size tables of random prefixes, the second under one /3 as on the Internet, the third under one /40 as in an
    // overlay. Random prefixes are the worst that happens by itself: they have nothing in common to be skipped.
    type Draw = fn(&mut Random) -> IpNet;
    let draws: [(&str, Draw); 3] = [
        ("IPv4 /8 to /32", |random| random.v4(8)),
        ("IPv6 /16 to /128", |random| random.v6(0x2000 << 112, 3, 16)),
        ("IPv6 /48 to /128", |random| random.v6(0xfd12_3456_7800 << 80, 40, 48)),
    ];
    for (name, draw) in draws {
        let mut table = AllowedIps::new();
        let mut peak = 0;
        while table.len() < 100_000 {
            table.insert(draw(&mut random), Peer(1));
            if table.len() >= 1_000 {
                peak = peak.max(table.heap_bytes() / (table.len() / 100));
            }
        }
        check(&table);
        println!("{name}: {} bytes, never above {} per 100 prefixes", table.heap_bytes(), peak);
        assert!(table.heap_bytes() <= 4 << 20, "{name}: {}", table.heap_bytes());
        assert!(peak <= 4_500, "{name}: {peak} bytes per 100 prefixes");
        table.retain(|_, _| random.next() % 100 == 0);
        assert!(table.heap_bytes() <= 100_000, "{name}: {} left after removal", table.heap_bytes());
    }
}

/// The naive twin.
#[derive(Default)]
struct List(Vec<(IpNet, u32)>);

impl List {
    fn insert(&mut self, prefix: IpNet, value: u32) -> Option<u32> {
        let old = self.remove(prefix);
        self.0.push((prefix.trunc(), value));
        old
    }

    fn remove(&mut self, prefix: IpNet) -> Option<u32> {
        let at = self.0.iter().position(|entry| entry.0 == prefix.trunc())?;
        Some(self.0.remove(at).1)
    }

    fn remove_held_by(&mut self, prefix: IpNet, value: u32) -> bool {
        let before = self.0.len();
        self.0.retain(|entry| *entry != (prefix.trunc(), value));
        self.0.len() < before
    }

    fn lookup(&self, addr: IpAddr) -> Option<u32> {
        self.0.iter().filter(|entry| entry.0.contains(&addr)).max_by_key(|entry| entry.0.prefix_len()).map(|e| e.1)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(IpNet, u32),
    Remove(IpNet),
    RemoveHeldBy(IpNet, u32),
    RemoveAllOf(u32),
}

/// Applies a step to both and compares the answers.
fn apply(step: &Step, table: &mut AllowedIps<u32>, list: &mut List) {
    match *step {
        Step::Insert(prefix, value) => assert_eq!(table.insert(prefix, value), list.insert(prefix, value)),
        Step::Remove(prefix) => assert_eq!(table.remove(prefix), list.remove(prefix)),
        Step::RemoveHeldBy(prefix, value) => {
            assert_eq!(table.remove_held_by(prefix, value), list.remove_held_by(prefix, value));
        }
        Step::RemoveAllOf(value) => {
            table.remove_all_of(value);
            list.0.retain(|entry| entry.1 != value);
        }
    }
    assert_eq!(table.len(), list.0.len());
}

/// Compares the lookups at the edges of a prefix and just outside.
fn compare_around(prefix: IpNet, table: &AllowedIps<u32>, list: &List) {
    let (first, last) = (prefix.network(), prefix.broadcast());
    let step = |addr: IpAddr, by: i8| match addr {
        IpAddr::V4(addr) => IpAddr::from(Ipv4Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into()))),
        IpAddr::V6(addr) => IpAddr::from(Ipv6Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into()))),
    };
    for addr in [first, last, step(first, -1), step(last, 1), prefix.addr()] {
        assert_eq!(table.lookup(addr), list.lookup(addr), "{addr} near {prefix}");
    }
}

fn compare_contents(table: &AllowedIps<u32>, list: &List) {
    let ours: BTreeMap<_, _> = table.iter().collect();
    let theirs: BTreeMap<_, _> = list.0.iter().copied().collect();
    assert_eq!(ours, theirs);
}

/// Prefixes close enough to each other to meet, nest, fill buckets and burst them.
fn close_prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (0usize..3, 0u32..32, 0u32..16, prop_oneof![0u8..=32, Just(32), Just(24)]).prop_map(
        |(base, shift, noise, len)| {
            let bits = [0, 0x0a00_0000, 0xc0a8_5555][base] ^ noise.wrapping_shl(shift);
            IpNet::new(Ipv4Addr::from_bits(bits).into(), len).unwrap()
        },
    );
    let v6 = (0usize..3, 0u32..128, 0u128..16, prop_oneof![0u8..=128, Just(128), Just(64)]).prop_map(
        |(base, shift, noise, len)| {
            let bits = [0, 0xfd00 << 112, 0x2001_0db8 << 96 | 0x5555][base] ^ noise.wrapping_shl(shift);
            IpNet::new(Ipv6Addr::from_bits(bits).into(), len).unwrap()
        },
    );
    prop_oneof![v4, v6]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (close_prefix(), 0u32..6).prop_map(|(prefix, value)| Step::Insert(prefix, value)),
        3 => close_prefix().prop_map(Step::Remove),
        2 => (close_prefix(), 0u32..6).prop_map(|(prefix, value)| Step::RemoveHeldBy(prefix, value)),
        1 => (0u32..6).prop_map(Step::RemoveAllOf),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_list(steps in prop::collection::vec(step(), 1..200), probes in prop::collection::vec(close_prefix(), 20)) {
        let (mut table, mut list) = (AllowedIps::new(), List::default());
        for step in &steps {
            apply(step, &mut table, &mut list);
            check(&table);
        }
        compare_contents(&table, &list);
        for prefix in list.0.iter().map(|entry| entry.0).chain(probes) {
            compare_around(prefix, &table, &list);
        }
        compare_contents(&table.clone(), &list);
    }

    #[test]
    fn what_goes_in_comes_out(mut prefixes in prop::collection::vec(close_prefix(), 1..150), rotate: usize) {
        let (mut table, mut list) = (AllowedIps::new(), List::default());
        for prefix in &prefixes {
            apply(&Step::Insert(*prefix, 1), &mut table, &mut list);
        }
        let by = rotate % prefixes.len();
        prefixes.rotate_left(by);
        for prefix in prefixes {
            apply(&Step::Remove(prefix), &mut table, &mut list);
            check(&table);
            compare_around(prefix, &table, &list);
        }
        prop_assert!(table.is_empty());
        table.v4.compact();
        table.v6.compact();
        prop_assert!(table.heap_bytes() <= 80, "only the roots are left");
    }
}

/// Longer runs than proptest's, with tables large enough to tidy themselves several times.
#[test]
fn agrees_with_the_list_for_long() {
    for seed in 0..6 {
        let mut random = Random(seed);
        let (mut table, mut list) = (AllowedIps::new(), List::default());
        for round in 0..8_000u32 {
            // First growth, then as many removals as inserts, then decline.
            let insert = random.next() % 100 < [90, 50, 20][round as usize / 2_667];
            let value = random.next() as u32 % 50;
            let step = if insert || list.0.is_empty() {
                let prefix = match random.next() % 4 {
                    0 => random.v4(0),
                    1 => random.v4(22),
                    2 => random.v6(0xfd00 << 112, 100, 96),
                    _ => random.v6(0xfd00 << 112, 16, 0),
                };
                Step::Insert(prefix, value)
            } else {
                let held = list.0[random.next() as usize % list.0.len()];
                match random.next() % 64 {
                    0 => Step::RemoveAllOf(value),
                    1..20 => Step::RemoveHeldBy(held.0, if value < 25 { held.1 } else { value }),
                    _ => Step::Remove(held.0),
                }
            };
            apply(&step, &mut table, &mut list);
            if let Step::Insert(prefix, _) | Step::Remove(prefix) = step {
                compare_around(prefix, &table, &list);
            }
            if round % 500 == 0 {
                check(&table);
                compare_contents(&table, &list);
                list.0.iter().for_each(|entry| compare_around(entry.0, &table, &list));
            }
        }
    }
}

/// A small generator with a seed (SplitMix64), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// Any IPv4 prefix of at least `len_min` bits.
    fn v4(&mut self, len_min: u8) -> IpNet {
        let len = len_min + (self.next() % u64::from(33 - len_min)) as u8;
        IpNet::new(Ipv4Addr::from_bits(self.next() as u32).into(), len).unwrap().trunc()
    }

    /// Any IPv6 prefix of at least `len_min` bits whose first `fixed` bits are those of `base`.
    fn v6(&mut self, base: u128, fixed: u32, len_min: u8) -> IpNet {
        let len = len_min + (self.next() % u64::from(129 - len_min)) as u8;
        let free = (u128::from(self.next()) << 64 | u128::from(self.next())) >> fixed;
        IpNet::new(Ipv6Addr::from_bits(base | free).into(), len).unwrap().trunc()
    }
}

/// Checks every invariant of both tries.
fn check<V: Copy + Eq>(table: &AllowedIps<V>) {
    check_trie(&table.v4);
    check_trie(&table.v6);
}

fn check_trie<B: Bits, V: Copy + Eq>(trie: &Trie<B, V>) {
    let mut room_used = Rooms::default();
    let len = check_node(trie, ROOT, &mut room_used);
    assert_eq!(len, trie.len);
    assert_eq!(room_used.nodes * size_of_val(trie.nodes.at(ROOT)) + trie.nodes.idle_bytes(), trie.nodes.room_bytes());
    assert_eq!(room_used.children * 4 + trie.children.idle_bytes(), trie.children.room_bytes());
    assert_eq!(room_used.values * size_of::<V>() + trie.values.idle_bytes(), trie.values.room_bytes());
    let leaf = size_of::<super::node::Leaf<B, V>>();
    assert_eq!(room_used.leaves * leaf + trie.leaves.idle_bytes(), trie.leaves.room_bytes());
}

/// Room of the blocks the trie points to.
#[derive(Default)]
struct Rooms {
    nodes: usize,
    children: usize,
    leaves: usize,
    values: usize,
}

/// Checks a node and everything below; answers the number of prefixes.
fn check_node<B: Bits, V: Copy + Eq>(trie: &Trie<B, V>, index: u32, rooms: &mut Rooms) -> usize {
    let node = *trie.nodes.at(index);
    let mut prefixes = node.ends_len();
    assert!(node.pos() % STRIDE == 0 && node.key() == node.key().truncate(node.pos()));
    assert!(index == ROOT || node.ends_len() + node.slots_len() >= 2, "nothing to decide");
    rooms.nodes += 1;
    rooms.children += room(node.slots_len());
    rooms.values += room(node.ends_len());
    for slot in 0..64 {
        let Some(child) = node.child_index(slot) else { continue };
        let path = node.key().union(B::from_slot(slot, node.pos()));
        match trie.children.at(child).target() {
            Target::Node(below) => {
                let child = trie.nodes.at(below);
                assert!(child.pos() >= node.pos() + STRIDE);
                assert!(child.key().agreement(path) >= node.pos() + STRIDE);
                prefixes += check_node(trie, below, rooms);
            }
            Target::Bucket(base, len) => {
                assert!(len <= BUCKET_MAX);
                rooms.leaves += room(len);
                prefixes += len;
                let bucket = trie.leaves.block(base, len);
                assert!(bucket.is_sorted_by(|a, b| a.len() >= b.len()));
                for (at, leaf) in bucket.iter().enumerate() {
                    assert!(leaf.len() >= node.pos() + STRIDE);
                    assert!(leaf.marked().unmark(path).agreement(path) >= node.pos() + STRIDE);
                    assert!(bucket[..at].iter().all(|other| other.marked() != leaf.marked()));
                }
            }
        }
    }
    assert!(index == ROOT || prefixes > FOLD_MAX, "should be a bucket");
    prefixes
}
