//! Addresses: filling a pool, giving and taking in one that is in use, subnets of services.
//!
//! What the numbers mean, all on one core and in memory; bringing a lease to disk is `state`:
//! - `fill`: every address of a fresh pool of 2¹⁶, per address; multiply by 65,534 for the whole.
//! - `cycle`: one address given and another taken back, in a pool that holds so many leases and as many freed addresses.
//! - `restore`: a pool of so many leases made again, as at start, per lease.
//! - `assign`: the subnet of a service, in a cluster that holds so many already.
//!
//! Run with `cargo bench -p ginnel-benches --bench ipam`.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ginnel_control::ipam::{Lease, Pool, QUARANTINE_MS, SubnetRegistry};
use ipnet::IpNet;
use std::collections::VecDeque;
use std::hint::black_box;

criterion_group!(benches, fill, cycle, restore, assign);
criterion_main!(benches);

fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

fn filled(prefix: &str, leases: usize) -> Pool {
    let mut pool = Pool::new(net(prefix), QUARANTINE_MS);
    for _ in 0..leases {
        pool.allocate("owner", 0).expect("there is room");
    }
    pool
}

fn fill(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipam/fill");
    for (prefix, count) in [("10.200.0.0/16", 65_534), ("fd00::/112", 65_535)] {
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(prefix, |bencher| bencher.iter(|| black_box(filled(prefix, count))));
    }
}

fn cycle(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipam/cycle");
    for (prefix, leases) in
        [("10.200.0.0/16", 1_000), ("10.200.0.0/16", 32_000), ("10.0.0.0/8", 100_000), ("fd00::/64", 100_000)]
    {
        let mut pool = filled(prefix, 2 * leases);
        let mut held: VecDeque<_> = pool.leases().map(|(ip, _)| ip).collect();
        for ip in held.drain(..leases) {
            pool.release(ip, "owner", None, 0).expect("it is held");
        }
        let mut now = QUARANTINE_MS;
        group.bench_function(BenchmarkId::new(prefix, leases), |bencher| {
            bencher.iter(|| {
                now += 1;
                held.push_back(pool.allocate("owner", now).expect("there is room").ip);
                let oldest = held.pop_front().expect("some are held");
                pool.release(oldest, "owner", None, now).expect("it is held");
            });
        });
    }
}

fn restore(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipam/restore");
    let leases: Vec<_> = filled("10.200.0.0/16", 10_000).leases().map(|(ip, lease)| (ip, lease.clone())).collect();
    group.throughput(Throughput::Elements(leases.len() as u64));
    group.bench_function("10000", |bencher| {
        bencher.iter_batched(
            || leases.clone(),
            |leases: Vec<(_, Lease)>| {
                let mut pool = Pool::new(net("10.200.0.0/16"), QUARANTINE_MS);
                for (ip, lease) in leases {
                    pool.restore(ip, lease);
                }
                pool
            },
            BatchSize::LargeInput,
        );
    });
}

fn assign(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ipam/assign");
    for held in [0, 100, 900] {
        let mut registry = SubnetRegistry::new(net("10.200.0.0/16"), vec![net("10.200.5.0/28")]);
        for number in 0..held {
            registry.assign(&format!("service {number}"), 0, |_| true).expect("there is room");
        }
        group.bench_function(BenchmarkId::from_parameter(held), |bencher| {
            bencher.iter(|| {
                black_box(registry.assign("another", 0, |_| true).expect("there is room"));
                registry.release("another", 0);
            });
        });
    }
}
