//! A cipher that obeys the messages: it is not a cipher, so that what a fuzzer writes gets past it. Exists here only.
//!
//! The last byte of a message says what a real cipher would have found:
//!
//! | | data | handshake |
//! |---|---|---|
//! | 1 | not authentic | not for us |
//! | 2 | seen before | out of date |
//! | 3 | | too many: a cookie goes back |
//! | other | opened: what is between header and tag | accepted |
//!
//! An initiation has its sender's public key in bytes 8 to 39, as in the clear.

use ginnel_engine::drops::DropReason;
use ginnel_engine::key::{PresharedKey, PrivateKey, PublicKey};
use ginnel_engine::noise::random::{Random, Seed};
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::offload::Plaintexts;
use ginnel_engine::peer::noise::{Arrival, Departure, Handshake, Noise, Pulse, SessionBase};
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::message::{
    COOKIE_BYTES, DATA_HEADER_BYTES, DATA_OVERHEAD, INITIATION_BYTES, Message, RESPONSE_BYTES,
};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long an initiation waits for its answer (paper, section 6.1).
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);

/// What the toy did in this thread since it was last asked: the engine has no counter for what is neither delivered nor
/// dropped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deeds {
    /// Session indices it was given, by peer, in the order of the peers' first use.
    pub(crate) indices: Vec<(PublicKey, u32)>,
    /// Empty packets opened.
    pub(crate) keepalives: u64,
    /// Handshake messages accepted.
    pub(crate) handshakes: u64,
}

thread_local! {
    static DEEDS: RefCell<Deeds> = RefCell::default();
}

/// What was done since the last call.
pub(crate) fn take_deeds() -> Deeds {
    DEEDS.take()
}

/// The index of the newest sessions with a peer.
pub(crate) fn index_of(peer: &PublicKey) -> Option<u32> {
    DEEDS.with_borrow(|deeds| deeds.indices.iter().rev().find(|(key, _)| key == peer).map(|(_, index)| *index))
}

/// One peer's session, if it has one: both indices and the next counter.
pub(crate) struct Toy {
    own: PublicKey,
    index: u32,
    theirs: Option<u32>,
    counter: u64,
    /// When to ask again.
    due: Option<Tick>,
    /// We answered, and nothing was received since.
    answered: bool,
}

/// What a message tells the cipher to find.
fn verdict(message: &[u8]) -> u8 {
    message.last().copied().unwrap_or_default()
}

fn index_at(message: &[u8], at: usize) -> u32 {
    message.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl Toy {
    fn seal_one(&mut self, receiver: u32, packet: &[u8], departure: &mut impl Departure) {
        let bytes = packet.len() + DATA_OVERHEAD;
        let slot = departure.slot(bytes);
        slot[..4].copy_from_slice(&4_u32.to_le_bytes());
        slot[4..8].copy_from_slice(&receiver.to_le_bytes());
        slot[8..16].copy_from_slice(&self.counter.to_le_bytes());
        slot[DATA_HEADER_BYTES..][..packet.len()].copy_from_slice(packet);
        slot[DATA_HEADER_BYTES + packet.len()..bytes].fill(0);
        self.counter += 1;
        departure.push(bytes);
    }
}

impl Noise for Toy {
    type Identity = PublicKey;

    const CIPHER: &'static str = "none";

    fn identity(key: &PrivateKey, _: &Seed, _: Random, _: &Arc<Stamps>) -> PublicKey {
        key.public()
    }

    fn new(identity: &mut PublicKey, peer: &PublicKey, _: Option<&PresharedKey>, base: SessionBase) -> Self {
        let index = base.0 << 8;
        DEEDS.with_borrow_mut(|deeds| deeds.indices.push((*peer, index)));
        Self { own: *identity, index, theirs: None, counter: 0, due: None, answered: false }
    }

    fn screen(
        _: &mut PublicKey,
        _: Tick,
        _: SocketAddr,
        message: &[u8],
        _: Option<&mut bool>,
        reply: &mut [u8; COOKIE_BYTES],
    ) -> Result<usize, DropReason> {
        match verdict(message) {
            1 => Err(DropReason::InboundBadMac),
            3 => {
                reply.fill(0);
                reply[0] = 3;
                Ok(COOKIE_BYTES)
            }
            _ => Ok(0),
        }
    }

    fn pass(&mut self, _: u32) -> Option<&mut bool> {
        None
    }

    fn initiator(_: &PublicKey, message: &[u8]) -> Option<PublicKey> {
        message.get(8..).and_then(<[u8]>::first_chunk).copied().map(PublicKey)
    }

    fn set_preshared(&mut self, preshared: Option<&PresharedKey>) -> bool {
        preshared.is_some() && self.theirs.is_some()
    }

    fn ready(&self, _: Tick) -> bool {
        self.theirs.is_some()
    }

    fn seal(&mut self, now: Tick, packets: &mut impl Plaintexts, departure: &mut impl Departure) {
        let Some(receiver) = self.theirs else {
            return self.initiate(now, departure);
        };
        while let Some(packet) = packets.next() {
            if packet.len() + DATA_OVERHEAD > ginnel_engine::limits::TRAIN_BYTES_MAX {
                departure.dropped(DropReason::OutboundOversize);
                continue;
            }
            self.seal_one(receiver, packet, departure);
        }
    }

    fn keepalive(&mut self, now: Tick, departure: &mut impl Departure) {
        match self.theirs {
            Some(receiver) => self.seal_one(receiver, &[], departure),
            None => self.initiate(now, departure),
        }
    }

    fn open(&mut self, _: Tick, _: u32, arrival: &mut impl Arrival) -> bool {
        let mut opened = false;
        while let Some((datagram, room)) = arrival.next() {
            match verdict(datagram) {
                1 => arrival.dropped(DropReason::InboundUnauthentic),
                2 => arrival.dropped(DropReason::InboundReplayed),
                _ => {
                    opened = true;
                    let sealed = &datagram[DATA_HEADER_BYTES..datagram.len() - (DATA_OVERHEAD - DATA_HEADER_BYTES)];
                    room[..sealed.len()].copy_from_slice(sealed);
                    if sealed.is_empty() {
                        DEEDS.with_borrow_mut(|deeds| deeds.keepalives += 1);
                    }
                    let bytes = sealed.len();
                    arrival.opened(bytes);
                }
            }
        }
        opened && std::mem::take(&mut self.answered)
    }

    fn confirmed(&mut self, _: Tick, _: &mut impl Departure) {}

    fn handshake(
        &mut self,
        now: Tick,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        if verdict(message) == 2 {
            return Err(DropReason::InboundStaleHandshake);
        }
        DEEDS.with_borrow_mut(|deeds| deeds.handshakes += 1);
        match Message::classify(message) {
            Message::Initiation => {
                self.theirs = Some(index_at(message, 4));
                self.answered = true;
                let slot = &mut departure.slot(RESPONSE_BYTES)[..RESPONSE_BYTES];
                slot.fill(0);
                slot[0] = 2;
                slot[4..8].copy_from_slice(&self.index.to_le_bytes());
                slot[8..12].copy_from_slice(&index_at(message, 4).to_le_bytes());
                departure.push(RESPONSE_BYTES);
                Ok(Handshake::Continues)
            }
            Message::Response { .. } => {
                self.theirs = Some(index_at(message, 4));
                self.due = None;
                self.keepalive(now, departure);
                Ok(Handshake::Completed)
            }
            _ => Ok(Handshake::Continues),
        }
    }

    fn initiate(&mut self, now: Tick, departure: &mut impl Departure) {
        self.due = Some(now + REKEY_TIMEOUT);
        let slot = &mut departure.slot(INITIATION_BYTES)[..INITIATION_BYTES];
        slot.fill(0);
        slot[0] = 1;
        slot[4..8].copy_from_slice(&self.index.to_le_bytes());
        slot[8..40].copy_from_slice(&self.own.0);
        departure.push(INITIATION_BYTES);
    }

    fn pulse(&mut self, now: Tick, departure: &mut impl Departure) -> Pulse {
        if self.due.take_if(|due| *due <= now).is_none() {
            return Pulse::Fine;
        }
        // Every other time the other side is given up.
        self.counter += 1;
        if self.counter % 2 == 0 {
            return Pulse::Abandoned;
        }
        self.initiate(now, departure);
        Pulse::Fine
    }

    fn due(&self) -> Option<Tick> {
        self.due
    }
}
