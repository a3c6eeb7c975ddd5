//! Capabilities of the calling thread (`capabilities(7)`): what it has, and giving some up. Threads that it starts afterwards
//! have what is left.

use super::check;
use std::io;

/// `_LINUX_CAPABILITY_VERSION_3` of `linux/capability.h`: two words per set.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// `struct __user_cap_data_struct`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The capabilities that count now and those that may be made to, a bit for each number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Checked by the kernel.
    pub effective: u64,
    /// The most that may become effective.
    pub permitted: u64,
}

/// What the calling thread has.
///
/// # Errors
/// The kernel's.
pub fn capabilities() -> io::Result<Capabilities> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: this version has two words per set, for which `words` has room; both live through the call.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    check(libc::c_int::try_from(result).unwrap_or(-1))?;
    let [low, high] = words;
    let set = |of: fn(&Word) -> u32| u64::from(of(&high)) << 32 | u64::from(of(&low));
    Ok(Capabilities { effective: set(|word| word.effective), permitted: set(|word| word.permitted) })
}

/// Sets what the calling thread has, and that programs it starts inherit nothing of it.
///
/// # Errors
/// `EPERM` where something is to be permitted that was not.
pub fn set_capabilities(to: Capabilities) -> io::Result<()> {
    let header = Header { version: VERSION, pid: 0 };
    let half = |set: u64, shift: u32| (set >> shift & u64::from(u32::MAX)) as u32;
    let words = [0, 32].map(|shift| Word {
        effective: half(to.effective, shift),
        permitted: half(to.permitted, shift),
        inheritable: 0,
    });
    // SAFETY: this version has two words per set, which `words` are; both are read during the call.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

/// Takes a capability out of those that any program started by this thread could ever get. Harmless where it is not in.
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`, `EINVAL` where the kernel has no capability of this number.
pub fn drop_from_bound(capability: u8) -> io::Result<()> {
    let unused: libc::c_ulong = 0;
    // SAFETY: PR_CAPBSET_DROP takes a number; it reads and writes no memory of ours.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), unused, unused, unused) };
    check(result).map(drop)
}
