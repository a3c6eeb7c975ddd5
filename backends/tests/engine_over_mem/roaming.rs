//! Where a peer is: an authentic datagram moves it, nothing else does.

use crate::{Net, connect, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay::{self, PORT};
use ginnel_backends::mem::{Captured, Nat, Way};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::frame::Ecn;
use std::net::{IpAddr, SocketAddr};

const ELSEWHERE: &str = "198.51.100.66:6666";

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Sends bytes to node 0 from elsewhere.
fn forge(net: &mut Net, bytes: &[u8]) {
    let way = Way { from: ELSEWHERE.parse().unwrap(), to: overlay::outside(0, Family::V4), ecn: Ecn::NOT_ECT };
    net.world.network.send(net.world.now(), way, bytes);
    net.settle();
}

/// What node 1 sent to node 0 while it greets it, and a datagram node 0 has not seen.
fn eavesdrop(net: &mut Net) -> (Vec<Captured>, Vec<u8>) {
    net.world.network.start_capture();
    net.introduce(0, 1, Some(overlay::outside(1, Family::V4)));
    net.introduce(1, 0, Some(overlay::outside(0, Family::V4)));
    net.send(1, 0, Family::V4, b"hello");
    net.settle();
    let mut seen = net.world.network.captured();
    seen.retain(|datagram| datagram.way.to == overlay::outside(0, Family::V4));
    net.world.network.set_filter(|_, _| false);
    net.send(1, 0, Family::V4, b"kept back");
    net.settle();
    net.world.network.clear_filter();
    let unseen = net.world.network.captured().remove(0).bytes;
    assert_eq!(net.received(0), [(1, b"hello".to_vec())]);
    net.events(0);
    (seen, unseen)
}

#[test]
fn an_authentic_datagram_moves_the_peer() {
    let mut net = connected(1);
    for (place, family) in [("198.51.100.1", Family::V4), ("2001:db8:7::1", Family::V6), ("198.51.100.2", Family::V4)] {
        net.host(1).link().addresses = vec![address(place)];
        // Over which family it travels is up to the address node 1 has for node 0.
        net.tell(1, 0, |peer| ginnel_engine::command::Operation::SetEndpoint(peer, overlay::outside(0, family)));
        net.send(1, 0, Family::V4, b"moved");
        net.settle();
        let endpoint = SocketAddr::new(address(place), PORT);
        assert_eq!(net.received(0).len(), 1);
        assert_eq!(net.stats(0, 1).endpoint(), Some(endpoint));
        assert_eq!(net.events(0), [Event::EndpointChanged { peer: overlay::public_key(1), endpoint }]);
        net.send(0, 1, Family::V6, b"found");
        net.settle();
        assert_eq!(net.received(1), [(0, b"found".to_vec())]);
    }
}

#[test]
fn nothing_forged_or_repeated_moves_a_peer() {
    let mut net = Net::new(2, 2);
    let (seen, unseen) = eavesdrop(&mut net);
    use DropReason as R;
    net.permit(&[R::InboundReplayed, R::InboundStaleHandshake, R::InboundUnauthentic, R::InboundBadMac]);
    net.permit(&[R::InboundUnknownIndex, R::InboundMalformed]);
    // Everything that was said before: initiation, confirmation, data.
    for datagram in &seen {
        forge(&mut net, &datagram.bytes);
    }
    assert_eq!((net.dropped(R::InboundStaleHandshake), net.dropped(R::InboundReplayed)), (1, seen.len() as u64 - 1));
    // A new datagram with any part of it changed.
    for at in 0..unseen.len() {
        let mut forged = unseen.clone();
        forged[at] ^= 1;
        forge(&mut net, &forged);
    }
    for len in 0..unseen.len() {
        forge(&mut net, &unseen[..len]);
    }
    // A handshake with any part of it changed.
    for at in 0..seen[0].bytes.len() {
        let mut forged = seen[0].bytes.clone();
        forged[at] ^= 0x80;
        forge(&mut net, &forged);
    }
    // A cookie reply for a handshake of ours that nobody asked for.
    let mut cookie = vec![0; 64];
    cookie[0] = 3;
    cookie[4..8].copy_from_slice(&unseen[4..8]);
    forge(&mut net, &cookie);
    assert_eq!(net.stats(0, 1).endpoint(), Some(overlay::outside(1, Family::V4)));
    assert!(net.events(0).iter().all(|event| matches!(event, Event::Diverted { .. })));
    assert!(net.received(0).is_empty());
    // The same datagram unchanged is as good as ever, even from there.
    forge(&mut net, &unseen);
    assert_eq!(net.received(0), [(1, b"kept back".to_vec())]);
    assert_eq!(net.stats(0, 1).endpoint(), Some(ELSEWHERE.parse().unwrap()));
}

#[test]
fn a_cookie_anybody_can_make_moves_nobody() {
    // Who sees an initiation can answer it with a valid cookie: no secret of the peer is needed for that.
    let mut net = Net::pair(5);
    net.world.network.start_capture();
    net.world.network.set_filter(|_, _| false);
    net.send(0, 1, Family::V4, b"hello");
    net.settle();
    net.world.network.clear_filter();
    let initiation = net.world.network.captured().remove(0).bytes;
    let peer = boringtun::x25519::PublicKey::from(overlay::public_key(1).0);
    let mut cookie = [0; 64];
    let limiter = boringtun::noise::rate_limiter::RateLimiter::new(&peer, 0);
    let made = limiter.verify_packet(Some(address("192.0.2.1")), &initiation, &mut cookie);
    assert!(matches!(made, Err(boringtun::noise::TunnResult::WriteToNetwork(bytes)) if bytes.len() == 64));
    forge(&mut net, &cookie);
    assert!(net.events(0).is_empty() && net.host(0).drops().is_empty(), "the cookie is accepted");
    assert_eq!(net.stats(0, 1).endpoint(), Some(overlay::outside(1, Family::V4)));
}

#[test]
fn rebinding_of_a_nat_is_followed() {
    let mut net = Net::new(3, 2);
    let public = address("198.51.100.1");
    net.world.network.nats.push(Nat::new(public, vec![overlay::outside(1, Family::V4).ip()]));
    net.introduce(0, 1, None);
    net.introduce(1, 0, Some(overlay::outside(0, Family::V4)));
    connect(&mut net, 1, 0);
    assert_eq!(net.stats(0, 1).endpoint(), Some(SocketAddr::new(public, 40_000)));
    net.world.network.nats[0].rebind();
    net.send(0, 1, Family::V4, b"to the old port");
    net.settle();
    assert!(net.received(1).is_empty());
    net.send(1, 0, Family::V4, b"from the new port");
    net.settle();
    assert_eq!(net.received(0).len(), 1);
    assert_eq!(net.stats(0, 1).endpoint(), Some(SocketAddr::new(public, 40_001)));
    net.send(0, 1, Family::V4, b"to the new port");
    net.settle();
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let mut net = connected(4);
    let second = address("192.0.2.200");
    net.host(0).link().addresses.push(second);
    net.tell(1, 0, |peer| ginnel_engine::command::Operation::SetEndpoint(peer, SocketAddr::new(second, PORT)));
    net.send(1, 0, Family::V4, b"to the second address");
    net.settle();
    net.world.network.start_capture();
    net.send(0, 1, Family::V4, b"from the second address");
    net.settle();
    assert_eq!(net.world.network.captured()[0].way.from.ip(), second);
    assert_eq!(net.received(1).len(), 1);
    // The address goes: what is sent leaves from another, and the peer follows.
    net.host(0).link().addresses.pop();
    for _ in 0..2 {
        net.send(0, 1, Family::V4, b"from the first address");
        net.settle();
    }
    let from: Vec<_> = net.world.network.captured().iter().map(|datagram| datagram.way.from).collect();
    assert_eq!(from, [overlay::outside(0, Family::V4); 2]);
    assert_eq!(net.received(1).len(), 2);
    assert_eq!(net.stats(1, 0).endpoint(), Some(overlay::outside(0, Family::V4)));
}
