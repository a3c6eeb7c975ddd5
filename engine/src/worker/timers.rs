//! What happens without a packet: handshake retries, rekeying, keepalives, the end of keys.
//!
//! A peer is in the queue while it has keys, a handshake under way, or a persistent keepalive; a peer without any of
//! these costs nothing. The queue is a heap of (moment, peer); an entry counts only while the peer's `due` says the same,
//! so an earlier date is set by adding an entry and never by searching one.

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

/// After so long without traffic no timer of the protocol runs out within seconds (the longest that follows a packet is
/// keepalive plus rekey timeout, 15 s), so the pulse slows down.
const QUIET_AFTER: Duration = Duration::from_secs(30);

/// Pulse of a quiet peer: how late it may forget its keys.
const QUIET_PULSE: Duration = Duration::from_secs(5);

/// After so long without traffic all keys have ended, whatever the library says (paper, section 6.1,
/// `REJECT_AFTER_TIME` of 180 s).
const KEYLESS_AFTER: Duration = Duration::from_secs(190);

/// So long after the last authentic datagram all that a handshake left is forgotten (paper, section 6.3: three times
/// `REJECT_AFTER_TIME`).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(550);

/// How long retired sessions go on receiving once there are new ones: what the peer sent before it heard of those is still
/// under way. A peer that has not heard of them after this time asks again (paper, section 6.1, `REKEY_TIMEOUT`).
const RETIRED_GRACE: Duration = Duration::from_secs(5);

/// Timer runs per turn: the rest waits for the next turn, so that packets are not kept waiting.
const RUNS_PER_TURN: usize = 64;

/// The queue.
pub struct Timers(BinaryHeap<Reverse<(Tick, PeerRef)>>);

impl Timers {
    /// An empty queue.
    pub fn new() -> Self {
        Self(BinaryHeap::new())
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
            let pulse = self.pulse(id);
            self.plan(id, pulse);
        }
    }

    /// Brings the timers of a peer up to date before it is used, and sees to it that they go on.
    pub(super) fn touch(&mut self, id: PeerRef) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        self.timers.no_later(peer, now + N::PULSE);
        if now.since(peer.pulsed) >= N::PULSE {
            self.pulse(id);
        }
    }

    /// Puts a peer in the queue for this turn.
    pub(super) fn wake(&mut self, id: PeerRef) {
        if let Some(peer) = self.peers.peer_mut(id) {
            self.timers.no_later(peer, self.now);
        }
    }

    fn pulse(&mut self, id: PeerRef) -> Pulse {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return Pulse::Dormant };
        peer.pulsed = now;
        let due =
            peer.keepalive.is_some_and(|every| now.since(peer.traversed) >= every || peer.traversed == Tick::default());
        if due && peer.endpoint.is_some() && peer.sessions.is_none() {
            self.prepare(id);
        }
        let Some(peer) = self.peers.peer_mut(id) else { return Pulse::Dormant };
        let Some(sessions) = &mut peer.sessions else { return Pulse::Dormant };
        let Some(endpoint) = peer.endpoint else {
            // There is nothing to send, but its clock has to be right when a handshake comes: the keys of that are
            // counted from the last pulse on.
            sessions.noise.pulse(&mut Nowhere::default());
            return Pulse::Dormant;
        };
        let mut departure = Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, id.0, endpoint);
        let pulse = sessions.noise.pulse(&mut departure);
        if due && departure.sent.datagrams == 0 {
            sessions.noise.keepalive(&mut departure);
            // Also where a handshake is under way already: its retries are the keepalives then.
            peer.traversed = now;
        }
        if let Some(retired) = &mut peer.retired {
            // They end in their own time; what else they would say is for the new ones to say.
            retired.sessions.noise.pulse(&mut Nowhere::default());
            // What is sealed with them makes nobody ask for new ones, and a handshake of ours may have ended in an answer
            // to the peer's that never arrived.
            if std::mem::take(&mut retired.used) && !sessions.noise.ready() {
                sessions.noise.initiate(&mut departure);
            }
        }
        let sent = departure.sent;
        if sent.datagrams > 0 {
            peer.traversed = now;
            bump(&peer.stats.tx_bytes, sent.bytes);
        }
        if peer.retired.as_ref().is_some_and(|retired| retired.until <= now || !retired.sessions.noise.ready()) {
            self.peers.drop_retired(id);
        }
        if pulse == Pulse::Abandoned {
            self.abandoned(id);
        }
        // What was sent may be a handshake that a keepalive began, and that has to be retried.
        let waits = sent.datagrams > 0 || self.peers.peer_mut(id).is_some_and(|peer| peer.retired.is_some());
        if waits && matches!(pulse, Pulse::Dormant | Pulse::Abandoned) { Pulse::Asking } else { pulse }
    }

    fn abandoned(&mut self, id: PeerRef) {
        if let Some(key) = self.peers.peer_mut(id).map(|peer| peer.key) {
            self.tell(Event::HandshakeAbandoned { peer: key });
        }
    }

    /// Sets the next date of a peer that has just been looked at.
    fn plan(&mut self, id: PeerRef, pulse: Pulse) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let pulsing = match pulse {
            Pulse::Asking => Some(now + N::PULSE),
            Pulse::Keyed if now.since(peer.traversed) < QUIET_AFTER => Some(now + N::PULSE),
            Pulse::Keyed if now.since(peer.traversed) < KEYLESS_AFTER => Some(now + QUIET_PULSE),
            // One more look, when the last that a handshake left is to be forgotten.
            Pulse::Keyed | Pulse::Abandoned | Pulse::Dormant => {
                let forgotten = peer.traversed + FORGOTTEN_AFTER;
                (peer.sessions.is_some() && peer.traversed != Tick::default() && now < forgotten).then_some(forgotten)
            }
        };
        let keepalive = peer.keepalive.filter(|_| peer.endpoint.is_some() && self.identity.is_some());
        let keepalive = keepalive.map(|every| (peer.traversed + every).max(now + N::PULSE));
        if let Some(at) = [pulsing, keepalive].into_iter().flatten().min() {
            self.timers.no_later(peer, at);
        }
    }

    /// Notes a completed handshake.
    pub(super) fn completed(&mut self, id: PeerRef) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        peer.stats.handshake_tick.store(now.0.saturating_add(1), Ordering::Relaxed);
        let key = peer.key;
        if let Some(retired) = &mut peer.retired {
            retired.until = retired.until.min(now + RETIRED_GRACE);
        }
        self.tell(Event::HandshakeCompleted { peer: key });
    }
}
