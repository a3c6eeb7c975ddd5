//! From the TUN to the network: route, cut, seal, send.

use super::Core;
use super::departure::{Departure, Sent};
use super::handoff::Load;
use crate::drops::DropReason;
use crate::frame::{Ecn, TunBatch};
use crate::offload::segment::Segments;
use crate::peer::PeerRef;
use crate::peer::noise::Noise;
use crate::port::{Link, Tun, UnitMeta};
use crate::stats::bump;
use crate::wire::ip;
use std::net::IpAddr;

impl<N: Noise, T: Tun, L: Link> Core<N, T, L> {
    /// Seals every unit of the batch and empties it.
    pub(super) fn outbound(&mut self, batch: &mut TunBatch) {
        let mut memo = Memo::default();
        let mut packets = 0;
        for index in 0..batch.len() {
            let (meta, len, bytes) = batch.unit(index);
            packets += packets_in(&meta, len);
            self.pass(&meta, len, bytes, &mut memo);
        }
        bump(&self.wiring.stats.tun_rx_units, batch.len() as u64);
        bump(&self.wiring.stats.tun_rx_packets, packets);
        batch.clear();
    }

    /// Seals a unit that another worker read.
    pub(super) fn outbound_unit(&mut self, meta: &UnitMeta, len: usize, bytes: &mut [u8]) {
        self.pass(meta, len, bytes, &mut Memo::default());
    }

    /// Seals the unit in the first `len` of `bytes`, hands it to the owner of its peer, or drops it.
    fn pass(&mut self, meta: &UnitMeta, len: usize, bytes: &mut [u8], memo: &mut Memo) {
        let result = self.route(&bytes[..len], memo).and_then(|id| {
            let owner = self.peers.owner(id);
            if owner != self.wiring.worker {
                self.hand_over(owner, Load::Unit(*meta), &bytes[..len], packets_in(meta, len));
                return Ok(());
            }
            self.seal(id, meta, len, bytes)
        });
        if let Err(reason) = result {
            self.drop_packets(reason, packets_in(meta, len));
        }
    }

    fn route(&self, packet: &[u8], memo: &mut Memo) -> Result<PeerRef, DropReason> {
        let destination = ip::destination(packet).ok_or(DropReason::OutboundMalformed)?;
        if let Some((_, peer)) = memo.routed.filter(|(known, _)| *known == destination) {
            return Ok(peer);
        }
        let peer = self.routes.lookup(destination).ok_or(DropReason::OutboundUnrouted)?;
        memo.routed = Some((destination, peer));
        Ok(peer)
    }

    fn seal(&mut self, id: PeerRef, meta: &UnitMeta, len: usize, bytes: &mut [u8]) -> Result<(), DropReason> {
        let now = self.now;
        let peer = self.peers.peer_mut(id).ok_or(DropReason::OutboundUnrouted)?;
        let endpoint = peer.endpoint.ok_or(DropReason::OutboundNoEndpoint)?;
        if peer.sessions.is_none() {
            self.prepare(id);
        }
        let peer = self.peers.peer_mut(id).ok_or(DropReason::OutboundUnrouted)?;
        let sessions = peer.sessions.as_mut().ok_or(DropReason::OutboundNoIdentity)?;
        let ecn = Ecn::of_tos(ip::tos(bytes));
        let mut segments = Segments::new(bytes, len, meta, self.mtu).map_err(|_| DropReason::OutboundMalformed)?;
        let mut departure = Departure {
            outbox: &mut self.outbox,
            link: &mut self.link,
            stats: &self.wiring.stats,
            owner: id.0,
            endpoint,
            ecn,
            whole: peer.singly_until <= now,
            sent: Sent::default(),
        };
        sessions.noise.seal(now, &mut segments, &mut departure);
        if departure.sent.datagrams > 0 {
            peer.traversed = now;
            bump(&peer.stats.tx_bytes, departure.sent.bytes);
            bump(&peer.stats.tx_packets, departure.sent.datagrams);
        }
        self.arm(id);
        Ok(())
    }
}

/// What the unit before this one found out.
#[derive(Default)]
struct Memo {
    routed: Option<(IpAddr, PeerRef)>,
}

/// Packets a unit stands for, near enough for counters.
fn packets_in(meta: &UnitMeta, len: usize) -> u64 {
    meta.gso.map_or(1, |gso| len.div_ceil(usize::from(gso.segment_bytes).max(1)) as u64)
}
