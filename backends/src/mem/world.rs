//! Virtual hosts on one network under one clock: whole workers run here, step by step, and the same seed gives the same
//! run.
//!
//! Time stands still while anything can be done, and then jumps to the next moment at which something can: an arrival
//! or a date of a worker. Datagrams are carried between turns, so nothing is shared and nothing is locked.
//!
//! Workers know no other time than that of the world.

use super::link::Link;
use super::network::Network;
use super::tun::Tun;
use ginnel_engine::command::{Command, Operation};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::key::PrivateKey;
use ginnel_engine::limits::{COMMANDS_QUEUED_MAX, EVENTS_QUEUED_MAX};
use ginnel_engine::noise::random::Seed;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::port::{Offloads, Ready, UnitMeta};
use ginnel_engine::stats::WorkerStats;
use ginnel_engine::tick::Tick;
use ginnel_engine::worker::handoff::Mail;
use ginnel_engine::worker::{Turn, Wiring, Worker};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// The number of a host in its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostId(pub usize);

/// How to make a host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// Its identity.
    pub key: PrivateKey,
    /// Its addresses on the network.
    pub addresses: Vec<IpAddr>,
    /// Its UDP port.
    pub port: u16,
    /// MTU of its TUN interface.
    pub mtu: u16,
    /// What its random numbers follow from.
    pub seed: u64,
    /// The states its offloads start with.
    pub offloads: Arc<Offloads>,
}

/// A worker with its ports and the other ends of its channels.
pub struct Host<N: Noise> {
    /// Its counters.
    pub stats: Arc<WorkerStats>,
    /// The states of its offloads.
    pub offloads: Arc<Offloads>,
    worker: Worker<N, Tun, Link>,
    commands: SyncSender<Command>,
    events: Receiver<Event>,
    /// Something was done to it since its last turn.
    touched: bool,
    deadline: Option<Tick>,
    closed: Option<i32>,
}

/// Hosts and the network between them.
pub struct World<N: Noise> {
    /// The wires.
    pub network: Network,
    hosts: Vec<Host<N>>,
    now: Tick,
}

/// The time of day at tick 0 of every world, in nanoseconds since the Unix epoch: some day in 2023.
const ORIGIN: u64 = 1_700_000_000_000_000_000;

/// Turns of all hosts in one moment. A worker that asks for more spins without getting anywhere.
const TURNS_PER_MOMENT: usize = 200_000;

impl<N: Noise> World<N> {
    /// A world without hosts, one second after the beginning of time: the engine takes tick 0 for "never".
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { network: Network::new(seed), hosts: Vec::new(), now: Tick(1_000_000_000) }
    }

    /// Adds a host.
    pub fn add(&mut self, options: &HostOptions) -> HostId {
        self.hosts.push(Host::new(options));
        HostId(self.hosts.len() - 1)
    }

    /// Puts another machine in the place of a host: same name, no memory.
    pub fn replace(&mut self, id: HostId, options: &HostOptions) {
        self.hosts[id.0] = Host::new(options);
    }

    /// A host, to look at or to do something to.
    pub fn host(&mut self, id: HostId) -> &mut Host<N> {
        let host = &mut self.hosts[id.0];
        host.touched = true;
        host
    }

    /// A host, to look at.
    #[must_use]
    pub fn peek(&self, id: HostId) -> &Host<N> {
        &self.hosts[id.0]
    }

    /// The numbers of all hosts.
    pub fn ids(&self) -> impl Iterator<Item = HostId> + use<N> {
        (0..self.hosts.len()).map(HostId)
    }

    /// The current moment.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// Does everything that can be done in this moment.
    ///
    /// # Panics
    /// Where a worker finds no end.
    pub fn settle(&mut self) {
        let mut turns = 0;
        loop {
            self.deliver();
            let mut moved = false;
            for index in 0..self.hosts.len() {
                if self.hosts[index].wants_turn(self.now) {
                    moved = true;
                    turns += 1;
                    self.turn(HostId(index));
                }
            }
            assert!(turns < TURNS_PER_MOMENT, "a worker turns without end at {:?}", self.now);
            if !moved && self.network.next_arrival().is_none_or(|at| at > self.now) {
                return;
            }
        }
    }

    /// Lets `span` pass, with everything that happens in it.
    pub fn advance(&mut self, span: Duration) {
        let end = self.now + span;
        self.settle();
        while let Some(next) = self.next_moment().filter(|&next| next <= end) {
            self.now = self.now.max(next);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Hands what has arrived to the links it is for.
    pub fn deliver(&mut self) {
        let Self { network, hosts, now, .. } = self;
        network.deliver_due(*now, |way, datagram| {
            let Some(host) = hosts.iter_mut().find(|host| host.worker.ports().1.listens_to(way.to)) else {
                return false;
            };
            host.worker.ports_mut().1.arrive(*way, datagram);
            true
        });
    }

    /// Turns one host once and carries what it sent to the network.
    pub fn turn(&mut self, id: HostId) -> Turn {
        self.turn_watched(id, |turn| (turn(), ())).0
    }

    /// As [`Self::turn`]; what the worker does happens within `watch`, which measures it.
    pub fn turn_watched<T>(
        &mut self,
        id: HostId,
        watch: impl FnOnce(&mut dyn FnMut() -> Turn) -> (Turn, T),
    ) -> (Turn, T) {
        let now = self.now;
        let host = &mut self.hosts[id.0];
        let (turn, measured) = watch(&mut || host.worker.turn(now, Ready::BOTH));
        host.touched = turn == Turn::Busy;
        match turn {
            Turn::Busy => {}
            Turn::Idle(deadline) => host.deadline = deadline,
            Turn::Closed(errno) => host.closed = Some(errno),
        }
        let (_, link) = host.worker.ports_mut();
        while let Some((way, datagram)) = link.depart() {
            self.network.send(now, way, datagram);
        }
        (turn, measured)
    }

    /// Lets `span` pass without doing anything in it.
    pub fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }

    fn next_moment(&self) -> Option<Tick> {
        let dates = self.hosts.iter().filter(|host| host.closed.is_none()).filter_map(|host| host.deadline);
        dates.chain(self.network.next_arrival()).min()
    }
}

impl<N: Noise> Host<N> {
    fn new(options: &HostOptions) -> Self {
        let tun = Tun::new(options.mtu, Arc::clone(&options.offloads));
        let link = Link::new(options.addresses.clone(), options.port, Arc::clone(&options.offloads));
        let (commands, commands_rx) = sync_channel(COMMANDS_QUEUED_MAX);
        let (events_tx, events) = sync_channel(EVENTS_QUEUED_MAX);
        let stats = Arc::new(WorkerStats::default());
        let wiring = Wiring {
            worker: 0,
            workers: 1,
            seed: Seed::new(std::array::from_fn(|at| options.seed.to_le_bytes()[at % 8])),
            stamps: Arc::new(Stamps::new(ORIGIN)),
            commands: commands_rx,
            events: events_tx,
            mail: Mail::new(1),
            stats: Arc::clone(&stats),
        };
        let mut host = Self {
            stats,
            offloads: Arc::clone(&options.offloads),
            worker: Worker::new(tun, link, wiring),
            commands,
            events,
            touched: true,
            deadline: None,
            closed: None,
        };
        host.apply(vec![Operation::SetIdentity(Some(options.key.clone()))]);
        host
    }

    /// Queues operations, to be applied together in the next turn.
    ///
    /// # Panics
    /// Where more commands wait than a worker may be given.
    pub fn apply(&mut self, operations: Vec<Operation>) {
        // Nobody waits for the answer: the next turn of the world comes before anything else.
        let (done, _) = sync_channel(1);
        self.command(Command::Apply { operations: operations.into(), done });
    }

    /// Sends a datagram that is not WireGuard.
    ///
    /// # Panics
    /// As [`Self::apply`].
    pub fn send_datagram(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.command(Command::SendDatagram { to, datagram: datagram.to_vec() });
    }

    fn command(&mut self, command: Command) {
        assert!(self.commands.try_send(command).is_ok(), "too many commands before a turn");
        self.touched = true;
    }

    /// Its TUN queue.
    pub fn tun(&mut self) -> &mut Tun {
        self.worker.ports_mut().0
    }

    /// Its UDP socket.
    pub fn link(&mut self) -> &mut Link {
        self.worker.ports_mut().1
    }

    /// Its stack sends a packet.
    pub fn inject(&mut self, packet: &[u8]) {
        self.tun().inject(packet, UnitMeta::default());
    }

    /// Everything that was delivered to its stack, unit by unit.
    pub fn delivered(&mut self) -> Vec<(Vec<u8>, UnitMeta)> {
        let mut units = Vec::new();
        while let Some((meta, unit)) = self.tun().take() {
            units.push((unit.to_vec(), meta));
        }
        units
    }

    /// Everything that was delivered to its stack, packet by packet.
    pub fn received(&mut self) -> Vec<Vec<u8>> {
        self.delivered().iter().flat_map(|(unit, meta)| super::packet::cut(unit, meta)).collect()
    }

    /// What its worker told control.
    pub fn events(&mut self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Packets it dropped for `reason`.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.stats.drops.packets(reason)
    }

    /// Every reason for which it dropped packets, and how many.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = |&reason: &DropReason| (reason, self.dropped(reason));
        DropReason::ALL.iter().map(counted).filter(|(_, packets)| *packets > 0).collect()
    }

    /// When its worker wants to be turned though nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Tick> {
        self.deadline
    }

    /// Why its worker stopped, if it did.
    #[must_use]
    pub fn closed(&self) -> Option<i32> {
        self.closed
    }

    fn wants_turn(&self, now: Tick) -> bool {
        let (tun, link) = self.worker.ports();
        let due = self.deadline.is_some_and(|deadline| deadline <= now);
        self.closed.is_none() && (self.touched || due || tun.readable() || link.readable())
    }
}
