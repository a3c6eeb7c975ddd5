//! No allocation happens in a turn once the tables have grown: counted by the allocator of this test binary, for steady
//! data both ways with everything a packet can meet on the way that is not a handshake.
//!
//! Counted is what happens within [`Worker::turn`](ginnel_engine::worker::Worker::turn), the virtual ports included; what
//! the network and the test do between turns is not. A test binary of its own, because an allocator is for all of it.

use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay::{self, MTU};
use ginnel_backends::mem::packet::{self, PSH_ACK};
use ginnel_backends::mem::{HostId, Overlay};
use ginnel_engine::drops::DropReason;
use ginnel_engine::noise::{Core, Ring};
use ginnel_engine::port::UnitMeta;
use ginnel_engine::worker::Turn;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// The system's allocator with a counter for each thread.
struct Counting;

thread_local! {
    static COUNTED: Cell<Option<u64>> = const { Cell::new(None) };
}

fn count() {
    // A thread that ends has no counter any more, and nobody asks it.
    let _ = COUNTED.try_with(|counted| counted.set(counted.get().map(|count| count + 1)));
}

// SAFETY: every call goes to `System` with the arguments it came with, and the results are `System`'s own.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are those `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System`, because all allocations here do.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count();
        // SAFETY: as for `dealloc`; the caller's promises about the size are those `System` asks for.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocations during `work`.
fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    COUNTED.set(Some(0));
    let result = work();
    (result, COUNTED.replace(None).unwrap())
}

#[test]
fn the_counter_counts() {
    let (grown, count) = allocations(|| {
        let mut grown = Vec::with_capacity(1);
        grown.extend([1_u8; 100]);
        grown
    });
    assert_eq!((grown.len(), count), (100, 2));
    assert_eq!(allocations(|| 1 + 1), (2, 0));
}

#[test]
fn steady_data_allocates_nothing() {
    let mut net = Overlay::<Core<Ring>>::new(1, 4);
    net.permit(&[DropReason::InboundForeignSource, DropReason::OutboundUnrouted, DropReason::InboundTunRefused]);
    net.permit(&[DropReason::InboundReplayed, DropReason::InboundUnknownIndex]);
    for other in 1..4 {
        net.meet(0, other);
        net.send(0, other, Family::V4, b"hello");
        net.settle();
    }
    let mut counted = 0;
    for round in 0..400 {
        load(&mut net, round);
        // Time passes, so that timers run: their queue is part of it.
        net.world.pass(Duration::from_millis(50));
        let allocated = turn_all(&mut net);
        if round >= 200 {
            assert_eq!(allocated, 0, "allocations in round {round}");
            counted += 1;
        }
    }
    assert_eq!(counted, 200);
    // It was no idle peace: nearly all of some 20 packets of each of 12 flows arrived, each round.
    let delivered: u64 = net.world.ids().map(|id| net.world.peek(id).stats.tun_tx_packets.load(Relaxed)).sum();
    assert!(delivered > 400 * 12 * 19, "{delivered} packets were delivered");
}

/// Gives every host something to do: superpackets and single packets, both families, and a few that are dropped.
fn load(net: &mut Overlay<Core<Ring>>, round: u64) {
    for other in 1..4 {
        for (from, to) in [(0, other), (other, 0)] {
            for family in Family::BOTH {
                let flow = overlay::inside_flow(from, to, family);
                let (unit, meta) = packet::tcp_super(flow, 1, PSH_ACK, &packet::pattern(20_000, round), MTU - 60);
                net.host(from).tun().inject(&unit, meta);
                let (unit, meta) = packet::udp_super(flow, &packet::pattern(5_000, round), 1_000);
                net.host(from).tun().inject(&unit, meta);
                net.host(from).tun().inject(&packet::udp(flow, b"small"), UnitMeta::default());
            }
        }
    }
    let foreign = packet::Flow::between("10.9.0.200", "10.9.0.1");
    net.host(1).inject(&packet::udp(foreign, b"foreign"));
    net.host(0).inject(&packet::udp(foreign.reversed(), b"unrouted"));
    if round.is_multiple_of(10) {
        net.host(2).tun().refuses_udp = true;
        net.host(3).link().mtu = 1_400;
    }
}

/// Turns all hosts until nothing is left to do; allocations within turns.
fn turn_all(net: &mut Overlay<Core<Ring>>) -> u64 {
    let mut total = 0;
    loop {
        net.world.deliver();
        let mut busy = false;
        for n in 0..4 {
            let (turn, allocated) = net.world.turn_watched(HostId(n), |turn| allocations(turn));
            total += allocated;
            busy |= turn == Turn::Busy;
        }
        if !busy {
            break;
        }
    }
    for n in 0..4 {
        while net.host(n).tun().take().is_some() {}
    }
    total
}
