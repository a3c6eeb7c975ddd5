//! Processes, held by a descriptor (`pidfd_open(2)`).

use super::check;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Opens a descriptor of the process with this number. It becomes readable when the process ends, and is never that of
/// another process with the same number.
///
/// # Errors
/// The kernel's: `ESRCH` where there is none, `ENOSYS` before Linux 5.3, `EINVAL` where the number is a thread's.
pub fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let no_flags: libc::c_uint = 0;
    // SAFETY: pidfd_open takes two numbers; it reads and writes no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, no_flags) };
    let fd = check(libc::c_int::try_from(result).unwrap_or(-1))?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
