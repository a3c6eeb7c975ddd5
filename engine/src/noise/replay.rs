//! Which counters of a session were seen: a window of bits behind the greatest (RFC 6479).

/// Counters remembered, the greatest included: as many as the Linux module has, and 64.
pub const WINDOW: u64 = 8_192;

const WORD_BITS: u64 = 64;

/// One word more than the window fills, so that a word is cleared before its bits come into use.
const WORDS: usize = (WINDOW / WORD_BITS + 1) as usize;

/// The window of one session.
pub struct Replay {
    words: [u64; WORDS],
    greatest: u64,
}

impl Replay {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self { words: [0; WORDS], greatest: 0 }
    }

    /// Whether `counter` was not seen and is not too old.
    pub fn accepts(&self, counter: u64) -> bool {
        if counter > self.greatest {
            return true;
        }
        let (word, bit) = place(counter);
        self.greatest - counter < WINDOW && self.words[word] & bit == 0
    }

    /// Notes that `counter` was seen.
    pub fn note(&mut self, counter: u64) {
        if counter > self.greatest {
            let (old, new) = (self.greatest / WORD_BITS, counter / WORD_BITS);
            for word in old + 1..=new.min(old + WORDS as u64) {
                self.words[place(word * WORD_BITS).0] = 0;
            }
            self.greatest = counter;
        }
        let (word, bit) = place(counter);
        self.words[word] |= bit;
    }
}

fn place(counter: u64) -> (usize, u64) {
    let word = (counter / WORD_BITS) % WORDS as u64;
    (word as usize, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::REJECT_AFTER_MESSAGES;
    use proptest::prelude::*;
    use std::collections::HashSet;

    /// All counters ever seen, and the greatest.
    #[derive(Default)]
    struct Twin {
        seen: HashSet<u64>,
        greatest: u64,
    }

    impl Twin {
        fn accepts(&self, counter: u64) -> bool {
            let young = counter > self.greatest || self.greatest - counter < WINDOW;
            young && !self.seen.contains(&counter)
        }

        fn note(&mut self, counter: u64) {
            self.seen.insert(counter);
            self.greatest = self.greatest.max(counter);
        }
    }

    /// Steps of all sizes that matter: within a word, across words, across the window, across all.
    fn step() -> impl Strategy<Value = i64> {
        prop_oneof![4 => -3_i64..4, 3 => -200_i64..200, 2 => -9_000_i64..9_000, 1 => 0_i64..1_000_000]
    }

    proptest! {
        #[test]
        fn agrees_with_remembering_everything(
            start in prop_oneof![Just(0), 0_u64..100_000, REJECT_AFTER_MESSAGES - 2_000_000..REJECT_AFTER_MESSAGES],
            steps in proptest::collection::vec(step(), 1..400),
        ) {
            let (mut window, mut twin) = (Replay::new(), Twin::default());
            let mut at = start;
            for step in steps {
                at = at.saturating_add_signed(step).min(REJECT_AFTER_MESSAGES - 1);
                prop_assert_eq!(window.accepts(at), twin.accepts(at), "{}", at);
                if twin.accepts(at) {
                    window.note(at);
                    twin.note(at);
                }
            }
        }
    }

    #[test]
    fn every_place_of_the_window_is_remembered() {
        for greatest in [WINDOW, WINDOW + 63, 3 * WINDOW + 1, u64::MAX] {
            let mut window = Replay::new();
            window.note(greatest);
            let oldest = greatest - WINDOW + 1;
            assert!(!window.accepts(oldest - 1));
            for counter in oldest..greatest {
                assert!(window.accepts(counter));
                window.note(counter);
                assert!(!window.accepts(counter));
            }
            assert!(!window.accepts(greatest));
        }
    }
}
