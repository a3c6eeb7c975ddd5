//! Whole engines in virtual time: the workers of the product with the real handshake and cipher, on virtual wires, under
//! a clock that only the test moves. Minutes of protocol pass in milliseconds, and the same seed gives the same run.
//!
//! boringtun reads its own clock; its `mock-instant` feature puts that under the test's control. This crate is a
//! workspace of its own so that the feature reaches nobody else. [`Timed`] closes the one gap it leaves.
//!
//! What is random in a run comes from a seed, but for the keys of handshakes, which change no length, no order and no
//! outcome.

use ginnel_backends::mem::Overlay;
use ginnel_engine::drops::DropReason;
use ginnel_engine::key::PrivateKey;
use ginnel_engine::key::{PresharedKey, PublicKey};
use ginnel_engine::offload::Plaintexts;
use ginnel_engine::peer::boringtun::{Boringtun, Identity};
use ginnel_engine::peer::noise::{Arrival, Departure, Handshake, Noise, Pulse, SessionBase};
use ginnel_engine::tick::Tick;
use mock_instant::MockClock;
use std::net::IpAddr;
use std::time::Duration;

/// An overlay in virtual time.
pub type Net = Overlay<Timed>;

/// How far the library's clock is ahead of the workers': longer than it takes keys to be forgotten, see [`Timed`].
const AHEAD: Duration = Duration::from_secs(3_600);

/// `count` nodes in virtual time that do not know each other.
#[must_use]
pub fn nodes(seed: u64, count: u8) -> Net {
    let mut net = Net::new(seed, count);
    net.world.on_tick = set_clock;
    set_clock(net.world.now());
    net
}

/// Two nodes in virtual time that know each other.
#[must_use]
pub fn pair(seed: u64) -> Net {
    let mut net = nodes(seed, 2);
    net.meet(0, 1);
    net
}

fn set_clock(now: Tick) {
    MockClock::set_time(AHEAD + Duration::from_nanos(now.0));
}

/// [`Boringtun`] with time stamps in virtual time.
///
/// An initiation carries the wall-clock time at which its sender's state was made plus the time since then, and only
/// the latter is virtual. A state made later in virtual time would therefore have earlier stamps, and be refused as a
/// replay: after a restart, or a change of the preshared key. So each state is made at virtual time zero. The timers then
/// start at zero too, where the library would find all of them long expired; it is shown the time at once, which leaves
/// it without keys and without a handshake, as new.
pub struct Timed(Boringtun);

impl Noise for Timed {
    type Identity = Identity;

    const PULSE: Duration = Boringtun::PULSE;

    fn identity(key: &PrivateKey) -> Identity {
        Boringtun::identity(key)
    }

    fn new(identity: &Identity, peer: &PublicKey, preshared: Option<&PresharedKey>, base: SessionBase) -> Self {
        let now = MockClock::time();
        MockClock::set_time(Duration::ZERO);
        let mut made = Boringtun::new(identity, peer, preshared, base);
        MockClock::set_time(now);
        made.pulse(&mut Nowhere([0; 256]));
        Self(made)
    }

    fn screen(identity: &Identity, from: IpAddr, message: &[u8], reply: &mut [u8; 64]) -> Result<usize, DropReason> {
        Boringtun::screen(identity, from, message, reply)
    }

    fn initiator(identity: &Identity, message: &[u8]) -> Option<PublicKey> {
        Boringtun::initiator(identity, message)
    }

    fn refresh(identity: &Identity) {
        Boringtun::refresh(identity);
    }

    fn ready(&self) -> bool {
        self.0.ready()
    }

    fn seal(&mut self, packets: &mut impl Plaintexts, departure: &mut impl Departure) {
        self.0.seal(packets, departure);
    }

    fn keepalive(&mut self, departure: &mut impl Departure) {
        self.0.keepalive(departure);
    }

    fn open(&mut self, arrival: &mut impl Arrival) {
        self.0.open(arrival);
    }

    fn confirmed(&mut self, departure: &mut impl Departure) {
        self.0.confirmed(departure);
    }

    fn handshake(
        &mut self,
        from: IpAddr,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        self.0.handshake(from, message, departure)
    }

    fn initiate(&mut self, departure: &mut impl Departure) {
        self.0.initiate(departure);
    }

    fn pulse(&mut self, departure: &mut impl Departure) -> Pulse {
        self.0.pulse(departure)
    }
}

/// Takes nothing: a new state has nothing to send.
struct Nowhere([u8; 256]);

impl Departure for Nowhere {
    fn slot(&mut self, _: usize) -> &mut [u8] {
        &mut self.0
    }

    fn push(&mut self, bytes: usize) {
        unreachable!("a new state sent {bytes} bytes");
    }

    fn dropped(&mut self, reason: DropReason) {
        unreachable!("a new state dropped {reason:?}");
    }
}
