//! The system calls for which no safe wrapper exists. This folder holds all `unsafe` of the Linux backend.
//!
//! Each function checks its inputs so that safe callers cannot misuse it; structures shared with the kernel are built and
//! read here only.
//!
//! ```text
//! interface  TUN ioctls and settings of a link
//! bpf        maps and the program that steers packets
//! message    recvmmsg and sendmmsg
//! control    the control data of messages: bytes, no `unsafe`
//! process    pidfd_open
//! heap       what the heap keeps
//! rights     capabilities of the thread
//! local      descriptors from other processes, the groups of a peer
//! mod        socket options, the program that steers datagrams
//! ```

pub mod bpf;
mod control;
mod heap;
mod interface;
mod local;
mod message;
mod process;
mod rights;

pub use heap::{give_heap_back, keep_heap_small};
pub use interface::{LinkSetting, attach_tun, link_mtu, set_link, set_tun_offloads, set_vnet_header_bytes};
pub use local::{DESCRIPTORS_MAX, Received, peer_groups, receive, take_inherited};
pub use message::{Arrived, MESSAGES_MAX, Parcel, Receiver, Sender};
pub use process::open_pidfd;
pub use rights::{Capabilities, capabilities, drop_from_bound, set_capabilities};

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `UDP_SEGMENT` of `linux/udp.h`.
const UDP_SEGMENT: libc::c_int = 103;
/// `UDP_GRO` of `linux/udp.h`.
const UDP_GRO: libc::c_int = 104;

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

/// Turns receiving of merged datagrams on or off.
///
/// # Errors
/// The kernel's.
pub fn set_coalescing(socket: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    set_option(socket, libc::SOL_UDP, UDP_GRO, on.into())
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

fn socklen(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(0)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_count(result: libc::c_int) -> io::Result<usize> {
    check(result).map(|count| usize::try_from(count).unwrap_or(0))
}
