//! The conformance suite against the in-memory backend.

use ginnel_backends::conformance::tun::{SINK, far, near};
use ginnel_backends::conformance::{Family, LinkLab, TunLab, link, tun};
use ginnel_backends::mem::packet::{self, Flow};
use ginnel_backends::mem::{Link, Network, Tun};
use ginnel_engine::port::{Offload, Offloads, UnitMeta};
use ginnel_engine::tick::Tick;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Links on one kind network, two addresses of each family for each.
struct Wires {
    network: Network,
    bound: u8,
}

impl Wires {
    fn new() -> Self {
        Self { network: Network::new(0), bound: 0 }
    }
}

impl LinkLab for Wires {
    type Link = Link;

    fn bind(&mut self, offloads: Arc<Offloads>) -> Link {
        self.bound += 1;
        let n = self.bound;
        let addresses = [0, 1].into_iter().flat_map(|which| {
            [IpAddr::from([10, 0, which, n]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, which.into(), n.into()])]
        });
        let mut link = Link::new(addresses.collect(), 5_000 + u16::from(n), offloads);
        link.unreachable = Family::BOTH.map(|family| self.nowhere(family).ip()).to_vec();
        link
    }

    fn address(&self, link: &Link, family: Family, which: usize) -> SocketAddr {
        let of_family = |address: &&IpAddr| address.is_ipv4() == (family == Family::V4);
        let address = link.addresses.iter().filter(of_family).nth(which).unwrap();
        SocketAddr::new(*address, link.port)
    }

    fn nowhere(&mut self, family: Family) -> SocketAddr {
        match family {
            Family::V4 => "203.0.113.1:9".parse().unwrap(),
            Family::V6 => "[2001:db8::1]:9".parse().unwrap(),
        }
    }

    fn limit(&mut self, mtu: u16, links: &mut [&mut Link]) {
        for link in links {
            link.mtu = usize::from(mtu);
        }
    }

    fn carry(&mut self, links: &mut [&mut Link]) {
        for link in links.iter_mut() {
            while let Some((way, datagram)) = link.depart() {
                self.network.send(Tick(1), way, datagram);
            }
        }
        self.network.deliver_due(Tick(1), |way, datagram| {
            let Some(link) = links.iter_mut().find(|link| link.listens_to(way.to)) else { return false };
            link.arrive(*way, datagram);
            true
        });
    }
}

/// A host whose stack is a few lines: it sends UDP and TCP, as superpackets where the interface has them, and sorts what
/// it gets.
#[derive(Default)]
struct Stack {
    offloads: Option<Arc<Offloads>>,
    /// The interface refuses superpackets without a warning.
    refuses: bool,
    datagrams: Vec<(Family, Vec<u8>)>,
    /// Payload of the stream by sequence number.
    stream: BTreeMap<u32, Vec<u8>>,
}

impl Stack {
    fn flow(family: Family) -> Flow {
        Flow { from: SocketAddr::new(near(family), 4_000), to: SocketAddr::new(far(family), SINK) }
    }

    fn usable(&self, offload: Offload) -> bool {
        self.offloads.as_ref().unwrap().usable(offload)
    }

    fn sort(&mut self, tun: &mut Tun) {
        while let Some((meta, unit)) = tun.take() {
            for packet in packet::cut(unit, &meta) {
                assert!(packet::is_sound(&packet));
                let (flow, payload) = packet::open(&packet).unwrap();
                assert_eq!(flow.to.port(), SINK);
                let (family, protocol) =
                    if packet[0] >> 4 == 4 { (Family::V4, packet[9]) } else { (Family::V6, packet[6]) };
                if protocol == 17 {
                    self.datagrams.push((family, payload.to_vec()));
                } else {
                    let at = if family == Family::V4 { 24 } else { 44 };
                    let sequence = u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
                    assert!(self.stream.insert(sequence, payload.to_vec()).is_none());
                }
            }
        }
    }
}

impl TunLab for Stack {
    type Tun = Tun;

    fn create(&mut self, mtu: u16, offloads: Arc<Offloads>) -> Tun {
        self.stream.clear();
        self.offloads = Some(Arc::clone(&offloads));
        let mut tun = Tun::new(mtu, offloads);
        (tun.refuses_tcp, tun.refuses_udp) = (self.refuses, self.refuses);
        tun
    }

    fn set_mtu(&mut self, tun: &mut Tun, mtu: u16) {
        tun.mtu = mtu;
    }

    fn set_up(&mut self, tun: &mut Tun, up: bool) {
        tun.up = up;
    }

    fn remove(&mut self, tun: &mut Tun) {
        tun.removed = true;
    }

    fn send_udp(&mut self, tun: &mut Tun, family: Family, payload: &[u8], bytes: u16) {
        if self.usable(Offload::TunUdp) && payload.len() > usize::from(bytes) {
            let (unit, meta) = packet::udp_super(Self::flow(family), payload, bytes);
            return tun.inject(&unit, meta);
        }
        for datagram in payload.chunks(usize::from(bytes)) {
            tun.inject(&packet::udp(Self::flow(family), datagram), UnitMeta::default());
        }
    }

    fn received_udp(&mut self, tun: &mut Tun, family: Family) -> Vec<Vec<u8>> {
        self.sort(tun);
        let (taken, kept) = std::mem::take(&mut self.datagrams).into_iter().partition(|(of, _)| *of == family);
        self.datagrams = kept;
        let taken: Vec<_> = taken;
        taken.into_iter().map(|(_, payload)| payload).collect()
    }

    fn send_tcp(&mut self, tun: &mut Tun, family: Family, stream: &[u8]) {
        let (portion, segment) = if self.usable(Offload::TunTcp) { (60_000, 1_360) } else { (1_360, 1_360) };
        let mut sequence = 0;
        for payload in stream.chunks(portion) {
            if portion > segment {
                let (unit, meta) = packet::tcp_super(
                    Self::flow(family),
                    sequence,
                    packet::PSH_ACK,
                    payload,
                    u16::try_from(segment).unwrap(),
                );
                tun.inject(&unit, meta);
            } else {
                tun.inject(&packet::tcp(Self::flow(family), sequence, packet::ACK, payload), UnitMeta::default());
            }
            sequence += u32::try_from(payload.len()).unwrap();
        }
    }

    fn received_tcp(&mut self, tun: &mut Tun) -> Vec<u8> {
        self.sort(tun);
        self.stream.values().flatten().copied().collect()
    }
}

#[test]
fn links_conform() {
    for (name, promise) in link::promises() {
        eprintln!("link: {name}");
        promise(&mut Wires::new());
    }
}

#[test]
fn interfaces_conform() {
    for (name, promise) in tun::promises() {
        eprintln!("tun: {name}");
        promise(&mut Stack::default());
    }
}

#[test]
fn interfaces_that_refuse_what_they_promised_conform() {
    for (name, promise) in tun::promises() {
        eprintln!("tun: {name}");
        promise(&mut Stack { refuses: true, ..Stack::default() });
    }
}
