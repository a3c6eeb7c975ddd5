//! What goes over the wire, as a middlebox sees it.
//!
//! ```text
//! client wg77-1 ══╗            ╔══ server wg77-2
//!                 ╠═ bridge ═══╣
//!                 ╚═ relay ════╝   every datagram goes through it
//! ```

use ginnel_control::lab::Node;
use ginnel_engine::drops::DropReason;
use ginnel_tests::datagram::Wire;
use ginnel_tests::field::{Field, transfer, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::Party;
use ginnel_tests::relay::{Note, Relay};
use ginnel_tests::wait::until;

const DATA: u8 = 4;
const DATA_OVERHEAD: usize = 32;
const CE: u8 = 3;

/// Has the client reach the server through a relay at the bystander's.
fn relayed(client: &Party, server: &Party, bystander: &Node, outer_v6: bool) -> Relay {
    let relay = Relay::start(&bystander.end(outer_v6), server.endpoint(outer_v6));
    server.set_peer(&client.entry());
    client.set_peer(&server.entry().at(relay.address()).keepalive(1));
    wait_connected(client, server);
    relay
}

/// The data messages from client to server since the last look, keepalives left out.
fn data(relay: &Relay) -> Vec<Note> {
    let mut notes = relay.take_notes();
    notes.retain(|note| note.to_server && note.kind == DATA && note.bytes > DATA_OVERHEAD);
    notes
}

#[test]
fn packets_are_padded_to_16_within_the_mtu() {
    on_own_ground(&[], || {
        let (field, bystander) = Field::with_bystander(&[Make::Ginnel.into(), Make::Ginnel.into()]);
        let [client, server] = field.pair();
        let relay = relayed(client, server, &bystander, false);
        for v6 in [false, true] {
            let headers = if v6 { 48 } else { 28 };
            let wire = Wire::between(&client.inner(v6), &server.inner(v6));
            for mtu in [1_420, 1_400, 1_337, 1_500] {
                client.set_mtu(mtu);
                let mtu = usize::from(mtu);
                let expected = |payload: usize| (payload + headers).next_multiple_of(16).min(mtu) + DATA_OVERHEAD;
                let seen = |payload: usize| {
                    let _ = data(&relay);
                    wire.send_marked(&vec![7; payload], 0);
                    data(&relay).iter().map(|note| note.bytes).collect::<Vec<_>>()
                };
                // The device asks for the MTU once a second. The one size shows a lower MTU, the other a higher one.
                let fits = |payload: usize| seen(payload) == [expected(payload)];
                until("the new MTU is used", || fits(mtu - headers) && fits(mtu - headers - 20));
                for payload in (0..40).chain(mtu - headers - 40..=mtu - headers) {
                    assert_eq!(seen(payload), [expected(payload)], "{payload} bytes at an MTU of {mtu}");
                }
            }
        }
    });
}

/// RFC 6040: the mark goes out on the outer header; one made on the way comes in on the inner.
#[test]
fn congestion_marks_cross_the_tunnel() {
    for outer_v6 in [false, true] {
        on_own_ground(&[], || {
            let (field, bystander) = Field::with_bystander(&[Make::Ginnel.into(), Make::Ginnel.into()]);
            let [client, server] = field.pair();
            let relay = relayed(client, server, &bystander, outer_v6);
            for v6 in [false, true] {
                let wire = Wire::between(&client.inner(v6), &server.inner(v6));
                for ecn in 0..4 {
                    let _ = data(&relay);
                    assert_eq!(wire.send_marked(b"unhindered", ecn).ecn, ecn);
                    assert_eq!(data(&relay).iter().map(|note| note.ecn).collect::<Vec<_>>(), [ecn]);
                }
                relay.mark(Some(CE));
                for ecn in 1..4 {
                    assert_eq!(wire.send_marked(b"congested", ecn).ecn, CE);
                }
                // Who cannot be told of congestion by a mark is told by a loss.
                let before = server.drops(DropReason::InboundCongested);
                wire.send_away(b"congested", 0);
                until("the packet is dropped", || server.drops(DropReason::InboundCongested) == before + 1);
                relay.mark(None);
            }
        });
    }
}

/// The scenarios with a NAT, with every make behind it and before it.
macro_rules! nat {
    ($($name:ident: $client:ident, $server:ident;)+) => {
        $(#[test] fn $name() { a_forgetful_nat_is_followed(Make::$client, Make::$server); })+
    };
}

nat! {
    we_follow_ourselves_through_a_nat: Ginnel, Ginnel;
    we_follow_wireguard_go_through_a_nat: WireguardGo, Ginnel;
    we_follow_boringtun_cli_through_a_nat: BoringtunCli, Ginnel;
    wireguard_go_follows_us_through_a_nat: Ginnel, WireguardGo;
    boringtun_cli_follows_us_through_a_nat: Ginnel, BoringtunCli;
}

fn a_forgetful_nat_is_followed(client: Make, server: Make) {
    on_own_ground(&[client, server], || {
        for outer_v6 in [false, true] {
            let (field, bystander) = Field::with_bystander(&[client.into(), server.into()]);
            let [client, server] = field.pair();
            let relay = relayed(client, server, &bystander, outer_v6);
            for _ in 0..3 {
                relay.rebind();
                // The keepalive of the client tells.
                until("the server follows", || {
                    server.peer(client.key.public()).endpoint == Some(relay.outer_address())
                });
                wait_connected(server, client);
                transfer(server, client, outer_v6, 1_000_000);
            }
        }
    });
}
