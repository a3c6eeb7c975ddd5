//! `recvmmsg` and `sendmmsg`, many messages a call, with addresses and control data (recvmmsg(2), sendmmsg(2), udp(7)).

use super::control::{CONTROL_BYTES, Control, Wishes, unmap};
use super::{check_count, socklen};
use ginnel_engine::frame::{Ecn, Source};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Messages of one call.
pub const MESSAGES_MAX: usize = 64;

/// A received message.
#[derive(Clone, Copy, Debug)]
pub struct Arrived {
    /// Bytes in its buffer.
    pub len: usize,
    /// Bytes of each datagram in it, or `len`.
    pub datagram_bytes: usize,
    /// Sender; IPv4 unmapped.
    pub from: SocketAddr,
    /// Where it came to.
    pub source: Option<Source>,
    /// Congestion mark.
    pub ecn: Ecn,
    /// The buffer was too small.
    pub truncated: bool,
    /// The control data did not fit: some of the above is not known.
    pub uncontrolled: bool,
}

/// Kernel structures for receiving, made once.
pub struct Receiver {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

// SAFETY: the pointers in `headers` and `vectors` are written at the start of each call from data of the same struct or
// of the caller and are not used after it, so the thread that calls does not matter.
unsafe impl Send for Receiver {}

impl Receiver {
    /// Room for `messages` messages a call.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        Self {
            headers: vec![empty_header(); messages],
            vectors: vec![EMPTY_VECTOR; messages],
            names: vec![empty_name(); messages],
            controls: vec![Control::EMPTY; messages],
        }
    }

    /// Receives at most one message for each of `buffers`, without waiting, and passes what arrived to `take`, in order.
    /// Returns how many there were.
    ///
    /// # Errors
    /// `EAGAIN` where there is none.
    pub fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [Box<[u8]>],
        mut take: impl FnMut(Arrived),
    ) -> io::Result<usize> {
        let count = buffers.len().min(self.headers.len());
        for (index, buffer) in buffers.iter_mut().enumerate().take(count) {
            self.vectors[index] = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            let header = &mut self.headers[index].msg_hdr;
            header.msg_name = (&raw mut self.names[index]).cast();
            header.msg_namelen = socklen(size_of::<libc::sockaddr_storage>());
            header.msg_iov = &raw mut self.vectors[index];
            header.msg_iovlen = 1;
            header.msg_control = self.controls[index].as_mut_ptr().cast();
            // The kernel shortens it on every call.
            header.msg_controllen = CONTROL_BYTES as _;
            header.msg_flags = 0;
        }
        let length = libc::c_uint::try_from(count).unwrap_or(0);
        // SAFETY: the first `count` headers point at one buffer, one name and one control area each, all of the stated
        // size and alive until the call returns; the kernel writes within those sizes only.
        let result = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                length,
                libc::MSG_DONTWAIT as _,
                std::ptr::null_mut(),
            )
        };
        let received = check_count(result)?;
        for index in 0..received.min(count) {
            take(self.arrived(index));
        }
        Ok(received)
    }

    fn arrived(&self, index: usize) -> Arrived {
        let header = &self.headers[index].msg_hdr;
        let len = self.headers[index].msg_len as usize;
        let mut arrived = Arrived {
            len,
            datagram_bytes: len,
            from: read_name(&self.names[index]),
            source: None,
            ecn: Ecn::NOT_ECT,
            truncated: header.msg_flags & libc::MSG_TRUNC != 0,
            uncontrolled: header.msg_flags & libc::MSG_CTRUNC != 0,
        };
        let filled: usize = header.msg_controllen as _;
        let facts = self.controls[index].read(filled);
        arrived.datagram_bytes = facts.datagram_bytes.unwrap_or(len);
        arrived.source = facts.source;
        arrived.ecn = facts.ecn;
        arrived
    }
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub struct Parcel<'a> {
    /// One datagram, or several of `segment_bytes` each.
    pub bytes: &'a [u8],
    /// Cut at these many bytes, if set.
    pub segment_bytes: Option<u16>,
    /// Destination.
    pub to: SocketAddr,
    /// Local address to send from.
    pub source: Option<Source>,
    /// Congestion mark.
    pub ecn: Ecn,
}

/// Kernel structures for sending, made once.
pub struct Sender {
    headers: Vec<libc::mmsghdr>,
    vectors: Vec<libc::iovec>,
    names: Vec<libc::sockaddr_in6>,
    names_v4: Vec<libc::sockaddr_in>,
    controls: Vec<Control>,
    used: usize,
    /// The socket is IPv6 and takes IPv4 destinations in mapped form.
    dual_stack: bool,
}

// SAFETY: as for `Receiver`; between `add` and `send` the pointers refer to `Parcel` bytes, whose lifetime the one caller
// (`Sender::send_all`) holds over both.
unsafe impl Send for Sender {}

impl Sender {
    /// Room for [`MESSAGES_MAX`] messages a call.
    #[must_use]
    pub fn new(dual_stack: bool) -> Self {
        Self {
            headers: vec![empty_header(); MESSAGES_MAX],
            vectors: vec![EMPTY_VECTOR; MESSAGES_MAX],
            names: vec![EMPTY_NAME_V6; MESSAGES_MAX],
            names_v4: vec![EMPTY_NAME_V4; MESSAGES_MAX],
            controls: vec![Control::EMPTY; MESSAGES_MAX],
            used: 0,
            dual_stack,
        }
    }

    /// Sends up to [`MESSAGES_MAX`] parcels without waiting. Returns how many the kernel took, from the first on.
    ///
    /// # Errors
    /// Why the first parcel was not taken.
    pub fn send_all<'a>(
        &mut self,
        socket: BorrowedFd<'_>,
        parcels: impl Iterator<Item = Parcel<'a>>,
    ) -> io::Result<usize> {
        self.used = 0;
        for parcel in parcels.take(MESSAGES_MAX) {
            self.add(&parcel);
        }
        if self.used == 0 {
            return Ok(0);
        }
        let length = libc::c_uint::try_from(self.used).unwrap_or(0);
        // SAFETY: the first `used` headers point at one parcel, one name and one control area each, which live until
        // the call returns; the kernel only reads what they point at.
        let result =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), self.headers.as_mut_ptr(), length, libc::MSG_DONTWAIT as _) };
        check_count(result)
    }

    fn add(&mut self, parcel: &Parcel<'_>) {
        let index = self.used;
        self.used += 1;
        self.vectors[index] =
            libc::iovec { iov_base: parcel.bytes.as_ptr().cast_mut().cast(), iov_len: parcel.bytes.len() };
        let header = &mut self.headers[index].msg_hdr;
        match parcel.to {
            SocketAddr::V4(to) if !self.dual_stack => {
                self.names_v4[index] = libc::sockaddr_in {
                    sin_family: libc::AF_INET as _,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                header.msg_name = (&raw mut self.names_v4[index]).cast();
                header.msg_namelen = socklen(size_of::<libc::sockaddr_in>());
            }
            to => {
                let to = mapped(to);
                self.names[index] = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as _,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: to.scope_id(),
                };
                header.msg_name = (&raw mut self.names[index]).cast();
                header.msg_namelen = socklen(size_of::<libc::sockaddr_in6>());
            }
        }
        header.msg_iov = &raw mut self.vectors[index];
        header.msg_iovlen = 1;
        header.msg_flags = 0;
        let control = &mut self.controls[index];
        let used = control.write(&Wishes {
            segment_bytes: parcel.segment_bytes,
            ecn: parcel.ecn,
            source: parcel.source,
            to_ipv4: parcel.to.is_ipv4(),
            ipv6_socket: self.dual_stack || parcel.to.is_ipv6(),
        });
        header.msg_control = if used == 0 { std::ptr::null_mut() } else { control.as_mut_ptr().cast() };
        header.msg_controllen = used as _;
    }
}

fn read_name(name: &libc::sockaddr_storage) -> SocketAddr {
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, as the family says, and sockaddr_storage is large enough and
            // aligned for every address type.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            SocketAddr::from((name.sin_addr.s_addr.to_ne_bytes(), u16::from_be(name.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, a sockaddr_in6.
            let name = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let address = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            match unmap(address) {
                IpAddr::V4(address) => SocketAddr::from((address, port)),
                IpAddr::V6(address) => SocketAddr::V6(SocketAddrV6::new(address, port, 0, name.sin6_scope_id)),
            }
        }
        _ => any,
    }
}

fn mapped(to: SocketAddr) -> SocketAddrV6 {
    match to {
        SocketAddr::V4(to) => SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0),
        SocketAddr::V6(to) => to,
    }
}

const EMPTY_VECTOR: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
const EMPTY_NAME_V4: libc::sockaddr_in =
    libc::sockaddr_in { sin_family: 0, sin_port: 0, sin_addr: libc::in_addr { s_addr: 0 }, sin_zero: [0; 8] };
const EMPTY_NAME_V6: libc::sockaddr_in6 = libc::sockaddr_in6 {
    sin6_family: 0,
    sin6_port: 0,
    sin6_flowinfo: 0,
    sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
    sin6_scope_id: 0,
};

fn empty_header() -> libc::mmsghdr {
    // SAFETY: plain data with null pointers; every field is written before use.
    unsafe { std::mem::zeroed() }
}

fn empty_name() -> libc::sockaddr_storage {
    // SAFETY: plain data; all zeroes is family AF_UNSPEC.
    unsafe { std::mem::zeroed() }
}
