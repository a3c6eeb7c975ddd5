//! Who has a port: the kernel says no more than that somebody has it, `/proc` says who. Everything here is a look at one
//! moment, for telling people; nothing is decided by it.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Protocols with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Udp,
    Tcp,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A process that this one may look at.
    Process { pid: u32, name: String },
    /// Somebody else's, or the kernel itself.
    Unknown,
}

/// The sockets of this network namespace, and whose they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortTable {
    udp: Vec<Bound>,
    tcp: Vec<Bound>,
    owners: HashMap<u64, Holder>,
}

/// A socket that takes what comes to its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    address: SocketAddr,
    inode: u64,
}

impl Protocol {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

impl PortTable {
    /// As things stand. Looks at every descriptor of every process that it may look at.
    pub(crate) fn read() -> Self {
        let table = |name: &str, tcp| {
            let read = |name: String| bound(&fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default(), tcp);
            [read(name.to_owned()), read(format!("{name}6"))].concat()
        };
        Self { udp: table("udp", false), tcp: table("tcp", true), owners: socket_owners() }
    }

    /// Who keeps one from listening at `wanted`, and where that one does; of several, one that can be named.
    pub(crate) fn holder(&self, protocol: Protocol, wanted: SocketAddr) -> Option<(Holder, SocketAddr)> {
        let table = match protocol {
            Protocol::Udp => &self.udp,
            Protocol::Tcp => &self.tcp,
        };
        let taken = table.iter().filter(|bound| collides(bound.address, wanted));
        let holders =
            taken.map(|bound| (self.owners.get(&bound.inode).cloned().unwrap_or(Holder::Unknown), bound.address));
        holders.max_by_key(|(holder, _)| matches!(holder, Holder::Process { .. }))
    }
}

/// Lines of `/proc/net/{tcp,udp}{,6}`: of UDP all, of TCP those that listen.
fn bound(table: &str, tcp: bool) -> Vec<Bound> {
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
fn collides(bound: SocketAddr, wanted: SocketAddr) -> bool {
    let (a, b) = (bound.ip(), wanted.ip());
    let every = |ip: IpAddr, other: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || other.is_ipv4());
    bound.port() == wanted.port() && (a == b || every(a, b) || every(b, a))
}

/// Who has which sockets, of the processes that this one may look at.
fn socket_owners() -> HashMap<u64, Holder> {
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
pub(crate) fn process_name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "a process".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn we_find_ourselves_in_both_families_and_nobody_where_nobody_is() {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (udp, tcp) = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap());
        let ports = PortTable::read();
        for (protocol, at) in [(Protocol::Udp, udp.local_addr().unwrap()), (Protocol::Tcp, tcp.local_addr().unwrap())] {
            let Some((Holder::Process { pid, .. }, found)) = ports.holder(protocol, at) else { panic!("{at}") };
            assert_eq!((pid, found), (std::process::id(), at));
        }
        assert_eq!(ports.holder(Protocol::Udp, free), None);
    }

    #[test]
    fn lines_are_read() {
        let line =
            "  50: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0 0";
        let found = Bound { address: SocketAddr::from((Ipv4Addr::from(0x0100_007f_u32.to_ne_bytes()), 53)), inode: 77 };
        assert_eq!(bound(&format!("head\n{line}\n"), false), [found]);
        assert_eq!(bound(&format!("head\n{line}\n"), true), []);
        assert_eq!(bound(&format!("head\n{}\n", line.replace(" 07 ", " 0A ")), true), [found]);
    }

    #[test]
    fn addresses_collide_as_the_kernel_has_it() {
        let collides = |a: &str, b: &str| collides(a.parse().unwrap(), b.parse().unwrap());
        assert!(collides("0.0.0.0:53", "10.0.0.1:53") && collides("[::]:53", "10.0.0.1:53"));
        assert!(collides("10.0.0.1:53", "0.0.0.0:53") && collides("10.0.0.1:53", "10.0.0.1:53"));
        assert!(!collides("0.0.0.0:53", "[fd00::1]:53") && !collides("127.0.0.53:53", "10.0.0.1:53"));
        assert!(!collides("0.0.0.0:54", "10.0.0.1:53"));
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in any::<String>(), line in "[0-9A-F: ÄFLOCK]{0,60}") {
            bound(&format!("{text}\n{line}"), true);
            bound(&format!("{text}\n{line}"), false);
            socket_address(&line);
            socket_address(&text);
        }
    }
}
