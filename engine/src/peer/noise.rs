//! The seam behind which the Noise handshake and the cipher live. The engine asks for batches and never sees a key
//! schedule; a faster cipher, another Noise core or a null cipher for benches is one more implementation.

use crate::drops::DropReason;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::offload::Plaintexts;
use std::net::IpAddr;
use std::time::Duration;

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

    /// The datagram was authentic; its packet is in the first `bytes` of the room. 0 for a keepalive.
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
    /// A handshake is under way: ask again in [`Noise::PULSE`].
    Asking,
    /// There are keys: ask again in [`Noise::PULSE`] while there is traffic, and now and then without.
    Keyed,
    /// There was no answer for too long; everything queued is gone.
    Abandoned,
    /// Neither keys nor a handshake: nothing to ask for until there is a packet.
    Dormant,
}

/// The sessions of one peer.
pub trait Noise: Sized {
    /// What all peers of a device share: the private key and the defence against floods.
    type Identity: Clone;

    /// How often [`Self::pulse`] has to be asked while there is traffic.
    const PULSE: Duration;

    /// Prepares an identity.
    fn identity(key: &PrivateKey) -> Self::Identity;

    /// A peer without sessions.
    fn new(identity: &Self::Identity, peer: &PublicKey, preshared: Option<&PresharedKey>, base: SessionBase) -> Self;

    /// Looks at a handshake message before anything is spent on it: MACs, and a cookie where there are too many. A cookie
    /// to be sent is written to `reply` and its length returned.
    ///
    /// # Errors
    /// Why the message is to be dropped.
    fn screen(
        identity: &Self::Identity,
        from: IpAddr,
        message: &[u8],
        reply: &mut [u8; 64],
    ) -> Result<usize, DropReason>;

    /// Who sent an initiation that [`Self::screen`] let pass.
    fn initiator(identity: &Self::Identity, message: &[u8]) -> Option<PublicKey>;

    /// About once a second: renews the budget of [`Self::screen`].
    fn refresh(identity: &Self::Identity);

    /// Whether packets can be sealed now. Otherwise [`Self::seal`] queues a few and asks for a handshake.
    fn ready(&self) -> bool;

    /// Seals packets in order.
    fn seal(&mut self, packets: &mut impl Plaintexts, departure: &mut impl Departure);

    /// Sends an empty packet, or asks for a handshake.
    fn keepalive(&mut self, departure: &mut impl Departure);

    /// Opens data messages in order.
    fn open(&mut self, arrival: &mut impl Arrival);

    /// Called after [`Self::open`] accepted packets of a session not seen before: what waited for it is sent.
    fn confirmed(&mut self, departure: &mut impl Departure);

    /// Handles a screened handshake message.
    ///
    /// # Errors
    /// Why the message was dropped.
    fn handshake(
        &mut self,
        from: IpAddr,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason>;

    /// Begins a handshake unless one is under way.
    fn initiate(&mut self, departure: &mut impl Departure);

    /// Runs the timers.
    fn pulse(&mut self, departure: &mut impl Departure) -> Pulse;
}
