//! Handshake messages: screened where they arrive, answered a few a turn.
//!
//! ```text
//! initiation ─► screen ─► queue ─► whose? ─► this worker's: answered
//! response ── asked for ─► MAC ─┘        └─► another's: its queue
//! cookie ─► its peer, at once
//! ```
//! An answer takes 240 µs, so only a few are made before packets are looked at again. What comes faster waits: after an
//! outage, when all peers call or are called at once, a lost message is one that is sent again only five seconds later. The
//! budget of strangers bounds what is let in, and the queue what waits.

use super::Core;
use super::departure::{Departure, NOBODY};
use super::handoff::Load;
use super::inbound::part;
use crate::drops::DropReason;
use crate::frame::{Endpoint, Received};
use crate::limits::{HANDSHAKES_PER_TURN, HANDSHAKES_WAITING_MAX};
use crate::peer::PeerRef;
use crate::peer::noise::{Departure as _, Handshake, Noise, SessionBase};
use crate::port::{Link, Tun};
use crate::stats::bump;
use crate::wire::message::{COOKIE_BYTES, INITIATION_BYTES, Message};
use std::collections::VecDeque;

/// Messages that have passed the screen, oldest first.
pub(super) struct Waiting(VecDeque<Screened>);

/// One of them. A response is shorter than an initiation.
struct Screened {
    received: Received,
    message: [u8; INITIATION_BYTES],
    len: usize,
}

impl Waiting {
    /// None yet, with all its memory.
    pub(super) fn new() -> Self {
        Self(VecDeque::with_capacity(HANDSHAKES_WAITING_MAX))
    }

    fn is_full(&self) -> bool {
        self.0.len() == HANDSHAKES_WAITING_MAX
    }

    /// Adds a message. False where there is no room for it.
    fn push(&mut self, received: &Received, message: &[u8]) -> bool {
        if self.is_full() || message.len() > INITIATION_BYTES {
            return false;
        }
        let mut screened =
            Screened { received: part(received, message), message: [0; INITIATION_BYTES], len: message.len() };
        screened.message[..message.len()].copy_from_slice(message);
        self.0.push_back(screened);
        true
    }
}

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// Takes an initiation from the network, or one that another worker has `screened`.
    pub(super) fn take_initiation(&mut self, received: &Received, screened: bool, message: &[u8]) {
        if screened || self.screen(received, message, None) {
            self.put_by(received, message);
        }
    }

    /// Takes a response, likewise.
    pub(super) fn take_response(&mut self, received: &Received, screened: bool, message: &[u8], receiver: u32) {
        if !screened && !self.screen(received, message, Some(receiver)) {
            return;
        }
        // Whoever has asked for it has the queue for it.
        if self.local(SessionBase::of_index(receiver), received, true, message).is_some() {
            self.put_by(received, message);
        }
    }

    /// Takes a cookie. It is opened at once: that costs little, and none is looked at that was not asked for.
    pub(super) fn take_cookie(&mut self, received: &Received, message: &[u8], receiver: u32) {
        if let Some(id) = self.local(SessionBase::of_index(receiver), received, true, message) {
            self.handle_handshake(id, received, message);
        }
    }

    fn put_by(&mut self, received: &Received, message: &[u8]) {
        if !self.waiting.push(received, message) {
            self.drop_packets(DropReason::InboundHandshakeOverload, 1);
        }
    }

    /// Answers some of those that wait. True where there are more.
    pub(super) fn answer_waiting(&mut self) -> bool {
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some(Screened { received, message, len }) = self.waiting.0.pop_front() else { return false };
            let message = &message[..len];
            match Message::classify(message) {
                Message::Response { receiver } => {
                    if let Some(id) = self.local(SessionBase::of_index(receiver), &received, true, message) {
                        self.handle_handshake(id, &received, message);
                    }
                }
                _ => self.handle_initiation(&received, message),
            }
        }
        !self.waiting.0.is_empty()
    }

    /// Checks a message before anything is spent on it; a response is for our index `asked`. True where it may go on.
    fn screen(&mut self, received: &Received, message: &[u8], asked: Option<u32>) -> bool {
        let Some(identity) = &mut self.identity else {
            self.drop_packets(DropReason::InboundUnknownPeer, 1);
            return false;
        };
        if self.waiting.is_full() {
            self.drop_packets(DropReason::InboundHandshakeOverload, 1);
            return false;
        }
        let asker = asked.and_then(|index| self.peers.of_base(SessionBase::of_index(index)));
        let sessions = asker.and_then(|id| self.peers.peer_mut(id)?.sessions.as_mut());
        let pass = sessions.zip(asked).and_then(|(sessions, index)| sessions.noise.pass(index));
        let mut cookie = [0; COOKIE_BYTES];
        match N::screen(identity, self.now, received.from, message, pass, &mut cookie) {
            Ok(0) => true,
            Ok(bytes) => {
                let endpoint = Endpoint { to: received.from, source: received.source };
                let mut departure =
                    Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, NOBODY, endpoint);
                departure.slot(bytes)[..bytes].copy_from_slice(&cookie[..bytes]);
                departure.push(bytes);
                self.drop_packets(DropReason::InboundHandshakeOverload, 1);
                false
            }
            Err(reason) => {
                self.drop_packets(reason, 1);
                false
            }
        }
    }

    fn handle_initiation(&mut self, received: &Received, message: &[u8]) {
        let initiator = self.identity.as_ref().and_then(|identity| N::initiator(identity, message));
        let Some(id) = initiator.and_then(|key| self.peers.of_key(&key)) else {
            return self.drop_packets(DropReason::InboundUnknownPeer, 1);
        };
        let owner = self.peers.owner(id);
        if owner == self.wiring.worker {
            self.prepare(id);
            self.handle_handshake(id, received, message);
        } else {
            self.hand_over(owner, Load::Train { received: *received, screened: true }, message, 1);
        }
    }

    fn handle_handshake(&mut self, id: PeerRef, received: &Received, message: &[u8]) {
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let Some(sessions) = &mut peer.sessions else { return };
        let mut departure = Departure::new(
            &mut self.outbox,
            &mut self.link,
            &self.wiring.stats,
            id.0,
            Endpoint { to: received.from, source: received.source },
        );
        match sessions.noise.handshake(now, message, &mut departure) {
            Err(reason) => self.drop_packets(reason, 1),
            Ok(outcome) => {
                bump(&peer.stats.rx_bytes, message.len() as u64);
                bump(&peer.stats.tx_bytes, departure.sent.bytes);
                peer.traversed = now;
                // A cookie reply proves nothing about the peer.
                if !matches!(Message::classify(message), Message::Cookie { .. }) {
                    self.heard_from(id, received);
                }
                if outcome == Handshake::Completed {
                    self.completed(id);
                }
            }
        }
        self.arm(id);
    }
}
