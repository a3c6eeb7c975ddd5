//! Sizes: what the path to a peer leaves, set on every link of a network, and found out by those who were told too much.

use crate::world::{Host, block_on, bridge_plan, global, ip, net, owner, reaches_both_ways, service};
use ginnel_backends::device::{Device, DeviceOptions};
use ginnel_control::attach::mtu::{Path, network};
use ginnel_control::attach::wiring::container;
use ginnel_control::attach::{Difference, Side};
use ginnel_control::host::{HostError, LinkChange, Netlink, Netns, RouteInfo};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::traffic::{Amount, End, TcpPlan, tcp};
use ginnel_control::lab::{Lab, LabError, LabOptions, rights_or_skip, user_ns};
use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PeerUpdate, PrivateKeyUpdate};
use ginnel_engine::key::PrivateKey;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const ARRIVES: Duration = Duration::from_secs(20);

/// Two sockets that are connected to each other; the near one sends nothing larger than the path it knows.
fn wire(near: &End, far: &End) -> (UdpSocket, UdpSocket) {
    let bind = |end: &End| end.netns.run_in(|| UdpSocket::bind(SocketAddr::new(end.ip, 0))).unwrap().unwrap();
    let (near, far) = (bind(near), bind(far));
    near.connect(far.local_addr().unwrap()).unwrap();
    far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    if near.local_addr().unwrap().is_ipv6() {
        setsockopt(&near, sockopt::Ipv6DontFrag, &true).unwrap();
    }
    (near, far)
}

/// Payload of a datagram of so many bytes with its headers.
fn payload(bytes: u32, v6: bool) -> Vec<u8> {
    vec![0x5a; bytes as usize - if v6 { 48 } else { 28 }]
}

/// The size of the path as the near end knows it: IPv4 says so, IPv6 refuses what is larger.
fn knows_path(near: &UdpSocket, mtu: u32) -> bool {
    if near.local_addr().unwrap().is_ipv4() {
        return getsockopt(near, sockopt::IpMtu).unwrap() == i32::try_from(mtu).unwrap();
    }
    let refused = |bytes| match near.send(&payload(bytes, true)) {
        Ok(_) => false,
        Err(error) => error.raw_os_error() == Some(Errno::EMSGSIZE as i32),
    };
    refused(mtu + 1) && !refused(mtu)
}

#[track_caller]
fn arrives(near: &UdpSocket, far: &UdpSocket, payload: &[u8]) {
    let mut buffer = vec![0; 65_536];
    let start = Instant::now();
    while start.elapsed() < ARRIVES {
        // Refused where the answer to an earlier one came late.
        let _ = near.send(payload);
        if let Ok(len) = far.recv(&mut buffer)
            && buffer[..len] == *payload
        {
            return;
        }
    }
    panic!("{} bytes do not arrive", payload.len());
}

/// Packets that a namespace had to fragment, both families.
fn fragmented(netns: &Netns) -> u64 {
    let read =
        |name: &str| netns.run_in(|| fs::read_to_string(format!("/proc/thread-self/net/{name}"))).unwrap().unwrap();
    let (v4, v6) = (read("snmp"), read("snmp6"));
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let v4 = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "FragCreates").unwrap().1;
    let v6 = v6.lines().find_map(|line| line.strip_prefix("Ip6FragCreates")).unwrap().trim();
    v4.parse::<u64>().unwrap() + v6.parse::<u64>().unwrap()
}

/// Node `number` of a pair: the network of its containers, and itself.
fn networks(number: usize) -> [String; 2] {
    [format!("10.200.{number}.0/26"), format!("fd00:7:{number}::/120")]
}

fn open_tunnel(node: &Host, mtu: u32, key: &PrivateKey, port: u16) -> Device {
    let options = DeviceOptions { mtu: u16::try_from(mtu).unwrap(), workers: 1, ..DeviceOptions::new("tunnel") };
    let private_key = Some(PrivateKeyUpdate::Set(key.clone()));
    let update = DeviceUpdate { private_key, listen_port: Some(port), ..DeviceUpdate::default() };
    let open = || Device::open(&options).and_then(|device| device.apply(update).map(|()| device));
    node.netns.run_in(open).unwrap().unwrap()
}

#[test]
fn what_a_path_leaves_crosses_it_whole() {
    if !rights_or_skip() {
        return;
    }
    if let Err(error) = user_ns::check_tun() {
        return println!("skipped: {error}");
    }
    for (path, v6, expected) in [(1500, false, 1440), (1500, true, 1420), (1400, true, 1320), (9000, false, 8940)] {
        let lab = match Lab::build(LabOptions { nodes: 2, mtu: path }) {
            Err(LabError::Host(HostError::Unsupported { what })) => {
                return println!("skipped: {what}: not in this kernel");
            }
            other => other.unwrap(),
        };
        let hosts = [0, 1].map(|node| Host::beside(&lab.nodes()[node].netns, "a"));
        hosts.iter().for_each(Host::forward_strictly);
        let containers = [Container::start().unwrap(), Container::start().unwrap()];
        let keys = [PrivateKey::new([7; 32]), PrivateKey::new([9; 32])];
        let endpoint = |node: usize| SocketAddr::new(lab.nodes()[node].end(v6).ip, 51_420);
        let devices = block_on(async {
            let mut devices = Vec::new();
            for (number, host) in hosts.iter().enumerate() {
                let netlink = host.attacher.netlink();
                let (found, device) = netlink.path_mtu(endpoint(1 - number).ip()).await.unwrap();
                assert_eq!((found, netlink.link_by_index(device).await.unwrap().mtu), (Path::new(path, v6), path));
                let mtu = network([found], true);
                assert_eq!(mtu, expected);
                devices.push(open_tunnel(host, mtu, &keys[number], 51_420));
                let tunnel = netlink.link("tunnel").await.unwrap().index;
                let change = LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() };
                netlink.change_link(tunnel, &change).await.unwrap();
                for prefix in networks(1 - number) {
                    netlink.add_route(&RouteInfo::new(net(&prefix), tunnel)).await.unwrap();
                }
                let gateways = [format!("10.200.{number}.1"), format!("fd00:7:{number}::1")];
                host.bridge("br0", mtu, &[&format!("{}/26", gateways[0]), &format!("{}/120", gateways[1])]).await;
                let own = [format!("10.200.{number}.2/26"), format!("fd00:7:{number}::2/120")];
                let gateways = [&*gateways[0], &*gateways[1]];
                let service = service(&containers[number], "br0", mtu, &[&own[0], &own[1]], &gateways);
                let plan = container(owner(&containers[number]), Some(&service), None);
                let attached = host.attach(&containers[number], &plan).await;
                let bridge = netlink.link("br0").await.unwrap().mtu;
                let outer = netlink.link_by_index(attached.links[0].host_index).await.unwrap().mtu;
                let look = async |inside: &Netlink| inside.link("eth0").await;
                let inner = containers[number].netns().configure(look).unwrap().mtu;
                assert_eq!([bridge, outer, inner], [mtu; 3]);
            }
            devices
        });
        for (number, device) in devices.iter().enumerate() {
            let mut peer = PeerUpdate::new(keys[1 - number].public());
            peer.endpoint = Some(endpoint(1 - number));
            peer.allowed_ips = networks(1 - number)
                .iter()
                .map(|prefix| AllowedIpUpdate { prefix: net(prefix), remove: false })
                .collect();
            device.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() }).unwrap();
        }
        let before: u64 = hosts.iter().map(|host| fragmented(&host.netns)).sum();
        for inner_v6 in [false, true] {
            let at = |number: usize| {
                ip(&if inner_v6 { format!("fd00:7:{number}::2") } else { format!("10.200.{number}.2") })
            };
            let (one, two) = (containers[0].end(at(0)), containers[1].end(at(1)));
            reaches_both_ways(&one, &two);
            for (from, to) in [(&one, &two), (&two, &one)] {
                let (near, far) = wire(from, to);
                arrives(&near, &far, &payload(expected, inner_v6));
                assert!(knows_path(&near, expected), "{path} {v6} {inner_v6}");
                let plan = TcpPlan { streams: 2, amount: Amount::Bytes(1_000_001), verify: true };
                assert_eq!(tcp(from, to, &plan).unwrap().bytes, 2_000_002);
            }
        }
        let after: u64 = hosts.iter().map(|host| fragmented(&host.netns)).sum();
        assert_eq!(after, before, "{path} {v6}");
    }
}

#[test]
fn whoever_sends_too_much_is_told_and_sends_less() {
    if !rights_or_skip() {
        return;
    }
    // What the path leaves was this when the network got its size, and then became less: a jumbo path that is one of 1500
    // bytes, one of 1500 that is one of 1400, one of 1400 that is as small as IPv6 allows.
    for (network, path) in [(8940, 1440), (1420, 1320), (1320, 1280)] {
        told(network, path);
    }
}

/// Containers of two hosts have links of size `network`; what is between the hosts takes `path`.
fn told(network: u32, path: u32) {
    let hosts = [Host::new("a"), Host::new("a")];
    hosts.iter().for_each(Host::forward_strictly);
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    block_on(async {
        let far = hosts[1].netns.as_fd();
        hosts[0].attacher.netlink().create_veth("tunnel", "tunnel", Some(far)).await.unwrap();
        for (number, host) in hosts.iter().enumerate() {
            let netlink = host.attacher.netlink();
            let tunnel = netlink.link("tunnel").await.unwrap().index;
            let change = LinkChange { up: Some(true), mtu: Some(path), ..LinkChange::default() };
            netlink.change_link(tunnel, &change).await.unwrap();
            for (v4, suffix) in [(true, "/24"), (false, "/64")] {
                let at = |node: usize| if v4 { format!("10.99.0.{}", node + 1) } else { format!("fd99::{}", node + 1) };
                netlink.add_address(tunnel, net(&format!("{}{suffix}", at(number)))).await.unwrap();
                let behind = net(&networks(1 - number)[usize::from(!v4)]);
                let route = RouteInfo { gateway: Some(ip(&at(1 - number))), ..RouteInfo::new(behind, tunnel) };
                netlink.add_route(&route).await.unwrap();
            }
            let gateways = [format!("10.200.{number}.1"), format!("fd00:7:{number}::1")];
            host.bridge("br0", network, &[&format!("{}/26", gateways[0]), &format!("{}/120", gateways[1])]).await;
            let own = [format!("10.200.{number}.2/26"), format!("fd00:7:{number}::2/120")];
            let gateways = [&*gateways[0], &*gateways[1]];
            let service = service(&containers[number], "br0", network, &[&own[0], &own[1]], &gateways);
            host.attach(&containers[number], &container(owner(&containers[number]), Some(&service), None)).await;
        }
    });
    for v6 in [false, true] {
        let at = |number: usize| ip(&if v6 { format!("fd00:7:{number}::2") } else { format!("10.200.{number}.2") });
        let (one, two) = (containers[0].end(at(0)), containers[1].end(at(1)));
        reaches_both_ways(&one, &two);
        let (near, far) = wire(&one, &two);
        let start = Instant::now();
        loop {
            // The answer that says so may be lost, or one too many for the rate the kernel allows.
            let _: io::Result<usize> = near.send(&payload(network, v6));
            if knows_path(&near, path) {
                break;
            }
            assert!(start.elapsed() < ARRIVES, "nobody told that {network} bytes are too much for {path}");
            std::thread::sleep(Duration::from_millis(100));
        }
        arrives(&near, &far, &payload(path, v6));
        let plan = TcpPlan { streams: 1, amount: Amount::Bytes(500_000), verify: true };
        assert_eq!(tcp(&one, &two, &plan).unwrap().bytes, 500_000);
    }
}

#[test]
fn a_network_without_ipv6_may_be_smaller_than_that_allows() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    host.forward_strictly();
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    let plan = |number: usize, mtu| {
        let own = format!("10.200.5.{}/26", number + 2);
        let mut service = service(&containers[number], "br0", mtu, &[&own], &["10.200.5.1"]);
        service.flags.hairpin = true;
        let mut global = global(&containers[number], &[&format!("10.200.1.{}", number + 2)], &["10.200.1.1"], &[]);
        global.mtu = mtu;
        container(owner(&containers[number]), Some(&service), Some(&global))
    };
    block_on(async {
        for (was, mtu) in [(0, 576), (576, 1279), (1279, 1280), (1280, 68), (68, 1500)] {
            host.bridge("br0", mtu, &["10.200.5.1/26"]).await;
            // In the place of the tunnel.
            host.bridge("node", mtu, &["10.200.1.1/28"]).await;
            for (number, container) in containers.iter().enumerate() {
                let attached = host.attach(container, &plan(number, mtu)).await;
                let changed = match was {
                    0 => vec![],
                    was => vec![Difference::Mtu(Side::Host, was), Difference::Mtu(Side::Container, was)],
                };
                assert!(attached.links.iter().all(|link| link.repaired == changed), "{mtu}: {attached:#?}");
            }
            for prefix in ["10.200.5.", "10.200.1."] {
                let [one, two] = [2, 3].map(|last| containers[last - 2].end(ip(&format!("{prefix}{last}"))));
                let (near, far) = wire(&one, &two);
                arrives(&near, &far, &payload(mtu, false));
                assert!(knows_path(&near, mtu));
            }
        }
    });
}

#[test]
fn a_network_that_changes_its_size_takes_its_links_along() {
    if !rights_or_skip() {
        return;
    }
    let host = Host::new("a");
    let containers = [Container::start().unwrap(), Container::start().unwrap()];
    let gateways = ["10.200.5.1/26", "fd00:5::1/120"];
    let plan = |number: usize, mtu| {
        let own = [format!("10.200.5.{}/26", number + 2), format!("fd00:5::{}/120", number + 2)];
        let gateways = ["10.200.5.1", "fd00:5::1"];
        let service = service(&containers[number], "br0", mtu, &[&own[0], &own[1]], &gateways);
        container(owner(&containers[number]), Some(&service), None)
    };
    block_on(async {
        host.bridge("br0", 1420, &gateways).await;
        for (number, container) in containers.iter().enumerate() {
            host.attach(container, &plan(number, 1420)).await;
        }
        for (was, mtu) in [(1420, 1300), (1300, 8920), (8920, 1500), (1500, 1420)] {
            assert!(host.attacher.ensure_bridge(&bridge_plan("br0", mtu, &gateways)).await.unwrap().repaired);
            for (number, container) in containers.iter().enumerate() {
                let attached = host.attach(container, &plan(number, mtu)).await;
                let changed = [Difference::Mtu(Side::Host, was), Difference::Mtu(Side::Container, was)];
                assert_eq!(attached.links[0].repaired, changed);
            }
            assert_eq!(host.attacher.netlink().link("br0").await.unwrap().mtu, mtu);
            for family in ["10.200.5.", "fd00:5::"] {
                let [one, two] = [0, 1].map(|number| containers[number].end(ip(&format!("{family}{}", number + 2))));
                let (near, far) = wire(&one, &two);
                arrives(&near, &far, &payload(mtu, one.ip.is_ipv6()));
                assert!(knows_path(&near, mtu));
            }
        }
        // A route may allow less than its link.
        let mut narrow = plan(0, 1420);
        narrow.links[0].routes.iter_mut().for_each(|route| route.mtu = Some(1300));
        host.attach(&containers[0], &narrow).await;
        for (own, beyond) in [("10.200.5.2", "10.9.9.9"), ("fd00:5::2", "fd09::9")] {
            let near = containers[0].end(ip(own));
            let socket = near.netns.run_in(|| UdpSocket::bind(SocketAddr::new(near.ip, 0))).unwrap().unwrap();
            socket.connect(SocketAddr::new(ip(beyond), 9)).unwrap();
            if near.ip.is_ipv6() {
                setsockopt(&socket, sockopt::Ipv6DontFrag, &true).unwrap();
            }
            assert!(knows_path(&socket, 1300));
        }
    });
}
