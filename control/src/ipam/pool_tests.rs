//! The pool against a naive twin, and its edges.

use super::hosts::{address, usable};
use super::pool::{Grant, Lease, Pool, PoolError, QUARANTINE_MS, ReleaseError};
use ipnet::IpNet;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// What a pool does, with lists that are searched.
struct Twin {
    prefix: IpNet,
    fresh: BTreeSet<u128>,
    excluded: BTreeSet<u128>,
    leased: BTreeMap<u128, Lease>,
    freed: Vec<(u128, u64)>,
}

impl Twin {
    fn new(prefix: IpNet) -> Self {
        let fresh = usable(prefix).collect();
        Self { prefix, fresh, excluded: BTreeSet::new(), leased: BTreeMap::new(), freed: Vec::new() }
    }

    fn next(&self) -> Option<u128> {
        self.fresh.first().copied().or(self.freed.first().map(|(number, _)| *number))
    }

    fn take(&mut self, number: u128, lease: Lease) {
        self.fresh.remove(&number);
        self.freed.retain(|(other, _)| *other != number);
        self.leased.insert(number, lease);
    }

    fn give_back(&mut self, number: u128, at_ms: Option<u64>) {
        self.leased.remove(&number);
        match at_ms {
            _ if self.excluded.contains(&number) => {}
            Some(at_ms) => self.freed.push((number, at_ms)),
            None => drop(self.fresh.insert(number)),
        }
    }

    fn agrees(&self, pool: &Pool) -> Result<(), TestCaseError> {
        prop_assert_eq!(pool.leased(), self.leased.len());
        prop_assert_eq!(pool.available(), (self.fresh.len() + self.freed.len()) as u128);
        let leases: BTreeMap<_, _> = pool.leases().map(|(ip, lease)| (ip, lease.clone())).collect();
        let expected =
            self.leased.iter().map(|(number, lease)| (address(self.prefix, *number), lease.clone())).collect();
        prop_assert_eq!(leases, expected);
        let freed: BTreeMap<_, _> = pool.freed().collect();
        let expected = self.freed.iter().map(|(number, at_ms)| (address(self.prefix, *number), *at_ms)).collect();
        prop_assert_eq!(freed, expected);
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate,
    AllocateAndCancel,
    AllocateAt(u128),
    Release(u128, bool, bool),
    ReleaseAndCallOff(u128),
    Exclude(u128),
    Include(u128),
    Wait(u64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let number = 0..18_u128;
    prop_oneof![
        6 => Just(Step::Allocate),
        1 => Just(Step::AllocateAndCancel),
        2 => number.clone().prop_map(Step::AllocateAt),
        6 => (number.clone(), any::<bool>(), any::<bool>()).prop_map(|(n, owner, generation)| Step::Release(n, owner, generation)),
        1 => number.clone().prop_map(Step::ReleaseAndCallOff),
        1 => number.clone().prop_map(Step::Exclude),
        1 => number.prop_map(Step::Include),
        2 => (0..120_000_u64).prop_map(Step::Wait),
        1 => Just(Step::Restart),
    ]
}

fn subnet_at(prefix: IpNet, number: u128) -> Option<IpNet> {
    let at = usable(prefix).contains(&number).then(|| address(prefix, number))?;
    IpNet::new(at, prefix.max_prefix_len() - u8::try_from(number % 3).unwrap()).ok().map(|net| net.trunc())
}

proptest! {
    #[test]
    fn as_the_twin(
        prefix in prop::sample::select(vec!["10.0.0.0/28", "10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "fd00::/124", "fd00::/127"]),
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let prefix = net(prefix);
        let (mut pool, mut twin) = (Pool::new(prefix, QUARANTINE_MS), Twin::new(prefix));
        let mut now = 1_000_000;
        let mut last_generation = 0;
        for step in steps {
            let mut check = |grant: &Grant, number: u128, twin: &Twin| {
                let freed = twin.freed.iter().find(|(other, _)| *other == number);
                let early = freed.is_some_and(|(_, at_ms)| now - at_ms < QUARANTINE_MS);
                assert_eq!((grant.ip, grant.early), (address(prefix, number), early));
                assert!(grant.generation > last_generation, "generations grow");
                last_generation = grant.generation;
                Lease { owner: "me".into(), generation: grant.generation }
            };
            match step {
                Step::Allocate => match (pool.allocate("me", now), twin.next()) {
                    (Ok(grant), Some(number)) => {
                        let lease = check(&grant, number, &twin);
                        twin.take(number, lease);
                    }
                    (Err(error), None) => prop_assert_eq!(error, PoolError::Exhausted(prefix)),
                    other => prop_assert!(false, "{other:?}"),
                },
                Step::AllocateAndCancel => {
                    if let Ok(grant) = pool.allocate("me", now) {
                        prop_assert_eq!(Some(grant.ip), twin.next().map(|number| address(prefix, number)));
                        pool.cancel(&grant);
                        pool.cancel(&grant);
                    }
                }
                Step::AllocateAt(number) => {
                    let at = match usable(prefix).contains(&number) {
                        true => address(prefix, number),
                        false => ip("192.0.2.1"),
                    };
                    let freed = twin.freed.iter().find(|(other, _)| *other == number).map(|(_, at_ms)| now - at_ms);
                    match pool.allocate_at(at, "me", now) {
                        Ok(grant) => {
                            prop_assert!(twin.fresh.contains(&number) || freed.is_some_and(|ms| ms >= QUARANTINE_MS));
                            let lease = check(&grant, number, &twin);
                            twin.take(number, lease);
                        }
                        Err(PoolError::InUse { .. }) => prop_assert!(twin.leased.contains_key(&number)),
                        Err(PoolError::Resting { .. }) => prop_assert!(freed.is_some_and(|ms| ms < QUARANTINE_MS)),
                        Err(PoolError::Unusable { .. }) => {
                            prop_assert!(!usable(prefix).contains(&number) || twin.excluded.contains(&number));
                        }
                        Err(error) => prop_assert!(false, "{error}"),
                    }
                }
                Step::Release(number, right_owner, right_generation) => {
                    let owner = if right_owner { "me" } else { "you" };
                    let held = twin.leased.get(&number).map(|lease| lease.generation);
                    let generation = if right_generation { held } else { Some(held.unwrap_or(0) + 1) };
                    let at = address(prefix, number);
                    match pool.release(at, owner, generation, now) {
                        Ok(()) => {
                            prop_assert!(held.is_some() && right_owner && right_generation);
                            twin.give_back(number, Some(now));
                        }
                        Err(ReleaseError::NotLeased(_)) => prop_assert!(held.is_none()),
                        Err(ReleaseError::NotYours { .. }) => {
                            prop_assert!(held.is_some() && !(right_owner && right_generation));
                        }
                    }
                }
                Step::ReleaseAndCallOff(number) => {
                    let at = address(prefix, number);
                    let begun = pool.begin_release(at, "me", None);
                    prop_assert_eq!(begun.ok(), twin.leased.get(&number).map(|lease| lease.generation));
                    prop_assert_eq!(pool.begin_release(at, "me", None), Err(ReleaseError::NotLeased(at)));
                    twin.agrees(&pool)?;
                    pool.call_off_release(at);
                }
                Step::Exclude(number) | Step::Include(number) => {
                    let Some(subnet) = subnet_at(prefix, number) else { continue };
                    let inside: Vec<_> = usable(prefix).filter(|n| subnet.contains(&address(prefix, *n))).collect();
                    if matches!(step, Step::Exclude(_)) {
                        pool.exclude(subnet);
                        twin.excluded.extend(&inside);
                        twin.fresh.retain(|n| !inside.contains(n));
                        twin.freed.retain(|(n, _)| !inside.contains(n));
                    } else {
                        pool.include(subnet);
                        for number in inside {
                            twin.excluded.remove(&number);
                            if !twin.leased.contains_key(&number) && !twin.freed.iter().any(|(n, _)| *n == number) {
                                twin.fresh.insert(number);
                            }
                        }
                    }
                }
                Step::Wait(ms) => now += ms,
                Step::Restart => {
                    now += 1000;
                    let mut next = Pool::new(prefix, QUARANTINE_MS);
                    for number in &twin.excluded {
                        next.exclude(address(prefix, *number).into());
                    }
                    for (ip, lease) in pool.leases() {
                        prop_assert!(next.restore(ip, lease.clone()));
                        prop_assert!(!next.restore(ip, lease.clone()), "once");
                    }
                    for (number, at_ms) in &twin.freed {
                        next.restore_freed(address(prefix, *number), last_generation, *at_ms);
                    }
                    pool = next;
                }
            }
            twin.agrees(&pool)?;
        }
    }
}

fn all(pool: &mut Pool) -> Vec<IpAddr> {
    std::iter::from_fn(|| pool.allocate("x", 0).ok().map(|grant| grant.ip)).collect()
}

#[test]
fn small_prefixes_are_used_to_the_last_address() {
    for (prefix, first, last, count) in [
        ("10.0.0.8/29", "10.0.0.9", "10.0.0.14", 6),
        ("10.0.0.8/30", "10.0.0.9", "10.0.0.10", 2),
        ("10.0.0.8/31", "10.0.0.8", "10.0.0.9", 2),
        ("10.0.0.8/32", "10.0.0.8", "10.0.0.8", 1),
        ("fd00::8/126", "fd00::9", "fd00::b", 3),
        ("fd00::8/127", "fd00::8", "fd00::9", 2),
        ("fd00::8/128", "fd00::8", "fd00::8", 1),
    ] {
        let mut pool = Pool::new(net(prefix), 0);
        assert_eq!(pool.available(), count);
        let drawn = all(&mut pool);
        assert_eq!((drawn.len() as u128, drawn[0], *drawn.last().unwrap()), (count, ip(first), ip(last)));
        assert!(drawn.is_sorted(), "lowest first");
        assert_eq!(pool.allocate("x", 0), Err(PoolError::Exhausted(net(prefix))));
    }
}

#[test]
fn memory_follows_use_and_not_the_prefix() {
    for (prefix, first) in
        [("10.0.0.0/8", "10.0.0.1"), ("fd00::/64", "fd00::1"), ("::/0", "::1"), ("0.0.0.0/0", "0.0.0.1")]
    {
        let mut pool = Pool::new(net(prefix), QUARANTINE_MS);
        for _ in 0..1000 {
            pool.allocate("x", 0).unwrap();
        }
        pool.allocate_at(
            pool.leases()
                .map(|(ip, _)| ip)
                .max()
                .map(|ip| match ip {
                    IpAddr::V4(ip) => IpAddr::V4((u32::from(ip) + 5000).into()),
                    IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) + 5000).into()),
                })
                .unwrap(),
            "y",
            0,
        )
        .unwrap();
        assert_eq!(pool.leased(), 1001);
        assert_eq!(pool.lease(ip(first)).unwrap().owner, "x");
    }
}

#[test]
fn rest_is_as_long_as_the_pool_allows() {
    let mut pool = Pool::new(net("10.0.0.0/29"), QUARANTINE_MS);
    let drawn = all(&mut pool);
    for (at, ip) in (0..).zip(drawn.iter().rev()) {
        pool.release(*ip, "x", None, at * 1000).unwrap();
    }
    // The one freed first comes first; 60 s after it was freed it is not early.
    let next = |pool: &mut Pool, now| {
        let grant = pool.allocate("x", now).unwrap();
        (grant.ip, grant.early)
    };
    assert_eq!(next(&mut pool, QUARANTINE_MS), (drawn[5], false));
    assert_eq!(next(&mut pool, QUARANTINE_MS), (drawn[4], true));
    assert_eq!(next(&mut pool, QUARANTINE_MS + 2000), (drawn[3], false));
    // A clock that goes back lets it rest longer, nothing else.
    assert_eq!(next(&mut pool, 0), (drawn[2], true));
}

#[test]
fn names_of_addresses_taken_again_and_again_do_not_pile_up() {
    let mut pool = Pool::new(net("10.0.0.0/24"), 0);
    for now in 0..100_000 {
        let grant = pool.allocate_at(ip("10.0.0.7"), "x", now).unwrap();
        pool.release(grant.ip, "x", Some(grant.generation), now).unwrap();
    }
    assert_eq!((pool.freed().count(), pool.queue_len() < 100), (1, true));
}

#[test]
fn many_freed_addresses_become_fresh_again() {
    let mut pool = Pool::new(net("10.0.0.0/8"), QUARANTINE_MS);
    let drawn: Vec<_> = (0..100_000).map(|_| pool.allocate("x", 0).unwrap().ip).collect();
    for ip in &drawn {
        pool.release(*ip, "x", None, 0).unwrap();
    }
    assert_eq!(pool.freed().count(), 100_000, "none before its time");
    let grant = pool.allocate("x", QUARANTINE_MS).unwrap();
    pool.release(grant.ip, "x", None, QUARANTINE_MS).unwrap();
    assert_eq!(pool.freed().count(), 1 << 16);
    assert_eq!(pool.allocate("x", QUARANTINE_MS).unwrap().ip, drawn[0]);
}
