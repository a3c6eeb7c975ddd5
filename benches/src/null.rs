//! A cipher that hides nothing: the same messages, copies and system calls without the arithmetic, to see what share of
//! the ceiling a real cipher reaches. It exists in the benches only; no daemon can select it.
//!
//! The handshake is two messages in the clear: an initiation with the sender's index and public key, a response with both
//! indices. Data messages have the right sizes, a zero tag and counters that nobody checks.

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
use std::net::SocketAddr;
use std::sync::Arc;

/// One peer's session, if it has one: both indices and the next counter.
pub struct Null {
    own: PublicKey,
    index: u32,
    theirs: Option<u32>,
    counter: u64,
    /// We answered, and nothing was received since.
    answered: bool,
}

impl Null {
    fn write_header(&mut self, message: &mut [u8], receiver: u32) {
        message[..4].copy_from_slice(&4_u32.to_le_bytes());
        message[4..8].copy_from_slice(&receiver.to_le_bytes());
        message[8..16].copy_from_slice(&self.counter.to_le_bytes());
        self.counter += 1;
    }
}

fn index_at(message: &[u8], at: usize) -> u32 {
    message.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

impl Noise for Null {
    type Identity = PublicKey;

    const CIPHER: &'static str = "none";

    fn identity(key: &PrivateKey, _: &Seed, _: Random, _: &Arc<Stamps>) -> PublicKey {
        key.public()
    }

    fn new(identity: &mut PublicKey, _: &PublicKey, _: Option<&PresharedKey>, base: SessionBase) -> Self {
        Self { own: *identity, index: base.0 << 8, theirs: None, counter: 0, answered: false }
    }

    fn screen(
        _: &mut PublicKey,
        _: Tick,
        _: SocketAddr,
        _: &[u8],
        _: Option<&mut bool>,
        _: &mut [u8; COOKIE_BYTES],
    ) -> Result<usize, DropReason> {
        Ok(0)
    }

    fn pass(&mut self, _: u32) -> Option<&mut bool> {
        None
    }

    fn initiator(_: &PublicKey, message: &[u8]) -> Option<PublicKey> {
        message.get(8..).and_then(<[u8]>::first_chunk).copied().map(PublicKey)
    }

    fn set_preshared(&mut self, _: Option<&PresharedKey>) -> bool {
        false
    }

    fn ready(&self, _: Tick) -> bool {
        self.theirs.is_some()
    }

    fn seal(&mut self, now: Tick, packets: &mut impl Plaintexts, departure: &mut impl Departure) {
        let Some(receiver) = self.theirs else {
            return self.initiate(now, departure);
        };
        while let Some(packet) = packets.next() {
            let bytes = packet.len() + DATA_OVERHEAD;
            let slot = departure.slot(bytes);
            self.write_header(slot, receiver);
            slot[DATA_HEADER_BYTES..][..packet.len()].copy_from_slice(packet);
            slot[DATA_HEADER_BYTES + packet.len()..bytes].fill(0);
            departure.push(bytes);
        }
    }

    fn keepalive(&mut self, now: Tick, departure: &mut impl Departure) {
        let Some(receiver) = self.theirs else {
            return self.initiate(now, departure);
        };
        let slot = departure.slot(DATA_OVERHEAD);
        self.write_header(slot, receiver);
        slot[DATA_HEADER_BYTES..DATA_OVERHEAD].fill(0);
        departure.push(DATA_OVERHEAD);
    }

    fn open(&mut self, _: Tick, _: u32, arrival: &mut impl Arrival) -> bool {
        while let Some((datagram, room)) = arrival.next() {
            let sealed = datagram.get(DATA_HEADER_BYTES..datagram.len() - 16).unwrap_or_default();
            room[..sealed.len()].copy_from_slice(sealed);
            let bytes = sealed.len();
            arrival.opened(bytes);
        }
        std::mem::take(&mut self.answered)
    }

    fn confirmed(&mut self, _: Tick, _: &mut impl Departure) {}

    fn handshake(
        &mut self,
        now: Tick,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        match Message::classify(message) {
            Message::Initiation => {
                self.theirs = Some(index_at(message, 4));
                self.answered = true;
                let slot = departure.slot(RESPONSE_BYTES);
                slot[..RESPONSE_BYTES].fill(0);
                slot[0] = 2;
                slot[4..8].copy_from_slice(&self.index.to_le_bytes());
                slot[8..12].copy_from_slice(&index_at(message, 4).to_le_bytes());
                departure.push(RESPONSE_BYTES);
                Ok(Handshake::Continues)
            }
            Message::Response { .. } => {
                self.theirs = Some(index_at(message, 4));
                self.keepalive(now, departure);
                Ok(Handshake::Completed)
            }
            _ => Err(DropReason::InboundStaleHandshake),
        }
    }

    fn initiate(&mut self, _: Tick, departure: &mut impl Departure) {
        let slot = departure.slot(INITIATION_BYTES);
        slot[..INITIATION_BYTES].fill(0);
        slot[0] = 1;
        slot[4..8].copy_from_slice(&self.index.to_le_bytes());
        slot[8..40].copy_from_slice(&self.own.0);
        departure.push(INITIATION_BYTES);
    }

    fn pulse(&mut self, _: Tick, _: &mut impl Departure) -> Pulse {
        Pulse::Fine
    }

    fn due(&self) -> Option<Tick> {
        None
    }
}
