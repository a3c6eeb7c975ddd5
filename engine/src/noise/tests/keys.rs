//! How sessions follow each other: confirmation, crossing handshakes, exhaustion, expiry, changed preshared keys.

use super::*;
use crate::noise::session::REKEY_AFTER_MESSAGES;
use crate::wire::message::REJECT_AFTER_MESSAGES;
use proptest::prelude::*;

const SECOND: Duration = Duration::from_secs(1);

fn is_initiation(datagram: &[u8]) -> bool {
    Message::classify(datagram) == Message::Initiation
}

#[test]
fn who_answers_seals_with_the_new_keys_once_they_are_confirmed() {
    let mut ends = connected();
    let old = ends[1].send(b"old")[0][4..8].to_vec();
    pass(&mut ends, 121 * SECOND);
    let said = ends[0].send(b"renews");
    assert!(said.len() == 2 && is_initiation(&said[1]));
    assert_eq!(ends[1].hear(&said[0]), Came::Packet(b"renews".to_vec()));
    // It asks for new keys as well, since nothing answered its own packet.
    assert!(is_initiation(&ends[1].take()[0]));
    ends[1].hear(&said[1]);
    let response = ends[1].take().remove(0);
    // The answer is under way: both go on with the old keys.
    assert_eq!(ends[1].send(b"still")[0][4..8], old);
    let late = ends[0].send(b"late").remove(0);
    assert_eq!(ends[0].hear(&response), Came::Handshake(Handshake::Completed));
    let confirmation = ends[0].take().remove(0);
    assert_eq!(ends[1].send(b"still")[0][4..8], old);
    ends[1].hear(&confirmation);
    let new = ends[1].send(b"new").remove(0);
    assert_ne!(new[4..8], old);
    // What was sealed before the change arrives after it.
    assert_eq!(ends[1].hear(&late), Came::Packet(b"late".to_vec()));
    assert_eq!(ends[0].hear(&new), Came::Packet(b"new".to_vec()));
}

#[test]
fn keys_rotate_under_traffic_both_ways_without_loss() {
    let mut ends = connected();
    let mut indices = std::collections::HashSet::new();
    for round in 0..9_000_u32 {
        for end in &mut ends {
            end.core.seal(
                end.now,
                &mut Packets(vec![round.to_le_bytes().to_vec(); 3].into_iter(), Vec::new()),
                &mut end.sent,
            );
            indices.extend(end.sent.datagrams.iter().filter(|said| said[0] == 4).map(|said| said[4..8].to_vec()));
        }
        for packets in converse(&mut ends) {
            assert_eq!(packets, vec![round.to_le_bytes().to_vec(); 3]);
        }
        pass(&mut ends, Duration::from_millis(100));
    }
    assert_eq!(indices.len(), 2 * 8, "900 s are eight sessions of 120 s");
}

#[test]
fn handshakes_that_cross_leave_both_with_keys() {
    let mut ends = connected();
    for round in 0..4_u8 {
        for end in &mut ends {
            end.core.initiate(end.now, &mut end.sent);
        }
        let asked = [0, 1].map(|n: usize| ends[n].take().remove(0));
        // Sealed with the keys of the round before, opened after this one.
        let late = [0, 1].map(|n: usize| ends[n].send(&[round]).remove(0));
        ends[1].hear(&asked[0]);
        ends[0].hear(&asked[1]);
        let answers = [0, 1].map(|n: usize| ends[n].take().remove(0));
        ends[1].hear(&answers[0]);
        ends[0].hear(&answers[1]);
        for n in [0, 1] {
            assert_eq!(ends[1 - n].hear(&late[n]), Came::Packet(vec![round]), "round {round}");
        }
        converse(&mut ends);
        for n in [0, 1] {
            let said = ends[n].send(b"hello").remove(0);
            assert_eq!(ends[1 - n].hear(&said), Came::Packet(b"hello".to_vec()));
        }
        pass(&mut ends, SECOND);
    }
}

#[test]
fn keys_that_reach_their_last_messages_are_renewed_and_then_refused() {
    let mut ends = connected();
    // Not for its age, and by whoever answered.
    for session in ends[1].core.keyring.sessions() {
        session.set_counter(REKEY_AFTER_MESSAGES);
    }
    let said = ends[1].send(b"renews");
    assert!(said.len() == 2 && is_initiation(&said[1]));
    let mut ends = connected();
    for session in ends[0].core.keyring.sessions() {
        session.set_counter(REJECT_AFTER_MESSAGES - 2);
    }
    for packet in [b"a", b"b", b"c", b"d"] {
        let now = ends[0].now;
        ends[0].core.seal(now, &mut Packets(vec![packet.to_vec()].into_iter(), Vec::new()), &mut ends[0].sent);
    }
    assert!(!ends[0].core.ready(ends[0].now), "two counters for four packets");
    assert_eq!(ends[0].sent.datagrams.iter().filter(|said| is_initiation(said)).count(), 1);
    // The last two wait for the new keys; none is lost, none out of order.
    assert_eq!(converse(&mut ends)[1], [b"a", b"b", b"c", b"d"]);
}

#[test]
fn keys_end_after_180_seconds_and_are_gone() {
    let mut ends = connected();
    let late = ends[0].send(b"late").remove(0);
    pass(&mut ends, 179 * SECOND + Duration::from_millis(999));
    assert!(ends[0].core.ready(ends[0].now));
    // The pulse says nothing of it before, and at the date nothing is left.
    ends[1].now = ends[1].now + Duration::from_millis(1);
    assert_eq!(ends[1].hear(&late), Came::Dropped(DropReason::InboundUnknownIndex));
    assert_eq!(ends[1].core.keyring.sessions().count(), 0);
    ends[0].now = ends[0].now + Duration::from_millis(1);
    assert!(!ends[0].core.ready(ends[0].now));
    assert!(is_initiation(&ends[0].send(b"new")[0]));
}

#[test]
fn who_only_hears_asks_in_the_last_moment() {
    let mut ends = connected();
    ends.iter_mut().for_each(|end| drop(end.take()));
    for end in &mut ends {
        end.now = end.now + Duration::from_secs(164);
    }
    let said = ends[1].send(b"?").remove(0);
    ends[0].hear(&said);
    assert!(ends[0].take().is_empty());
    for end in &mut ends {
        end.now = end.now + SECOND;
    }
    let said = ends[1].send(b"?").remove(0);
    ends[0].hear(&said);
    let asked = ends[0].take();
    assert!(asked.len() == 1 && is_initiation(&asked[0]));
    // Who answered the handshake never does.
    let said = ends[0].send(b"?").remove(0);
    ends[1].hear(&said);
    assert!(ends[1].take().is_empty());
}

#[test]
fn a_changed_preshared_key_has_the_keys_renewed_and_loses_nothing() {
    let mut ends = connected();
    assert!(ends[0].core.set_preshared(preshared(Some(5)).as_ref()));
    assert!(!ends[0].core.set_preshared(preshared(Some(5)).as_ref()), "that is the same");
    // The other end has the old one: what is sent goes on being understood, and the handshake comes to nothing.
    let said = ends[0].send(b"packet");
    assert!(said.len() == 2 && is_initiation(&said[1]));
    assert_eq!(ends[1].hear(&said[0]), Came::Packet(b"packet".to_vec()));
    ends[1].hear(&said[1]);
    let answer = ends[1].take().remove(0);
    assert_eq!(ends[0].hear(&answer), Came::Dropped(DropReason::InboundUnauthentic));
    assert_eq!(ends[0].send(b"again").len(), 1, "it was asked just now");
    // It follows, and asks in its turn.
    assert!(ends[1].core.set_preshared(preshared(Some(5)).as_ref()));
    let now = ends[1].now;
    ends[1].core.initiate(now, &mut ends[1].sent);
    converse(&mut ends);
    assert_eq!(ends[0].confirmed, 1);
    for n in [0, 1] {
        let said = ends[n].send(b"new");
        assert_eq!(said.len(), 1, "nobody asks any more");
        assert_eq!(ends[1 - n].hear(&said[0]), Came::Packet(b"new".to_vec()));
    }
    // Without a session there is nothing to renew.
    assert!(!End::pair()[0].core.set_preshared(preshared(Some(5)).as_ref()));
}

#[test]
fn what_waits_is_bounded_counted_and_sent_in_order() {
    let mut ends = End::pair();
    let asked = ends[0].send(&0_u32.to_le_bytes());
    for n in 1..300_u32 {
        assert!(ends[0].send(&n.to_le_bytes()).is_empty());
    }
    ends[0].sent.datagrams = asked;
    assert_eq!(ends[0].sent.drops, [DropReason::OutboundNoSession; 44]);
    let received = converse(&mut ends);
    assert_eq!(received[1], (44..300_u32).map(|n| n.to_le_bytes().to_vec()).collect::<Vec<_>>());
    // Given up, it is counted too.
    let mut alone = End::pair();
    alone[0].send(b"nobody");
    alone[0].now = alone[0].now + 90 * SECOND;
    assert_eq!((alone[0].pulse(), alone[0].core.due()), (Pulse::Abandoned, None));
    assert_eq!(alone[0].sent.drops, [DropReason::OutboundNoSession]);
}

#[test]
fn an_old_initiation_is_refused_for_good() {
    let mut ends = End::pair();
    ends[0].core.initiate(ends[0].now, &mut ends[0].sent);
    let first = ends[0].take().remove(0);
    ends[0].now = ends[0].now + 6 * SECOND;
    ends[0].pulse();
    let second = ends[0].take().remove(0);
    assert_eq!(ends[1].hear(&second), Came::Handshake(Handshake::Continues));
    for old in [&first, &second] {
        assert_eq!(ends[1].hear(old), Came::Dropped(DropReason::InboundStaleHandshake));
    }
    pass(&mut ends, 1_000 * SECOND);
    assert_eq!(ends[1].hear(&first), Came::Dropped(DropReason::InboundStaleHandshake));
}

#[test]
fn a_peer_of_low_order_is_asked_for_nothing() {
    let mut end = End::new(1, &PublicKey([0; 32]), None);
    assert!(end.send(b"packet").is_empty());
    end.now = end.now + 90 * SECOND;
    assert_eq!(end.pulse(), Pulse::Abandoned);
}

proptest! {
    #[test]
    fn any_bytes_are_survived(
        kind in 0_u8..6, bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200, flip in 0_usize..200,
    ) {
        let mut ends = connected();
        let now = ends[0].now;
        ends[0].core.initiate(now, &mut ends[0].sent);
        let real = [ends[0].take(), ends[0].send(b"packet")].concat();
        let mut hostile = vec![bytes];
        hostile.extend(real.iter().map(|real| real[..cut.min(real.len())].to_vec()));
        hostile.extend(real.iter().map(|real| {
            let mut flipped = real.clone();
            flipped[flip % real.len()] ^= 1 << (cut % 8);
            flipped
        }));
        for mut datagram in hostile {
            if let (1..=4, Some(first)) = (kind, datagram.first_chunk_mut()) {
                *first = u32::from(kind).to_le_bytes();
            }
            for end in &mut ends {
                // As the worker, which lets only whole messages through.
                match Message::classify(&datagram) {
                    Message::Malformed | Message::Foreign => {}
                    Message::Data { .. } => drop(end.hear(&datagram)),
                    _ => {
                        let from = "192.0.2.1:1".parse().unwrap();
                        let _ = Core::<Ring>::screen(&mut end.identity, end.now, from, &datagram, None, &mut [0; 64]);
                        let _ = Core::<Ring>::initiator(&end.identity, &datagram);
                        end.hear(&datagram);
                    }
                }
            }
        }
        ends.iter_mut().for_each(|end| drop(end.take()));
        for n in [0, 1] {
            let said = ends[n].send(b"undisturbed").remove(0);
            prop_assert_eq!(ends[1 - n].hear(&said), Came::Packet(b"undisturbed".to_vec()));
        }
    }
}
