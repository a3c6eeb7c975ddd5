//! The wires between virtual hosts: one network, any number of hosts with addresses of both families, and all that goes
//! wrong on real ones. What goes wrong is decided by a seeded [`Random`] alone, so a run can be repeated.
//!
//! ```text
//! Link::depart ─► send ─► NAT out ─► tap ─► filter, loss, path MTU ─► in flight ─► NAT in ─► Link::arrive
//! ```
//! The network knows no hosts, only addresses: who listens where is asked of the links at the moment of arrival, so an
//! address may move while datagrams are under way.

use super::link::Way;
use super::nat::Nat;
use super::random::Random;
use ginnel_engine::frame::Ecn;
use ginnel_engine::tick::Tick;
use std::collections::BTreeMap;
use std::time::Duration;

/// How the wires treat datagrams. The default is a kind world: everything arrives at once and in order.
#[derive(Clone, Debug)]
pub struct Conditions {
    /// Datagrams lost, of 1,000.
    pub loss_permille: u16,
    /// Datagrams that arrive twice, of 1,000.
    pub duplicate_permille: u16,
    /// Datagrams held back, of 1,000: others overtake them.
    pub reorder_permille: u16,
    /// Time on the way.
    pub delay: Duration,
    /// At most so much longer takes what is held back, and the second copy of what is duplicated.
    pub hold: Duration,
    /// Datagrams whose packet is longer than this are lost: a path with a smaller MTU that tells nobody.
    pub path_mtu: usize,
    /// The congestion mark that routers on the way put on every datagram.
    pub mark: Option<Ecn>,
}

impl Default for Conditions {
    fn default() -> Self {
        Self {
            loss_permille: 0,
            duplicate_permille: 0,
            reorder_permille: 0,
            delay: Duration::ZERO,
            hold: Duration::ZERO,
            path_mtu: usize::MAX,
            mark: None,
        }
    }
}

/// A datagram as it was seen on the wire.
#[derive(Clone, Debug)]
pub struct Captured {
    /// When it was sent.
    pub at: Tick,
    /// Its outer headers, behind a NAT where there is one.
    pub way: Way,
    /// Its payload.
    pub bytes: Vec<u8>,
}

/// What became of everything that was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Handed to the network.
    pub sent: u64,
    /// Lost by chance, by the filter, or for their length.
    pub lost: u64,
    /// Copies made.
    pub duplicated: u64,
    /// Handed to a link.
    pub arrived: u64,
    /// Arrived where nobody listens, or at a NAT that lets nothing in.
    pub unclaimed: u64,
}

type Filter = Box<dyn FnMut(&Way, &[u8]) -> bool>;

/// See the module.
pub struct Network {
    /// How the wires are at the moment.
    pub conditions: Conditions,
    /// The NATs between hosts and the network.
    pub nats: Vec<Nat>,
    random: Random,
    filter: Option<Filter>,
    tap: Option<Vec<Captured>>,
    /// What is under way, by arrival; what arrives together, by departure.
    flying: BTreeMap<(Tick, u64), (Way, Vec<u8>)>,
    spare: Vec<Vec<u8>>,
    sequence: u64,
    traffic: Traffic,
}

impl Network {
    /// A kind network whose dice are those of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            conditions: Conditions::default(),
            nats: Vec::new(),
            random: Random::new(seed),
            filter: None,
            tap: None,
            flying: BTreeMap::new(),
            spare: Vec::new(),
            sequence: 0,
            traffic: Traffic::default(),
        }
    }

    /// From now on only datagrams for which `keep` says so are carried.
    pub fn set_filter(&mut self, keep: impl FnMut(&Way, &[u8]) -> bool + 'static) {
        self.filter = Some(Box::new(keep));
    }

    /// Carries everything again.
    pub fn clear_filter(&mut self) {
        self.filter = None;
    }

    /// Keeps a copy of everything that is sent, until [`Self::captured`] takes it.
    pub fn start_capture(&mut self) {
        self.tap = Some(Vec::new());
    }

    /// What was sent since the last call, lost or not.
    pub fn captured(&mut self) -> Vec<Captured> {
        self.tap.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Counters since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// Datagrams under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flying.len()
    }

    /// Sends a datagram.
    pub fn send(&mut self, now: Tick, mut way: Way, bytes: &[u8]) {
        self.traffic.sent += 1;
        for nat in &mut self.nats {
            nat.leave(&mut way);
        }
        if let Some(tap) = &mut self.tap {
            tap.push(Captured { at: now, way, bytes: bytes.to_vec() });
        }
        let kept = self.filter.as_mut().is_none_or(|keep| keep(&way, bytes));
        let packet_bytes = bytes.len() + if way.to.is_ipv4() { 28 } else { 48 };
        let chance = self.random.chance(self.conditions.loss_permille);
        if !kept || chance || packet_bytes > self.conditions.path_mtu {
            self.traffic.lost += 1;
            return;
        }
        if let Some(mark) = self.conditions.mark {
            way.ecn = mark;
        }
        let held = self.random.chance(self.conditions.reorder_permille);
        let at = self.arrival(now, held);
        self.launch(at, way, bytes);
        if self.random.chance(self.conditions.duplicate_permille) {
            self.traffic.duplicated += 1;
            let at = self.arrival(now, true);
            self.launch(at, way, bytes);
        }
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_arrival(&self) -> Option<Tick> {
        self.flying.first_key_value().map(|((at, _), _)| *at)
    }

    /// Hands everything that has arrived by `now` to `take`, which says whether somebody listens there.
    pub fn deliver_due(&mut self, now: Tick, mut take: impl FnMut(&Way, &[u8]) -> bool) {
        while self.next_arrival().is_some_and(|at| at <= now) {
            let Some((_, (mut way, bytes))) = self.flying.pop_first() else { return };
            if self.nats.iter().all(|nat| nat.enter(&mut way)) && take(&way, &bytes) {
                self.traffic.arrived += 1;
            } else {
                self.traffic.unclaimed += 1;
            }
            self.spare.push(bytes);
        }
    }

    fn arrival(&mut self, now: Tick, held: bool) -> Tick {
        let hold = u64::try_from(self.conditions.hold.as_nanos()).unwrap_or(u64::MAX);
        let extra = if held { Duration::from_nanos(self.random.below(hold)) } else { Duration::ZERO };
        now + self.conditions.delay + extra
    }

    fn launch(&mut self, at: Tick, way: Way, bytes: &[u8]) {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(bytes);
        self.sequence += 1;
        self.flying.insert((at, self.sequence), (way, copy));
    }
}
