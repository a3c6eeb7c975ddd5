//! The system calls for which no safe wrapper exists: TUN ioctls, `recvmmsg` and `sendmmsg` with their control data.
//!
//! This is the only file of the Linux backend with `unsafe`. Each function checks its inputs so that safe callers cannot
//! misuse it; structures shared with the kernel are built and read here only.

use ginnel_engine::frame::{Ecn, Source};
use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `UDP_SEGMENT` of `linux/udp.h`.
const UDP_SEGMENT: libc::c_int = 103;
/// `UDP_GRO` of `linux/udp.h`.
const UDP_GRO: libc::c_int = 104;

/// Messages of one call.
pub const MESSAGES_MAX: usize = 64;

/// Room for the control data of one message: pktinfo (20 bytes), traffic class, TOS and segment size (4 or less each),
/// each behind a 16-byte header and rounded to 8.
const CONTROL_BYTES: usize = 128;

/// Control data as the kernel wants it aligned.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// Attaches `file`, an open `/dev/net/tun`, to the interface `name`, creating it, with a virtio header before each packet.
///
/// # Errors
/// The kernel's: `EPERM` without `CAP_NET_ADMIN`, `EBUSY` where the interface is another's.
pub fn attach_tun(file: BorrowedFd<'_>, name: &str, multi_queue: bool) -> io::Result<()> {
    let mut flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is, and keeps no pointer to it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) };
    check(result).map(drop)
}

/// Sets the size of the virtio header.
///
/// # Errors
/// The kernel's.
pub fn set_vnet_header_bytes(file: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETVNETHDRSZ, &bytes) };
    check(result).map(drop)
}

/// Tells the kernel which superpackets (`TUN_F_*`) it may hand over.
///
/// # Errors
/// `EINVAL` where the kernel does not know one of them.
pub fn set_tun_offloads(file: BorrowedFd<'_>, offloads: libc::c_uint) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    check(result).map(drop)
}

/// An interface setting that an ioctl on any socket reads or writes.
#[derive(Clone, Copy, Debug)]
pub enum LinkSetting {
    /// The MTU in bytes.
    Mtu,
    /// Packets the interface queues.
    QueueLength,
}

/// Reads the MTU of the interface `name` through `socket`.
///
/// # Errors
/// `ENODEV` where the interface is gone.
pub fn link_mtu(socket: BorrowedFd<'_>, name: &str) -> io::Result<i32> {
    let mut request = interface_request(name)?;
    // SAFETY: SIOCGIFMTU reads the name of one ifreq and writes its integer member.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &mut request) })?;
    // SAFETY: after a successful SIOCGIFMTU the integer member is the one that was written.
    Ok(unsafe { request.ifr_ifru.ifru_mtu })
}

/// Changes a setting of the interface `name` through `socket`.
///
/// # Errors
/// The kernel's.
pub fn set_link(socket: BorrowedFd<'_>, name: &str, setting: LinkSetting, value: i32) -> io::Result<()> {
    let mut request = interface_request(name)?;
    request.ifr_ifru.ifru_mtu = value;
    let code = match setting {
        LinkSetting::Mtu => libc::SIOCSIFMTU,
        LinkSetting::QueueLength => libc::SIOCSIFTXQLEN,
    };
    // SAFETY: both codes read one ifreq, name and integer member.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), code, &request) }).map(drop)
}

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
    /// The buffer was too small, or the control data did not fit.
    pub truncated: bool,
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
            controls: vec![Control([0; CONTROL_BYTES]); messages],
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
            header.msg_control = self.controls[index].0.as_mut_ptr().cast();
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
            truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        };
        let filled: usize = header.msg_controllen as _;
        let filled = filled.min(CONTROL_BYTES);
        for_each_control(&self.controls[index].0[..filled], |level, kind, data| match (level, kind) {
            (libc::SOL_UDP, UDP_GRO) => {
                if let Some(bytes) = data.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) {
                    arrived.datagram_bytes = usize::try_from(bytes).ok().filter(|&bytes| bytes > 0).unwrap_or(len);
                }
            }
            (libc::IPPROTO_IP, libc::IP_TOS) | (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // One byte for IPv4, an int for IPv6.
                let tos = data.first_chunk().map_or_else(
                    || data.first().copied().unwrap_or(0),
                    |bytes| u8::try_from(i32::from_ne_bytes(*bytes) & 0xff).unwrap_or(0),
                );
                arrived.ecn = Ecn::of_tos(tos);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((address, rest)) = data.split_first_chunk::<16>() {
                    let interface = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                    arrived.source = Some(Source { address: unmap(Ipv6Addr::from(*address)), interface });
                }
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // struct in_pktinfo: interface, local address, destination address.
                if let (Some(interface), Some(address)) =
                    (data.first_chunk(), data.get(8..).and_then(<[u8]>::first_chunk::<4>))
                {
                    arrived.source =
                        Some(Source { address: IpAddr::from(*address), interface: u32::from_ne_bytes(*interface) });
                }
            }
            _ => {}
        });
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
            controls: vec![Control([0; CONTROL_BYTES]); MESSAGES_MAX],
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
        let control = &mut self.controls[index].0;
        let mut used = 0;
        if let Some(bytes) = parcel.segment_bytes {
            push_control(control, &mut used, libc::SOL_UDP, UDP_SEGMENT, &bytes.to_ne_bytes());
        }
        if parcel.ecn != Ecn::NOT_ECT {
            let tos = i32::from(parcel.ecn.0).to_ne_bytes();
            let (level, kind) = if parcel.to.is_ipv4() {
                (libc::IPPROTO_IP, libc::IP_TOS)
            } else {
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
            };
            push_control(control, &mut used, level, kind, &tos);
        }
        if let Some(source) = parcel.source {
            push_source(control, &mut used, &source, self.dual_stack || parcel.to.is_ipv6());
        }
        header.msg_control = if used == 0 { std::ptr::null_mut() } else { control.as_mut_ptr().cast() };
        header.msg_controllen = used as _;
    }
}

/// The source address, without an interface: the routing table keeps its say over the way out.
fn push_source(control: &mut [u8; CONTROL_BYTES], used: &mut usize, source: &Source, v6_form: bool) {
    match (source.address, v6_form) {
        (IpAddr::V4(address), false) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&address.octets());
            push_control(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
        (address, _) => {
            let mut info = [0; 20];
            let (octets, scoped) = match address {
                IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), false),
                IpAddr::V6(address) => (address.octets(), address.is_unicast_link_local()),
            };
            info[..16].copy_from_slice(&octets);
            if scoped {
                info[16..].copy_from_slice(&source.interface.to_ne_bytes());
            }
            push_control(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }
}

/// Asks whether the kernel knows `UDP_SEGMENT`, leaving it off: it is given per message.
///
/// # Errors
/// The kernel's.
pub fn probe_segmentation(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_SEGMENT, 1400)?;
    set_option(socket, libc::SOL_UDP, UDP_SEGMENT, 0)
}

/// Has the kernel choose the socket of a reuseport group by the owner of the session: `sockets` sockets, in the order
/// they were bound. Attached to one socket it holds for the group.
///
/// The classic BPF program sees the payload of the datagram. Data messages and cookies carry the receiver's index at byte
/// 4, responses at byte 8; the second byte of an index, in little endian, has the owner in its low bits. Everything else
/// gets an answer that is no socket, for which the kernel falls back to its hash.
///
/// # Errors
/// The kernel's; datagrams are then spread by hash and handed over.
pub fn attach_steering(socket: BorrowedFd<'_>, sockets: u32) -> io::Result<()> {
    const LOAD_BYTE: u16 = 0x30;
    const JUMP_EQUAL: u16 = 0x15;
    const AND: u16 = 0x54;
    const RETURN: u16 = 0x06;
    const RETURN_A: u16 = 0x16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    // Jumps count from the next instruction.
    let mut program = [
        step(LOAD_BYTE, 0, 0, 0),
        step(JUMP_EQUAL, 4, 0, 4),
        step(JUMP_EQUAL, 3, 0, 3),
        step(JUMP_EQUAL, 0, 5, 2),
        step(LOAD_BYTE, 0, 0, 9),
        step(JUMP_EQUAL, 1, 1, 0),
        step(LOAD_BYTE, 0, 0, 5),
        step(AND, 0, 0, sockets.next_power_of_two() - 1),
        step(RETURN_A, 0, 0, 0),
        step(RETURN, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: 10, filter: program.as_mut_ptr() };
    // SAFETY: `filter` points at as many instructions as it says; the kernel copies them during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            socklen(size_of::<libc::sock_fprog>()),
        )
    };
    check(result).map(drop)
}

/// Turns receiving of merged datagrams on.
///
/// # Errors
/// The kernel's.
pub fn enable_coalescing(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_GRO, 1)
}

/// Sets an integer socket option.
///
/// # Errors
/// The kernel's.
pub fn set_option(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is one int, read during the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), socklen(size_of::<libc::c_int>()))
    };
    check(result).map(drop)
}

/// Walks control messages: a header of length (8 bytes), level and type (4 each), then the data, rounded to 8
/// (`CMSG_ALIGN` on 64-bit and, with the length of 4 bytes, on 32-bit systems).
fn for_each_control(mut bytes: &[u8], mut see: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (WORD + 8).next_multiple_of(WORD);
    while bytes.len() >= HEADER {
        let len = bytes.first_chunk::<WORD>().map_or(0, |len| usize::from_ne_bytes(*len));
        let int =
            |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |int| libc::c_int::from_ne_bytes(*int));
        if len < HEADER || len > bytes.len() {
            return;
        }
        see(int(WORD), int(WORD + 4), &bytes[HEADER..len]);
        bytes = bytes.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    }
}

fn push_control(
    control: &mut [u8; CONTROL_BYTES],
    used: &mut usize,
    level: libc::c_int,
    kind: libc::c_int,
    data: &[u8],
) {
    const WORD: usize = size_of::<usize>();
    const HEADER: usize = (WORD + 8).next_multiple_of(WORD);
    let len = HEADER + data.len();
    let Some(room) = control.get_mut(*used..*used + len.next_multiple_of(WORD)) else { return };
    room.fill(0);
    room[..WORD].copy_from_slice(&len.to_ne_bytes());
    room[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
    room[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
    room[HEADER..len].copy_from_slice(data);
    *used += room.len();
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

fn unmap(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn mapped(to: SocketAddr) -> SocketAddrV6 {
    match to {
        SocketAddr::V4(to) => SocketAddrV6::new(to.ip().to_ipv6_mapped(), to.port(), 0, 0),
        SocketAddr::V6(to) => to,
    }
}

fn interface_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if name.is_empty() || name.len() > room || name.bytes().any(|byte| byte == 0) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Ok(request)
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

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_count(result: libc::c_int) -> io::Result<usize> {
    check(result).map(|count| usize::try_from(count).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_messages_round_trip() {
        let mut control = [0; CONTROL_BYTES];
        let mut used = 0;
        push_control(&mut control, &mut used, libc::SOL_UDP, UDP_SEGMENT, &1452_u16.to_ne_bytes());
        push_source(&mut control, &mut used, &Source { address: "192.0.2.7".parse().unwrap(), interface: 3 }, true);
        let mut seen = Vec::new();
        for_each_control(&control[..used], |level, kind, data| seen.push((level, kind, data.to_vec())));
        assert_eq!(seen.len(), 2);
        assert_eq!(seen[0], (libc::SOL_UDP, UDP_SEGMENT, 1452_u16.to_ne_bytes().to_vec()));
        assert_eq!(seen[1].2[10..16], [0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(seen[1].2[16..], [0; 4]);
    }

    #[test]
    fn damaged_control_data_ends_the_walk() {
        for len in [0_usize, 1, 15, 200, usize::MAX] {
            let mut bytes = [0; 32];
            bytes[..size_of::<usize>()].copy_from_slice(&len.to_ne_bytes());
            for_each_control(&bytes, |_, _, _| panic!("a length of {len} was believed"));
        }
    }

    #[test]
    fn names_are_bounded() {
        assert!(interface_request("").is_err());
        assert!(interface_request("0123456789abcde").is_ok());
        assert!(interface_request("0123456789abcdef").is_err());
        assert!(interface_request("a\0b").is_err());
    }
}
