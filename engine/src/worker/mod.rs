//! One worker: a TUN queue, a UDP socket, the peers it owns, and the loop that moves packets between them.
//!
//! [`Worker::turn`] does a bounded piece of everything, in this order, and says whether there was anything to do:
//!
//! ```text
//! commands ─► inbound batch ─► outbound batch ─► timers due ─► send ─► counters
//! ```
//! Nothing on this path is shared with another thread but the counters, so nothing is locked; nothing is allocated once
//! the tables have grown to the number of peers. Commands and handshakes may allocate.
//!
//! Whoever turns the worker passes the time and waits for readiness when [`Turn::Idle`] comes back.

mod apply;
mod departure;
mod inbound;
mod outbound;
mod timers;

use crate::command::Command;
use crate::drops::DropReason;
use crate::event::Event;
use crate::frame::{Inbox, Outbox, Outcome, TunBatch};
use crate::limits::HANDSHAKES_PER_TURN;
use crate::offload::coalesce::Coalescer;
use crate::peer::noise::Noise;
use crate::peer::{PeerRef, PeerTable};
use crate::port::{Link, Stall, Tun};
use crate::route::AllowedIps;
use crate::stats::{WorkerStats, bump};
use crate::tick::Tick;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;
use timers::Timers;

/// A path that refused a train gets single datagrams for this long; then it is tried again. Routes change in minutes.
const SINGLY_FOR: Duration = Duration::from_secs(60);

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something moved: turn again at once.
    Busy,
    /// Nothing to do before a port is ready, a command comes, or this moment.
    Idle(Option<Tick>),
    /// A port is gone; the worker has nothing left to do. The `errno`, or 0.
    Closed(i32),
}

/// How a worker is connected to the rest.
pub struct Wiring {
    /// Number of this worker.
    pub worker: u32,
    /// Workers of the device.
    pub workers: u32,
    /// Makes session indices hard to guess: from the system's random numbers.
    pub seed: u64,
    /// Commands from control.
    pub commands: Receiver<Command>,
    /// Events to control.
    pub events: SyncSender<Event>,
    /// Counters for everyone.
    pub stats: Arc<WorkerStats>,
}

/// See the module.
pub struct Worker<N: Noise, T, L> {
    tun: T,
    link: L,
    wiring: Wiring,
    identity: Option<N::Identity>,
    peers: PeerTable<N>,
    routes: AllowedIps<PeerRef>,
    timers: Timers,
    batch: TunBatch,
    inbox: Inbox,
    outbox: Outbox,
    coalescer: Coalescer,
    mtu: usize,
    now: Tick,
    refreshed: Tick,
    handshakes_left: usize,
}

impl<N: Noise, T: Tun, L: Link> Worker<N, T, L> {
    /// A worker without identity or peers, with all its packet memory.
    pub fn new(mut tun: T, link: L, wiring: Wiring) -> Self {
        let mtu = usize::from(tun.mtu());
        Self {
            tun,
            link,
            identity: None,
            peers: PeerTable::new(wiring.worker, wiring.workers, wiring.seed),
            wiring,
            routes: AllowedIps::new(),
            timers: Timers::new(),
            batch: TunBatch::new(),
            inbox: Inbox::new(),
            outbox: Outbox::new(),
            coalescer: Coalescer::new(),
            mtu,
            now: Tick::default(),
            refreshed: Tick::default(),
            handshakes_left: 0,
        }
    }

    /// Does a bounded piece of work. `now` never goes back.
    pub fn turn(&mut self, now: Tick) -> Turn {
        self.now = now;
        self.handshakes_left = HANDSHAKES_PER_TURN;
        let mut busy = self.apply_commands();
        self.refresh();
        match self.link.recv(&mut self.inbox) {
            Ok(()) => {
                busy = true;
                self.inbound();
            }
            Err(Stall::Closed(errno)) => return self.close(errno),
            Err(Stall::Empty) => {}
        }
        match self.tun.recv(&mut self.batch) {
            Ok(()) => {
                busy = true;
                self.outbound();
            }
            Err(Stall::Closed(errno)) => return self.close(errno),
            Err(Stall::Empty) => {}
        }
        self.run_timers();
        self.send();
        if busy { Turn::Busy } else { Turn::Idle(self.timers.next()) }
    }

    /// The ports, for the thread that waits on them.
    pub fn ports(&self) -> (&T, &L) {
        (&self.tun, &self.link)
    }

    /// The ports, to be changed between two turns.
    pub fn ports_mut(&mut self) -> (&mut T, &mut L) {
        (&mut self.tun, &mut self.link)
    }

    /// What is asked about once a second.
    fn refresh(&mut self) {
        if self.now.since(self.refreshed) < Duration::from_secs(1) && self.refreshed != Tick::default() {
            return;
        }
        self.refreshed = self.now;
        self.mtu = usize::from(self.tun.mtu());
        if let Some(identity) = &self.identity {
            N::refresh(identity);
        }
    }

    /// Sends what is in the outbox and draws the conclusions.
    fn send(&mut self) {
        departure::flush(&mut self.outbox, &mut self.link, &self.wiring.stats);
        while let Some((owner, outcome)) = self.outbox.take_remark() {
            let Some(peer) = self.peers.peer_mut(PeerRef(owner)) else { continue };
            match outcome {
                Outcome::SentSingly => peer.singly_until = self.now + SINGLY_FOR,
                Outcome::SentUnsourced => {
                    if let Some(endpoint) = &mut peer.endpoint {
                        endpoint.source = None;
                    }
                }
                Outcome::Pending | Outcome::Sent | Outcome::Overflow | Outcome::Refused(_) => {}
            }
        }
    }

    fn close(&mut self, errno: i32) -> Turn {
        self.tell(Event::PortClosed { errno });
        Turn::Closed(errno)
    }

    fn tell(&self, event: Event) {
        tell(&self.wiring, event);
    }

    fn drop_packets(&self, reason: DropReason, packets: u64) {
        self.wiring.stats.drops.add(reason, packets);
    }
}

fn tell(wiring: &Wiring, event: Event) {
    if wiring.events.try_send(event).is_err() {
        bump(&wiring.stats.events_lost, 1);
    }
}
