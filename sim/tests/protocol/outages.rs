//! Nobody answers: retries, giving up, and finding each other again.

use crate::{SECOND, SLACK, about, gaps, is_initiation, moments, reaches};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::{Nat, overlay};
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::event::Event;
use ginnel_sim::{Net, nodes, pair};
use std::time::Duration;

/// Sends a packet each way every second until both ways work; how long it took.
///
/// # Panics
/// Where it takes longer than `at_most`.
fn recovers(net: &mut Net, at_most: Duration) -> Duration {
    let start = net.world.now();
    loop {
        let both = [(0, 1), (1, 0)].map(|(from, to)| reaches(net, from, to));
        let took = net.world.now().since(start);
        if both == [true, true] {
            return took;
        }
        assert!(took <= at_most, "no recovery within {at_most:?}: {both:?}");
        net.advance(SECOND);
    }
}

#[test]
fn handshakes_are_retried_and_given_up() {
    let mut net = pair(1);
    net.permit(&[R::OutboundNoSession]);
    net.world.network.start_capture();
    net.world.network.set_filter(|_, _| false);
    let start = net.world.now();
    for n in 0..10_u8 {
        net.send(0, 1, Family::V4, &[n]);
    }
    net.advance(89 * SECOND);
    assert!(net.events(0).is_empty());
    net.advance(2 * SECOND);
    assert_eq!(net.events(0), [Event::HandshakeAbandoned { peer: overlay::public_key(1) }]);
    let asked = moments(&net.world.network.captured(), is_initiation);
    assert_eq!((asked.len(), asked[0]), (18, start));
    assert!(gaps(&asked).iter().all(|&gap| about(gap, 5)), "{:?}", gaps(&asked));
    // That is the end of it, also of the packets that waited.
    assert_eq!(net.dropped(R::OutboundNoSession), 10);
    net.advance(600 * SECOND);
    assert_eq!(net.world.network.captured().len(), 0);
    assert!(net.events(0).is_empty());
    assert_eq!(net.world.peek(ginnel_backends::mem::HostId(0)).deadline(), None);
    net.world.network.clear_filter();
    net.send(0, 1, Family::V4, b"new");
    net.settle();
    assert_eq!(net.received(1), [(0, b"new".to_vec())]);
}

#[test]
fn what_waits_arrives_when_the_wire_returns() {
    let mut net = pair(2);
    net.world.network.set_filter(|_, _| false);
    let sent: Vec<_> = (0..20_u8).map(|n| (0, vec![n])).collect();
    for (_, payload) in &sent {
        net.send(0, 1, Family::V4, payload);
        net.advance(SECOND);
    }
    net.world.network.clear_filter();
    net.advance(5 * SECOND + SLACK);
    assert_eq!(net.received(1), sent);
}

#[test]
fn outages_of_any_length_are_recovered_from() {
    for secs in [1, 10, 16, 50, 89, 95, 130, 179, 200, 500, 700] {
        for talking in [true, false] {
            let mut net = pair(3);
            net.permit(&[R::OutboundNoSession]);
            assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
            net.world.network.set_filter(|_, _| false);
            for _ in 0..secs {
                if talking {
                    net.send(0, 1, Family::V4, b"lost");
                    net.send(1, 0, Family::V4, b"lost");
                }
                net.advance(SECOND);
            }
            net.world.network.clear_filter();
            // A retry is due within 5 s at most.
            recovers(&mut net, 6 * SECOND);
        }
    }
}

#[test]
fn one_way_outages_are_recovered_from() {
    for (deaf, secs) in [(0, 30), (1, 30), (0, 100), (1, 100), (0, 400), (1, 400)] {
        let mut net = pair(4);
        // A handshake that is answered into the void may be answered late.
        net.permit(&[R::InboundUnknownIndex, R::InboundStaleHandshake, R::OutboundNoSession]);
        assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
        let unheard = overlay::outside(deaf, Family::V4);
        net.world.network.set_filter(move |way, _| way.to != unheard);
        for _ in 0..secs {
            net.send(0, 1, Family::V4, b"?");
            net.send(1, 0, Family::V4, b"?");
            net.advance(SECOND);
        }
        net.world.network.clear_filter();
        net.received(0);
        net.received(1);
        recovers(&mut net, 16 * SECOND);
    }
}

#[test]
fn a_responder_without_memory_is_found_again() {
    for (knows_endpoint, at_most) in [(true, 0), (false, 16)] {
        for age in [1, 30, 119, 500] {
            let mut net = pair(5);
            net.permit(&[R::InboundUnknownIndex, R::OutboundNoEndpoint, R::InboundReplayed]);
            for _ in 0..age {
                assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
                net.advance(SECOND);
            }
            net.restart(1);
            net.introduce(1, 0, knows_endpoint.then_some(overlay::outside(0, Family::V4)));
            recovers(&mut net, at_most * SECOND);
        }
    }
}

#[test]
fn an_initiator_without_memory_is_found_again() {
    for age in [1, 30, 119, 500] {
        let mut net = pair(6);
        net.permit(&[R::InboundUnknownIndex]);
        for _ in 0..age {
            assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
            net.advance(SECOND);
        }
        net.restart(0);
        net.introduce(0, 1, Some(overlay::outside(1, Family::V4)));
        recovers(&mut net, Duration::ZERO);
    }
}

#[test]
fn a_restart_amid_a_change_of_keys_is_recovered_from() {
    // Node 0 asks with its new key and is not heard. It answers when node 1 asks with the same key, and is not heard again.
    // Then node 1 forgets everything: only node 0 can begin anew, and it still has sessions from before that seem to work.
    let mut net = pair(10);
    net.permit(&[R::InboundUnknownIndex, R::OutboundNoEndpoint]);
    assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
    let unheard = overlay::outside(0, Family::V4);
    net.world.network.set_filter(move |way, _| way.from != unheard);
    net.set_preshared_key(0, 1, Some(1));
    net.settle();
    net.set_preshared_key(1, 0, Some(1));
    net.settle();
    net.restart(1);
    net.introduce(1, 0, None);
    net.set_preshared_key(1, 0, Some(1));
    net.world.network.clear_filter();
    // A retry is due within 5 s.
    recovers(&mut net, 6 * SECOND);
}

#[test]
fn a_first_contact_finds_a_node_that_waited_long() {
    // A road warrior calls a server that does not know where it is, and has not thought of it since it started.
    for waited in [1, 100, 170, 200, 400, 530, 600, 5_000] {
        let mut net = nodes(7, 2);
        net.introduce(1, 0, None);
        net.settle();
        net.advance(waited * SECOND);
        net.introduce(0, 1, Some(overlay::outside(1, Family::V4)));
        for second in 0..170 {
            assert!(reaches(&mut net, 0, 1), "second {second} after waiting {waited} s: {:?}", net.host(1).drops());
            assert!(reaches(&mut net, 1, 0), "second {second} after waiting {waited} s");
            net.advance(SECOND);
        }
    }
}

#[test]
fn a_peer_behind_a_nat_is_kept_and_found_again() {
    let mut net = nodes(8, 2);
    net.world.network.nats.push(Nat::new("198.51.100.1".parse().unwrap(), vec![overlay::outside(0, Family::V4).ip()]));
    net.introduce(0, 1, Some(overlay::outside(1, Family::V4)));
    net.introduce(1, 0, None);
    net.tell(0, 1, |peer| Operation::SetKeepalive(peer, 25));
    net.settle();
    for round in 0..20 {
        // Only the server has something to say.
        for _ in 0..30 {
            assert!(reaches(&mut net, 1, 0), "round {round}");
            net.advance(SECOND);
        }
        net.world.network.nats[0].rebind();
        let lost_at = net.world.now();
        while !reaches(&mut net, 1, 0) {
            let lost_for = net.world.now().since(lost_at);
            assert!(lost_for <= 26 * SECOND, "round {round}: lost for {lost_for:?}");
            net.advance(SECOND);
        }
    }
}

#[test]
fn simultaneous_handshakes_agree() {
    for delay_ms in [0, 1, 100, 400] {
        let mut net = pair(9);
        net.world.network.conditions.delay = Duration::from_millis(delay_ms);
        for _ in 0..3 {
            net.send(0, 1, Family::V4, b"both");
            net.send(1, 0, Family::V4, b"both");
            net.advance(2 * SECOND);
            assert_eq!((net.received(0).len(), net.received(1).len()), (1, 1), "delay {delay_ms} ms");
            // Long enough for the keys to be forgotten on both sides.
            net.advance(700 * SECOND);
        }
    }
}
