//! What rtnetlink tells unasked, in one namespace, for a thread that does nothing else than listen.

use super::HostError;
use super::request::Reply;
use super::socket::{HEADER_BYTES, messages, set_receive_buffer};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::MsgFlags;
use std::os::fd::AsFd;
use std::sync::Arc;

/// `RTNLGRP_LINK` of `linux/rtnetlink.h`.
pub(super) const LINKS: u32 = 1;
/// `RTNLGRP_IPV4_IFADDR`.
pub(super) const ADDRESSES_V4: u32 = 5;
/// `RTNLGRP_IPV4_ROUTE`.
pub(super) const ROUTES_V4: u32 = 7;
/// `RTNLGRP_IPV6_IFADDR`.
pub(super) const ADDRESSES_V6: u32 = 9;
/// `RTNLGRP_IPV6_ROUTE`.
pub(super) const ROUTES_V6: u32 = 11;

/// Larger than any notice.
const NOTICE_BYTES: usize = 64 * 1024;

/// A socket that is told of changes.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    stop: Stop,
    buffer: Vec<u8>,
}

/// Ends a listener from another thread. Clones end the same one.
#[derive(Clone, Debug)]
pub(super) struct Stop(Arc<EventFd>);

/// What a listener heard.
pub(super) enum Heard {
    /// Something changed.
    Notices(Vec<Reply>),
    /// Too much changed: some of it was not told.
    Overrun,
    /// It was stopped, or cannot hear any more.
    End,
}

impl Listener {
    /// Listens to `groups`, in the namespace of the current thread, with room for `bytes` of notices that wait. The kernel
    /// takes only what is used.
    pub(super) fn open(groups: &[u32], bytes: usize) -> Result<Self, HostError> {
        let refused = |error| HostError::io("listen to changes of the network configuration", error);
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(refused)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(refused)?;
        set_receive_buffer(&socket, bytes).map_err(|errno| refused(errno.into()))?;
        for group in groups {
            socket.add_membership(*group).map_err(refused)?;
        }
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|errno| refused(errno.into()))?;
        Ok(Self { socket, stop: Stop(Arc::new(stop)), buffer: Vec::with_capacity(NOTICE_BYTES) })
    }

    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Drops what waits: it is older than what was lost.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(_) => break,
            }
        }
    }

    /// Waits until there is something to hear.
    pub(super) fn hear(&mut self) -> Heard {
        loop {
            let mut wanted = [
                PollFd::new(self.stop.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut wanted, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(_) => return Heard::End,
                Ok(_) => {}
            }
            if wanted[0].any() != Some(false) {
                return Heard::End;
            }
            self.buffer.clear();
            match self.socket.recv_from(&mut self.buffer, 0) {
                // Anybody may send to the socket; the kernel's number is 0.
                Ok((_, from)) if from.port_number() != 0 => {}
                Ok(_) => return Heard::Notices(notices(&self.buffer)),
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::ENOBUFS) => {
                        self.drain();
                        return Heard::Overrun;
                    }
                    Some(Errno::EINTR | Errno::EAGAIN) => {}
                    _ => return Heard::End,
                },
            }
        }
    }
}

impl Stop {
    pub(super) fn stop(&self) {
        // Only a full counter would refuse, which has stopped it.
        let _ = self.0.write(1);
    }
}

fn notices(datagram: &[u8]) -> Vec<Reply> {
    let notice = |(header, body): (&[u8; HEADER_BYTES], &[u8])| Reply {
        kind: u16::from_ne_bytes([header[4], header[5]]),
        body: body.to_vec(),
    };
    messages(datagram).map(notice).collect()
}
