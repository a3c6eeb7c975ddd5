//! What our device makes of the errors that kernels give on bad days: each is injected under traffic whose every byte is
//! checked, and has to be met with the fallback that is meant for it, a count, and no lost batch.
//!
//! ```text
//! a (faulty calls) ══ veth ══ b (the kernel's own)
//! ```
//! TCP would hide a lost batch behind a retransmission, so what is dropped and what is retransmitted is looked at, too.

use ginnel_backends::fault::{Answer, Call, Faults, Rule, Strikes, Subject};
use ginnel_engine::drops::DropReason;
use ginnel_engine::port::{OffReason, Offload, OffloadState};
use ginnel_tests::field::{Field, introduce, transfer, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::{Party, PartyOptions};
use ginnel_tests::wait::until;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const TRANSFER_BYTES: u64 = 20_000_000;

/// Rules that stay in force.
const ALWAYS: u64 = u64::MAX;

struct Stage {
    field: Field,
    faults: Arc<Faults>,
}

impl Stage {
    /// Two parties that have met, the first with calls that can go wrong.
    fn set() -> Self {
        let faults = Arc::new(Faults::default());
        let faulty = PartyOptions { faults: Some(Arc::clone(&faults)), ..Make::Ginnel.into() };
        let field = Field::of(&[faulty, Make::Ginnel.into()]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        Self { field, faults }
    }

    fn inject(&self, call: Call, of: fn(&Subject) -> bool, answer: Answer, times: u64) -> Strikes {
        self.faults.inject(Rule { call, of, answer, times })
    }

    /// Sends bytes both ways, each checked.
    fn transfer(&self) {
        let [a, b] = self.field.pair();
        for v6 in [false, true] {
            transfer(a, b, v6, TRANSFER_BYTES);
            transfer(b, a, v6, TRANSFER_BYTES);
        }
    }

    /// That whatever one party sealed, the other opened.
    #[track_caller]
    fn assert_nothing_lost(&self) {
        let [a, b] = self.field.pair();
        for (from, to) in [(a, b), (b, a)] {
            until("everything sealed is opened", || packets(from, to).0 == packets(to, from).1);
        }
    }

    fn segmentation(&self) -> (OffloadState, u64) {
        self.field.pair()[0].offload(Offload::LinkSegmentation)
    }
}

/// Packets that `party` sent to `peer` and received from it.
fn packets(party: &Party, peer: &Party) -> (u64, u64) {
    let state = party.state();
    let found = state.peers.iter().find(|found| found.public_key == peer.key.public()).expect("they are peers");
    (found.tx_packets, found.rx_packets)
}

fn train(subject: &Subject) -> bool {
    subject.is_several()
}

fn anything(_: &Subject) -> bool {
    true
}

/// No checksum offload behind the route, a tunnel in a tunnel, a transform (`EIO`); the same on some drivers, and after
/// the route changed (`EINVAL`): the batch goes out one by one, and the path gets no trains for a while.
#[test]
fn a_path_that_refuses_trains_gets_datagrams() {
    for errno in [libc::EIO, libc::EINVAL] {
        on_own_ground(&[], || {
            let stage = Stage::set();
            stage.transfer();
            let strikes = stage.inject(Call::Send, train, Answer::Errno(errno), ALWAYS);
            stage.transfer();
            let (state, fallbacks) = stage.segmentation();
            assert_eq!(state, OffloadState::On, "it is the path, not the kernel");
            assert_eq!(fallbacks, strikes.count(), "every batch that went the slow way is counted");
            assert!((1..20).contains(&fallbacks), "the path is spared further trains, {fallbacks} were tried");
            stage.assert_nothing_lost();
        });
    }
}

/// One narrow path says nothing about the others.
#[test]
fn a_narrow_path_costs_only_its_own_trains() {
    on_own_ground(&[], || {
        let faults = Arc::new(Faults::default());
        let faulty = PartyOptions { faults: Some(Arc::clone(&faults)), ..Make::Ginnel.into() };
        let field = Field::of(&[faulty, Make::Ginnel.into(), Make::Ginnel.into()]);
        let [a, narrow, wide] = field.parties.as_slice() else { panic!("there are three") };
        for peer in [narrow, wide] {
            introduce(a, peer, false);
            wait_connected(a, peer);
        }
        let to_narrow: fn(&Subject) -> bool =
            |subject| subject.is_several() && subject.remote.is_some_and(|to| to.ip() == IpAddr::from([192, 0, 2, 2]));
        let refusals = faults.inject(Rule {
            call: Call::Send,
            of: to_narrow,
            answer: Answer::Errno(libc::EMSGSIZE),
            times: ALWAYS,
        });
        let to_wide: fn(&Subject) -> bool = |subject| subject.is_several();
        transfer(a, narrow, false, TRANSFER_BYTES);
        assert!((1..10).contains(&refusals.count()), "{} trains were tried", refusals.count());
        let before = refusals.count();
        let seen = faults.inject(Rule { call: Call::Send, of: to_wide, answer: Answer::Kernel, times: ALWAYS });
        transfer(a, wide, false, TRANSFER_BYTES);
        assert_eq!(refusals.count(), before);
        assert!(seen.count() > 0, "the wide path got no trains");
    });
}

/// A full queue of the network device: waited for a little.
#[test]
fn a_short_shortage_loses_nothing() {
    for errno in [libc::ENOBUFS, libc::EAGAIN] {
        on_own_ground(&[], || {
            let stage = Stage::set();
            for _ in 0..20 {
                let strikes = stage.inject(Call::Send, anything, Answer::Errno(errno), 4);
                let [a, b] = stage.field.pair();
                transfer(a, b, false, 1_000_000);
                assert_eq!(strikes.count(), 4);
            }
            let [a, _] = stage.field.pair();
            assert_eq!(a.drops(DropReason::OutboundOverflow), 0);
            stage.assert_nothing_lost();
        });
    }
}

/// A long shortage costs what is being sent, by count, and nothing after it.
#[test]
fn a_long_shortage_is_counted_and_passes() {
    on_own_ground(&[], || {
        let stage = Stage::set();
        let [a, b] = stage.field.pair();
        // Trains only: a connection that loses its first packets would take a minute to begin.
        let strikes = stage.inject(Call::Send, train, Answer::Errno(libc::ENOBUFS), 60);
        transfer(a, b, false, TRANSFER_BYTES);
        assert_eq!(strikes.count(), 60);
        let dropped = a.drops(DropReason::OutboundOverflow);
        assert!(dropped > 0);
        stage.transfer();
        assert_eq!(a.drops(DropReason::OutboundOverflow), dropped);
    });
}

/// `sendmmsg` stops short without an error: what it did not get to goes out behind it.
#[test]
fn a_send_that_stops_short_is_continued() {
    fn every_other(_: &Subject) -> bool {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        CALLS.fetch_add(1, Ordering::Relaxed) % 2 == 1
    }
    on_own_ground(&[], || {
        let stage = Stage::set();
        let strikes = stage.inject(Call::Send, every_other, Answer::Nothing, ALWAYS);
        stage.transfer();
        assert!(strikes.count() > 100, "{} strikes", strikes.count());
        let [a, _] = stage.field.pair();
        assert_eq!(a.drops(DropReason::OutboundOverflow), 0);
        stage.assert_nothing_lost();
    });
}

/// Merged datagrams without a word on how they were merged: the messages in them tell. When it goes on, merging is given
/// up.
#[test]
fn merged_datagrams_without_control_data_are_taken_apart_all_the_same() {
    on_own_ground(&[], || {
        let stage = Stage::set();
        stage.transfer();
        let [a, _] = stage.field.pair();
        let strikes = stage.inject(Call::Receive, train, Answer::WithoutControl, 5);
        stage.transfer();
        assert_eq!(strikes.count(), 5);
        assert_eq!(a.offload(Offload::LinkCoalescing), (OffloadState::On, 5));
        stage.assert_nothing_lost();
        let strikes = stage.inject(Call::Receive, train, Answer::WithoutControl, ALWAYS);
        stage.transfer();
        let (state, fallbacks) = a.offload(Offload::LinkCoalescing);
        assert_eq!(state, OffloadState::Off(OffReason::Failed(0)));
        // What was merged before merging ended still arrives so.
        assert_eq!(fallbacks, 8);
        assert!(strikes.count() >= 3);
        stage.assert_nothing_lost();
    });
}

/// A message cut off by the kernel fails by itself; those before it in its train do not.
#[test]
fn a_train_that_was_cut_off_loses_its_last_message_only() {
    on_own_ground(&[], || {
        let stage = Stage::set();
        let [a, b] = stage.field.pair();
        let long: fn(&Subject) -> bool = |subject| subject.is_several() && subject.bytes > 5_000;
        // Three messages of 1,452 bytes, and a piece of the fourth.
        let strikes = stage.inject(Call::Receive, long, Answer::Short(5_000), 7);
        transfer(b, a, false, TRANSFER_BYTES);
        assert_eq!(strikes.count(), 7);
        assert_eq!(a.drops(DropReason::InboundTruncated), 7);
    });
}

/// Errors of earlier sends that the socket tells of when it is read, and passing shortages: no reason to give it up.
#[test]
fn a_receive_that_fails_is_tried_again() {
    for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENOMEM, libc::EINTR] {
        on_own_ground(&[], || {
            let stage = Stage::set();
            let strikes = stage.inject(Call::Receive, anything, Answer::Errno(errno), 20);
            stage.transfer();
            assert_eq!(strikes.count(), 20);
        });
    }
}

/// Kernels that refuse superpackets they took before (6.6.44, 6.10.3): the packets are written singly, and after some
/// refusals no superpacket is built any more.
#[test]
fn superpackets_that_the_interface_refuses_are_written_packet_by_packet() {
    for times in [5, ALWAYS] {
        on_own_ground(&[], || {
            let stage = Stage::set();
            stage.transfer();
            let [a, _] = stage.field.pair();
            let strikes = stage.inject(Call::Write, train, Answer::Errno(libc::EINVAL), times);
            stage.transfer();
            let (state, fallbacks) = a.offload(Offload::TunTcp);
            assert_eq!(fallbacks, strikes.count());
            if times == ALWAYS {
                assert_eq!(state, OffloadState::Off(OffReason::Failed(libc::EINVAL)));
            } else {
                assert_eq!((state, fallbacks), (OffloadState::On, 5), "a few refusals say more about the packets");
            }
            assert_eq!(a.drops(DropReason::InboundTunRefused), 0);
            stage.assert_nothing_lost();
        });
    }
}

/// A packet that the interface refuses by itself is dropped, by count.
#[test]
fn packets_that_the_interface_refuses_are_counted() {
    for errno in [libc::EINVAL, libc::ENOBUFS, libc::EIO] {
        on_own_ground(&[], || {
            let stage = Stage::set();
            let [a, b] = stage.field.pair();
            let single: fn(&Subject) -> bool = |subject| !subject.is_several();
            let strikes = stage.inject(Call::Write, single, Answer::Errno(errno), 6);
            transfer(b, a, false, TRANSFER_BYTES);
            assert_eq!(strikes.count(), 6);
            assert_eq!(a.drops(DropReason::InboundTunRefused), 6);
        });
    }
}

/// A read that gives less than the packet: the packet is dropped, by count, and nothing wrong gets through.
#[test]
fn a_packet_read_in_part_goes_nowhere() {
    on_own_ground(&[], || {
        let stage = Stage::set();
        let [a, b] = stage.field.pair();
        let before = a.drops(DropReason::OutboundMalformed);
        let single: fn(&Subject) -> bool = |subject| !subject.is_several() && subject.bytes > 40;
        let strikes = stage.inject(Call::Read, single, Answer::Short(30), 6);
        transfer(a, b, false, TRANSFER_BYTES);
        transfer(b, a, false, TRANSFER_BYTES);
        assert_eq!(strikes.count(), 6);
        assert_eq!(a.drops(DropReason::OutboundMalformed) - before, 6);
        // Cut superpackets become shorter packets, which TCP mends; every byte was checked.
        let strikes = stage.inject(Call::Read, train, Answer::Short(3_000), 6);
        transfer(a, b, false, TRANSFER_BYTES);
        assert_eq!(strikes.count(), 6);
    });
}

/// The interface is down for a moment.
#[test]
fn reads_that_fail_for_a_while_do_not_end_the_device() {
    on_own_ground(&[], || {
        let stage = Stage::set();
        let strikes = stage.inject(Call::Read, anything, Answer::Errno(libc::EIO), 10);
        stage.transfer();
        assert_eq!(strikes.count(), 10);
    });
}
