//! Two ends in memory, or one end and boringtun: what they say to each other, message by message, in virtual time.

mod flood;
mod keys;
mod twin;

use super::random::Seed;
use super::stamp::Stamps;
use super::{Core, Identity, Ring};
use crate::drops::DropReason;
use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::offload::Plaintexts;
use crate::peer::noise::{self, Handshake, Noise as _, Pulse, SessionBase};
use crate::tick::Tick;
use crate::wire::message::Message;
use std::sync::Arc;
use std::time::Duration;

/// Datagrams that were sent, and drops.
#[derive(Default)]
struct Sent {
    buffer: Vec<u8>,
    datagrams: Vec<Vec<u8>>,
    drops: Vec<DropReason>,
}

impl noise::Departure for Sent {
    fn slot(&mut self, bytes: usize) -> &mut [u8] {
        self.buffer.resize(bytes, 0xee);
        &mut self.buffer
    }

    fn push(&mut self, bytes: usize) {
        self.datagrams.push(self.buffer[..bytes].to_vec());
    }

    fn dropped(&mut self, reason: DropReason) {
        self.drops.push(reason);
    }
}

/// Packets to be sealed.
struct Packets(std::vec::IntoIter<Vec<u8>>, Vec<u8>);

impl Plaintexts for Packets {
    fn next(&mut self) -> Option<&[u8]> {
        self.1 = self.0.next()?;
        Some(&self.1)
    }
}

/// One datagram to be opened.
struct Arrived<'a> {
    datagram: Option<&'a [u8]>,
    room: Vec<u8>,
    result: Option<Result<usize, DropReason>>,
}

impl noise::Arrival for Arrived<'_> {
    fn next(&mut self) -> Option<(&[u8], &mut [u8])> {
        self.datagram.take().map(|datagram| (datagram, &mut *self.room))
    }

    fn opened(&mut self, bytes: usize) {
        self.result = Some(Ok(bytes));
    }

    fn dropped(&mut self, reason: DropReason) {
        self.result = Some(Err(reason));
    }
}

/// What came of a datagram.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// A packet, or an empty one.
    Packet(Vec<u8>),
    Handshake(Handshake),
    Dropped(DropReason),
}

struct End {
    identity: Identity,
    core: Core<Ring>,
    now: Tick,
    sent: Sent,
    /// Sessions that a packet confirmed.
    confirmed: u32,
}

fn private(n: u8) -> PrivateKey {
    PrivateKey::new([n; 32])
}

fn preshared(byte: Option<u8>) -> Option<PresharedKey> {
    byte.and_then(|byte| PresharedKey::new([byte; 32]))
}

impl End {
    fn new(n: u8, peer: &PublicKey, psk: Option<u8>) -> Self {
        let seed = Seed::new([n; 32]);
        let stamps = Arc::new(Stamps::new(1_700_000_000_000_000_000));
        let mut identity = Core::<Ring>::identity(&private(n), &seed, seed.random("test", 0), &stamps);
        let core = Core::new(&mut identity, peer, preshared(psk).as_ref(), SessionBase(u32::from(n)));
        Self { identity, core, now: Tick(1_000_000_000), sent: Sent::default(), confirmed: 0 }
    }

    /// Two ends that know each other.
    fn pair() -> [Self; 2] {
        [Self::new(1, &private(2).public(), None), Self::new(2, &private(1).public(), None)]
    }

    /// Seals a packet or has it wait. What was sent.
    fn send(&mut self, packet: &[u8]) -> Vec<Vec<u8>> {
        self.core.seal(self.now, &mut Packets(vec![packet.to_vec()].into_iter(), Vec::new()), &mut self.sent);
        self.take()
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent.datagrams)
    }

    fn pulse(&mut self) -> Pulse {
        self.core.pulse(self.now, &mut self.sent)
    }

    /// As the worker does with a datagram.
    fn hear(&mut self, datagram: &[u8]) -> Came {
        match Message::classify(datagram) {
            Message::Data { receiver, .. } => {
                let mut arrived = Arrived { datagram: Some(datagram), room: vec![0; datagram.len()], result: None };
                if self.core.open(self.now, receiver, &mut arrived) {
                    self.confirmed += 1;
                    self.core.confirmed(self.now, &mut self.sent);
                }
                self.pulse();
                match arrived.result.unwrap() {
                    Ok(bytes) => Came::Packet(arrived.room[..bytes].to_vec()),
                    Err(reason) => Came::Dropped(reason),
                }
            }
            _ => match self.core.handshake(self.now, datagram, &mut self.sent) {
                Ok(handshake) => Came::Handshake(handshake),
                Err(reason) => Came::Dropped(reason),
            },
        }
    }
}

/// Passes everything on until nobody has anything to say. The packets that each end received, empty ones left out.
fn converse(ends: &mut [End; 2]) -> [Vec<Vec<u8>>; 2] {
    let mut received = [Vec::new(), Vec::new()];
    loop {
        let said = [0, 1].map(|n: usize| ends[n].take());
        if said.iter().all(Vec::is_empty) {
            return received;
        }
        for (n, said) in said.into_iter().enumerate() {
            for datagram in said {
                match ends[1 - n].hear(&datagram) {
                    Came::Packet(packet) if !packet.is_empty() => received[1 - n].push(packet),
                    Came::Dropped(reason) => panic!("dropped: {reason:?}"),
                    _ => {}
                }
            }
        }
    }
}

fn pass(ends: &mut [End; 2], span: Duration) {
    for end in ends {
        end.now = end.now + span;
        end.pulse();
    }
}

/// Two ends with a session that the first began.
fn connected() -> [End; 2] {
    let mut ends = End::pair();
    ends[0].core.initiate(ends[0].now, &mut ends[0].sent);
    converse(&mut ends);
    assert!(ends.iter().all(|end| end.core.ready(end.now)) && ends[1].confirmed == 1);
    ends
}
