//! Random numbers from a seed of the system: a chain of HMACs, each of which gives one number and the next key.
//!
//! What was given out cannot be found from what the generator holds later, since every step replaces the key. All
//! generators of a device stem from one seed under names of their own, so no two give the same numbers.

use super::hash::{hmac, kdf};
use std::fmt;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 bytes from the system's random numbers, one for a device. Zeroed when dropped; `Debug` does not show it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl Seed {
    /// A seed.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The generator with this name and number.
    #[must_use]
    pub fn random(&self, name: &str, number: u32) -> Random {
        Random(*hmac(&self.0, &[name.as_bytes(), &number.to_le_bytes()]))
    }

    /// A key that all who have the seed have.
    pub(super) fn key(&self, name: &str) -> [u8; 32] {
        *hmac(&self.0, &[name.as_bytes()])
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(hidden)")
    }
}

/// A generator. Zeroed when dropped; `Debug` does not show it.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Random([u8; 32]);

impl Random {
    /// The next 32 bytes.
    pub fn bytes(&mut self) -> [u8; 32] {
        let [next, given] = *kdf(&self.0, b"");
        self.0 = next;
        given
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        u64::from_le_bytes(*self.bytes().first_chunk().unwrap_or(&[0; 8]))
    }

    /// A generator of its own.
    pub fn fork(&mut self) -> Self {
        Self(self.bytes())
    }
}

impl fmt::Debug for Random {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Random(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_generators_and_no_two_numbers_are_the_same() {
        let seed = Seed::new([7; 32]);
        let mut seen = HashSet::new();
        for number in 0..10 {
            for name in ["a", "b"] {
                let mut random = seed.random(name, number);
                let mut fork = random.fork();
                for _ in 0..50 {
                    assert!(seen.insert(random.bytes()) && seen.insert(fork.bytes()));
                }
            }
        }
        // The same seed gives the same numbers.
        assert!(seen.contains(&seed.random("a", 3).fork().bytes()));
        // As many ones as zeros, near enough.
        let ones: u32 = seen.iter().flatten().map(|byte| byte.count_ones()).sum();
        let bits = u32::try_from(seen.len() * 256).unwrap();
        assert!(ones.abs_diff(bits / 2) < bits / 200, "{ones} of {bits}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let seed = Seed::new([7; 32]);
        assert_eq!(format!("{seed:?} {:?}", seed.random("a", 1)), "Seed(hidden) Random(hidden)");
    }
}
