//! Against boringtun, in both roles: handshake, preshared key, data, cookies.

use super::*;
use crate::wire::message::{INITIATION_BYTES, RESPONSE_BYTES};
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use std::net::SocketAddr;

/// A packet that boringtun takes for one: it looks at the length in the header.
fn packet(byte: u8) -> Vec<u8> {
    let mut packet = vec![byte; 100];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 100, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

/// The other one, with key 2.
struct Twin(Tunn);

impl Twin {
    fn new(psk: Option<u8>) -> Self {
        let secret = private(2).secret().to_bytes();
        let peer = x25519::PublicKey::from(private(1).public().0);
        Self(Tunn::new(x25519::StaticSecret::from(secret), peer, psk.map(|byte| [byte; 32]), None, 77, None))
    }

    fn begin(&mut self) -> Vec<u8> {
        let mut buffer = [0; 256];
        datagram(self.0.format_handshake_initiation(&mut buffer, true))
    }

    fn send(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 256];
        datagram(self.0.encapsulate(packet, &mut buffer))
    }

    fn hear(&mut self, message: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 256];
        datagram(self.0.decapsulate(None, message, &mut buffer))
    }

    fn open(&mut self, message: &[u8]) -> Vec<u8> {
        let mut buffer = [0; 256];
        match self.0.decapsulate(None, message, &mut buffer) {
            TunnResult::WriteToTunnelV4(packet, _) => packet.to_vec(),
            TunnResult::Done => Vec::new(),
            other => panic!("{other:?}"),
        }
    }
}

fn datagram(result: TunnResult<'_>) -> Vec<u8> {
    match result {
        TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Packets both ways.
fn talk(ours: &mut End, twin: &mut Twin) {
    for byte in 0..50 {
        let sealed = ours.send(&packet(byte)).remove(0);
        assert_eq!(sealed.len(), 132);
        assert_eq!(twin.open(&sealed), packet(byte));
        let sealed = twin.send(&packet(byte));
        let Came::Packet(opened) = ours.hear(&sealed) else { panic!("not opened") };
        assert_eq!(opened[..100], packet(byte));
        assert_eq!(ours.hear(&sealed), Came::Dropped(DropReason::InboundReplayed));
    }
}

#[test]
fn we_begin_and_it_answers() {
    for psk in [None, Some(7)] {
        let (mut ours, mut twin) = (End::new(1, &private(2).public(), psk), Twin::new(psk));
        let initiation = ours.send(&packet(9)).remove(0);
        assert_eq!(initiation.len(), INITIATION_BYTES);
        let response = twin.hear(&initiation);
        assert_eq!(ours.hear(&response), Came::Handshake(Handshake::Completed));
        let waited = ours.take();
        assert_eq!((waited.len(), twin.open(&waited[0])), (1, packet(9)));
        talk(&mut ours, &mut twin);
    }
}

#[test]
fn it_begins_and_we_answer() {
    for psk in [None, Some(7)] {
        let (mut ours, mut twin) = (End::new(1, &private(2).public(), psk), Twin::new(psk));
        let initiation = twin.begin();
        assert_eq!(Core::<Ring>::initiator(&ours.identity, &initiation), Some(private(2).public()));
        assert_eq!(ours.hear(&initiation), Came::Handshake(Handshake::Continues));
        let response = ours.take().remove(0);
        assert_eq!(response.len(), RESPONSE_BYTES);
        assert!(!ours.core.ready(ours.now), "the answer may not have arrived");
        let confirmation = twin.hear(&response);
        assert_eq!((ours.hear(&confirmation), ours.confirmed), (Came::Packet(Vec::new()), 1));
        talk(&mut ours, &mut twin);
        // The same initiation again is an old one.
        assert_eq!(ours.hear(&initiation), Came::Dropped(DropReason::InboundStaleHandshake));
    }
}

#[test]
fn a_preshared_key_that_differs_is_noticed_by_who_began() {
    let (mut ours, mut twin) = (End::new(1, &private(2).public(), Some(1)), Twin::new(Some(2)));
    let initiation = ours.send(&packet(9)).remove(0);
    let response = twin.hear(&initiation);
    assert_eq!(ours.hear(&response), Came::Dropped(DropReason::InboundUnauthentic));
    // The right answer to the same question is still good.
    let mut right = Twin::new(Some(1));
    assert_eq!(ours.hear(&right.hear(&initiation)), Came::Handshake(Handshake::Completed));
}

#[test]
fn we_take_its_cookie() {
    let from = "192.0.2.7".parse().unwrap();
    let mut ours = End::new(1, &private(2).public(), None);
    let limiter = RateLimiter::new(&x25519::PublicKey::from(private(2).public().0), 0);
    let initiation = ours.send(&packet(1)).remove(0);
    let mut buffer = [0; 64];
    let Err(TunnResult::WriteToNetwork(cookie)) = limiter.verify_packet(Some(from), &initiation, &mut buffer) else {
        panic!("no cookie")
    };
    let cookie = cookie.to_vec();
    assert_eq!(ours.hear(&cookie), Came::Handshake(Handshake::Continues));
    assert_eq!(ours.hear(&cookie), Came::Dropped(DropReason::InboundUnknownIndex), "each message is answered once");
    assert!(ours.take().is_empty(), "a cookie is used with the retry");
    ours.now = ours.now + Duration::from_millis(5_300);
    ours.pulse();
    let retry = ours.take().remove(0);
    assert!(limiter.verify_packet(Some(from), &retry, &mut buffer).is_ok());
    let elsewhere = "192.0.2.8".parse().unwrap();
    assert!(limiter.verify_packet(Some(elsewhere), &retry, &mut buffer).is_err());
}

#[test]
fn it_takes_our_cookie() {
    let from: SocketAddr = "192.0.2.7:7".parse().unwrap();
    let (mut ours, mut twin) = (End::new(1, &private(2).public(), None), Twin::new(None));
    let initiation = twin.begin();
    let mut reply = [0; 64];
    let mut screen =
        |message: &[u8], from| Core::<Ring>::screen(&mut ours.identity, ours.now, from, message, None, &mut reply);
    let passed = (0..1_000).take_while(|_| screen(&initiation, from) == Ok(0)).count();
    assert_eq!(passed, 200);
    assert_eq!(screen(&initiation, from), Ok(64));
    let mut buffer = [0; 256];
    assert!(matches!(twin.0.decapsulate(None, &reply, &mut buffer), TunnResult::Done));
    let retry = twin.begin();
    let mut screen =
        |message: &[u8], from| Core::<Ring>::screen(&mut ours.identity, ours.now, from, message, None, &mut reply);
    assert_eq!(screen(&retry, from), Ok(0));
    assert_eq!(screen(&retry, "192.0.2.7:8".parse().unwrap()), Ok(64), "the port is part of the address");
    let mut damaged = retry;
    damaged[147] ^= 1;
    assert_eq!(screen(&damaged, from), Ok(64));
    damaged[120] ^= 1;
    assert_eq!(screen(&damaged, from), Err(DropReason::InboundBadMac));
}
