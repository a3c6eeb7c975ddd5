//! Datagrams of peers into a whole engine of two workers, behind a cipher that obeys them: handshakes, data with any inner
//! packet, roaming, changes of the configuration in between, time passing.

use crate::engine::{Engine, key, outside, public_key};
use crate::input::Input;
use crate::toy::{Toy, index_of, take_deeds};
use ginnel_backends::mem::{Way, packet};
use ginnel_engine::command::Operation;
use ginnel_engine::event::Event;
use ginnel_engine::frame::Ecn;
use ginnel_engine::fuzzing::List;
use ginnel_engine::key::PresharedKey;
use ginnel_engine::peer::PeerRef;
use ginnel_engine::port::{OffReason, Offload, OffloadState, Offloads, UnitMeta};
use ginnel_engine::stats::PeerStats;
use ginnel_engine::wire::ip;
use ginnel_engine::wire::message::{COOKIE_BYTES, DATA_HEADER_BYTES, INITIATION_BYTES, RESPONSE_BYTES};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Peers; their numbers make both workers owners.
const PEERS: u8 = 3;

/// Our own party.
const US: u8 = 9;

/// Steps of an input. More only takes time.
const STEPS_MAX: usize = 200;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    take_deeds();
    let mut input = Input::new(bytes);
    let mut world = World::new(input.byte());
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
    }
    world.settle();
    world.check_balance();
}

struct World {
    engine: Engine<Toy>,
    routes: List,
    /// Peers that have sent since the last settling: what is delivered is theirs.
    senders: BTreeSet<u32>,
    counter: u64,
    delivered: u64,
    diverted: u64,
}

impl World {
    fn new(switches: u8) -> Self {
        let offloads = Arc::new(Offloads::default());
        for (bit, offload) in Offload::ALL.into_iter().enumerate() {
            if switches >> bit & 1 == 1 {
                offloads.set(offload, OffloadState::Off(OffReason::Operator));
            }
        }
        let engine = Engine::new(US, 2, &offloads);
        let mut world =
            Self { engine, routes: List::default(), senders: BTreeSet::new(), counter: 0, delivered: 0, diverted: 0 };
        world.engine.apply(vec![Operation::SetIdentity(Some(key(US)))]);
        for n in 0..PEERS {
            world.engine.add_peer(n.into(), n, &[]);
            world.route(format!("10.{n}.0.0/16").parse().expect("a prefix"), n);
            world.route(format!("fd00:{n}::/32").parse().expect("a prefix"), n);
        }
        world
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (what, which) = (input.byte(), input.byte());
        let peer = which % PEERS;
        let worker = which >> 4;
        let way = |from| Way { from, to: outside(US), ecn: Ecn(which >> 6) };
        match what % 8 {
            0 => self.engine.arrive(worker, way(outside(100)), input.piece()),
            1 | 2 => {
                let repeats = if what % 8 == 1 { 1 } else { input.byte() % 70 };
                let verdict = input.byte();
                let inner = input.piece();
                for _ in 0..repeats {
                    let message = self.data(peer, inner, verdict);
                    self.senders.insert(peer.into());
                    self.engine.arrive(worker, way(outside(peer + (what >> 7))), &message);
                }
            }
            3 => {
                let mut initiation = [0; INITIATION_BYTES];
                initiation[0] = 1;
                initiation[4..8].copy_from_slice(&input.array::<4>());
                initiation[8..40].copy_from_slice(&public_key(peer).0);
                initiation[INITIATION_BYTES - 1] = input.byte();
                self.engine.arrive(worker, way(outside(peer)), &initiation);
            }
            4 => {
                let is_cookie = what >> 7 == 1;
                let mut answer = [0; RESPONSE_BYTES];
                let (len, at) = if is_cookie { (COOKIE_BYTES, 4) } else { (RESPONSE_BYTES, 8) };
                answer[0] = if is_cookie { 3 } else { 2 };
                answer[at..at + 4].copy_from_slice(&self.index(peer).to_le_bytes());
                answer[len - 1] = input.byte();
                self.engine.arrive(worker, way(outside(peer)), &answer[..len]);
            }
            5 => self.engine.inject(worker, nonempty(input.piece()), UnitMeta::default()),
            6 => {
                self.settle();
                let millis = u64::from(input.word()) << (which & 7);
                self.engine.advance(Duration::from_millis(millis));
                self.look();
            }
            _ => {
                self.settle();
                self.configure(input, peer);
                self.settle();
            }
        }
    }

    /// A data message of `peer` to the newest session with it.
    fn data(&mut self, peer: u8, inner: &[u8], verdict: u8) -> Vec<u8> {
        self.counter += 1;
        let mut message = vec![0; DATA_HEADER_BYTES];
        message[0] = 4;
        message[4..8].copy_from_slice(&self.index(peer).to_le_bytes());
        message[8..16].copy_from_slice(&self.counter.to_le_bytes());
        message.extend(inner);
        message.extend([0; 15]);
        message.push(verdict);
        message
    }

    fn index(&self, peer: u8) -> u32 {
        index_of(&public_key(peer)).unwrap_or_default()
    }

    fn configure(&mut self, input: &mut Input<'_>, n: u8) {
        let id = PeerRef(n.into());
        let operation = match input.byte() % 8 {
            0 => Operation::SetIdentity(None),
            1 => Operation::SetIdentity(Some(key(US))),
            2 => Operation::SetPresharedKey(id, PresharedKey::new([input.byte(); 32])),
            3 => Operation::SetEndpoint(id, outside(input.byte())),
            4 => Operation::SetKeepalive(id, input.word()),
            5 => return self.route(prefix(input), n),
            6 => Operation::RemovePeer(id, public_key(n)),
            _ => Operation::AddPeer { peer: id, key: public_key(n), stats: Arc::new(PeerStats::default()) },
        };
        self.engine.apply(vec![operation]);
    }

    fn route(&mut self, prefix: IpNet, n: u8) {
        self.routes.insert(prefix, n.into());
        self.engine.apply(vec![Operation::Route(prefix, PeerRef(n.into()))]);
    }

    fn settle(&mut self) {
        self.engine.settle();
        self.look();
        self.senders.clear();
    }

    /// Looks at what came out.
    fn look(&mut self) {
        self.engine.departed();
        let diverted = |event: &Event| matches!(event, Event::Diverted { .. });
        self.diverted += self.engine.events().iter().filter(|event| diverted(event)).count() as u64;
        for (meta, unit) in self.engine.delivered() {
            for packet in packet::cut(&unit, &meta) {
                self.delivered += 1;
                let source = ip::source(&packet).expect("what is delivered is an IP packet");
                let holder = self.routes.lookup(source);
                assert!(holder.is_some_and(|peer| self.senders.contains(&peer)), "{source} is of {holder:?}");
            }
        }
    }

    /// Every datagram is somewhere.
    fn check_balance(&self) {
        let deeds = take_deeds();
        assert_eq!(self.engine.counter("tun_tx_packets"), self.delivered);
        assert_eq!(
            self.engine.counter("link_rx_datagrams"),
            self.delivered + self.diverted + self.engine.dropped("inbound") + deeds.keepalives + deeds.handshakes,
            "{} delivered, {} diverted, {deeds:?}",
            self.delivered,
            self.diverted
        );
    }
}

/// A unit has a byte at least: a queue passes nothing else on.
fn nonempty(unit: &[u8]) -> &[u8] {
    if unit.is_empty() { &[0] } else { unit }
}

fn prefix(input: &mut Input<'_>) -> IpNet {
    let shape = input.byte();
    if shape >> 7 == 0 {
        Ipv4Net::new_assert(input.array::<4>().into(), shape % 33).into()
    } else {
        Ipv6Net::new_assert(input.array::<16>().into(), shape % 129).into()
    }
}
