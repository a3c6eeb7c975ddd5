//! Changes of the allowed IPs and look-ups against a list that is searched from end to end; the structure is checked after
//! each change.

use crate::input::Input;
use ginnel_engine::fuzzing::{List, check_routes};
use ginnel_engine::route::AllowedIps;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Changes of an input. The list makes more slow.
const STEPS_MAX: usize = 300;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut table, mut list) = (AllowedIps::new(), List::default());
    let mut near = Near::default();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        let value = u32::from(what >> 4);
        let prefix = near.prefix(&mut input);
        match what % 8 {
            0..4 => assert_eq!(table.insert(prefix, value), list.insert(prefix, value)),
            4 => assert_eq!(table.remove(prefix), list.remove(prefix)),
            5 => assert_eq!(table.remove_held_by(prefix, value), list.remove_held_by(prefix, value)),
            6 => {
                // Among many prefixes, those that exist have to be hit.
                let held = list.0.get(usize::from(input.byte()) % list.0.len().max(1)).map_or(prefix, |held| held.0);
                assert_eq!(table.remove(held), list.remove(held));
            }
            _ => {
                table.remove_all_of(value);
                list.0.retain(|held| held.1 != value);
            }
        }
        check_routes(&table);
        assert_eq!(table.len(), list.0.len());
        for addr in edges(prefix) {
            assert_eq!(table.lookup(addr), list.lookup(addr), "{addr} near {prefix}");
        }
    }
    for held in &list.0 {
        for addr in edges(held.0) {
            assert_eq!(table.lookup(addr), list.lookup(addr), "{addr} near {}", held.0);
        }
    }
    let ours: BTreeMap<_, _> = table.iter().collect();
    let theirs: BTreeMap<_, _> = list.0.iter().copied().collect();
    assert_eq!(ours, theirs);
}

/// The last addresses: prefixes that meet and nest differ from one before in a few bits.
#[derive(Default)]
struct Near {
    v4: u32,
    v6: u128,
}

impl Near {
    fn prefix(&mut self, input: &mut Input<'_>) -> IpNet {
        let (shape, length) = (input.byte(), input.byte());
        let (v6, fresh, shift) = (shape >> 7 == 1, shape >> 6 & 1 == 1, shape & 0x3f);
        match (v6, fresh) {
            (false, true) => self.v4 = u32::from_be_bytes(input.array()),
            (false, false) => self.v4 ^= u32::from(input.byte()).rotate_left(shift.into()),
            (true, true) => self.v6 = u128::from_be_bytes(input.array()),
            (true, false) => self.v6 ^= u128::from(input.byte()).rotate_left(u32::from(shift) * 2),
        }
        match v6 {
            false => Ipv4Net::new_assert(Ipv4Addr::from_bits(self.v4), length % 33).into(),
            true => Ipv6Net::new_assert(Ipv6Addr::from_bits(self.v6), length % 129).into(),
        }
    }
}

/// First and last address of a prefix, and those just outside.
fn edges(prefix: IpNet) -> [IpAddr; 4] {
    let step = |addr: IpAddr, by: i8| match addr {
        IpAddr::V4(addr) => IpAddr::from(Ipv4Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into()))),
        IpAddr::V6(addr) => IpAddr::from(Ipv6Addr::from_bits(addr.to_bits().wrapping_add_signed(by.into()))),
    };
    let (first, last) = (prefix.network(), prefix.broadcast());
    [first, last, step(first, -1), step(last, 1)]
}
