//! [`Noise`] by boringtun: the handshake, the timers and the cipher of that library, one `Tunn` per peer.
//!
//! What the library leaves to its caller is closed here: destinations are always large enough (it panics otherwise),
//! counters near the end of their range never reach it (its window arithmetic would overflow), persistent keepalives are
//! the engine's (it cannot change them on a live peer), and handshake floods are screened once per device instead of
//! once per peer. It reads a clock of its own in the timers and the handshake, never for a data message.

use super::noise::{Arrival, Departure, Handshake, Noise, Pulse, SessionBase};
use crate::drops::DropReason;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::{HANDSHAKES_PER_SEC_UNPROVEN, TRAIN_BYTES_MAX};
use crate::offload::Plaintexts;
use crate::wire::message::{DATA_HEADER_BYTES, DATA_OVERHEAD, INITIATION_BYTES, Message, REJECT_AFTER_MESSAGES};
use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The sessions of one peer, in boringtun's hands.
pub struct Boringtun {
    tunn: Tunn,
    ready: bool,
    /// We asked for a handshake and have no answer yet.
    asking: bool,
}

/// The private key and the shared flood defence.
#[derive(Clone)]
pub struct Identity {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
    /// Counts handshake messages of the device and asks for cookies when there are too many.
    screen: Arc<RateLimiter>,
    /// Given to each `Tunn`: it checks the first MAC once more and never gets to its limit.
    open: Arc<RateLimiter>,
}

impl Boringtun {
    /// Sends what was queued while there was no session.
    fn drain_queue(&mut self, departure: &mut impl Departure) {
        // The queued packet's size is not known before it is sealed, so the slot has to fit any.
        while let TunnResult::WriteToNetwork(sealed) = self.tunn.decapsulate(None, &[], departure.slot(TRAIN_BYTES_MAX))
        {
            let bytes = sealed.len();
            departure.push(bytes);
        }
    }

    /// Looks whether there is a session to send on.
    fn look(&mut self) {
        self.ready = self.tunn.time_since_last_handshake().is_some();
    }

    /// Sends `result`'s datagram, if it is one.
    fn depart(result: &TunnResult<'_>) -> Option<usize> {
        match result {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }
}

impl Noise for Boringtun {
    type Identity = Identity;

    /// How often boringtun's own device runs the timers; they are as exact as this.
    const PULSE: Duration = Duration::from_millis(250);

    fn identity(key: &PrivateKey) -> Identity {
        let private = key.secret();
        let public = x25519::PublicKey::from(&private);
        Identity {
            screen: Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SEC_UNPROVEN)),
            open: Arc::new(RateLimiter::new(&public, u64::MAX)),
            private,
            public,
        }
    }

    fn new(identity: &Identity, peer: &PublicKey, preshared: Option<&PresharedKey>, base: SessionBase) -> Self {
        let tunn = Tunn::new(
            identity.private.clone(),
            x25519::PublicKey::from(peer.0),
            preshared.map(PresharedKey::bytes),
            None,
            base.0,
            Some(Arc::clone(&identity.open)),
        );
        Self { tunn, ready: false, asking: false }
    }

    fn screen(identity: &Identity, from: IpAddr, message: &[u8], reply: &mut [u8; 64]) -> Result<usize, DropReason> {
        match identity.screen.verify_packet(Some(from), message, reply) {
            Ok(_) => Ok(0),
            Err(TunnResult::WriteToNetwork(cookie)) => Ok(cookie.len()),
            Err(TunnResult::Err(error)) => Err(reason(&error)),
            Err(_) => Err(DropReason::InboundMalformed),
        }
    }

    fn initiator(identity: &Identity, message: &[u8]) -> Option<PublicKey> {
        let Ok(Packet::HandshakeInit(initiation)) = Tunn::parse_incoming_packet(message) else { return None };
        let half = parse_handshake_anon(&identity.private, &identity.public, &initiation).ok()?;
        Some(PublicKey(half.peer_static_public))
    }

    fn refresh(identity: &Identity) {
        identity.screen.reset_count();
    }

    fn ready(&self) -> bool {
        self.ready
    }

    fn seal(&mut self, packets: &mut impl Plaintexts, departure: &mut impl Departure) {
        while let Some(packet) = packets.next() {
            let bytes = packet.len() + DATA_OVERHEAD;
            if bytes > TRAIN_BYTES_MAX {
                departure.dropped(DropReason::OutboundOversize);
                continue;
            }
            let slot = departure.slot(if self.ready { bytes } else { bytes.max(INITIATION_BYTES) });
            let result = self.tunn.encapsulate(packet, slot);
            if let Some(bytes) = Self::depart(&result) {
                departure.push(bytes);
                self.asking |= !self.ready;
            }
        }
    }

    fn keepalive(&mut self, departure: &mut impl Departure) {
        if !self.ready {
            return self.initiate(departure);
        }
        let result = self.tunn.encapsulate(&[], departure.slot(INITIATION_BYTES));
        if let Some(bytes) = Self::depart(&result) {
            departure.push(bytes);
        }
    }

    fn open(&mut self, arrival: &mut impl Arrival) {
        while let Some((datagram, room)) = arrival.next() {
            let spent = matches!(Message::classify(datagram), Message::Data { counter, .. } if counter >= REJECT_AFTER_MESSAGES);
            if spent || room.len() < datagram.len().saturating_sub(DATA_HEADER_BYTES) {
                arrival.dropped(DropReason::InboundUnauthentic);
                continue;
            }
            match self.tunn.decapsulate(None, datagram, room) {
                TunnResult::Done => arrival.opened(0),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    let bytes = packet.len();
                    arrival.opened(bytes);
                }
                TunnResult::Err(error) => arrival.dropped(reason(&error)),
                TunnResult::WriteToNetwork(_) => arrival.dropped(DropReason::InboundMalformed),
            }
        }
    }

    fn confirmed(&mut self, departure: &mut impl Departure) {
        self.look();
        if self.ready {
            self.asking = false;
            self.drain_queue(departure);
        }
    }

    fn handshake(
        &mut self,
        from: IpAddr,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        let completes = matches!(Message::classify(message), Message::Response { .. });
        match self.tunn.decapsulate(Some(from), message, departure.slot(INITIATION_BYTES)) {
            TunnResult::WriteToNetwork(answer) => {
                let bytes = answer.len();
                departure.push(bytes);
            }
            TunnResult::Err(error) => return Err(reason(&error)),
            _ => {}
        }
        if !completes {
            return Ok(Handshake::Continues);
        }
        self.confirmed(departure);
        Ok(Handshake::Completed)
    }

    fn initiate(&mut self, departure: &mut impl Departure) {
        let result = self.tunn.format_handshake_initiation(departure.slot(INITIATION_BYTES), false);
        if let Some(bytes) = Self::depart(&result) {
            departure.push(bytes);
            self.asking = true;
        }
    }

    fn pulse(&mut self, departure: &mut impl Departure) -> Pulse {
        let result = self.tunn.update_timers(departure.slot(INITIATION_BYTES));
        let expired = matches!(result, TunnResult::Err(_));
        if let Some(bytes) = Self::depart(&result) {
            departure.push(bytes);
            self.asking |= bytes == INITIATION_BYTES;
        }
        self.look();
        match (expired, self.asking, self.ready) {
            (true, true, _) => {
                self.asking = false;
                Pulse::Abandoned
            }
            (false, true, _) => Pulse::Asking,
            (false, false, true) => Pulse::Keyed,
            (_, false, _) => Pulse::Dormant,
        }
    }
}

fn reason(error: &WireGuardError) -> DropReason {
    use WireGuardError as E;
    match error {
        E::InvalidMac => DropReason::InboundBadMac,
        E::InvalidAeadTag | E::WrongKey => DropReason::InboundUnauthentic,
        E::InvalidCounter | E::DuplicateCounter => DropReason::InboundReplayed,
        E::NoCurrentSession | E::WrongIndex => DropReason::InboundUnknownIndex,
        E::WrongTai64nTimestamp | E::InvalidTai64nTimestamp | E::UnexpectedPacket | E::ConnectionExpired => {
            DropReason::InboundStaleHandshake
        }
        E::UnderLoad => DropReason::InboundHandshakeOverload,
        E::InvalidPacket => DropReason::InboundInnerMalformed,
        _ => DropReason::InboundMalformed,
    }
}
