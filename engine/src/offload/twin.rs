//! The segmenter and the lanes against their naive twin.

use super::Plaintexts as _;
use super::coalesce::Coalescer;
use super::naive::{Unit, coalesce, cut, flow_of, uncoalesce, without_atomic_id};
use super::segment::{Segments, TAIL_ROOM};
use crate::port::{Gso, PartialChecksum, Transport, UnitMeta};
use proptest::prelude::*;

fn units() -> impl Strategy<Value = Unit> {
    let shape = (any::<bool>(), any::<bool>(), 1_u16..5, 0_u8..4, any::<u16>(), any::<bool>(), any::<u32>());
    let transport =
        (prop::sample::select(vec![0x10_u8, 0x18, 0x50, 0x90, 0x19]), 0_usize..4, 1_usize..12_000, 1_u16..1400);
    (shape, transport).prop_map(
        |((v6, udp, port, tos, id, dont_fragment, sequence), (flags, options, payload, segment))| {
            // UDP superpackets have at most 64 segments.
            let payload = if udp { payload.min(usize::from(segment) * 64) } else { payload };
            let segment_bytes = segment.max(u16::try_from(payload / 900).unwrap_or(1)).max(1);
            Unit {
                v6,
                udp,
                port,
                tos,
                id,
                dont_fragment,
                sequence,
                flags,
                options: [1_u8, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9].into_iter().cycle().take(options * 4).collect(),
                payload: (0..payload).map(|i| u8::try_from(i % 253).unwrap()).collect(),
                segment_bytes,
            }
        },
    )
}

proptest! {
    #[test]
    fn segments_are_what_the_twin_makes(unit in units(), mtu in 0_usize..1500) {
        let (bytes, meta) = unit.superpacket();
        let packets = cut(&bytes, &meta, mtu);
        let wanted = unit.packets();
        prop_assert_eq!(packets.len(), wanted.len());
        for (packet, wanted) in packets.iter().zip(&wanted) {
            prop_assert_eq!(&packet[..wanted.len()], &wanted[..]);
            prop_assert_eq!(packet.len(), crate::wire::message::padded(wanted.len(), mtu));
            prop_assert!(packet[wanted.len()..].iter().all(|&byte| byte == 0));
        }
    }

    #[test]
    fn coalescing_segments_gives_the_superpacket_back(unit in units()) {
        let (bytes, meta) = unit.superpacket();
        let units = coalesce(&mut Coalescer::new(), &cut(&bytes, &meta, 0), true);
        let chunks = unit.packets().len();
        // Never merged: FIN ends a connection and CWR marks one packet.
        let fin_or_cwr = !unit.udp && unit.flags & 0x81 != 0;
        // A payload no longer than the headers is merged by copying, which must not show.
        if chunks > 1 && !fin_or_cwr {
            prop_assert_eq!(units.len(), 1);
            prop_assert_eq!(&units[0].0, &bytes);
            prop_assert_eq!(units[0].1, meta);
            prop_assert_eq!(usize::from(units[0].2), chunks);
        } else {
            prop_assert_eq!(uncoalesce(&units), unit.packets());
        }
    }

    #[test]
    fn any_mix_of_flows_comes_out_complete_and_in_order(
        mix in prop::collection::vec(units(), 1..12),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
        whole in any::<bool>(),
    ) {
        // Interleave the packets of the units, each unit in its own order.
        let mut queues: Vec<std::collections::VecDeque<Vec<u8>>> =
            mix.iter().map(|unit| unit.packets().into_iter().take(40).collect()).collect();
        let mut packets = Vec::new();
        for pick in picks {
            if let Some(packet) = queues[pick.index(mix.len())].pop_front() {
                packets.push(packet);
            }
        }
        packets.extend(queues.into_iter().flatten());
        let out = uncoalesce(&coalesce(&mut Coalescer::new(), &packets, whole));
        prop_assert_eq!(out.len(), packets.len());
        for flow in packets.iter().map(|packet| flow_of(packet)).collect::<std::collections::BTreeSet<_>>() {
            let of_flow = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|packet| flow_of(packet) == flow).cloned().map(without_atomic_id).collect()
            };
            prop_assert_eq!(of_flow(&out), of_flow(&packets));
        }
    }

    #[test]
    fn hostile_units_are_refused_or_cut_without_panic(
        mut bytes in prop::collection::vec(any::<u8>(), 1..300),
        version in prop::sample::select(vec![0x45_u8, 0x46, 0x4f, 0x60, 0x00]),
        udp in any::<bool>(),
        gso in any::<bool>(),
        segment_bytes in any::<u16>(),
        start in prop::option::of(0_u16..320),
        offset in 0_u16..40,
    ) {
        bytes[0] = version;
        let len = bytes.len();
        bytes.resize(len + TAIL_ROOM, 0);
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let meta = UnitMeta {
            gso: gso.then_some(Gso { transport, segment_bytes }),
            partial_checksum: start.map(|start| PartialChecksum { start, offset }),
        };
        if let Ok(mut segments) = Segments::new(&mut bytes, len, &meta, 1420) {
            let mut count = 0;
            while segments.next().is_some() {
                count += 1;
                prop_assert!(count <= 301);
            }
        }
    }

    #[test]
    fn hostile_packets_pass_the_lanes_without_panic(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 20..120), any::<bool>()), 1..40),
    ) {
        let packets: Vec<Vec<u8>> = packets
            .into_iter()
            .map(|(mut packet, v6)| {
                let len = packet.len();
                if v6 && len >= 40 {
                    packet[0] = 0x60;
                    packet[4..6].copy_from_slice(&u16::try_from(len - 40).unwrap().to_be_bytes());
                    packet[6] = if packet[7] & 1 == 0 { 6 } else { 17 };
                } else {
                    packet[0] = 0x45;
                    packet[2..4].copy_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
                    packet[9] = if packet[8] & 1 == 0 { 6 } else { 17 };
                }
                packet
            })
            .collect();
        let total: u64 = coalesce(&mut Coalescer::new(), &packets, true).iter().map(|unit| u64::from(unit.2)).sum();
        prop_assert_eq!(total, packets.len() as u64);
    }
}

fn plain(port: u16, sequence: u32, flags: u8, payload: usize) -> Vec<u8> {
    let unit = Unit {
        v6: false,
        udp: false,
        port,
        tos: 0,
        id: 7,
        dont_fragment: true,
        sequence,
        flags,
        options: Vec::new(),
        payload: vec![5; payload],
        segment_bytes: 1000,
    };
    unit.packet(&unit.payload, unit.id, sequence, flags)
}

fn counts(packets: &[Vec<u8>]) -> Vec<u16> {
    coalesce(&mut Coalescer::new(), packets, true).iter().map(|unit| unit.2).collect()
}

#[test]
fn push_ends_a_run_and_a_gap_starts_one() {
    let run = [plain(1, 0, 0x10, 100), plain(1, 100, 0x18, 100), plain(1, 200, 0x10, 100), plain(1, 300, 0x10, 100)];
    assert_eq!(counts(&run), [2, 2]);
    assert_eq!(counts(&[plain(1, 0, 0x10, 100), plain(1, 150, 0x10, 100)]), [1, 1]);
    assert_eq!(counts(&[plain(1, 0, 0x10, 100), plain(1, 100, 0x10, 99), plain(1, 199, 0x10, 99)]), [2, 1]);
    assert_eq!(counts(&[plain(1, 0, 0x10, 100), plain(1, 100, 0x10, 101)]), [1, 1]);
}

#[test]
fn marks_and_options_are_never_crossed() {
    let first = plain(1, 0, 0x10, 100);
    let second = plain(1, 100, 0x10, 100);
    assert_eq!(counts(&[first.clone(), second.clone()]), [2]);
    let changes: [(usize, u8); 6] = [(1, 3), (8, 63), (20 + 11, 9), (20 + 13, 0x90), (20 + 14, 1), (20 + 19, 1)];
    for (at, value) in changes {
        let mut other = second.clone();
        other[at] = value;
        assert_eq!(counts(&[first.clone(), other]), [1, 1], "byte {at}");
    }
}

#[test]
fn interleaved_flows_each_keep_their_run() {
    let mut packets = Vec::new();
    for round in 0..5 {
        for port in 0..4 {
            packets.push(plain(port, round * 500, 0x10, 500));
        }
    }
    assert_eq!(counts(&packets), [5, 5, 5, 5]);
}

#[test]
fn more_flows_than_lanes_still_arrive() {
    let packets: Vec<_> = (0..3).flat_map(|round| (0..40).map(move |port| plain(port, round * 50, 0x10, 50))).collect();
    assert_eq!(counts(&packets).iter().map(|&count| u32::from(count)).sum::<u32>(), 120);
}

#[test]
fn an_acknowledgement_does_not_overtake_its_flow() {
    let packets = [plain(1, 0, 0x10, 100), plain(1, 100, 0x10, 100), plain(1, 200, 0x10, 0), plain(2, 0, 0x10, 100)];
    let units = coalesce(&mut Coalescer::new(), &packets, true);
    assert_eq!(units.iter().map(|unit| unit.2).collect::<Vec<_>>(), [2, 1, 1]);
    assert_eq!(units[1].0, packets[2]);
}
