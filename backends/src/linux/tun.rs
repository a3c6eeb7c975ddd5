//! A TUN queue that passes superpackets both ways (`Documentation/networking/tuntap.rst`, virtio 1.2 section 5.1.6).
//!
//! Every packet has a virtio header of 10 bytes before it, in a buffer of its own, so the engine never sees it. Which
//! superpackets the kernel has is found by asking for all and then for less.

use super::calls::{QueueCalls, Vectored};
use super::gso_limit;
use super::steer::Steering;
use super::sys::{self, LinkSetting};
use crate::backend::Interface;
use crate::device::DeviceError;
use ginnel_engine::frame::TunBatch;
use ginnel_engine::port::{
    Gso, OffReason, Offload, OffloadState, Offloads, PartialChecksum, Rest, Stall, Transport, Tun, TunRefusal, UnitMeta,
};
use socket2::{Domain, Socket, Type};
use std::fs::{File, OpenOptions};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

const TUN_F_CSUM: u32 = 0x01;
const TUN_F_TSO4: u32 = 0x02;
const TUN_F_TSO6: u32 = 0x04;
const TUN_F_TSO_ECN: u32 = 0x08;
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

const HDR_F_NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
pub(crate) const HEADER_BYTES: usize = 10;

/// Superpackets refused one after the other before the offload is given up, once it has worked. A single refusal says
/// more about a packet than about the kernel.
const REFUSALS_MAX: u32 = 8;

/// The default of 500 overflows under bursts: it counts packets while TCP counts superpackets.
const QUEUE_LENGTH: i32 = 2_000;

/// One queue of an interface of ours.
pub struct TunQueue<C = Vectored> {
    file: File,
    calls: C,
    control: UdpSocket,
    name: String,
    index: u32,
    mtu: u16,
    offloads: Arc<Offloads>,
    refusals: [u32; 2],
}

impl TunQueue {
    /// Creates the interface `name` with `queues` queues, one per worker.
    ///
    /// # Errors
    /// [`DeviceError`] saying what is missing.
    pub fn create(name: &str, mtu: u16, queues: usize, offloads: &Arc<Offloads>) -> Result<Vec<Self>, DeviceError> {
        Self::create_over(name, mtu, queues, offloads, || Vectored)
    }
}

impl<C: QueueCalls> TunQueue<C> {
    /// As [`TunQueue::create`], with something between each queue and the kernel.
    ///
    /// # Errors
    /// As [`TunQueue::create`].
    pub fn create_over(
        name: &str,
        mtu: u16,
        queues: usize,
        offloads: &Arc<Offloads>,
        calls: impl Fn() -> C,
    ) -> Result<Vec<Self>, DeviceError> {
        if nix::net::if_::if_nametoindex(name).is_ok() {
            return Err(DeviceError::Exists(name.to_owned()));
        }
        (0..queues).map(|_| Self::open(name, mtu, queues > 1, Arc::clone(offloads), calls())).collect()
    }

    fn open(name: &str, mtu: u16, multi_queue: bool, offloads: Arc<Offloads>, calls: C) -> Result<Self, DeviceError> {
        let system = |action| move |source| DeviceError::System { action, source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")
            .map_err(DeviceError::NoTun)?;
        sys::attach_tun(file.as_fd(), name, multi_queue).map_err(|source| match source.raw_os_error() {
            Some(libc::EPERM) => DeviceError::Denied { action: "creating the interface" },
            Some(libc::EBUSY) => DeviceError::Exists(name.to_owned()),
            _ => DeviceError::System { action: "creating the interface", source },
        })?;
        let header = libc::c_int::try_from(HEADER_BYTES).unwrap_or(0);
        sys::set_vnet_header_bytes(file.as_fd(), header).map_err(system("sizing the header of the interface"))?;
        // Never bound: the loopback link of a fresh namespace is down and has no address to bind to.
        let control = Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(system("opening a control socket"))?.into();
        let index =
            nix::net::if_::if_nametoindex(name).map_err(|errno| system("finding the interface")(errno.into()))?;
        let mut queue = Self { file, calls, control, name: name.to_owned(), index, mtu, offloads, refusals: [0; 2] };
        queue.negotiate();
        sys::set_link(queue.control.as_fd(), name, LinkSetting::Mtu, i32::from(mtu))
            .map_err(system("setting the MTU"))?;
        // Less room for bursts and smaller sends are no reason not to start.
        let _ = sys::set_link(queue.control.as_fd(), name, LinkSetting::QueueLength, QUEUE_LENGTH);
        let _ = gso_limit::set(index, mtu);
        Ok(queue)
    }

    /// Index of the interface.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Has the kernel choose queues by the owners of prefixes, where it can and there is a choice.
    fn steer(queues: &[Self]) -> Option<Steering> {
        let [first, _, ..] = queues else { return None };
        if !first.offloads.usable(Offload::TunSteering) {
            return None;
        }
        let attached = Steering::attach(first.as_fd());
        let state = match &attached {
            Ok(_) => OffloadState::On,
            Err(error) => OffloadState::Off(OffReason::Unsupported(error.raw_os_error().unwrap_or(0))),
        };
        first.offloads.set(Offload::TunSteering, state);
        attached.ok()
    }

    /// Asks the kernel for superpackets: all kinds, then fewer.
    fn negotiate(&mut self) {
        let tcp = TUN_F_TSO4 | TUN_F_TSO6;
        let udp = TUN_F_USO4 | TUN_F_USO6;
        let mut wanted = TUN_F_CSUM;
        if self.offloads.usable(Offload::TunTcp) {
            wanted |= tcp | TUN_F_TSO_ECN;
        }
        if self.offloads.usable(Offload::TunUdp) {
            wanted |= udp;
        }
        let attempts = [wanted, wanted & !udp, wanted & !(udp | TUN_F_TSO_ECN), TUN_F_CSUM, 0];
        let mut errno = 0;
        for attempt in attempts {
            match sys::set_tun_offloads(self.file.as_fd(), attempt) {
                Ok(()) => {
                    for (offload, flags) in [(Offload::TunTcp, tcp), (Offload::TunUdp, udp)] {
                        if self.offloads.usable(offload) && attempt & flags != flags {
                            self.offloads.set(offload, OffloadState::Off(OffReason::Unsupported(errno)));
                        }
                    }
                    return;
                }
                Err(error) => errno = error.raw_os_error().unwrap_or(0),
            }
        }
    }

    /// Draws the conclusion from a superpacket the kernel refused.
    fn refused(&mut self, transport: Transport, errno: i32) -> TunRefusal {
        let offload = offload_of(transport);
        self.offloads.count_fallback(offload);
        let refusals = &mut self.refusals[transport as usize];
        *refusals += 1;
        if self.offloads.state(offload) == OffloadState::Untested || *refusals >= REFUSALS_MAX {
            self.offloads.set(offload, OffloadState::Off(OffReason::Failed(errno)));
        }
        TunRefusal::Superpacket
    }
}

impl<C: QueueCalls> From<Vec<TunQueue<C>>> for Interface<TunQueue<C>> {
    fn from(queues: Vec<TunQueue<C>>) -> Self {
        let index = queues.first().map_or(0, TunQueue::index);
        Self { index, steering: TunQueue::steer(&queues), queues }
    }
}

impl<C> AsFd for TunQueue<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl<C: QueueCalls> Tun for TunQueue<C> {
    fn recv(&mut self, batch: &mut TunBatch) -> Result<Rest, Stall> {
        let mut rest = Rest::Perhaps;
        while let Some(room) = batch.room() {
            let mut header = [0; HEADER_BYTES];
            match self.calls.read(&self.file, &mut header, room) {
                Ok(bytes) if bytes > HEADER_BYTES => {
                    let meta = read_header(&header);
                    if let Some(gso) = meta.gso {
                        self.offloads.worked(offload_of(gso.transport));
                    }
                    batch.push(bytes - HEADER_BYTES, meta);
                }
                // Nothing in it: as good as not there.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if batch.len() == 1 {
                        rest = Rest::Nothing;
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // EBADFD: the interface was deleted. EIO: it is down, which ends.
                    let errno = error.raw_os_error().unwrap_or(0);
                    if batch.is_empty() && errno != libc::EIO {
                        return Err(Stall::Closed(errno));
                    }
                    break;
                }
            }
        }
        if batch.is_empty() { Err(Stall::Empty) } else { Ok(rest) }
    }

    fn send(&mut self, packet: &[u8], meta: &UnitMeta) -> Result<(), TunRefusal> {
        let header = write_header(meta, packet);
        loop {
            let error = match self.calls.write(&self.file, &header, packet) {
                Ok(_) => {
                    if let Some(gso) = meta.gso {
                        self.refusals[gso.transport as usize] = 0;
                        self.offloads.worked(offload_of(gso.transport));
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            let errno = error.raw_os_error().unwrap_or(0);
            return Err(match meta.gso {
                Some(gso) if errno == libc::EINVAL => self.refused(gso.transport, errno),
                _ => TunRefusal::Packet,
            });
        }
    }

    fn takes_superpackets(&self, transport: Transport) -> bool {
        self.offloads.usable(offload_of(transport))
    }

    fn mtu(&mut self) -> u16 {
        let current = sys::link_mtu(self.control.as_fd(), &self.name).ok().and_then(|mtu| u16::try_from(mtu).ok());
        if let Some(mtu) = current.filter(|&mtu| mtu != self.mtu) {
            self.mtu = mtu;
            let _ = gso_limit::set(self.index, mtu);
        }
        self.mtu
    }
}

/// The MTU of the interface `name`, asked through any socket; 0 where there is no such interface.
#[must_use]
pub fn mtu(name: &str, socket: BorrowedFd<'_>) -> u16 {
    sys::link_mtu(socket, name).ok().and_then(|mtu| u16::try_from(mtu).ok()).unwrap_or(0)
}

fn offload_of(transport: Transport) -> Offload {
    match transport {
        Transport::Tcp => Offload::TunTcp,
        Transport::Udp => Offload::TunUdp,
    }
}

pub(crate) fn read_header(header: &[u8; HEADER_BYTES]) -> UnitMeta {
    let [flags, kind, _, _, size_low, size_high, start_low, start_high, offset_low, offset_high] = *header;
    let transport = match kind & !GSO_ECN {
        GSO_TCPV4 | GSO_TCPV6 => Some(Transport::Tcp),
        GSO_UDP_L4 => Some(Transport::Udp),
        _ => None,
    };
    UnitMeta {
        gso: transport.map(|transport| Gso { transport, segment_bytes: u16::from_ne_bytes([size_low, size_high]) }),
        partial_checksum: (flags & HDR_F_NEEDS_CSUM != 0).then(|| PartialChecksum {
            start: u16::from_ne_bytes([start_low, start_high]),
            offset: u16::from_ne_bytes([offset_low, offset_high]),
        }),
    }
}

pub(crate) fn write_header(meta: &UnitMeta, packet: &[u8]) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    if let Some(partial) = meta.partial_checksum {
        header[0] = HDR_F_NEEDS_CSUM;
        header[6..8].copy_from_slice(&partial.start.to_ne_bytes());
        header[8..10].copy_from_slice(&partial.offset.to_ne_bytes());
    }
    if let (Some(gso), Some(partial)) = (meta.gso, meta.partial_checksum) {
        let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
        let transport_at = usize::from(partial.start);
        let (kind, transport_bytes) = match gso.transport {
            Transport::Tcp => {
                let words = packet.get(transport_at + 12).map_or(5, |byte| byte >> 4);
                (if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, u16::from(words) * 4)
            }
            Transport::Udp => (GSO_UDP_L4, 8),
        };
        header[1] = kind;
        header[2..4].copy_from_slice(&(partial.start + transport_bytes).to_ne_bytes());
        header[4..6].copy_from_slice(&gso.segment_bytes.to_ne_bytes());
    } else {
        header[1] = GSO_NONE;
    }
    header
}
