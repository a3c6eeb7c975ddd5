//! What an eavesdropper can check of the cryptography: that no counter is used twice, and no session after its time.

use ginnel_backends::mem::Captured;
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::message::Message;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The life of a session (paper, section 6.1, `REJECT_AFTER_TIME`).
const SESSION_LIFE: Duration = Duration::from_secs(180);

/// Sessions seen on the wire, by the index that data messages carry.
#[derive(Default)]
pub struct Wire {
    sessions: HashMap<u32, Session>,
    trace: u64,
}

struct Session {
    /// When it was granted.
    made: Tick,
    counters: HashSet<u64>,
}

impl Session {
    fn new(made: Tick) -> Self {
        Self { made, counters: HashSet::new() }
    }
}

impl Wire {
    /// Looks at what was sent. `delay_max` is how long the grant of a session may have been under way.
    pub fn check(&mut self, captured: &[Captured], delay_max: Duration) {
        for seen in captured {
            self.note(seen);
            match Message::classify(&seen.bytes) {
                // It names both ends of a new session.
                Message::Response { receiver } => {
                    for index in [receiver, sender(&seen.bytes)] {
                        self.sessions.insert(index, Session::new(seen.at));
                    }
                }
                Message::Data { receiver, counter } => {
                    // A grant that a jammed socket swallowed is not seen; the session counts from its first use then.
                    let session = self.sessions.entry(receiver).or_insert_with(|| Session::new(seen.at));
                    assert!(session.counters.insert(counter), "counter {counter} of session {receiver:#x} came twice");
                    let age = seen.at.since(session.made);
                    assert!(
                        age <= SESSION_LIFE + delay_max + Duration::from_secs(1),
                        "a session was used after {age:?}"
                    );
                }
                _ => {}
            }
        }
    }

    /// A number that two worlds have in common only if the same was sent in both, as far as an eavesdropper without keys
    /// can tell: when, from where to where, and how long it was.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    fn note(&mut self, seen: &Captured) {
        let ports = u64::from(seen.way.from.port()) << 16 | u64::from(seen.way.to.port());
        for word in [seen.at.0, seen.bytes.len() as u64, ports] {
            self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
}

fn sender(response: &[u8]) -> u32 {
    response.get(4..).and_then(<[u8]>::first_chunk).map_or(0, |index| u32::from_le_bytes(*index))
}
