//! Changes of the configuration while traffic flows: nothing may be lost for good, stand still or crash.

use ginnel_control::lab::traffic::End;
use ginnel_engine::event::Event;
use ginnel_engine::key::PrivateKey;
use ginnel_tests::datagram::{open, open_at, receive};
use ginnel_tests::field::{Field, wait_connected};
use ginnel_tests::flow::under_traffic;
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::Party;
use ginnel_tests::wait::{PATIENCE, StopOnDrop, until};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

/// The scenarios between two parties, once for each make of the other.
macro_rules! with_every_make {
    ($($scenario:ident),+ $(,)?) => {
        mod ginnel { $(#[test] fn $scenario() { super::$scenario(super::Make::Ginnel); })+ }
        mod wireguard_go { $(#[test] fn $scenario() { super::$scenario(super::Make::WireguardGo); })+ }
        mod boringtun_cli { $(#[test] fn $scenario() { super::$scenario(super::Make::BoringtunCli); })+ }
    };
}

with_every_make! {
    a_peer_is_removed_and_added_again,
    the_listen_port_changes,
    the_private_key_changes,
    other_peers_come_and_go,
}

/// A field of two, connected.
fn connected(make: Make) -> Field {
    let field = Field::of(&[Make::Ginnel.into(), make.into()]);
    let [ours, theirs] = field.introduced(false);
    wait_connected(ours, theirs);
    field
}

fn a_peer_is_removed_and_added_again(make: Make) {
    on_own_ground(&[make], || {
        let field = connected(make);
        let [ours, theirs] = field.pair();
        under_traffic(ours, theirs, false, |flow| {
            for _ in 0..5 {
                ours.remove_peer(theirs.key.public());
                ours.set_peer(&theirs.entry().at(theirs.endpoint(false)));
                flow.wait_progress();
            }
            // With a keepalive, or they would leave it to us to find out that they have forgotten us.
            theirs.remove_peer(ours.key.public());
            theirs.set_peer(&ours.entry().at(ours.endpoint(false)).keepalive(1));
            flow.wait_progress();
        });
    });
}

fn the_listen_port_changes(make: Make) {
    on_own_ground(&[make], || {
        let field = connected(make);
        let [ours, theirs] = field.pair();
        under_traffic(ours, theirs, true, |flow| {
            for port in 51_821..51_826 {
                for (party, other) in [(ours, theirs), (theirs, ours)] {
                    party.control.set(&format!("listen_port={port}"));
                    flow.wait_progress();
                    let known = other.peer(party.key.public()).endpoint.map(|endpoint| endpoint.port());
                    assert_eq!((party.control.report().listen_port, known), (port, Some(port)));
                }
            }
        });
    });
}

fn the_private_key_changes(make: Make) {
    on_own_ground(&[make], || {
        let mut field = connected(make);
        let [ours, theirs] = field.pair_mut();
        let before = ours.key.public();
        let key = PrivateKey::new([0x51; 32]);
        under_traffic(ours, theirs, false, |_| {
            ours.control.set(&format!("private_key={}", key.to_hex()));
            // They learn of it while the traffic tries to go on.
            theirs.remove_peer(before);
            let mut lines = format!("public_key={}\n", key.public().to_hex());
            let _ = write!(lines, "allowed_ip={}/32\nallowed_ip={}/128", ours.inner(false).ip, ours.inner(true).ip);
            theirs.control.set(&lines);
        });
        assert!(theirs.peer(key.public()).handshake.is_some());
    });
}

fn other_peers_come_and_go(make: Make) {
    on_own_ground(&[make], || {
        let field = connected(make);
        let [ours, theirs] = field.pair();
        under_traffic(ours, theirs, false, |_| {
            for round in 0..50_u8 {
                let mut lines = String::new();
                for number in 0..20_u8 {
                    let key = PrivateKey::new([number + 1; 32]).public();
                    let _ = writeln!(lines, "public_key={}\nendpoint=192.0.2.{}:9", key.to_hex(), number + 10);
                    if round % 2 == 1 {
                        lines.push_str("remove=true\n");
                    } else {
                        for host in 0..50 {
                            let _ = writeln!(lines, "allowed_ip=10.{number}.{round}.{host}/32");
                        }
                    }
                }
                ours.control.set(&lines);
                assert_eq!(ours.control.report().peers.len(), if round % 2 == 1 { 1 } else { 21 });
            }
        });
    });
}

#[test]
fn the_preshared_key_changes_with_ginnel() {
    the_preshared_key_changes(Make::Ginnel);
}

// boringtun-cli cannot change a peer.
#[test]
fn the_preshared_key_changes_with_wireguard_go() {
    the_preshared_key_changes(Make::WireguardGo);
}

fn the_preshared_key_changes(make: Make) {
    on_own_ground(&[make], || {
        let field = connected(make);
        let [ours, theirs] = field.pair();
        under_traffic(ours, theirs, false, |flow| {
            let events = ours.device().take_events().expect("nobody else has taken them");
            for round in 1..6 {
                events.try_iter().for_each(drop);
                // Sessions serve on until both sides have the new key; then there is a new one at once.
                for (party, other) in [(theirs, ours), (ours, theirs)] {
                    party.set_peer(&other.entry().preshared([round; 32]));
                    flow.wait_progress();
                }
                until("a new session", || {
                    events.try_iter().any(|event| matches!(event, Event::HandshakeCompleted { .. }))
                });
            }
        });
    });
}

#[test]
fn an_address_moves_between_peers_of_ours() {
    an_address_moves_between_peers([Make::Ginnel, Make::Ginnel]);
}

#[test]
fn an_address_moves_between_peers_of_other_makes() {
    an_address_moves_between_peers([Make::WireguardGo, Make::BoringtunCli]);
}

/// ```text
///              ╔══ B 10.77.0.2, 10.88.0.9 ┐ the address that moves
/// A 10.77.0.1 ═╣                          │
///   10.88.0.1  ╚══ C 10.77.0.3, 10.88.0.9 ┘
/// ```
/// Datagrams go one by one to the address both have, while A moves it from one peer to the other as fast as it can. Each
/// has to arrive at either. Where C is ours, traffic to its address that stays has to go on.
fn an_address_moves_between_peers(makes: [Make; 2]) {
    const DATAGRAMS: u64 = 2_000;
    on_own_ground(&makes, || {
        let field = Field::of(&[Make::Ginnel.into(), makes[0].into(), makes[1].into()]);
        let [a, b, c] = field.parties.as_slice() else { unreachable!("three were asked for") };
        let moving: IpAddr = [10, 88, 0, 9].into();
        a.add_address("10.88.0.1/24".parse().expect("a prefix"));
        for party in [b, c] {
            party.add_address("10.88.0.9/24".parse().expect("a prefix"));
            party.set_peer(&a.entry().allowing(&["10.77.0.1/32", "fd00:4d::1/128", "10.88.0.1/32"]));
            a.set_peer(&party.entry().at(party.endpoint(false)));
            wait_connected(a, party);
        }
        a.control.set(&format!("public_key={}\nallowed_ip=10.88.0.9/32", c.key.public().to_hex()));
        let (arrived, arrivals) = channel();
        let stop = &AtomicBool::new(false);
        let moves = thread::scope(|scope| {
            let sender = open(&End { netns: a.inside.clone(), ip: [10, 88, 0, 1].into() });
            let receivers =
                [b, c].map(|party| open_at(&End { netns: party.inside.clone(), ip: moving }, RECEIVER_PORT));
            for (who, receiver) in receivers.into_iter().enumerate() {
                let arrived = arrived.clone();
                receiver.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(datagram) = receive(&receiver) {
                            // Nobody listens any more after a failure.
                            let _ = arrived.send((who, datagram.payload));
                        }
                    }
                });
            }
            let mover = scope.spawn(|| move_to_and_fro(a, [b, c], stop));
            let stopping = StopOnDrop(stop);
            let mut counts = [0_u64; 2];
            let mut send = || {
                for number in 0..DATAGRAMS {
                    sender.send_to(&number.to_le_bytes(), SocketAddr::new(moving, RECEIVER_PORT)).expect("it leaves");
                    let (who, payload) = arrivals.recv_timeout(PATIENCE).expect("no datagram is lost");
                    assert_eq!(payload, number.to_le_bytes());
                    counts[who] += 1;
                }
            };
            // The receive buffers of others are small: bulk traffic makes them lose datagrams of their own accord.
            if makes == [Make::Ginnel; 2] {
                under_traffic(a, c, false, |_| send())
            } else {
                send()
            }
            assert!(counts[0] > 0 && counts[1] > 0, "{counts:?}");
            drop(stopping);
            mover.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        assert!(moves > 20, "only {moves} moves");
    });
}

const RECEIVER_PORT: u16 = 7_007;

/// Moves the address until told to stop. Returns how often.
fn move_to_and_fro(a: &Party, peers: [&Party; 2], stop: &AtomicBool) -> u64 {
    let mut moves = 0_u64;
    while !stop.load(Ordering::Relaxed) || moves.is_multiple_of(2) {
        let [to, from] = if moves.is_multiple_of(2) { peers } else { [peers[1], peers[0]] };
        let mut lines = String::new();
        if moves % 4 < 2 {
            // In so many words: taken from one, given to the other.
            let _ = writeln!(lines, "public_key={}\nreplace_allowed_ips=true", from.key.public().to_hex());
            let _ = writeln!(lines, "allowed_ip={}/32\nallowed_ip={}/128", from.inner(false).ip, from.inner(true).ip);
        }
        let _ = writeln!(lines, "public_key={}\nallowed_ip=10.88.0.9/32", to.key.public().to_hex());
        a.control.set(&lines);
        let report = a.control.report();
        let holders = report.peers.iter().filter(|peer| peer.allowed_ips.len() == 3).map(|peer| peer.public_key);
        assert_eq!(holders.collect::<Vec<_>>(), [to.key.public()]);
        moves += 1;
    }
    moves
}
