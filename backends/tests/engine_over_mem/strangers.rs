//! What arrives on the socket and is no packet of a peer: other protocols, damage, repetition, floods.

use crate::{Net, connected};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::{Captured, Random, Way, overlay};
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::event::Event;
use ginnel_engine::frame::Ecn;
use ginnel_engine::limits::{DIVERTED_BYTES_MAX, EVENTS_QUEUED_MAX, HANDSHAKES_PER_SEC_UNPROVEN, HANDSHAKES_PER_TURN};
use ginnel_engine::wire::message::{COOKIE_BYTES, Message};
use ginnel_engine::worker::Turn;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;

/// A datagram from a stranger to node 0.
fn arrive(net: &mut Net, bytes: &[u8]) {
    let way = Way { from: stranger(), to: overlay::outside(0, Family::V4), ecn: Ecn::NOT_ECT };
    net.world.network.send(net.world.now(), way, bytes);
}

fn stranger() -> SocketAddr {
    "203.0.113.5:3478".parse().unwrap()
}

/// An initiation to node 0 of a key nobody knows.
fn initiation(n: u64) -> Vec<u8> {
    let mut key = [0x33; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let node = PublicKey::from(overlay::public_key(0).0);
    let mut tunn = Tunn::new(StaticSecret::from(key), node, None, None, 7, None);
    let mut buffer = [0; 148];
    match tunn.format_handshake_initiation(&mut buffer, false) {
        TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
        other => panic!("no initiation: {other:?}"),
    }
}

#[test]
fn other_protocols_go_to_control_and_back() {
    let mut net = connected(1);
    let question = [&[0, 1, 0, 0][..], b"a binding request"].concat();
    for datagram in [&question[..], b"x", &[5; DIVERTED_BYTES_MAX], &[0; 148]] {
        arrive(&mut net, datagram);
        net.settle();
        assert_eq!(net.events(0), [Event::Diverted { from: stranger(), datagram: datagram.to_vec() }]);
    }
    // From node to node, through the sockets of both.
    net.host(0).send_datagram(overlay::outside(1, Family::V6), &question);
    net.settle();
    let from = overlay::outside(0, Family::V6);
    assert_eq!(net.events(1), [Event::Diverted { from, datagram: question }]);
    net.send(0, 1, Family::V4, b"undisturbed");
    net.settle();
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn control_is_not_flooded() {
    let mut net = connected(2);
    net.permit(&[R::InboundDivertOverflow, R::OutboundOversize]);
    arrive(&mut net, &[5; DIVERTED_BYTES_MAX + 1]);
    net.settle();
    assert_eq!((net.events(0).len(), net.dropped(R::InboundDivertOverflow)), (0, 1));
    for _ in 0..EVENTS_QUEUED_MAX + 10 {
        arrive(&mut net, b"noise");
    }
    net.settle();
    assert_eq!((net.events(0).len(), net.dropped(R::InboundDivertOverflow)), (EVENTS_QUEUED_MAX, 11));
    net.host(0).send_datagram(stranger(), &[]);
    net.host(0).send_datagram(stranger(), &vec![0; 70_000]);
    net.settle();
    assert_eq!(net.dropped(R::OutboundOversize), 2);
}

#[test]
fn damaged_messages_are_named() {
    let mut net = connected(3);
    let cases: [(u32, usize, R); 9] = [
        (1, 147, R::InboundMalformed),
        (1, 149, R::InboundMalformed),
        (2, 91, R::InboundMalformed),
        (3, 63, R::InboundMalformed),
        (4, 31, R::InboundMalformed),
        (1, 148, R::InboundBadMac),
        (2, 92, R::InboundBadMac),
        (3, 64, R::InboundUnknownIndex),
        (4, 32, R::InboundUnknownIndex),
    ];
    for (kind, len, reason) in cases {
        let before = net.dropped(reason);
        let mut datagram = vec![0; len];
        datagram[..4].copy_from_slice(&kind.to_le_bytes());
        arrive(&mut net, &datagram);
        net.settle();
        assert_eq!(net.dropped(reason), before + 1, "type {kind}, {len} bytes");
        net.permit(&[reason]);
    }
    assert!(net.events(0).is_empty());
}

#[test]
fn any_bytes_at_all_are_survived() {
    let mut net = connected(4);
    use R::{InboundBadMac, InboundHandshakeOverload, InboundMalformed, InboundUnauthentic, InboundUnknownIndex};
    net.permit(&[InboundMalformed, InboundUnknownIndex, InboundUnauthentic, InboundBadMac, InboundHandshakeOverload]);
    net.permit(&[R::InboundDivertOverflow, R::InboundReplayed]);
    net.world.network.start_capture();
    net.send(1, 0, Family::V4, b"real");
    net.settle();
    let real = net.world.network.captured().remove(0).bytes;
    let mut random = Random::new(4);
    for _ in 0..20_000 {
        let mut datagram = vec![0; usize::try_from(random.below(200)).unwrap()];
        random.fill(&mut datagram);
        // Half of them look like WireGuard, and half of those like the real session.
        if let (true, Some(head)) = (random.chance(500), datagram.first_chunk_mut()) {
            *head = u32::try_from(random.below(6)).unwrap().to_le_bytes();
            let kept = usize::try_from(random.below(2) * random.below(60)).unwrap();
            let kept = kept.min(datagram.len()).min(real.len());
            datagram[..kept].copy_from_slice(&real[..kept]);
        }
        arrive(&mut net, &datagram);
        if random.chance(50) {
            net.settle();
            net.events(0);
        }
    }
    net.settle();
    assert_eq!(net.received(0), [(1, b"real".to_vec())]);
    net.send(1, 0, Family::V4, b"still there");
    net.settle();
    assert_eq!(net.received(0), [(1, b"still there".to_vec())]);
}

/// A datagram that no peer made: bytes of any kind, a message type of the wrong length, one of the right length, or what a
/// peer said with a bit turned.
fn malformed(random: &mut Random, overheard: &[u8]) -> Vec<u8> {
    let below = |random: &mut Random, bound| usize::try_from(random.below(bound)).unwrap();
    if random.chance(250) {
        let mut datagram = overheard.to_vec();
        // Its type stays, so that it is looked at.
        let at = 4 + below(random, datagram.len() as u64 - 4);
        datagram[at] ^= 1 << random.below(8);
        return datagram;
    }
    let mut datagram = match random.below(3) {
        0 => vec![0; below(random, 300)],
        1 => vec![0; 4 + below(random, 200)],
        _ => vec![0; random.pick(&[148, 92, 64, 32, 96, 1_452])],
    };
    random.fill(&mut datagram);
    if let (true, Some(head)) = (random.chance(800), datagram.first_chunk_mut()) {
        *head = u32::try_from(1 + random.below(4)).unwrap().to_le_bytes();
    }
    if let (true, Some(index)) = (random.chance(500), datagram.get_mut(4..8)) {
        index.copy_from_slice(&overheard[4..8]);
    }
    datagram
}

#[test]
fn a_million_malformed_datagrams_change_nothing_but_counters() {
    const DATAGRAMS: u64 = 1_000_000;
    let mut net = connected(10);
    use R::{InboundBadMac, InboundHandshakeOverload, InboundMalformed, InboundUnauthentic, InboundUnknownIndex};
    let reasons = [
        InboundMalformed,
        InboundUnknownIndex,
        InboundUnauthentic,
        InboundBadMac,
        InboundHandshakeOverload,
        R::InboundReplayed,
    ];
    net.permit(&reasons);
    net.world.network.start_capture();
    net.send(1, 0, Family::V4, b"overheard");
    net.settle();
    assert_eq!(net.received(0).len(), 1);
    let overheard = net.world.network.captured().remove(0).bytes;
    let stats = std::sync::Arc::clone(&net.host(0).stats);
    let peer = net.stats(0, 1);
    let known =
        || [&peer.rx_bytes, &peer.tx_bytes, &peer.rx_packets, &peer.handshake_tick].map(|fact| fact.load(Relaxed));
    let (before, endpoint, received) = (known(), peer.endpoint(), stats.link_rx_datagrams.load(Relaxed));
    let sent = net.world.network.traffic().sent;

    let mut random = Random::new(10);
    let (mut counted, mut diverted, mut empty) = (0, 0, 0);
    while counted < DATAGRAMS {
        for _ in 0..500 {
            let datagram = malformed(&mut random, &overheard);
            empty += u64::from(datagram.is_empty());
            let way = Way { from: stranger(), to: overlay::outside(0, Family::V4), ecn: Ecn::NOT_ECT };
            net.host(0).link().arrive(way, &datagram);
            counted += 1;
        }
        net.settle();
        let events = net.events(0);
        assert!(events.iter().all(|event| matches!(event, Event::Diverted { .. })), "{events:?}");
        diverted += events.len() as u64;
    }

    let dropped: u64 = reasons.iter().map(|&reason| net.dropped(reason)).sum();
    assert_eq!(stats.link_rx_datagrams.load(Relaxed) - received, counted - empty);
    assert_eq!(dropped + diverted, counted - empty, "{:?}", net.host(0).drops());
    assert_eq!((known(), peer.endpoint()), (before, endpoint));
    assert_eq!(net.world.network.traffic().sent, sent, "nobody is answered");
    assert!(net.received(0).is_empty());
    // The same session, both ways.
    net.send(1, 0, Family::V4, b"there");
    net.send(0, 1, Family::V4, b"back");
    net.settle();
    assert_eq!((net.received(0).len(), net.received(1).len(), net.events(0)), (1, 1, Vec::new()));
}

#[test]
fn repeated_datagrams_are_dropped_as_such() {
    let mut net = connected(5);
    net.permit(&[R::InboundReplayed]);
    net.world.network.start_capture();
    for n in 0..100_u8 {
        net.send(1, 0, Family::V4, &[n]);
    }
    net.settle();
    assert_eq!(net.received(0).len(), 100);
    let heard: Vec<Captured> = net.world.network.captured();
    assert_eq!(heard.len(), 100);
    let mut random = Random::new(5);
    for _ in 0..300 {
        let again = &heard[usize::try_from(random.below(100)).unwrap()];
        net.world.network.send(net.world.now(), again.way, &again.bytes);
    }
    net.settle();
    assert!(net.received(0).is_empty());
    assert_eq!(net.dropped(R::InboundReplayed), 300);
}

#[test]
fn reordering_within_the_window_loses_nothing() {
    let mut net = connected(6);
    net.permit(&[R::InboundReplayed]);
    net.world.network.set_filter(|_, _| false);
    net.world.network.start_capture();
    for n in 0..9_000_u16 {
        net.send(1, 0, Family::V4, &n.to_be_bytes());
    }
    net.settle();
    net.world.network.clear_filter();
    let mut heard = net.world.network.captured();
    // The window holds the 8,192 newest: the last one first, then backwards.
    heard.reverse();
    for datagram in &heard {
        net.world.network.send(net.world.now(), datagram.way, &datagram.bytes);
    }
    net.settle();
    let received = net.received(0).len();
    assert_eq!(received, 8_192);
    assert_eq!(net.dropped(R::InboundReplayed), 9_000 - 8_192);
}

#[test]
fn handshakes_of_strangers_cost_little_and_lead_nowhere() {
    let mut net = connected(7);
    net.permit(&[R::InboundUnknownPeer, R::InboundHandshakeOverload]);
    let before = net.world.network.traffic().sent;
    // Some in each turn, so that packets are not kept waiting.
    for n in 0..20 {
        arrive(&mut net, &initiation(n));
    }
    let host = net.world.ids().next().unwrap();
    net.world.deliver();
    assert_eq!(net.world.turn(host), Turn::Busy);
    assert_eq!(net.dropped(R::InboundUnknownPeer), HANDSHAKES_PER_TURN as u64);
    net.settle();
    assert_eq!(net.dropped(R::InboundUnknownPeer), 20);
    // Nobody is answered: a stranger does not learn that somebody is there.
    assert_eq!(net.world.network.traffic().sent, before + 20);
}

/// Nodes of which the first and the others know each other.
fn acquainted(seed: u64, count: u8) -> Net {
    let mut net = Net::new(seed, count);
    (1..usize::from(count)).for_each(|n| net.meet(0, n));
    net.settle();
    net
}

#[test]
fn one_who_calls_many_peers_at_once_hears_all_of_them_at_once() {
    let count = 250;
    let mut net = acquainted(11, count);
    for n in 1..usize::from(count) {
        net.send(0, n, Family::V4, b"called");
    }
    // Nothing has to be asked a second time.
    net.settle();
    for n in 1..usize::from(count) {
        assert_eq!(net.received(n), [(0, b"called".to_vec())]);
    }
    assert!(usize::from(count) > usize::try_from(HANDSHAKES_PER_SEC_UNPROVEN).unwrap() + 1);
}

#[test]
fn one_who_is_called_by_many_at_once_answers_as_many_as_it_is_ready_to() {
    let count = u8::try_from(HANDSHAKES_PER_SEC_UNPROVEN).unwrap() + 1;
    let mut net = acquainted(12, count);
    for n in 1..usize::from(count) {
        net.send(n, 0, Family::V4, b"back");
    }
    net.settle();
    assert_eq!(net.received(0).len(), usize::from(count) - 1);
}

#[test]
fn a_flood_of_handshakes_is_answered_with_cookies() {
    let mut net = connected(8);
    net.permit(&[R::InboundUnknownPeer, R::InboundHandshakeOverload]);
    let flood: Vec<_> = (0..20).map(initiation).collect();
    net.world.network.start_capture();
    let mut cookies = 0;
    // Virtual time stands still, so the budget of this second is never renewed.
    for round in 0..HANDSHAKES_PER_SEC_UNPROVEN + 40 {
        arrive(&mut net, &flood[usize::try_from(round % 20).unwrap()]);
        net.settle();
        let answers = net.world.network.captured();
        let answers: Vec<_> = answers.iter().filter(|datagram| datagram.way.to == stranger()).collect();
        assert!(answers.iter().all(|datagram| datagram.bytes.len() == COOKIE_BYTES));
        assert!(answers.iter().all(|datagram| matches!(Message::classify(&datagram.bytes), Message::Cookie { .. })));
        cookies += answers.len() as u64;
    }
    assert!((40..=50).contains(&cookies), "{cookies} cookies");
    assert_eq!(net.dropped(R::InboundHandshakeOverload), cookies);
    // Sessions that exist are not disturbed.
    net.send(1, 0, Family::V4, b"undisturbed");
    net.settle();
    assert_eq!(net.received(0).len(), 1);
}

#[test]
fn received_is_delivered_plus_dropped() {
    let mut net = connected(9);
    let mut random = Random::new(9);
    use R::{InboundForeignSource, InboundMalformed, InboundReplayed, InboundUnauthentic, InboundUnknownIndex};
    let permitted = [InboundMalformed, InboundUnknownIndex, InboundUnauthentic, InboundForeignSource, InboundReplayed];
    net.permit(&permitted);
    net.world.network.start_capture();
    let stats = std::sync::Arc::clone(&net.host(0).stats);
    let (before, delivered_before) = (stats.link_rx_datagrams.load(Relaxed), stats.tun_tx_packets.load(Relaxed));
    let (mut delivered, mut diverted) = (0, 0);
    for _ in 0..2_000 {
        match random.below(6) {
            0 => arrive(&mut net, b"not WireGuard"),
            1 => arrive(&mut net, &[4, 0, 0, 0, 1, 2, 3]),
            2 => {
                let flow = ginnel_backends::mem::packet::Flow::between("10.9.0.99", "10.9.0.1");
                net.host(1).inject(&ginnel_backends::mem::packet::udp(flow, b"foreign"));
            }
            3 => {
                let heard = net.world.network.captured();
                let sealed = |datagram: &Captured| matches!(Message::classify(&datagram.bytes), Message::Data { .. });
                if let Some(mut datagram) = heard.into_iter().rfind(sealed) {
                    let at = usize::try_from(random.below(30)).unwrap();
                    datagram.bytes[at] ^= if random.chance(500) { 0 } else { 0x10 };
                    net.world.network.send(net.world.now(), datagram.way, &datagram.bytes);
                }
            }
            _ => net.send(1, 0, Family::V6, b"fine"),
        }
        if random.chance(200) {
            net.settle();
            delivered += net.received(0).len();
            diverted += net.events(0).iter().filter(|event| matches!(event, Event::Diverted { .. })).count();
        }
    }
    net.settle();
    delivered += net.received(0).len();
    diverted += net.events(0).iter().filter(|event| matches!(event, Event::Diverted { .. })).count();
    let dropped: u64 = permitted.iter().map(|&reason| net.dropped(reason)).sum();
    assert_eq!(stats.tun_tx_packets.load(Relaxed) - delivered_before, delivered as u64);
    assert_eq!(stats.link_rx_datagrams.load(Relaxed) - before, (delivered + diverted) as u64 + dropped);
    assert!(permitted.iter().all(|&reason| net.dropped(reason) > 0), "{:?}", net.host(0).drops());
}
