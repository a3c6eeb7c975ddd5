//! The sessions of one peer in their order: which one seals, which ones open, which one waits to be confirmed.
//!
//! ```text
//!                          response to our initiation
//!                   ┌───────────────────────────────────────────┐
//! handshake ──► next ──first packet from the peer──► current ──► past (3) ──180 s──► gone
//!           we answered                              seals       opens what is still under way
//! ```
//! Who answers does not know whether the answer arrived, so it seals with the new keys only after a packet was sealed with
//! them by the peer (paper, section 6.3). Where both began at once, each seals with the keys of its own handshake and opens
//! both.

use super::aead::Aead;
use super::session::Session;
use crate::tick::Tick;

/// Sessions kept to receive. Where both ends begin at once there are two new ones each time, and what is under way is sealed
/// with the keys of either of the last pair.
const PAST: usize = 3;

/// See the module.
pub struct Keyring<A> {
    current: Option<Box<Session<A>>>,
    next: Option<Box<Session<A>>>,
    past: [Option<Box<Session<A>>>; PAST],
}

impl<A: Aead> Keyring<A> {
    /// No sessions.
    pub fn new() -> Self {
        Self { current: None, next: None, past: [const { None }; PAST] }
    }

    fn slots(&mut self) -> impl Iterator<Item = &mut Option<Box<Session<A>>>> {
        [&mut self.current, &mut self.next].into_iter().chain(&mut self.past)
    }

    /// All sessions.
    pub fn sessions(&mut self) -> impl Iterator<Item = &mut Session<A>> {
        self.slots().flatten().map(|session| &mut **session)
    }

    /// The session that opens messages of this index.
    pub fn opening(&mut self, now: Tick, index: u32) -> Option<&mut Session<A>> {
        self.sessions().find(|session| session.index == index && session.alive(now))
    }

    /// The session that seals, dead or alive.
    pub fn current(&self) -> Option<&Session<A>> {
        self.current.as_deref()
    }

    /// The session that seals, if it still does.
    pub fn sealing(&mut self, now: Tick) -> Option<&mut Session<A>> {
        self.current.as_deref_mut().filter(|session| session.seals(now))
    }

    /// Takes the session of a handshake that we answered.
    pub fn answered(&mut self, session: Session<A>) {
        self.next = Some(Box::new(session));
    }

    /// Takes the session of a handshake that we began and that was answered.
    pub fn ended(&mut self, session: Session<A>) {
        let current = self.current.replace(Box::new(session));
        self.pass(current);
        // The peer began one at the same time and may have had our answer: it seals with those keys then.
        let next = self.next.take();
        self.pass(next);
    }

    /// The peer sealed with the session of this index. The session, where that makes it the one that seals.
    pub fn confirm(&mut self, index: u32) -> Option<&Session<A>> {
        let next = self.next.take_if(|next| next.index == index)?;
        let current = self.current.replace(next);
        self.pass(current);
        self.current.as_deref()
    }

    fn pass(&mut self, session: Option<Box<Session<A>>>) {
        if session.is_some() {
            self.past.rotate_right(1);
            self.past[0] = session;
        }
    }

    /// Wipes the keys that are dead.
    pub fn bury(&mut self, now: Tick) {
        for session in self.slots() {
            session.take_if(|session| !session.alive(now));
        }
    }

    /// When the first of them dies.
    pub fn end(&self) -> Option<Tick> {
        [&self.current, &self.next].into_iter().chain(&self.past).flatten().map(|session| session.end()).min()
    }
}
