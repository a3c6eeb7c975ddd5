//! Tables of the kernel under `/proc`, as text: locks, sockets, and whose they are.

use super::facts::Holder;
use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The process that holds a `flock` on the file with this device and inode (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 77
/// fd:01:1234 0 EOF`, the numbers of the device in hexadecimal.
pub(super) fn lock_holder(locks: &str, major: u64, minor: u64, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let holder = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        // One that waits for the lock has an arrow before the kind.
        let held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str());
        words.get(4).filter(|_| held)?.parse().ok()
    };
    locks.lines().find_map(holder)
}

/// A bound socket of `/proc/net/{tcp,udp}{,6}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    pub(super) address: SocketAddr,
    pub(super) inode: u64,
}

/// Sockets that take what comes to their address: those of UDP, and those of TCP that listen.
pub(super) fn bound(table: &str, tcp: bool) -> Vec<Bound> {
    /// `TCP_LISTEN` of `net/tcp_states.h`.
    const LISTEN: &str = "0A";
    let read = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (address, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let takes = !tcp || *state == LISTEN;
        takes.then_some(Bound { address: socket_address(address)?, inode: inode.parse().ok()? })
    };
    table.lines().skip(1).filter_map(read).collect()
}

/// `0100007F:0035`: words of the address in the byte order of the machine, then the port.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    if !address.is_ascii() {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match address.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut bytes = [0; 16];
            bytes.chunks_exact_mut(4).zip(words).for_each(|(to, from)| to.copy_from_slice(&from));
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// Whether one who is bound to `bound` keeps another from being bound to `wanted`. The unspecified address of IPv6 takes
/// both families unless told otherwise, as ours does.
pub(super) fn collides(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (bound.ip(), wanted.ip());
    let every = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    bound.port() == wanted.port() && (a == b || every(a, b) || every(b, a))
}

/// Who has which sockets, of the processes that this one may look at.
pub(super) fn socket_owners() -> HashMap<u64, Holder> {
    let mut owners = HashMap::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let target = target.to_string_lossy();
            let inode = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
            if let Some(inode) = inode.and_then(|inode| inode.parse().ok()) {
                owners.insert(inode, Holder::Process { pid, name: process_name(pid) });
            }
        }
    }
    owners
}

/// What a process calls itself.
pub(super) fn process_name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "a process".to_owned(), |name| name.trim().to_owned())
}

/// A line of `/proc/PID/status`.
pub(super) fn status_line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The soft limit on descriptors in `/proc/PID/limits`.
pub(super) fn descriptors_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{Flock, FlockArg};
    use nix::sys::stat::{major, minor};
    use proptest::prelude::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_holder_of_a_lock_is_found_and_one_who_waits_is_not() {
        let text = "1: POSIX  ADVISORY  WRITE 5 fd:01:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 fd:01:99 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 78 fd:01:98 0 EOF\n";
        assert_eq!(lock_holder(text, 0xfd, 1, 99), Some(77));
        assert_eq!(lock_holder(text, 0xfd, 1, 98), None);
        let dir = crate::temp_dir::TempDir::new();
        let file = fs::File::create(dir.join("lock")).unwrap();
        let found = file.metadata().unwrap();
        let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let holder = lock_holder(&locks, major(found.dev()), minor(found.dev()), found.ino());
        assert_eq!(holder, Some(std::process::id()), "{locks}");
    }

    #[test]
    fn sockets_of_this_process_are_found_in_both_families() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let owners = socket_owners();
        for (path, tcp, address) in
            [("/proc/net/tcp", true, tcp.local_addr().unwrap()), ("/proc/net/udp", false, udp.local_addr().unwrap())]
        {
            let table = bound(&fs::read_to_string(path).unwrap(), tcp);
            let found = table.iter().find(|bound| bound.address == address).unwrap();
            let Holder::Process { pid, .. } = owners[&found.inode] else { panic!("{owners:?}") };
            assert_eq!(pid, std::process::id());
        }
        let v6 = "00000000000000000000000001000000:0035";
        let expected = if cfg!(target_endian = "little") { "[::1]:53" } else { "[::100:0]:53" };
        assert_eq!(socket_address(v6), Some(expected.parse().unwrap()));
    }

    #[test]
    fn addresses_collide_as_the_kernel_has_it() {
        let collides = |a: &str, b: &str| collides(a.parse().unwrap(), b.parse().unwrap());
        assert!(collides("0.0.0.0:53", "10.0.0.1:53") && collides("[::]:53", "10.0.0.1:53"));
        assert!(collides("10.0.0.1:53", "0.0.0.0:53") && collides("10.0.0.1:53", "10.0.0.1:53"));
        assert!(!collides("0.0.0.0:53", "[fd00::1]:53") && !collides("127.0.0.53:53", "10.0.0.1:53"));
        assert!(!collides("0.0.0.0:54", "10.0.0.1:53"));
    }

    #[test]
    fn lines_of_a_process() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(u64::from_str_radix(status_line(&own, "CapEff").unwrap(), 16).is_ok());
        assert_eq!(status_line(&own, "Cap"), None);
        assert!(descriptors_max(&fs::read_to_string("/proc/self/limits").unwrap()) > Some(0));
        assert_eq!(descriptors_max("Max open files            unlimited  unlimited  files"), None);
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in any::<String>(), line in "[0-9A-F: ÄFLOCK]{0,60}") {
            let joined = format!("{text}\n{line}");
            bound(&joined, true);
            bound(&joined, false);
            lock_holder(&joined, 1, 2, 3);
            descriptors_max(&joined);
            socket_address(&line);
            socket_address(&text);
        }
    }
}
