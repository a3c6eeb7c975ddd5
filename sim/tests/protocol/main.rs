//! The timers of the protocol (paper, section 6), minute by minute in virtual time.

mod keepalives;
mod keys;
mod outages;
mod strangers;

use ginnel_backends::conformance::Family;
use ginnel_backends::mem::Captured;
use ginnel_engine::tick::Tick;
use ginnel_engine::wire::message::{DATA_OVERHEAD, Message};
use ginnel_sim::Net;
use std::time::Duration;

/// The worker looks at its timers this often, so they are as late at most.
const SLACK: Duration = Duration::from_millis(500);

const SECOND: Duration = Duration::from_secs(1);

/// Sends numbered packets in the given directions between nodes 0 and 1, one each way every `step`, for `span`; all of
/// them have to arrive, in order.
fn stream(net: &mut Net, directions: &[(usize, usize)], step: Duration, span: Duration) {
    let steps = u32::try_from(span.as_nanos() / step.as_nanos()).unwrap();
    let mut received = [Vec::new(), Vec::new()];
    for number in 0..steps {
        for &(from, to) in directions {
            net.send(from, to, Family::V4, &number.to_be_bytes());
        }
        net.advance(step);
        for (n, received) in received.iter_mut().enumerate() {
            received.extend(net.received(n).into_iter().map(|(_, payload)| payload));
        }
    }
    net.advance(SECOND);
    let want: Vec<_> = (0..steps).map(|number| number.to_be_bytes().to_vec()).collect();
    for &(_, to) in directions {
        received[to].extend(net.received(to).into_iter().map(|(_, payload)| payload));
        assert_eq!(received[to].len(), want.len(), "packets to node {to}: {:?}", net.host(to).drops());
        assert!(received[to] == want, "packets to node {to} arrived in another order");
    }
}

/// Whether a packet sent now arrives at once.
fn reaches(net: &mut Net, from: usize, to: usize) -> bool {
    net.received(to);
    net.send(from, to, Family::V4, b"reaches");
    net.settle();
    !net.received(to).is_empty()
}

/// When datagrams of one kind were sent.
fn moments(captured: &[Captured], kind: impl Fn(&Message, &Captured) -> bool) -> Vec<Tick> {
    captured.iter().filter(|seen| kind(&Message::classify(&seen.bytes), seen)).map(|seen| seen.at).collect()
}

fn is_initiation(message: &Message, _: &Captured) -> bool {
    *message == Message::Initiation
}

fn is_keepalive(message: &Message, seen: &Captured) -> bool {
    matches!(message, Message::Data { .. }) && seen.bytes.len() == DATA_OVERHEAD
}

/// Times between moments.
fn gaps(moments: &[Tick]) -> Vec<Duration> {
    moments.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

/// Whether `span` is `secs` seconds, give or take what timers are late.
fn about(span: Duration, secs: u64) -> bool {
    let exact = Duration::from_secs(secs);
    span + SLACK >= exact && span <= exact + SLACK
}
