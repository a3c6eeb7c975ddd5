//! The allowed-IPs table: lookups, inserts and removals at 10, 1,000 and 100,000 prefixes of either family.
//!
//! What the numbers mean, all per operation on one core:
//! - `lookup/random`: prefixes of random bits and length, destinations inside random ones of them, so nearly every
//!   lookup takes another way down and only the upper levels stay in the near caches. Lookups overlap as far as the core
//!   lets them, as they do for the packets of a batch.
//! - `lookup/chained`: the same, but each lookup needs the answer of the one before: the full latency.
//! - `lookup/overlay`: host routes of consecutive addresses, as a real overlay has; destinations among them.
//! - `insert`: an empty table filled, its growth and tidying included. `remove`: that table emptied in another order.
//! - `replace`: one prefix taken out and put back in a table that stays full.
//!
//! Run with `cargo bench -p ginnel-benches --bench route`. Every table is the same in every run.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ginnel_engine::route::AllowedIps;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A peer reference as workers use it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Peer(u32);

const SIZES: [usize; 3] = [10, 1_000, 100_000];

/// Destinations per measured pass: enough that no table of branch history or addresses learns them.
const DESTINATIONS: usize = 1 << 18;

criterion_group!(benches, lookup, change);
criterion_main!(benches);

fn lookup(criterion: &mut Criterion) {
    for size in SIZES {
        lookup_family::<u32>(criterion, size);
        lookup_family::<u128>(criterion, size);
    }
}

fn lookup_family<F: Family>(criterion: &mut Criterion, size: usize) {
    let mut group = criterion.benchmark_group("route/lookup");
    group.throughput(Throughput::Elements(DESTINATIONS as u64));
    for (kind, prefixes) in [("random", F::random(size)), ("overlay", F::overlay(size))] {
        let table = filled(&prefixes);
        let mut random = Random(2);
        let destinations: Vec<F> =
            (0..DESTINATIONS).map(|_| F::inside(prefixes[random.below(size)], &mut random)).collect();
        group.bench_function(BenchmarkId::new(format!("{kind}/{}", F::NAME), size), |bencher| {
            bencher.iter(|| {
                let peers = destinations.iter().map(|&addr| F::lookup(&table, addr).map_or(0, |peer| peer.0));
                peers.fold(0, u32::wrapping_add)
            });
        });
        if kind == "random" {
            group.bench_function(BenchmarkId::new(format!("chained/{}", F::NAME), size), |bencher| {
                bencher.iter(|| {
                    // All peers are below 2^20, so the shifted answer is zero, which only the lookup can tell.
                    destinations
                        .iter()
                        .fold(0, |last: u32, &addr| F::lookup(&table, addr.or(last >> 20)).map_or(0, |peer| peer.0))
                });
            });
        }
    }
    group.finish();
}

fn change(criterion: &mut Criterion) {
    for size in SIZES {
        change_family::<u32>(criterion, size);
        change_family::<u128>(criterion, size);
    }
}

fn change_family<F: Family>(criterion: &mut Criterion, size: usize) {
    let prefixes = F::random(size);
    let full = filled(&prefixes);
    println!("{size} random {} prefixes: {} bytes of heap", F::NAME, full.heap_bytes());
    let mut random = Random(3);
    let mut shuffled = prefixes.clone();
    for at in (1..size).rev() {
        shuffled.swap(at, random.below(at + 1));
    }

    let mut group = criterion.benchmark_group("route");
    group.sample_size(20).throughput(Throughput::Elements(size as u64));
    group.bench_function(BenchmarkId::new(format!("insert/{}", F::NAME), size), |bencher| {
        bencher.iter_batched(|| (), |()| filled(&prefixes), BatchSize::LargeInput);
    });
    group.bench_function(BenchmarkId::new(format!("remove/{}", F::NAME), size), |bencher| {
        bencher.iter_batched(
            || full.clone(),
            |mut table| {
                for prefix in &shuffled {
                    table.remove(*prefix);
                }
                table
            },
            BatchSize::LargeInput,
        );
    });
    group.bench_function(BenchmarkId::new(format!("replace/{}", F::NAME), size), |bencher| {
        let mut table = full.clone();
        bencher.iter(|| {
            for prefix in &shuffled {
                let peer = table.remove(black_box(*prefix));
                table.insert(*prefix, peer.unwrap_or(Peer(0)));
            }
        });
    });
    group.finish();
}

fn filled(prefixes: &[IpNet]) -> AllowedIps<Peer> {
    let mut table = AllowedIps::new();
    for (peer, prefix) in prefixes.iter().enumerate() {
        table.insert(*prefix, Peer(peer as u32));
    }
    table
}

/// What differs between IPv4 and IPv6.
trait Family: Copy {
    const NAME: &str;

    /// Different prefixes of random bits and length: /8 to /32, or /16 to /128 below `2000::/3`.
    fn random(size: usize) -> Vec<IpNet>;
    /// Host routes of consecutive addresses.
    fn overlay(size: usize) -> Vec<IpNet>;
    /// A random address of a prefix.
    fn inside(prefix: IpNet, random: &mut Random) -> Self;
    fn or(self, low: u32) -> Self;
    fn lookup(table: &AllowedIps<Peer>, addr: Self) -> Option<Peer>;
}

impl Family for u32 {
    const NAME: &str = "v4";

    fn random(size: usize) -> Vec<IpNet> {
        distinct(size, |random| {
            let len = 8 + random.below(25) as u8;
            Ipv4Net::new_assert(Ipv4Addr::from_bits(random.next() as u32), len).into()
        })
    }

    fn overlay(size: usize) -> Vec<IpNet> {
        (1..=size as u32).map(|host| Ipv4Net::from(Ipv4Addr::from_bits(0x0ac8_0000 + host)).into()).collect()
    }

    fn inside(prefix: IpNet, random: &mut Random) -> Self {
        let IpNet::V4(net) = prefix else { unreachable!("an IPv4 table") };
        net.network().to_bits() | net.hostmask().to_bits() & random.next() as u32
    }

    fn or(self, low: u32) -> Self {
        self | low
    }

    fn lookup(table: &AllowedIps<Peer>, addr: Self) -> Option<Peer> {
        table.lookup_v4(addr)
    }
}

impl Family for u128 {
    const NAME: &str = "v6";

    fn random(size: usize) -> Vec<IpNet> {
        distinct(size, |random| {
            let len = 16 + random.below(113) as u8;
            Ipv6Net::new_assert(Ipv6Addr::from_bits(0x2000 << 112 | random.wide() >> 3), len).into()
        })
    }

    fn overlay(size: usize) -> Vec<IpNet> {
        (1..=size as u128).map(|host| Ipv6Net::from(Ipv6Addr::from_bits(0xfd00_abcd << 96 | host)).into()).collect()
    }

    fn inside(prefix: IpNet, random: &mut Random) -> Self {
        let IpNet::V6(net) = prefix else { unreachable!("an IPv6 table") };
        net.network().to_bits() | net.hostmask().to_bits() & random.wide()
    }

    fn or(self, low: u32) -> Self {
        self | u128::from(low)
    }

    fn lookup(table: &AllowedIps<Peer>, addr: Self) -> Option<Peer> {
        table.lookup_v6(addr)
    }
}

/// As many different prefixes, in the order they were drawn.
fn distinct(size: usize, draw: impl Fn(&mut Random) -> IpNet) -> Vec<IpNet> {
    let mut random = Random(1);
    let mut seen = BTreeSet::new();
    let mut prefixes = Vec::with_capacity(size);
    while prefixes.len() < size {
        let prefix = draw(&mut random).trunc();
        if seen.insert(prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// SplitMix64 with a fixed seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}
