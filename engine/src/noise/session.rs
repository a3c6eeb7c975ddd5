//! One session: two keys, the counter of what we send, the window of what we receive, and its age.

use super::aead::{Aead, TAG_BYTES};
use super::handshake::SessionKeys;
use super::replay::Replay;
use crate::drops::DropReason;
use crate::tick::Tick;
use crate::wire::message::{DATA_HEADER_BYTES, REJECT_AFTER_MESSAGES};
use std::time::Duration;

/// A session is renewed by its initiator after this time (paper, section 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session is dead after this time (paper, section 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// A session is renewed after so many messages (paper, section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// Keys in use.
pub struct Session<A> {
    sealing: A,
    opening: A,
    /// What the peer writes into messages to us.
    pub index: u32,
    /// What we write into messages to the peer.
    remote: u32,
    /// We began the handshake, so we renew it.
    pub initiator: bool,
    born: Tick,
    counter: u64,
    replay: Replay,
    /// Made with a preshared key that is no longer in force: to be renewed as soon as possible.
    pub outdated: bool,
}

impl<A: Aead> Session<A> {
    /// The session that a handshake led to.
    pub fn new(keys: &SessionKeys, index: u32, remote: u32, initiator: bool, now: Tick) -> Self {
        Self {
            sealing: A::new(&keys.sealing),
            opening: A::new(&keys.opening),
            index,
            remote,
            initiator,
            born: now,
            counter: 0,
            replay: Replay::new(),
            outdated: false,
        }
    }

    /// When it is dead.
    pub fn end(&self) -> Tick {
        self.born + REJECT_AFTER_TIME
    }

    /// Whether it is not dead.
    pub fn alive(&self, now: Tick) -> bool {
        now < self.end()
    }

    /// Whether something may be sealed.
    pub fn seals(&self, now: Tick) -> bool {
        self.alive(now) && self.counter < REJECT_AFTER_MESSAGES
    }

    /// Whether one who sends should ask for another.
    pub fn wants_renewal(&self, now: Tick) -> bool {
        self.outdated || self.counter >= REKEY_AFTER_MESSAGES || self.initiator && self.is_older(now, REKEY_AFTER_TIME)
    }

    /// Whether it was made so long ago.
    pub fn is_older(&self, now: Tick, age: Duration) -> bool {
        now.since(self.born) >= age
    }

    /// Writes a data message with `packet` into `message`, which is as long as that takes. False where all counters are
    /// used up.
    pub fn seal(&mut self, packet: &[u8], message: &mut [u8]) -> bool {
        if self.counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        let Some((header, sealed)) = message.split_first_chunk_mut::<DATA_HEADER_BYTES>() else { return false };
        *header = [0; DATA_HEADER_BYTES];
        header[0] = 4;
        header[4..8].copy_from_slice(&self.remote.to_le_bytes());
        header[8..].copy_from_slice(&self.counter.to_le_bytes());
        self.sealing.seal(self.counter, packet, sealed);
        self.counter += 1;
        true
    }

    /// Opens a data message of this session into `room`; the bytes of what was in it, padding included.
    ///
    /// # Errors
    /// Why it is to be dropped.
    pub fn open(&mut self, message: &[u8], room: &mut [u8]) -> Result<usize, DropReason> {
        let (header, sealed) = message.split_first_chunk::<DATA_HEADER_BYTES>().ok_or(DropReason::InboundMalformed)?;
        let counter = header.last_chunk().map_or(u64::MAX, |counter| u64::from_le_bytes(*counter));
        let bytes = sealed.len().checked_sub(TAG_BYTES).ok_or(DropReason::InboundMalformed)?;
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(DropReason::InboundUnauthentic);
        }
        // Asked before anything is spent on it; noted only after it has proven authentic.
        if !self.replay.accepts(counter) {
            return Err(DropReason::InboundReplayed);
        }
        if !self.opening.open(counter, sealed, room) {
            return Err(DropReason::InboundUnauthentic);
        }
        self.replay.note(counter);
        Ok(bytes)
    }

    /// As if so many messages had been sent.
    #[cfg(test)]
    pub fn set_counter(&mut self, counter: u64) {
        self.counter = counter;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::aead::Ring;

    fn pair() -> [Session<Ring>; 2] {
        let keys = |sealing, opening| SessionKeys { sealing: [sealing; 32], opening: [opening; 32] };
        [
            Session::new(&keys(1, 2), 0x100, 0x200, true, Tick(5)),
            Session::new(&keys(2, 1), 0x200, 0x100, false, Tick(5)),
        ]
    }

    fn message(from: &mut Session<Ring>, packet: &[u8]) -> Option<Vec<u8>> {
        let mut message = vec![0; packet.len() + 32];
        from.seal(packet, &mut message).then_some(message)
    }

    #[test]
    fn messages_look_as_the_paper_says() {
        let [mut a, mut b] = pair();
        for counter in 0..3 {
            let message = message(&mut a, b"packet").unwrap();
            assert_eq!(message[..8], [4, 0, 0, 0, 0, 2, 0, 0]);
            assert_eq!(message[8..16], [counter, 0, 0, 0, 0, 0, 0, 0]);
            let mut room = [0; 6];
            assert_eq!(b.open(&message, &mut room), Ok(6));
            assert_eq!(room, *b"packet");
            assert_eq!(b.open(&message, &mut room), Err(DropReason::InboundReplayed));
        }
        assert_eq!(b.open(&[4; 31], &mut [0; 99]), Err(DropReason::InboundMalformed));
        assert_eq!(b.open(&[4; 15], &mut [0; 99]), Err(DropReason::InboundMalformed));
    }

    #[test]
    fn a_forged_counter_does_not_move_the_window() {
        let [mut a, mut b] = pair();
        let first = message(&mut a, b"packet").unwrap();
        let mut forged = first.clone();
        forged[15] = 0x7f;
        assert_eq!(b.open(&forged, &mut [0; 6]), Err(DropReason::InboundUnauthentic));
        assert_eq!(b.open(&first, &mut [0; 6]), Ok(6));
    }

    #[test]
    fn counters_end() {
        let [mut a, mut b] = pair();
        assert!(!a.wants_renewal(Tick(5)));
        a.set_counter(REKEY_AFTER_MESSAGES);
        assert!(a.wants_renewal(Tick(5)) && a.seals(Tick(5)));
        a.set_counter(REJECT_AFTER_MESSAGES - 1);
        let last = message(&mut a, b"the last").unwrap();
        assert_eq!(b.open(&last, &mut [0; 8]), Ok(8));
        assert!(!a.seals(Tick(5)) && message(&mut a, b"too late").is_none());
        // Nor is one received, whoever sealed it.
        let mut late = last.clone();
        late[8..16].copy_from_slice(&REJECT_AFTER_MESSAGES.to_le_bytes());
        assert_eq!(b.open(&late, &mut [0; 8]), Err(DropReason::InboundUnauthentic));
        late[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(b.open(&late, &mut [0; 8]), Err(DropReason::InboundUnauthentic));
    }

    #[test]
    fn only_the_initiator_renews_for_age() {
        let [a, b] = pair();
        let at = |secs: u64| Tick(5) + Duration::from_secs(secs);
        assert!(!a.wants_renewal(at(119)) && a.wants_renewal(at(120)) && !b.wants_renewal(at(179)));
        assert!(a.seals(at(179)) && a.alive(at(179)) && !a.seals(at(180)) && !a.alive(at(180)));
    }
}
