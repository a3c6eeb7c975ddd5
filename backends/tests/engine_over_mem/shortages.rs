//! What cannot go on is dropped under its own name, and what can goes on.

use crate::{Net, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::packet::{self, Flow};
use ginnel_backends::mem::{HostId, Oversize, overlay};
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::event::Event;
use ginnel_engine::port::{Gso, Transport, UnitMeta};

#[test]
fn outbound_packets_without_a_way_are_named() {
    let mut net = Net::new(1, 3);
    net.permit(&[R::OutboundMalformed, R::OutboundUnrouted, R::OutboundNoEndpoint, R::OutboundNoIdentity]);
    net.meet(0, 1);
    net.introduce(0, 2, None);
    let good = packet::udp(overlay::inside_flow(0, 1, Family::V4), b"good");
    let mut long = good.clone();
    long[3] += 1;
    for malformed in [&[0; 64][..], &[0x45], &[0x60; 20], &good[..19], &long] {
        net.host(0).inject(malformed);
    }
    let gso = |transport| UnitMeta { gso: Some(Gso { transport, segment_bytes: 100 }), partial_checksum: None };
    net.host(0).tun().inject(&good, gso(Transport::Udp));
    net.host(0).inject(&packet::udp(Flow::between("10.9.0.1", "10.77.0.1"), b"nowhere"));
    net.host(0).inject(&packet::udp(Flow::between("fd09::1", "fd77::1"), b"nowhere"));
    net.send(0, 2, Family::V4, b"where?");
    net.settle();
    assert_eq!(net.dropped(R::OutboundMalformed), 6, "{:?}", net.host(0).drops());
    assert_eq!((net.dropped(R::OutboundUnrouted), net.dropped(R::OutboundNoEndpoint)), (2, 1));
    net.host(0).apply(vec![Operation::SetIdentity(None)]);
    net.host(0).inject(&good);
    net.settle();
    assert_eq!(net.dropped(R::OutboundNoIdentity), 1);
    // A key again, and the tunnel works.
    net.host(0).apply(vec![Operation::SetIdentity(Some(overlay::key(0)))]);
    net.host(0).inject(&good);
    net.settle();
    assert_eq!(net.received(1).len(), 1);
}

#[test]
fn what_the_socket_does_not_take_is_counted() {
    let mut net = connected(2);
    net.permit(&[R::OutboundOverflow, R::OutboundRefused]);
    let (unit, meta) = packet::udp_super(overlay::inside_flow(0, 1, Family::V4), &packet::pattern(10_000, 1), 1_000);
    net.host(0).link().jammed = true;
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    assert_eq!(net.dropped(R::OutboundOverflow), 10);
    net.host(0).link().jammed = false;
    net.host(0).link().unreachable.push(overlay::outside(1, Family::V4).ip());
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    assert_eq!(net.dropped(R::OutboundRefused), 10);
    net.host(0).link().unreachable.clear();
    net.host(0).link().mtu = 1_000;
    net.host(0).link().oversize = Oversize::Refuse;
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    assert_eq!(net.dropped(R::OutboundRefused), 20);
    net.host(0).link().mtu = 1_500;
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    assert_eq!(net.received(1).len(), 10);
}

#[test]
fn what_the_interface_does_not_take_is_counted() {
    let mut net = connected(3);
    net.permit(&[R::InboundTunRefused]);
    net.host(1).tun().up = false;
    net.send(0, 1, Family::V4, b"lost");
    let (unit, meta) =
        packet::tcp_super(overlay::inside_flow(0, 1, Family::V4), 1, packet::ACK, &packet::pattern(10_000, 1), 1_000);
    net.host(0).tun().inject(&unit, meta);
    net.settle();
    assert_eq!(net.dropped(R::InboundTunRefused), 11);
    net.host(1).tun().up = true;
    net.send(0, 1, Family::V4, b"back");
    net.settle();
    assert_eq!(net.received(1), [(0, b"back".to_vec())]);
}

#[test]
fn a_worker_ends_with_its_ports_and_says_so() {
    let mut net = connected(4);
    net.host(0).tun().removed = true;
    net.host(1).link().closed = true;
    net.settle();
    assert_eq!(net.events(0), [Event::PortClosed { errno: 77 }]);
    assert_eq!(net.events(1), [Event::PortClosed { errno: 9 }]);
    let closed: Vec<_> = net.world.ids().map(|id: HostId| net.world.peek(id).closed()).collect();
    assert_eq!(closed, [Some(77), Some(9)]);
}
