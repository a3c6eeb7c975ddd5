//! The state against a naive twin: whatever changes are made one by one, the elements are those of the whole told at once.

use super::*;
use crate::firewall::desired::{Clients, Protocol};
use crate::firewall::nft::Element;
use crate::firewall::nft::Nft;
use crate::firewall::reconcile::Expected;
use crate::firewall::ruleset::SetId;
use crate::host::Netns;
use crate::lab::rights_or_skip;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::RefCell;
use std::collections::BTreeMap;

type Elements = BTreeMap<SetId, BTreeSet<Element>>;

/// Takes changes over one by one, as the kernel does.
fn follow(elements: &mut Elements, edits: &Edits) {
    for edit in edits.iter() {
        let set = elements.entry(edit.set).or_default();
        let was = if edit.add { set.insert(edit.element.clone()) } else { set.remove(&edit.element) };
        assert!(was, "nothing is added twice or removed that is not there: {edit:?}");
    }
    elements.retain(|_, set| !set.is_empty());
}

/// Takes over what is sent, in its order.
fn send(elements: &mut Elements, edits: &Edits) {
    let net = edits.net();
    for (id, removed) in &net.removed {
        let set = elements.entry(*id).or_default();
        removed.iter().for_each(|element| assert!(set.remove(element), "{element:?}"));
    }
    for (id, added) in &net.added {
        let set = elements.entry(*id).or_default();
        added.iter().for_each(|element| assert!(set.insert(element.clone()), "{element:?}"));
    }
    elements.retain(|_, set| !set.is_empty());
}

fn of(desired: &Desired) -> Elements {
    let mut elements = Elements::new();
    let (_, edits) = State::of(desired).expect("what was built up can be told at once");
    follow(&mut elements, &edits);
    elements
}

fn address() -> impl Strategy<Value = IpAddr> {
    (0..12u8, any::<bool>()).prop_map(|(last, v6)| {
        if v6 { format!("fd00::{last}").parse().unwrap() } else { IpAddr::from([10, 200, 0, last]) }
    })
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (address(), 0..4u8).prop_map(|(address, bits)| {
        let max = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, max - bits).unwrap()
    })
}

fn network_id() -> impl Strategy<Value = NetworkId> {
    (1..4u32).prop_map(|number| NetworkId::new(number).unwrap())
}

fn name(kind: &'static str) -> impl Strategy<Value = String> {
    (0..4u8).prop_map(move |number| format!("{kind}{number}"))
}

fn link() -> impl Strategy<Value = ContainerLink> {
    prop_oneof![
        (name("veth"), name("br")).prop_map(|(veth, bridge)| ContainerLink::Port { veth, bridge }),
        name("veth").prop_map(|veth| ContainerLink::Routed { veth }),
        // One that is in use for something else at times.
        name("br").prop_map(|veth| ContainerLink::Routed { veth }),
    ]
}

fn container() -> impl Strategy<Value = Container> {
    let links = prop::collection::vec(link(), 0..3);
    let addresses = prop::collection::vec(address(), 0..3);
    (links, addresses, prop::option::of(network_id())).prop_map(|(links, addresses, network)| Container {
        links,
        addresses,
        network,
    })
}

fn listen() -> impl Strategy<Value = Listen> {
    (any::<bool>(), address(), any::<bool>(), 0..3u16).prop_map(|(tcp, address, any, port)| {
        let protocol = if tcp { Protocol::Tcp } else { Protocol::Udp };
        let unspecified: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        Listen { protocol, socket: SocketAddr::new(if any { unspecified } else { address }, port) }
    })
}

fn service() -> impl Strategy<Value = Service> {
    (any::<bool>(), 0..3u16, any::<bool>()).prop_map(|(tcp, port, all)| Service {
        protocol: if tcp { Protocol::Tcp } else { Protocol::Udp },
        port,
        clients: if all { Clients::All } else { Clients::Overlay },
    })
}

fn change() -> impl Strategy<Value = Change> {
    let role = prop_oneof![Just(Role::Bridge), Just(Role::Bridge), Just(Role::Tunnel)];
    prop_oneof![
        prefix().prop_map(Change::AddPrefix),
        prefix().prop_map(Change::RemovePrefix),
        (name("br"), role).prop_map(|(name, role)| Change::AddInterface(name, role)),
        name("br").prop_map(Change::RemoveInterface),
        (name("c"), container()).prop_map(|(id, container)| Change::AddContainer(id, container)),
        (name("c"), container()).prop_map(|(id, container)| Change::AddContainer(id, container)),
        name("c").prop_map(Change::RemoveContainer),
        (prefix(), network_id()).prop_map(|(prefix, network)| Change::AddMember(prefix, network)),
        prefix().prop_map(Change::RemoveMember),
        (listen(), address(), 0..3u16)
            .prop_map(|(listen, address, port)| Change::Publish(listen, SocketAddr::new(address, port))),
        listen().prop_map(Change::Unpublish),
        service().prop_map(Change::AddService),
        service().prop_map(Change::RemoveService),
    ]
}

proptest! {
    #[test]
    fn changes_one_by_one_are_the_whole_at_once(rounds in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..60)) {
        let mut state = State::default();
        let (mut followed, mut sent) = (Elements::new(), Elements::new());
        for changes in rounds {
            let before = state.desired.clone();
            match state.make_all(changes) {
                Ok((edits, _)) => {
                    follow(&mut followed, &edits);
                    send(&mut sent, &edits);
                }
                // Of several changes with a bad one among them, none is made.
                Err(_) => prop_assert_eq!(&state.desired, &before),
            }
            prop_assert_eq!(&followed, &of(&state.desired));
            prop_assert_eq!(&sent, &followed);
        }
    }

    #[test]
    fn changes_can_be_taken_back(rounds in prop::collection::vec(prop::collection::vec(change(), 1..4), 1..30)) {
        let mut state = State::default();
        let mut expected = Expected::new("0");
        for changes in rounds {
            let before = state.desired.clone();
            let elements = expected.elements();
            let Ok((edits, inverses)) = state.make_all(changes.clone()) else { continue };
            expected.edit(&edits);
            state.take_back(inverses);
            expected.take_back(&edits);
            prop_assert_eq!(&state.desired, &before);
            prop_assert_eq!(expected.elements(), elements);
            let (edits, _) = state.make_all(changes).unwrap();
            expected.edit(&edits);
        }
    }
}

#[test]
fn the_kernel_takes_every_change_and_has_the_whole_at_the_end() {
    if !rights_or_skip() {
        return;
    }
    let nft = RefCell::new(Netns::create().unwrap().run_in(Nft::open).unwrap().unwrap());
    let strategy = prop::collection::vec(prop::collection::vec(change(), 1..4), 1..120);
    let mut runner = TestRunner::new(Config { cases: 24, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&strategy, |rounds| {
        let nft = &mut *nft.borrow_mut();
        let mut state = State::default();
        let mut expected = Expected::new("0");
        expected.reconcile(nft).unwrap();
        for changes in rounds {
            let Ok((edits, _)) = state.make_all(changes) else { continue };
            expected.edit(&edits);
            let batch = expected.batch(&edits.net());
            nft.commit(&batch, None).map_err(|error| TestCaseError::fail(error.to_string()))?;
        }
        prop_assert!(!expected.reconcile(nft).unwrap().is_change());
        Ok(())
    });
    outcome.unwrap();
}

fn filled(count: u32, isolated: bool) -> Desired {
    let mut desired = Desired::default();
    desired.prefixes.insert("10.128.0.0/9".parse().unwrap());
    desired.interfaces.insert("br0".into(), Role::Bridge);
    for number in 0..count {
        desired.containers.insert(format!("c{number}"), one(number, isolated));
    }
    desired
}

fn one(number: u32, isolated: bool) -> Container {
    Container {
        links: vec![ContainerLink::Port { veth: format!("veth-{number:06}"), bridge: "br0".into() }],
        addresses: vec![IpAddr::V4((0x0a80_0000 + number).into())],
        network: isolated.then(|| NetworkId::new(7).unwrap()),
    }
}

#[test]
fn a_thousandth_container_is_sent_as_the_second_was() {
    for isolated in [false, true] {
        let mut sizes = Vec::new();
        for count in [1, 40, 1_000, 10_000] {
            let (mut state, edits) = State::of(&filled(count, isolated)).unwrap();
            let mut expected = Expected::new("0");
            expected.edit(&edits);
            let newcomer = Change::AddContainer("new".into(), one(500_000, isolated));
            let (added, inverses) = state.make_all([newcomer]).unwrap();
            let (removed, _) = state.make_all(inverses).unwrap();
            let batches = [added, removed].map(|edits| expected.batch(&edits.net()));
            sizes.push(batches.map(|batch| (batch.messages(), batch.bytes())));
        }
        println!("messages and bytes of an attach and a detach, isolated {isolated}: {:?}", sizes[0]);
        assert!(sizes.iter().all(|size| *size == sizes[0]), "{sizes:?}");
    }
}

fn refusal(state: &mut State, change: Change) -> String {
    state.make_all([change]).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_is_refused_and_said() {
    let mut state = State::of(&filled(2, true)).unwrap().0;
    let network = NetworkId::new(9).unwrap();
    let listen = |text: &str| Listen { protocol: Protocol::Tcp, socket: text.parse().unwrap() };
    let port = |veth: &str, bridge: &str| ContainerLink::Port { veth: veth.into(), bridge: bridge.into() };
    let container =
        |link, address: &str| Container { links: vec![link], addresses: vec![address.parse().unwrap()], network: None };
    let mut check = |change: Change, says: &str| {
        let text = refusal(&mut state, change);
        assert!(text.contains(says), "{text}");
    };
    check(Change::AddPrefix("10.200.0.0/16".parse().unwrap()), "overlaps 10.128.0.0/9");
    check(Change::AddPrefix("::/0".parse().unwrap()), "the unspecified address");
    check(Change::AddInterface("br0".into(), Role::Tunnel), "br0 is in use already");
    check(Change::AddInterface("lo".into(), Role::Tunnel), "lo is in use already");
    check(Change::AddInterface("veth-000000".into(), Role::Tunnel), "in use already");
    check(Change::AddInterface("no/name".into(), Role::Tunnel), "no interface name");
    check(Change::RemoveInterface("br0".into()), "containers are still linked");
    check(Change::AddContainer(String::new(), container(port("v", "br0"), "10.200.0.1")), "no name of a container");
    check(Change::AddContainer("x".into(), container(port("v", "br9"), "10.200.0.1")), "br9 is no bridge known");
    check(Change::AddContainer("x".into(), container(port("veth-000001", "br0"), "10.200.0.1")), "veth-000001");
    check(Change::AddContainer("x".into(), container(port("v", "br0"), "10.128.0.1")), "10.128.0.1 belongs to");
    check(
        Change::AddContainer("x".into(), Container { addresses: vec![], ..container(port("v", "br0"), "::1") }),
        "needs 1 to",
    );
    check(Change::AddMember("10.128.0.0/24".parse().unwrap(), network), "belongs to a container or member already");
    check(Change::AddMember("10.128.0.1/32".parse().unwrap(), network), "10.128.0.1 belongs to");
    check(Change::Publish(listen("0.0.0.0:80"), "[fd00::1]:80".parse().unwrap()), "the same family");
    check(Change::Publish(listen("0.0.0.0:0"), "10.128.0.1:80".parse().unwrap()), "both need a port");
    check(Change::AddService(Service { protocol: Protocol::Udp, port: 0, clients: Clients::All }), "port 0");
    state.make_all([Change::Publish(listen("0.0.0.0:80"), "10.128.0.1:80".parse().unwrap())]).unwrap();
    let taken = Change::Publish(listen("0.0.0.0:80"), "10.128.0.2:80".parse().unwrap());
    assert!(refusal(&mut state, taken).contains("published already, for 10.128.0.1:80"));
    // Ranges do not hold each other or addresses of others.
    state.make_all([Change::AddMember("10.129.0.0/24".parse().unwrap(), network)]).unwrap();
    for overlapping in ["10.129.0.0/16", "10.129.0.128/25", "10.129.0.7/32"] {
        refusal(&mut state, Change::AddMember(overlapping.parse().unwrap(), network));
    }
}
