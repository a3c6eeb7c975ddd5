//! Devices with more than one worker: peers are spread over them, and what the kernel hands to the wrong one still arrives.

use ginnel_tests::datagram::Wire;
use ginnel_tests::field::{Field, introduce, transfer, transfer_between, wait_connected};
use ginnel_tests::flow::under_traffic;
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::{Party, PartyOptions};
use std::fs;
use std::os::linux::fs::MetadataExt as _;
use std::thread;

fn ours(workers: usize) -> PartyOptions {
    PartyOptions { workers, ..Make::Ginnel.into() }
}

#[test]
fn any_number_of_workers_moves_everything() {
    for (near, far) in [(1, 3), (4, 1), (5, 8)] {
        on_own_ground(&[], || {
            let field = Field::of(&[ours(near), ours(far)]);
            let [a, b] = field.introduced(false);
            assert_eq!((a.state().workers, b.state().workers), (near, far));
            wait_connected(a, b);
            for v6 in [false, true] {
                transfer(a, b, v6, 20_000_000);
                transfer(b, a, v6, 20_000_000);
                let wire = Wire::between(&a.inner(v6), &b.inner(v6));
                (0..1_400).step_by(50).for_each(|bytes| wire.there_and_back(bytes));
            }
        });
    }
}

#[test]
fn confined_workers_move_everything_and_stay_confined() {
    on_own_ground(&[], || {
        let confined = PartyOptions { seccomp: true, ..ours(2) };
        let free = PartyOptions { seccomp: false, ..ours(2) };
        let field = Field::of(&[confined, free]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        transfer(a, b, false, 20_000_000);
        transfer(b, a, true, 20_000_000);
        a.control.set("listen_port=51900");
        wait_connected(a, b);
        // 2 is "filter" (proc_pid_status(5)).
        assert_eq!(modes(a), ["2", "2"]);
        assert_eq!(modes(b), ["0", "0"]);
    });
}

/// What `Seccomp` is for each worker of a party: for the threads of that name in its namespace.
fn modes(party: &Party) -> Vec<String> {
    let inside = |path: &str| fs::metadata(path).map(|it| (it.st_dev(), it.st_ino()));
    let wanted = party.inside.run_in(|| inside("/proc/thread-self/ns/net")).expect("the namespace can be entered");
    let wanted = wanted.expect("its file is there");
    let tasks = fs::read_dir("/proc/self/task").expect("threads are listed").flatten();
    let mut modes = Vec::new();
    for task in tasks.map(|entry| entry.path()) {
        // Threads of other tests end meanwhile.
        let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        if field("Name:").starts_with("ginnel-w")
            && inside(&task.join("ns/net").to_string_lossy()).is_ok_and(|it| it == wanted)
        {
            modes.push(field("Seccomp:").to_owned());
        }
    }
    modes
}

/// ```text
/// spoke ══╗          ╔══ spoke
/// spoke ══╬══ hub ═══╬══ spoke      every spoke sends to the next, through the hub
/// spoke ══╝          ╚══ spoke
/// ```
#[test]
fn a_hub_forwards_between_many_peers() {
    const SPOKES: usize = 6;
    on_own_ground(&[], || {
        let options: Vec<_> = [ours(4)].into_iter().chain((0..SPOKES).map(|_| ours(1))).collect();
        let field = Field::of(&options);
        let [hub, spokes @ ..] = field.parties.as_slice() else { unreachable!("there is a hub") };
        let forward = || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        };
        hub.inside.run_in(forward).expect("the namespace can be entered").expect("forwarding can be set");
        for (number, spoke) in spokes.iter().enumerate() {
            introduce(spoke, hub, number % 2 == 1);
            // Behind the hub is everyone.
            let everyone = hub.entry().at(hub.endpoint(number % 2 == 1)).allowing(&["10.77.0.0/24", "fd00:4d::/64"]);
            spoke.set_peer(&everyone);
            wait_connected(spoke, hub);
        }
        let pairs = || (0..SPOKES).map(|at| (&spokes[at], &spokes[(at + 1) % SPOKES]));
        pairs().for_each(|(from, to)| wait_connected(from, to));
        thread::scope(|scope| {
            for (number, (from, to)) in pairs().enumerate() {
                let v6 = number % 2 == 1;
                scope.spawn(move || transfer_between(&from.inner(v6), &to.inner(v6), 5_000_000));
            }
        });
    });
}

#[test]
fn changes_reach_every_worker() {
    on_own_ground(&[], || {
        let field = Field::of(&[ours(4), ours(3)]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        under_traffic(a, b, true, |flow| {
            for port in 51_821..51_826 {
                for (party, other) in [(a, b), (b, a)] {
                    party.control.set(&format!("listen_port={port}"));
                    flow.wait_progress();
                    let known = other.peer(party.key.public()).endpoint.map(|endpoint| endpoint.port());
                    assert_eq!((party.control.report().listen_port, known), (port, Some(port)));
                }
                // A new number, and so another worker.
                let endpoint = b.peer(a.key.public()).endpoint.expect("it is known");
                b.remove_peer(a.key.public());
                b.set_peer(&a.entry().at(endpoint).keepalive(1));
                flow.wait_progress();
            }
        });
    });
}
