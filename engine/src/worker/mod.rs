//! One worker: a TUN queue, a UDP socket, the peers it owns, and the loop that moves packets between them.
//!
//! [`Worker::turn`] does a bounded piece of everything, in this order, and says whether there was anything to do:
//!
//! ```text
//! commands ─► mail ─► inbound batch ─► handshakes ─► outbound batch ─► timers due ─► send
//! ```
//! Nothing on this path is shared with another thread but counters and the mailboxes, so nothing is locked; nothing is
//! allocated once the tables have grown to the number of peers. Commands and handshakes may allocate.
//!
//! A peer belongs to one worker: number modulo workers. Its session indices carry that worker in their low bits, by
//! which the kernel steers datagrams; what still lands elsewhere goes to the owner through [`handoff`].
//!
//! Whoever turns the worker passes the time and which ports are ready, and waits for readiness when [`Turn::Idle`] comes
//! back. A port that had nothing left is not asked again before it is ready: a lone packet costs one wait, one receive and
//! one send.

mod apply;
mod departure;
pub mod handoff;
mod handshakes;
mod inbound;
mod outbound;
mod timers;

use crate::command::Command;
use crate::drops::DropReason;
use crate::event::Event;
use crate::frame::{Inbox, Outbox, Outcome, TunBatch};
use crate::limits::PARCELS_PER_TURN;
use crate::noise::random::{Random, Seed};
use crate::noise::stamp::Stamps;
use crate::offload::coalesce::Coalescer;
use crate::peer::noise::Noise;
use crate::peer::{PeerRef, PeerTable};
use crate::port::{Link, Ready, Rest, Stall, Tun};
use crate::route::AllowedIps;
use crate::stats::{WorkerStats, bump};
use crate::tick::Tick;
use handoff::{Dispatch, Load, Mail};
use handshakes::Waiting;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;
use timers::Timers;

/// A path that refused a train gets single datagrams for this long; then it is tried again. Routes change in minutes.
const SINGLY_FOR: Duration = Duration::from_secs(60);

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There may be more to do: turn again at once, and ask both ports.
    Busy,
    /// Nothing to do before a port is ready, a command or a parcel comes, or this moment.
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
    /// Random numbers of the system, the same for all workers of the device.
    pub seed: Seed,
    /// The time of day and the stamps of handshakes, shared by all workers of the device.
    pub stamps: Arc<Stamps>,
    /// Commands from control.
    pub commands: Receiver<Command>,
    /// Events to control.
    pub events: SyncSender<Event>,
    /// To and from the other workers.
    pub mail: Mail,
    /// Counters for everyone.
    pub stats: Arc<WorkerStats>,
}

/// See the module.
pub struct Worker<N: Noise, T, L> {
    core: Core<N, T, L>,
    batch: TunBatch,
    inbox: Inbox,
}

/// All of a worker but the two buffers that are being read while it works.
struct Core<N: Noise, T, L> {
    tun: T,
    link: L,
    wiring: Wiring,
    identity: Option<N::Identity>,
    /// What identities draw from.
    random: Random,
    peers: PeerTable<N>,
    routes: AllowedIps<PeerRef>,
    timers: Timers,
    outbox: Outbox,
    coalescer: Coalescer,
    /// What this worker has for the others.
    dispatch: Dispatch,
    mtu: usize,
    now: Tick,
    refreshed: Tick,
    /// Handshake messages to be answered.
    waiting: Waiting,
}

impl<N: Noise, T: Tun, L: Link> Worker<N, T, L> {
    /// A worker without identity or peers, with all its packet memory.
    pub fn new(mut tun: T, link: L, wiring: Wiring) -> Self {
        let mtu = usize::from(tun.mtu());
        let mut random = wiring.seed.random("worker", wiring.worker);
        let core = Core {
            tun,
            link,
            identity: None,
            peers: PeerTable::new(wiring.worker, wiring.workers, random.fork()),
            random,
            routes: AllowedIps::new(),
            timers: Timers::new(),
            outbox: Outbox::new(),
            coalescer: Coalescer::new(),
            dispatch: Dispatch::new(wiring.mail.clone(), wiring.workers),
            wiring,
            mtu,
            now: Tick::default(),
            refreshed: Tick::default(),
            waiting: Waiting::new(),
        };
        Self { core, batch: TunBatch::new(), inbox: Inbox::new() }
    }

    /// Does a bounded piece of work with the ports that are `ready`. `now` never goes back.
    pub fn turn(&mut self, now: Tick, ready: Ready) -> Turn {
        let core = &mut self.core;
        core.now = now;
        let mut busy = core.apply_commands();
        core.refresh();
        busy |= core.take_mail();
        if ready.link {
            match core.link.recv(&mut self.inbox) {
                Ok(rest) => {
                    busy |= rest == Rest::Perhaps;
                    core.inbound(&mut self.inbox);
                }
                Err(Stall::Closed(errno)) => return core.close(errno),
                Err(Stall::Empty) => {}
            }
        }
        busy |= core.answer_waiting();
        if ready.tun {
            match core.tun.recv(&mut self.batch) {
                Ok(rest) => {
                    busy |= rest == Rest::Perhaps;
                    core.outbound(&mut self.batch);
                }
                Err(Stall::Closed(errno)) => return core.close(errno),
                Err(Stall::Empty) => {}
            }
        }
        core.run_timers();
        core.send();
        core.dispatch.post_all();
        if busy { Turn::Busy } else { Turn::Idle(core.timers.next()) }
    }

    /// Passes on the numbers of the workers that have been sent something since the last call: they may be waiting.
    pub fn wake_others(&mut self, wake: impl FnMut(u32)) {
        self.core.dispatch.wake_others(wake);
    }

    /// Whether a parcel of another worker waits.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.core.wiring.mail.waits(self.core.wiring.worker)
    }

    /// The ports, for the thread that waits on them.
    pub fn ports(&self) -> (&T, &L) {
        (&self.core.tun, &self.core.link)
    }

    /// The ports, to be changed between two turns.
    pub fn ports_mut(&mut self) -> (&mut T, &mut L) {
        (&mut self.core.tun, &mut self.core.link)
    }
}

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// What is asked about once a second.
    fn refresh(&mut self) {
        if self.now.since(self.refreshed) < Duration::from_secs(1) && self.refreshed != Tick::default() {
            return;
        }
        self.refreshed = self.now;
        self.mtu = usize::from(self.tun.mtu());
    }

    /// Goes on with what other workers were given. True where there was something.
    fn take_mail(&mut self) -> bool {
        let me = self.wiring.worker;
        for done in 0..PARCELS_PER_TURN {
            let Some(mut parcel) = self.wiring.mail.take(me) else { return done > 0 };
            for index in 0..parcel.len() {
                let (load, len, bytes) = parcel.item(index);
                match load {
                    Load::Unit(meta) => self.outbound_unit(&meta, len, bytes),
                    Load::Train { received, screened } => self.handle_train(&received, screened, &bytes[..len]),
                }
            }
            self.deliver_lanes();
            self.wiring.mail.give_back(me, parcel);
        }
        true
    }

    /// Sees to it that the peer has sessions, if the device has an identity.
    fn prepare(&mut self, id: PeerRef) {
        if let Some(identity) = &mut self.identity {
            self.peers.prepare(id, identity);
        }
    }

    /// Hands a load to the worker that owns it.
    fn hand_over(&mut self, to: u32, load: Load, bytes: &[u8], packets: u64) {
        if self.dispatch.hand_over(to, load, bytes) {
            bump(&self.wiring.stats.handed_over, packets);
        } else {
            let reason = match load {
                Load::Unit(_) => DropReason::OutboundHandoffOverflow,
                Load::Train { .. } => DropReason::InboundHandoffOverflow,
            };
            self.drop_packets(reason, packets);
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
        if self.wiring.events.try_send(event).is_err() {
            bump(&self.wiring.stats.events_lost, 1);
        }
    }

    fn drop_packets(&self, reason: DropReason, packets: u64) {
        self.wiring.stats.drops.add(reason, packets);
    }
}
