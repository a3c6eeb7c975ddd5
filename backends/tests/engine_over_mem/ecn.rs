//! Congestion marks through the tunnel (RFC 6040): copied to the outer header on the way in, merged on the way out.

use crate::connected;
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::{overlay, packet};
use ginnel_engine::drops::DropReason;
use ginnel_engine::frame::Ecn;
use ginnel_engine::wire::ip;

/// RFC 6040, figure 4. Rows are inner marks, columns outer marks, both in the order of their bits: Not-ECT, ECT(1),
/// ECT(0), CE. `None` is a drop.
const MERGED: [[Option<u8>; 4]; 4] = [
    [Some(0), Some(0), Some(0), None],
    [Some(1), Some(1), Some(1), Some(3)],
    [Some(2), Some(1), Some(2), Some(3)],
    [Some(3), Some(3), Some(3), Some(3)],
];

#[test]
fn marks_are_copied_out_and_merged_back() {
    for family in Family::BOTH {
        for inner in 0..4_u8 {
            for outer in 0..4_u8 {
                let mut net = connected(1);
                net.permit(&[DropReason::InboundCongested]);
                net.world.network.start_capture();
                net.world.network.conditions.mark = Some(Ecn(outer));
                let flow = overlay::inside_flow(0, 1, family);
                net.host(0).inject(&packet::marked(packet::udp(flow, b"marked"), Ecn(inner)));
                net.settle();
                // As it left, before a router marked it.
                assert_eq!(net.world.network.captured()[0].way.ecn, Ecn(inner));
                let received = net.host(1).received();
                let merged = MERGED[usize::from(inner)][usize::from(outer)];
                assert_eq!(received.first().map(|packet| ip::tos(packet) & 3), merged, "{inner} in {outer}");
                assert!(received.iter().all(|packet| packet::is_sound(packet)));
                assert_eq!(net.dropped(DropReason::InboundCongested), u64::from(merged.is_none()));
            }
        }
    }
}

#[test]
fn the_rest_of_the_traffic_class_stays_inside() {
    for family in Family::BOTH {
        let mut net = connected(2);
        net.world.network.start_capture();
        let mut packet = packet::udp(overlay::inside_flow(0, 1, family), b"expedited");
        match family {
            Family::V4 => {
                packet[1] = 0xb8;
                ip::refresh_ipv4_checksum(&mut packet, 20);
            }
            Family::V6 => (packet[0], packet[1]) = (0x6b, 0x80),
        }
        net.host(0).inject(&packet);
        net.settle();
        assert_eq!(net.world.network.captured()[0].way.ecn, Ecn::NOT_ECT);
        assert_eq!(net.host(1).received(), [packet]);
    }
}

#[test]
fn a_mark_on_a_train_reaches_every_packet() {
    let mut net = connected(3);
    let flow = overlay::inside_flow(0, 1, Family::V4);
    let (unit, meta) = packet::tcp_super(flow, 1, packet::PSH_ACK, &packet::pattern(9_000, 1), 1_000);
    let unit = packet::marked(unit, Ecn(2));
    net.world.network.conditions.mark = Some(Ecn::CE);
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    let delivered = net.host(1).delivered();
    assert_eq!(delivered, [(packet::marked(unit, Ecn::CE), meta)]);
}

#[test]
fn packets_of_different_marks_are_not_merged() {
    let mut net = connected(4);
    let flow = overlay::inside_flow(0, 1, Family::V6);
    let (unit, meta) = packet::tcp_super(flow, 1, packet::ACK, &packet::pattern(4_000, 1), 1_000);
    let packets: Vec<_> = packet::cut(&unit, &meta)
        .into_iter()
        .zip([2, 2, 3, 2])
        .map(|(packet, mark)| packet::marked(packet, Ecn(mark)))
        .collect();
    for packet in &packets {
        net.host(0).inject(packet);
    }
    net.settle();
    assert_eq!(net.host(1).received(), packets);
}
