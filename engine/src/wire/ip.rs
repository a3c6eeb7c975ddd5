//! A view of the IP header of a packet (RFC 791, RFC 8200): what routing, the source check, ECN and coalescing need.

use super::checksum;
use crate::frame::Ecn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Length of an IPv6 header, and of an IPv4 header without options.
pub const IPV6_HEADER_BYTES: usize = 40;
/// Length of an IPv4 header without options.
pub const IPV4_HEADER_BYTES: usize = 20;

/// A packet whose header is whole and whose length field fits its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpHeader {
    /// 4 or 6.
    pub version: u8,
    /// Bytes of the header, options of IPv4 included, extension headers of IPv6 not.
    pub header_bytes: usize,
    /// Bytes of the packet as its header says.
    pub packet_bytes: usize,
    /// Protocol number, or the first next header of IPv6.
    pub protocol: u8,
    /// Part of a larger packet (IPv4 only; in IPv6 the protocol tells).
    pub fragment: bool,
}

impl IpHeader {
    /// Reads the header of `packet`; `None` where it is not IP, or shorter than its header says. Bytes behind the packet
    /// (padding) are allowed.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        match first >> 4 {
            4 => {
                let header: &[u8; IPV4_HEADER_BYTES] = packet.first_chunk()?;
                let header_bytes = usize::from(first & 15) * 4;
                let packet_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let fits =
                    header_bytes >= IPV4_HEADER_BYTES && header_bytes <= packet_bytes && packet_bytes <= packet.len();
                fits.then(|| Self {
                    version: 4,
                    header_bytes,
                    packet_bytes,
                    protocol: header[9],
                    fragment: u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0,
                })
            }
            6 => {
                let header: &[u8; IPV6_HEADER_BYTES] = packet.first_chunk()?;
                let packet_bytes = IPV6_HEADER_BYTES + usize::from(u16::from_be_bytes([header[4], header[5]]));
                (packet_bytes <= packet.len()).then(|| Self {
                    version: 6,
                    header_bytes: IPV6_HEADER_BYTES,
                    packet_bytes,
                    protocol: header[6],
                    fragment: false,
                })
            }
            _ => None,
        }
    }
}

/// The destination address of a packet; `None` where it is not IP or too short to have one.
#[must_use]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 16, 24)
}

/// The source address of a packet; `None` where it is not IP or too short to have one.
#[must_use]
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    address(packet, 12, 8)
}

fn address(packet: &[u8], at_v4: usize, at_v6: usize) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => {
            let bytes: &[u8; 4] = packet.get(at_v4..)?.first_chunk()?;
            Some(IpAddr::V4(Ipv4Addr::from(*bytes)))
        }
        6 => {
            let bytes: &[u8; 16] = packet.get(at_v6..)?.first_chunk()?;
            Some(IpAddr::V6(Ipv6Addr::from(*bytes)))
        }
        _ => None,
    }
}

/// The two addresses side by side, as the pseudo-header has them.
#[must_use]
pub fn addresses(packet: &[u8], version: u8) -> &[u8] {
    let range = if version == 4 { 12..20 } else { 8..40 };
    packet.get(range).unwrap_or_default()
}

/// The TOS or traffic-class byte.
#[must_use]
pub fn tos(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => *second,
        [first, second, ..] => first << 4 | second >> 4,
        _ => 0,
    }
}

/// Sets the congestion bits of a whole header and mends the IPv4 header checksum.
pub fn set_ecn(packet: &mut [u8], ecn: Ecn) {
    match packet {
        [first, second, rest @ ..] if *first >> 4 == 4 && rest.len() >= 10 => {
            *second = *second & !3 | ecn.0;
            let header_bytes = usize::from(*first & 15) * 4;
            refresh_ipv4_checksum(packet, header_bytes);
        }
        [first, second, ..] if *first >> 4 == 6 => *second = *second & !0x30 | ecn.0 << 4,
        _ => {}
    }
}

/// Computes the header checksum of an IPv4 packet anew.
pub fn refresh_ipv4_checksum(packet: &mut [u8], header_bytes: usize) {
    let Some(header) = packet.get_mut(..header_bytes).filter(|header| header.len() >= IPV4_HEADER_BYTES) else {
        return;
    };
    header[10..12].fill(0);
    let field = checksum::finish(checksum::sum(header));
    header[10..12].copy_from_slice(&field);
}

/// What a tunnel end does with the two congestion marks of an arriving packet (RFC 6040, figure 4). `None` means the
/// packet has to be dropped.
#[must_use]
pub fn merge_ecn(inner: Ecn, outer: Ecn) -> Option<Ecn> {
    match (inner.0, outer.0) {
        (0, 3) => None,
        (1 | 2, 3) => Some(Ecn::CE),
        (2, 1) => Some(Ecn(1)),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_must_fit() {
        let mut packet =
            vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 0, 8, 0, 0];
        let header = IpHeader::parse(&packet).unwrap();
        assert_eq!((header.version, header.header_bytes, header.packet_bytes, header.fragment), (4, 20, 28, false));
        assert_eq!(destination(&packet), Some("10.0.0.2".parse().unwrap()));
        assert_eq!(source(&packet), Some("10.0.0.1".parse().unwrap()));
        packet[3] = 29;
        assert_eq!(IpHeader::parse(&packet), None);
        packet[3] = 19;
        assert_eq!(IpHeader::parse(&packet), None);
        packet[3] = 28;
        packet[0] = 0x44;
        assert_eq!(IpHeader::parse(&packet), None);
    }

    /// RFC 6040, figure 4: rows are inner Not-ECT, ECT(1), ECT(0), CE; columns outer in the same order.
    #[test]
    fn ecn_merges_as_in_rfc_6040() {
        let marks = [0u8, 1, 2, 3];
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for inner in marks {
            for outer in marks {
                let want = table[usize::from(inner)][usize::from(outer)];
                assert_eq!(merge_ecn(Ecn(inner), Ecn(outer)).map(|ecn| ecn.0), want, "inner {inner} outer {outer}");
            }
        }
    }

    #[test]
    fn ecn_is_set_in_both_versions() {
        let mut v4 = [0u8; 20];
        v4[0] = 0x45;
        v4[1] = 0b1010_1010;
        set_ecn(&mut v4, Ecn::CE);
        assert_eq!(tos(&v4), 0b1010_1011);
        assert_eq!(checksum::finish(checksum::sum(&v4)), [0, 0]);
        let mut v6 = [0u8; 40];
        v6[0] = 0x6a;
        v6[1] = 0xaf;
        set_ecn(&mut v6, Ecn::CE);
        assert_eq!((tos(&v6), v6[0], v6[1]), (0b1010_1011, 0x6a, 0xbf));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(header) = IpHeader::parse(&bytes) {
                prop_assert!(header.packet_bytes <= bytes.len() && header.header_bytes <= header.packet_bytes);
            }
            let _ = (source(&bytes), destination(&bytes), tos(&bytes), addresses(&bytes, 4), addresses(&bytes, 6));
            set_ecn(&mut bytes, Ecn::CE);
        }
    }
}
