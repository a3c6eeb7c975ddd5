//! What a worker thread may ask of the kernel (`Documentation/userspace-api/seccomp_filter.rst`): to move packets through the
//! descriptors it has, to wait, and to manage its memory. It opens nothing, connects to nothing, starts nothing and makes
//! nothing executable. Whoever takes over a worker by a packet is left with the traffic, which is bad enough.
//!
//! A call that is not allowed fails with `EPERM`, as it does where the right is missing, and does not end the process: a
//! C library that needs one more call some day must not take the node's network down.

use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, TargetArch, apply_filter};
use std::collections::BTreeMap;
use std::io;

/// Calls that are allowed with any arguments. The first four are the packet path; the kernel lets its calls pass without
/// running the program (the bitmap of Linux 5.11).
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    // Waiting and waking; poll goes on by restart_syscall where the process was stopped meanwhile.
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    // Keys of sessions.
    libc::SYS_getrandom,
    // Memory: what the heap gives back, the rest is below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // A socket that is replaced.
    libc::SYS_close,
    // Signals, and the end of a thread or, after a panic, of the process.
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The program, ready to be put on threads.
#[derive(Clone, Debug)]
pub struct Filter(BpfProgram);

impl Filter {
    /// Makes it.
    ///
    /// # Errors
    /// For a processor the program cannot be made for.
    pub fn new() -> io::Result<Self> {
        let mut rules: BTreeMap<_, _> = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
        rules.extend(by_arguments().map_err(io::Error::other)?);
        let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
        let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch).map_err(io::Error::other)?;
        Ok(Self(filter.try_into().map_err(io::Error::other)?))
    }

    /// Puts it on the calling thread for the rest of its life.
    ///
    /// # Errors
    /// The kernel's: `EINVAL` where it is built without filters.
    pub fn confine(&self) -> io::Result<()> {
        apply_filter(&self.0).map_err(|error| match error {
            seccompiler::Error::Prctl(error) | seccompiler::Error::Seccomp(error) => error,
            error => io::Error::other(error),
        })
    }
}

/// Calls that are allowed with some arguments.
fn by_arguments() -> Result<Vec<(libc::c_long, Vec<SeccompRule>)>, seccompiler::BackendError> {
    let executable = libc::PROT_EXEC.unsigned_abs().into();
    let not_executable = || SeccompRule::new(vec![SeccompCondition::new(2, Dword, MaskedEq(executable), 0)?]);
    // The MTU of the interface, and the offloads it has; that a socket gets its datagrams singly.
    let ioctl = |request| SeccompRule::new(vec![SeccompCondition::new(1, Qword, Eq, request)?]);
    let of_udp = SeccompCondition::new(1, Dword, Eq, libc::SOL_UDP.unsigned_abs().into())?;
    Ok(vec![
        (libc::SYS_mmap, vec![not_executable()?]),
        (libc::SYS_mprotect, vec![not_executable()?]),
        (libc::SYS_ioctl, vec![ioctl(libc::SIOCGIFMTU)?, ioctl(libc::TUNSETOFFLOAD)?]),
        (libc::SYS_setsockopt, vec![SeccompRule::new(vec![of_udp])?]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::hint::black_box;
    use std::net::{TcpListener, UdpSocket};
    use std::process::Command;
    use std::thread;
    use std::time::Instant;

    #[test]
    fn a_confined_thread_moves_packets_and_does_nothing_else() {
        let filter = Filter::new().unwrap();
        let (near, far) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let to = far.local_addr().unwrap();
        let worker = thread::spawn(move || {
            filter.confine().unwrap();
            let denied = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            denied(File::open("/proc/self/status").unwrap_err());
            denied(UdpSocket::bind("127.0.0.1:0").unwrap_err());
            denied(TcpListener::bind("127.0.0.1:0").unwrap_err());
            denied(Command::new("/bin/true").spawn().unwrap_err());
            denied(near.set_broadcast(true).unwrap_err());
            assert!(thread::Builder::new().spawn(|| ()).is_err());
            // Memory small and large, the clock, waiting.
            black_box(vec![1_u8; 100]);
            black_box(vec![1_u8; 8 << 20]);
            thread::park_timeout(std::time::Duration::from_millis(1));
            assert!(Instant::now().elapsed().as_secs() < 60);
            near
        });
        let near = worker.join().unwrap();
        // Others of the process are free, and what the thread held is whole.
        near.send_to(b"out", to).unwrap();
        assert_eq!(far.recv(&mut [0; 8]).unwrap(), 3);
        assert!(File::open("/proc/self/status").is_ok());
    }
}
