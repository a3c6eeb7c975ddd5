//! The naive twin: a slow builder of packets and superpackets, written from the RFCs without a look at the fast path, and
//! the fast path run over what it builds. For tests and fuzz targets; nothing of it is in a daemon.

use super::Plaintexts as _;
use super::coalesce::{Coalescer, Sink};
use super::segment::{Segments, TAIL_ROOM};
use crate::port::{Gso, PartialChecksum, Transport, UnitMeta};
use crate::wire::ip::IpHeader;

/// A TCP or UDP flow's next unit, as a kernel would hand it over.
#[derive(Clone, Debug)]
pub struct Unit {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// UDP, else TCP.
    pub udp: bool,
    /// Source port.
    pub port: u16,
    /// TOS or traffic class.
    pub tos: u8,
    /// IPv4 ID of the first packet.
    pub id: u16,
    /// The DF bit of IPv4.
    pub dont_fragment: bool,
    /// TCP sequence number of the first packet.
    pub sequence: u32,
    /// TCP flags.
    pub flags: u8,
    /// TCP options, a multiple of four bytes, 40 at most.
    pub options: Vec<u8>,
    /// Payload of all packets.
    pub payload: Vec<u8>,
    /// Payload of each packet but the last.
    pub segment_bytes: u16,
}

/// The Internet checksum of a whole buffer, RFC 1071 word by word.
fn naive_sum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.concat();
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap()
}

impl Unit {
    fn addresses(&self) -> Vec<u8> {
        if self.v6 {
            let mut bytes = vec![0xfd; 32];
            bytes[31] = 2;
            bytes
        } else {
            vec![10, 0, 0, 1, 10, 0, 0, 2]
        }
    }

    fn pseudo(&self, transport_bytes: usize) -> Vec<u8> {
        let mut bytes = self.addresses();
        bytes.extend(u32::try_from(transport_bytes).unwrap().to_be_bytes());
        bytes.extend([0, 0, 0, if self.udp { 17 } else { 6 }]);
        bytes
    }

    /// A complete packet with this slice of the payload.
    #[must_use]
    pub fn packet(&self, payload: &[u8], id: u16, sequence: u32, flags: u8) -> Vec<u8> {
        let mut transport = Vec::new();
        transport.extend(self.port.to_be_bytes());
        transport.extend(443_u16.to_be_bytes());
        let field = if self.udp {
            transport.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
            transport.extend([0; 2]);
            6
        } else {
            transport.extend(sequence.to_be_bytes());
            transport.extend(0x0102_0304_u32.to_be_bytes());
            transport.push(u8::try_from((20 + self.options.len()) / 4).unwrap() << 4);
            transport.push(flags);
            transport.extend([0x7f, 0xff, 0, 0, 0, 0]);
            transport.extend(&self.options);
            16
        };
        transport.extend(payload);
        let sum = !naive_sum(&[&self.pseudo(transport.len()), &transport]);
        let sum = if self.udp && sum == 0 { 0xffff } else { sum };
        transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        [self.ip_header(transport.len(), id), transport].concat()
    }

    fn ip_header(&self, transport_bytes: usize, id: u16) -> Vec<u8> {
        let protocol = if self.udp { 17 } else { 6 };
        if self.v6 {
            let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 0, 0];
            header.extend(u16::try_from(transport_bytes).unwrap().to_be_bytes());
            header.extend([protocol, 64]);
            header.extend(self.addresses());
            return header;
        }
        let mut header = vec![0x45, self.tos];
        header.extend(u16::try_from(20 + transport_bytes).unwrap().to_be_bytes());
        header.extend(id.to_be_bytes());
        header.extend([if self.dont_fragment { 0x40 } else { 0 }, 0, 64, protocol, 0, 0]);
        header.extend(self.addresses());
        let sum = !naive_sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    /// The superpacket and what the kernel says of it: as one big packet, with only the pseudo-header summed.
    #[must_use]
    pub fn superpacket(&self) -> (Vec<u8>, UnitMeta) {
        let mut bytes = self.packet(&self.payload, self.id, self.sequence, self.flags);
        let start = if self.v6 { 40 } else { 20 };
        let offset = if self.udp { 6 } else { 16 };
        let pseudo = naive_sum(&[&self.pseudo(bytes.len() - start)]);
        bytes[start + offset..start + offset + 2].copy_from_slice(&pseudo.to_be_bytes());
        let transport = if self.udp { Transport::Udp } else { Transport::Tcp };
        let meta = UnitMeta {
            gso: Some(Gso { transport, segment_bytes: self.segment_bytes }),
            partial_checksum: Some(PartialChecksum {
                start: u16::try_from(start).unwrap(),
                offset: u16::try_from(offset).unwrap(),
            }),
        };
        (bytes, meta)
    }

    /// What the network must see, packet by packet.
    #[must_use]
    pub fn packets(&self) -> Vec<Vec<u8>> {
        let chunks: Vec<_> = self.payload.chunks(usize::from(self.segment_bytes)).collect();
        let packet = |(index, chunk): (usize, &&[u8])| {
            let (first, last) = (index == 0, index + 1 == chunks.len());
            let mut flags = self.flags;
            if !first {
                flags &= !0x80;
            }
            if !last {
                flags &= !0x09;
            }
            let before = u32::try_from(index * usize::from(self.segment_bytes)).unwrap();
            let id = self.id.wrapping_add(u16::try_from(index).unwrap());
            self.packet(chunk, id, self.sequence.wrapping_add(before), flags)
        };
        chunks.iter().enumerate().map(packet).collect()
    }
}

/// The packets of a unit, by the segmenter.
///
/// # Panics
/// Where it cannot be cut.
#[must_use]
pub fn cut(bytes: &[u8], meta: &UnitMeta, mtu: usize) -> Vec<Vec<u8>> {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len() + TAIL_ROOM, 0xaa);
    let mut segments = Segments::new(&mut buffer, bytes.len(), meta, mtu).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// Collects units; takes superpackets or not.
struct Collector {
    units: Vec<Delivered>,
    whole: bool,
}

impl Sink for Collector {
    fn deliver(&mut self, bytes: &mut [u8], len: usize, meta: &UnitMeta, packets: u16) {
        assert!(bytes.len() >= len + TAIL_ROOM);
        self.units.push((bytes[..len].to_vec(), *meta, packets));
    }

    fn takes_superpackets(&self, _: Transport) -> bool {
        self.whole
    }
}

/// A unit that came out of the lanes: its bytes, what is said of it, and how many packets it stands for.
pub type Delivered = (Vec<u8>, UnitMeta, u16);

/// Runs packets through the lanes as the worker does. `whole` is whether superpackets are taken.
///
/// # Panics
/// Where one is no IP packet.
pub fn coalesce(coalescer: &mut Coalescer, packets: &[Vec<u8>], whole: bool) -> Vec<Delivered> {
    let mut sink = Collector { units: Vec::new(), whole };
    for packet in packets {
        let room = coalescer.room(packet.len() + 32);
        // What an AEAD leaves behind the packet: its tag and padding.
        room[..packet.len() + 16].fill(0xee);
        room[..packet.len()].copy_from_slice(packet);
        let header = IpHeader::parse(packet).unwrap();
        coalescer.settle(&header, &mut sink);
    }
    coalescer.flush(&mut sink);
    sink.units
}

/// The packets of units, in order.
#[must_use]
pub fn uncoalesce(units: &[Delivered]) -> Vec<Vec<u8>> {
    units.iter().flat_map(|(bytes, meta, _)| cut(bytes, meta, 0)).collect()
}

/// What packets of one flow have in common.
#[must_use]
pub fn flow_of(packet: &[u8]) -> Vec<u8> {
    let at = if packet[0] >> 4 == 4 { 20 } else { 40 };
    [&packet[..1], &[packet[if at == 20 { 9 } else { 6 }]], &packet[at..at + 4]].concat()
}

/// The IPv4 ID of a packet with DF set carries nothing (RFC 6864): zeroed for comparison, checksum with it.
#[must_use]
pub fn without_atomic_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}
