//! Our device against other implementations, and against itself: the same scenarios with every make.
//!
//! ```text
//!     node 1: ours                     node 2: of any make
//!     wg77-1 10.77.0.1 fd00:4d::1      wg77-2 10.77.0.2 fd00:4d::2
//!     under0 192.0.2.1 2001:db8::1 ═══ under0 192.0.2.2 2001:db8::2
//! ```

mod after_two_minutes;

use ginnel_engine::drops::DropReason;
use ginnel_tests::datagram::Wire;
use ginnel_tests::field::{Field, introduce, transfer, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::{Party, PartyOptions};
use ginnel_tests::wait::until;
use std::thread;

/// The scenarios of this file, once for each make.
macro_rules! with_every_make {
    ($($scenario:ident),+ $(,)?) => {
        mod ginnel { $(#[test] fn $scenario() { super::$scenario(super::Make::Ginnel); })+ }
        mod wireguard_go { $(#[test] fn $scenario() { super::$scenario(super::Make::WireguardGo); })+ }
        mod boringtun_cli { $(#[test] fn $scenario() { super::$scenario(super::Make::BoringtunCli); })+ }
    };
}

with_every_make! {
    either_side_begins_in_either_family,
    both_begin_at_once,
    a_hundred_megabytes_arrive_intact,
    datagrams_of_every_size_arrive,
    a_preshared_key_is_used_and_a_wrong_one_lets_nothing_through,
    keepalives_keep_talking_without_traffic,
    a_new_identity_is_met_again,
    a_moved_peer_is_followed,
    a_restarted_peer_is_found_again,
}

const INITIATION_BYTES: u64 = 148;
const KEEPALIVE_BYTES: u64 = 32;

/// Ours and theirs.
fn field_with(make: Make) -> Field {
    Field::of(&[Make::Ginnel.into(), make.into()])
}

fn either_side_begins_in_either_family(make: Make) {
    on_own_ground(&[make], || {
        for outer_v6 in [false, true] {
            for we_begin in [true, false] {
                let field = field_with(make);
                let [ours, theirs] = field.pair();
                let (near, far) = if we_begin { (ours, theirs) } else { (theirs, ours) };
                introduce(near, far, outer_v6);
                wait_connected(near, far);
                // The one who was found can begin a conversation too.
                wait_connected(far, near);
                for (party, other) in [(near, far), (far, near)] {
                    let peer = party.peer(other.key.public());
                    assert_eq!(peer.endpoint, Some(other.endpoint(outer_v6)));
                    assert!(peer.handshake.is_some() && peer.rx_bytes > 0 && peer.tx_bytes > 0, "{peer:?}");
                }
            }
        }
    });
}

fn both_begin_at_once(make: Make) {
    on_own_ground(&[make], || {
        let field = field_with(make);
        let [ours, theirs] = field.pair();
        for round in 0..10 {
            let outer_v6 = round % 2 == 1;
            for (party, other) in [(ours, theirs), (theirs, ours)] {
                party.set_peer(&other.entry().at(other.endpoint(outer_v6)));
            }
            thread::scope(|scope| {
                scope.spawn(|| wait_connected(ours, theirs));
                scope.spawn(|| wait_connected(theirs, ours));
            });
            ours.remove_peer(theirs.key.public());
            theirs.remove_peer(ours.key.public());
        }
    });
}

fn a_hundred_megabytes_arrive_intact(make: Make) {
    on_own_ground(&[make], || {
        for v6 in [false, true] {
            let field = field_with(make);
            let [ours, theirs] = field.introduced(v6);
            wait_connected(ours, theirs);
            transfer(ours, theirs, v6, 100_000_000);
            transfer(theirs, ours, v6, 100_000_000);
        }
    });
}

fn datagrams_of_every_size_arrive(make: Make) {
    on_own_ground(&[make], || {
        let field = field_with(make);
        let [ours, theirs] = field.introduced(false);
        wait_connected(ours, theirs);
        for v6 in [false, true] {
            let wire = Wire::between(&ours.inner(v6), &theirs.inner(v6));
            // The tunnel's MTU less its headers is 1392 and 1372; beyond it the kernel fragments.
            (0..1_400).chain([2_000, 9_000, 65_000]).for_each(|bytes| wire.there_and_back(bytes));
        }
    });
}

fn a_preshared_key_is_used_and_a_wrong_one_lets_nothing_through(make: Make) {
    on_own_ground(&[make], || {
        for we_begin in [true, false] {
            let field = field_with(make);
            let [ours, theirs] = field.pair();
            let (near, far) = if we_begin { (ours, theirs) } else { (theirs, ours) };
            let entry = |party: &Party, other: &Party, preshared| {
                let entry = other.entry().preshared(preshared);
                let begins = party.interface == near.interface;
                // A keepalive makes a party begin without traffic.
                if begins { entry.at(other.endpoint(false)).keepalive(25) } else { entry }
            };
            theirs.set_peer(&entry(theirs, ours, [1; 32]));
            ours.set_peer(&entry(ours, theirs, [2; 32]));
            if we_begin {
                until("their answer is refused", || ours.drops(DropReason::InboundUnauthentic) >= 2);
            } else {
                // A second attempt shows that our answer to the first was refused.
                until("they try twice", || ours.peer(theirs.key.public()).rx_bytes >= 2 * INITIATION_BYTES);
            }
            assert!(!ours.has_met(theirs) && !theirs.has_met(ours), "met in spite of different keys");
            ours.set_peer(&entry(ours, theirs, [1; 32]));
            wait_connected(near, far);
        }
    });
}

fn keepalives_keep_talking_without_traffic(make: Make) {
    on_own_ground(&[make], || {
        for we_begin in [true, false] {
            let field = field_with(make);
            let [ours, theirs] = field.pair();
            let (near, far) = if we_begin { (ours, theirs) } else { (theirs, ours) };
            far.set_peer(&near.entry());
            near.set_peer(&far.entry().at(far.endpoint(false)).keepalive(1));
            // By our counters: some makes do not count keepalives.
            until("three keepalives go", || {
                let peer = ours.peer(theirs.key.public());
                let bytes = if we_begin { peer.tx_bytes } else { peer.rx_bytes };
                bytes >= INITIATION_BYTES + 3 * KEEPALIVE_BYTES
            });
            assert!(near.has_met(far) && far.has_met(near));
            assert_eq!(far.peer(near.key.public()).endpoint, Some(near.endpoint(false)));
        }
    });
}

fn a_new_identity_is_met_again(make: Make) {
    on_own_ground(&[make], || {
        let mut field = field_with(make);
        let [ours, theirs] = field.introduced(false);
        wait_connected(ours, theirs);
        let [ours, theirs] = field.pair_mut();
        theirs.remove_peer(ours.key.public());
        ours.change_key();
        theirs.set_peer(&ours.entry());
        wait_connected(ours, theirs);
        ours.remove_peer(theirs.key.public());
        theirs.change_key();
        ours.set_peer(&theirs.entry().at(theirs.endpoint(false)));
        wait_connected(ours, theirs);
        transfer(ours, theirs, false, 1_000_000);
    });
}

fn a_moved_peer_is_followed(make: Make) {
    on_own_ground(&[make], || {
        for outer_v6 in [false, true] {
            let mut moving = PartyOptions::from(make);
            if make == Make::BoringtunCli {
                // Its connected sockets keep the address they were connected from.
                moving.arguments = &["--disable-connected-udp"];
            }
            let mut field = Field::of(&[Make::Ginnel.into(), moving]);
            let [ours, theirs] = field.introduced(outer_v6);
            wait_connected(ours, theirs);
            let follows = |mover: &Party, other: &Party| {
                wait_connected(mover, other);
                assert_eq!(other.peer(mover.key.public()).endpoint, Some(mover.endpoint(outer_v6)));
                transfer(other, mover, outer_v6, 1_000_000);
            };
            let [ours, theirs] = field.pair_mut();
            theirs.change_port(51_830);
            follows(theirs, ours);
            theirs.move_node(102);
            follows(theirs, ours);
            ours.change_port(51_840);
            follows(ours, theirs);
            ours.move_node(101);
            follows(ours, theirs);
        }
    });
}

fn a_restarted_peer_is_found_again(make: Make) {
    on_own_ground(&[make], || {
        let mut field = field_with(make);
        let [ours, theirs] = field.introduced(false);
        wait_connected(ours, theirs);
        let key = theirs.key.clone();
        field.parties.truncate(1);
        let options = PartyOptions { key: Some(key), ..make.into() };
        let theirs = Party::start(&options, &field.lab.nodes()[1], &field.keeper);
        // It knows no endpoint, so we have to notice that nothing comes back (after 15 s) and begin again.
        let ours = &field.parties[0];
        theirs.set_peer(&ours.entry());
        wait_connected(ours, &theirs);
    });
}
