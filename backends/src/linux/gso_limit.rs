//! Asks the kernel to build TUN superpackets no larger than one UDP send can carry.
//!
//! By default a TCP superpacket fills 64 KiB, 47 segments at an MTU of 1420. Sealed they are 68 KiB, so each would need
//! a second send for its last two segments. `IFLA_GSO_MAX_SEGS` and `IFLA_GSO_MAX_SIZE` (Linux 6.2 for non-drivers)
//! are only settable over netlink; this one message is not worth a library.

use ginnel_engine::limits::train_packets;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read as _};
use std::time::Duration;

/// `IFLA_GSO_MAX_SEGS` and `IFLA_GSO_MAX_SIZE` of `linux/if_link.h`.
const IFLA_GSO_MAX_SEGS: u16 = 40;
const IFLA_GSO_MAX_SIZE: u16 = 41;

const HEADER_BYTES: usize = 16;
const IFINFO_BYTES: usize = 16;

/// Sets the limits of the interface with this index for its MTU.
///
/// # Errors
/// The kernel's; superpackets then stay as large as they were, which costs speed and nothing else.
pub fn set(interface: u32, mtu: u16) -> io::Result<()> {
    let segments = train_packets(mtu.into());
    let bytes = segments * usize::from(mtu);
    let mut request = Vec::with_capacity(64);
    request.extend(0_u32.to_ne_bytes());
    request.extend(libc::RTM_NEWLINK.to_ne_bytes());
    request.extend(u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default().to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    // struct ifinfomsg: family, padding, type, index, flags, change mask.
    request.extend([0; 4]);
    request.extend(interface.to_ne_bytes());
    request.extend([0; 8]);
    debug_assert_eq!(request.len(), HEADER_BYTES + IFINFO_BYTES);
    for (kind, value) in [(IFLA_GSO_MAX_SEGS, segments), (IFLA_GSO_MAX_SIZE, bytes)] {
        request.extend(8_u16.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(u32::try_from(value).unwrap_or(u32::MAX).to_ne_bytes());
    }
    let len = u32::try_from(request.len()).unwrap_or(0);
    request[..4].copy_from_slice(&len.to_ne_bytes());

    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(libc::NETLINK_ROUTE)))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&request)?;
    let mut answer = [0; 512];
    let len = (&socket).read(&mut answer)?;
    match answer[..len].get(HEADER_BYTES..).and_then(<[u8]>::first_chunk).map(|errno| i32::from_ne_bytes(*errno)) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}
