//! The cases worth a name, and the bounds on memory. `twin` compares with a naive table.

mod twin;

use super::AllowedIps;
use super::sound::check;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
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

/// Bits that a way down skips count all the same.
#[test]
fn what_is_not_there_is_not_taken() {
    let mut table = AllowedIps::new();
    for host in 0..32 {
        table.insert(Ipv4Net::from(Ipv4Addr::from_bits(0x0a00_0000 + host)).into(), Peer(host));
    }
    table.insert(net("10.0.0.0/24"), Peer(99));
    for absent in ["10.1.0.0/24", "11.0.0.0/24", "10.1.0.7/32", "10.0.0.0/23", "10.0.0.0/12", "10.0.0.0/30"] {
        assert_eq!(table.remove(net(absent)), None, "{absent}");
    }
    assert_eq!(table.lookup(ip("10.1.0.7")), None);
    assert_eq!(table.lookup(ip("10.0.0.77")), Some(Peer(99)));
    assert_eq!(table.len(), 33);
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
        assert!(table.heap_bytes() <= 4 << 20, "{name}: {}", table.heap_bytes());
        assert!(peak <= 4_300, "{name}: {peak} bytes per 100 prefixes");
        table.retain(|_, _| random.next().is_multiple_of(100));
        assert!(table.heap_bytes() <= 100_000, "{name}: {} left after removal", table.heap_bytes());
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
