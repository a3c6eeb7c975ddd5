//! Superpackets and trains: the same bytes arrive whatever either end can do, and nothing is lost when it turns out that
//! it cannot.

use crate::{Net, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay::{self, MTU};
use ginnel_backends::mem::packet::{self, PSH_ACK};
use ginnel_engine::limits::INBOX_SLOTS;
use ginnel_engine::port::{OffReason, Offload, OffloadState, Transport, UnitMeta};
use ginnel_engine::wire::message::{DATA_OVERHEAD, padded};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Superpackets as kernels make them: two segments, a train, more than a train holds; whole and with a short tail.
fn superpackets(family: Family) -> Vec<(Vec<u8>, UnitMeta)> {
    let flow = overlay::inside_flow(0, 1, family);
    let headers = if family == Family::V4 { 40 } else { 60 };
    let segment = MTU - headers;
    let mut units = Vec::new();
    for segments in [2, 10, 45, 46] {
        for tail in [0, 1, 700] {
            let payload = packet::pattern(segments * usize::from(segment) + tail, segments as u64);
            if payload.len() + usize::from(headers) <= 65_535 {
                units.push(packet::tcp_super(flow, 77, PSH_ACK, &payload, segment));
            }
            let payload = &payload[..payload.len().min(60_000)];
            units.push(packet::udp_super(flow, payload, segment));
        }
    }
    units
}

fn deliver(net: &mut Net, unit: &[u8], meta: UnitMeta) -> Vec<(Vec<u8>, UnitMeta)> {
    net.host(0).tun().inject(unit, meta);
    net.settle();
    net.host(1).delivered()
}

fn is_tcp(meta: &UnitMeta) -> bool {
    meta.gso.is_some_and(|gso| gso.transport == Transport::Tcp)
}

#[test]
fn superpackets_arrive_byte_for_byte() {
    for family in Family::BOTH {
        let mut net = connected(1);
        for (unit, meta) in superpackets(family) {
            net.world.network.start_capture();
            assert_eq!(deliver(&mut net, &unit, meta), [(unit.clone(), meta)], "{family:?}, {} bytes", unit.len());
            let wire: Vec<_> = net.world.network.captured().iter().map(|datagram| datagram.bytes.len()).collect();
            let sealed = |packet: &Vec<u8>| padded(packet.len(), usize::from(MTU)) + DATA_OVERHEAD;
            assert_eq!(wire, packet::cut(&unit, &meta).iter().map(sealed).collect::<Vec<_>>());
        }
        assert_eq!(net.host(0).offloads.state(Offload::LinkSegmentation), OffloadState::On);
        assert_eq!(net.host(1).offloads.state(Offload::LinkCoalescing), OffloadState::On);
    }
}

#[test]
fn flags_of_the_stream_survive() {
    // FIN and CWR end and begin superpackets and are never merged: the packets are the same, their grouping is not.
    let mut net = connected(2);
    let flow = overlay::inside_flow(0, 1, Family::V4);
    for flags in [packet::ACK, PSH_ACK, PSH_ACK | 0x01, PSH_ACK | 0x80, PSH_ACK | 0x40] {
        let (unit, meta) = packet::tcp_super(flow, 1, flags, &packet::pattern(10_000, 3), 1_380);
        let delivered = deliver(&mut net, &unit, meta);
        let packets: Vec<_> = delivered.iter().flat_map(|(unit, meta)| packet::cut(unit, meta)).collect();
        assert_eq!(packets, packet::cut(&unit, &meta), "flags {flags:#x}");
    }
}

#[test]
fn every_combination_of_offloads_delivers_the_same_packets() {
    for mask in 0..16_u8 {
        let mut net = connected(u64::from(mask));
        for (bit, offload) in [Offload::LinkSegmentation, Offload::LinkCoalescing, Offload::TunTcp, Offload::TunUdp]
            .into_iter()
            .enumerate()
        {
            if mask & 1 << bit == 0 {
                // The sender keeps its TUN offloads: what is off there is never injected.
                let node = usize::from(offload != Offload::LinkSegmentation);
                net.host(node).offloads.set(offload, OffloadState::Off(OffReason::Operator));
            }
        }
        for family in Family::BOTH {
            for (unit, meta) in superpackets(family).into_iter().step_by(3) {
                let delivered = deliver(&mut net, &unit, meta);
                let packets: Vec<_> = delivered.iter().flat_map(|(unit, meta)| packet::cut(unit, meta)).collect();
                assert_eq!(packets, packet::cut(&unit, &meta));
                let whole = mask & if is_tcp(&meta) { 4 } else { 8 } != 0;
                // Unmerged datagrams come in portions, and no unit spans two of them.
                let portions = packets.len().div_ceil(INBOX_SLOTS);
                let units = if whole { 1..=portions } else { packets.len()..=packets.len() };
                assert!(units.contains(&delivered.len()), "mask {mask}: {} units", delivered.len());
            }
        }
    }
}

#[test]
fn single_packets_of_a_flow_are_gathered() {
    let mut net = connected(3);
    let flow = overlay::inside_flow(0, 1, Family::V6);
    let payload = packet::pattern(20_000, 5);
    let (unit, meta) = packet::tcp_super(flow, 9, PSH_ACK, &payload, 1_360);
    for packet in packet::cut(&unit, &meta) {
        net.host(0).inject(&packet);
    }
    net.settle();
    assert_eq!(net.host(1).delivered(), [(unit, meta)]);
}

#[test]
fn interleaved_flows_keep_their_order() {
    let mut net = connected(4);
    let payload = packet::pattern(12_000, 6);
    let flows: Vec<_> = (0..12_u16)
        .map(|n| {
            let mut flow = overlay::inside_flow(0, 1, Family::BOTH[usize::from(n) % 2]);
            flow.from.set_port(6_000 + n);
            flow
        })
        .collect();
    let packets: Vec<_> = flows
        .iter()
        .map(|&flow| {
            let (unit, meta) = packet::tcp_super(flow, 9, PSH_ACK, &payload, 1_000);
            packet::cut(&unit, &meta)
        })
        .collect();
    for n in 0..12 {
        for packets in &packets {
            net.host(0).inject(&packets[n]);
        }
    }
    net.settle();
    let received = net.host(1).received();
    assert_eq!(received.len(), 144);
    for (flow, packets) in flows.iter().zip(&packets) {
        let of_flow: Vec<_> =
            received.iter().filter(|packet| packet::open(packet).is_some_and(|(of, _)| of == *flow)).collect();
        assert_eq!(of_flow, packets.iter().collect::<Vec<_>>());
    }
}

#[test]
fn refused_superpackets_are_written_one_by_one() {
    for family in Family::BOTH {
        for (unit, meta) in superpackets(family).into_iter().take(8) {
            let mut net = connected(5);
            let tun = net.host(1).tun();
            (tun.refuses_tcp, tun.refuses_udp) = (true, true);
            let delivered = deliver(&mut net, &unit, meta);
            assert!(delivered.iter().all(|(_, meta)| *meta == UnitMeta::default()));
            let packets: Vec<_> = delivered.into_iter().map(|(packet, _)| packet).collect();
            assert_eq!(packets, packet::cut(&unit, &meta));
            assert_eq!(net.host(1).stats.tun_tx_resegmented.load(Relaxed), 1);
            // The offload was never seen to work, so it is not tried again.
            assert_eq!(deliver(&mut net, &unit, meta).len(), packets.len());
            assert_eq!(net.host(1).stats.tun_tx_resegmented.load(Relaxed), 1);
        }
    }
}

#[test]
fn a_path_that_refuses_trains_gets_single_datagrams_for_a_minute() {
    let mut net = connected(6);
    net.host(0).link().mtu = 1_400;
    let (unit, meta) = superpackets(Family::V4).remove(2);
    for _ in 0..3 {
        assert_eq!(deliver(&mut net, &unit, meta), [(unit.clone(), meta)]);
        assert_eq!(net.host(0).offloads.fallbacks(Offload::LinkSegmentation), 1);
    }
    net.advance(Duration::from_secs(61));
    for _ in 0..3 {
        assert_eq!(deliver(&mut net, &unit, meta), [(unit.clone(), meta)]);
        assert_eq!(net.host(0).offloads.fallbacks(Offload::LinkSegmentation), 2);
    }
    assert!(net.host(0).offloads.usable(Offload::LinkSegmentation), "one path says nothing about others");
}

#[test]
fn a_peer_that_moves_may_have_trains_again() {
    let mut net = connected(7);
    net.host(0).link().mtu = 1_400;
    let (unit, meta) = superpackets(Family::V4).remove(2);
    deliver(&mut net, &unit, meta);
    // The new path is wider: known at once, not in a minute.
    net.host(0).link().mtu = 1_500;
    net.host(1).link().addresses[0] = "198.51.100.7".parse().unwrap();
    net.send(1, 0, Family::V4, b"moved");
    net.settle();
    net.host(0).offloads.set(Offload::LinkSegmentation, OffloadState::Untested);
    assert_eq!(deliver(&mut net, &unit, meta), [(unit, meta)]);
    assert_eq!(net.host(0).offloads.state(Offload::LinkSegmentation), OffloadState::On);
}
