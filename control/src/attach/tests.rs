//! Every single request of an attachment refused in turn: nothing is left behind, and what stood before stands after.

use super::site::{Kernel, Site};
use super::wiring::{GlobalLink, ServiceLink, container, mac};
use super::{AttachError, Attached, Attacher, Bridge, BridgePlan, Difference, Plan, Side, bridge, steps};
use crate::host::request::{Outcome, Request};
use crate::host::socket::{Exchange, Socket};
use crate::host::{Helper, HostError, LinkChange, Mark, Netlink, Netns, PortFlags, RouteInfo};
use crate::lab::rights_or_skip;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

const BRIDGE: &str = "zl-a-0-web-b";

/// Refuses requests by their number, counted over both sides.
struct Refusing<'a> {
    kernel: Kernel<'a>,
    refused: fn(usize, usize) -> bool,
    number: usize,
    count: usize,
}

/// Only the one request fails.
const ONE: fn(usize, usize) -> bool = |count, number| count == number;

/// So does every later one, those that would undo it included.
const ALL_FROM: fn(usize, usize) -> bool = |count, number| count >= number;

impl Refusing<'_> {
    fn refuses(&mut self) -> bool {
        self.count += 1;
        (self.refused)(self.count, self.number)
    }

    /// One by one: what is behind a refused request is carried out, as by the kernel.
    fn each(&mut self, requests: &[Request], ask: fn(&mut Kernel<'_>, &[Request]) -> Vec<Outcome>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for request in requests {
            outcomes.push(if self.refuses() {
                Err(refusal(request.what()))
            } else {
                ask(&mut self.kernel, std::slice::from_ref(request)).pop().unwrap()
            });
        }
        outcomes
    }
}

fn refusal(what: &str) -> HostError {
    HostError::System { what: what.into(), source: io::Error::from_raw_os_error(12) }
}

impl Site for Refusing<'_> {
    fn host(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.each(requests, |kernel, requests| kernel.host(requests))
    }

    fn inside(&mut self, requests: &[Request]) -> Vec<Outcome> {
        self.each(requests, |kernel, requests| kernel.inside(requests))
    }

    fn prepare_v6(&mut self, link: &str, carries: bool) -> Result<(), HostError> {
        if self.refuses() { Err(refusal(link)) } else { self.kernel.prepare_v6(link, carries) }
    }

    fn prepare_v6_inside(&mut self, links: &[(&str, bool)]) -> Result<(), HostError> {
        // The first is done, the last not.
        let (last, others) = links.split_last().unwrap();
        self.kernel.prepare_v6_inside(others)?;
        if self.refuses() { Err(refusal(last.0)) } else { self.kernel.prepare_v6_inside(&[*last]) }
    }

    fn netns(&self) -> &Netns {
        self.kernel.netns()
    }
}

struct World {
    host: Netns,
    container: Netns,
    attacher: Attacher,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Both links, both families: everything an attachment can consist of.
fn plan() -> Plan {
    let service = ServiceLink {
        host_name: "veth-77-s".into(),
        bridge: BRIDGE.into(),
        flags: PortFlags { isolated: true, hairpin: false },
        addresses: vec![net("10.200.64.2/26"), net("fd00:64::2/120")],
        gateways: vec![ip("10.200.64.1"), ip("fd00:64::1")],
        mtu: 1420,
    };
    let global = GlobalLink {
        host_name: "veth-77-g".into(),
        addresses: vec![ip("10.200.1.2"), ip("fd00:1::2")],
        node: vec![ip("10.200.1.1"), ip("fd00:1::1")],
        node_is_up: true,
        cluster: vec![net("10.200.0.0/16"), net("fd00::/16")],
        mtu: 1420,
    };
    container("container-77", Some(&service), Some(&global))
}

impl World {
    async fn new() -> Self {
        let (host, container) = (Netns::create().unwrap(), Netns::create().unwrap());
        // An attachment brings it up, and leaves it so.
        container.bring_lo_up().unwrap();
        let attacher = Attacher::open_in(&host, Mark::new("a").unwrap()).unwrap();
        let addresses = vec![net("10.200.64.1/26"), net("fd00:64::1/120")];
        let mac = mac(addresses.iter().map(IpNet::addr));
        let bridge = BridgePlan { name: BRIDGE.into(), object: "service:web".into(), mtu: 1420, mac, addresses };
        attacher.ensure_bridge(&bridge).await.unwrap();
        // The node's addresses, which the routes to containers prefer.
        let netlink = attacher.netlink();
        let tunnel = netlink.create_veth("tunnel", "far", None).await.unwrap();
        netlink.set_up(tunnel, true).await.unwrap();
        netlink.add_address(tunnel, net("10.200.1.1/16")).await.unwrap();
        netlink.add_address(tunnel, net("fd00:1::1/16")).await.unwrap();
        Self { host, container, attacher }
    }

    /// Attaches with requests refused, and tells how many there were until then.
    async fn attach(&self, number: usize, refused: fn(usize, usize) -> bool) -> (Result<Attached, AttachError>, usize) {
        let (mark, netns) = (self.attacher.mark().clone(), self.container.clone());
        let work = self.attacher.netlink().run("attach", move |helper| {
            let kernel = Kernel::open(helper, &netns).unwrap();
            let mut site = Refusing { kernel, refused, number, count: 0 };
            (steps::attach(&mut site, &mark, &plan()), site.count)
        });
        work.await.unwrap()
    }

    fn traces(&self) -> [Vec<String>; 2] {
        [traces(&self.host), traces(&self.container)]
    }
}

/// Everything of a namespace that an attachment changes. The state of a link settles by itself, indices count on.
fn traces(netns: &Netns) -> Vec<String> {
    let look = async |netlink: &Netlink| -> Result<Vec<String>, HostError> {
        let mut found = Vec::new();
        let mut names = std::collections::HashMap::new();
        for link in netlink.links().await? {
            let addresses = netlink.addresses(link.index).await?;
            let addresses: Vec<_> = addresses.iter().filter(|address| !net("fe80::/10").contains(*address)).collect();
            found
                .push(format!("{} {:?} {} {} {:?} {addresses:?}", link.name, link.alias, link.up, link.mtu, link.port));
            names.insert(link.index, link.name);
        }
        for RouteInfo { prefix, device, gateway, source, mtu, table } in netlink.routes().await? {
            found.push(format!("{prefix} {} {gateway:?} {source:?} {mtu:?} {table}", names[&device]));
        }
        for neighbour in netlink.neighbours().await? {
            found.push(format!("{} {}", neighbour.address, names[&neighbour.device]));
        }
        found.extend(netlink.rules().await?.iter().map(|rule| format!("{rule:?}")));
        found.sort();
        Ok(found)
    };
    netns.configure(look).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_leaves_nothing_behind() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let before = world.traces();
    let mut number = 1;
    loop {
        let (attached, count) = world.attach(number, ONE).await;
        if count < number {
            attached.unwrap();
            break;
        }
        let error = attached.unwrap_err();
        assert!(matches!(&error, AttachError::Host(HostError::System { .. })), "request {number}: {error}");
        assert_eq!(world.traces(), before, "request {number}: {error}");
        number += 1;
    }
    // Fewer would mean that most of the attachment happened elsewhere.
    assert!(number > 35, "{number}");
    assert_ne!(world.traces(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_undone_is_said_and_swept_up() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let before = world.traces();
    let mut left = 0;
    let mut number = 1;
    loop {
        let (attached, count) = world.attach(number, ALL_FROM).await;
        if count < number {
            attached.unwrap();
            break;
        }
        match attached.unwrap_err() {
            AttachError::Left { .. } => left += 1,
            error => assert_eq!(world.traces()[0], before[0], "request {number}: {error}"),
        }
        let swept = world.attacher.sweep(|found| found.is_bridge).await.unwrap();
        assert_eq!(swept.in_use, [""; 0]);
        world.attacher.forget_rules(&world.container).await.unwrap();
        assert_eq!(world.traces(), before, "request {number}");
        number += 1;
    }
    assert!(left > 20, "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_that_is_refused_is_finished_by_the_next() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let (attached, _) = world.attach(0, ONE).await;
    let attached = attached.unwrap();
    let whole = world.traces();
    let mut number = 1;
    loop {
        damage(&world, &attached).await;
        assert_ne!(world.traces(), whole);
        let (outcome, count) = world.attach(number, ONE).await;
        if count < number {
            let links = outcome.unwrap().links;
            assert!(links.iter().all(|link| !link.created), "{links:#?}");
            assert!(links.iter().all(|link| link.repaired.len() > 12), "{links:#?}");
            break;
        }
        assert!(outcome.is_err(), "request {number}");
        let (again, _) = world.attach(0, ONE).await;
        assert_eq!(again.unwrap().links.len(), 2);
        assert_eq!(world.traces(), whole, "request {number}");
        number += 1;
    }
    assert!(number > 40, "{number}");
    assert_eq!(world.traces(), whole);
    // And then there is nothing to do.
    let (again, _) = world.attach(0, ONE).await;
    assert!(again.unwrap().links.iter().all(|link| !link.created && link.repaired.is_empty()));
}

/// Spoils what an attachment consists of, in every way that a repair knows.
async fn damage(world: &World, attached: &Attached) {
    let netlink = world.attacher.netlink();
    for link in &attached.links {
        let port = link.host_name.ends_with("-s").then(PortFlags::default);
        let change = LinkChange { up: Some(false), mtu: Some(1300), port, ..LinkChange::default() };
        netlink.change_link(link.host_index, &change).await.unwrap();
        let (index, name) = (link.index, if port.is_some() { "eth0" } else { "eth1" });
        let spoil = async |inside: &Netlink| {
            // Down, a link loses the routes and neighbours.
            inside.set_up(index, false).await?;
            let change = LinkChange { name: Some("other0"), mtu: Some(1300), ..LinkChange::default() };
            inside.change_link(index, &change).await?;
            for address in inside.addresses(index).await? {
                if !net("fe80::/10").contains(&address) {
                    inside.remove_address(index, address).await?;
                }
            }
            inside.add_address(index, net("10.99.0.1/24")).await?;
            inside.change_link(index, &LinkChange { name: Some(&format!("{name}x")), ..LinkChange::default() }).await
        };
        world.container.configure(spoil).unwrap();
    }
    world.attacher.forget_rules(&world.container).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_repair_found_is_told() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let attached = world.attacher.attach(&plan(), &world.container).await.unwrap();
    let whole = world.traces();
    let [service, global] = &attached.links[..] else { panic!("{attached:?}") };
    let netlink = world.attacher.netlink();
    netlink
        .change_link(service.host_index, &LinkChange { controller: Some(0), ..LinkChange::default() })
        .await
        .unwrap();
    netlink.remove_route(net("10.200.1.2/32"), global.host_index).await.unwrap();
    let foreign = RouteInfo::new(net("10.77.0.0/24"), global.index);
    world.container.configure(async |inside| inside.add_route(&foreign).await).unwrap();
    let again = world.attacher.attach(&plan(), &world.container).await.unwrap();
    assert_eq!(again.links[0].repaired, [Difference::Bridge]);
    assert_eq!(
        again.links[1].repaired,
        [
            Difference::RouteExtra(Side::Container, net("10.77.0.0/24")),
            Difference::RouteMissing(Side::Host, net("10.200.1.2/32"))
        ]
    );
    assert_eq!(world.traces(), whole);
}

/// Refuses requests of a bridge by their number.
struct RefusingHost<'a>(&'a mut Socket, usize, usize);

impl Exchange for RefusingHost<'_> {
    fn exchange(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let mut each = |request: &Request| {
            self.2 += 1;
            if self.2 == self.1 {
                return Err(refusal(request.what()));
            }
            self.0.exchange(std::slice::from_ref(request)).pop().unwrap()
        };
        requests.iter().map(&mut each).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_is_made_whole_or_not_at_all() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let before = world.traces();
    let addresses = vec![net("10.200.65.1/26"), net("fd00:65::1/120")];
    let plan = BridgePlan {
        name: "br1".into(),
        object: "service:db".into(),
        mtu: 1300,
        mac: mac(addresses.iter().map(IpNet::addr)),
        addresses,
    };
    let ensure = async |number: usize| {
        let (mark, plan) = (world.attacher.mark().clone(), plan.clone());
        let ensure = move |helper: &mut Helper| {
            let mut host = RefusingHost(helper.socket(), number, 0);
            (bridge::ensure(&mut host, &mark, &plan), host.2)
        };
        world.attacher.netlink().run("set up a bridge", ensure).await.unwrap()
    };
    let mut number = 1;
    loop {
        let (bridge, count) = ensure(number).await;
        if count < number {
            assert!(bridge.unwrap().created);
            break;
        }
        bridge.unwrap_err();
        let after = world.traces();
        // Where it was made and did not show, it is marked as ours, and taken up or swept.
        if after != before {
            assert_eq!(world.attacher.sweep(|found| found.name == BRIDGE).await.unwrap().removed, ["br1"]);
        }
        assert_eq!(world.traces(), before, "request {number}");
        number += 1;
    }
    assert!(number > 6, "{number}");
    let whole = world.traces();
    let (again, _) = ensure(0).await;
    assert!(!again.unwrap().repaired);
    // Half made by one that died.
    let netlink = world.attacher.netlink();
    let index = netlink.link("br1").await.unwrap().index;
    let change = LinkChange { alias: Some(""), mtu: Some(1200), up: Some(false), ..LinkChange::default() };
    netlink.change_link(index, &change).await.unwrap();
    let (again, _) = ensure(0).await;
    assert!(matches!(again, Ok(Bridge { created: false, repaired: true, .. })), "{again:?}");
    assert_eq!(world.traces(), whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_waits_for_is_taken_back() {
    if !rights_or_skip() {
        return;
    }
    let world = World::new().await;
    let before = world.traces();
    // One helper, which is busy until the caller is gone.
    let attacher = Attacher { netlink: Netlink::open_in(&world.host, 1).unwrap(), ..world.attacher.clone() };
    let (key, gate) = std::sync::mpsc::channel::<()>();
    attacher.netlink.submit("wait", move |_| assert!(gate.recv().is_err())).unwrap();
    let planned = plan();
    let mut attaching = Box::pin(attacher.attach(&planned, &world.container));
    let impatient = tokio::time::timeout(std::time::Duration::from_millis(20), &mut attaching).await;
    assert!(impatient.is_err());
    drop(attaching);
    drop(key);
    // After it in the queue of the only helper.
    let found = attacher.netlink().links().await.unwrap();
    assert!(found.iter().all(|link| !link.name.starts_with("veth-77")), "{found:?}");
    assert_eq!(world.traces(), before);
    // And who waits gets it.
    attacher.attach(&planned, &world.container).await.unwrap();
    assert_ne!(world.traces(), before);
}
