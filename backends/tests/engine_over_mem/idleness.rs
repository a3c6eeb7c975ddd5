//! A peer without traffic is looked at rarely, and then not at all.

use crate::{Net, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::HostId;
use ginnel_engine::command::Operation;
use std::time::Duration;

/// Times that the worker of node 0 wants to be turned within `span`, though nothing happens.
fn wakeups(net: &mut Net, span: Duration) -> u32 {
    net.settle();
    let end = net.world.now() + span;
    let mut count = 0;
    while let Some(next) = net.world.peek(HostId(0)).deadline().filter(|&next| next <= end) {
        net.advance(next.since(net.world.now()));
        count += 1;
    }
    net.advance(end.since(net.world.now()));
    count
}

#[test]
fn a_new_peer_costs_nothing() {
    for uptime in [0, 1_000] {
        let mut net = Net::new(1, 2);
        net.advance(Duration::from_secs(uptime));
        net.meet(0, 1);
        let woken = wakeups(&mut net, Duration::from_secs(600));
        assert!(woken <= 1, "looked at {woken} times");
    }
}

#[test]
fn a_peer_that_falls_silent_is_looked_at_for_its_dates_only() {
    // Silence after 15 s, a keepalive after 10 s, the end of the keys after 180 s.
    let mut net = connected(2);
    let spans = [30, 160, 1_000].map(|secs| wakeups(&mut net, Duration::from_secs(secs)));
    assert!((1..=2).contains(&spans[0]) && spans[1] == 1 && spans[2] == 0, "{spans:?}");
    // Nothing is forgotten of it.
    net.send(1, 0, Family::V4, b"still there");
    net.settle();
    assert_eq!(net.received(0).len(), 1);
}

#[test]
fn a_keepalive_is_all_that_wakes_for_an_idle_peer() {
    let mut net = connected(3);
    net.tell(0, 1, |peer| Operation::SetKeepalive(peer, 100));
    net.advance(Duration::from_secs(50));
    let woken = wakeups(&mut net, Duration::from_secs(1_000));
    // Ten keepalives, and at most as many handshakes with the dates of their sessions.
    assert!((10..=30).contains(&woken), "looked at {woken} times");
    net.tell(0, 1, |peer| Operation::SetKeepalive(peer, 0));
    net.advance(Duration::from_secs(200));
    assert!(wakeups(&mut net, Duration::from_secs(1_000)) <= 1);
}
