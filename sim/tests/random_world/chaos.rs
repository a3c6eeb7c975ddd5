//! One random world from its beginning to its kind end.

use crate::ledger::{Ledger, NUMBER_BYTES};
use crate::wire::Wire;
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay::{self, MTU, PORT};
use ginnel_backends::mem::{Conditions, HostId, Nat, Random, Way, packet};
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::frame::Ecn;
use ginnel_engine::port::{OffReason, Offload, OffloadState};
use ginnel_sim::{Net, nodes};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Drops that belong to rough worlds. A reason that is not here means that something is wrong: a MAC or a tag that does
/// not fit where nobody forges, a packet changed on the way, a counter at its end.
const PERMITTED: [R; 13] = [
    // Peers that are not known yet, or any more, on either side.
    R::OutboundUnrouted,
    R::InboundUnknownPeer,
    R::InboundUnknownIndex,
    R::InboundForeignSource,
    // A restarted node waits to be called.
    R::OutboundNoEndpoint,
    // More packets than may wait for a session, or for longer.
    R::OutboundNoSession,
    // Addresses of a family the node has lost, jammed sockets, interfaces that are down.
    R::OutboundRefused,
    R::OutboundOverflow,
    R::InboundTunRefused,
    // Copies, late arrivals, handshakes that cross each other.
    R::InboundReplayed,
    R::InboundStaleHandshake,
    // Preshared keys that do not match for a while.
    R::InboundUnauthentic,
    // More handshakes at once than a turn takes.
    R::InboundHandshakeOverload,
];

/// A peer that was cut off is found within this time: silence is noticed after 15 s, a lost handshake repeated after
/// 5 s (paper, section 6), and both may happen.
const RECOVERY: Duration = Duration::from_secs(21);

/// How long a session from rougher times may be in use: the life of a session (paper, section 6.1).
const INHERITANCE: Duration = Duration::from_secs(185);

const SECOND: Duration = Duration::from_secs(1);

/// Worst times on the way, see [`Conditions`].
const DELAY_MAX: Duration = Duration::from_millis(300);
const HOLD_MAX: Duration = Duration::from_millis(1_500);

/// See the module.
pub struct Chaos {
    net: Net,
    dice: Random,
    ledger: Ledger,
    wire: Wire,
    count: usize,
    /// Preshared keys by pair, as either end has them.
    keys: Vec<Vec<Option<u8>>>,
    /// The node behind the NAT, if there is one.
    hidden: Option<usize>,
    moves: u8,
    /// Rounds in which something changes, of 1,000.
    temper: u16,
}

impl Chaos {
    /// The world of a seed.
    pub fn new(seed: u64) -> Self {
        let mut dice = Random::new(seed);
        let count = 2 + usize::try_from(dice.below(3)).unwrap();
        let mut net = nodes(dice.draw(), u8::try_from(count).unwrap());
        net.permit(&PERMITTED);
        net.world.network.start_capture();
        net.world.network.conditions = conditions(&mut dice);
        let hidden = dice.chance(300).then_some(0);
        if let Some(hidden) = hidden {
            let inside = Family::BOTH.map(|family| overlay::outside(hidden, family).ip()).to_vec();
            net.world.network.nats.push(Nat::new("198.51.100.1".parse().unwrap(), inside));
        }
        let keys = vec![vec![None; count]; count];
        let temper = u16::try_from(20 + dice.below(700)).unwrap();
        let mut world =
            Self { net, dice, ledger: Ledger::default(), wire: Wire::default(), count, keys, hidden, moves: 0, temper };
        for (a, b) in world.pairs() {
            world.acquaint(a, b);
        }
        world
    }

    /// Lives through the world. Its trace.
    pub fn run(mut self) -> u64 {
        let rounds = 100 + self.dice.below(300);
        for _ in 0..rounds {
            if self.dice.chance(self.temper) {
                self.upset();
            }
            for _ in 0..self.dice.below(8) {
                self.talk();
            }
            let pause = match self.dice.below(40) {
                0 => 30_000 + self.dice.below(250_000),
                1..10 => self.dice.below(5_000),
                _ => self.dice.below(1_000),
            };
            self.live(Duration::from_millis(pause));
        }
        self.calm();
        self.recover();
        self.live(5 * SECOND);
        self.balance();
        self.wire.trace() ^ self.ledger.delivered()
    }

    /// Lets time pass and looks at everything that happened in it.
    fn live(&mut self, span: Duration) {
        self.net.advance(span);
        for n in 0..self.count {
            for (from, payload) in self.net.received(n) {
                self.ledger.check(from, n, &payload);
            }
            self.net.events(n);
        }
        let captured = self.net.world.network.captured();
        self.wire.check(&captured, DELAY_MAX + HOLD_MAX);
    }

    /// One node says something to another, or pretends to be a third.
    fn talk(&mut self) {
        let (from, to) = self.any_pair();
        let family = self.dice.pick(&Family::BOTH);
        let bytes = NUMBER_BYTES + usize::try_from(self.dice.below(1_300)).unwrap();
        match self.dice.below(20) {
            0 => {
                let mut flow = overlay::inside_flow(from, to, family);
                let other = (from + 1) % self.count;
                // With two nodes the other one is whom it talks to: nobody may claim to be the receiver either.
                flow.from.set_ip(overlay::inside(other, family));
                let payload = self.ledger.write(from, to, bytes, true);
                self.net.host(from).inject(&packet::udp(flow, &payload));
            }
            1 => {
                // A superpacket of datagrams of one size, each with a number of its own.
                let segments = 2 + self.dice.below(20);
                let unit: Vec<u8> = (0..segments).flat_map(|_| self.ledger.write(from, to, bytes, false)).collect();
                let flow = overlay::inside_flow(from, to, family);
                let segment = u16::try_from(bytes).unwrap();
                let (unit, meta) = packet::udp_super(flow, &unit, segment);
                if unit.len() <= 60_000 {
                    self.net.host(from).tun().inject(&unit, meta);
                }
            }
            _ => {
                let payload = self.ledger.write(from, to, bytes, false);
                self.net.send(from, to, family, &payload);
            }
        }
    }

    /// Something changes.
    fn upset(&mut self) {
        let (a, b) = self.any_pair();
        match self.dice.below(16) {
            0 => self.net.world.network.conditions = conditions(&mut self.dice),
            1 => {
                // Nobody hears anything, or one node does not.
                let deaf = self.dice.chance(500).then(|| self.net.host(a).link().addresses.clone());
                let hears = move |way: &Way, _: &[u8]| deaf.as_ref().is_some_and(|deaf| !deaf.contains(&way.to.ip()));
                self.net.world.network.set_filter(hears);
            }
            2 | 3 => self.net.world.network.clear_filter(),
            4 => self.roam(a),
            5 => self.net.world.network.nats.iter_mut().for_each(Nat::rebind),
            6 if self.dice.chance(200) => self.restart(a),
            7 => self.net.forget(a, b),
            8 | 9 => self.acquaint(a, b),
            10 => {
                let key = [None, Some(1), Some(2)];
                let key = self.dice.pick(&key);
                self.set_key(a, b, key);
                // The other end hears of it sooner or later.
                if self.dice.chance(700) {
                    self.set_key(b, a, key);
                }
            }
            11 if self.net.knows(a, b) => {
                let secs = self.dice.pick(&[0, 1, 5, 25]);
                self.net.tell(a, b, |peer| Operation::SetKeepalive(peer, secs));
            }
            12 => {
                let jammed = self.dice.chance(200);
                self.net.host(a).link().jammed = jammed;
            }
            13 => {
                let up = self.dice.chance(700);
                let tun = self.net.host(a).tun();
                tun.up = up;
                tun.refuses_udp = !up;
            }
            14 => {
                let mtu = self.dice.pick(&[1_280, 1_400, 1_500]);
                self.net.host(a).link().mtu = mtu;
            }
            15 => {
                let offload = self.dice.pick(&[Offload::LinkSegmentation, Offload::LinkCoalescing]);
                let off = OffloadState::Off(OffReason::Operator);
                let state = self.dice.pick(&[off, OffloadState::Untested]);
                self.net.host(a).offloads.set(offload, state);
            }
            _ => {}
        }
    }

    /// The node gets another address.
    fn roam(&mut self, n: usize) {
        if self.hidden == Some(n) {
            return;
        }
        self.moves = self.moves.wrapping_add(1);
        let (place, last) = (self.moves, u8::try_from(n + 1).unwrap());
        self.net.host(n).link().addresses = vec![
            IpAddr::from([203, 0, place, last]),
            IpAddr::from([0x2001, 0xdb8, u16::from(place) + 1, 0, 0, 0, 0, last.into()]),
        ];
    }

    /// The node loses its memory; it is told of some peers anew.
    fn restart(&mut self, n: usize) {
        self.net.restart(n);
        for other in (0..self.count).filter(|&other| other != n) {
            self.keys[n][other] = None;
            if self.dice.chance(700) {
                self.introduce(n, other);
            }
        }
    }

    /// Makes two nodes peers, whoever of them did not know the other.
    fn acquaint(&mut self, a: usize, b: usize) {
        self.introduce(a, b);
        self.introduce(b, a);
    }

    fn introduce(&mut self, of: usize, about: usize) {
        if self.net.knows(of, about) {
            return;
        }
        let endpoint = self.endpoint(about).filter(|_| self.dice.chance(800));
        self.net.introduce(of, about, endpoint);
        let key = self.keys[of][about];
        self.net.set_preshared_key(of, about, key);
    }

    /// Where a node can be called at the moment.
    fn endpoint(&mut self, n: usize) -> Option<SocketAddr> {
        let family = self.dice.pick(&Family::BOTH);
        let addresses = &self.net.host(n).link().addresses;
        let of_family = addresses.iter().find(|address| address.is_ipv4() == (family == Family::V4));
        of_family.filter(|_| self.hidden != Some(n)).map(|address| SocketAddr::new(*address, PORT))
    }

    fn set_key(&mut self, of: usize, about: usize, key: Option<u8>) {
        self.keys[of][about] = key;
        if self.net.knows(of, about) {
            self.net.set_preshared_key(of, about, key);
        }
    }

    /// Makes the world kind, and all nodes know of each other what can be known.
    fn calm(&mut self) {
        self.net.world.network.clear_filter();
        self.net.world.network.conditions = Conditions { delay: Duration::from_millis(20), ..Conditions::default() };
        for n in 0..self.count {
            let host = self.net.host(n);
            host.link().jammed = false;
            host.link().mtu = 1_500;
            host.tun().up = true;
        }
        for (a, b) in self.pairs() {
            self.acquaint(a, b);
            for (of, about) in [(a, b), (b, a)] {
                self.set_key(of, about, None);
                if let Some(endpoint) = self.endpoint(about) {
                    self.net.tell(of, about, |peer| Operation::SetEndpoint(peer, endpoint));
                }
            }
        }
        // What is under way from rougher times arrives.
        self.live(2 * SECOND);
    }

    /// Sees that everybody reaches everybody in time, and goes on to.
    fn recover(&mut self) {
        self.everybody_talks(RECOVERY, SECOND);
        // Sessions from rougher times may still be in use and end without a successor: where two handshakes crossed and
        // both answers were lost, the library believes at both ends that it is for the other to begin the next. That costs
        // a packet or two when the session ends.
        let lost = self.everybody_talks(INHERITANCE, 3 * SECOND);
        let pairs = self.pairs().len();
        assert!(lost.len() <= 4 * pairs, "packets {lost:?} are lost in a kind world");
        // Whatever is in use now was made in a kind world, and is renewed in it.
        let lost = self.everybody_talks(150 * SECOND, 2 * SECOND);
        assert!(lost.is_empty(), "packets {lost:?} are lost in a kind world");
    }

    /// A packet from everybody to everybody every `step`; the numbers of those that were lost.
    fn everybody_talks(&mut self, span: Duration, step: Duration) -> Vec<u64> {
        let first = self.ledger.next();
        let end = self.net.world.now() + span;
        while self.net.world.now() < end {
            for (a, b) in self.pairs() {
                for (from, to) in [(a, b), (b, a)] {
                    let family = self.dice.pick(&Family::BOTH);
                    let payload = self.ledger.write(from, to, 100, false);
                    self.net.send(from, to, family, &payload);
                }
            }
            self.live(step);
        }
        (first..self.ledger.next()).filter(|&number| !self.ledger.arrived(number)).collect()
    }

    /// Everything that arrived was delivered or dropped under a name.
    fn balance(&mut self) {
        for n in 0..self.count {
            let arrivals = self.net.host(n).link().arrivals();
            let host = self.net.world.peek(HostId(n));
            assert_eq!(host.stats.link_rx_datagrams.load(Relaxed), arrivals.packets + arrivals.others, "node {n}");
            let inbound = |reason: &&R| format!("{reason:?}").starts_with("Inbound");
            let dropped: u64 = R::ALL.iter().filter(inbound).map(|&reason| host.dropped(reason)).sum();
            let accounted = host.stats.tun_tx_packets.load(Relaxed) + dropped;
            // Handshakes and keepalives may be dropped or not; packets are delivered or dropped.
            assert!(
                (arrivals.packets..=arrivals.packets + arrivals.others).contains(&accounted),
                "node {n}: {arrivals:?}, {accounted} accounted for: {:?}",
                host.drops()
            );
            assert_eq!(host.stats.events_lost.load(Relaxed), 0);
        }
    }

    fn pairs(&self) -> Vec<(usize, usize)> {
        (0..self.count).flat_map(|a| (0..a).map(move |b| (b, a))).collect()
    }

    fn any_pair(&mut self) -> (usize, usize) {
        let count = self.count as u64;
        let a = self.dice.below(count);
        let b = (a + 1 + self.dice.below(count - 1)) % count;
        (usize::try_from(a).unwrap(), usize::try_from(b).unwrap())
    }
}

/// Conditions between perfect and hardly usable.
fn conditions(dice: &mut Random) -> Conditions {
    let mut upto = |bound| u16::try_from(dice.below(bound)).unwrap_or(0);
    let (loss_permille, duplicate_permille, reorder_permille) = (upto(300), upto(150), upto(300));
    Conditions {
        loss_permille,
        duplicate_permille,
        reorder_permille,
        delay: below(dice, DELAY_MAX),
        hold: below(dice, HOLD_MAX),
        path_mtu: dice.pick(&[1_280, 1_400, usize::MAX, usize::MAX]),
        // Packets inside cannot carry a mark, so routers that mark all of them would swallow everything.
        mark: dice.pick(&[None, None, Some(Ecn(1)), Some(Ecn(2))]),
    }
}

fn below(dice: &mut Random, bound: Duration) -> Duration {
    Duration::from_nanos(dice.below(u64::try_from(bound.as_nanos()).unwrap()))
}

const _: () = assert!(MTU as usize > NUMBER_BYTES + 1_300 + 48, "a datagram fits a packet");
