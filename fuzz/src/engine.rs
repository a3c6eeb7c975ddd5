//! A whole engine over virtual ports: all workers of a device, turned until nothing is left to do.

use ginnel_backends::mem::{Link, Tun, Way};
use ginnel_engine::command::{Command, Operation};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::limits::{COMMANDS_QUEUED_MAX, EVENTS_QUEUED_MAX};
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::peer::PeerRef;
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::port::{Offloads, Ready, UnitMeta};
use ginnel_engine::stats::{PeerStats, WorkerStats};
use ginnel_engine::tick::Tick;
use ginnel_engine::worker::handoff::Mail;
use ginnel_engine::worker::{Turn, Wiring, Worker};
use ipnet::IpNet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// The UDP port of every engine.
pub(crate) const PORT: u16 = 51_820;

/// MTU of every engine's interface.
pub(crate) const MTU: u16 = 1_420;

/// Rounds of turns in one moment. An engine that asks for more spins without getting anywhere.
const ROUNDS_MAX: u32 = 20_000;

/// See the module.
pub(crate) struct Engine<N: Noise> {
    workers: Vec<Worker<N, Tun, Link>>,
    commands: Vec<SyncSender<Command>>,
    stats: Vec<Arc<WorkerStats>>,
    heard: Receiver<Event>,
    events: Vec<Event>,
    now: Tick,
}

/// The key pair of party `n`.
pub(crate) fn key(n: u8) -> PrivateKey {
    PrivateKey::new([n.wrapping_add(1); 32])
}

/// The public half of [`key`].
pub(crate) fn public_key(n: u8) -> PublicKey {
    key(n).public()
}

/// Where party `n` is.
pub(crate) fn outside(n: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(192, 0, 2, n), PORT))
}

impl<N: Noise> Engine<N> {
    /// Party `n` with `workers` workers and neither identity nor peers.
    pub(crate) fn new(n: u8, workers: u32, offloads: &Arc<Offloads>) -> Self {
        let mail = Mail::new(workers);
        let stamps = Arc::new(Stamps::new(0));
        let (tell, heard) = sync_channel(EVENTS_QUEUED_MAX);
        let mut engine = Self {
            workers: Vec::new(),
            commands: Vec::new(),
            stats: Vec::new(),
            heard,
            events: Vec::new(),
            // The engine takes tick 0 for "never".
            now: Tick(1_000_000_000),
        };
        for worker in 0..workers {
            let (commands, orders) = sync_channel(COMMANDS_QUEUED_MAX);
            let stats = Arc::new(WorkerStats::default());
            let wiring = Wiring {
                worker,
                workers,
                seed: Seed::new([n; 32]),
                stamps: stamps.clone(),
                commands: orders,
                events: tell.clone(),
                mail: mail.clone(),
                stats: stats.clone(),
            };
            let tun = Tun::new(MTU, offloads.clone());
            let link = Link::new(vec![outside(n).ip()], PORT, offloads.clone());
            engine.workers.push(Worker::new(tun, link, wiring));
            engine.commands.push(commands);
            engine.stats.push(stats);
        }
        engine
    }

    /// Has every worker apply these, now.
    pub(crate) fn apply(&mut self, operations: Vec<Operation>) {
        let operations: Arc<[Operation]> = operations.into();
        let (done, _) = sync_channel(self.commands.len());
        for commands in &self.commands {
            let command = Command::Apply { operations: operations.clone(), done: done.clone() };
            assert!(commands.try_send(command).is_ok(), "commands are taken in every turn");
        }
        self.settle();
    }

    /// Makes party `n` peer `id`, with an endpoint and these prefixes.
    pub(crate) fn add_peer(&mut self, id: u32, n: u8, prefixes: &[&str]) {
        let peer = PeerRef(id);
        let stats = Arc::new(PeerStats::default());
        let mut operations = vec![Operation::AddPeer { peer, key: public_key(n), stats }];
        operations.push(Operation::SetEndpoint(peer, outside(n)));
        let prefix = |text: &&str| text.parse::<IpNet>().expect("a prefix of a target is well formed");
        operations.extend(prefixes.iter().map(|text| Operation::Route(prefix(text), peer)));
        self.apply(operations);
    }

    /// A datagram comes to the socket of one worker.
    pub(crate) fn arrive(&mut self, worker: u8, way: Way, datagram: &[u8]) {
        let worker = usize::from(worker) % self.workers.len();
        self.workers[worker].ports_mut().1.arrive(way, datagram);
    }

    /// The stack hands a unit to the queue of one worker.
    pub(crate) fn inject(&mut self, worker: u8, unit: &[u8], meta: UnitMeta) {
        let worker = usize::from(worker) % self.workers.len();
        self.workers[worker].ports_mut().0.inject(unit, meta);
    }

    /// Turns every worker until none has anything to do.
    pub(crate) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            for worker in &mut self.workers {
                match worker.turn(self.now, Ready::BOTH) {
                    Turn::Busy => busy = true,
                    Turn::Idle(deadline) => busy |= deadline.is_some_and(|at| at <= self.now) || worker.has_mail(),
                    Turn::Closed(errno) => panic!("a port is gone: {errno}"),
                }
            }
            self.events.extend(self.heard.try_iter());
            if !busy && !self.workers.iter().any(Worker::has_mail) {
                return;
            }
        }
        panic!("the workers turn without end at {:?}", self.now);
    }

    /// Lets `span` pass and does what is due then.
    pub(crate) fn advance(&mut self, span: Duration) {
        self.settle();
        self.now = self.now + span;
        self.settle();
    }

    /// Takes what was sent.
    pub(crate) fn departed(&mut self) -> Vec<(Way, Vec<u8>)> {
        let mut all = Vec::new();
        for worker in &mut self.workers {
            let link = worker.ports_mut().1;
            while let Some((way, datagram)) = link.depart() {
                all.push((way, datagram.to_vec()));
            }
        }
        all
    }

    /// Takes what the stack was given.
    pub(crate) fn delivered(&mut self) -> Vec<(UnitMeta, Vec<u8>)> {
        let mut all = Vec::new();
        for worker in &mut self.workers {
            let tun = worker.ports_mut().0;
            while let Some((meta, unit)) = tun.take() {
                all.push((meta, unit.to_vec()));
            }
        }
        all
    }

    /// Takes what was told.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// The counter of this name, of all workers.
    pub(crate) fn counter(&self, name: &str) -> u64 {
        let read = |stats: &Arc<WorkerStats>| {
            let counters = stats.counters();
            counters.iter().find(|(known, _)| *known == name).expect("a counter of the engine").1
        };
        self.stats.iter().map(read).sum()
    }

    /// Packets dropped for reasons whose name begins with `direction`.
    pub(crate) fn dropped(&self, direction: &str) -> u64 {
        let reasons = DropReason::ALL.iter().filter(|reason| reason.name().starts_with(direction));
        reasons.map(|reason| self.stats.iter().map(|stats| stats.drops.packets(*reason)).sum::<u64>()).sum()
    }
}
