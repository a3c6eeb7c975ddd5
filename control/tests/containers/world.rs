//! Two nodes with a daemon each, an underlay between them, an outside that knows nothing of the overlay, and containers.
//!
//! ```text
//!   outside 203.0.113.9 ══ a ══ 192.0.2.0/24 ══ b
//!                          │                    │
//!                     containers           containers
//! ```

use crate::common::wire::Wire;
use crate::common::{self, until};
use ginnel_control::host::{LinkChange, Netns, RouteInfo};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::traffic::{End, wait_reachable};
use ginnel_engine::key::{PrivateKey, PublicKey};
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// For what has to arrive. The machine may be slow.
const ARRIVES: Duration = Duration::from_secs(30);

/// For what must not: long enough for many probes.
const STAYS_AWAY: Duration = Duration::from_millis(1_000);

pub const OK: &str = r#"{"result":"ok"}"#;

/// A node and its daemon.
pub struct Node {
    pub name: &'static str,
    pub netns: Netns,
    pub wire: Wire,
    dir: PathBuf,
    child: Child,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("{} said:\n{}", self.name, self.log());
        }
    }
}

impl Node {
    /// Starts one with nothing set up.
    pub fn start(name: &'static str, number: u64) -> Self {
        let netns = Netns::create().unwrap();
        netns.bring_lo_up().unwrap();
        let dir = Path::new("/var/run").join(name);
        fs::create_dir_all(&dir).unwrap();
        let (child, wire) = launch(&netns, &dir);
        let mut node = Self { name, netns, wire, dir, child };
        node.answered(json!({"op": "set_local_node_id", "node_id": number}));
        node
    }

    /// Kills the daemon and starts it again.
    pub fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.wire) = launch(&self.netns, &self.dir);
    }

    /// A directory beside what the daemon has.
    pub fn scratch(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The answer to a request.
    pub fn ask(&mut self, request: &Value) -> Value {
        serde_json::from_str(&self.wire.ask(&request.to_string())).unwrap()
    }

    /// The answer to a request that is to succeed.
    #[track_caller]
    pub fn answered(&mut self, request: Value) -> Value {
        let answer = self.ask(&request);
        assert_ne!(answer["result"], "err", "{request}: {answer}");
        answer
    }

    /// The reason why a request is refused.
    #[track_caller]
    pub fn refused(&mut self, request: Value) -> String {
        let answer = self.ask(&request);
        assert_eq!(answer["result"], "err", "{request}: {answer}");
        answer["message"].as_str().unwrap().to_owned()
    }

    pub fn list(&mut self, kind: &str) -> Vec<Value> {
        self.answered(json!({"op": "list", "kind": kind}))["items"].as_array().unwrap().clone()
    }

    pub fn set_up(&mut self, slice: &str) {
        self.answered(json!({
            "op": "setup_global_overlay", "deployment": "prod", "instance_id": self.name, "cluster_cidr": "10.200.0.0/16",
            "slice_cidr": slice, "wg_port": 51420, "host_adapter_mandatory": false, "nat": {"enabled": false}
        }));
    }

    pub fn service(&mut self, service: &str, mode: &str) -> Value {
        self.answered(json!({"op": "setup_service_overlay", "service": service, "mode": mode}))
    }

    /// Attaches a container; `more` are further fields.
    pub fn attach(&mut self, container: &Container, service: &str, more: Value) -> IpAddr {
        let answer = self.answered(attach(container, service, more));
        answer["ip"].as_str().unwrap().parse().unwrap()
    }

    pub fn detach(&mut self, container: &Container) {
        let handle = json!({"platform": "linux_pid", "pid": container.pid()});
        assert_eq!(self.wire.ask(&json!({"op": "detach_container", "handle": handle}).to_string()), OK);
    }

    pub fn end(&self, address: &str) -> End {
        End { netns: self.netns.clone(), ip: address.parse().unwrap() }
    }

    /// Names of all links but loopback.
    pub fn links(&self) -> Vec<String> {
        links(&self.netns)
    }
}

fn launch(netns: &Netns, dir: &Path) -> (Child, Wire) {
    let log = File::options().create(true).append(true).open(dir.join("log")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ginneld"));
    command.arg("--data-dir").arg(dir.join("data")).arg("--socket").arg(dir.join("s"));
    command.arg("--uapi-dir").arg(dir.join("wireguard")).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let child = netns.spawn(&mut command).unwrap();
    let mut wire = Wire::connect(dir.join("s"));
    // It answers once all is up that was before.
    wire.status();
    (child, wire)
}

/// The request that attaches a container.
pub fn attach(container: &Container, service: &str, more: Value) -> Value {
    let mut request = json!({
        "op": "attach_container", "handle": {"platform": "linux_pid", "pid": container.pid()}, "service": service,
        "join_global": false
    });
    let fields = more.as_object().expect("fields come as an object").clone();
    request.as_object_mut().unwrap().extend(fields);
    request
}

pub fn links(netns: &Netns) -> Vec<String> {
    let links = netns.configure(async |netlink| netlink.links().await).unwrap();
    let mut names: Vec<_> = links.into_iter().map(|link| link.name).filter(|name| name != "lo").collect();
    names.sort();
    names
}

/// A link: up, MTU, its bridge, IPv4 addresses, our routes through it.
type Shape = (bool, u32, Option<String>, Vec<IpNet>, Vec<IpNet>);

/// What the daemon has in a namespace.
pub fn shape(netns: &Netns) -> BTreeMap<String, Shape> {
    let shape = netns.configure(async |netlink| {
        let (links, routes) = (netlink.links().await?, netlink.routes().await?);
        let mut shape = BTreeMap::new();
        for link in links.iter().filter(|link| link.name.starts_with("zl-") || link.name.starts_with("veth-")) {
            let bridge =
                links.iter().find(|other| Some(other.index) == link.controller).map(|other| other.name.clone());
            let mut addresses = netlink.addresses(link.index).await?;
            addresses.retain(|address| address.addr().is_ipv4());
            let through = routes.iter().filter(|route| route.device == link.index).map(|route| route.prefix).collect();
            shape.insert(link.name.clone(), (link.up, link.mtu, bridge, addresses, through));
        }
        Ok(shape)
    });
    // A link may go while it is looked at.
    shape.unwrap_or_default()
}

/// What somebody does to a link.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    Address,
    Down,
    Mtu,
    Controller,
    Routes,
    Gone,
}

impl Damage {
    pub fn inflict(self, netns: &Netns, link: &str) {
        let inflicted = netns.configure(async |netlink| {
            let index = netlink.link(link).await?.index;
            match self {
                Self::Address => {
                    for address in netlink.addresses(index).await?.into_iter().filter(|held| held.addr().is_ipv4()) {
                        netlink.remove_address(index, address).await?;
                    }
                    Ok(())
                }
                Self::Down => netlink.set_up(index, false).await,
                Self::Mtu => netlink.set_mtu(index, 1300).await,
                Self::Controller => {
                    netlink.change_link(index, &LinkChange { controller: Some(0), ..LinkChange::default() }).await
                }
                Self::Routes => {
                    let routes = netlink.routes_through(index).await?;
                    assert!(!routes.is_empty(), "{link} has none");
                    for route in routes {
                        netlink.remove_route(route.prefix, index).await?;
                    }
                    Ok(())
                }
                Self::Gone => netlink.delete_link(index).await,
            }
        });
        inflicted.unwrap();
    }
}

/// Two nodes that are peers, and the outside of the first.
pub struct World {
    pub a: Node,
    pub b: Node,
    pub outside: Netns,
}

impl World {
    pub fn build() -> Self {
        let (mut a, mut b) = (Node::start("a", 0), Node::start("b", 1));
        cable(&a.netns, "wan", "192.0.2.1/24", &b.netns, "wan", "192.0.2.2/24");
        let outside = Netns::create().unwrap();
        outside.bring_lo_up().unwrap();
        cable(&a.netns, "isp", "203.0.113.1/24", &outside, "isp", "203.0.113.9/24");
        a.set_up("10.200.5.0/28");
        b.set_up("10.200.9.0/28");
        Self { a, b, outside }
    }

    /// A host behind the outside, on a link that takes packets of `mtu` bytes at most: 198.51.100.9.
    pub fn narrow_place(&self, mtu: u32) -> Netns {
        let far = Netns::create().unwrap();
        far.bring_lo_up().unwrap();
        cable(&self.outside, "far", "198.51.100.1/24", &far, "far", "198.51.100.9/24");
        self.outside.run_in(|| fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap().unwrap();
        for netns in [&self.outside, &far] {
            let narrow = netns.configure(async |netlink| netlink.set_mtu(netlink.link("far").await?.index, mtu).await);
            narrow.unwrap();
        }
        for (netns, device, prefix, gateway) in
            [(&self.a.netns, "isp", "198.51.100.0/24", "203.0.113.9"), (&far, "far", "203.0.113.0/24", "198.51.100.1")]
        {
            let added = netns.configure(async |netlink| {
                let route = RouteInfo::new(prefix.parse().unwrap(), netlink.link(device).await?.index);
                netlink.add_route(&RouteInfo { gateway: Some(gateway.parse().unwrap()), ..route }).await
            });
            added.unwrap();
        }
        far
    }

    /// Makes the nodes peers for what each has: its slice and the subnets of its services.
    pub fn introduce(&mut self) {
        let (a, b) = (prefixes(&mut self.a, "10.200.5.0/28"), prefixes(&mut self.b, "10.200.9.0/28"));
        let keys = [&mut self.a, &mut self.b].map(|node| node.answered(json!({"op": "status"}))["public_key"].clone());
        for (node, key, at, prefixes) in
            [(&mut self.a, &keys[1], "192.0.2.2:51420", b), (&mut self.b, &keys[0], "192.0.2.1:51420", a)]
        {
            node.answered(json!({
                "op": "add_peer", "public_key": key, "endpoint": at, "allowed_ips": prefixes.join(","),
                "persistent_keepalive_secs": 25, "scope": {"scope": "global"}
            }));
        }
    }

    /// Makes the devices of a dedicated service peers.
    pub fn introduce_service(&mut self, service: &str) {
        let infos = [&mut self.a, &mut self.b].map(|node| node.service(service, "dedicated"));
        let nodes = [(&mut self.a, "192.0.2.2", &infos[1]), (&mut self.b, "192.0.2.1", &infos[0])];
        for (node, at, other) in nodes {
            node.answered(json!({
                "op": "add_peer", "public_key": other["wg_public_key"], "endpoint": format!("{at}:{}", other["wg_port"]),
                "allowed_ips": other["subnet"], "persistent_keepalive_secs": 25,
                "scope": {"scope": "service", "service": service}
            }));
        }
    }
}

/// What a node has on bridges of the global overlay, and its slice.
fn prefixes(node: &mut Node, slice: &str) -> Vec<String> {
    let services = node.list("services");
    let global = services.iter().filter(|service| service["mode"] != "dedicated");
    let subnets = global.flat_map(|service| service["subnets"].as_array().unwrap().clone());
    let subnets = subnets.map(|subnet| subnet.as_str().unwrap().to_owned());
    let mut all: Vec<_> = subnets.chain([slice.to_owned()]).collect();
    all.sort();
    all.dedup();
    all
}

fn cable(near: &Netns, near_name: &str, near_address: &str, far: &Netns, far_name: &str, far_address: &str) {
    near.configure(async |netlink| netlink.create_veth(near_name, far_name, Some(far.as_fd())).await).unwrap();
    for (netns, name, address) in [(near, near_name, near_address), (far, far_name, far_address)] {
        netns
            .configure(async |netlink| {
                let index = netlink.link(name).await?.index;
                netlink.add_address(index, address.parse().unwrap()).await?;
                netlink.set_up(index, true).await
            })
            .unwrap();
    }
}

pub fn reaches(near: &End, far: &End) -> bool {
    wait_reachable(near, far, STAYS_AWAY).is_ok()
}

#[track_caller]
pub fn arrives(near: &End, far: &End) {
    wait_reachable(near, far, ARRIVES).unwrap_or_else(|error| panic!("{} to {}: {error}", near.ip, far.ip));
}

/// The same end, without a say in its source address.
pub fn unbound(netns: &Netns) -> End {
    End { netns: netns.clone(), ip: IpAddr::from([0, 0, 0, 0]) }
}

/// Waits until the nodes talk.
pub fn wait_for_tunnel(near: &End, far: &End) {
    until("the tunnel is up", || reaches(near, far));
}

/// What reaches what: a table for people, and its cells.
#[derive(Default)]
pub struct Matrix {
    cells: BTreeMap<(String, String), bool>,
    names: Vec<String>,
}

impl Matrix {
    pub fn measure(ends: &[(&str, End)]) -> Self {
        let names = ends.iter().map(|(name, _)| (*name).to_owned()).collect();
        let row = |(from, near): &(&str, End)| {
            let others = ends.iter().filter(|(to, _)| to != from);
            others.map(|(to, far)| (((*from).to_owned(), (*to).to_owned()), reaches(near, far))).collect::<Vec<_>>()
        };
        let cells = std::thread::scope(|scope| {
            let rows: Vec<_> = ends.iter().map(|end| scope.spawn(|| row(end))).collect();
            rows.into_iter().flat_map(|row| row.join().unwrap()).collect()
        });
        Self { cells, names }
    }

    /// One line for each sender, `+` for who is reached, `.` for who is not.
    pub fn show(&self) -> String {
        let width = self.names.iter().map(String::len).max().unwrap_or_default();
        let mut text = String::new();
        for from in &self.names {
            text.push_str(&format!("{from:>width$} "));
            for to in &self.names {
                let cell = self.cells.get(&(from.clone(), to.clone()));
                text.push_str(match cell {
                    None => " -",
                    Some(true) => " +",
                    Some(false) => " .",
                });
            }
            text.push('\n');
        }
        text
    }
}

/// A machine with a cable to a node and a WireGuard device of its own, set up with what the node's daemon said.
pub struct Guest {
    netns: Netns,
    ip: IpAddr,
    device: Child,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.device.kill();
        let _ = self.device.wait();
    }
}

impl Guest {
    pub fn start(node: &Node, config: &Value) -> Self {
        let netns = Netns::create().unwrap();
        netns.bring_lo_up().unwrap();
        cable(&node.netns, "tap", "198.18.0.1/30", &netns, "nic", "198.18.0.2/30");
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let peer = &config["peers"][0];
        let (endpoint, allowed) = (text(&peer["endpoint"]), text(&peer["allowed_ips"]));
        let endpoint: SocketAddr = endpoint.parse().unwrap();
        let mut command = Command::new(common::GINNEL);
        let device = netns.spawn(command.args(["device", "-f", "guest0"]).stdin(Stdio::null())).unwrap();
        let private = PrivateKey::from_base64(&text(&config["private_key"])).unwrap().to_hex();
        let public = PublicKey::from_base64(&text(&peer["public_key"])).unwrap().to_hex();
        let settings = format!(
            "set=1\nprivate_key={private}\nlisten_port={}\npublic_key={public}\nendpoint={endpoint}\nallowed_ip={allowed}\npersistent_keepalive_interval={}\n\n",
            config["listen_port"], peer["persistent_keepalive_secs"]
        );
        let mut socket = None;
        until("the guest's device takes orders", || {
            socket = UnixStream::connect("/var/run/wireguard/guest0.sock").ok();
            socket.is_some()
        });
        let mut socket = socket.unwrap();
        socket.write_all(settings.as_bytes()).unwrap();
        let mut answer = [0; 64];
        let bytes = socket.read(&mut answer).unwrap();
        assert_eq!(std::str::from_utf8(&answer[..bytes]), Ok("errno=0\n\n"));
        let ip: IpAddr = text(&config["overlay_ip"]).parse().unwrap();
        let configured = netns.configure(async |netlink| {
            let (tunnel, nic) = (netlink.link("guest0").await?.index, netlink.link("nic").await?.index);
            netlink.add_address(tunnel, ip.into()).await?;
            netlink.set_up(tunnel, true).await?;
            netlink.add_route(&RouteInfo::new(allowed.parse().unwrap(), tunnel)).await?;
            let gateway = Some("198.18.0.1".parse().unwrap());
            netlink.add_route(&RouteInfo { gateway, ..RouteInfo::new(endpoint.ip().into(), nic) }).await
        });
        configured.unwrap();
        Self { netns, ip, device }
    }

    pub fn end(&self) -> End {
        End { netns: self.netns.clone(), ip: self.ip }
    }
}
