//! Cryptokey routing inbound: a packet may only carry a source that is routed back to the peer it came from, by longest
//! match over all peers (paper, section 2).

use crate::{Net, connect, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay;
use ginnel_backends::mem::packet::{self, Flow};
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason;

/// A packet of `from` to node 0.
fn packet_of(from: &str) -> Vec<u8> {
    let to = if from.contains(':') { overlay::inside(0, Family::V6) } else { overlay::inside(0, Family::V4) };
    packet::udp(Flow::between(from, &to.to_string()), from.as_bytes())
}

/// Has node `by` send a packet of each source; the sources node 0 let in.
fn let_in(net: &mut Net, by: usize, sources: &[&str]) -> Vec<String> {
    for source in sources {
        net.host(by).inject(&packet_of(source));
    }
    net.settle();
    let received = net.host(0).received();
    let text = |packet: &Vec<u8>| String::from_utf8(packet::open(packet).unwrap().1.to_vec()).unwrap();
    // Different flows may overtake each other within a batch.
    let mut sources: Vec<_> = received.iter().map(text).collect();
    sources.sort();
    sources
}

fn route(net: &mut Net, about: usize, prefix: &str) {
    let prefix = prefix.parse().unwrap();
    net.tell(0, about, |peer| Operation::Route(prefix, peer));
}

#[test]
fn foreign_sources_are_dropped_and_counted() {
    let mut net = connected(1);
    net.permit(&[DropReason::InboundForeignSource]);
    let sources = ["10.9.0.2", "10.9.0.3", "fd09::2", "fd09::3", "10.9.0.1", "0.0.0.0", "::", "127.0.0.1", "10.9.0.2"];
    assert_eq!(let_in(&mut net, 1, &sources), ["10.9.0.2", "10.9.0.2", "fd09::2"]);
    assert_eq!(net.dropped(DropReason::InboundForeignSource), 6);
}

#[test]
fn a_more_specific_prefix_of_another_peer_takes_addresses_away() {
    let mut net = Net::new(2, 3);
    net.permit(&[DropReason::InboundForeignSource]);
    net.meet(0, 1);
    net.meet(0, 2);
    connect(&mut net, 0, 1);
    connect(&mut net, 0, 2);
    for (about, prefix) in [(1, "10.8.0.0/16"), (2, "10.8.5.0/24"), (1, "fd08::/16"), (2, "fd08:5::/32")] {
        route(&mut net, about, prefix);
    }
    let sources = ["10.8.4.255", "10.8.5.0", "10.8.5.255", "10.8.6.0", "fd08:4::1", "fd08:5::1"];
    assert_eq!(let_in(&mut net, 1, &sources), ["10.8.4.255", "10.8.6.0", "fd08:4::1"]);
    assert_eq!(let_in(&mut net, 2, &sources), ["10.8.5.0", "10.8.5.255", "fd08:5::1"]);
    assert_eq!(net.dropped(DropReason::InboundForeignSource), 6);
    // Without the more specific prefix the wider one answers again.
    net.host(0).apply(vec![Operation::Unroute("10.8.5.0/24".parse().unwrap())]);
    assert_eq!(let_in(&mut net, 1, &["10.8.5.7"]), ["10.8.5.7"]);
    assert_eq!(let_in(&mut net, 2, &["10.8.5.7"]), [""; 0]);
}

#[test]
fn one_wrong_packet_does_not_spoil_the_train() {
    let mut net = connected(3);
    net.permit(&[DropReason::InboundForeignSource]);
    let (right, wrong) = (["10.9.0.2"; 20], ["10.9.0.77"; 3]);
    let mixed: Vec<_> = right.iter().chain(&wrong).chain(&right).copied().collect();
    assert_eq!(let_in(&mut net, 1, &mixed).len(), 40);
    assert_eq!(net.dropped(DropReason::InboundForeignSource), 3);
}

#[test]
fn a_superpacket_of_a_wrong_source_is_dropped_whole() {
    let mut net = connected(4);
    net.permit(&[DropReason::InboundForeignSource]);
    let flow = Flow::between("10.9.0.77", "10.9.0.1");
    let (unit, meta) = packet::tcp_super(flow, 1, packet::ACK, &packet::pattern(10_000, 1), 1_000);
    net.host(1).tun().inject(&unit, meta);
    net.settle();
    assert!(net.host(0).received().is_empty());
    assert_eq!(net.dropped(DropReason::InboundForeignSource), 10);
}

#[test]
fn wrong_sources_prove_nothing_but_who_sent_them() {
    // The packet is authentic, so the peer is where it came from, whatever it carried.
    let mut net = connected(5);
    net.permit(&[DropReason::InboundForeignSource]);
    net.host(1).link().addresses[0] = "198.51.100.9".parse().unwrap();
    assert_eq!(let_in(&mut net, 1, &["10.9.0.77"]), [""; 0]);
    assert_eq!(net.stats(0, 1).endpoint(), Some("198.51.100.9:51820".parse().unwrap()));
}

#[test]
fn authentic_nonsense_is_dropped_and_counted() {
    let mut net = connected(6);
    net.permit(&[DropReason::InboundInnerMalformed]);
    // No worker of ours would seal these, but a peer may be anything: here it is a bare session.
    let mut bare = bare_peer::BarePeer::meet(&mut net);
    for nonsense in [&[0x45; 10][..], &[0x45; 40], &[0x60; 39], &[0x60; 60], &[0; 64], &[0xff; 64]] {
        bare.send(&mut net, nonsense);
    }
    net.settle();
    assert_eq!(net.dropped(DropReason::InboundInnerMalformed), 6);
    assert!(net.host(0).received().is_empty());
}

/// A peer that is a bare boringtun session and says whatever the test wants.
mod bare_peer {
    use crate::Net;
    use boringtun::noise::{Tunn, TunnResult};
    use boringtun::x25519::{PublicKey, StaticSecret};
    use ginnel_backends::conformance::Family;
    use ginnel_backends::mem::{Way, overlay};
    use ginnel_engine::command::Operation;
    use ginnel_engine::frame::Ecn;
    use ginnel_engine::key;
    use ginnel_engine::peer::PeerRef;
    use std::sync::Arc;

    pub struct BarePeer(Tunn);

    const KEY: [u8; 32] = [0x40; 32];

    impl BarePeer {
        /// Becomes a peer of node 0 and completes a handshake.
        pub fn meet(net: &mut Net) -> Self {
            let public = key::PrivateKey::new(KEY).public();
            let peer = PeerRef(1_000);
            net.host(0).apply(vec![Operation::AddPeer { peer, key: public, stats: Arc::default() }]);
            net.settle();
            let node = PublicKey::from(overlay::public_key(0).0);
            let mut bare = Self(Tunn::new(StaticSecret::from(KEY), node, None, None, 9, None));
            net.world.network.start_capture();
            let mut buffer = vec![0; 2_048];
            let TunnResult::WriteToNetwork(initiation) = bare.0.format_handshake_initiation(&mut buffer, false) else {
                panic!("no initiation")
            };
            let initiation = initiation.to_vec();
            net.world.network.send(net.world.now(), way(), &initiation);
            net.settle();
            let answer = net.world.network.captured().pop().unwrap();
            assert_eq!(answer.way.to, way().from);
            let TunnResult::WriteToNetwork(confirmation) = bare.0.decapsulate(None, &answer.bytes, &mut buffer) else {
                panic!("the answer was not accepted")
            };
            let confirmation = confirmation.to_vec();
            net.world.network.send(net.world.now(), way(), &confirmation);
            net.settle();
            bare
        }

        /// Sends `packet` sealed, whatever it is.
        pub fn send(&mut self, net: &mut Net, packet: &[u8]) {
            let mut buffer = vec![0; 2_048];
            let TunnResult::WriteToNetwork(sealed) = self.0.encapsulate(packet, &mut buffer) else {
                panic!("no session")
            };
            let sealed = sealed.to_vec();
            net.world.network.send(net.world.now(), way(), &sealed);
        }
    }

    fn way() -> Way {
        Way { from: "203.0.113.40:4040".parse().unwrap(), to: overlay::outside(0, Family::V4), ecn: Ecn::NOT_ECT }
    }
}
