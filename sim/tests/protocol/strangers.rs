//! A flood of handshakes while a real peer wants in.

use crate::SECOND;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::{Way, overlay};
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::frame::Ecn;
use ginnel_engine::wire::message::Message;
use ginnel_sim::{Net, pair};
use std::time::Duration;

/// An initiation to node 1 of a key nobody knows.
fn initiation(n: u64) -> Vec<u8> {
    let mut key = [0x33; 32];
    key[..8].copy_from_slice(&n.to_le_bytes());
    let node = PublicKey::from(overlay::public_key(1).0);
    let mut tunn = Tunn::new(StaticSecret::from(key), node, None, None, 7, None);
    let mut buffer = [0; 148];
    match tunn.format_handshake_initiation(&mut buffer, false) {
        TunnResult::WriteToNetwork(initiation) => initiation.to_vec(),
        other => panic!("no initiation: {other:?}"),
    }
}

/// A second of 1,000 initiations to node 1.
fn flood(net: &mut Net, initiations: &[Vec<u8>]) {
    let way = Way { from: "203.0.113.5:9999".parse().unwrap(), to: overlay::outside(1, Family::V4), ecn: Ecn::NOT_ECT };
    for n in 0..1_000 {
        net.world.network.send(net.world.now(), way, &initiations[n % initiations.len()]);
        net.advance(Duration::from_millis(1));
    }
}

#[test]
fn a_real_peer_gets_through_a_flood() {
    let mut net = pair(1);
    net.permit(&[R::InboundUnknownPeer, R::InboundHandshakeOverload]);
    let initiations: Vec<_> = (0..20).map(initiation).collect();
    net.world.network.start_capture();
    flood(&mut net, &initiations);
    let answers = net.world.network.captured();
    let is_cookie = |bytes: &[u8]| matches!(Message::classify(bytes), Message::Cookie { .. });
    let cookies = answers.iter().filter(|seen| is_cookie(&seen.bytes)).count();
    assert!((700..=800).contains(&cookies), "{cookies} cookies");
    // In the part of a second in which everybody has to prove its address.
    for n in 0..300 {
        let way = Way { from: answers[0].way.from, to: answers[0].way.to, ecn: Ecn::NOT_ECT };
        net.world.network.send(net.world.now(), way, &initiations[n % initiations.len()]);
        net.settle();
    }
    net.world.network.captured();
    net.send(0, 1, Family::V4, b"let me in");
    net.settle();
    let first = net.world.network.captured();
    assert!(first.iter().any(|seen| is_cookie(&seen.bytes)), "the peer was not asked to prove its address");
    assert!(net.received(1).is_empty());
    // It proves it with the retry after 5 s, and the flood goes on.
    for _ in 0..7 {
        flood(&mut net, &initiations);
    }
    assert_eq!(net.received(1), [(0, b"let me in".to_vec())]);
    net.advance(SECOND);
}
