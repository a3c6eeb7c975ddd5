//! What is to be in the kernel according to the disk, what is there, and what others have there.

use crate::common::machine::ask_kernel;
use crate::model::operation::endpoint;
use ginnel_control::host::{LinkInfo, LinkKind};
use ginnel_control::ipc::wire::{AttachHandle, OverlayMode};
use ginnel_control::state::{
    Attachment, Bridge, GlobalOverlay, Identity, Peer, Scope, Service, Tables, Verdict, read_journal,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

const JOURNAL: &str = "/var/lib/zlayer/overlayd/journal";
const CLUSTER: &str = "10.200.0.0/16";
const MTU: u32 = 1420;

/// What the disk says. The file is whole, whenever the writer was killed.
pub fn journal() -> Tables {
    let reading = read_journal(&std::fs::read(JOURNAL).unwrap());
    assert_eq!(reading.verdict, Verdict::Sound);
    reading.tables
}

/// Links that are not the machine's own and not planted by the test.
pub fn links_of_ours() -> Vec<LinkInfo> {
    let links = ask_kernel(async |netlink| netlink.links().await);
    let ours = |name: &str| (name.starts_with("zl-") || name.starts_with("veth-")) && !PLANTED.contains(&name);
    links.into_iter().filter(|link| ours(&link.name)).collect()
}

/// A WireGuard device as its control socket shows it: port and peers with endpoint and prefixes.
#[derive(Debug, Default, PartialEq)]
struct Device {
    public_key: String,
    port: u16,
    peers: BTreeMap<String, (String, BTreeSet<IpNet>)>,
}

/// The kernel is exactly what the disk says.
#[track_caller]
pub fn check(tables: &Tables) {
    let mut bridges = BTreeMap::new();
    for bridge in tables.all::<Bridge>() {
        bridges.insert(bridge.bridge.clone(), IpNet::new(bridge.gateway, bridge.subnet.prefix_len()).unwrap());
    }
    let attachments: Vec<_> = tables.all::<Attachment>().collect();
    let mut devices: BTreeMap<String, (IpNet, Device, Option<IpNet>)> = BTreeMap::new();
    if let Some(global) = tables.find::<GlobalOverlay>("").filter(|global| global.up) {
        let first = global.slice.unwrap().hosts().next().unwrap();
        let key = std::fs::read_to_string("/var/lib/zlayer/overlayd/private.key").unwrap();
        let device = Device { public_key: public(key.trim()), port: global.port, peers: peers(tables, &Scope::Global) };
        devices.insert("zl-prod-0-g".into(), (IpNet::new(first, 16).unwrap(), device, None));
    }
    for service in tables.all::<Service>().filter(|service| service.mode == OverlayMode::Dedicated) {
        let identity = tables.find::<Identity>(&service.service).unwrap();
        let first = identity.subnet.hosts().next().unwrap();
        let scope = Scope::Service(service.service.clone());
        let device = Device {
            public_key: public(identity.private_key.expose()),
            port: identity.port,
            peers: peers(tables, &scope),
        };
        devices.insert(identity.interface.clone(), (first.into(), device, Some(identity.subnet)));
    }

    let links = links_of_ours();
    let names: BTreeSet<_> = links.iter().map(|link| link.name.as_str()).collect();
    let veths: BTreeMap<_, _> =
        attachments.iter().flat_map(|one| one.links.iter().map(move |link| (link.as_str(), *one))).collect();
    let interfaces = bridges.keys().chain(devices.keys()).map(String::as_str);
    let expected: BTreeSet<_> = interfaces.chain(veths.keys().copied()).collect();
    assert_eq!(names, expected, "the links that there are");
    check_rules(&expected);
    let mut routes = BTreeSet::new();
    for link in &links {
        assert!(link.up && link.mtu == MTU, "{link:?}");
        if let Some(one) = veths.get(link.name.as_str()) {
            assert_eq!(link.kind, Some(LinkKind::Veth), "{}", link.name);
            let bridge = links.iter().find(|other| Some(other.index) == link.controller).map(|bridge| &bridge.name);
            let service = tables.find::<Service>(&one.service).map(|service| &service.bridge);
            match link.name.ends_with("-s") {
                true => assert_eq!(bridge, service, "{}", link.name),
                false => routes.extend(one.global_ip.map(|ip| (IpNet::from(ip), link.index))),
            }
            continue;
        }
        let addresses = ask_kernel(async |netlink| netlink.addresses(link.index).await);
        let addresses: Vec<_> = addresses.into_iter().filter(|address| address.addr().is_ipv4()).collect();
        if let Some(gateway) = bridges.get(&link.name) {
            assert_eq!((&link.kind, &addresses[..]), (&Some(LinkKind::Bridge), &[*gateway][..]), "{}", link.name);
            continue;
        }
        let (address, device, own) = &devices[&link.name];
        let shared = attachments.iter().filter(|one| matches!(one.handle, AttachHandle::HostShared { .. }));
        let shared = shared.map(|one| IpNet::from(one.ip)).filter(|_| link.name.ends_with("-g"));
        let wanted: BTreeSet<_> = shared.chain([*address]).collect();
        let found: BTreeSet<_> = addresses.into_iter().collect();
        assert_eq!((&link.kind, found), (&Some(LinkKind::Tun), wanted), "{}", link.name);
        assert_eq!(shown(&link.name), *device, "{}", link.name);
        if let Some(own) = own {
            let cluster: IpNet = CLUSTER.parse().unwrap();
            let prefixes = device.peers.values().flat_map(|(_, prefixes)| prefixes);
            let inside = prefixes.filter(|prefix| cluster.contains(*prefix) && !prefix.contains(own));
            routes.extend(inside.map(|prefix| (*prefix, link.index)));
        }
    }
    let found = ask_kernel(async |netlink| netlink.routes().await);
    assert_eq!(
        found.iter().map(|route| (route.prefix, route.device)).collect::<BTreeSet<_>>(),
        routes,
        "routes of ours"
    );
}

/// The rules are about exactly these links. Only looked at where nft(8) is installed.
#[track_caller]
pub fn check_rules(links: &BTreeSet<&str>) {
    let Some(text) = nft(&["list", "ruleset"]) else { return };
    let named = text.split('"').skip(1).step_by(2).filter(|name| name.starts_with("zl-") || name.starts_with("veth-"));
    let named: BTreeSet<_> = named.filter(|name| !PLANTED.contains(name)).collect();
    assert_eq!(&named, links, "what the rules are about");
}

/// What nft(8) says; `None` where it is not installed.
fn nft(words: &[&str]) -> Option<String> {
    // It speaks to the namespace of the thread that starts it.
    let output = std::process::Command::new("nft").args(words).output().ok()?;
    assert!(output.status.success(), "{output:?}");
    Some(String::from_utf8(output.stdout).unwrap())
}

fn peers(tables: &Tables, scope: &Scope) -> BTreeMap<String, (String, BTreeSet<IpNet>)> {
    let peers = tables.all::<Peer>().filter(|peer| peer.scope == *scope);
    peers
        .map(|peer| {
            let prefixes = peer.allowed_ips.iter().copied().collect();
            let endpoint = peer.endpoint.as_ref().map_or(String::new(), |_| endpoint(&peer.public_key));
            (peer.public_key.to_hex(), (endpoint, prefixes))
        })
        .collect()
}

fn public(private: &str) -> String {
    ginnel_engine::key::PrivateKey::from_base64(private).unwrap().public().to_hex()
}

fn shown(interface: &str) -> Device {
    let mut socket = UnixStream::connect(format!("/var/run/wireguard/{interface}.sock")).unwrap();
    socket.write_all(b"get=1\n\n").unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).unwrap();
    let mut device = Device::default();
    let mut peer = String::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "private_key" => {
                device.public_key = ginnel_engine::key::PrivateKey::from_hex(value).unwrap().public().to_hex();
            }
            "listen_port" => device.port = value.parse().unwrap(),
            "public_key" => {
                peer = value.to_owned();
                device.peers.entry(peer.clone()).or_default();
            }
            "endpoint" => device.peers.get_mut(&peer).unwrap().0 = value.to_owned(),
            "allowed_ip" => drop(device.peers.get_mut(&peer).unwrap().1.insert(value.parse().unwrap())),
            // That of a guest, which calls us, is off.
            "persistent_keepalive_interval" => assert!(["0", "25"].contains(&value), "{value}"),
            _ => {}
        }
    }
    device
}

/// Links of others that look like ours, by name or by kind.
const PLANTED: [&str; 3] = ["zl-prod-0-old-b", "zl-prod-0-old-d", "veth-999-lan"];

/// A table of somebody else.
const PLANTED_TABLE: &str = "ginnel-old";

/// An administrator's.
pub struct LookAlikes(Vec<(LinkInfo, Vec<IpNet>)>, Option<String>);

impl LookAlikes {
    /// Makes them.
    pub fn plant() -> Self {
        ask_kernel(async |netlink| {
            netlink.set_up(netlink.link("lo").await?.index, true).await?;
            let bridge = netlink.create_bridge(PLANTED[0]).await?;
            netlink.add_address(bridge, "10.99.0.1/24".parse().unwrap()).await?;
            let veth = netlink.create_veth(PLANTED[1], PLANTED[2], None).await?;
            netlink.add_address(veth, "10.98.0.1/24".parse().unwrap()).await?;
            netlink.set_up(bridge, true).await
        });
        nft(&["add", "table", "inet", PLANTED_TABLE]);
        nft(&["add", "set", "inet", PLANTED_TABLE, "links", "{ type ifname; elements = { \"zl-prod-0-old-b\" }; }"]);
        Self(Self::present(), Self::table())
    }

    /// They are as they were.
    #[track_caller]
    pub fn check(&self) {
        assert_eq!(Self::present(), self.0, "what belongs to others");
        assert_eq!(Self::table(), self.1, "the table of somebody else");
    }

    fn table() -> Option<String> {
        nft(&["list", "table", "inet", PLANTED_TABLE])
    }

    fn present() -> Vec<(LinkInfo, Vec<IpNet>)> {
        let present = ask_kernel(async |netlink| {
            let mut present = Vec::new();
            for link in netlink.links().await? {
                if PLANTED.contains(&link.name.as_str()) {
                    let addresses = netlink.addresses(link.index).await?;
                    present.push((link, addresses));
                }
            }
            Ok(present)
        });
        // Link-local addresses come when the kernel thinks it time.
        let lasting =
            |addresses: Vec<IpNet>| addresses.into_iter().filter(|address| address.addr().is_ipv4()).collect();
        present.into_iter().map(|(link, addresses)| (link, lasting(addresses))).collect()
    }
}
