//! The socket: one request at a time, its answers read to their end; or events, as they come.
//!
//! It stays for life in the network namespace of the thread that opened it. netfilter answers while the request is being
//! sent, so a request blocks for as long as the kernel works on it. A timeout is kept against a kernel that does not
//! answer; after it the socket is useless, since a late answer could be taken for that to another request, and says so.

use super::{Frame, Frames, Outcome};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimeout, SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, GetSockOpt, MsgFlags, NetlinkAddr, SetSockOpt, SockFlag, SockProtocol, SockType, bind, connect,
    getsockname, recv, send, socket,
};
use nix::sys::time::TimeVal;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Longest datagram: dumps come in 32 KiB at most (`netlink_dump`), a refusal repeats the frame it refuses, and frames
/// with attributes of attributes stay below 64 KiB.
const RECEIVE_BYTES: usize = 128 * 1024;

/// What may wait unread: thousands of refusals or events. Only a bound, the kernel takes what is used.
const RECEIVE_QUEUE_BYTES: usize = 8 * 1024 * 1024;

/// What may be sent in one piece. Only a bound, as above.
const SEND_QUEUE_BYTES: usize = 16 * 1024 * 1024;

/// What the kernel keeps of the send queue for itself, and room for the frames around a batch.
const SEND_OVERHEAD_BYTES: usize = 64 * 1024;

const ANSWER_WAIT: i64 = 10;

/// Events to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// None: a socket for requests.
    None,
    /// `NFNLGRP_NFTABLES`: every change of the ruleset.
    Nftables,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel refused the socket or a datagram.
    #[error("netfilter netlink: {what}: {errno}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// Messages were lost because they came faster than they were read.
    #[error("netfilter netlink: messages were lost; ask again")]
    Overrun,
    /// No answer came, or came too late.
    #[error("netfilter netlink: the kernel does not answer; open another socket")]
    Silent,
}

/// A socket of `NETLINK_NETFILTER`.
#[derive(Debug)]
pub struct Socket {
    descriptor: OwnedFd,
    port: u32,
    sequence: u32,
    send_bytes_max: usize,
    buffer: Vec<u8>,
    silent: bool,
}

impl Socket {
    /// Opens a socket in the network namespace of this thread.
    ///
    /// # Errors
    /// [`SocketError::System`] where the kernel has no netfilter netlink, or there are no descriptors left.
    pub fn open(group: Group) -> Result<Self, SocketError> {
        let at = |what| move |errno| SocketError::System { what, errno };
        let descriptor =
            socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)
                .map_err(at("open a socket"))?;
        // Group n is bit n - 1 of the address; NFNLGRP_NFTABLES is 7.
        let groups = if group == Group::Nftables { 1 << 6 } else { 0 };
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, groups)).map_err(at("bind a socket"))?;
        // From then on only the kernel is heard.
        connect(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(at("connect a socket"))?;
        let address: NetlinkAddr = getsockname(descriptor.as_raw_fd()).map_err(at("read a socket's address"))?;
        let force = |forced: Result<(), Errno>, asked: &dyn Fn() -> Result<(), Errno>| forced.or_else(|_| asked());
        // Beyond the limits of the system with CAP_NET_ADMIN, as far as they go without.
        force(RcvBufForce.set(&descriptor, &RECEIVE_QUEUE_BYTES), &|| RcvBuf.set(&descriptor, &RECEIVE_QUEUE_BYTES))
            .map_err(at("set the receive queue"))?;
        force(SndBufForce.set(&descriptor, &SEND_QUEUE_BYTES), &|| SndBuf.set(&descriptor, &SEND_QUEUE_BYTES))
            .map_err(at("set the send queue"))?;
        let send_queue = SndBuf.get(&descriptor).map_err(at("read the send queue"))?;
        ReceiveTimeout.set(&descriptor, &TimeVal::new(ANSWER_WAIT, 0)).map_err(at("set a timeout"))?;
        Ok(Self {
            descriptor,
            port: address.pid(),
            sequence: 0,
            send_bytes_max: send_queue.saturating_sub(SEND_OVERHEAD_BYTES),
            buffer: vec![0; RECEIVE_BYTES],
            silent: false,
        })
    }

    /// The number by which events tell who caused them.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Whether the kernel once did not answer, after which the socket is of no use.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// How much can be sent in one piece, in bytes.
    #[must_use]
    pub fn send_bytes_max(&self) -> usize {
        self.send_bytes_max
    }

    /// Reserves `count` sequence numbers and returns the first.
    pub fn sequences(&mut self, count: u32) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(count);
        first
    }

    /// Sends frames in one piece.
    ///
    /// # Errors
    /// [`SocketError::System`] where the kernel does not take them.
    pub fn send(&self, frames: &[u8]) -> Result<(), SocketError> {
        if self.silent {
            return Err(SocketError::Silent);
        }
        loop {
            match send(self.descriptor.as_raw_fd(), frames, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(SocketError::System { what: "send", errno }),
            }
        }
    }

    /// Receives answers until `handle` says that they are complete by returning something.
    ///
    /// # Errors
    /// [`SocketError::Overrun`] and [`SocketError::Silent`].
    pub fn answers<T>(&mut self, mut handle: impl FnMut(&Frame<'_>) -> Option<T>) -> Result<T, SocketError> {
        loop {
            let len = self.receive(MsgFlags::empty())?.ok_or_else(|| {
                self.silent = true;
                SocketError::Silent
            })?;
            let mut complete = None;
            for frame in Frames::new(&self.buffer[..len]) {
                if frame.outcome() == Outcome::Overrun {
                    return Err(SocketError::Overrun);
                }
                if complete.is_none() {
                    complete = handle(&frame);
                }
            }
            if let Some(complete) = complete {
                return Ok(complete);
            }
        }
    }

    /// Hands the events that wait to `handle`. Does not block.
    ///
    /// # Errors
    /// [`SocketError::Overrun`] where some were lost.
    pub fn events(&mut self, mut handle: impl FnMut(&Frame<'_>)) -> Result<(), SocketError> {
        while let Some(len) = self.receive(MsgFlags::MSG_DONTWAIT)? {
            for frame in Frames::new(&self.buffer[..len]) {
                if frame.outcome() == Outcome::Overrun {
                    return Err(SocketError::Overrun);
                }
                handle(&frame);
            }
        }
        Ok(())
    }

    /// Waits until events wait on this socket, `other` has something to read, or `time_max` is over.
    ///
    /// # Errors
    /// [`SocketError::System`].
    pub fn wait(&self, other: BorrowedFd<'_>, time_max: Duration) -> Result<(), SocketError> {
        let mut watched =
            [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN), PollFd::new(other, PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(time_max).unwrap_or(PollTimeout::MAX);
        match poll(&mut watched, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(SocketError::System { what: "wait for events", errno }),
        }
    }

    /// Length of the next datagram, now in the buffer; `None` where none came in time.
    fn receive(&mut self, flags: MsgFlags) -> Result<Option<usize>, SocketError> {
        loop {
            match recv(self.descriptor.as_raw_fd(), &mut self.buffer, flags | MsgFlags::MSG_TRUNC) {
                // A datagram cut off is a datagram lost.
                Ok(len) if len > self.buffer.len() => return Err(SocketError::Overrun),
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::ENOBUFS) => return Err(SocketError::Overrun),
                Err(errno) => return Err(SocketError::System { what: "receive", errno }),
            }
        }
    }
}
