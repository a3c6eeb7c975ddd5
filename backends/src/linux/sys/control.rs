//! The control data of messages, as bytes (cmsg(3)): what goes with a datagram beside its payload and address.
//!
//! A control message is a header of length (a word), level and type (4 bytes each), then data, rounded to a word.

use super::{UDP_GRO, UDP_SEGMENT};
use ginnel_engine::frame::{Ecn, Source};
use std::mem::size_of;
use std::net::{IpAddr, Ipv6Addr};

/// Room for the control data of one message: pktinfo (20 bytes), traffic class, TOS and segment size (4 or less each),
/// each behind a 16-byte header and rounded to 8.
pub const CONTROL_BYTES: usize = 128;

const WORD: usize = size_of::<usize>();
const HEADER: usize = (WORD + 8).next_multiple_of(WORD);

/// Control data, aligned as the kernel wants it.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub struct Control([u8; CONTROL_BYTES]);

/// What the control data of a received message say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Bytes of each datagram, where several were merged.
    pub datagram_bytes: Option<usize>,
    /// Where it came to.
    pub source: Option<Source>,
    /// Congestion mark.
    pub ecn: Ecn,
}

/// What the control data of a message to send say.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// Cut at these many bytes.
    pub segment_bytes: Option<u16>,
    /// Congestion mark.
    pub ecn: Ecn,
    /// Local address to send from.
    pub source: Option<Source>,
    /// The destination is an IPv4 address, mapped or not.
    pub to_ipv4: bool,
    /// The socket is an IPv6 socket.
    pub ipv6_socket: bool,
}

impl Control {
    /// Nothing in it.
    pub const EMPTY: Self = Self([0; CONTROL_BYTES]);

    /// Where the kernel reads and writes.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    /// Reads the first `filled` bytes, as the kernel left them.
    pub fn read(&self, filled: usize) -> Facts {
        let mut facts = Facts::default();
        for_each(&self.0[..filled.min(CONTROL_BYTES)], |level, kind, data| facts.note(level, kind, data));
        facts
    }

    /// Writes `wishes` and returns how many bytes that took.
    pub fn write(&mut self, wishes: &Wishes) -> usize {
        let mut used = 0;
        if let Some(bytes) = wishes.segment_bytes {
            self.push(&mut used, libc::SOL_UDP, UDP_SEGMENT, &bytes.to_ne_bytes());
        }
        if wishes.ecn != Ecn::NOT_ECT {
            let (level, kind) =
                if wishes.to_ipv4 { (libc::IPPROTO_IP, libc::IP_TOS) } else { (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) };
            self.push(&mut used, level, kind, &i32::from(wishes.ecn.0).to_ne_bytes());
        }
        if let Some(source) = wishes.source {
            self.push_source(&mut used, &source, wishes.ipv6_socket);
        }
        used
    }

    /// The source address, without an interface: the routing table keeps its say over the way out. A link-local address
    /// means nothing without one.
    fn push_source(&mut self, used: &mut usize, source: &Source, ipv6_socket: bool) {
        match (source.address, ipv6_socket) {
            (IpAddr::V4(address), false) => {
                let mut info = [0; 12];
                info[4..8].copy_from_slice(&address.octets());
                self.push(used, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            (address, _) => {
                let mut info = [0; 20];
                let (octets, scoped) = match address {
                    IpAddr::V4(address) => (address.to_ipv6_mapped().octets(), false),
                    IpAddr::V6(address) => (address.octets(), address.is_unicast_link_local()),
                };
                info[..16].copy_from_slice(&octets);
                if scoped {
                    info[16..].copy_from_slice(&source.interface.to_ne_bytes());
                }
                self.push(used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
        }
    }

    fn push(&mut self, used: &mut usize, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        let len = HEADER + data.len();
        let Some(room) = self.0.get_mut(*used..*used + len.next_multiple_of(WORD)) else { return };
        room.fill(0);
        room[..WORD].copy_from_slice(&len.to_ne_bytes());
        room[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        room[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        room[HEADER..len].copy_from_slice(data);
        *used += room.len();
    }
}

impl Facts {
    fn note(&mut self, level: libc::c_int, kind: libc::c_int, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_UDP, UDP_GRO) => {
                let bytes = data.first_chunk().and_then(|bytes| usize::try_from(i32::from_ne_bytes(*bytes)).ok());
                self.datagram_bytes = bytes.filter(|&bytes| bytes > 0);
            }
            // One byte for IPv4, an int for IPv6; the mark is in the lowest bits of either.
            (libc::IPPROTO_IP, libc::IP_TOS) => self.ecn = Ecn::of_tos(data.first().copied().unwrap_or(0)),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                let class = data.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                self.ecn = Ecn::of_tos(u8::try_from(class & 0xff).unwrap_or(0));
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some((address, rest)) = data.split_first_chunk::<16>() {
                    let interface = rest.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
                    self.source = Some(Source { address: unmap(Ipv6Addr::from(*address)), interface });
                }
            }
            // struct in_pktinfo: interface, local address, destination address.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address = data.get(8..).and_then(<[u8]>::first_chunk::<4>);
                if let (Some(interface), Some(address)) = (data.first_chunk(), address) {
                    let interface = u32::from_ne_bytes(*interface);
                    self.source = Some(Source { address: IpAddr::from(*address), interface });
                }
            }
            _ => {}
        }
    }
}

/// An IPv4 address in its own form, also where a dual-stack socket has mapped it.
pub fn unmap(address: Ipv6Addr) -> IpAddr {
    address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4)
}

fn for_each(mut bytes: &[u8], mut see: impl FnMut(libc::c_int, libc::c_int, &[u8])) {
    while bytes.len() >= HEADER {
        let len = bytes.first_chunk::<WORD>().map_or(0, |len| usize::from_ne_bytes(*len));
        let int =
            |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |int| libc::c_int::from_ne_bytes(*int));
        if len < HEADER || len > bytes.len() {
            return;
        }
        see(int(WORD), int(WORD + 4), &bytes[HEADER..len]);
        bytes = bytes.get(len.next_multiple_of(WORD)..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_follow_each_other() {
        let source = Source { address: "192.0.2.7".parse().unwrap(), interface: 3 };
        let wishes =
            Wishes { segment_bytes: Some(1452), ecn: Ecn::CE, source: Some(source), to_ipv4: true, ipv6_socket: true };
        let mut control = Control::EMPTY;
        let used = control.write(&wishes);
        let mut seen = Vec::new();
        for_each(&control.0[..used], |level, kind, data| seen.push((level, kind, data.to_vec())));
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[0], (libc::SOL_UDP, UDP_SEGMENT, 1452_u16.to_ne_bytes().to_vec()));
        assert_eq!(seen[1], (libc::IPPROTO_IP, libc::IP_TOS, 3_i32.to_ne_bytes().to_vec()));
        assert_eq!(seen[2].2[10..16], [0xff, 0xff, 192, 0, 2, 7]);
        assert_eq!(seen[2].2[16..], [0; 4], "no interface is asked for");
    }

    #[test]
    fn what_the_kernel_says_is_read() {
        let mut control = Control::EMPTY;
        let mut used = 0;
        control.push(&mut used, libc::SOL_UDP, UDP_GRO, &1452_i32.to_ne_bytes());
        control.push(&mut used, libc::IPPROTO_IP, libc::IP_TOS, &[0xba]);
        let mut info = [0; 20];
        info[..16].copy_from_slice(&"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
        info[16] = 3;
        control.push(&mut used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        let source =
            Some(Source { address: "192.0.2.7".parse().unwrap(), interface: u32::from_ne_bytes([3, 0, 0, 0]) });
        assert_eq!(control.read(used), Facts { datagram_bytes: Some(1452), source, ecn: Ecn(2) });
        assert_eq!(control.read(0), Facts::default());
    }

    #[test]
    fn damaged_control_data_ends_the_walk() {
        for len in [0_usize, 1, 15, 200, usize::MAX] {
            let mut bytes = [0; 32];
            bytes[..WORD].copy_from_slice(&len.to_ne_bytes());
            for_each(&bytes, |_, _, _| panic!("a length of {len} was believed"));
        }
    }
}
