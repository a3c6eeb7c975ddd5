//! The state store: how long a change takes to be on disk, how many a second share the syncs, how long a start reads.
//!
//! What the numbers mean:
//! - `commit/alone`: one lease, from the call until it is durable, nobody else about: an append and an `fdatasync`.
//! - `commit/together`: per lease, where so many callers each wait for their own: a batch shares one `fdatasync`.
//! - `open`: reading a journal of so many objects, per object.
//!
//! Run with `cargo bench -p ginnel-benches --bench state`; the journal is in the directory for temporary files, or where
//! `GINNEL_BENCH_DIR` says: it is the disk there that is measured.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ginnel_control::state::{Lease, Store, Transaction};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

criterion_group!(benches, commit, open);
criterion_main!(benches);

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let place = std::env::var_os("GINNEL_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(place.join(format!("ginnel-bench-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Store {
        Store::open(&self.0).expect("a store").0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn lease(number: u32) -> Transaction {
    let ip = IpAddr::from((0x0ac8_0000 + (number & 0xffff)).to_be_bytes());
    let owner = format!("attachment pid {number}");
    Transaction::new().put(Lease { ip, owner, generation: number.into(), given_ms: 0, released_ms: None })
}

fn commit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let directory = Directory::new();
    let store = directory.open();
    let mut group = criterion.benchmark_group("state/commit");
    let mut number = 0;
    group.bench_function("alone", |bencher| {
        bencher.iter(|| {
            number += 1;
            runtime.block_on(store.commit(lease(number))).expect("it is stored");
        });
    });
    for callers in [16, 64, 256] {
        let rounds = 16;
        group.throughput(Throughput::Elements(u64::from(callers * rounds)));
        group.bench_function(BenchmarkId::new("together", callers), |bencher| {
            bencher.iter(|| {
                runtime.block_on(async {
                    let mut tasks = JoinSet::new();
                    for caller in 0..callers {
                        let store = store.clone();
                        tasks.spawn(async move {
                            for round in 0..rounds {
                                store.commit(lease(caller * rounds + round)).await.expect("it is stored");
                            }
                        });
                    }
                    tasks.join_all().await;
                });
            });
        });
    }
}

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("state/open");
    for objects in [1_000_u32, 10_000, 60_000] {
        let directory = Directory::new();
        let store = directory.open();
        let all = (0..objects).map(lease).fold(Transaction::new(), |mut all, one| {
            all.puts.extend(one.puts);
            all
        });
        Runtime::new().expect("a runtime").block_on(store.commit(all)).expect("it is stored");
        drop(store);
        group.throughput(Throughput::Elements(objects.into()));
        group.bench_function(BenchmarkId::from_parameter(objects), |bencher| bencher.iter(|| directory.open()));
    }
}
