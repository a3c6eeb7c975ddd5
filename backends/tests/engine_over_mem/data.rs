//! Packets through a tunnel: handshake, both families inside and outside, padding, counters.

use crate::{Net, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay::{self, MTU};
use ginnel_backends::mem::packet;
use ginnel_engine::event::Event;
use ginnel_engine::wire::message::{DATA_OVERHEAD, Message};
use std::sync::atomic::Ordering::Relaxed;

#[test]
fn handshake_and_data_over_both_families() {
    for outer in Family::BOTH {
        let mut net = Net::new(1, 2);
        net.introduce(0, 1, Some(overlay::outside(1, outer)));
        net.introduce(1, 0, None);
        net.world.network.start_capture();
        for inner in Family::BOTH {
            net.send(0, 1, inner, b"question");
            net.settle();
            assert_eq!(net.received(1), [(0, b"question".to_vec())]);
            net.send(1, 0, inner, b"answer");
            net.settle();
            assert_eq!(net.received(0), [(1, b"answer".to_vec())]);
        }
        let captured = net.world.network.captured();
        assert!(captured.iter().all(|datagram| datagram.way.to.is_ipv4() == (outer == Family::V4)));
        let kinds: Vec<_> = captured.iter().map(|datagram| Message::classify(&datagram.bytes)).collect();
        // What waited confirms the session.
        assert!(matches!(
            kinds[..3],
            [Message::Initiation, Message::Response { .. }, Message::Data { counter: 0, .. }]
        ));
        assert!(captured[2].bytes.len() > DATA_OVERHEAD);
        assert_eq!(kinds.len(), 6);
        assert_eq!(net.events(0), [Event::HandshakeCompleted { peer: overlay::public_key(1) }]);
        let moved = Event::EndpointChanged { peer: overlay::public_key(0), endpoint: overlay::outside(0, outer) };
        assert_eq!(net.events(1), [moved, Event::HandshakeCompleted { peer: overlay::public_key(0) }]);
    }
}

#[test]
fn counters_of_a_peer_are_those_of_the_wire() {
    let mut net = Net::pair(2);
    net.world.network.start_capture();
    for n in 0..20_u8 {
        net.send(0, 1, Family::V4, &[n; 100]);
        net.send(1, 0, Family::V6, &[n; 700]);
        net.settle();
    }
    let captured = net.world.network.captured();
    for (of, about) in [(0, 1), (1, 0)] {
        let sent = captured.iter().filter(|datagram| datagram.way.from == overlay::outside(of, Family::V4));
        let bytes: usize = sent.map(|datagram| datagram.bytes.len()).sum();
        assert_eq!(net.stats(of, about).tx_bytes.load(Relaxed), bytes as u64);
        assert_eq!(net.stats(about, of).rx_bytes.load(Relaxed), bytes as u64);
        assert_eq!(net.stats(of, about).rx_packets.load(Relaxed), 20);
        assert!(net.stats(of, about).handshake_tick.load(Relaxed) > 0);
    }
    // Both asked at once, so each answered once and asked once.
    let handshakes =
        captured.iter().filter(|datagram| !matches!(Message::classify(&datagram.bytes), Message::Data { .. }));
    assert_eq!(handshakes.count(), 4);
}

#[test]
fn what_waits_for_the_handshake_arrives_in_order() {
    let mut net = Net::pair(3);
    let payloads: Vec<_> = (0..100_u8).map(|n| vec![n; 300]).collect();
    for payload in &payloads {
        net.send(0, 1, Family::V4, payload);
    }
    net.settle();
    assert_eq!(net.received(1), payloads.into_iter().map(|payload| (0, payload)).collect::<Vec<_>>());
}

#[test]
fn packets_are_padded_to_16_within_the_mtu() {
    for family in Family::BOTH {
        let mut net = connected(4);
        let headers = if family == Family::V4 { 28 } else { 48 };
        let mtu = usize::from(MTU);
        for payload_bytes in (1..64).chain(mtu - headers - 40..=mtu - headers).chain([1_500, 9_000]) {
            net.world.network.start_capture();
            let payload = packet::pattern(payload_bytes, payload_bytes as u64);
            net.send(0, 1, family, &payload);
            net.settle();
            assert_eq!(net.received(1), [(0, payload)]);
            let packet_bytes = headers + payload_bytes;
            let padded = packet_bytes.next_multiple_of(16).min(mtu.max(packet_bytes));
            let captured = net.world.network.captured();
            assert_eq!(captured.len(), 1);
            assert_eq!(captured[0].bytes.len(), DATA_OVERHEAD + padded, "packet of {packet_bytes} bytes");
        }
    }
}

#[test]
fn a_new_mtu_bounds_the_padding_within_a_second() {
    let mut net = connected(5);
    net.host(0).tun().mtu = 1_285;
    net.advance(std::time::Duration::from_secs(2));
    net.world.network.start_capture();
    net.send(0, 1, Family::V4, &packet::pattern(1_281 - 28, 1));
    net.settle();
    assert_eq!(net.received(1).len(), 1);
    assert_eq!(net.world.network.captured()[0].bytes.len(), DATA_OVERHEAD + 1_285);
}

#[test]
fn nodes_of_a_mesh_reach_each_other() {
    let mut net = Net::new(6, 5);
    let pairs: Vec<_> = (0..5).flat_map(|a| (0..5).map(move |b| (a, b))).filter(|(a, b)| a != b).collect();
    for &(a, b) in pairs.iter().filter(|(a, b)| a < b) {
        net.meet(a, b);
    }
    // Four handshakes at once are as many as a node takes in one turn.
    for &(a, b) in pairs.iter().filter(|(a, b)| a < b) {
        net.send(a, b, Family::V4, &[1]);
        net.settle();
    }
    for round in 2..5_u8 {
        for &(a, b) in &pairs {
            net.send(a, b, Family::BOTH[usize::from(round) % 2], &[round]);
        }
        net.settle();
    }
    for n in 0..5 {
        let mut received = net.received(n);
        received.sort();
        let first = (0..n).map(|from| (from, vec![1]));
        let rest = (2..5).flat_map(|round| (0..5).filter(move |&from| from != n).map(move |from| (from, vec![round])));
        let mut want: Vec<_> = first.chain(rest).collect();
        want.sort();
        assert_eq!(received, want);
    }
}
