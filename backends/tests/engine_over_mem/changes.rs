//! Changes of configuration while packets flow: what is not concerned must not notice.

use crate::{Net, connect, connected};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::overlay;
use ginnel_engine::command::Operation;
use ginnel_engine::drops::DropReason as R;
use ginnel_engine::event::Event;
use ginnel_engine::wire::message::Message;
use std::time::Duration;

/// Between two packets of a stream.
const STEP: Duration = Duration::from_millis(5);

/// Takes what nodes 0 and 1 have of each other.
fn collect(net: &mut Net, received: &mut [Vec<Vec<u8>>; 2]) {
    for (n, received) in received.iter_mut().enumerate() {
        received.extend(net.received(n).into_iter().filter(|(from, _)| *from == 1 - n).map(|(_, payload)| payload));
    }
}

/// Sends numbered packets both ways between nodes 0 and 1, one each way per step, and lets `change` act before each;
/// every one of them has to arrive, in order.
fn stream(net: &mut Net, steps: u32, mut change: impl FnMut(&mut Net, u32)) {
    let mut received = [Vec::new(), Vec::new()];
    for step in 0..steps {
        change(net, step);
        net.send(0, 1, Family::V4, &step.to_be_bytes());
        net.send(1, 0, Family::V6, &step.to_be_bytes());
        net.advance(STEP);
        collect(net, &mut received);
    }
    net.advance(Duration::from_secs(1));
    collect(net, &mut received);
    for (n, received) in received.iter().enumerate() {
        let want: Vec<_> = (0..steps).map(|step| step.to_be_bytes().to_vec()).collect();
        assert_eq!(received.len(), want.len(), "node {n} missed packets; drops: {:?}, {:?}", net.host(0).drops(), {
            net.host(1).drops()
        });
        assert_eq!(*received, want, "node {n}");
    }
}

#[test]
fn a_preshared_key_has_to_match() {
    for (keys, works) in [([Some(1), Some(1)], true), ([Some(1), Some(2)], false), ([Some(1), None], false)] {
        let mut net = Net::pair(1);
        net.set_preshared_key(0, 1, keys[0]);
        net.set_preshared_key(1, 0, keys[1]);
        net.send(0, 1, Family::V4, b"secret");
        net.settle();
        assert_eq!(net.received(1).len(), usize::from(works));
        if !works {
            net.permit(&[R::InboundUnauthentic]);
            assert_eq!(net.host(0).dropped(R::InboundUnauthentic), 1);
        }
    }
}

#[test]
fn preshared_keys_change_under_traffic_without_loss() {
    for (first, second) in [(0, 1), (1, 0)] {
        for delay_ms in [0, 3, 30] {
            for keys in [[Some(1), Some(2)], [Some(1), None], [None, Some(1)]] {
                let mut net = Net::pair(2);
                // The one who has the old key answers a handshake that only the new one can finish.
                net.permit(&[R::InboundUnauthentic]);
                for (of, about) in [(0, 1), (1, 0)] {
                    net.set_preshared_key(of, about, keys[0]);
                }
                connect(&mut net, 0, 1);
                net.world.network.conditions.delay = Duration::from_millis(delay_ms);
                stream(&mut net, 200, |net, step| match step {
                    50 => net.set_preshared_key(first, second, keys[1]),
                    120 => net.set_preshared_key(second, first, keys[1]),
                    _ => {}
                });
                // The change came into force: both completed a handshake with the new key.
                for n in [0, 1] {
                    let completed = Event::HandshakeCompleted { peer: overlay::public_key(1 - n) };
                    assert!(net.events(n).contains(&completed), "node {n} goes on with the old key");
                }
            }
        }
    }
}

#[test]
fn preshared_keys_that_change_at_once_lose_nothing() {
    for delay_ms in [0, 3, 30] {
        let mut net = connected(3);
        net.permit(&[R::InboundUnauthentic]);
        net.world.network.conditions.delay = Duration::from_millis(delay_ms);
        stream(&mut net, 300, |net, step| {
            if step % 60 == 30 {
                let psk = u8::try_from(step).ok();
                net.set_preshared_key(0, 1, psk);
                net.set_preshared_key(1, 0, psk);
            }
        });
    }
}

#[test]
fn a_key_change_between_answer_and_confirmation_loses_nothing() {
    // Node 0 asks for another session; node 1 has answered and changes its key before the confirmation arrives, so the
    // first packet of the new session finds it among the retired ones.
    let mut net = connected(4);
    // The first of the two handshakes node 0 asks for is given up before it is answered.
    net.permit(&[R::InboundUnauthentic, R::InboundUnknownIndex]);
    net.world.network.conditions.delay = Duration::from_millis(30);
    net.world.network.start_capture();
    let mut answered = false;
    let mut changed = 0;
    stream(&mut net, 1_600, |net, step| {
        if step == 20 {
            // A new session with the keys there are: identity and key stay the same, sessions of node 0 begin anew.
            net.set_preshared_key(0, 1, Some(9));
            net.set_preshared_key(0, 1, None);
        }
        let responses = |datagram: &ginnel_backends::mem::Captured| {
            matches!(Message::classify(&datagram.bytes), Message::Response { .. })
                && datagram.way.from == overlay::outside(1, Family::V4)
        };
        if !answered && step > 20 && net.world.network.captured().iter().any(responses) {
            answered = true;
            changed = step;
        }
        if answered && step == changed + 1 {
            net.set_preshared_key(1, 0, Some(7));
        }
        if answered && step == changed + 1_300 {
            net.set_preshared_key(0, 1, Some(7));
        }
    });
    assert!(answered && changed < 100);
}

#[test]
fn peers_come_and_go_beside_a_stream() {
    let mut net = Net::new(5, 4);
    net.permit(&[R::InboundUnknownIndex, R::OutboundUnrouted, R::InboundUnknownPeer]);
    net.meet(0, 1);
    connect(&mut net, 0, 1);
    stream(&mut net, 400, |net, step| {
        for (other, offset) in [(2, 0), (3, 7)] {
            match (step + offset) % 40 {
                5 => net.meet(0, other),
                30 => net.forget(0, other),
                35 => net.forget(other, 0),
                10..30 => {
                    net.send(0, other, Family::V4, b"beside");
                    net.send(other, 0, Family::V4, b"beside");
                }
                _ => {}
            }
        }
    });
}

#[test]
fn a_peer_added_again_starts_over() {
    let mut net = connected(6);
    net.permit(&[R::InboundUnknownIndex, R::OutboundUnrouted]);
    for round in 0..5_u8 {
        net.forget(0, 1);
        net.send(0, 1, Family::V4, b"nobody");
        net.send(1, 0, Family::V4, b"nobody");
        net.settle();
        assert_eq!(net.dropped(R::OutboundUnrouted), u64::from(round) + 1);
        assert_eq!(net.dropped(R::InboundUnknownIndex), u64::from(round) + 1);
        net.introduce(0, 1, Some(overlay::outside(1, Family::V4)));
        net.send(0, 1, Family::V4, &[round]);
        net.settle();
        assert_eq!(net.received(1), [(0, vec![round])]);
        net.send(1, 0, Family::V4, &[round]);
        net.settle();
        assert_eq!(net.received(0), [(1, vec![round])]);
    }
}

#[test]
fn prefixes_change_hands_under_traffic() {
    let mut net = Net::new(7, 3);
    net.permit(&[R::InboundForeignSource]);
    for other in [1, 2] {
        net.meet(0, other);
        connect(&mut net, 0, other);
        // Both may be asked for the address; node 0 decides whom.
        let wandering = "10.50.0.0/24".parse().unwrap();
        net.tell(other, 0, |peer| Operation::Route("10.50.1.0/24".parse().unwrap(), peer));
        net.tell(0, other, |peer| Operation::Route(wandering, peer));
    }
    let flow = ginnel_backends::mem::packet::Flow::between("10.50.1.1", "10.50.0.1");
    let mut holder = 2;
    for round in 0..50_u8 {
        if round % 10 == 5 {
            holder = 3 - holder;
            net.tell(0, holder, |peer| Operation::Route("10.50.0.0/24".parse().unwrap(), peer));
        }
        net.host(0).inject(&ginnel_backends::mem::packet::udp(flow, &[round]));
        for other in [1, 2] {
            net.host(other).inject(&ginnel_backends::mem::packet::udp(flow.reversed(), &[round]));
        }
        net.settle();
        // Out to the holder, in from the holder only.
        assert_eq!(net.host(holder).received().len(), 1);
        assert_eq!(net.host(3 - holder).received().len(), 0);
        assert_eq!(net.host(0).received().len(), 1);
    }
    assert_eq!(net.dropped(R::InboundForeignSource), 50);
}

#[test]
fn repeating_what_is_set_changes_nothing() {
    let mut net = connected(8);
    net.world.network.start_capture();
    stream(&mut net, 100, |net, step| {
        if step % 10 == 0 {
            net.set_preshared_key(0, 1, None);
            net.tell(0, 1, |peer| Operation::SetEndpoint(peer, overlay::outside(1, Family::V4)));
            for prefix in overlay::prefixes(1) {
                net.tell(0, 1, |peer| Operation::Route(prefix, peer));
            }
        }
    });
    let is_data = |bytes: &[u8]| matches!(Message::classify(bytes), Message::Data { .. });
    assert!(net.world.network.captured().iter().all(|datagram| is_data(&datagram.bytes)));
}

#[test]
fn a_new_identity_ends_all_sessions() {
    let mut net = Net::new(9, 3);
    net.permit(&[R::InboundUnknownPeer, R::InboundUnknownIndex, R::InboundBadMac]);
    net.meet(0, 1);
    net.meet(0, 2);
    connect(&mut net, 0, 1);
    connect(&mut net, 0, 2);
    let other = ginnel_engine::key::PrivateKey::new([0x77; 32]);
    net.host(0).apply(vec![Operation::SetIdentity(Some(other.clone()))]);
    for n in [1, 2] {
        net.send(n, 0, Family::V4, b"to whom it was");
        net.send(0, n, Family::V4, b"from somebody else");
    }
    net.settle();
    assert!(net.received(0).is_empty() && net.received(1).is_empty() && net.received(2).is_empty());
    assert_eq!((net.dropped(R::InboundUnknownIndex), net.dropped(R::InboundUnknownPeer)), (2, 2));
    // Known under the new key, it is a peer again.
    let peer = ginnel_engine::peer::PeerRef(50);
    let mut operations = vec![Operation::AddPeer { peer, key: other.public(), stats: std::sync::Arc::default() }];
    operations.extend(overlay::prefixes(0).map(|prefix| Operation::Route(prefix, peer)));
    operations.push(Operation::SetEndpoint(peer, overlay::outside(0, Family::V4)));
    net.host(1).apply(operations);
    net.send(1, 0, Family::V4, b"to whom it is");
    net.settle();
    assert_eq!(net.received(0), [(1, b"to whom it is".to_vec())]);
}
