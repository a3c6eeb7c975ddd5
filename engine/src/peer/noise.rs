//! The seam behind which the handshake and the cipher live. The worker asks for batches and never sees a key schedule;
//! [`crate::noise::Core`] is the implementation, a null cipher for benches another.
//!
//! Every call says what time it is: a worker has one moment per turn.

use crate::drops::DropReason;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::noise::random::{Random, Seed};
use crate::noise::stamp::Stamps;
use crate::offload::Plaintexts;
use crate::tick::Tick;
use crate::wire::message::COOKIE_BYTES;
use std::net::SocketAddr;
use std::sync::Arc;

/// 24 bits, unique among the sessions of a device, that name a peer on the wire: the upper 24 of every session index the
/// peer hands out. Its lowest bits name the worker that owns the peer, so byte 5 of a data message says whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionBase(pub u32);

impl SessionBase {
    /// The base in a session index.
    #[must_use]
    pub fn of_index(index: u32) -> Self {
        Self(index >> 8)
    }
}

/// Where sealed datagrams go.
pub trait Departure {
    /// Room of at least `bytes`, which are at most [`crate::limits::TRAIN_BYTES_MAX`].
    fn slot(&mut self, bytes: usize) -> &mut [u8];

    /// Takes the first `bytes` of the slot as a datagram.
    fn push(&mut self, bytes: usize);

    /// A packet could not be sealed.
    fn dropped(&mut self, reason: DropReason);
}

/// Where datagrams to be opened come from and opened packets go.
pub trait Arrival {
    /// The next datagram, with room for the packet in it. All are data messages of one session.
    fn next(&mut self) -> Option<(&[u8], &mut [u8])>;

    /// The datagram was authentic; its packet, padding included, is in the first `bytes` of the room. 0 for a keepalive.
    fn opened(&mut self, bytes: usize);

    /// The datagram was not accepted.
    fn dropped(&mut self, reason: DropReason);
}

/// What a handshake message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Nothing to be seen yet.
    Continues,
    /// We began it and it is done: data may flow.
    Completed,
}

/// What the timers of a peer said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Nothing that anybody has to know.
    Fine,
    /// There was no answer to a handshake for too long; everything that waited for it is gone.
    Abandoned,
}

/// The sessions of one peer.
pub trait Noise: Sized {
    /// What all peers of a worker share: the private key and the defence against floods.
    type Identity;

    /// The name of the cipher, for status.
    const CIPHER: &'static str;

    /// Prepares an identity. `seed` and `stamps` are those of the device, `random` of nobody else.
    fn identity(key: &PrivateKey, seed: &Seed, random: Random, stamps: &Arc<Stamps>) -> Self::Identity;

    /// A peer without sessions.
    fn new(
        identity: &mut Self::Identity,
        peer: &PublicKey,
        preshared: Option<&PresharedKey>,
        base: SessionBase,
    ) -> Self;

    /// Looks at an initiation or response before anything is spent on it: MACs, and a cookie where there are too many. One
    /// with a `pass` does not count among the many, and uses it up. A cookie to be sent is written to `reply` and its length
    /// returned.
    ///
    /// # Errors
    /// Why the message is to be dropped.
    fn screen(
        identity: &mut Self::Identity,
        now: Tick,
        from: SocketAddr,
        message: &[u8],
        pass: Option<&mut bool>,
        reply: &mut [u8; COOKIE_BYTES],
    ) -> Result<usize, DropReason>;

    /// The pass for the answer to our initiation with the index `receiver`: true until a message has used it, so that answers
    /// cost no more than the initiations that ask for them.
    fn pass(&mut self, receiver: u32) -> Option<&mut bool>;

    /// Who sent an initiation that [`Self::screen`] let pass.
    fn initiator(identity: &Self::Identity, message: &[u8]) -> Option<PublicKey>;

    /// Has another preshared key mixed into handshakes from now on; sessions serve until there are new ones. True where
    /// those should be asked for at once.
    fn set_preshared(&mut self, preshared: Option<&PresharedKey>) -> bool;

    /// Whether packets can be sealed now. Otherwise [`Self::seal`] queues a few and asks for a handshake.
    fn ready(&self, now: Tick) -> bool;

    /// Seals packets in order.
    fn seal(&mut self, now: Tick, packets: &mut impl Plaintexts, departure: &mut impl Departure);

    /// Sends an empty packet, or asks for a handshake.
    fn keepalive(&mut self, now: Tick, departure: &mut impl Departure);

    /// Opens data messages of the session with our index `receiver`, in order. True where the peer used the session for the
    /// first time: the handshake is complete, and [`Self::confirmed`] has something to do.
    fn open(&mut self, now: Tick, receiver: u32, arrival: &mut impl Arrival) -> bool;

    /// Sends what waited for the session.
    fn confirmed(&mut self, now: Tick, departure: &mut impl Departure);

    /// Handles a screened handshake message.
    ///
    /// # Errors
    /// Why the message was dropped.
    fn handshake(&mut self, now: Tick, message: &[u8], departure: &mut impl Departure)
    -> Result<Handshake, DropReason>;

    /// Begins a handshake unless one is under way.
    fn initiate(&mut self, now: Tick, departure: &mut impl Departure);

    /// Does what is due.
    fn pulse(&mut self, now: Tick, departure: &mut impl Departure) -> Pulse;

    /// When [`Self::pulse`] has something to do next, if nothing else happens until then.
    fn due(&self) -> Option<Tick>;
}
