//! Counters shared between a worker, which writes them once per batch, and anyone who reads.

use crate::drops::DropCounters;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The live facts of one peer. The owning worker writes, control reads; no reader ever waits for a batch.
#[derive(Debug, Default)]
pub struct PeerStats {
    /// Bytes of datagrams received from the peer and accepted, WireGuard header included.
    pub rx_bytes: AtomicU64,
    /// Bytes of datagrams sent to the peer, WireGuard header included.
    pub tx_bytes: AtomicU64,
    /// Inner packets received.
    pub rx_packets: AtomicU64,
    /// Inner packets sent.
    pub tx_packets: AtomicU64,
    /// [`crate::tick::Tick`] of the last completed handshake plus one; 0 for never.
    pub handshake_tick: AtomicU64,
    /// Where datagrams go. Locked only when it changes or is read for status, never per packet.
    pub endpoint: Mutex<Option<SocketAddr>>,
}

impl PeerStats {
    /// The current endpoint.
    #[must_use]
    pub fn endpoint(&self) -> Option<SocketAddr> {
        *self.endpoint.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Replaces the endpoint.
    pub fn set_endpoint(&self, endpoint: Option<SocketAddr>) {
        *self.endpoint.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = endpoint;
    }
}

/// The counters of one worker.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// Packets dropped, by reason.
    pub drops: DropCounters,
    /// Units read from TUN: a superpacket counts once.
    pub tun_rx_units: AtomicU64,
    /// Inner packets those units were cut into.
    pub tun_rx_packets: AtomicU64,
    /// Units written to TUN.
    pub tun_tx_units: AtomicU64,
    /// Inner packets those units carried.
    pub tun_tx_packets: AtomicU64,
    /// Trains handed to the socket.
    pub link_tx_trains: AtomicU64,
    /// Datagrams those trains carried.
    pub link_tx_datagrams: AtomicU64,
    /// Trains received.
    pub link_rx_trains: AtomicU64,
    /// Datagrams those trains carried.
    pub link_rx_datagrams: AtomicU64,
    /// Superpackets the TUN refused that were written again one packet at a time.
    pub tun_tx_resegmented: AtomicU64,
    /// Packets handed to the worker that owns their peer.
    pub handed_over: AtomicU64,
    /// Events lost because nobody took them in time.
    pub events_lost: AtomicU64,
}

impl WorkerStats {
    /// The counters with their stable names; drops have their own.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, u64); 11] {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("tun_rx_units", read(&self.tun_rx_units)),
            ("tun_rx_packets", read(&self.tun_rx_packets)),
            ("tun_tx_units", read(&self.tun_tx_units)),
            ("tun_tx_packets", read(&self.tun_tx_packets)),
            ("link_tx_trains", read(&self.link_tx_trains)),
            ("link_tx_datagrams", read(&self.link_tx_datagrams)),
            ("link_rx_trains", read(&self.link_rx_trains)),
            ("link_rx_datagrams", read(&self.link_rx_datagrams)),
            ("tun_tx_resegmented", read(&self.tun_tx_resegmented)),
            ("handed_over", read(&self.handed_over)),
            ("events_lost", read(&self.events_lost)),
        ]
    }
}

/// Adds to a counter that only one thread writes.
pub fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}
