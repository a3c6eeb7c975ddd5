//! What it costs to attach a container to the network of the host, and to detach it, beside containers that are there.
//!
//! ```text
//! cargo bench -p ginnel-benches --bench attach                    0, 100 and 1,000 containers present
//! cargo bench -p ginnel-benches --bench attach -- 100             that many
//! cargo bench -p ginnel-benches --bench attach -- one-bridge      all of them on one bridge
//! ```
//!
//! Each container is a network namespace with an address of both families at the bridge of its service (`service`), or there
//! and on the global overlay (`both`). A service has as many containers as its /26 has room for, 60, so a thousand of them
//! are at 17 bridges; the kernel's own work grows with the ports of a bridge, which `one-bridge` shows.
//!
//! Times are of the whole call as the daemon makes it: plan checked, links made, addressed, routed and up, the answer back on
//! the runtime; a detach ends when the links are gone. Leases, firewall and names are not part of it. Runs in namespaces of
//! its own, as root.

use ginnel_control::attach::wiring::{GlobalLink, ServiceLink, container, mac};
use ginnel_control::attach::{Attacher, BridgePlan, Plan};
use ginnel_control::host::{Mark, Netns, PortFlags};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Calls measured one after the other.
const ALONE: usize = 200;

/// Calls at once, and how often.
const AT_ONCE: usize = 16;
const ROUNDS: usize = 16;

/// What the kernel is given to be done with what was set up: timers of IPv6 run for some seconds on new links.
const SETTLING: Duration = Duration::from_secs(5);

/// Containers of a service: the addresses of a /26 less those of the network, the gateway and the broadcast, less one.
const SERVICE: usize = 60;

/// Where containers find their bridge.
#[derive(Clone, Copy)]
struct Layout {
    /// Ports of a bridge at most. The kernel has room for 1,023.
    ports: usize,
}

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let asked: Vec<usize> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    let one_bridge = arguments.iter().any(|argument| argument == "one-bridge");
    let layout = Layout { ports: if one_bridge { 1_023 } else { SERVICE } };
    let present = if asked.is_empty() { vec![0, 100, 1_000] } else { asked };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime starts");
    println!("{:>8}  {:8} {:8} {:>8}  {:>9} {:>9} {:>9}", "present", "links", "call", "at once", "p50", "p99", "max");
    for present in present {
        runtime.block_on(run(layout, present));
    }
}

async fn run(layout: Layout, present: usize) {
    let host = Netns::create().expect("run as root, or in a user namespace");
    let attacher = Attacher::open_in(&host, Mark::new("bench").expect("a name")).expect("sockets open");
    set_up(&attacher).await;
    for bridge in 0..=(present + AT_ONCE) / layout.ports {
        let plan = layout.bridge(bridge);
        attacher.ensure_bridge(&plan).await.expect("the bridge is made");
    }
    let mut there = Vec::new();
    for number in 0..present {
        let netns = Netns::create().expect("namespaces are left");
        attacher.attach(&layout.plan(number, false), &netns).await.expect("it attaches");
        there.push(netns);
    }
    if present > 0 {
        tokio::time::sleep(SETTLING).await;
    }
    for both in [false, true] {
        let (mut attach, mut detach) = (Vec::new(), Vec::new());
        let netns = Netns::create().expect("namespaces are left");
        for _ in 0..ALONE {
            one(&attacher, &layout.plan(present, both), &netns, &mut attach, &mut detach).await;
        }
        report(present, both, "attach", 1, attach);
        report(present, both, "detach", 1, detach);
        at_once(layout, &attacher, present, both).await;
    }
}

/// A stand-in for the tunnel, with the node's addresses.
async fn set_up(attacher: &Attacher) {
    let netlink = attacher.netlink();
    let tunnel = netlink.create_veth("tunnel", "far", None).await.expect("the stand-in is made");
    netlink.set_up(tunnel, true).await.expect("it comes up");
    for address in node() {
        netlink.add_address(tunnel, address.into()).await.expect("it is addressed");
    }
}

async fn one(attacher: &Attacher, plan: &Plan, netns: &Netns, attach: &mut Vec<Duration>, detach: &mut Vec<Duration>) {
    let start = Instant::now();
    attacher.attach(plan, netns).await.expect("it attaches");
    attach.push(start.elapsed());
    let names: Vec<_> = plan.links.iter().map(|link| link.host_name.clone()).collect();
    let start = Instant::now();
    attacher.detach(&plan.owner, &names).await.expect("it detaches");
    detach.push(start.elapsed());
    attacher.forget_rules(netns).await.expect("rules go");
}

async fn at_once(layout: Layout, attacher: &Attacher, present: usize, both: bool) {
    let namespaces: Vec<_> = (0..AT_ONCE).map(|_| Netns::create().expect("namespaces are left")).collect();
    let (mut attach, mut detach) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let calls = namespaces.iter().enumerate().map(|(number, netns)| {
            let (attacher, plan, netns) = (attacher.clone(), layout.plan(present + number, both), netns.clone());
            async move { attacher.attach(&plan, &netns).await.map(drop).expect("it attaches") }
        });
        attach.extend(timed(start, calls).await);
        let start = Instant::now();
        let calls = (0..AT_ONCE).map(|number| {
            let (attacher, plan) = (attacher.clone(), layout.plan(present + number, both));
            let names: Vec<_> = plan.links.iter().map(|link| link.host_name.clone()).collect();
            async move { attacher.detach(&plan.owner, &names).await.map(drop).expect("it detaches") }
        });
        detach.extend(timed(start, calls).await);
        for netns in &namespaces {
            attacher.forget_rules(netns).await.expect("rules go");
        }
    }
    report(present, both, "attach", AT_ONCE, attach);
    report(present, both, "detach", AT_ONCE, detach);
}

/// How long each of the calls took, all started at once.
async fn timed<F: Future<Output = ()> + Send + 'static>(
    start: Instant,
    calls: impl Iterator<Item = F>,
) -> Vec<Duration> {
    let running: Vec<_> = calls
        .map(|call| {
            tokio::spawn(async move {
                call.await;
                start.elapsed()
            })
        })
        .collect();
    let mut times = Vec::new();
    for running in running {
        times.push(running.await.expect("the call ends"));
    }
    times
}

fn report(present: usize, both: bool, call: &str, at_once: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent).div_ceil(100).saturating_sub(1)];
    let show = |time: Duration| format!("{:.2} ms", time.as_secs_f64() * 1e3);
    let links = if both { "both" } else { "service" };
    let [p50, p99, max] = [50, 99, 100].map(|percent| show(at(percent)));
    println!("{present:>8}  {links:8} {call:8} {at_once:>8}  {p50:>9} {p99:>9} {max:>9}");
}

impl Layout {
    fn bridge(self, number: usize) -> BridgePlan {
        let addresses = self.addresses(number, 1);
        let mac = mac(addresses.iter().map(IpNet::addr));
        BridgePlan { name: format!("bench{number}"), object: format!("bench{number}"), mtu: 1420, mac, addresses }
    }

    fn plan(self, number: usize, both: bool) -> Plan {
        let (bridge, place) = (number / self.ports, number % self.ports);
        let service = ServiceLink {
            host_name: format!("veth-{number}-s"),
            bridge: format!("bench{bridge}"),
            flags: PortFlags::default(),
            addresses: self.addresses(bridge, 2 + place),
            gateways: self.addresses(bridge, 1).iter().map(IpNet::addr).collect(),
            mtu: 1420,
        };
        let number = u16::try_from(number).expect("thousands at most");
        let global = GlobalLink {
            host_name: format!("veth-{number}-g"),
            addresses: vec![
                Ipv4Addr::from(0x0ac9_0002 + u32::from(number)).into(),
                Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 1, number).into(),
            ],
            node: node().to_vec(),
            node_is_up: true,
            cluster: vec![IpNet::new_assert(node()[0], 8), IpNet::new_assert(node()[1], 16)],
            mtu: 1420,
        };
        container(format!("container-{number}"), Some(&service), both.then_some(&global))
    }

    /// Of the member `place` of a bridge's network.
    fn addresses(self, bridge: usize, place: usize) -> Vec<IpNet> {
        let [bridge, place] = [bridge, place].map(|number| u16::try_from(number).expect("thousands at most"));
        let v4 = Ipv4Addr::from(0x0ac8_0000 + (u32::from(bridge) << 10) + u32::from(place));
        let v6 = Ipv6Addr::new(0xfd00, bridge, 0, 0, 0, 0, 0, place);
        vec![IpNet::new_assert(v4.into(), 22), IpNet::new_assert(v6.into(), 112)]
    }
}

fn node() -> [IpAddr; 2] {
    [Ipv4Addr::new(10, 201, 0, 1).into(), Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1).into()]
}
