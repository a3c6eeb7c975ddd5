//! The dates of one peer (paper, section 6): when to ask, to ask again, to give up, to answer silence.
//!
//! Dates only; what happens at each is the core's. The lives of sessions are theirs.

use crate::tick::Tick;
use std::time::Duration;

/// Between two initiations (paper, section 6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Initiations are repeated no longer than this (paper, section 6.1).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// A packet that is not answered within this time is answered with an empty one (paper, section 6.1).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Two peers that began at once do not go on doing so: up to this is added to [`REKEY_TIMEOUT`].
const JITTER: Duration = Duration::from_millis(250);

/// Silence in answer to packets is noticed after this (paper, section 6.5).
const SILENCE: Duration = Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());

/// A handshake we want.
#[derive(Clone, Copy, Debug)]
struct Asking {
    since: Tick,
    next: Tick,
}

/// See the module.
#[derive(Default)]
pub struct Timers {
    asking: Option<Asking>,
    /// When an initiation was last sent that nothing came of yet.
    asked: Option<Tick>,
    /// Packets are to be answered with silence no longer than this.
    keepalive: Option<Tick>,
    /// Silence is no answer any more from then on.
    silence: Option<Tick>,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Send an initiation.
    Ask,
    /// Forget the handshake and what waits for it.
    GiveUp,
    /// Send an empty packet.
    Keepalive,
}

impl Timers {
    /// A handshake is wanted. True where an initiation is to be sent now, or when [`Self::take`] says so: not where one is
    /// under way already, or less than [`REKEY_TIMEOUT`] ago.
    pub fn ask(&mut self, now: Tick) -> bool {
        if self.asking.is_some() {
            return false;
        }
        let next = self.asked.map_or(now, |asked| now.max(asked + REKEY_TIMEOUT));
        self.asking = Some(Asking { since: now, next });
        next == now
    }

    /// An initiation was sent; `random` spreads the next.
    pub fn asked(&mut self, now: Tick, random: u64) {
        let jitter = Duration::from_nanos(random % u64::try_from(JITTER.as_nanos()).unwrap_or(1));
        self.asked = Some(now);
        if let Some(asking) = &mut self.asking {
            asking.next = now + REKEY_TIMEOUT + jitter;
        }
        self.sent();
    }

    /// What was asked for came, or is of no use any more: the next may be asked for at once.
    pub fn settled(&mut self) {
        self.asking = None;
        self.asked = None;
    }

    /// An authenticated message was sent.
    pub fn sent(&mut self) {
        self.keepalive = None;
    }

    /// A packet was sent.
    pub fn sent_packet(&mut self, now: Tick) {
        self.sent();
        self.silence.get_or_insert(now + SILENCE);
    }

    /// An authentic message was received.
    pub fn received(&mut self) {
        self.silence = None;
    }

    /// A packet was received.
    pub fn received_packet(&mut self, now: Tick) {
        self.keepalive.get_or_insert(now + KEEPALIVE_TIMEOUT);
    }

    /// The next thing that is due, which then no longer is.
    pub fn take(&mut self, now: Tick) -> Option<Due> {
        if let Some(asking) = self.asking {
            if now >= asking.since + REKEY_ATTEMPT_TIME {
                self.asking = None;
                self.keepalive = None;
                return Some(Due::GiveUp);
            }
            if now >= asking.next {
                // Until it has been sent; then there is a new date.
                self.asking = Some(Asking { next: now + REKEY_TIMEOUT, ..asking });
                return Some(Due::Ask);
            }
        }
        if self.silence.is_some_and(|at| now >= at) {
            self.silence = None;
            if self.ask(now) {
                return Some(Due::Ask);
            }
        }
        if self.keepalive.is_some_and(|at| now >= at) {
            self.keepalive = None;
            return Some(Due::Keepalive);
        }
        None
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Tick> {
        let asking = self.asking.map(|asking| asking.next.min(asking.since + REKEY_ATTEMPT_TIME));
        [asking, self.silence, self.keepalive].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Tick {
        Tick((1_000 + millis) * 1_000_000)
    }

    #[test]
    fn a_handshake_is_asked_for_again_and_given_up() {
        for random in [0, 100_000_000, 249_999_999, u64::MAX] {
            let mut timers = Timers::default();
            assert!(timers.ask(at(0)) && !timers.ask(at(0)));
            timers.asked(at(0), random);
            let mut asked = vec![at(0)];
            loop {
                let now = timers.next().unwrap();
                match timers.take(now) {
                    Some(Due::Ask) => {
                        let gap = now.since(*asked.last().unwrap());
                        assert!(gap >= REKEY_TIMEOUT && gap < REKEY_TIMEOUT + JITTER);
                        timers.asked(now, random);
                        asked.push(now);
                    }
                    Some(Due::GiveUp) => {
                        assert_eq!(now, at(90_000));
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(asked.len(), 18);
            assert!(timers.next().is_none());
        }
    }

    #[test]
    fn there_are_never_two_initiations_within_five_seconds() {
        let mut timers = Timers::default();
        assert!(timers.ask(at(0)));
        timers.asked(at(0), 0);
        while timers.take(timers.next().unwrap()) != Some(Due::GiveUp) {
            timers.asked(timers.next().unwrap(), 200_000_000);
        }
        let last = timers.asked.unwrap();
        let now = at(90_001);
        assert!(now.since(last) < REKEY_TIMEOUT && !timers.ask(now));
        assert_eq!(timers.next(), Some(last + REKEY_TIMEOUT));
        assert_eq!(timers.take(last + REKEY_TIMEOUT), Some(Due::Ask));
        // Unless the last one came to something.
        timers.settled();
        assert!(timers.ask(last + REKEY_TIMEOUT));
    }

    #[test]
    fn silence_is_answered_by_asking() {
        let mut timers = Timers::default();
        timers.sent_packet(at(0));
        timers.sent_packet(at(5_000));
        assert_eq!((timers.next(), timers.take(at(14_999))), (Some(at(15_000)), None));
        assert_eq!(timers.take(at(15_000)), Some(Due::Ask));
        // Anything authentic is an answer.
        let mut timers = Timers::default();
        timers.sent_packet(at(0));
        timers.received();
        assert_eq!(timers.next(), None);
        // Where a handshake is under way there is nothing more to ask.
        timers.sent_packet(at(0));
        assert!(timers.ask(at(14_000)));
        timers.asked(at(14_000), 0);
        assert_eq!(timers.take(at(15_000)), None);
    }

    #[test]
    fn packets_are_answered_within_ten_seconds() {
        let mut timers = Timers::default();
        timers.received_packet(at(0));
        timers.received_packet(at(9_000));
        assert_eq!((timers.next(), timers.take(at(9_999))), (Some(at(10_000)), None));
        assert_eq!(timers.take(at(10_000)), Some(Due::Keepalive));
        assert_eq!(timers.next(), None);
        timers.received_packet(at(11_000));
        timers.sent();
        assert_eq!(timers.next(), None, "whatever is sent is an answer");
    }
}
