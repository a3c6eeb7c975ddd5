//! The UDP socket of a device: trains out by `UDP_SEGMENT`, trains in by `UDP_GRO`, several of either per call.
//!
//! One dual-stack socket serves both families; where the kernel has no IPv6, an IPv4 socket does. A train that a path
//! refuses (`EIO`, `EINVAL`, `EMSGSIZE`: no checksum offload behind the route, or a segment above its MTU) goes out one
//! datagram at a time within the same call, and the engine hears of it; the kernel can fragment a single datagram, but
//! not a train.

use super::calls::{Arrived, Messages, SocketCalls};
use super::sys::{self, MESSAGES_MAX, Parcel};
use crate::device::DeviceError;
use ginnel_engine::frame::{Inbox, Outbox, Outcome, Received, Train};
use ginnel_engine::limits::{INBOX_SLOT_BYTES, INBOX_SLOTS};
use ginnel_engine::port::{Link, OffReason, Offload, OffloadState, Offloads, Rest, Stall};
use nix::poll::{PollFd, PollFlags, poll};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

/// Receive buffer of the kernel: 10 ms at 10 Gb/s and as much again.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;
/// Send buffer of the kernel.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// How long a full socket is waited for before packets are dropped, in milliseconds. The TUN fills meanwhile, which slows
/// its senders down; sleeping longer would keep inbound packets waiting.
const FULL_WAIT_MS: u16 = 2;
/// Waits of [`FULL_WAIT_MS`] for one train.
const FULL_WAITS: u32 = 5;

/// Ports the kernel is asked to choose until it is told that there is none.
const CHOICES_MAX: u32 = 8;

/// Merged datagrams that arrived without a word on how they were merged, until merging is turned off. One may be an
/// accident; each costs a search.
const UNCONTROLLED_MAX: u32 = 8;

/// A bound socket.
pub struct UdpLink<C = Messages> {
    socket: Socket,
    calls: C,
    depth: Depth,
    uncontrolled: u32,
    offloads: Arc<Offloads>,
}

/// How many messages to ask for: few while they are large, so that a batch stays in cache; many while they are small.
struct Depth(usize);

impl Depth {
    const LARGE: usize = 2;

    fn observe(&mut self, messages: usize, bytes: usize) {
        self.0 = if bytes >= INBOX_SLOT_BYTES / 2 {
            Self::LARGE
        } else if messages == self.0 {
            (self.0 * 2).min(INBOX_SLOTS)
        } else {
            self.0
        };
    }
}

impl UdpLink {
    /// Binds `count` sockets to `port` on all addresses of both families, one per worker; 0 lets the kernel choose the
    /// port. Several sockets share it as a group that is steered by the owner of the session.
    ///
    /// # Errors
    /// [`DeviceError::PortTaken`] or what else the kernel said.
    pub fn bind_group(
        port: u16,
        fwmark: u32,
        count: usize,
        offloads: &Arc<Offloads>,
    ) -> Result<Vec<Self>, DeviceError> {
        Self::bind_group_over(port, fwmark, count, offloads, |messages| messages)
    }
}

impl<C: SocketCalls> UdpLink<C> {
    /// As [`UdpLink::bind_group`], with something between each socket and the kernel.
    ///
    /// # Errors
    /// As [`UdpLink::bind_group`].
    pub fn bind_group_over(
        port: u16,
        fwmark: u32,
        count: usize,
        offloads: &Arc<Offloads>,
        over: impl Fn(Messages) -> C,
    ) -> Result<Vec<Self>, DeviceError> {
        let bind = |port, shared| Self::bind(port, fwmark, shared, offloads, &over);
        if count == 1 {
            return Ok(vec![bind(port, false)?]);
        }
        let bind_all = || {
            // The first one is bound without the right to share, so that nobody else's socket is shared by mistake.
            let alone = bind(port, false)?;
            let port = alone.port();
            drop(alone);
            (0..count).map(|_| bind(port, true)).collect::<Result<Vec<_>, _>>()
        };
        let mut group = bind_all();
        // Between the two somebody else may take a port that the kernel chose.
        for _ in 1..CHOICES_MAX {
            if port == 0 && matches!(group, Err(DeviceError::PortTaken { .. })) {
                group = bind_all();
            }
        }
        let group = group?;
        if let (Some(first), Ok(count)) = (group.first(), u32::try_from(count)) {
            // Without it datagrams are spread by hash, which costs hand-overs and nothing else.
            if offloads.usable(Offload::LinkSteering) {
                let attached = sys::attach_steering(first.socket.as_fd(), count);
                offloads.set(Offload::LinkSteering, attached.map_or_else(unsupported, |()| OffloadState::On));
            }
        }
        Ok(group)
    }

    fn bind(
        port: u16,
        fwmark: u32,
        shared: bool,
        offloads: &Arc<Offloads>,
        over: impl Fn(Messages) -> C,
    ) -> Result<Self, DeviceError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => DeviceError::PortTaken { port },
            _ => DeviceError::System { action: "binding the UDP socket", source },
        };
        let (socket, dual_stack) = match bind(Domain::IPV6, SocketAddr::from(([0_u16; 8], port)), shared) {
            Ok(socket) => (socket, true),
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => return Err(failed(error)),
            Err(_) => (bind(Domain::IPV4, SocketAddr::from(([0; 4], port)), shared).map_err(failed)?, false),
        };
        tune(socket.as_fd(), dual_stack);
        probe(socket.as_fd(), offloads);
        if fwmark != 0 {
            set_fwmark(socket.as_fd(), fwmark)?;
        }
        Ok(Self {
            socket,
            calls: over(Messages::new(dual_stack)),
            depth: Depth(Depth::LARGE),
            uncontrolled: 0,
            offloads: Arc::clone(offloads),
        })
    }

    /// The port it is bound to.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.socket.local_addr().ok().and_then(|address| address.as_socket()).map_or(0, |address| address.port())
    }

    /// A second handle of the socket, for settings while a worker has the first.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn handle(&self) -> Result<Socket, DeviceError> {
        self.socket.try_clone().map_err(|source| DeviceError::System { action: "duplicating the UDP socket", source })
    }

    /// Sends one train by itself, however it will go. `refused` is the `errno` with which it was refused whole just now.
    fn send_patiently(&mut self, train: &mut Train, mut refused: Option<i32>) {
        let mut source = train.endpoint.source;
        let mut singly = !self.goes_whole(train);
        let mut sent = 0;
        let mut waits = 0;
        let outcome = loop {
            let total = if singly { train.len() } else { 1 };
            if sent >= total {
                break if source != train.endpoint.source {
                    Outcome::SentUnsourced
                } else if singly && train.whole && train.len() > 1 && self.offloads.usable(Offload::LinkSegmentation) {
                    Outcome::SentSingly
                } else {
                    Outcome::Sent
                };
            }
            let errno = match refused.take() {
                Some(errno) => errno,
                None => {
                    let parcels = parcels(train, !singly).skip(sent).map(|parcel| Parcel { source, ..parcel });
                    match self.calls.send(self.socket.as_fd(), parcels) {
                        // Not to get to the first message is as good as a full socket.
                        Ok(0) => libc::EAGAIN,
                        Ok(count) => {
                            sent += count;
                            continue;
                        }
                        Err(error) => error.raw_os_error().unwrap_or(0),
                    }
                }
            };
            match errno {
                libc::EINTR => {}
                libc::EAGAIN | libc::ENOBUFS if waits < FULL_WAITS => {
                    waits += 1;
                    self.wait_for_room();
                }
                libc::EAGAIN | libc::ENOBUFS => break Outcome::Overflow,
                libc::EIO | libc::EINVAL | libc::EMSGSIZE if !singly => {
                    self.offloads.count_fallback(Offload::LinkSegmentation);
                    singly = true;
                }
                libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENODEV | libc::ENETUNREACH | libc::EHOSTUNREACH
                    if source.is_some() =>
                {
                    source = None;
                    // With a source that is gone the first refusal said nothing about trains.
                    singly &= !self.goes_whole(train) || sent > 0;
                }
                errno => break Outcome::Refused(errno),
            }
        };
        train.outcome = outcome;
    }

    fn goes_whole(&self, train: &Train) -> bool {
        train.whole && train.len() > 1 && self.offloads.usable(Offload::LinkSegmentation)
    }

    /// Bytes of each datagram of what arrived, 0 where that is not known.
    fn datagram_bytes(&mut self, arrived: &Arrived) -> usize {
        if arrived.datagram_bytes < arrived.len {
            self.offloads.worked(Offload::LinkCoalescing);
        } else if arrived.uncontrolled && self.offloads.usable(Offload::LinkCoalescing) {
            self.offloads.count_fallback(Offload::LinkCoalescing);
            self.uncontrolled += 1;
            if self.uncontrolled >= UNCONTROLLED_MAX && sys::set_coalescing(self.socket.as_fd(), false).is_ok() {
                self.offloads.set(Offload::LinkCoalescing, OffloadState::Off(OffReason::Failed(0)));
            }
            return 0;
        }
        arrived.datagram_bytes
    }

    fn wait_for_room(&self) {
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        // Ready or not, the next send tells.
        let _ = poll(&mut polled, FULL_WAIT_MS);
    }
}

/// Marks what is sent from a socket.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn set_fwmark(socket: BorrowedFd<'_>, mark: u32) -> Result<(), DeviceError> {
    let value = libc::c_int::from_ne_bytes(mark.to_ne_bytes());
    sys::set_option(socket, libc::SOL_SOCKET, libc::SO_MARK, value).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => DeviceError::Denied { action: "setting the firewall mark" },
        _ => DeviceError::System { action: "setting the firewall mark", source },
    })
}

impl<C> AsFd for UdpLink<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<C: SocketCalls> Link for UdpLink<C> {
    fn recv(&mut self, inbox: &mut Inbox) -> Result<Rest, Stall> {
        let mut arrivals = [None; INBOX_SLOTS];
        let mut count = 0;
        let buffers = &mut inbox.slots_mut()[..self.depth.0];
        let received = self.calls.receive(self.socket.as_fd(), buffers, |arrived| {
            arrivals[count] = Some(arrived);
            count += 1;
        });
        if let Err(error) = received {
            return Err(match error.raw_os_error().unwrap_or(0) {
                // ICMP errors of earlier sends and passing shortages are no reason to give a socket up.
                errno @ (libc::EBADF | libc::ENOTSOCK) => Stall::Closed(errno),
                _ => Stall::Empty,
            });
        }
        let mut bytes = 0;
        for arrived in arrivals.into_iter().flatten() {
            bytes += arrived.len;
            let datagram_bytes = self.datagram_bytes(&arrived);
            inbox.push(Received {
                len: arrived.len,
                datagram_bytes,
                from: arrived.from,
                source: arrived.source,
                ecn: arrived.ecn,
                truncated: arrived.truncated,
            });
        }
        let rest = if count == 1 { Rest::Nothing } else { Rest::Perhaps };
        self.depth.observe(count, bytes);
        if count == 0 { Err(Stall::Empty) } else { Ok(rest) }
    }

    fn send(&mut self, outbox: &mut Outbox) {
        let segmentation = self.offloads.usable(Offload::LinkSegmentation);
        // All trains that go whole, in one call; what is left after an error, and trains that go singly, by themselves.
        let whole = |train: &Train| train.len() == 1 || (train.whole && segmentation);
        let parcels = outbox.trains().take_while(|train| whole(train)).flat_map(|train| parcels(train, true));
        let outcome = self.calls.send(self.socket.as_fd(), parcels.take(MESSAGES_MAX));
        let sent = *outcome.as_ref().unwrap_or(&0);
        // An error is about the first train, if that was to go whole at all.
        let mut refused = outcome.err().and_then(|error| error.raw_os_error());
        for (index, train) in outbox.trains_mut().enumerate() {
            if index < sent {
                train.outcome = Outcome::Sent;
                if train.len() > 1 {
                    self.offloads.worked(Offload::LinkSegmentation);
                }
            } else {
                self.send_patiently(train, refused.take());
            }
        }
    }
}

/// The messages a train goes out in: itself, or its datagrams.
fn parcels(train: &Train, whole: bool) -> impl Iterator<Item = Parcel<'_>> {
    let step = if whole { train.bytes().len() } else { train.datagram_bytes() };
    let segment_bytes = (whole && train.len() > 1).then(|| u16::try_from(train.datagram_bytes()).unwrap_or(u16::MAX));
    train.bytes().chunks(step.max(1)).map(move |bytes| Parcel {
        bytes,
        segment_bytes,
        to: train.endpoint.to,
        source: train.endpoint.source,
        ecn: train.ecn,
    })
}

fn bind(domain: Domain, address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Settings that make the socket better and whose absence is bearable: an old kernel, a missing right.
fn tune(socket: BorrowedFd<'_>, dual_stack: bool) {
    let set = |level, name, value| sys::set_option(socket, level, name, value).is_ok();
    for (forced, plain, bytes) in
        [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)]
    {
        // Without CAP_NET_ADMIN the size is capped by net.core.*mem_max.
        let _ = set(libc::SOL_SOCKET, forced, bytes) || set(libc::SOL_SOCKET, plain, bytes);
    }
    // Do not set DF: as in the Linux module, a path with a smaller MTU fragments instead of swallowing.
    set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT);
    set(libc::IPPROTO_IP, libc::IP_RECVTOS, 1);
    if dual_stack {
        set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT);
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1);
        set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1);
    } else {
        set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1);
    }
}

/// Finds out by use what the kernel has.
fn probe(socket: BorrowedFd<'_>, offloads: &Offloads) {
    if offloads.usable(Offload::LinkSegmentation)
        && let Err(error) = sys::probe_segmentation(socket)
    {
        offloads.set(Offload::LinkSegmentation, unsupported(error));
    }
    if offloads.usable(Offload::LinkCoalescing)
        && let Err(error) = sys::set_coalescing(socket, true)
    {
        offloads.set(Offload::LinkCoalescing, unsupported(error));
    }
}

fn unsupported(error: io::Error) -> OffloadState {
    OffloadState::Off(OffReason::Unsupported(error.raw_os_error().unwrap_or(0)))
}
