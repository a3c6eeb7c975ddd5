//! From the TUN to the network: route, cut, seal, send.

use super::Worker;
use super::departure::{Departure, Sent};
use crate::drops::DropReason;
use crate::frame::Ecn;
use crate::offload::segment::Segments;
use crate::peer::PeerRef;
use crate::peer::noise::Noise;
use crate::port::{Link, Tun, UnitMeta};
use crate::stats::bump;
use crate::wire::ip;
use std::net::IpAddr;

impl<N: Noise, T: Tun, L: Link> Worker<N, T, L> {
    /// Seals every unit of the batch.
    pub(super) fn outbound(&mut self) {
        let mut memo: Option<(IpAddr, PeerRef)> = None;
        let mut touched: Option<PeerRef> = None;
        let mut packets = 0;
        for index in 0..self.batch.len() {
            let (meta, len, bytes) = self.batch.unit(index);
            let count = packets_in(&meta, len);
            packets += count;
            let Some(destination) = ip::destination(&bytes[..len]) else {
                self.drop_packets(DropReason::OutboundMalformed, count);
                continue;
            };
            let routed = match memo {
                Some((known, peer)) if known == destination => Some(peer),
                _ => self.routes.lookup(destination),
            };
            let Some(id) = routed else {
                self.drop_packets(DropReason::OutboundUnrouted, count);
                continue;
            };
            memo = Some((destination, id));
            if touched != Some(id) {
                touched = Some(id);
                self.touch(id);
            }
            if let Err(reason) = self.seal(id, index) {
                self.drop_packets(reason, count);
            }
        }
        bump(&self.wiring.stats.tun_rx_units, self.batch.len() as u64);
        bump(&self.wiring.stats.tun_rx_packets, packets);
        self.batch.clear();
    }

    /// Seals unit `index` of the batch for a peer.
    fn seal(&mut self, id: PeerRef, index: usize) -> Result<(), DropReason> {
        let now = self.now;
        let peer = self.peers.peer_mut(id).ok_or(DropReason::OutboundUnrouted)?;
        let endpoint = peer.endpoint.ok_or(DropReason::OutboundNoEndpoint)?;
        let sessions = peer.sessions.as_mut().ok_or(DropReason::OutboundNoIdentity)?;
        // Sessions from before a change of the preshared key serve until the new ones are ready.
        let noise = match &mut peer.retired {
            Some((retired, until)) if !sessions.noise.ready() && retired.noise.ready() && *until > now => {
                &mut retired.noise
            }
            _ => &mut sessions.noise,
        };
        let (meta, len, bytes) = self.batch.unit(index);
        let ecn = Ecn::of_tos(ip::tos(bytes));
        let mut segments = Segments::new(bytes, len, &meta, self.mtu).map_err(|_| DropReason::OutboundMalformed)?;
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
        noise.seal(&mut segments, &mut departure);
        if departure.sent.datagrams > 0 {
            peer.traversed = now;
            bump(&peer.stats.tx_bytes, departure.sent.bytes);
            bump(&peer.stats.tx_packets, departure.sent.datagrams);
        }
        Ok(())
    }
}

/// Packets a unit stands for, near enough for counters.
fn packets_in(meta: &UnitMeta, len: usize) -> u64 {
    meta.gso.map_or(1, |gso| len.div_ceil(usize::from(gso.segment_bytes).max(1)) as u64)
}
