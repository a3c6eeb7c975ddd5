//! Flows as the kernel has them, cut and merged again: the segmenter does what its naive twin does, and the lanes are its
//! inverse.

use crate::input::Input;
use ginnel_engine::fuzzing::{Unit, coalesce, cut, flow_of, uncoalesce, without_atomic_id};
use ginnel_engine::offload::coalesce::Coalescer;
use ginnel_engine::wire::message::padded;
use std::collections::{BTreeSet, VecDeque};

/// Units of an input, and packets of a unit that are mixed with those of others.
const UNITS_MAX: usize = 10;
const PACKETS_MIXED_MAX: usize = 70;

const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (shape, mtu) = (input.byte(), usize::from(input.word() % 1_600));
    let units: Vec<_> = (0..1 + usize::from(shape & 0x7f) % UNITS_MAX).map(|_| unit(&mut input)).collect();
    for unit in &units {
        check_cut(unit, mtu);
        check_whole(unit);
    }
    check_mix(&units, &mut input, shape >> 7 == 1);
}

fn unit(input: &mut Input<'_>) -> Unit {
    let shape = input.byte();
    let udp = shape & 2 != 0;
    let segment_bytes = 1 + input.word() % 1_500;
    let payload = 1 + usize::from(input.word()) % 20_000;
    // As kernels build them: UDP superpackets have 64 segments at most, TCP ones no more than fit.
    let most = usize::from(segment_bytes) * if udp { 64 } else { 900 };
    let (port, sequence) = (u16::from(input.byte() % 4), u32::from_le_bytes(input.array()));
    let fill = input.byte();
    Unit {
        v6: shape & 1 != 0,
        udp,
        port,
        tos: input.byte(),
        id: input.word(),
        dont_fragment: shape & 4 != 0,
        sequence,
        flags: input.byte(),
        options: [1, 1, 8, 10, 0, 0, 0, 7, 0, 0, 0, 9]
            .into_iter()
            .cycle()
            .take(usize::from(shape >> 4) % 11 * 4)
            .collect(),
        payload: (0..payload.min(most))
            .map(|at| fill.wrapping_add(u8::try_from(at % 251).unwrap_or_default()))
            .collect(),
        segment_bytes,
    }
}

fn check_cut(unit: &Unit, mtu: usize) {
    let (bytes, meta) = unit.superpacket();
    let (packets, wanted) = (cut(&bytes, &meta, mtu), unit.packets());
    assert_eq!(packets.len(), wanted.len());
    for (packet, wanted) in packets.iter().zip(&wanted) {
        assert_eq!(&packet[..wanted.len()], &wanted[..]);
        assert_eq!(packet.len(), padded(wanted.len(), mtu));
        assert!(packet[wanted.len()..].iter().all(|byte| *byte == 0));
    }
}

fn check_whole(unit: &Unit) {
    let (bytes, meta) = unit.superpacket();
    let packets = unit.packets();
    let units = coalesce(&mut Coalescer::new(), &packets, true);
    // FIN ends a connection and CWR marks one packet, so not all of them merge; of other flags none do.
    let plain = unit.udp || unit.flags & !(PSH | ECE) == ACK;
    let merges = plain && packets.len() > 1;
    if merges {
        assert_eq!(units.len(), 1);
        assert_eq!((&units[0].0, units[0].1, usize::from(units[0].2)), (&bytes, meta, packets.len()));
    } else {
        assert_eq!(uncoalesce(&units), packets);
    }
}

/// Packets of several units in any order that keeps each unit's own.
fn check_mix(units: &[Unit], input: &mut Input<'_>, whole: bool) {
    let mut queues: Vec<VecDeque<Vec<u8>>> =
        units.iter().map(|unit| unit.packets().into_iter().take(PACKETS_MIXED_MAX).collect()).collect();
    let mut packets = Vec::new();
    while !input.is_empty() {
        let (which, run) = (usize::from(input.byte()) % queues.len(), usize::from(input.byte()) % 16);
        let run = run.min(queues[which].len());
        packets.extend(queues[which].drain(..run));
    }
    packets.extend(queues.into_iter().flatten());
    let out = uncoalesce(&coalesce(&mut Coalescer::new(), &packets, whole));
    assert_eq!(out.len(), packets.len());
    for flow in packets.iter().map(|packet| flow_of(packet)).collect::<BTreeSet<_>>() {
        let of_flow = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
            all.iter().filter(|packet| flow_of(packet) == flow).cloned().map(without_atomic_id).collect()
        };
        assert_eq!(of_flow(&out), of_flow(&packets));
    }
}
