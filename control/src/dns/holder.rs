//! Who has a port that we want: the kernel says only that somebody has it, `/proc` says who.

use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The process that has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Where its socket listens.
    pub at: SocketAddr,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}) at {}", self.name, self.pid, self.at)
    }
}

/// Who keeps us from listening at `wanted`, as far as we may know.
pub(super) fn holder(wanted: SocketAddr) -> Option<Holder> {
    for table in ["udp", "udp6", "tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
        let clashes = text.lines().filter_map(|line| entry(line, table.starts_with("tcp")));
        for (at, inode) in clashes.filter(|(at, _)| clash(*at, wanted)) {
            if let Some((pid, name)) = owner(inode) {
                return Some(Holder { pid, name, at });
            }
        }
    }
    None
}

/// Where the socket of a line listens, and its inode (proc_net_udp, proc_net_tcp).
fn entry(line: &str, stream: bool) -> Option<(SocketAddr, u64)> {
    /// `TCP_LISTEN`.
    const LISTENS: &str = "0A";
    let mut fields = line.split_whitespace().skip(1);
    let local = fields.next()?;
    if stream && fields.nth(1)? != LISTENS {
        return None;
    }
    let inode = fields.nth(if stream { 5 } else { 7 })?.parse().ok()?;
    Some((address(local)?, inode))
}

/// Words of 32 bits in the order of the machine, then the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut bytes = [0; 16];
            for (part, place) in bytes.chunks_exact_mut(4).enumerate() {
                place.copy_from_slice(&word(8 * part)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn clash(held: SocketAddr, wanted: SocketAddr) -> bool {
    let any = held.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        || held.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) && wanted.is_ipv4();
    held.port() == wanted.port() && (any || held.ip() == wanted.ip())
}

fn owner(inode: u64) -> Option<(u32, String)> {
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find_map(|pid: u32| {
        let mut descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
        descriptors.find(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))?;
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some((pid, name.trim_end().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn we_find_ourselves() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr();
        let sockets = (UdpSocket::bind("127.0.0.1:0").unwrap(), TcpListener::bind("[::1]:0").unwrap());
        for at in [sockets.0.local_addr().unwrap(), sockets.1.local_addr().unwrap()] {
            let found = holder(at).unwrap();
            assert_eq!((found.pid, found.at), (std::process::id(), at));
        }
        assert_eq!(holder(udp.unwrap()), None);
    }

    #[test]
    fn addresses_are_read_and_compared() {
        let line =
            "  50: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 77 2 0 0";
        assert_eq!(entry(line, false), Some(("127.0.0.1:53".parse().unwrap(), 77)));
        assert_eq!(entry("  sl  local_address rem_address", false), None);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(clash(at("0.0.0.0:53"), at("10.0.0.1:53")) && clash(at("[::]:53"), at("10.0.0.1:53")));
        assert!(!clash(at("0.0.0.0:53"), at("[fd00::1]:53")) && !clash(at("0.0.0.0:54"), at("10.0.0.1:53")));
    }
}
