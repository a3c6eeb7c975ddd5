//! From the network to the TUN: tell messages apart, open, check the source, coalesce, write.

use super::Core;
use super::departure::{Departure, Sent};
use super::handoff::Load;
use crate::drops::DropReason;
use crate::event::Event;
use crate::frame::{Ecn, Endpoint, Inbox, Received};
use crate::limits::DIVERTED_BYTES_MAX;
use crate::offload::Plaintexts;
use crate::offload::coalesce::{Coalescer, Sink};
use crate::offload::segment::{Segments, TAIL_ROOM};
use crate::peer::PeerRef;
use crate::peer::noise::{self, Noise, SessionBase};
use crate::port::{Link, Transport, Tun, TunRefusal, UnitMeta};
use crate::route::AllowedIps;
use crate::stats::{WorkerStats, bump};
use crate::wire::ip::{self, IpHeader};
use crate::wire::message::{self, DATA_OVERHEAD, Message};
use std::net::IpAddr;

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// Handles every train of the inbox and empties it, then writes what has gathered.
    pub(super) fn inbound(&mut self, inbox: &mut Inbox) {
        let mut datagrams = 0;
        for index in 0..inbox.len() {
            let (mut received, bytes) = inbox.train(index);
            if received.datagram_bytes == 0 {
                received.datagram_bytes = message::stride(bytes);
            }
            datagrams += bytes.len().div_ceil(received.datagram_bytes.max(1)) as u64;
            self.handle_train(&received, false, bytes);
        }
        self.deliver_lanes();
        bump(&self.wiring.stats.link_rx_trains, inbox.len() as u64);
        bump(&self.wiring.stats.link_rx_datagrams, datagrams);
        inbox.clear();
    }

    /// Writes what has gathered.
    pub(super) fn deliver_lanes(&mut self) {
        self.coalescer.flush(&mut Delivery { tun: &mut self.tun, stats: &self.wiring.stats });
    }

    /// Handles a train, received here or by another worker.
    pub(super) fn handle_train(&mut self, received: &Received, screened: bool, train: &[u8]) {
        let stride = received.datagram_bytes.max(1);
        let mut rest = train;
        if received.truncated && !train.is_empty() {
            self.drop_packets(DropReason::InboundTruncated, 1);
            rest = &train[..(train.len() - 1) / stride * stride];
        }
        while !rest.is_empty() {
            let len = self.handle_run(received, screened, stride, rest);
            rest = &rest[len..];
        }
    }

    /// Handles the first datagram, and those behind it that belong to the same session. Returns how many bytes that was.
    fn handle_run(&mut self, received: &Received, screened: bool, stride: usize, train: &[u8]) -> usize {
        let len = train.len().min(stride);
        let datagram = &train[..len];
        let message = Message::classify(datagram);
        match message {
            Message::Data { receiver, .. } => {
                let run = &train[..run_bytes(train, stride)];
                self.open(received, stride, run, receiver);
                return run.len();
            }
            Message::Initiation => self.take_initiation(received, screened, datagram),
            Message::Response { receiver } => self.take_response(received, screened, datagram, receiver),
            Message::Cookie { receiver } => self.take_cookie(received, datagram, receiver),
            Message::Malformed => self.drop_packets(DropReason::InboundMalformed, 1),
            Message::Foreign => self.divert(received, datagram),
        }
        len
    }

    /// The peer with sessions under `base`, if it is this worker's. A run for another worker is handed over.
    pub(super) fn local(
        &mut self,
        base: SessionBase,
        received: &Received,
        screened: bool,
        run: &[u8],
    ) -> Option<PeerRef> {
        let owner = self.peers.base_owner(base);
        let count = run.len().div_ceil(received.datagram_bytes.max(1)) as u64;
        if owner != self.wiring.worker && owner < self.wiring.workers {
            let received = part(received, run);
            self.hand_over(owner, Load::Train { received, screened }, run, count);
            return None;
        }
        let found = self.peers.of_base(base);
        if found.is_none() {
            self.drop_packets(DropReason::InboundUnknownIndex, count);
        }
        found
    }

    /// Opens a run of data messages of one session.
    fn open(&mut self, received: &Received, stride: usize, run: &[u8], receiver: u32) {
        let base = SessionBase::of_index(receiver);
        let Some(id) = self.local(base, received, false, run) else { return };
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let Some(sessions) = &mut peer.sessions else { return };
        let mut arrival = Arrival {
            train: run,
            stride,
            coalescer: &mut self.coalescer,
            delivery: Delivery { tun: &mut self.tun, stats: &self.wiring.stats },
            routes: &self.routes,
            peer: id,
            ecn: received.ecn,
            source: None,
            authentic: Sent::default(),
            packets: 0,
            current: 0,
        };
        let confirmed = sessions.noise.open(now, receiver, &mut arrival);
        let (authentic, packets) = (arrival.authentic, arrival.packets);
        if authentic.datagrams == 0 {
            return;
        }
        peer.traversed = now;
        bump(&peer.stats.rx_bytes, authentic.bytes);
        bump(&peer.stats.rx_packets, packets);
        self.heard_from(id, received);
        if confirmed {
            self.confirm(id);
        }
        self.arm(id);
    }

    /// A session is used by its peer for the first time: it is confirmed, and what waited for it can go.
    fn confirm(&mut self, id: PeerRef) {
        self.completed(id);
        let now = self.now;
        let Some(peer) = self.peers.peer_mut(id) else { return };
        let (Some(sessions), Some(endpoint)) = (&mut peer.sessions, peer.endpoint) else { return };
        let mut departure = Departure::new(&mut self.outbox, &mut self.link, &self.wiring.stats, id.0, endpoint);
        sessions.noise.confirmed(now, &mut departure);
        bump(&peer.stats.tx_bytes, departure.sent.bytes);
        bump(&peer.stats.tx_packets, departure.sent.datagrams);
    }

    /// An authenticated message came from there: answers go there (paper, section 2.1).
    pub(super) fn heard_from(&mut self, id: PeerRef, received: &Received) {
        let heard = Endpoint { to: received.from, source: received.source };
        let Some(peer) = self.peers.peer_mut(id).filter(|peer| peer.endpoint != Some(heard)) else { return };
        let moved = peer.endpoint.is_none_or(|known| known.to != heard.to);
        peer.endpoint = Some(heard);
        if moved {
            peer.singly_until = crate::tick::Tick::default();
            peer.stats.set_endpoint(Some(heard.to));
            let event = Event::EndpointChanged { peer: peer.key, endpoint: heard.to };
            self.tell(event);
        }
    }

    /// Passes on what is not WireGuard.
    fn divert(&mut self, received: &Received, datagram: &[u8]) {
        if datagram.len() > DIVERTED_BYTES_MAX {
            return self.drop_packets(DropReason::InboundDivertOverflow, 1);
        }
        let event = Event::Diverted { from: received.from, datagram: datagram.to_vec() };
        if self.wiring.events.try_send(event).is_err() {
            self.drop_packets(DropReason::InboundDivertOverflow, 1);
        }
    }
}

/// The facts of a part of a train. What the kernel cut off is no part of it any more.
pub(super) fn part(received: &Received, bytes: &[u8]) -> Received {
    Received { len: bytes.len(), truncated: false, ..*received }
}

/// Bytes of the run of data messages at the start of `train`: all of one session.
fn run_bytes(train: &[u8], stride: usize) -> usize {
    // Type and receiver index side by side.
    let head = &train[..8];
    let mut end = train.len().min(stride);
    while let Some(next) = train.get(end..) {
        let same = next.len() >= DATA_OVERHEAD && &next[..8] == head;
        if !same {
            break;
        }
        end = train.len().min(end + stride);
    }
    end
}

/// One run on its way through the cipher to the lanes.
struct Arrival<'a, T> {
    /// What is left of the run.
    train: &'a [u8],
    stride: usize,
    coalescer: &'a mut Coalescer,
    delivery: Delivery<'a, T>,
    routes: &'a AllowedIps<PeerRef>,
    peer: PeerRef,
    ecn: Ecn,
    /// The last source address that was allowed.
    source: Option<IpAddr>,
    authentic: Sent,
    packets: u64,
    /// Bytes of the datagram being opened.
    current: usize,
}

impl<T: Tun> noise::Arrival for Arrival<'_, T> {
    fn next(&mut self) -> Option<(&[u8], &mut [u8])> {
        let (datagram, rest) = self.train.split_at_checked(self.stride).unwrap_or((self.train, &[]));
        if datagram.is_empty() {
            return None;
        }
        self.train = rest;
        self.current = datagram.len();
        Some((datagram, self.coalescer.room(datagram.len())))
    }

    fn opened(&mut self, bytes: usize) {
        self.authentic.datagrams += 1;
        self.authentic.bytes += self.current as u64;
        if bytes == 0 {
            return self.coalescer.discard();
        }
        match self.admit(bytes) {
            Ok(header) => {
                self.packets += 1;
                self.coalescer.settle(&header, &mut self.delivery);
            }
            Err(reason) => noise::Arrival::dropped(self, reason),
        }
    }

    fn dropped(&mut self, reason: DropReason) {
        self.coalescer.discard();
        self.delivery.stats.drops.add(reason, 1);
    }
}

impl<T: Tun> Arrival<'_, T> {
    /// Whether the opened packet may come from this peer; merges the congestion marks.
    fn admit(&mut self, bytes: usize) -> Result<IpHeader, DropReason> {
        let packet = self.coalescer.packet_mut(bytes);
        let header = IpHeader::parse(packet).ok_or(DropReason::InboundInnerMalformed)?;
        let source = ip::source(packet).ok_or(DropReason::InboundInnerMalformed)?;
        if self.source != Some(source) {
            // Longest match over all peers, not "among this peer's prefixes": a more specific prefix of another peer
            // takes the address away (paper, section 2).
            if self.routes.lookup(source) != Some(self.peer) {
                return Err(DropReason::InboundForeignSource);
            }
            self.source = Some(source);
        }
        let inner = Ecn::of_tos(ip::tos(packet));
        let merged = ip::merge_ecn(inner, self.ecn).ok_or(DropReason::InboundCongested)?;
        if merged != inner {
            ip::set_ecn(packet, merged);
        }
        Ok(header)
    }
}

/// Writes units to the TUN.
struct Delivery<'a, T> {
    tun: &'a mut T,
    stats: &'a WorkerStats,
}

impl<T: Tun> Sink for Delivery<'_, T> {
    fn deliver(&mut self, bytes: &mut [u8], len: usize, meta: &UnitMeta, packets: u16) {
        let packets = u64::from(packets);
        match self.tun.send(&bytes[..len], meta) {
            Ok(()) => {
                bump(&self.stats.tun_tx_units, 1);
                bump(&self.stats.tun_tx_packets, packets);
            }
            Err(TunRefusal::Superpacket) => {
                bump(&self.stats.tun_tx_resegmented, 1);
                self.deliver_singly(&mut bytes[..len + TAIL_ROOM], len, meta, packets);
            }
            Err(TunRefusal::Packet) => self.stats.drops.add(DropReason::InboundTunRefused, packets),
        }
    }

    fn takes_superpackets(&self, transport: Transport) -> bool {
        self.tun.takes_superpackets(transport)
    }
}

impl<T: Tun> Delivery<'_, T> {
    /// Takes a superpacket apart again that the kernel would not have.
    fn deliver_singly(&mut self, bytes: &mut [u8], len: usize, meta: &UnitMeta, packets: u64) {
        // An MTU of 0 asks for no padding.
        let Ok(mut segments) = Segments::new(bytes, len, meta, 0) else {
            return self.stats.drops.add(DropReason::InboundTunRefused, packets);
        };
        while let Some(packet) = segments.next() {
            match self.tun.send(packet, &UnitMeta::default()) {
                Ok(()) => {
                    bump(&self.stats.tun_tx_units, 1);
                    bump(&self.stats.tun_tx_packets, 1);
                }
                Err(_) => self.stats.drops.add(DropReason::InboundTunRefused, 1),
            }
        }
    }
}
