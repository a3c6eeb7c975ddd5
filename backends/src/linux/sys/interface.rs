//! TUN ioctls (`Documentation/networking/tuntap.rst`) and the link settings that an ioctl on any socket changes
//! (netdevice(7)).

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        assert!(interface_request("").is_err());
        assert!(interface_request("0123456789abcde").is_ok());
        assert!(interface_request("0123456789abcdef").is_err());
        assert!(interface_request("a\0b").is_err());
    }
}
