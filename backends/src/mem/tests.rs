//! What only virtual wires have: chances, time, paths, shortages. What they share with a kernel is in the conformance
//! suite.

use super::*;
use ginnel_engine::frame::{Ecn, Endpoint, Inbox, Outbox, Outcome};
use ginnel_engine::port::{Link as _, Offloads, Stall};
use ginnel_engine::tick::Tick;
use std::sync::Arc;
use std::time::Duration;

const WAY: &str = "192.0.2.1:1 192.0.2.2:2";

fn way(text: &str) -> Way {
    let (from, to) = text.split_once(' ').unwrap();
    Way { from: from.parse().unwrap(), to: to.parse().unwrap(), ecn: Ecn::NOT_ECT }
}

fn network(seed: u64, conditions: Conditions) -> Network {
    let mut network = Network::new(seed);
    network.conditions = conditions;
    network
}

/// Sends 1,000 numbered datagrams a millisecond apart; numbers and moments of those that arrive, in order of arrival.
fn run(network: &mut Network) -> Vec<(u16, Tick)> {
    let mut arrived = Vec::new();
    for number in 0..1_000_u16 {
        network.send(Tick(u64::from(number) * 1_000_000), way(WAY), &number.to_be_bytes());
    }
    while let Some(at) = network.next_arrival() {
        network.deliver_due(at, |_, bytes| {
            arrived.push((u16::from_be_bytes(bytes.try_into().unwrap()), at));
            true
        });
    }
    arrived
}

fn numbers(arrived: &[(u16, Tick)]) -> Vec<u16> {
    arrived.iter().map(|(number, _)| *number).collect()
}

#[test]
fn a_kind_network_delivers_everything_at_once() {
    let mut network = network(1, Conditions::default());
    let arrived = run(&mut network);
    assert!(
        arrived.iter().enumerate().all(|(n, (number, at))| usize::from(*number) == n && at.0 == n as u64 * 1_000_000)
    );
    assert_eq!(network.traffic(), Traffic { sent: 1_000, arrived: 1_000, ..Traffic::default() });
}

#[test]
fn loss_duplicates_and_reordering_follow_the_seed() {
    let rough = Conditions {
        loss_permille: 100,
        duplicate_permille: 100,
        reorder_permille: 100,
        delay: Duration::from_millis(20),
        hold: Duration::from_millis(50),
        ..Conditions::default()
    };
    let arrived = run(&mut network(5, rough.clone()));
    assert_eq!(arrived, run(&mut network(5, rough.clone())));
    assert_ne!(arrived, run(&mut network(6, rough.clone())));
    let got = numbers(&arrived);
    let mut once = got.clone();
    once.sort_unstable();
    once.dedup();
    assert!((850..950).contains(&once.len()), "{} of 1,000 arrived", once.len());
    assert!((60..130).contains(&(got.len() - once.len())), "{} came twice", got.len() - once.len());
    assert!(got.windows(2).any(|pair| pair[0] > pair[1]), "nothing was reordered");
    let late = |(number, at): &(u16, Tick)| at.since(Tick(u64::from(*number) * 1_000_000));
    assert!(arrived.iter().all(|arrival| (20..70).contains(&late(arrival).as_millis())));
    let delayed = Conditions { loss_permille: 0, duplicate_permille: 0, reorder_permille: 0, ..rough };
    assert_eq!(numbers(&run(&mut network(5, delayed))), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn paths_lose_what_is_too_long_and_mark_the_rest() {
    let narrow = Conditions { path_mtu: 1_000, mark: Some(Ecn::CE), ..Conditions::default() };
    let mut network = network(1, narrow);
    network.start_capture();
    network.send(Tick(0), way(WAY), &[0; 972]);
    network.send(Tick(0), way(WAY), &[0; 973]);
    network.send(Tick(0), way("[2001:db8::1]:1 [2001:db8::2]:2"), &[0; 953]);
    let mut arrived = Vec::new();
    network.deliver_due(Tick(0), |way, bytes| {
        arrived.push((way.ecn, bytes.len()));
        true
    });
    assert_eq!(arrived, [(Ecn::CE, 972)]);
    assert_eq!(network.captured().len(), 3);
    assert!(network.captured().is_empty());
}

#[test]
fn a_filter_decides_until_it_is_cleared() {
    let mut network = Network::new(1);
    let mut seen = 0;
    network.set_filter(move |_, _| {
        seen += 1;
        seen % 2 == 0
    });
    assert_eq!(run(&mut network).len(), 500);
    network.clear_filter();
    assert_eq!(run(&mut network).len(), 1_000);
}

#[test]
fn unclaimed_datagrams_are_counted() {
    let mut network = Network::new(1);
    network.nats.push(Nat::new("198.51.100.1".parse().unwrap(), vec!["10.0.0.2".parse().unwrap()]));
    network.send(Tick(0), way("192.0.2.1:1 198.51.100.1:40000"), b"nobody asked");
    network.send(Tick(0), way(WAY), b"nobody listens");
    network.deliver_due(Tick(0), |_, _| false);
    assert_eq!(network.traffic().unclaimed, 2);
}

/// What arrives in one slot for these sizes from one sender.
fn gathered(link: &mut Link) -> Vec<(usize, usize)> {
    let mut inbox = Inbox::new();
    link.recv(&mut inbox).unwrap();
    (0..inbox.len()).map(|index| inbox.train(index).0).map(|slot| (slot.len, slot.datagram_bytes)).collect()
}

#[test]
fn only_equals_are_gathered() {
    let mut link = Link::new(vec!["192.0.2.2".parse().unwrap()], 2, Arc::new(Offloads::default()));
    let other_sender = way("192.0.2.3:1 192.0.2.2:2");
    let marked = Way { ecn: Ecn::CE, ..way(WAY) };
    for (way, bytes) in [(way(WAY), 100), (way(WAY), 100), (way(WAY), 30), (way(WAY), 100), (way(WAY), 101)] {
        link.arrive(way, &vec![0; bytes]);
    }
    for way in [other_sender, marked, marked] {
        link.arrive(way, &[0; 101]);
    }
    assert_eq!(gathered(&mut link), [(230, 100), (100, 100), (101, 101), (101, 101), (202, 101)]);
    // Never more than a kernel puts in one train, nor than a slot holds.
    for _ in 0..130 {
        link.arrive(way(WAY), &[0; 10]);
    }
    assert_eq!(gathered(&mut link), [(640, 10), (640, 10), (20, 10)]);
    for _ in 0..3 {
        link.arrive(way(WAY), &[0; 30_000]);
    }
    assert_eq!(gathered(&mut link), [(60_000, 30_000), (30_000, 30_000)]);
    assert_eq!(link.recv(&mut Inbox::new()), Err(Stall::Empty));
}

#[test]
fn shortages_of_the_host_are_reported() {
    let mut link = Link::new(vec!["192.0.2.2".parse().unwrap()], 2, Arc::new(Offloads::default()));
    let send = |link: &mut Link, to: &str, bytes: usize| {
        let mut outbox = Outbox::new();
        outbox.open(0, &Endpoint { to: to.parse().unwrap(), source: None }, Ecn::NOT_ECT, true, bytes);
        outbox.push(bytes);
        link.send(&mut outbox);
        outbox.trains().next().unwrap().outcome
    };
    assert_eq!(send(&mut link, "192.0.2.1:1", 1_472), Outcome::Sent);
    assert_eq!(send(&mut link, "192.0.2.1:1", 1_473), Outcome::Sent);
    link.oversize = Oversize::Refuse;
    assert_eq!(send(&mut link, "192.0.2.1:1", 1_473), Outcome::Refused(90));
    assert_eq!(send(&mut link, "[2001:db8::1]:1", 10), Outcome::Refused(101));
    link.jammed = true;
    assert_eq!(send(&mut link, "192.0.2.1:1", 10), Outcome::Overflow);
    link.closed = true;
    assert_eq!(send(&mut link, "192.0.2.1:1", 10), Outcome::Refused(9));
    assert_eq!(link.recv(&mut Inbox::new()), Err(Stall::Closed(9)));
}
