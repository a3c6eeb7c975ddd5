//! Whole workers with the real cipher over virtual wires: what a tunnel does with packets, peers and strangers.
//!
//! Timers of minutes have tests of their own, in the `sim` crate.

mod changes;
mod data;
mod ecn;
mod idleness;
mod offloads;
mod roaming;
mod shortages;
mod sources;
mod strangers;

use ginnel_backends::conformance::Family;
use ginnel_backends::mem::Overlay;
use ginnel_engine::noise::{Core, Ring};

/// An overlay whose nodes are real workers.
type Net = Overlay<Core<Ring>>;

/// Two nodes with a session between them, and nothing under way.
fn connected(seed: u64) -> Net {
    let mut net = Net::pair(seed);
    connect(&mut net, 0, 1);
    net
}

/// Has two nodes that know each other make a session.
fn connect(net: &mut Net, a: usize, b: usize) {
    net.send(a, b, Family::V4, b"first");
    net.settle();
    assert_eq!(net.received(b), [(a, b"first".to_vec())]);
    net.send(b, a, Family::V4, b"second");
    net.settle();
    assert_eq!(net.received(a), [(b, b"second".to_vec())]);
    net.events(a);
    net.events(b);
}
