//! Keepalives: ten seconds after a packet that was not answered, and at the pace an operator sets.

use crate::{SECOND, SLACK, about, gaps, is_initiation, is_keepalive, moments, reaches};
use ginnel_backends::conformance::Family;
use ginnel_backends::mem::{Captured, overlay};
use ginnel_engine::command::Operation;
use ginnel_engine::wire::message::Message;
use ginnel_sim::{Net, pair};

fn set_keepalive(net: &mut Net, of: usize, secs: u16) {
    net.tell(of, 1 - of, |peer| Operation::SetKeepalive(peer, secs));
}

fn is_from(n: usize) -> impl Fn(&Message, &Captured) -> bool {
    move |_, seen| seen.way.from == overlay::outside(n, Family::V4)
}

#[test]
fn a_packet_without_an_answer_is_answered_after_ten_seconds() {
    let mut net = pair(1);
    for (from, to) in [(0, 1), (1, 0)] {
        assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
        net.advance(20 * SECOND);
        net.world.network.start_capture();
        assert!(reaches(&mut net, from, to));
        let sent = net.world.now();
        net.advance(30 * SECOND);
        let captured = net.world.network.captured();
        let answers = moments(&captured, |message, seen| is_keepalive(message, seen) && is_from(to)(message, seen));
        assert!(!answers.is_empty() && answers.len() <= 2, "{answers:?}");
        assert!(answers[0].since(sent) <= 10 * SECOND + SLACK, "{:?}", answers[0].since(sent));
    }
}

#[test]
fn answers_spare_keepalives() {
    let mut net = pair(2);
    assert!(reaches(&mut net, 0, 1));
    net.world.network.start_capture();
    for _ in 0..20 {
        assert!(reaches(&mut net, 0, 1) && reaches(&mut net, 1, 0));
        net.advance(4 * SECOND);
    }
    assert_eq!(moments(&net.world.network.captured(), is_keepalive).len(), 0);
}

#[test]
fn persistent_keepalives_come_at_their_pace() {
    for secs in [1_u16, 15, 25, 100] {
        let mut net = pair(3);
        net.world.network.start_capture();
        let start = net.world.now();
        set_keepalive(&mut net, 0, secs);
        net.advance(700 * SECOND);
        let captured = net.world.network.captured();
        let sent = moments(&captured, is_from(0));
        assert!(sent[0].since(start) <= SLACK, "the first is sent at once");
        let gaps = gaps(&sent);
        assert!(gaps.iter().all(|&gap| gap <= u32::from(secs) * SECOND + SLACK), "every {secs} s: {gaps:?}");
        let at_pace = gaps.iter().filter(|&&gap| about(gap, secs.into())).count();
        assert!(at_pace >= 600 / usize::from(secs) - 1, "every {secs} s: {at_pace} of {}", gaps.len());
        // Keys are renewed, but not without need.
        let initiations = moments(&captured, is_initiation).len();
        assert!((3..=7).contains(&initiations), "every {secs} s: {initiations} handshakes");
    }
}

#[test]
fn traffic_spares_persistent_keepalives() {
    let mut net = pair(4);
    set_keepalive(&mut net, 0, 5);
    net.settle();
    net.world.network.start_capture();
    for _ in 0..30 {
        assert!(reaches(&mut net, 1, 0) && reaches(&mut net, 0, 1));
        net.advance(2 * SECOND);
    }
    assert_eq!(moments(&net.world.network.captured(), is_keepalive).len(), 0);
}

#[test]
fn persistent_keepalives_end_when_they_are_turned_off() {
    let mut net = pair(5);
    set_keepalive(&mut net, 0, 5);
    net.advance(20 * SECOND);
    set_keepalive(&mut net, 0, 0);
    net.advance(20 * SECOND);
    net.world.network.start_capture();
    net.advance(200 * SECOND);
    assert_eq!(net.world.network.captured().len(), 0);
}

#[test]
fn persistent_keepalives_go_on_asking_a_peer_that_is_away() {
    // The peer is away for longer than a handshake is tried, then comes back: it is found within a keepalive and a retry,
    // though there is nothing else to send.
    let mut net = pair(6);
    set_keepalive(&mut net, 0, 25);
    net.settle();
    net.world.network.start_capture();
    net.world.network.set_filter(|_, _| false);
    net.advance(600 * SECOND);
    let asked = moments(&net.world.network.captured(), is_initiation);
    // Keys last 180 s. After that there is a question every 5 s for 90 s, and then a pause until the next keepalive.
    let (retries, pauses): (Vec<_>, Vec<_>) = gaps(&asked).into_iter().partition(|&gap| about(gap, 5));
    assert!(pauses.iter().all(|&pause| about(pause, 25)), "{pauses:?}");
    assert!(pauses.len() <= 4 && retries.len() >= 60, "{} retries, pauses {pauses:?}", retries.len());
    net.world.network.clear_filter();
    net.advance(31 * SECOND);
    let answered = moments(&net.world.network.captured(), is_from(1));
    assert!(!answered.is_empty(), "the peer is not found");
}
