//! Datagrams of anybody into a whole engine of two workers with the real cipher, which has a session with a real peer: bytes
//! of any kind, and what was overheard of the session, changed or again.

use crate::engine::{Engine, key, outside};
use crate::input::Input;
use ginnel_backends::mem::{Way, packet};
use ginnel_engine::command::Operation;
use ginnel_engine::event::Event;
use ginnel_engine::frame::Ecn;
use ginnel_engine::noise::{Core, Ring};
use ginnel_engine::port::{Offloads, UnitMeta};
use ginnel_engine::wire::message::{COOKIE_BYTES, Message};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The engine that is attacked, its peer, and whoever else there is.
const US: u8 = 1;
const PEER: u8 = 2;
const STRANGER: u8 = 3;

/// Packets the peer sends, which the stranger overhears.
const OVERHEARD: u8 = 4;

/// How long the session may be used: not to the end of its life (180 s), after which nothing of the peer is to arrive.
const LIFETIME: Duration = Duration::from_secs(170);

/// Steps of an input. More only takes time.
const STEPS_MAX: usize = 300;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (mut us, heard) = session();
    let mut first = [true; OVERHEARD as usize];
    let mut lifetime = LIFETIME;
    let mut wanted = Vec::new();
    let mut got = Vec::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        let (what, which) = (input.byte(), input.byte());
        let worker = which >> 7;
        match what % 4 {
            0 => us.arrive(worker, way(STRANGER, US), input.piece()),
            1 => {
                let (mut datagram, at, change) =
                    (heard[usize::from(which) % heard.len()].clone(), input.byte(), input.byte());
                let at = usize::from(at) % datagram.len();
                datagram[at] ^= change.max(1);
                us.arrive(worker, way(STRANGER, US), &datagram);
            }
            2 => {
                // As the peer sent it, from where it sent it, once or again.
                let index = usize::from(which & 0x7f) % heard.len();
                us.arrive(worker, way(PEER, US), &heard[index]);
                if let Some(first) = first.get_mut(index).filter(|first| **first) {
                    *first = false;
                    wanted.push(index);
                }
            }
            _ => {
                let span = Duration::from_millis(u64::from(input.word())).min(lifetime);
                lifetime -= span;
                us.advance(span);
            }
        }
        if what >> 7 == 1 {
            us.settle();
            got.extend(received(&mut us));
        }
    }
    us.settle();
    got.extend(received(&mut us));

    // Nothing but what the peer said arrives, all of it, and only once.
    got.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(got, wanted);
    for event in us.events() {
        assert!(matches!(event, Event::Diverted { .. }), "{event:?}");
    }
    // A stranger is answered by cookies at most, which are shorter than the question.
    for (way, datagram) in us.departed().iter().filter(|(way, _)| way.to == outside(STRANGER)) {
        assert!(
            datagram.len() == COOKIE_BYTES && matches!(Message::classify(datagram), Message::Cookie { .. }),
            "{way:?}"
        );
    }
}

/// Two engines with a session between them; what the first is to be sent by the second.
fn session() -> (Engine<Core<Ring>>, Vec<Vec<u8>>) {
    let offloads = Arc::new(Offloads::default());
    let mut us = Engine::new(US, 2, &offloads);
    let mut peer = Engine::new(PEER, 1, &offloads);
    us.apply(vec![Operation::SetIdentity(Some(key(US)))]);
    peer.apply(vec![Operation::SetIdentity(Some(key(PEER)))]);
    us.add_peer(0, PEER, &["10.0.0.2/32"]);
    peer.add_peer(0, US, &["10.0.0.1/32"]);
    peer.inject(0, &from_peer(0xff), UnitMeta::default());
    for _ in 0..3 {
        carry(&mut peer, &mut us);
        carry(&mut us, &mut peer);
    }
    assert_eq!(received(&mut us), [0xff], "the session stands");
    us.events();
    for n in 0..OVERHEARD {
        peer.inject(0, &from_peer(n), UnitMeta::default());
        peer.settle();
    }
    let heard: Vec<_> = peer.departed().into_iter().map(|(_, datagram)| datagram).collect();
    assert_eq!(heard.len(), usize::from(OVERHEARD));
    (us, heard)
}

fn carry(from: &mut Engine<Core<Ring>>, to: &mut Engine<Core<Ring>>) {
    from.settle();
    for (way, datagram) in from.departed() {
        to.arrive(0, way, &datagram);
    }
    to.settle();
}

/// A packet of the peer that carries a number.
fn from_peer(n: u8) -> Vec<u8> {
    let flow = packet::Flow { from: inside(2), to: inside(1) };
    packet::udp(flow, &[n])
}

fn inside(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 5_000))
}

/// The numbers of the packets that arrived.
fn received(engine: &mut Engine<Core<Ring>>) -> Vec<usize> {
    let units = engine.delivered();
    let packets = units.iter().flat_map(|(meta, unit)| packet::cut(unit, meta));
    let number = |packet: Vec<u8>| {
        assert!(packet::is_sound(&packet), "what arrives is as it was sent");
        usize::from(packet::open(&packet).expect("it is UDP").1[0])
    };
    packets.map(number).collect()
}

fn way(from: u8, to: u8) -> Way {
    Way { from: outside(from), to: outside(to), ecn: Ecn::NOT_ECT }
}
