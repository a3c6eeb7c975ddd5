//! The two ports of a worker: [`Tun`], inner packets from and to the kernel, and [`Link`], datagrams from and to the
//! network. A backend implements both; the engine knows nothing else of the outside.
//!
//! Neither port blocks. What offloads a port has is its own affair: the engine always speaks in superpackets and trains,
//! and a port that cannot pass one whole takes it apart ([`Link`]) or says so ([`TunRefusal::Superpacket`]). The states
//! are published in [`Offloads`].

use crate::frame::{Inbox, Outbox, TunBatch};
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU64, Ordering};

/// What the engine and the kernel tell each other about one TUN unit: the meaning of a `virtio_net_hdr` without its
/// layout (virtio 1.2, section 5.1.6).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnitMeta {
    /// Set where the unit stands for several packets.
    pub gso: Option<Gso>,
    /// Set where the transport checksum field holds only the pseudo-header sum.
    pub partial_checksum: Option<PartialChecksum>,
}

/// How a superpacket is to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// Transport of the superpacket.
    pub transport: Transport,
    /// Payload bytes of each segment; the last may have fewer.
    pub segment_bytes: u16,
}

/// Transport protocols that have a superpacket form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `VIRTIO_NET_HDR_GSO_TCPV4` or `…TCPV6`, by the version of the packet.
    Tcp,
    /// `VIRTIO_NET_HDR_GSO_UDP_L4`.
    Udp,
}

/// Where a checksum is to be completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialChecksum {
    /// Offset in the packet from which to sum, to its end.
    pub start: u16,
    /// Offset of the checksum field from `start`.
    pub offset: u16,
}

/// What a port may still have after it handed something over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// More, perhaps.
    Perhaps,
    /// It was a lone unit, with nothing behind it: to ask again before the port is ready costs a system call for nothing.
    /// Behind several, more are likely by the time they are dealt with.
    Nothing,
}

/// Ports that are worth asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// The [`Tun`].
    pub tun: bool,
    /// The [`Link`].
    pub link: bool,
}

impl Ready {
    /// Both, also where nobody knows.
    pub const BOTH: Self = Self { tun: true, link: true };
    /// Neither.
    pub const NEITHER: Self = Self { tun: false, link: false };
}

/// Why a port moved nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// Nothing there now; wait for readiness.
    Empty,
    /// The port is gone for good (device removed, socket closed). The `errno`, or 0.
    Closed(i32),
}

/// Why a unit was not written to the TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunRefusal {
    /// Superpackets of this transport are not taken here: the engine writes the packets singly.
    Superpacket,
    /// The unit was refused or there is no room: drop it.
    Packet,
}

/// Inner packets: one queue of a TUN interface.
pub trait Tun {
    /// Reads units into `batch` until it is full or the queue is empty.
    ///
    /// # Errors
    /// [`Stall`] where nothing at all was read.
    fn recv(&mut self, batch: &mut TunBatch) -> Result<Rest, Stall>;

    /// Writes one unit: an IP packet, or a superpacket where `meta.gso` is set.
    ///
    /// # Errors
    /// [`TunRefusal`]; nothing was written then.
    fn send(&mut self, packet: &[u8], meta: &UnitMeta) -> Result<(), TunRefusal>;

    /// Whether superpackets of `transport` are taken at the moment.
    fn takes_superpackets(&self, transport: Transport) -> bool;

    /// The MTU of the interface as it is now, in bytes. Asked about once a second.
    fn mtu(&mut self) -> u16;
}

/// Datagrams: one UDP socket of the device, both families.
pub trait Link {
    /// Receives trains into `inbox`. A train is one datagram, or several equal ones of one sender.
    ///
    /// # Errors
    /// [`Stall`] where nothing at all was received.
    fn recv(&mut self, inbox: &mut Inbox) -> Result<Rest, Stall>;

    /// Sends every train of `outbox` that has not been sent, and notes what became of each in [`crate::frame::Train`].
    /// A train the kernel will not take whole is sent datagram by datagram within the call.
    fn send(&mut self, outbox: &mut Outbox);
}

/// The kernel features a device may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Offload {
    /// TCP superpackets read from and written to the TUN.
    TunTcp,
    /// UDP superpackets read from and written to the TUN.
    TunUdp,
    /// Trains sent in one call (`UDP_SEGMENT`).
    LinkSegmentation,
    /// Trains received in one piece (`UDP_GRO`).
    LinkCoalescing,
    /// Packets read from the queue of the worker that owns their peer, by program (`TUNSETSTEERINGEBPF`).
    TunSteering,
    /// Datagrams received on the socket of that worker (`SO_ATTACH_REUSEPORT_CBPF`).
    LinkSteering,
}

impl Offload {
    /// Every offload.
    pub const ALL: [Offload; 6] = [
        Offload::TunTcp,
        Offload::TunUdp,
        Offload::LinkSegmentation,
        Offload::LinkCoalescing,
        Offload::TunSteering,
        Offload::LinkSteering,
    ];

    /// Its name in `status`, metrics and switches.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Offload::TunTcp => "tun_tcp",
            Offload::TunUdp => "tun_udp",
            Offload::LinkSegmentation => "link_segmentation",
            Offload::LinkCoalescing => "link_coalescing",
            Offload::TunSteering => "tun_steering",
            Offload::LinkSteering => "link_steering",
        }
    }
}

/// What is known of an offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffloadState {
    /// Accepted by the kernel, not used yet.
    Untested,
    /// Seen to work.
    On,
    /// Not used.
    Off(OffReason),
}

/// Why an offload is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffReason {
    /// The operator's switch.
    Operator,
    /// The kernel or backend does not have it; the `errno` of the probe, or 0.
    Unsupported(i32),
    /// It worked at first, or seemed to, and then failed with this `errno`.
    Failed(i32),
}

/// The states of all offloads of a device, written by its ports and read by anyone.
#[derive(Debug, Default)]
pub struct Offloads([OffloadCell; Offload::ALL.len()]);

#[derive(Debug, Default)]
struct OffloadCell {
    state: AtomicU8,
    errno: AtomicI32,
    fallbacks: AtomicU64,
}

impl Offloads {
    /// The state of `offload`.
    #[must_use]
    pub fn state(&self, offload: Offload) -> OffloadState {
        let cell = &self.0[offload as usize];
        let errno = cell.errno.load(Ordering::Relaxed);
        match cell.state.load(Ordering::Relaxed) {
            0 => OffloadState::Untested,
            1 => OffloadState::On,
            2 => OffloadState::Off(OffReason::Operator),
            3 => OffloadState::Off(OffReason::Unsupported(errno)),
            _ => OffloadState::Off(OffReason::Failed(errno)),
        }
    }

    /// Whether `offload` may be used.
    #[must_use]
    pub fn usable(&self, offload: Offload) -> bool {
        self.0[offload as usize].state.load(Ordering::Relaxed) < 2
    }

    /// Sets the state of `offload`.
    pub fn set(&self, offload: Offload, state: OffloadState) {
        let cell = &self.0[offload as usize];
        let (code, errno) = match state {
            OffloadState::Untested => (0, 0),
            OffloadState::On => (1, 0),
            OffloadState::Off(OffReason::Operator) => (2, 0),
            OffloadState::Off(OffReason::Unsupported(errno)) => (3, errno),
            OffloadState::Off(OffReason::Failed(errno)) => (4, errno),
        };
        cell.errno.store(errno, Ordering::Relaxed);
        cell.state.store(code, Ordering::Relaxed);
    }

    /// Notes that `offload` did its work.
    pub fn worked(&self, offload: Offload) {
        let state = &self.0[offload as usize].state;
        if state.load(Ordering::Relaxed) == 0 {
            state.store(1, Ordering::Relaxed);
        }
    }

    /// Counts a batch that went the slow way because `offload` failed on it.
    pub fn count_fallback(&self, offload: Offload) {
        self.0[offload as usize].fallbacks.fetch_add(1, Ordering::Relaxed);
    }

    /// Batches that went the slow way.
    #[must_use]
    pub fn fallbacks(&self, offload: Offload) -> u64 {
        self.0[offload as usize].fallbacks.load(Ordering::Relaxed)
    }
}
