//! How much the handshakes of strangers may cost.
//!
//! ```text
//! first MAC wrong                          dropped
//! 200 in a second with a first MAC         pass
//! more, second MAC missing or wrong        a cookie, up to 3,000 a second
//! more, second MAC right                   20 in a second of an address, 200 of all, pass
//! ```
//! Of one core (AMD EPYC, Zen 4): a handshake takes about 240 µs to answer, a cookie 3.3 µs and about half as much to send,
//! a wrong first MAC 0.36 µs, a wrong second one 1.4 µs more. 50,000 a second without second MACs are 9 % of the core,
//! random bytes 2 %, and the worst of all mixtures 20 %.

use super::hash::mac;
use crate::limits::{COOKIES_PER_SEC, HANDSHAKES_PER_SEC_PROVEN, HANDSHAKES_PER_SEC_UNPROVEN};
use crate::tick::Tick;
use std::net::IpAddr;
use std::time::Duration;

/// So many a second and at once; each second begins with the first one in it.
#[derive(Debug)]
pub struct PerSecond {
    limit: u64,
    since: Tick,
    count: u64,
}

impl PerSecond {
    /// A full budget.
    pub fn new(limit: u64) -> Self {
        Self { limit, since: Tick::default(), count: 0 }
    }

    /// Takes one, if there is one.
    pub fn take(&mut self, now: Tick) -> bool {
        if now.since(self.since) >= Duration::from_secs(1) {
            *self = Self { since: now, ..Self::new(self.limit) };
        }
        let left = self.count < self.limit;
        self.count += u64::from(left);
        left
    }
}

/// A steady rate with some at once: a token bucket as one date, up to which everything is spent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate(Tick);

impl Rate {
    /// Takes one, where one is due `every` and `burst` may come at once.
    pub fn take(&mut self, now: Tick, every: Duration, burst: u32) -> bool {
        if self.0.since(now) > every * burst.saturating_sub(1) {
            return false;
        }
        self.0 = self.0.max(now) + every;
        true
    }
}

/// Addresses share a bucket where their hashes do: more of them than of real peers by far, and nobody can aim.
const BUCKETS: usize = 1_024;

/// As the Linux module has it.
const SOURCE_EVERY: Duration = Duration::from_millis(50);

/// As the Linux module has it.
const SOURCE_BURST: u32 = 5;

/// What is left for the handshakes of strangers at one worker.
pub struct Budget {
    unproven: PerSecond,
    proven: PerSecond,
    cookies: PerSecond,
    sources: Box<[Rate; BUCKETS]>,
    /// Keeps where an address falls a secret.
    key: [u8; 32],
}

impl Budget {
    /// Everything is left. `key` is a secret.
    pub fn new(key: [u8; 32]) -> Self {
        Self {
            unproven: PerSecond::new(HANDSHAKES_PER_SEC_UNPROVEN),
            proven: PerSecond::new(HANDSHAKES_PER_SEC_PROVEN),
            cookies: PerSecond::new(COOKIES_PER_SEC),
            sources: Box::new([Rate::default(); BUCKETS]),
            key,
        }
    }

    /// Whether a message may pass though its sender has not proven its address.
    pub fn unproven(&mut self, now: Tick) -> bool {
        self.unproven.take(now)
    }

    /// Whether a cookie may be sent.
    pub fn cookie(&mut self, now: Tick) -> bool {
        self.cookies.take(now)
    }

    /// Whether a message of somebody who can be reached at `from` may pass.
    pub fn proven(&mut self, now: Tick, from: IpAddr) -> bool {
        // A host of an IPv6 network has all of its /64.
        let network = match from {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        let [low, high, ..] = mac(&self.key, &[&network.to_le_bytes()]);
        let bucket = usize::from(u16::from_le_bytes([low, high])) % BUCKETS;
        self.sources[bucket].take(now, SOURCE_EVERY, SOURCE_BURST) && self.proven.take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(millis: u64) -> Tick {
        Tick(1_000 * MS + millis * MS)
    }

    #[test]
    fn a_second_has_its_limit() {
        let mut budget = PerSecond::new(3);
        let taken = |budget: &mut PerSecond, millis| (0..10).filter(|_| budget.take(at(millis))).count();
        assert_eq!(taken(&mut budget, 0), 3);
        assert_eq!(taken(&mut budget, 999), 0);
        assert_eq!(taken(&mut budget, 1_000), 3);
        assert_eq!(taken(&mut budget, 5_000), 3);
    }

    #[test]
    fn a_rate_allows_some_at_once_and_then_its_pace() {
        let every = Duration::from_millis(50);
        let mut rate = Rate::default();
        assert_eq!((0..100).filter(|_| rate.take(at(0), every, 5)).count(), 5);
        let steady = (1..=10_000).filter(|&millis| rate.take(at(millis), every, 5)).count();
        assert_eq!(steady, 200);
        // Nothing is saved up beyond the burst.
        assert_eq!((0..100).filter(|_| rate.take(at(100_000), every, 5)).count(), 5);
    }

    #[test]
    fn one_address_does_not_use_up_what_is_there_for_all() {
        let mut budget = Budget::new([1; 32]);
        let greedy = "192.0.2.1".parse().unwrap();
        assert_eq!((0..1_000).filter(|_| budget.proven(at(0), greedy)).count(), 5);
        let others = (0..150_u32).filter(|&n| budget.proven(at(0), IpAddr::from((n << 8 | 7).to_be_bytes()))).count();
        // Some share a bucket, which has room for five.
        assert!(others >= 145, "{others}");
        let mut all = Budget::new([1; 32]);
        let passed = (0..100_000_u32).filter(|&n| all.proven(at(0), IpAddr::from(n.to_be_bytes()))).count();
        assert_eq!(passed as u64, HANDSHAKES_PER_SEC_PROVEN);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut budget = Budget::new([1; 32]);
        let host = |n: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, n]);
        assert_eq!((0..100).filter(|&n| budget.proven(at(0), host(n))).count(), 5);
    }
}
