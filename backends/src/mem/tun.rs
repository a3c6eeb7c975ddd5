//! The packet port of a virtual host: what a TUN queue with `vnet_hdr` is to the Linux backend.
//!
//! The test is the host's network stack: it injects what the stack sends, packets or superpackets, and takes what the
//! stack would get.

use super::queue::ByteQueue;
use ginnel_engine::frame::TunBatch;
use ginnel_engine::port::{
    self, OffReason, Offload, OffloadState, Offloads, Rest, Stall, Transport, TunRefusal, UnitMeta,
};
use std::sync::Arc;

/// `EINVAL`.
const INVALID: i32 = 22;
/// `EBADFD`.
const REMOVED: i32 = 77;

/// A virtual TUN queue.
pub struct Tun {
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// The interface is up. While it is down every write is refused.
    pub up: bool,
    /// The interface is gone.
    pub removed: bool,
    /// TCP superpackets written are refused, whatever the offloads promise.
    pub refuses_tcp: bool,
    /// UDP superpackets written are refused, whatever the offloads promise.
    pub refuses_udp: bool,
    offloads: Arc<Offloads>,
    injected: ByteQueue<UnitMeta>,
    delivered: ByteQueue<UnitMeta>,
}

impl Tun {
    /// An interface that is up. Of `offloads` it heeds [`Offload::TunTcp`] and [`Offload::TunUdp`].
    #[must_use]
    pub fn new(mtu: u16, offloads: Arc<Offloads>) -> Self {
        Self {
            mtu,
            up: true,
            removed: false,
            refuses_tcp: false,
            refuses_udp: false,
            offloads,
            injected: ByteQueue::new(),
            delivered: ByteQueue::new(),
        }
    }

    /// The host's stack sends a unit.
    ///
    /// # Panics
    /// Where it is a superpacket of a transport whose offload is off: no kernel would hand it over.
    pub fn inject(&mut self, unit: &[u8], meta: UnitMeta) {
        if let Some(gso) = meta.gso {
            assert!(self.offloads.usable(offload_of(gso.transport)), "a superpacket without its offload");
            self.offloads.worked(offload_of(gso.transport));
        }
        self.injected.push(meta, unit);
    }

    /// Takes the oldest unit that was delivered to the host.
    pub fn take(&mut self) -> Option<(UnitMeta, &[u8])> {
        self.delivered.pop()
    }

    /// Units delivered and not taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.delivered.len()
    }

    /// Whether there is something to read.
    #[must_use]
    pub fn readable(&self) -> bool {
        !self.injected.is_empty() || self.removed
    }
}

impl port::Tun for Tun {
    fn recv(&mut self, batch: &mut TunBatch) -> Result<Rest, Stall> {
        if self.removed {
            return Err(Stall::Closed(REMOVED));
        }
        while !self.injected.is_empty() {
            let Some(room) = batch.room() else { break };
            let Some((meta, unit)) = self.injected.pop() else { break };
            room[..unit.len()].copy_from_slice(unit);
            let len = unit.len();
            batch.push(len, meta);
        }
        if batch.is_empty() { Err(Stall::Empty) } else { Ok(Rest::Perhaps) }
    }

    fn send(&mut self, packet: &[u8], meta: &UnitMeta) -> Result<(), TunRefusal> {
        // The kernel tells the protocol by the version of the packet.
        let known = packet.first().is_some_and(|first| matches!(first >> 4, 4 | 6));
        if !self.up || self.removed || !known {
            return Err(TunRefusal::Packet);
        }
        if let Some(gso) = meta.gso {
            let offload = offload_of(gso.transport);
            let refuses = if gso.transport == Transport::Tcp { self.refuses_tcp } else { self.refuses_udp };
            if refuses || !self.offloads.usable(offload) {
                self.offloads.count_fallback(offload);
                if self.offloads.state(offload) == OffloadState::Untested {
                    self.offloads.set(offload, OffloadState::Off(OffReason::Failed(INVALID)));
                }
                return Err(TunRefusal::Superpacket);
            }
            self.offloads.worked(offload);
        }
        self.delivered.push(*meta, packet);
        Ok(())
    }

    fn takes_superpackets(&self, transport: Transport) -> bool {
        self.offloads.usable(offload_of(transport))
    }

    fn mtu(&mut self) -> u16 {
        self.mtu
    }
}

fn offload_of(transport: Transport) -> Offload {
    match transport {
        Transport::Tcp => Offload::TunTcp,
        Transport::Udp => Offload::TunUdp,
    }
}
