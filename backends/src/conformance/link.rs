//! What a [`Link`] promises: datagrams arrive as they were sent, with their mark and the address they came to, and a
//! batch is never lost over an offload.

use super::{ATTEMPTS, Family, Promise, offloads_off, offloads_on};
use ginnel_engine::frame::{Ecn, Endpoint, Inbox, Outbox, Outcome, Source, Train};
use ginnel_engine::port::{Link, Offload, OffloadState, Offloads, Stall};
use std::net::SocketAddr;
use std::sync::Arc;

/// Where links of one backend can reach each other.
pub trait LinkLab {
    /// The port under test.
    type Link: Link;

    /// A link on a port of its own.
    fn bind(&mut self, offloads: Arc<Offloads>) -> Self::Link;

    /// One of two addresses of `family` under which `link` is reached: 0 is the one it sends from by default, 1 is
    /// another.
    fn address(&self, link: &Self::Link, family: Family, which: usize) -> SocketAddr;

    /// An address of `family` that no host has, and to which there is no route either.
    fn nowhere(&mut self, family: Family) -> SocketAddr;

    /// Limits packets between the links to `mtu` bytes. Longer single datagrams are fragmented.
    fn limit(&mut self, mtu: u16, links: &mut [&mut Self::Link]);

    /// Carries what was sent, or gives the kernel a moment for it.
    fn carry(&mut self, links: &mut [&mut Self::Link]);
}

/// A datagram that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Arrived {
    from: SocketAddr,
    source: Option<Source>,
    ecn: Ecn,
    bytes: Vec<u8>,
}

/// Sizes of a train that a data stream makes: many of one size and a shorter last one.
const TRAIN: [usize; 21] = [
    1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452, 1_452,
    1_452, 1_452, 1_452, 1_452, 77,
];

/// Every promise of the suite, by name.
#[must_use]
pub fn promises<L: LinkLab>() -> [Promise<L>; 10] {
    [
        ("nothing to receive", nothing_to_receive),
        ("single datagrams", single_datagrams),
        ("trains", trains),
        ("many trains at once", many_trains_at_once),
        ("marks", marks),
        ("answers leave from where they were asked", answers_leave_from_where_they_were_asked),
        ("a lost source is reported", a_lost_source_is_reported),
        ("a train above the mtu goes singly", a_train_above_the_mtu_goes_singly),
        ("a refused train leaves the others alone", a_refused_train_leaves_the_others_alone),
        ("a flood is taken in portions", a_flood_is_taken_in_portions),
    ]
}

/// Where nothing was sent, nothing is received, and nobody is kept waiting.
fn nothing_to_receive(lab: &mut impl LinkLab) {
    let mut link = lab.bind(offloads_on());
    let mut inbox = Inbox::new();
    assert_eq!(link.recv(&mut inbox), Err(Stall::Empty));
    assert!(inbox.is_empty());
}

/// Single datagrams of all sizes arrive as they are, with their sender.
fn single_datagrams(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        for offloads in [offloads_on(), offloads_off()] {
            let (mut a, mut b) = (lab.bind(Arc::clone(&offloads)), lab.bind(offloads));
            for bytes in [1, 32, 148, 1_452, 9_000] {
                let sent = batch(&[bytes], 7);
                let outcomes = send(&mut a, &sent, to(lab.address(&b, family, 0)), Ecn::NOT_ECT, true);
                assert_eq!(outcomes, [Outcome::Sent]);
                let arrived = receive(lab, &mut [&mut b, &mut a], 1);
                assert_eq!(arrived[0].bytes, sent[0]);
                assert_eq!(arrived[0].from, lab.address(&a, family, 0));
            }
        }
    }
}

/// A train arrives as the same datagrams in the same order, whether either side has its offload or not.
fn trains(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        for (sending, receiving) in [
            (offloads_on(), offloads_on()),
            (offloads_on(), offloads_off()),
            (offloads_off(), offloads_on()),
            (offloads_off(), offloads_off()),
        ] {
            let (mut a, mut b) = (lab.bind(Arc::clone(&sending)), lab.bind(Arc::clone(&receiving)));
            let sent = batch(&TRAIN, 1);
            let outcomes = send(&mut a, &sent, to(lab.address(&b, family, 0)), Ecn::NOT_ECT, true);
            assert_eq!(outcomes, [Outcome::Sent]);
            let arrived = receive(lab, &mut [&mut b, &mut a], sent.len());
            assert_eq!(arrived.iter().map(|datagram| datagram.bytes.clone()).collect::<Vec<_>>(), sent);
            assert!(arrived.iter().all(|datagram| datagram.from == lab.address(&a, family, 0)));
            // What was merged on the way is up to the way; only where both ends can, it has to show.
            for (offloads, offload) in [(&sending, Offload::LinkSegmentation), (&receiving, Offload::LinkCoalescing)] {
                let both = sending.usable(Offload::LinkSegmentation) && receiving.usable(Offload::LinkCoalescing);
                assert!(!both || offloads.state(offload) == OffloadState::On, "{offload:?} was never used");
            }
        }
    }
}

/// Several trains of one outbox, to several links, with several sizes, arrive all, each in its order.
fn many_trains_at_once(lab: &mut impl LinkLab) {
    let mut a = lab.bind(offloads_on());
    let mut others = [lab.bind(offloads_on()), lab.bind(offloads_on())];
    let mut outbox = Outbox::new();
    let mut sent = [Vec::new(), Vec::new()];
    for round in 0..5 {
        for (index, other) in others.iter().enumerate() {
            let family = Family::BOTH[(round + index) % 2];
            let sizes = [700 + 100 * round; 3];
            let datagrams = batch(&sizes, round as u64 * 10 + index as u64);
            // An owner of its own, so that each round is a train of its own.
            let owner = u32::try_from(round * 2 + index).unwrap_or(0);
            fill(&mut outbox, owner, &datagrams, &to(lab.address(other, family, 0)), Ecn::NOT_ECT, true);
            sent[index].extend(datagrams);
        }
    }
    a.send(&mut outbox);
    assert!(outbox.trains().all(|train| train.outcome == Outcome::Sent));
    let [b, c] = &mut others;
    let mut links = [b, c, &mut a];
    for sent in &sent {
        let arrived = receive(lab, &mut links, sent.len());
        links.swap(0, 1);
        // Both families travel apart, so order holds among datagrams of one size.
        for size in (700..1_200).step_by(100) {
            let of_size = |bytes: &&Vec<u8>| bytes.len() == size;
            let got: Vec<_> = arrived.iter().map(|datagram| &datagram.bytes).filter(of_size).collect();
            assert_eq!(got, sent.iter().filter(of_size).collect::<Vec<_>>());
        }
    }
}

/// The congestion mark arrives as it was sent, of single datagrams and of trains.
fn marks(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        for offloads in [offloads_on(), offloads_off()] {
            let (mut a, mut b) = (lab.bind(Arc::clone(&offloads)), lab.bind(offloads));
            for mark in 0..4 {
                for sizes in [&[100][..], &TRAIN[..]] {
                    let sent = batch(sizes, u64::from(mark));
                    send(&mut a, &sent, to(lab.address(&b, family, 0)), Ecn(mark), true);
                    let arrived = receive(lab, &mut [&mut b, &mut a], sent.len());
                    assert!(arrived.iter().all(|datagram| datagram.ecn == Ecn(mark)), "{family:?}, mark {mark}");
                }
            }
        }
    }
}

/// The address a datagram came to is told, and an answer that names it leaves from there.
fn answers_leave_from_where_they_were_asked(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        let (mut a, mut b) = (lab.bind(offloads_on()), lab.bind(offloads_on()));
        for which in [0, 1] {
            let asked = lab.address(&b, family, which);
            send(&mut a, &batch(&[40], 1), to(asked), Ecn::NOT_ECT, true);
            let question = receive(lab, &mut [&mut b, &mut a], 1).remove(0);
            let source = question.source.expect("the local address is told");
            assert_eq!(source.address, asked.ip());
            for sizes in [&[50][..], &TRAIN[..]] {
                let answer = batch(sizes, 2);
                let back = Endpoint { to: question.from, source: Some(source) };
                assert_eq!(send(&mut b, &answer, back, Ecn::NOT_ECT, true), [Outcome::Sent]);
                let arrived = receive(lab, &mut [&mut a, &mut b], answer.len());
                assert!(arrived.iter().all(|datagram| datagram.from == asked));
            }
        }
    }
}

/// A source that is not ours any more does not keep datagrams back, and is reported.
fn a_lost_source_is_reported(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        let (mut a, mut b) = (lab.bind(offloads_on()), lab.bind(offloads_on()));
        let source = Source { address: lab.nowhere(family).ip(), interface: 0 };
        for sizes in [&[50][..], &TRAIN[..]] {
            let sent = batch(sizes, 3);
            let endpoint = Endpoint { to: lab.address(&b, family, 0), source: Some(source) };
            assert_eq!(send(&mut a, &sent, endpoint, Ecn::NOT_ECT, true), [Outcome::SentUnsourced]);
            let arrived = receive(lab, &mut [&mut b, &mut a], sent.len());
            assert_eq!(arrived.into_iter().map(|datagram| datagram.bytes).collect::<Vec<_>>(), sent);
        }
    }
}

/// A train above the MTU of the path goes out one by one within the call, which is reported; what is before and behind it
/// is not disturbed, and a train that is not to go whole is nothing to report.
fn a_train_above_the_mtu_goes_singly(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        let offloads = offloads_on();
        let (mut a, mut b) = (lab.bind(Arc::clone(&offloads)), lab.bind(offloads_on()));
        lab.limit(1_400, &mut [&mut a, &mut b]);
        let endpoint = to(lab.address(&b, family, 0));
        let (small, large) = (batch(&[1_000, 1_000, 10], 1), batch(&TRAIN, 2));
        let mut outbox = Outbox::new();
        for (owner, datagrams, whole) in [(1, &small, true), (2, &large, true), (3, &large, false), (4, &small, true)] {
            fill(&mut outbox, owner, datagrams, &endpoint, Ecn::NOT_ECT, whole);
        }
        a.send(&mut outbox);
        let outcomes: Vec<_> = outbox.trains().map(|train| train.outcome).collect();
        assert_eq!(outcomes, [Outcome::Sent, Outcome::SentSingly, Outcome::Sent, Outcome::Sent]);
        assert_eq!(offloads.fallbacks(Offload::LinkSegmentation), 1);
        let mut sent = [&small[..], &large, &large, &small].concat();
        let arrived = receive(lab, &mut [&mut b, &mut a], sent.len());
        let mut arrived: Vec<_> = arrived.into_iter().map(|datagram| datagram.bytes).collect();
        // Fragments may be overtaken by whole packets.
        sent.sort();
        arrived.sort();
        assert_eq!(arrived, sent);
    }
}

/// What cannot be sent is refused with an error, and the rest of the batch goes out.
fn a_refused_train_leaves_the_others_alone(lab: &mut impl LinkLab) {
    for family in Family::BOTH {
        let (mut a, mut b) = (lab.bind(offloads_on()), lab.bind(offloads_on()));
        let (here, nowhere) = (to(lab.address(&b, family, 0)), to(lab.nowhere(family)));
        let datagrams = batch(&[300, 300, 20], 5);
        let mut outbox = Outbox::new();
        for (owner, endpoint) in [(1, &here), (2, &nowhere), (3, &here)] {
            fill(&mut outbox, owner, &datagrams, endpoint, Ecn::NOT_ECT, true);
        }
        a.send(&mut outbox);
        let outcomes: Vec<_> = outbox.trains().map(|train| train.outcome).collect();
        assert!(
            matches!(outcomes[..], [Outcome::Sent, Outcome::Refused(errno), Outcome::Sent] if errno > 0),
            "{outcomes:?}"
        );
        let arrived = receive(lab, &mut [&mut b, &mut a], 2 * datagrams.len());
        let arrived: Vec<_> = arrived.into_iter().map(|datagram| datagram.bytes).collect();
        assert_eq!(arrived, [&datagrams[..], &datagrams].concat());
    }
}

/// More than one receive call can hold is not lost but comes with the next.
fn a_flood_is_taken_in_portions(lab: &mut impl LinkLab) {
    let (mut a, mut b) = (lab.bind(offloads_off()), lab.bind(offloads_off()));
    let endpoint = to(lab.address(&b, Family::V4, 0));
    let sent: Vec<_> = (0..3).flat_map(|round| batch(&[64; 60], round)).collect();
    for portion in sent.chunks(60) {
        send(&mut a, portion, endpoint, Ecn::NOT_ECT, true);
    }
    let arrived = receive(lab, &mut [&mut b, &mut a], sent.len());
    assert_eq!(arrived.into_iter().map(|datagram| datagram.bytes).collect::<Vec<_>>(), sent);
}

fn to(to: SocketAddr) -> Endpoint {
    Endpoint { to, source: None }
}

/// Datagrams of these sizes, no two alike.
fn batch(sizes: &[usize], seed: u64) -> Vec<Vec<u8>> {
    let mut random = crate::mem::Random::new(seed);
    let datagram = |&bytes: &usize| {
        let mut datagram = vec![0; bytes];
        random.fill(&mut datagram);
        datagram
    };
    sizes.iter().map(datagram).collect()
}

fn fill(outbox: &mut Outbox, owner: u32, datagrams: &[Vec<u8>], endpoint: &Endpoint, ecn: Ecn, whole: bool) {
    for datagram in datagrams {
        assert!(outbox.open(owner, endpoint, ecn, whole, datagram.len()), "the outbox is full");
        outbox.slot()[..datagram.len()].copy_from_slice(datagram);
        outbox.push(datagram.len());
    }
}

fn send(link: &mut impl Link, datagrams: &[Vec<u8>], endpoint: Endpoint, ecn: Ecn, whole: bool) -> Vec<Outcome> {
    let mut outbox = Outbox::new();
    fill(&mut outbox, 0, datagrams, &endpoint, ecn, whole);
    link.send(&mut outbox);
    outbox.trains().map(|train: &Train| train.outcome).collect()
}

/// Receives with the first of `links` until `count` datagrams have arrived, and sees that no more come.
fn receive<L: LinkLab>(lab: &mut L, links: &mut [&mut L::Link], count: usize) -> Vec<Arrived> {
    let mut arrived = Vec::new();
    let mut inbox = Inbox::new();
    for _ in 0..ATTEMPTS {
        lab.carry(links);
        match links[0].recv(&mut inbox) {
            Ok(_) => {}
            Err(Stall::Empty) if arrived.len() >= count => break,
            Err(Stall::Empty) => continue,
            Err(Stall::Closed(errno)) => panic!("the link closed with errno {errno}"),
        }
        for index in 0..inbox.len() {
            let (received, bytes) = inbox.train(index);
            assert!(!received.truncated);
            for datagram in bytes.chunks(received.datagram_bytes.max(1)) {
                arrived.push(Arrived {
                    from: received.from,
                    source: received.source,
                    ecn: received.ecn,
                    bytes: datagram.to_vec(),
                });
            }
        }
        inbox.clear();
    }
    assert_eq!(arrived.len(), count, "datagrams arrived");
    arrived
}
