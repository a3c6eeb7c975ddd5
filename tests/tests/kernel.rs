//! What our device makes of the kernel it runs on: MTUs, offloads, marks, namespaces, and an interface that goes away.

use ginnel_control::host::Netns;
use ginnel_control::lab::Node;
use ginnel_control::lab::traffic::{End, TrafficError, wait_reachable};
use ginnel_engine::drops::DropReason;
use ginnel_engine::event::Event;
use ginnel_engine::port::{OffReason, Offload, OffloadState};
use ginnel_tests::field::{Field, introduce, transfer, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::party::{Party, PartyOptions};
use ginnel_tests::routing::{Crossing, refuse_marked};
use ginnel_tests::wait::{PATIENCE, until};
use std::time::Duration;

const TRANSFER_BYTES: u64 = 20_000_000;

fn ours() -> PartyOptions {
    Make::Ginnel.into()
}

/// Checked TCP both ways, both families inside.
fn transfer_everywhere(a: &Party, b: &Party) {
    for v6 in [false, true] {
        transfer(a, b, v6, TRANSFER_BYTES);
        transfer(b, a, v6, TRANSFER_BYTES);
    }
}

#[test]
fn no_offload_fails_on_a_plain_path() {
    on_own_ground(&[], || {
        let field = Field::of(&[ours(), ours()]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        transfer_everywhere(a, b);
        for party in [a, b] {
            for offload in Offload::ALL {
                let (state, fallbacks) = party.offload(offload);
                assert!(!matches!(state, OffloadState::Off(OffReason::Failed(_))), "{offload:?} {state:?}");
                assert_eq!(fallbacks, 0, "{offload:?}");
            }
        }
    });
}

#[test]
fn every_offload_can_be_forced_off() {
    let one_by_one = Offload::ALL.map(|offload| vec![offload]);
    for off in one_by_one.into_iter().chain([Offload::ALL.to_vec()]) {
        on_own_ground(&[], || {
            let crippled = PartyOptions { offloads_off: off.clone(), ..ours() };
            let field = Field::of(&[crippled, ours()]);
            let [a, b] = field.introduced(false);
            wait_connected(a, b);
            transfer_everywhere(a, b);
            for &offload in &off {
                assert_eq!(a.offload(offload).0, OffloadState::Off(OffReason::Operator), "{offload:?}");
            }
        });
    }
}

/// A train cannot be fragmented, a datagram can: so trains are given up, and nothing is lost.
#[test]
fn a_path_narrower_than_the_tunnel_carries_everything() {
    for outer_v6 in [false, true] {
        on_own_ground(&[], || {
            let field = Field::with_mtu(1_400, &[ours(), ours()]);
            let [a, b] = field.introduced(outer_v6);
            wait_connected(a, b);
            transfer_everywhere(a, b);
            for party in [a, b] {
                if party.offload(Offload::LinkSegmentation).0 == OffloadState::On {
                    assert!(party.offload(Offload::LinkSegmentation).1 > 0, "trains went where none fits");
                }
            }
        });
    }
}

/// As above, but only a router in the middle knows. In IPv6 it tells, and the sender has to fragment.
#[test]
fn a_narrow_path_behind_a_router_carries_everything() {
    for outer_v6 in [false, true] {
        on_own_ground(&[], || {
            let crossing = Crossing::build(1_300);
            let keeper = ginnel_control::lab::process::Keeper::default();
            let a = Party::start(&ours(), &crossing.near, &keeper);
            let b = Party::start(&ours(), &crossing.far, &keeper);
            introduce(&a, &b, outer_v6);
            wait_connected(&a, &b);
            transfer_everywhere(&a, &b);
        });
    }
}

/// The tunnel of wireguard-go is a device without checksum offload, which on many kernels takes no trains, and with an MTU
/// that ours outgrows.
#[test]
fn a_tunnel_within_a_tunnel_carries_everything() {
    for mtu in [1_340, 1_420] {
        on_own_ground(&[Make::WireguardGo], || {
            let field = Field::of(&[Make::WireguardGo.into(), Make::WireguardGo.into()]);
            let [a, b] = field.introduced(false);
            wait_connected(a, b);
            let options = PartyOptions { mtu, port: 51_830, network: 78, ..ours() };
            let inner = [(a, "10.77.0.1", "fd00:4d::1"), (b, "10.77.0.2", "fd00:4d::2")].map(|(party, v4, v6)| {
                let node = Node {
                    netns: party.node.netns.clone(),
                    underlay_v4: v4.parse().expect("an address"),
                    underlay_v6: v6.parse().expect("an address"),
                };
                Party::start(&options, &node, &field.keeper)
            });
            for outer_v6 in [false, true] {
                introduce(&inner[0], &inner[1], outer_v6);
                wait_connected(&inner[0], &inner[1]);
                transfer_everywhere(&inner[0], &inner[1]);
            }
        });
    }
}

#[test]
fn changes_of_the_mtu_are_followed() {
    on_own_ground(&[], || {
        let field = Field::of(&[ours(), ours()]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        for mtu in [1_280, 9_000, 1_400, 65_000, 1_420] {
            for party in [a, b] {
                party.set_mtu(mtu);
                assert_eq!(party.state().mtu, mtu);
            }
            transfer(a, b, false, 5_000_000);
            transfer(b, a, true, 5_000_000);
        }
        // Too small for IPv6, whose addresses the kernel takes away.
        a.set_mtu(600);
        b.set_mtu(600);
        transfer(a, b, false, 1_000_000);
    });
}

#[test]
fn the_mark_is_on_every_datagram() {
    const MARK: u32 = 0xca6c;
    for outer_v6 in [false, true] {
        on_own_ground(&[], || {
            let mut field = Field::of(&[ours(), ours()]);
            let [a, b] = field.introduced(outer_v6);
            refuse_marked(&a.node.netns, MARK);
            wait_connected(a, b);
            let [a, b] = field.pair_mut();
            for port in [None, Some(51_821)] {
                a.control.set(&format!("fwmark={MARK}"));
                if let Some(port) = port {
                    a.change_port(port);
                }
                assert_eq!(a.control.report().fwmark, MARK);
                let before = a.drops(DropReason::OutboundRefused);
                until("the kernel refuses", || {
                    let reached = wait_reachable(&a.inner(false), &b.inner(false), Duration::from_millis(300));
                    assert!(matches!(reached, Err(TrafficError::Unreachable { .. })), "{reached:?}");
                    a.drops(DropReason::OutboundRefused) > before
                });
                a.control.set("fwmark=0");
                wait_connected(a, b);
            }
        });
    }
}

#[test]
fn foreign_sources_are_refused() {
    on_own_ground(&[], || {
        let field = Field::of(&[ours(), ours()]);
        let [a, b] = field.introduced(false);
        wait_connected(a, b);
        let more = ["10.77.0.99/24", "fd00:4d::99/64"].map(|text| text.parse::<ipnet::IpNet>().expect("a prefix"));
        for address in more {
            a.add_address(address);
            let stranger = End { netns: a.inside.clone(), ip: address.addr() };
            let far = b.inner(address.addr().is_ipv6());
            let before = b.drops(DropReason::InboundForeignSource);
            until("strangers are refused", || {
                let reached = wait_reachable(&stranger, &far, Duration::from_millis(200));
                assert!(matches!(reached, Err(TrafficError::Unreachable { .. })), "{reached:?}");
                b.drops(DropReason::InboundForeignSource) > before
            });
        }
        // Known, they are let in.
        b.set_peer(&a.entry().allowing(&["10.77.0.99/32", "fd00:4d::99/128"]));
        a.set_peer(&b.entry());
        for address in more {
            let stranger = End { netns: a.inside.clone(), ip: address.addr() };
            wait_reachable(&stranger, &b.inner(address.addr().is_ipv6()), PATIENCE).expect("it is allowed");
        }
    });
}

/// ```text
/// inside A ── wg ┐                ┌ wg ── inside B     namespaces without any other link
///       birthplace A ══ veth ══ birthplace B
/// ```
#[test]
fn sockets_stay_where_the_device_was_born() {
    for outer_v6 in [false, true] {
        on_own_ground(&[], || {
            let mut field = Field::of(&[ours(), ours()]);
            for party in field.pair_mut() {
                let inside = Netns::create().expect("a namespace");
                party.move_inside(&inside);
            }
            let [a, b] = field.introduced(outer_v6);
            wait_connected(a, b);
            transfer_everywhere(a, b);
            let mut field = field;
            let [a, b] = field.pair_mut();
            // Sockets opened later belong there too.
            a.change_port(51_821);
            wait_connected(a, b);
        });
    }
}

#[test]
fn a_device_ends_with_its_interface() {
    for moved in [false, true] {
        on_own_ground(&[], || {
            let mut field = Field::of(&[ours(), ours()]);
            let [a, b] = field.introduced(false);
            wait_connected(a, b);
            let [a, _] = field.pair_mut();
            if moved {
                a.move_inside(&Netns::create().expect("a namespace"));
            }
            let events = a.device().take_events().expect("nobody else has taken them");
            let name = a.interface.clone();
            let deleted = a.inside.configure(async |netlink| netlink.delete_link_named(&name).await);
            assert!(deleted.expect("the interface can be deleted"));
            let closed = events.into_iter().any(|event| matches!(event, Event::PortClosed { .. }));
            assert!(closed, "the device says so, and says no more");
            assert!(a.control.try_set("listen_port=7").is_err());
        });
    }
}

#[test]
fn nothing_is_left_of_a_device_that_is_dropped() {
    on_own_ground(&[], || {
        let mut field = Field::of(&[ours(), ours()]);
        let gone = field.parties.remove(0);
        let (name, control, netns) = (gone.interface.clone(), gone.control.clone(), gone.inside.clone());
        assert!(control.answers());
        drop(gone);
        assert!(!control.answers());
        let link = netns.configure(async |netlink| netlink.find_link(&name).await);
        assert_eq!(link.expect("links can be listed"), None);
        // The same name and port can be used again at once.
        let again = Party::start(&ours(), &field.lab.nodes()[0], &field.keeper);
        introduce(&again, &field.parties[0], false);
        wait_connected(&again, &field.parties[0]);
    });
}
