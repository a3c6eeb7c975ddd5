//! The datagram port of a virtual host: what a dual-stack UDP socket is to the Linux backend.
//!
//! Sending puts datagrams in an outgoing queue, receiving takes them from an incoming one; whoever owns the host carries
//! them between the queues of different links (see [`super::Network`]). Trains go out as single datagrams, because that
//! is what a wire has, and are gathered again on receipt where coalescing is on, under the rules of UDP GRO: one sender,
//! one destination, one congestion mark, equal sizes, only the last shorter.
//!
//! Errors are those of the Linux socket, and so is the order in which they are looked for.

use super::queue::ByteQueue;
use ginnel_engine::frame::{Ecn, Inbox, Outbox, Outcome, Received, Source, Train};
use ginnel_engine::limits::{INBOX_SLOT_BYTES, INBOX_SLOTS, TRAIN_DATAGRAMS_MAX};
use ginnel_engine::port::{self, Offload, Offloads, Rest, Stall};
use ginnel_engine::wire::message::{DATA_OVERHEAD, Message};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// `ENETUNREACH`.
const NO_ROUTE: i32 = 101;
/// `EMSGSIZE`.
const TOO_LONG: i32 = 90;
/// `EBADF`.
const CLOSED: i32 = 9;

/// What stands in the outer headers of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Congestion mark.
    pub ecn: Ecn,
}

/// What a link does with a single datagram longer than the MTU of its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oversize {
    /// Sends it; fragments are put together again unseen. The sockets of the Linux backend ask for this.
    Fragment,
    /// Refuses it with `EMSGSIZE`.
    Refuse,
}

/// What a link was given by the wire since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    /// Data messages that carry a packet.
    pub packets: u64,
    /// Everything else: handshakes, cookies, keepalives, other protocols, rubbish.
    pub others: u64,
}

/// A virtual UDP socket.
pub struct Link {
    /// Local addresses; the first of a family is the default source. A datagram to another address is not for us.
    pub addresses: Vec<IpAddr>,
    /// The port it is bound to.
    pub port: u16,
    /// MTU of the interface in bytes, IP header included.
    pub mtu: usize,
    /// What happens to single datagrams above it. Trains above it are always refused and go out singly.
    pub oversize: Oversize,
    /// Destinations the host has no route to.
    pub unreachable: Vec<IpAddr>,
    /// The socket buffer is full: nothing is sent.
    pub jammed: bool,
    /// The socket is gone.
    pub closed: bool,
    offloads: Arc<Offloads>,
    incoming: ByteQueue<Way>,
    outgoing: ByteQueue<Way>,
    arrivals: Arrivals,
}

impl Link {
    /// A link on an Ethernet-like interface. Of `offloads` it heeds [`Offload::LinkSegmentation`] and
    /// [`Offload::LinkCoalescing`].
    #[must_use]
    pub fn new(addresses: Vec<IpAddr>, port: u16, offloads: Arc<Offloads>) -> Self {
        Self {
            addresses,
            port,
            mtu: 1_500,
            oversize: Oversize::Fragment,
            unreachable: Vec::new(),
            jammed: false,
            closed: false,
            offloads,
            incoming: ByteQueue::new(),
            outgoing: ByteQueue::new(),
            arrivals: Arrivals::default(),
        }
    }

    /// Whether a datagram to `to` is for this link.
    #[must_use]
    pub fn listens_to(&self, to: SocketAddr) -> bool {
        to.port() == self.port && self.addresses.contains(&to.ip())
    }

    /// A datagram comes from the wire.
    pub fn arrive(&mut self, way: Way, datagram: &[u8]) {
        match Message::classify(datagram) {
            Message::Data { .. } if datagram.len() > DATA_OVERHEAD => self.arrivals.packets += 1,
            _ => self.arrivals.others += 1,
        }
        self.incoming.push(way, datagram);
    }

    /// What has come from the wire so far.
    #[must_use]
    pub fn arrivals(&self) -> Arrivals {
        self.arrivals
    }

    /// Takes the oldest datagram that was sent.
    pub fn depart(&mut self) -> Option<(Way, &[u8])> {
        self.outgoing.pop()
    }

    /// Whether there is something to receive.
    #[must_use]
    pub fn readable(&self) -> bool {
        !self.incoming.is_empty() || self.closed
    }

    /// Sends one train, whole or singly, as far as it goes.
    fn send_train(&mut self, train: &Train) -> Outcome {
        let to = train.endpoint.to;
        if self.closed {
            return Outcome::Refused(CLOSED);
        }
        if self.jammed {
            return Outcome::Overflow;
        }
        let wanted = train.endpoint.source.map(|source| source.address);
        let held = wanted.filter(|wanted| self.addresses.contains(wanted) && wanted.is_ipv4() == to.is_ipv4());
        let default = || self.addresses.iter().copied().find(|address| address.is_ipv4() == to.is_ipv4());
        let Some(from) = held.or_else(default).filter(|_| !self.unreachable.contains(&to.ip())) else {
            return Outcome::Refused(NO_ROUTE);
        };
        let room = self.mtu.saturating_sub(if to.is_ipv4() { 28 } else { 48 });
        let fits = train.datagram_bytes() <= room;
        let in_one_piece = train.whole && train.len() > 1 && self.offloads.usable(Offload::LinkSegmentation);
        if in_one_piece && !fits {
            self.offloads.count_fallback(Offload::LinkSegmentation);
        } else if in_one_piece {
            self.offloads.worked(Offload::LinkSegmentation);
        }
        if !fits && self.oversize == Oversize::Refuse {
            return Outcome::Refused(TOO_LONG);
        }
        let way = Way { from: SocketAddr::new(from, self.port), to, ecn: train.ecn };
        for datagram in train.datagrams() {
            self.outgoing.push(way, datagram);
        }
        match (wanted.is_some() && held.is_none(), in_one_piece && !fits) {
            (true, _) => Outcome::SentUnsourced,
            (_, true) => Outcome::SentSingly,
            _ => Outcome::Sent,
        }
    }

    /// Fills `slot` with the next datagram and those that may be merged with it.
    fn gather(&mut self, slot: &mut [u8]) -> Option<Received> {
        let (way, datagram) = self.incoming.pop()?;
        let datagram_bytes = datagram.len();
        let kept = datagram_bytes.min(slot.len());
        slot[..kept].copy_from_slice(&datagram[..kept]);
        let mut len = kept;
        let mut count = 1;
        let mut open = self.offloads.usable(Offload::LinkCoalescing) && datagram_bytes > 0;
        while let Some((_, next)) = self.incoming.front().filter(|(next, _)| open && *next == way) {
            let bytes = next.len();
            if bytes > datagram_bytes || bytes == 0 || len + bytes > slot.len() || count == TRAIN_DATAGRAMS_MAX {
                break;
            }
            slot[len..len + bytes].copy_from_slice(next);
            len += bytes;
            count += 1;
            open = bytes == datagram_bytes;
            self.incoming.pop();
        }
        if count > 1 {
            self.offloads.worked(Offload::LinkCoalescing);
        }
        Some(Received {
            len,
            datagram_bytes: if count > 1 { datagram_bytes } else { len },
            from: way.from,
            source: Some(Source { address: way.to.ip(), interface: 1 }),
            ecn: way.ecn,
            truncated: kept < datagram_bytes,
        })
    }
}

impl port::Link for Link {
    fn recv(&mut self, inbox: &mut Inbox) -> Result<Rest, Stall> {
        if self.closed {
            return Err(Stall::Closed(CLOSED));
        }
        for index in 0..INBOX_SLOTS {
            let slot = &mut inbox.slots_mut()[index];
            debug_assert_eq!(slot.len(), INBOX_SLOT_BYTES);
            let Some(received) = self.gather(slot) else { break };
            inbox.push(received);
        }
        if inbox.is_empty() { Err(Stall::Empty) } else { Ok(Rest::Perhaps) }
    }

    fn send(&mut self, outbox: &mut Outbox) {
        for train in outbox.trains_mut() {
            train.outcome = self.send_train(train);
        }
    }
}
