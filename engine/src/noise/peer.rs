//! One peer: what its messages and its timers lead to. The order of its sessions is [`super::keyring`]'s.

use super::aead::Aead;
use super::budget::Rate;
use super::cookie::Jar;
use super::handshake::{Begun, Local, MACS_BYTES, Remote};
use super::hash::{MAC_BYTES, mac};
use super::identity::Identity;
use super::keyring::Keyring;
use super::random::{Random, Seed};
use super::session::{REJECT_AFTER_TIME, Session};
use super::staged::Staged;
use super::stamp::{Stamp, Stamps};
use super::timers::{Due, KEEPALIVE_TIMEOUT, REKEY_TIMEOUT, Timers};
use crate::drops::DropReason;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::limits::TRAIN_BYTES_MAX;
use crate::offload::Plaintexts;
use crate::peer::noise::{Arrival, Departure, Handshake, Noise, Pulse, SessionBase};
use crate::tick::Tick;
use crate::wire::message::{COOKIE_BYTES, DATA_OVERHEAD, INITIATION_BYTES, Message, RESPONSE_BYTES};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Initiations of one peer are answered at this pace, with some at once: as the Linux module, which allows none at once.
const INITIATION_EVERY: Duration = Duration::from_millis(20);
const INITIATION_BURST: u32 = 20;

/// One who only receives asks for new keys when those there are have no more than this left (paper, section 6.2).
const LAST_MOMENT: Duration =
    Duration::from_secs(REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs());

/// See the module.
pub struct Core<A> {
    local: Arc<Local>,
    remote: Remote,
    stamps: Arc<Stamps>,
    random: Random,
    base: SessionBase,
    /// The low byte of the session index drawn last.
    drawn: u8,
    /// The handshake that we began.
    asked: Option<Box<Asked>>,
    pub(super) keyring: Keyring<A>,
    /// Stamp of the last initiation accepted.
    heard: Stamp,
    heard_rate: Rate,
    cookie: Jar,
    staged: Staged,
    timers: Timers,
}

/// A handshake that we began.
struct Asked {
    /// Our index of it.
    index: u32,
    begun: Begun,
    /// As [`Noise::pass`].
    pass: bool,
}

impl<A: Aead> Core<A> {
    /// A session index that no session and no handshake uses.
    fn draw_index(&mut self) -> u32 {
        loop {
            self.drawn = self.drawn.wrapping_add(1);
            let index = self.base.0 << 8 | u32::from(self.drawn);
            let asked = self.asked.as_ref().is_some_and(|asked| asked.index == index);
            if !asked && self.keyring.sessions().all(|session| session.index != index) {
                return index;
            }
        }
    }

    /// Writes both MACs of a message from us.
    fn finish(&mut self, now: Tick, index: u32, message: &mut [u8]) {
        let (body, macs) = message.split_at_mut(message.len() - MACS_BYTES);
        let mac1 = mac(&self.remote.mac_key, &[body]);
        macs[..MAC_BYTES].copy_from_slice(&mac1);
        macs[MAC_BYTES..].copy_from_slice(&self.cookie.mac2(now, index, body, &mac1));
    }

    fn send_initiation(&mut self, now: Tick, departure: &mut impl Departure) {
        let index = self.draw_index();
        let mut message = [0; INITIATION_BYTES];
        let stamp = self.stamps.next(now);
        let begun = self.local.begin(&self.remote, &mut self.random, index, stamp, &mut message);
        let spread = self.random.number();
        self.timers.asked(now, spread);
        // A peer whose key is of low order is asked for nothing.
        let Some(begun) = begun else { return };
        self.asked = Some(Box::new(Asked { index, begun, pass: true }));
        self.finish(now, index, &mut message);
        depart(departure, &message);
    }

    fn answer(&mut self, now: Tick, message: &[u8], departure: &mut impl Departure) -> Result<Handshake, DropReason> {
        let heard = self.local.hear(&self.remote, message).ok_or(DropReason::InboundUnauthentic)?;
        if heard.stamp <= self.heard {
            return Err(DropReason::InboundStaleHandshake);
        }
        if !self.heard_rate.take(now, INITIATION_EVERY, INITIATION_BURST) {
            return Err(DropReason::InboundHandshakeOverload);
        }
        self.heard = heard.stamp;
        let sender = *message.get(4..).and_then(<[u8]>::first_chunk).ok_or(DropReason::InboundMalformed)?;
        let index = self.draw_index();
        let mut response = [0; RESPONSE_BYTES];
        let keys = heard
            .answer(&self.remote, &mut self.random, index, sender, &mut response)
            .ok_or(DropReason::InboundUnauthentic)?;
        self.keyring.answered(Session::new(&keys, index, u32::from_le_bytes(sender), false, now));
        self.finish(now, index, &mut response);
        depart(departure, &response);
        self.timers.received();
        self.timers.sent();
        Ok(Handshake::Continues)
    }

    fn end(
        &mut self,
        now: Tick,
        message: &[u8],
        receiver: u32,
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        let Asked { index, begun, .. } = &**self.asked.as_ref().ok_or(DropReason::InboundStaleHandshake)?;
        if *index != receiver {
            return Err(DropReason::InboundUnknownIndex);
        }
        let keys = self.local.end(begun, &self.remote, message).ok_or(DropReason::InboundUnauthentic)?;
        let sender = message.get(4..).and_then(<[u8]>::first_chunk).ok_or(DropReason::InboundMalformed)?;
        self.keyring.ended(Session::new(&keys, *index, u32::from_le_bytes(*sender), true, now));
        self.asked = None;
        self.timers.settled();
        self.timers.received();
        // Something has to go, so that the peer knows that its answer arrived.
        if self.staged.is_empty() {
            self.keepalive(now, departure);
        } else {
            self.send_staged(now, departure);
        }
        Ok(Handshake::Completed)
    }

    fn send_staged(&mut self, now: Tick, departure: &mut impl Departure) {
        let Some(current) = self.keyring.sealing(now) else { return };
        while let Some(packet) = self.staged.front() {
            if !send(current, packet, departure) {
                break;
            }
            self.staged.pop();
            self.timers.sent_packet(now);
        }
    }

    fn stage(&mut self, packet: &[u8], departure: &mut impl Departure) {
        for _ in 0..self.staged.push(packet) {
            departure.dropped(DropReason::OutboundNoSession);
        }
    }

    /// Asks for new keys where those in use are at their end.
    fn renew(&mut self, now: Tick, departure: &mut impl Departure) {
        if self.keyring.current().is_some_and(|session| session.wants_renewal(now)) {
            self.initiate(now, departure);
        }
    }

    fn give_up(&mut self, departure: &mut impl Departure) {
        self.asked = None;
        for _ in 0..self.staged.clear() {
            departure.dropped(DropReason::OutboundNoSession);
        }
    }
}

fn depart(departure: &mut impl Departure, message: &[u8]) {
    departure.slot(message.len())[..message.len()].copy_from_slice(message);
    departure.push(message.len());
}

/// Sends a packet. False where the session has no counter left.
fn send<A: Aead>(session: &mut Session<A>, packet: &[u8], departure: &mut impl Departure) -> bool {
    let bytes = packet.len() + DATA_OVERHEAD;
    let sealed = session.seal(packet, &mut departure.slot(bytes)[..bytes]);
    if sealed {
        departure.push(bytes);
    }
    sealed
}

impl<A: Aead> Noise for Core<A> {
    type Identity = Identity;

    const CIPHER: &'static str = A::NAME;

    fn identity(key: &PrivateKey, seed: &Seed, random: Random, stamps: &Arc<Stamps>) -> Identity {
        Identity::new(key, seed, random, stamps)
    }

    fn new(identity: &mut Identity, peer: &PublicKey, preshared: Option<&PresharedKey>, base: SessionBase) -> Self {
        let mut random = identity.random.fork();
        Self {
            remote: Remote::new(&identity.local, peer, preshared),
            local: Arc::clone(&identity.local),
            stamps: Arc::clone(&identity.stamps),
            base,
            drawn: random.number() as u8,
            random,
            asked: None,
            keyring: Keyring::new(),
            heard: Stamp::default(),
            heard_rate: Rate::default(),
            cookie: Jar::default(),
            staged: Staged::default(),
            timers: Timers::default(),
        }
    }

    fn screen(
        identity: &mut Identity,
        now: Tick,
        from: SocketAddr,
        message: &[u8],
        pass: Option<&mut bool>,
        reply: &mut [u8; COOKIE_BYTES],
    ) -> Result<usize, DropReason> {
        identity.screen(now, from, message, pass, reply)
    }

    fn pass(&mut self, receiver: u32) -> Option<&mut bool> {
        self.asked.as_mut().filter(|asked| asked.index == receiver).map(|asked| &mut asked.pass)
    }

    fn initiator(identity: &Identity, message: &[u8]) -> Option<PublicKey> {
        identity.local.initiator(message)
    }

    fn set_preshared(&mut self, preshared: Option<&PresharedKey>) -> bool {
        if !self.remote.set_preshared(preshared) {
            return false;
        }
        self.asked = None;
        self.timers.settled();
        let mut wanted = !self.staged.is_empty();
        for session in self.keyring.sessions() {
            session.outdated = true;
            wanted = true;
        }
        wanted
    }

    fn ready(&self, now: Tick) -> bool {
        self.keyring.current().is_some_and(|session| session.seals(now))
    }

    fn seal(&mut self, now: Tick, packets: &mut impl Plaintexts, departure: &mut impl Departure) {
        if !self.staged.is_empty() {
            self.send_staged(now, departure);
        }
        let mut current = self.keyring.sealing(now);
        let mut sent = false;
        while let Some(packet) = packets.next() {
            if packet.len() + DATA_OVERHEAD > TRAIN_BYTES_MAX {
                departure.dropped(DropReason::OutboundOversize);
            } else if current.as_mut().is_some_and(|session| send(session, packet, departure)) {
                sent = true;
            } else {
                current = None;
                self.stage(packet, departure);
            }
        }
        if sent {
            self.timers.sent_packet(now);
            self.renew(now, departure);
        }
        if !self.staged.is_empty() {
            self.initiate(now, departure);
        }
    }

    fn keepalive(&mut self, now: Tick, departure: &mut impl Departure) {
        if self.keyring.sealing(now).is_some_and(|session| send(session, &[], departure)) {
            self.timers.sent();
            self.renew(now, departure);
        } else {
            self.initiate(now, departure);
        }
    }

    fn open(&mut self, now: Tick, receiver: u32, arrival: &mut impl Arrival) -> bool {
        let Some(session) = self.keyring.opening(now, receiver) else {
            while arrival.next().is_some() {
                arrival.dropped(DropReason::InboundUnknownIndex);
            }
            return false;
        };
        let (mut authentic, mut packets) = (false, false);
        while let Some((message, room)) = arrival.next() {
            match session.open(message, room) {
                Ok(bytes) => {
                    authentic = true;
                    packets |= bytes > 0;
                    arrival.opened(bytes);
                }
                Err(reason) => arrival.dropped(reason),
            }
        }
        if !authentic {
            return false;
        }
        let wanting = session.outdated || session.initiator && session.is_older(now, LAST_MOMENT);
        self.timers.received();
        if packets {
            self.timers.received_packet(now);
        }
        if let Some(session) = self.keyring.confirm(receiver) {
            // A handshake with a preshared key that is not in force any more is not the one we may be asking for.
            if !session.outdated {
                self.asked = None;
                self.timers.settled();
            }
            return true;
        }
        if wanting && self.keyring.current().is_some_and(|current| current.index == receiver) {
            // The timers are asked next, and have somewhere to send it.
            self.timers.ask(now);
        }
        false
    }

    fn confirmed(&mut self, now: Tick, departure: &mut impl Departure) {
        self.send_staged(now, departure);
    }

    fn handshake(
        &mut self,
        now: Tick,
        message: &[u8],
        departure: &mut impl Departure,
    ) -> Result<Handshake, DropReason> {
        match Message::classify(message) {
            Message::Initiation => self.answer(now, message, departure),
            Message::Response { receiver } => self.end(now, message, receiver, departure),
            Message::Cookie { receiver } if !self.cookie.awaits(receiver) => Err(DropReason::InboundUnknownIndex),
            Message::Cookie { .. } => {
                let taken = self.cookie.take(now, &self.remote.cookie_key, message);
                if taken { Ok(Handshake::Continues) } else { Err(DropReason::InboundUnauthentic) }
            }
            _ => Err(DropReason::InboundMalformed),
        }
    }

    fn initiate(&mut self, now: Tick, departure: &mut impl Departure) {
        if self.timers.ask(now) {
            self.send_initiation(now, departure);
        }
    }

    fn pulse(&mut self, now: Tick, departure: &mut impl Departure) -> Pulse {
        self.keyring.bury(now);
        let mut pulse = Pulse::Fine;
        while let Some(due) = self.timers.take(now) {
            match due {
                Due::Ask => self.send_initiation(now, departure),
                Due::GiveUp => {
                    self.give_up(departure);
                    pulse = Pulse::Abandoned;
                }
                Due::Keepalive if self.ready(now) => self.keepalive(now, departure),
                // Without keys, whoever waits for an answer asks for some.
                Due::Keepalive => {}
            }
        }
        pulse
    }

    fn due(&self) -> Option<Tick> {
        [self.keyring.end(), self.timers.next()].into_iter().flatten().min()
    }
}
