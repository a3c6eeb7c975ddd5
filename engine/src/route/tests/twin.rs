//! The table against its naive twin.

use super::{AllowedIps, Random, check};
use crate::route::naive::List;
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    fn agrees_with_the_list(
        steps in prop::collection::vec(step(), 1..200),
        probes in prop::collection::vec(close_prefix(), 20),
    ) {
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
    for seed in 0..4 {
        let mut random = Random(seed);
        let (mut table, mut list) = (AllowedIps::new(), List::default());
        for round in 0..6_000u32 {
            // First growth, then as many removals as inserts, then decline.
            let insert = random.next() % 100 < [90, 50, 20][round as usize / 2_000];
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
