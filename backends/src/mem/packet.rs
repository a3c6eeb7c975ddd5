//! Inner packets for tests: built with complete checksums, or as the superpackets a kernel would hand over, and taken
//! apart again.

use ginnel_engine::frame::Ecn;
use ginnel_engine::offload::Plaintexts as _;
use ginnel_engine::offload::segment::{Segments, TAIL_ROOM};
use ginnel_engine::port::{Gso, PartialChecksum, Transport, UnitMeta};
use ginnel_engine::wire::checksum;
use ginnel_engine::wire::ip::{self, IpHeader};
use std::net::{IpAddr, SocketAddr};

/// `PSH` and `ACK` of a TCP header.
pub const PSH_ACK: u8 = 0x18;
/// `ACK` of a TCP header.
pub const ACK: u8 = 0x10;

/// From where to where an inner packet goes, both of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
}

impl Flow {
    /// A flow between these addresses, on ports 4000 and 5000.
    ///
    /// # Panics
    /// Where they are not addresses.
    #[must_use]
    pub fn between(from: &str, to: &str) -> Self {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address in a test is well formed");
        Self { from: SocketAddr::new(address(from), 4_000), to: SocketAddr::new(address(to), 5_000) }
    }

    /// The way back.
    #[must_use]
    pub fn reversed(self) -> Self {
        Self { from: self.to, to: self.from }
    }

    fn header_bytes(&self) -> usize {
        if self.from.is_ipv4() { ip::IPV4_HEADER_BYTES } else { ip::IPV6_HEADER_BYTES }
    }
}

/// A UDP packet.
#[must_use]
pub fn udp(flow: Flow, payload: &[u8]) -> Vec<u8> {
    let mut packet = unfinished(flow, ip::UDP, &[0; 8], payload);
    let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let at = flow.header_bytes();
    packet[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
    finish(packet, flow)
}

/// A TCP packet with a header of 20 bytes.
#[must_use]
pub fn tcp(flow: Flow, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    finish(unfinished(flow, ip::TCP, &tcp_header(sequence, flags), payload), flow)
}

/// A packet of any protocol, without a checksum of its own.
#[must_use]
pub fn raw(flow: Flow, protocol: u8, payload: &[u8]) -> Vec<u8> {
    unfinished(flow, protocol, &[], payload)
}

/// A TCP superpacket to be cut at `segment_bytes`, as a kernel hands it over: the checksum field has the pseudo-header
/// sum.
#[must_use]
pub fn tcp_super(flow: Flow, sequence: u32, flags: u8, payload: &[u8], segment_bytes: u16) -> (Vec<u8>, UnitMeta) {
    let packet = unfinished(flow, ip::TCP, &tcp_header(sequence, flags), payload);
    superpacket(packet, flow, Transport::Tcp, segment_bytes)
}

/// A UDP superpacket to be cut at `segment_bytes`.
#[must_use]
pub fn udp_super(flow: Flow, payload: &[u8], segment_bytes: u16) -> (Vec<u8>, UnitMeta) {
    let mut packet = unfinished(flow, ip::UDP, &[0; 8], payload);
    let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
    let at = flow.header_bytes();
    packet[at + 4..at + 6].copy_from_slice(&len.to_be_bytes());
    superpacket(packet, flow, Transport::Udp, segment_bytes)
}

/// The same packet with a congestion mark.
#[must_use]
pub fn marked(mut packet: Vec<u8>, ecn: Ecn) -> Vec<u8> {
    ip::set_ecn(&mut packet, ecn);
    packet
}

/// The packets a unit stands for, with complete checksums.
///
/// # Panics
/// Where the unit makes no sense.
#[must_use]
pub fn cut(unit: &[u8], meta: &UnitMeta) -> Vec<Vec<u8>> {
    let mut bytes = unit.to_vec();
    bytes.extend([0; TAIL_ROOM]);
    let mut segments = Segments::new(&mut bytes, unit.len(), meta, 0).expect("a unit in a test can be cut");
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// Whether length fields and all checksums of a packet are right.
#[must_use]
pub fn is_sound(packet: &[u8]) -> bool {
    let Some(header) = IpHeader::parse(packet).filter(|header| header.packet_bytes == packet.len()) else {
        return false;
    };
    let transport = &packet[header.header_bytes..];
    let ip_holds = header.version == 6 || checksum::finish(checksum::sum(&packet[..header.header_bytes])) == [0, 0];
    let pseudo = checksum::pseudo(ip::addresses(packet, header.version), header.protocol, transport.len());
    let transport_holds =
        !matches!(header.protocol, ip::TCP | ip::UDP) || checksum::finish(checksum::sum(transport) + pseudo) == [0, 0];
    ip_holds && transport_holds
}

/// The flow and the payload of a TCP or UDP packet.
#[must_use]
pub fn open(packet: &[u8]) -> Option<(Flow, &[u8])> {
    let header = IpHeader::parse(packet)?;
    let transport = packet.get(header.header_bytes..header.packet_bytes)?;
    let ports: &[u8; 4] = transport.first_chunk()?;
    let payload_at = match header.protocol {
        ip::TCP => usize::from(transport.get(12)? >> 4) * 4,
        ip::UDP => 8,
        _ => return None,
    };
    let [from_high, from_low, to_high, to_low] = *ports;
    let flow = Flow {
        from: SocketAddr::new(ip::source(packet)?, u16::from_be_bytes([from_high, from_low])),
        to: SocketAddr::new(ip::destination(packet)?, u16::from_be_bytes([to_high, to_low])),
    };
    Some((flow, transport.get(payload_at..)?))
}

/// `len` bytes that differ from place to place.
#[must_use]
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    super::Random::new(seed).fill(&mut bytes);
    bytes
}

fn tcp_header(sequence: u32, flags: u8) -> [u8; 20] {
    let mut header = [0; 20];
    header[4..8].copy_from_slice(&sequence.to_be_bytes());
    header[11] = 1;
    header[12] = 5 << 4;
    header[13] = flags;
    header[14..16].copy_from_slice(&[0xff, 0xff]);
    header
}

/// IP header, transport header with ports where there is one, and payload; transport checksum and length are zero.
fn unfinished(flow: Flow, protocol: u8, transport: &[u8], payload: &[u8]) -> Vec<u8> {
    let body = transport.len() + payload.len();
    let mut packet = Vec::with_capacity(flow.header_bytes() + body);
    match (flow.from.ip(), flow.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(ip::IPV4_HEADER_BYTES + body).unwrap_or(u16::MAX).to_be_bytes();
            // Don't Fragment, hop limit 64.
            packet.extend([0x45, 0, total[0], total[1], 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            ip::refresh_ipv4_checksum(&mut packet, ip::IPV4_HEADER_BYTES);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let payload_bytes = u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes();
            packet.extend([0x60, 0, 0, 0, payload_bytes[0], payload_bytes[1], protocol, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        _ => panic!("a flow has one family"),
    }
    let at = packet.len();
    packet.extend(transport);
    packet.extend(payload);
    if !transport.is_empty() {
        packet[at..at + 2].copy_from_slice(&flow.from.port().to_be_bytes());
        packet[at + 2..at + 4].copy_from_slice(&flow.to.port().to_be_bytes());
    }
    packet
}

fn pseudo(packet: &[u8], flow: Flow) -> (u64, u8, usize) {
    let version = packet[0] >> 4;
    let protocol = if version == 4 { packet[9] } else { packet[6] };
    let at = flow.header_bytes();
    let field = at + if protocol == ip::TCP { 16 } else { 6 };
    (checksum::pseudo(ip::addresses(packet, version), protocol, packet.len() - at), protocol, field)
}

fn finish(mut packet: Vec<u8>, flow: Flow) -> Vec<u8> {
    let (pseudo, protocol, field) = pseudo(&packet, flow);
    let sum = pseudo + checksum::sum(&packet[flow.header_bytes()..]);
    let finished = if protocol == ip::UDP { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    packet[field..field + 2].copy_from_slice(&finished);
    packet
}

fn superpacket(mut packet: Vec<u8>, flow: Flow, transport: Transport, segment_bytes: u16) -> (Vec<u8>, UnitMeta) {
    let (pseudo, _, field) = pseudo(&packet, flow);
    packet[field..field + 2].copy_from_slice(&checksum::fold(pseudo).to_ne_bytes());
    let start = u16::try_from(flow.header_bytes()).unwrap_or(0);
    let offset = u16::try_from(field).unwrap_or(0) - start;
    let meta = UnitMeta {
        gso: Some(Gso { transport, segment_bytes }),
        partial_checksum: Some(PartialChecksum { start, offset }),
    };
    (packet, meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOWS: [(&str, &str); 2] = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")];

    #[test]
    fn packets_are_sound_and_open_again() {
        for (from, to) in FLOWS {
            let flow = Flow::between(from, to);
            for packet in [udp(flow, b"hello"), tcp(flow, 7, PSH_ACK, b"hello")] {
                assert!(is_sound(&packet));
                assert_eq!(open(&packet), Some((flow, &b"hello"[..])));
                let mut broken = packet.clone();
                *broken.last_mut().unwrap() ^= 1;
                assert!(!is_sound(&broken));
                assert!(is_sound(&marked(packet, Ecn::CE)));
            }
        }
    }

    #[test]
    fn superpackets_are_cut_into_sound_packets() {
        for (from, to) in FLOWS {
            let flow = Flow::between(from, to);
            let payload = pattern(3_333, 1);
            for (unit, meta) in [tcp_super(flow, 9, PSH_ACK, &payload, 1_000), udp_super(flow, &payload, 1_000)] {
                let packets = cut(&unit, &meta);
                assert_eq!(packets.len(), 4);
                assert!(packets.iter().all(|packet| is_sound(packet)));
                let whole: Vec<u8> = packets.iter().flat_map(|packet| open(packet).unwrap().1.to_vec()).collect();
                assert_eq!(whole, payload);
            }
        }
    }
}
