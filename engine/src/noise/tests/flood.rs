//! What a flood of handshakes may cost: how many of which kind get past the screen.

use super::*;
use crate::limits::{COOKIES_PER_SEC, HANDSHAKES_PER_SEC_PROVEN, HANDSHAKES_PER_SEC_UNPROVEN};
use std::net::SocketAddr;

/// What a second of 50,000 messages came to: passed, answered with a cookie, dropped as too many, dropped for a MAC.
fn second(end: &mut End, message: impl Fn(u32) -> (SocketAddr, Vec<u8>)) -> [u64; 4] {
    let mut counts = [0; 4];
    for n in 0..50_000 {
        let (from, message) = message(n);
        let now = end.now + Duration::from_micros(20) * n;
        let at = match Core::<Ring>::screen(&mut end.identity, now, from, &message, None, &mut [0; 64]) {
            Ok(0) => 0,
            Ok(_) => 1,
            Err(DropReason::InboundHandshakeOverload) => 2,
            Err(DropReason::InboundBadMac) => 3,
            Err(reason) => panic!("{reason:?}"),
        };
        counts[at] += 1;
    }
    counts
}

fn address(n: u32) -> SocketAddr {
    SocketAddr::from((n.to_be_bytes(), 51_820))
}

fn initiation() -> Vec<u8> {
    let mut stranger = End::new(9, &private(1).public(), None);
    stranger.core.initiate(stranger.now, &mut stranger.sent);
    stranger.take().remove(0)
}

#[test]
fn valid_and_repeated_initiations_pass_up_to_the_budget() {
    let [mut end, _] = End::pair();
    let message = initiation();
    let counts = second(&mut end, |n| (address(n), message.clone()));
    let rest = 50_000 - HANDSHAKES_PER_SEC_UNPROVEN - COOKIES_PER_SEC;
    assert_eq!(counts, [HANDSHAKES_PER_SEC_UNPROVEN, COOKIES_PER_SEC, rest, 0]);
}

#[test]
fn random_bytes_cost_a_mac() {
    let [mut end, _] = End::pair();
    let counts = second(&mut end, |n| {
        let mut message = vec![0x5a; 148];
        message[8..12].copy_from_slice(&n.to_le_bytes());
        (address(n), message)
    });
    assert_eq!(counts, [0, 0, 0, 50_000]);
}

#[test]
fn who_proves_its_address_gets_its_share_and_no_more() {
    let [mut end, _] = End::pair();
    // The budget of this second is spent by others.
    let message = initiation();
    while Core::<Ring>::screen(&mut end.identity, end.now, address(1), &message, None, &mut [0; 64]) == Ok(0) {}
    // Everybody gets a cookie and uses it.
    let mut proven = Vec::new();
    for n in 0..500 {
        let mut reply = [0; 64];
        assert_eq!(Core::<Ring>::screen(&mut end.identity, end.now, address(n), &message, None, &mut reply), Ok(64));
        let mut stranger = End::new(9, &private(1).public(), None);
        stranger.core.initiate(stranger.now, &mut stranger.sent);
        // The cookie is for the message that it answers.
        let asked = stranger.take().remove(0);
        assert_eq!(asked, message);
        assert_eq!(stranger.hear(&reply), Came::Handshake(Handshake::Continues));
        stranger.now = stranger.now + Duration::from_secs(6);
        stranger.pulse();
        proven.push(stranger.take().remove(0));
    }
    let mut passed = |from: &dyn Fn(u32) -> u32| {
        let pass = |n: &u32| {
            let from = from(*n);
            let message = &proven[from as usize];
            let now = end.now + Duration::from_micros(19) * *n;
            Core::<Ring>::screen(&mut end.identity, now, address(from), message, None, &mut [0; 64]) == Ok(0)
        };
        (0..50_000).filter(pass).count() as u64
    };
    // One alone: five at once and twenty a second. All of them: what there is for all.
    let alone = passed(&|_| 7);
    assert!((22..=25).contains(&alone), "{alone}");
    let all = passed(&|n| n % 500);
    assert!(all <= HANDSHAKES_PER_SEC_PROVEN && all > HANDSHAKES_PER_SEC_PROVEN / 2, "{all}");
}

#[test]
fn the_answer_to_a_question_of_ours_passes_once_however_many_strangers_there_are() {
    let [mut asker, mut other] = End::pair();
    let strange = initiation();
    while Core::<Ring>::screen(&mut asker.identity, asker.now, address(1), &strange, None, &mut [0; 64]) == Ok(0) {}
    asker.core.initiate(asker.now, &mut asker.sent);
    let question = asker.take().remove(0);
    other.hear(&question);
    let answer = other.take().remove(0);
    let Message::Response { receiver } = Message::classify(&answer) else { panic!("{answer:?}") };
    let mut damaged = answer.clone();
    damaged[70] ^= 1;
    let mut screen = |message: &[u8], index| {
        let pass = asker.core.pass(index);
        Core::<Ring>::screen(&mut asker.identity, asker.now, address(2), message, pass, &mut [0; 64])
    };
    assert_eq!(screen(&damaged, receiver), Err(DropReason::InboundBadMac));
    assert_eq!(screen(&answer, receiver ^ 1), Ok(64), "nobody asked under this index");
    assert_eq!(screen(&answer, receiver), Ok(0));
    assert_eq!(screen(&answer, receiver), Ok(64), "one answer to a question");
}
