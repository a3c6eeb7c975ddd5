//! What one packet costs in each stage of the engine, without the kernel: criterion's figure is per superpacket, its
//! throughput per packet.
//!
//! `cargo bench -p ginnel-benches --bench packet`. The superpacket is the one a tunnel of MTU 1420 moves at full speed:
//! 45 TCP segments of 1368 bytes with 52 bytes of headers. Everything is in cache, so these are lower bounds.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ginnel_engine::drops::DropReason;
use ginnel_engine::key::PrivateKey;
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::noise::{Core, Ring};
use ginnel_engine::offload::Plaintexts;
use ginnel_engine::offload::coalesce::{Coalescer, Sink};
use ginnel_engine::offload::segment::{Segments, TAIL_ROOM};
use ginnel_engine::peer::noise::{Arrival, Departure, Noise, SessionBase};
use ginnel_engine::port::{Gso, PartialChecksum, Transport, UnitMeta};
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::checksum;
use ginnel_engine::wire::ip::IpHeader;
use std::hint::black_box;
use std::sync::Arc;

const SEGMENTS: usize = 45;
const SEGMENT_BYTES: usize = 1368;
const HEADERS_BYTES: usize = 52;
const MTU: usize = 1420;
const DATAGRAM_BYTES: usize = MTU + 32;

fn superpacket() -> (Vec<u8>, usize, UnitMeta) {
    let len = HEADERS_BYTES + SEGMENTS * SEGMENT_BYTES;
    let mut bytes = vec![0x5a; len + TAIL_ROOM];
    let total = u16::try_from(len).unwrap().to_be_bytes();
    bytes[..20].copy_from_slice(&[0x45, 0, total[0], total[1], 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes[20..52].fill(0);
    bytes[32] = 0x80;
    bytes[33] = 0x10;
    let gso = Some(Gso { transport: Transport::Tcp, segment_bytes: 1368 });
    (bytes, len, UnitMeta { gso, partial_checksum: Some(PartialChecksum { start: 20, offset: 16 }) })
}

fn packets() -> Vec<Vec<u8>> {
    let (mut bytes, len, meta) = superpacket();
    let mut segments = Segments::new(&mut bytes, len, &meta, MTU).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// Packets that are there already.
struct Ready<'a>(std::slice::Iter<'a, Vec<u8>>);

impl Plaintexts for Ready<'_> {
    fn next(&mut self) -> Option<&[u8]> {
        self.0.next().map(Vec::as_slice)
    }
}

/// Datagrams side by side, as in a train.
#[derive(Default)]
struct Train {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Departure for Train {
    fn slot(&mut self, bytes: usize) -> &mut [u8] {
        let start = self.ends.last().copied().unwrap_or(0);
        if self.bytes.len() < start + bytes.max(148) {
            self.bytes.resize(start + bytes.max(148), 0);
        }
        &mut self.bytes[start..]
    }

    fn push(&mut self, bytes: usize) {
        let start = self.ends.last().copied().unwrap_or(0);
        self.ends.push(start + bytes);
    }

    fn dropped(&mut self, reason: DropReason) {
        panic!("{reason:?}");
    }
}

/// Opens datagrams into one room.
struct Opening<'a> {
    train: std::slice::Chunks<'a, u8>,
    room: &'a mut [u8],
    opened: usize,
}

impl Arrival for Opening<'_> {
    fn next(&mut self) -> Option<(&[u8], &mut [u8])> {
        Some((self.train.next()?, self.room))
    }

    fn opened(&mut self, _: usize) {
        self.opened += 1;
    }

    fn dropped(&mut self, reason: DropReason) {
        panic!("{reason:?}");
    }
}

const NOW: Tick = Tick(1_000_000_000);

/// Two ends with a session from the first to the second, and our index of it there.
fn pair() -> (Core<Ring>, Core<Ring>, u32) {
    let keys = [PrivateKey::new([1; 32]), PrivateKey::new([2; 32])];
    let (seed, stamps) = (Seed::new([7; 32]), Arc::new(Stamps::new(0)));
    let mut identities =
        [0, 1].map(|n: u32| Core::<Ring>::identity(&keys[n as usize], &seed, seed.random("worker", n), &stamps));
    let mut a = Core::new(&mut identities[0], &keys[1].public(), None, SessionBase(1));
    let mut b = Core::new(&mut identities[1], &keys[0].public(), None, SessionBase(2));
    let mut train = Train::default();
    a.initiate(NOW, &mut train);
    let initiation = train.bytes[..train.ends[0]].to_vec();
    let mut train = Train::default();
    b.handshake(NOW, &initiation, &mut train).unwrap();
    let response = train.bytes[..train.ends[0]].to_vec();
    let mut train = Train::default();
    a.handshake(NOW, &response, &mut train).unwrap();
    let keepalive = train.bytes[..train.ends[0]].to_vec();
    let index = u32::from_le_bytes(*keepalive[4..].first_chunk().unwrap());
    let mut room = vec![0; 2048];
    b.open(NOW, index, &mut Opening { train: keepalive.chunks(2048), room: &mut room, opened: 0 });
    b.confirmed(NOW, &mut Train::default());
    assert!(a.ready(NOW) && b.ready(NOW));
    (a, b, index)
}

fn cipher(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("cipher");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let packets = packets();
    let (mut a, mut b, index) = pair();
    group.bench_function("seal", |bencher| {
        let mut train = Train::default();
        bencher.iter(|| {
            train.ends.clear();
            a.seal(NOW, &mut Ready(packets.iter()), &mut train);
        });
    });
    group.bench_function("open", |bencher| {
        let mut room = vec![0; 2048];
        bencher.iter_batched(
            || {
                let mut train = Train::default();
                a.seal(NOW, &mut Ready(packets.iter()), &mut train);
                train.bytes
            },
            |train| {
                let mut opening = Opening { train: train.chunks(DATAGRAM_BYTES), room: &mut room, opened: 0 };
                b.open(NOW, index, &mut opening);
                assert_eq!(opening.opened, SEGMENTS);
            },
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

struct Discard;

impl Sink for Discard {
    fn deliver(&mut self, bytes: &mut [u8], len: usize, _: &UnitMeta, packets: u16) {
        black_box((&bytes[..len], packets));
    }

    fn takes_superpackets(&self, _: Transport) -> bool {
        true
    }
}

fn offload(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("offload");
    group.throughput(Throughput::Elements(SEGMENTS as u64));
    let (mut bytes, len, meta) = superpacket();
    let headers = bytes[..HEADERS_BYTES].to_vec();
    group.bench_function("segment", |bencher| {
        bencher.iter(|| {
            bytes[..HEADERS_BYTES].copy_from_slice(&headers);
            let mut segments = Segments::new(&mut bytes, len, &meta, MTU).unwrap();
            while let Some(packet) = segments.next() {
                black_box(packet);
            }
        });
    });
    let packets = packets();
    let mut coalescer = Coalescer::new();
    group.bench_function("coalesce, with the copy that opening makes anyway", |bencher| {
        bencher.iter(|| {
            for packet in &packets {
                coalescer.room(packet.len() + 16)[..packet.len()].copy_from_slice(packet);
                let header = IpHeader::parse(packet).unwrap();
                coalescer.settle(&header, &mut Discard);
            }
            coalescer.flush(&mut Discard);
        });
    });
    group.bench_function("copy alone, for comparison", |bencher| {
        let mut room = vec![0; 1 << 16];
        bencher.iter(|| {
            for (packet, place) in packets.iter().zip(room.chunks_mut(MTU)) {
                place.copy_from_slice(packet);
            }
            black_box(&room);
        });
    });
    group.finish();
    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(MTU as u64));
    group.bench_function("1420 bytes", |bencher| bencher.iter(|| checksum::sum(black_box(&packets[0]))));
    group.finish();
}

criterion_group!(benches, cipher, offload);
criterion_main!(benches);
