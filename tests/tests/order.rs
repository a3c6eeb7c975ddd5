//! No packet overtakes another of its flow, whichever worker gets it and whatever changes meanwhile.
//!
//! TCP tells through the counters of the kernel that it met packets out of order.

use ginnel_control::host::Netns;
use ginnel_engine::port::{OffReason, Offload, OffloadState};
use ginnel_tests::datagram::Wire;
use ginnel_tests::field::{Field, introduce, transfer_between, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::{Party, PartyOptions};
use std::thread;
use std::time::{Duration, Instant};

fn ours(workers: usize) -> PartyOptions {
    PartyOptions { workers, ..Make::Ginnel.into() }
}

/// How long flows are watched: half a minute where the slow tests are wanted.
fn watched_for() -> Duration {
    Duration::from_secs(if std::env::var_os("GINNEL_TEST_SLOW").is_some() { 30 } else { 5 })
}

/// What TCP in a namespace has seen out of order: packets put aside, and reordering that senders recognised.
fn tcp_disorder(netns: &Netns) -> [u64; 4] {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let text = netns.run_in(read).expect("the namespace can be entered").expect("counters can be read");
    let lines: Vec<Vec<&str>> =
        text.lines().filter(|line| line.starts_with("TcpExt:")).map(|line| line.split(' ').collect()).collect();
    let [names, values] = lines.as_slice() else { panic!("two lines of TCP counters") };
    ["TCPOFOQueue", "TCPSACKReorder", "TCPTSReorder", "TCPRenoReorder"].map(|wanted| {
        let at = names.iter().position(|name| *name == wanted).expect("the kernel counts that");
        values[at].parse().expect("a number")
    })
}

/// ```text
///            ╔══ spoke 1
///   hub ═════╬══ spoke 2      16 TCP streams each way, per spoke
///            ╚══ …
/// ```
fn hub(workers: usize, spokes: usize) -> Field {
    let options: Vec<_> = [ours(workers)].into_iter().chain((0..spokes).map(|_| ours(2))).collect();
    let field = Field::of(&options);
    let [hub, spokes @ ..] = field.parties.as_slice() else { unreachable!("there is a hub") };
    for spoke in spokes {
        introduce(hub, spoke, false);
        wait_connected(hub, spoke);
    }
    field
}

fn handed_over(party: &Party) -> u64 {
    party.state().totals.iter().find(|(name, _)| *name == "handed_over").expect("it is counted").1
}

#[test]
fn packets_are_read_by_the_worker_that_owns_their_peer() {
    on_own_ground(&[], || {
        let field = hub(4, 5);
        let [hub, spokes @ ..] = field.parties.as_slice() else { unreachable!("there is a hub") };
        if let (OffloadState::Off(OffReason::Unsupported(errno)), _) = hub.offload(Offload::TunSteering) {
            // A user namespace does not give the right.
            return println!("skipped: no program can choose the queue (errno {errno})");
        }
        // A more specific prefix of another peer takes an address away, as in routing.
        let (wide, narrow) = (&spokes[0], &spokes[1]);
        hub.set_peer(&wide.entry().allowing(&["10.77.0.0/24", "fd00:4d::/64"]));
        hub.set_peer(&narrow.entry());
        let before = handed_over(hub);
        for spoke in spokes {
            for v6 in [false, true] {
                let wire = Wire::between(&hub.inner(v6), &spoke.inner(v6));
                (0..200).for_each(|_| drop(wire.send_marked(&[7; 100], 0)));
            }
        }
        assert_eq!(handed_over(hub), before, "flows without replies went to the wrong worker");
    });
}

#[test]
fn packets_read_by_another_worker_are_handed_over() {
    on_own_ground(&[], || {
        let blind = PartyOptions { offloads_off: vec![Offload::TunSteering], ..ours(4) };
        let field = Field::of(&[blind, ours(1), ours(1), ours(1)]);
        let [hub, spokes @ ..] = field.parties.as_slice() else { unreachable!("there is a hub") };
        for spoke in spokes {
            introduce(hub, spoke, false);
            wait_connected(hub, spoke);
            for _ in 0..8 {
                Wire::between(&hub.inner(false), &spoke.inner(false)).send_marked(&[7; 100], 0);
            }
        }
        assert!(handed_over(hub) > 0);
    });
}

#[test]
fn tcp_meets_nothing_out_of_order() {
    on_own_ground(&[], || {
        let field = hub(4, 4);
        let [hub, spokes @ ..] = field.parties.as_slice() else { unreachable!("there is a hub") };
        let end = Instant::now() + watched_for();
        // 16 streams each: two at a time, both ways, both families, four times beside each other.
        thread::scope(|scope| {
            for spoke in spokes {
                for lane in 0..8 {
                    scope.spawn(move || {
                        let (from, to) = if lane % 2 == 0 { (hub, spoke) } else { (spoke, hub) };
                        let v6 = lane % 4 > 1;
                        while Instant::now() < end {
                            transfer_between(&from.inner(v6), &to.inner(v6), 4_000_000);
                        }
                    });
                }
            }
        });
        for party in &field.parties {
            assert_eq!(tcp_disorder(&party.inside), [0; 4], "{}", party.interface);
        }
    });
}
