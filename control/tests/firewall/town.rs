//! A node with its surroundings, each in a network namespace of its own.
//!
//! ```text
//!   a1  b1  x1  n1  m1        a2  x2  n2         r7  r0   containers; their networks: a and b 7, x 9, r7 7, the others none
//!    │   │   │   │   │         │   │   │          │   │    eth0
//!   ═╧═══╧═══╧═══╧═══╧═ br-b  ═╧═══╧═══╧═ br-c    │   │    bridges of two services; routed veths
//!            └───────┬─────────────┘              │   │
//!                   node ─────────────────────────┴───┘
//!          under0 │     │ tun-g
//!               world  far                                  the internet side; another node with its containers
//! ```
//!
//! The tunnel is a cable here, with the other end as gateway so that nobody asks for addresses: the firewall knows
//! interfaces by name and role, not by kind.

use ginnel_control::firewall::{
    Change, Container, ContainerLink, Desired, DropReason, Firewall, Listen, NetworkId, Protocol, Role,
};
use ginnel_control::host::sysctl::{Ledger, Purpose, settle};
use ginnel_control::host::{LinkChange, Netns};
use ipnet::IpNet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

/// For anything that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where somebody is.
#[derive(Clone, Debug)]
pub struct Place {
    pub name: &'static str,
    pub netns: Netns,
    pub v4: IpAddr,
    pub v6: IpAddr,
    /// Its isolation network, if it is a container or a member.
    pub network: Option<NetworkId>,
    pub kind: Kind,
}

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A container of the node.
    Container,
    /// A container of the other node.
    Remote,
    /// The node, by its overlay addresses.
    Node,
    /// Outside.
    World,
}

impl Place {
    /// Its address of a family.
    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.v6 } else { self.v4 }
    }

    /// Runs `ip` and the like in its namespace; it has to succeed.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        run(&self.netns, line)
    }
}

/// Runs a line of a shell in a namespace; it has to succeed.
#[track_caller]
pub fn run(netns: &Netns, line: &str) -> String {
    let output = netns.run_in(|| Command::new("sh").args(["-ec", line]).output()).unwrap().unwrap();
    assert!(output.status.success(), "{line}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn network(number: u32) -> NetworkId {
    NetworkId::new(number).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub const BRIDGE_B: &str = "br-b";
pub const BRIDGE_C: &str = "br-c";
pub const TUNNEL: &str = "tun-g";
pub const UPLINK: &str = "under0";
pub const PREFIX_V4: &str = "10.200.0.0/16";
pub const PREFIX_V6: &str = "fd00:200::/32";

/// The whole of it. Dropping it removes everything.
pub struct Town {
    pub node: Place,
    pub world: Place,
    pub far: Netns,
    pub places: Vec<Place>,
    pub firewall: Firewall,
}

impl Town {
    /// Builds the node with its surroundings but no containers, and starts the firewall with what it is to know.
    pub fn build() -> Self {
        let node = Place {
            name: "node",
            netns: Netns::create().unwrap(),
            v4: ip("10.200.1.1"),
            v6: ip("fd00:200:1::1"),
            network: None,
            kind: Kind::Node,
        };
        let world = Place {
            name: "world",
            netns: Netns::create().unwrap(),
            v4: ip("192.0.2.2"),
            v6: ip("2001:db8::2"),
            network: None,
            kind: Kind::World,
        };
        let far = Netns::create().unwrap();
        for netns in [&node.netns, &world.netns, &far] {
            netns.bring_lo_up().unwrap();
        }
        cable(
            &node.netns,
            UPLINK,
            &["192.0.2.1/24", "2001:db8::1/64"],
            &world.netns,
            UPLINK,
            &["192.0.2.2/24", "2001:db8::2/64"],
        );
        cable(
            &node.netns,
            TUNNEL,
            &["10.200.1.1/32", "fd00:200:1::1/128"],
            &far,
            TUNNEL,
            &["10.200.2.1/32", "fd00:200:2::1/128"],
        );
        run(
            &node.netns,
            &format!(
                "ip route add {PREFIX_V4} via 10.200.2.1 dev {TUNNEL} onlink src 10.200.1.1
                 ip -6 route add {PREFIX_V6} via fd00:200:2::1 dev {TUNNEL} onlink src fd00:200:1::1
                 ip route add default via 192.0.2.2
                 ip -6 route add default via 2001:db8::2"
            ),
        );
        run(
            &far,
            &format!(
                "ip route add {PREFIX_V4} via 10.200.1.1 dev {TUNNEL} onlink src 10.200.2.1
                 ip -6 route add {PREFIX_V6} via fd00:200:1::1 dev {TUNNEL} onlink src fd00:200:2::1"
            ),
        );
        for (bridge, v4, v6) in
            [(BRIDGE_B, "10.200.16.1/24", "fd00:200:16::1/64"), (BRIDGE_C, "10.200.32.1/24", "fd00:200:32::1/64")]
        {
            run(
                &node.netns,
                &format!(
                    "ip link add {bridge} type bridge
                     ip addr add {v4} dev {bridge}
                     ip -6 addr add {v6} dev {bridge} nodad
                     ip link set {bridge} up"
                ),
            );
        }
        let switch = || {
            let mut ledger = Ledger::default();
            ledger
                .forward_v4()
                .and_then(|_| ledger.forward_v6(|device| [TUNNEL, BRIDGE_B, BRIDGE_C].contains(&device)))?;
            ledger.write()?;
            settle(TUNNEL, Purpose::Tunnel)?;
            settle(BRIDGE_B, Purpose::Bridge)?;
            settle(BRIDGE_C, Purpose::Bridge)
        };
        node.netns.run_in(switch).unwrap().unwrap();
        let firewall = node.netns.run_in(|| Firewall::start("town").unwrap()).unwrap();
        let town = Self { node, world, far, places: Vec::new(), firewall };
        assert!(town.firewall.apply(&town.desired()).unwrap());
        town
    }

    /// What the firewall knows from the beginning.
    pub fn desired(&self) -> Desired {
        let interfaces = [(TUNNEL, Role::Tunnel), (BRIDGE_B, Role::Bridge), (BRIDGE_C, Role::Bridge)];
        Desired {
            prefixes: [PREFIX_V4, PREFIX_V6].map(|prefix| prefix.parse().unwrap()).into(),
            interfaces: interfaces.map(|(name, role)| (name.to_owned(), role)).into(),
            ..Desired::default()
        }
    }

    /// All places of the figure.
    pub fn populated() -> Self {
        let mut town = Self::build();
        for (name, bridge, last, network) in [
            ("a1", BRIDGE_B, 11, Some(7)),
            ("x1", BRIDGE_B, 12, Some(9)),
            ("n1", BRIDGE_B, 13, None),
            ("b1", BRIDGE_B, 14, Some(7)),
            ("m1", BRIDGE_B, 15, None),
            ("a2", BRIDGE_C, 11, Some(7)),
            ("x2", BRIDGE_C, 12, Some(9)),
            ("n2", BRIDGE_C, 13, None),
        ] {
            town.attach(name, bridge, last, network);
        }
        town.attach_routed("r7", 17, Some(7));
        town.attach_routed("r0", 10, None);
        town.add_remote("f7", 77, Some(7));
        town.add_remote("f9", 99, Some(9));
        town.add_remote("f0", 50, None);
        let member = |prefix: &str, number| Change::AddMember(prefix.parse().unwrap(), network(number));
        // One by single addresses, one by ranges.
        town.firewall
            .change([
                member("10.200.2.77/32", 7),
                member("fd00:200:2::77/128", 7),
                member("10.200.2.96/28", 9),
                member("fd00:200:2::90/124", 9),
            ])
            .unwrap();
        town.places.extend([town.node.clone(), town.world.clone()]);
        town
    }

    /// A container at a bridge. Fenced first, attached then.
    pub fn attach(&mut self, name: &'static str, bridge: &str, last: u8, number: Option<u32>) -> Place {
        let third = if bridge == BRIDGE_B { 16 } else { 32 };
        let (place, v4, v6) = container(name, third, last, number);
        let veth = format!("veth-{name}");
        let link = ContainerLink::Port { veth: veth.clone(), bridge: bridge.into() };
        self.fence(&place, link);
        self.node
            .netns
            .configure(async |netlink| {
                let controller = Some(netlink.link(bridge).await?.index);
                let port = netlink.create_veth(&veth, "eth0", Some(place.netns.as_fd())).await?;
                let change = LinkChange { up: Some(true), controller, ..LinkChange::default() };
                netlink.change_link(port, &change).await
            })
            .unwrap();
        self.node.run(&format!("ip link set {veth} type bridge_slave hairpin on"));
        self.node.netns.run_in(|| settle(&veth, Purpose::Port).unwrap()).unwrap();
        place.run(&format!(
            "ip addr add {v4}/24 dev eth0
             ip -6 addr add {v6}/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 10.200.{third}.1
             ip -6 route add default via fd00:200:{third}::1"
        ));
        self.places.push(place.clone());
        place
    }

    /// A container with an interface of its own, to which a host route leads.
    pub fn attach_routed(&mut self, name: &'static str, last: u8, number: Option<u32>) -> Place {
        let (place, v4, v6) = container(name, 1, last, number);
        let veth = format!("veth-{name}");
        self.fence(&place, ContainerLink::Routed { veth: veth.clone() });
        let addresses = [format!("{v4}/32"), format!("{v6}/128")];
        cable(&self.node.netns, &veth, &[], &place.netns, "eth0", &addresses.each_ref().map(String::as_str));
        self.node.netns.run_in(|| settle(&veth, Purpose::RoutedVeth).unwrap()).unwrap();
        self.node.run(&format!(
            "ip route add {v4}/32 dev {veth} src 10.200.1.1
             ip -6 route add {v6}/128 dev {veth} src fd00:200:1::1
             ip -6 addr add fe80::1/64 dev {veth} nodad"
        ));
        place.run(
            "ip route add 10.200.1.1/32 dev eth0
             ip route add default via 10.200.1.1
             ip -6 route add default via fe80::1 dev eth0",
        );
        self.places.push(place.clone());
        place
    }

    /// A container of the other node: an address of that namespace.
    pub fn add_remote(&mut self, name: &'static str, last: u8, number: Option<u32>) -> Place {
        let (v4, v6) = (format!("10.200.2.{last}"), format!("fd00:200:2::{last}"));
        run(&self.far, &format!("ip addr add {v4}/32 dev lo; ip -6 addr add {v6}/128 dev lo nodad"));
        let place = Place {
            name,
            netns: self.far.clone(),
            v4: ip(&v4),
            v6: ip(&v6),
            network: number.map(network),
            kind: Kind::Remote,
        };
        self.places.push(place.clone());
        place
    }

    pub fn fence(&self, place: &Place, link: ContainerLink) {
        let container = Container { links: vec![link], addresses: vec![place.v4, place.v6], network: place.network };
        self.firewall.change([Change::AddContainer(place.name.into(), container)]).unwrap();
    }

    /// The place called so.
    #[track_caller]
    pub fn place(&self, name: &str) -> &Place {
        self.places.iter().find(|place| place.name == name).unwrap()
    }

    /// How many packets were dropped for a reason.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.firewall.drops().unwrap()[&reason]
    }

    /// Whether packets between ports of bridges pass the chains for routed packets as well.
    pub fn call_iptables(&self, on: bool) -> bool {
        let value = u8::from(on);
        let line = format!(
            "test -d /proc/sys/net/bridge || exit 3
             sysctl -qw net.bridge.bridge-nf-call-iptables={value} net.bridge.bridge-nf-call-ip6tables={value}"
        );
        let status = self.node.netns.run_in(|| Command::new("sh").args(["-ec", &line]).status()).unwrap().unwrap();
        if !status.success() && on {
            println!("skipped: br_netfilter is not in this kernel");
        }
        status.success() || !on
    }
}

/// A container before it has a link, and its addresses as text.
fn container(name: &'static str, third: u8, last: u8, number: Option<u32>) -> (Place, String, String) {
    let (v4, v6) = (format!("10.200.{third}.{last}"), format!("fd00:200:{third}::{last}"));
    let netns = Netns::create().unwrap();
    netns.bring_lo_up().unwrap();
    let network = number.map(network);
    (Place { name, netns, v4: ip(&v4), v6: ip(&v6), network, kind: Kind::Container }, v4, v6)
}

/// A port of the host.
pub fn listen(protocol: Protocol, socket: &str) -> Listen {
    Listen { protocol, socket: socket.parse().unwrap() }
}

/// Lays a cable between two namespaces and gives its ends addresses.
pub fn cable(
    near: &Netns,
    near_name: &str,
    near_addresses: &[&str],
    far: &Netns,
    far_name: &str,
    far_addresses: &[&str],
) {
    near.configure(async |netlink| netlink.create_veth(near_name, far_name, Some(far.as_fd())).await).unwrap();
    address(near, near_name, near_addresses);
    address(far, far_name, far_addresses);
}

fn address(netns: &Netns, name: &str, addresses: &[&str]) {
    let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
    netns
        .configure(async |netlink| {
            let index = netlink.link(name).await?.index;
            netlink.set_up(index, true).await?;
            for address in addresses {
                netlink.add_address(index, address).await?;
            }
            Ok(())
        })
        .unwrap();
}
