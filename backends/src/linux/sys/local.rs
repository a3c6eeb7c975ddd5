//! Descriptors that come from other processes: beside the bytes of a local socket, or from the service manager at the
//! start. And the groups of whoever is at the other end of such a socket.

use super::{check, socklen};
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Most descriptors taken with one receive. Whatever else a sender adds, the kernel closes.
pub const DESCRIPTORS_MAX: usize = 4;

/// Bytes of a control message's header: a length and two numbers, aligned as the length is.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// Room for the control message of that many descriptors.
const CONTROL_BYTES: usize = HEADER_BYTES + DESCRIPTORS_MAX * size_of::<RawFd>();

/// `SD_LISTEN_FDS_START` of sd-daemon(3).
const FIRST_INHERITED: RawFd = 3;

/// `NGROUPS_MAX` of `linux/limits.h`: no process has more.
const GROUPS_MAX: usize = 65_536;

/// What a receive brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes, 0 at the end of the stream.
    pub bytes: usize,
    /// Descriptors came and could not all be taken: too many of them, or this process has none left.
    pub descriptors_lost: bool,
}

/// Receives bytes into `buffer` and the descriptors that came with them into `descriptors`, closed on `exec`.
///
/// # Errors
/// The kernel's, `EAGAIN` where nothing is there and the socket does not block.
pub fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    descriptors: &mut Vec<OwnedFd>,
) -> Result<Received, io::Error> {
    // Numbers rather than bytes, for the alignment of the headers within.
    let mut control = [0_u64; CONTROL_BYTES.div_ceil(size_of::<u64>())];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a header of nothing but zeroes is one without a name, pieces or control data.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut piece;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_BYTES;
    // SAFETY: `header` describes `buffer` and `control`, which are ours and as long as it says.
    let result = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let bytes = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let received = Received { bytes, descriptors_lost: header.msg_flags & libc::MSG_CTRUNC != 0 };
    if header.msg_controllen == 0 {
        return Ok(received);
    }
    // What did not fit the kernel never gave us; what did is ours also where it had to cut.
    let control = &control.map(u64::to_ne_bytes).concat()[..header.msg_controllen.min(CONTROL_BYTES)];
    descriptors.extend(rights(control).map(adopt));
    Ok(received)
}

/// The descriptor numbers in the only control message a receive without other options can bring (cmsg(3)).
fn rights(control: &[u8]) -> impl Iterator<Item = RawFd> + '_ {
    const LENGTH_BYTES: usize = size_of::<libc::size_t>();
    let number = |at: usize| control.get(at..at + size_of::<libc::c_int>()).map(int);
    let length = control.first_chunk::<LENGTH_BYTES>().map_or(0, |bytes| usize::from_ne_bytes(*bytes));
    let is_rights = number(LENGTH_BYTES) == Some(libc::SOL_SOCKET)
        && number(LENGTH_BYTES + size_of::<libc::c_int>()) == Some(libc::SCM_RIGHTS);
    let body = control.get(HEADER_BYTES..length.min(control.len())).filter(|_| is_rights);
    body.unwrap_or_default().chunks_exact(size_of::<RawFd>()).map(int)
}

fn int(bytes: &[u8]) -> libc::c_int {
    libc::c_int::from_ne_bytes(bytes.try_into().unwrap_or_default())
}

/// The supplementary groups the process at the other end had when it connected (`SO_PEERGROUPS`, unix(7), Linux 4.13).
///
/// # Errors
/// The kernel's.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 32];
    loop {
        let mut length = socklen(size_of_val(groups.as_slice()));
        // SAFETY: `groups` has room for `length` bytes, and any bytes are numbers.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let there = usize::try_from(length).unwrap_or(0) / size_of::<u32>();
        match check(result) {
            Ok(_) => {
                groups.truncate(there);
                return Ok(groups);
            }
            // It says how many there are.
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && groups.len() < there && there <= GROUPS_MAX => {
                groups.resize(there, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Takes the first `count` descriptors that the service manager left for this process, from number 3 on. To be called
/// where the manager's word for it was read (`LISTEN_PID`, `LISTEN_FDS`), before anything else could have such a number;
/// a second call gets nothing. They are closed on `exec` from then on.
#[must_use]
pub fn take_inherited(count: usize) -> Vec<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let numbers = (FIRST_INHERITED..).take(count);
    numbers.take_while(|number| close_on_exec(*number).is_ok()).map(adopt).collect()
}

/// Fails where there is no such descriptor.
fn close_on_exec(number: RawFd) -> Result<(), Errno> {
    // SAFETY: sets a flag of a number in our table; one that is not there is an error.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) }).map(drop)
}

/// For a number that the kernel or the service manager has just given to this process, and that nobody else has.
fn adopt(number: RawFd) -> OwnedFd {
    // SAFETY: both callers own the number and give it up here.
    unsafe { OwnedFd::from_raw_fd(number) }
}
