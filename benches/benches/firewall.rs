//! The firewall's changes: an attach, a detach, a published port, the whole, and a look that finds all well, with 0, 100,
//! 1,000 and 10,000 containers there.
//!
//! What the numbers mean, per call, with everything that a caller waits for:
//! - `container/add`, `container/remove`: one container with one address at a bridge; `member/…`: the same in an isolation
//!   network that has members already. Each has an address of its own, as leases that rest before they are given out
//!   again see to; the firewall's own thread ends connections meanwhile.
//! - `port/publish`, `port/unpublish`: one TCP port, beside as many others.
//! - `apply/build`: the whole, where there was nothing. `apply/unchanged`: the whole again, which sends nothing.
//! - `apply/change`: one container more, told as a whole.
//!
//! Run as root with `cargo bench -p ginnel-benches --bench firewall`; everything happens in a network namespace of its own.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ginnel_control::firewall::{
    Change, Container, ContainerLink, Desired, Firewall, Listen, NetworkId, Protocol, Role,
};
use ginnel_control::host::Netns;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

const SIZES: [u32; 4] = [0, 100, 1_000, 10_000];

/// Outside of what is there.
const NEW: u32 = 500_000;

/// Until an address is used again.
const TURNS: u32 = 400_000;

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = changes, whole
}
criterion_main!(benches);

fn changes(criterion: &mut Criterion) {
    for size in SIZES {
        for (name, isolated) in [("container", false), ("member", true)] {
            let firewall = filled(size, isolated);
            let add = |turn| Change::AddContainer("new".into(), container(NEW + turn, isolated));
            let remove = |_| Change::RemoveContainer("new".into());
            pair(criterion, &firewall, name, ["add", "remove"], size, add, remove);
        }
        let firewall = filled(size, false);
        let publish = |_| Change::Publish(listen(60_000), SocketAddr::from(([10, 128, 0, 0], 80)));
        pair(criterion, &firewall, "port", ["publish", "unpublish"], size, publish, |_| {
            Change::Unpublish(listen(60_000))
        });
    }
}

/// Measures one change and, apart, its inverse.
fn pair(
    criterion: &mut Criterion,
    firewall: &Firewall,
    group: &str,
    names: [&str; 2],
    size: u32,
    there: impl Fn(u32) -> Change,
    back: impl Fn(u32) -> Change,
) {
    let mut group = criterion.benchmark_group(format!("firewall/{group}"));
    let mut turn = 0;
    for (first, name) in names.into_iter().enumerate() {
        group.bench_function(BenchmarkId::new(name, size), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut times = [Duration::ZERO; 2];
                for _ in 0..iterations {
                    turn = (turn + 1) % TURNS;
                    for (time, change) in times.iter_mut().zip([there(turn), back(turn)]) {
                        let start = Instant::now();
                        firewall.change([change]).expect("the kernel takes it");
                        *time += start.elapsed();
                    }
                }
                times[first]
            });
        });
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("firewall/apply");
    for size in SIZES {
        let netns = Netns::create().expect("run as root");
        let start = || netns.run_in(|| Firewall::start("bench")).expect("a namespace").expect("netfilter");
        let desired = desired(size, true);
        group.bench_function(BenchmarkId::new("build", size), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut time = Duration::ZERO;
                for _ in 0..iterations {
                    let firewall = start();
                    let begin = Instant::now();
                    assert!(firewall.apply(&desired).expect("the kernel takes it"));
                    time += begin.elapsed();
                    firewall.stop().expect("the kernel takes it");
                }
                time
            });
        });
        let firewall = start();
        firewall.apply(&desired).expect("the kernel takes it");
        group.bench_function(BenchmarkId::new("unchanged", size), |bencher| {
            bencher.iter(|| assert!(!firewall.apply(&desired).expect("the kernel can be asked")));
        });
        let mut more = desired.clone();
        more.containers.insert("new".into(), container(NEW, true));
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("change", size), |bencher| {
            bencher.iter(|| {
                turn += 1;
                firewall.apply(if turn % 2 == 0 { &desired } else { &more }).expect("the kernel takes it")
            });
        });
    }
    group.finish();
}

fn filled(size: u32, isolated: bool) -> Firewall {
    let netns = Netns::create().expect("run as root");
    let firewall = netns.run_in(|| Firewall::start("bench")).expect("a namespace").expect("netfilter");
    firewall.apply(&desired(size, isolated)).expect("the kernel takes it");
    firewall
}

fn desired(size: u32, isolated: bool) -> Desired {
    let mut desired = Desired::default();
    desired.prefixes.insert("10.128.0.0/9".parse().expect("a prefix"));
    desired.interfaces.insert("br0".into(), Role::Bridge);
    // One more is there already, so that the network is.
    for number in 0..=size {
        desired.containers.insert(format!("c{number}"), container(number, isolated));
        let target = SocketAddr::new(address(number), 80);
        desired.publications.insert(listen(u16::try_from(1_000 + number).expect("a port")), target);
    }
    desired
}

fn address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + number))
}

fn container(number: u32, isolated: bool) -> Container {
    Container {
        links: vec![ContainerLink::Port { veth: format!("veth-{number:06}"), bridge: "br0".into() }],
        addresses: vec![address(number)],
        network: NetworkId::new(u32::from(isolated) * 7),
    }
}

fn listen(port: u16) -> Listen {
    Listen { protocol: Protocol::Tcp, socket: SocketAddr::from(([0; 4], port)) }
}
