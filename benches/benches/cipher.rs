//! The ciphers a device chooses between: sealing and opening a packet, at the lengths that count.
//!
//! What the numbers mean: one packet on one core, everything in the nearest cache, the key set up. 64 bytes are an
//! acknowledgement, 1,420 a full packet, 1,452 one that IPv4 leaves room for; lengths between show the cost per block.
//!
//! Run with `cargo bench -p ginnel-benches --bench cipher`. A processor without AVX-512 measures ring alone.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ginnel_engine::noise::{Aead, Ring};
use std::hint::black_box;
use std::time::Duration;

const LENGTHS: [usize; 5] = [64, 256, 576, 1_420, 1_452];
const TAG_BYTES: usize = 16;

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = ciphers
}
criterion_main!(benches);

fn ciphers(criterion: &mut Criterion) {
    cipher::<Ring>(criterion);
    #[cfg(target_arch = "x86_64")]
    if ginnel_backends::cipher::Avx512::supported() {
        cipher::<ginnel_backends::cipher::Avx512>(criterion);
    }
}

fn cipher<A: Aead>(criterion: &mut Criterion) {
    let cipher = A::new(&[7; 32]);
    for length in LENGTHS {
        let plain = vec![1; length];
        let mut sealed = vec![0; length + TAG_BYTES];
        let mut opened = vec![0; length];
        let mut group = criterion.benchmark_group(format!("cipher/{length}"));
        group.throughput(Throughput::Bytes(length as u64));
        group.bench_function(BenchmarkId::new("seal", A::NAME), |bencher| {
            bencher.iter(|| cipher.seal(black_box(5), black_box(&plain), black_box(&mut sealed)));
        });
        group.bench_function(BenchmarkId::new("open", A::NAME), |bencher| {
            bencher.iter(|| assert!(cipher.open(black_box(5), black_box(&sealed), black_box(&mut opened))));
        });
    }
}
