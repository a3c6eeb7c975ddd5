//! The life of keys: renewed after 120 s, dead after 180 s.

use crate::{SECOND, about, gaps, is_initiation, moments, reaches, stream};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay;
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::event::Event;
use ginnel_engine::wire::message::Message;
use ginnel_sim::pair;
use std::time::Duration;

const STEP: Duration = Duration::from_millis(100);

#[test]
fn keys_are_renewed_under_traffic_without_loss() {
    for delay_ms in [0, 40] {
        let mut net = pair(1);
        net.world.network.conditions.delay = Duration::from_millis(delay_ms);
        net.world.network.start_capture();
        stream(&mut net, &[(0, 1)], STEP, SECOND);
        stream(&mut net, &[(0, 1), (1, 0)], STEP, 600 * SECOND);
        let captured = net.world.network.captured();
        let initiations = moments(&captured, is_initiation);
        assert_eq!(initiations.len(), 6);
        assert!(gaps(&initiations).iter().all(|&gap| about(gap, 120)), "{:?}", gaps(&initiations));
        for n in [0, 1] {
            let completed = Event::HandshakeCompleted { peer: overlay::public_key(1 - n) };
            assert_eq!(net.events(n).iter().filter(|&event| *event == completed).count(), 6);
        }
    }
}

#[test]
fn keys_are_renewed_when_only_the_initiator_sends() {
    let mut net = pair(2);
    net.world.network.start_capture();
    stream(&mut net, &[(0, 1)], STEP, 600 * SECOND);
    let initiations = moments(&net.world.network.captured(), is_initiation);
    assert_eq!(initiations.len(), 5);
    assert!(gaps(&initiations).iter().all(|&gap| about(gap, 120)), "{:?}", gaps(&initiations));
}

#[test]
fn keys_are_renewed_when_only_the_responder_sends() {
    let mut net = pair(3);
    assert!(reaches(&mut net, 0, 1));
    net.world.network.start_capture();
    // The initiator sends nothing but a keepalive every ten seconds; the first after 120 s renews the keys, as in the Linux
    // module.
    let start = net.world.now();
    stream(&mut net, &[(1, 0)], STEP, 600 * SECOND);
    let initiations = moments(&net.world.network.captured(), is_initiation);
    let late = |gap: Duration| gap >= 120 * SECOND && gap <= 130 * SECOND + crate::SLACK;
    assert!(initiations.len() >= 4 && late(initiations[0].since(start)), "{initiations:?}");
    assert!(gaps(&initiations).into_iter().all(late), "{:?}", gaps(&initiations));
}

#[test]
fn superpackets_flow_across_a_renewal() {
    let mut net = pair(4);
    let flow = overlay::inside_flow(0, 1, Family::V6);
    let mut sent = 0;
    for round in 0..260_u32 {
        let payload = ginnel_backends::mem::packet::pattern(50_000, round.into());
        let (unit, meta) = ginnel_backends::mem::packet::tcp_super(flow, round, 0x18, &payload, 1_360);
        net.host(0).tun().inject(&unit, meta);
        net.advance(SECOND);
        let delivered = net.host(1).delivered();
        assert_eq!(delivered, [(unit, meta)], "round {round}");
        sent += 1;
    }
    assert_eq!(sent, 260);
}

#[test]
fn keys_die_after_180_seconds() {
    let mut net = pair(5);
    assert!(reaches(&mut net, 0, 1));
    // Two packets that stay away for a while.
    net.world.network.start_capture();
    net.world.network.set_filter(|_, _| false);
    let made = net.world.now();
    for payload in [b"at 179 s", b"at 186 s"] {
        net.send(0, 1, Family::V4, payload);
    }
    net.settle();
    let late = net.world.network.captured();
    assert_eq!(late.len(), 2);
    net.world.network.clear_filter();
    // What node 0 asks of its silent peer meanwhile is not to renew the keys.
    net.world.network.set_filter(|_, bytes| Message::classify(bytes) != Message::Initiation);
    net.permit(&[R::InboundUnknownIndex]);
    for (datagram, age, alive) in [(&late[0], 179, true), (&late[1], 186, false)] {
        let now = net.world.now();
        net.advance(age * SECOND - now.since(made));
        net.world.network.send(net.world.now(), datagram.way, &datagram.bytes);
        net.settle();
        assert_eq!(net.received(1).len(), usize::from(alive), "at {age} s");
    }
    assert_eq!(net.dropped(R::InboundUnknownIndex), 1);
    // Nor is anything sealed with them: the next packet asks for new ones.
    net.world.network.clear_filter();
    net.world.network.captured();
    assert!(reaches(&mut net, 1, 0));
    assert_eq!(Message::classify(&net.world.network.captured()[0].bytes), Message::Initiation);
}

#[test]
fn idle_peers_are_forgotten_and_cost_nothing() {
    let mut net = pair(6);
    net.world.network.start_capture();
    assert!(reaches(&mut net, 0, 1));
    net.advance(30 * SECOND);
    net.world.network.captured();
    net.advance(1_000 * SECOND);
    assert_eq!(net.world.network.captured().len(), 0, "an idle tunnel says nothing");
    for id in net.world.ids() {
        assert_eq!(net.world.peek(id).deadline(), None, "a dormant peer has no timer");
    }
    assert!(reaches(&mut net, 1, 0));
}

#[test]
fn new_peers_cost_nothing_until_there_is_a_packet() {
    let mut net = pair(7);
    net.settle();
    net.advance(SECOND);
    for id in net.world.ids() {
        assert_eq!(net.world.peek(id).deadline(), None);
    }
}

#[test]
fn retired_keys_do_not_outlive_their_time() {
    // Node 0 has another preshared key and node 1 never follows: what there is serves to the end of its own time.
    let mut net = pair(8);
    net.permit(&[R::InboundUnauthentic, R::InboundUnknownIndex, R::OutboundNoSession]);
    assert!(reaches(&mut net, 0, 1));
    let made = net.world.now();
    net.advance(110 * SECOND);
    net.set_preshared_key(0, 1, Some(5));
    net.world.network.start_capture();
    for _ in 0..150 {
        net.send(0, 1, Family::V4, b"old keys");
        net.advance(SECOND);
    }
    let is_data = |message: &Message, seen: &ginnel_backends::mem::Captured| {
        matches!(message, Message::Data { .. }) && seen.way.from == overlay::outside(0, Family::V4)
    };
    let sealed = moments(&net.world.network.captured(), is_data);
    let last = sealed.last().unwrap().since(made);
    assert!(last <= 180 * SECOND && last >= 175 * SECOND, "the last packet was sealed after {last:?}");
    // All of them arrived: that the other end answers handshakes which come to nothing does not touch the keys in use.
    assert_eq!(net.received(1).len(), sealed.len());
}
