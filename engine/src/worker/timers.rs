//! What happens without a packet: handshake retries, rekeying, keepalives, the end of keys.
//!
//! A peer is in the queue while its sessions or a persistent keepalive have a date; a peer without any costs nothing. The
//! queue is a heap of (moment, peer); an entry counts only while the peer's `due` says the same, so an earlier date is set
//! by adding an entry and never by searching one. A date that has become later is found out when it comes.

use super::Core;
use super::departure::{Departure, Nowhere};
use crate::event::Event;
use crate::peer::noise::{Noise, Pulse};
use crate::peer::{Peer, PeerRef};
use crate::port::{Link, Tun};
use crate::stats::bump;
use crate::tick::Tick;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A persistent keepalive that could not be sent is tried again after this.
const AGAIN: Duration = Duration::from_millis(250);

/// Room for the dates of this many peers to begin with, so that the queue rarely grows under traffic.
const QUEUE_CAPACITY: usize = 256;

/// Timer runs per turn: the rest waits for the next turn, so that packets are not kept waiting. An initiation takes 150 µs.
const RUNS_PER_TURN: usize = 16;

/// The queue.
pub struct Timers(BinaryHeap<Reverse<(Tick, PeerRef)>>);

impl Timers {
    /// An empty queue.
    pub fn new() -> Self {
        Self(BinaryHeap::with_capacity(QUEUE_CAPACITY))
    }

    /// When the first entry is due.
    pub fn next(&self) -> Option<Tick> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    /// Sees to it that the peer is looked at no later than `at`.
    pub fn no_later<N>(&mut self, peer: &mut Peer<N>, at: Tick) {
        if peer.due.is_none_or(|due| at < due) {
            peer.due = Some(at);
            self.0.push(Reverse((at, peer.id)));
        }
    }

    fn pop_due(&mut self, now: Tick) -> Option<(Tick, PeerRef)> {
        self.0.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.0.pop().map(|Reverse(entry)| entry)
    }
}

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// Runs what is due.
    pub(super) fn run_timers(&mut self) {
        for _ in 0..RUNS_PER_TURN {
            let Some((at, id)) = self.timers.pop_due(self.now) else { return };
            let Some(peer) = self.peers.peer_mut(id).filter(|peer| peer.due == Some(at)) else { continue };
            peer.due = None;
            self.pulse(id);
            self.plan(id);
        }
    }

    /// Sees to it that what the sessions of a peer want to do next is done in time.
    pub(super) fn arm(&mut self, id: PeerRef) {
        let Some(peer) = self.peers.peer_mut(id) else { return };
        if let Some(at) = peer.sessions.as_ref().and_then(|sessions| sessions.noise.due()) {
            self.timers.no_later(peer, at);
        }
    }

    /// Puts a peer in the queue for this turn.
    pub(super) fn wake(&mut self, id: PeerRef) {
        if let Some(peer) = self.peers.peer_mut(id) {
            self.timers.no_later(peer, self.now);
        }
    }

    fn pulse(&mut self, id: PeerRef) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let due =
            peer.keepalive.is_some_and(|every| now.since(peer.traversed) >= every || peer.traversed == Tick::default());
        if due && peer.endpoint.is_some() && peer.sessions.is_none() {
            self.prepare(id);
        }
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let Some(sessions) = &mut peer.sessions else { return };
        let Some(endpoint) = peer.endpoint else {
            // There is nowhere to send anything, but keys end all the same.
            sessions.noise.pulse(now, &mut Nowhere::default());
            return;
        };
        let mut departure = Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, id.0, endpoint);
        let pulse = sessions.noise.pulse(now, &mut departure);
        if due && departure.sent.datagrams == 0 {
            sessions.noise.keepalive(now, &mut departure);
            // Also where a handshake is under way already: its retries are the keepalives then.
            peer.traversed = now;
        }
        let sent = departure.sent;
        if sent.datagrams > 0 {
            peer.traversed = now;
            bump(&peer.stats.tx_bytes, sent.bytes);
        }
        if pulse == Pulse::Abandoned {
            self.abandoned(id);
        }
    }

    fn abandoned(&mut self, id: PeerRef) {
        if let Some(key) = self.peers.peer_mut(id).map(|peer| peer.key) {
            self.tell(Event::HandshakeAbandoned { peer: key });
        }
    }

    /// Sets the next date of a peer that has just been looked at.
    fn plan(&mut self, id: PeerRef) {
        self.arm(id);
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let keepalive = peer.keepalive.filter(|_| peer.endpoint.is_some() && self.identity.is_some());
        if let Some(every) = keepalive {
            self.timers.no_later(peer, (peer.traversed + every).max(now + AGAIN));
        }
    }

    /// Notes a completed handshake.
    pub(super) fn completed(&mut self, id: PeerRef) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        peer.stats.handshake_tick.store(now.0.saturating_add(1), Ordering::Relaxed);
        let key = peer.key;
        self.tell(Event::HandshakeCompleted { peer: key });
    }
}
