//! A WireGuard device of any make at a node, with addresses, a key and a port, ready to be told of peers.

use crate::control::{Control, PeerReport};
use crate::make::Make;
use crate::wait;
use ginnel_backends::device::{Device, DeviceOptions, DeviceState};
use ginnel_backends::fault::{Faults, Faulty};
use ginnel_control::host::{LinkChange, Netns};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::traffic::End;
use ginnel_control::lab::{Node, UNDERLAY_LINK};
use ginnel_control::uapi::{self, UapiServer};
use ginnel_engine::drops::DropReason;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::noise::{Core, Ring};
use ginnel_engine::port::{Offload, OffloadState};
use ipnet::IpNet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

/// How to set a party up.
#[derive(Clone, Debug)]
pub struct PartyOptions {
    /// Whose WireGuard.
    pub make: Make,
    /// MTU of the interface.
    pub mtu: u16,
    /// UDP port.
    pub port: u16,
    /// Which network is inside: the second part of its IPv4 addresses.
    pub network: u8,
    /// Worker threads, 0 for one per core; of [`Make::Ginnel`] only.
    pub workers: usize,
    /// Offloads not to be used; of [`Make::Ginnel`] only. By default those that `GINNEL_OFFLOAD_OFF` names, separated by
    /// commas, as for the daemon.
    pub offloads_off: Vec<Offload>,
    /// Whether workers have only the system calls they need; of [`Make::Ginnel`] only. By default, whether
    /// `GINNEL_SECCOMP` is set.
    pub seccomp: bool,
    /// Further arguments; of programs only.
    pub arguments: &'static [&'static str],
    /// Identity; by default a new one.
    pub key: Option<PrivateKey>,
    /// What is to go wrong in its calls of the kernel; of [`Make::Ginnel`] only.
    pub faults: Option<Arc<Faults>>,
}

impl From<Make> for PartyOptions {
    fn from(make: Make) -> Self {
        Self {
            make,
            mtu: 1_420,
            port: 51_820,
            network: 77,
            workers: 0,
            offloads_off: forced_off(),
            seccomp: std::env::var("GINNEL_SECCOMP").is_ok_and(|it| !it.is_empty()),
            arguments: &[],
            key: None,
            faults: None,
        }
    }
}

fn forced_off() -> Vec<Offload> {
    let names = std::env::var("GINNEL_OFFLOAD_OFF").unwrap_or_default();
    let named =
        |name| Offload::ALL.into_iter().find(|offload| offload.name() == name).expect("offloads have such names");
    names.split(',').filter(|name| !name.is_empty()).map(named).collect()
}

/// A running device. Dropping it ends it.
pub struct Party {
    /// Its interface.
    pub interface: String,
    /// Its identity at the moment.
    pub key: PrivateKey,
    /// Where it was started, and where its datagrams come from.
    pub node: Node,
    /// Where its interface is.
    pub inside: Netns,
    /// How to talk to it.
    pub control: Control,
    number: u8,
    network: u8,
    port: u16,
    body: Body,
}

enum Body {
    // The server first: it uses the device.
    Ours { _server: UapiServer, device: Arc<Device> },
    Program { process: Process, _log: Scratch },
}

/// A peer as a party is to know it.
#[derive(Clone, Debug)]
pub struct PeerEntry {
    key: PublicKey,
    allowed_ips: Vec<IpNet>,
    endpoint: Option<SocketAddr>,
    preshared: Option<[u8; 32]>,
    keepalive_secs: u16,
}

impl Party {
    /// Starts a device at `node`, whose number it takes for its addresses.
    ///
    /// # Panics
    /// Where that fails.
    #[must_use]
    pub fn start(options: &PartyOptions, node: &Node, keeper: &Keeper) -> Self {
        let number = node.underlay_v4.octets()[3];
        let interface = format!("wg{}-{number}", options.network);
        let control = Control::of(&interface);
        let body = match options.make.command(&interface) {
            None => start_ours(options, node, &interface),
            Some(mut command) => {
                let scratch = keeper.scratch().expect("the directory of temporary files is writable");
                command.args(options.arguments);
                let process =
                    keeper.start(&node.netns, &mut command, &scratch.path().join("log")).expect("the program starts");
                wait::until("the program answers at its control socket", || {
                    assert!(process.ended().is_none(), "{command:?}: {}", process.last_words());
                    control.answers()
                });
                Body::Program { process, _log: scratch }
            }
        };
        let key = options.key.clone().unwrap_or_else(new_key);
        let (network, port) = (options.network, options.port);
        let inside = node.netns.clone();
        let party = Self { interface, key, node: node.clone(), inside, control, number, network, port, body };
        party.bring_up(options.mtu);
        party.control.set(&format!("private_key={}\nlisten_port={port}", party.key.to_hex()));
        party
    }

    /// The state of the device, of [`Make::Ginnel`] only.
    ///
    /// # Panics
    /// Where it is another make.
    #[must_use]
    pub fn state(&self) -> DeviceState {
        self.device().state()
    }

    /// The device itself, of [`Make::Ginnel`] only. Whatever opens sockets belongs on the control socket: the caller is in
    /// another namespace.
    ///
    /// # Panics
    /// Where it is another make.
    #[must_use]
    pub fn device(&self) -> &Arc<Device> {
        match &self.body {
            Body::Ours { device, .. } => device,
            Body::Program { .. } => panic!("{} is not ours", self.interface),
        }
    }

    /// Its end of traffic through tunnels.
    #[must_use]
    pub fn inner(&self, v6: bool) -> End {
        let ip = self.addresses()[usize::from(v6)].addr();
        End { netns: self.inside.clone(), ip }
    }

    /// Where its datagrams arrive.
    #[must_use]
    pub fn endpoint(&self, v6: bool) -> SocketAddr {
        let ip: IpAddr = if v6 { self.node.underlay_v6.into() } else { self.node.underlay_v4.into() };
        SocketAddr::new(ip, self.port)
    }

    /// This party as a peer of another: its key and its inner addresses.
    #[must_use]
    pub fn entry(&self) -> PeerEntry {
        let host = |net: IpNet| IpNet::from(net.addr());
        PeerEntry {
            key: self.key.public(),
            allowed_ips: self.addresses().map(host).to_vec(),
            endpoint: None,
            preshared: None,
            keepalive_secs: 0,
        }
    }

    /// Adds a peer, or changes it.
    #[track_caller]
    pub fn set_peer(&self, entry: &PeerEntry) {
        self.control.set(&entry.lines());
    }

    /// Removes a peer.
    #[track_caller]
    pub fn remove_peer(&self, key: PublicKey) {
        self.control.set(&format!("public_key={}\nremove=true", key.to_hex()));
    }

    /// What it says of a peer.
    ///
    /// # Panics
    /// Where it has no such peer.
    #[must_use]
    #[track_caller]
    pub fn peer(&self, key: PublicKey) -> PeerReport {
        self.control.report().peer(key).expect("the peer is there").clone()
    }

    /// Whether a handshake with the peer has completed.
    #[must_use]
    #[track_caller]
    pub fn has_met(&self, other: &Party) -> bool {
        self.peer(other.key.public()).handshake.is_some()
    }

    /// Takes another identity. The peers do not know.
    #[track_caller]
    pub fn change_key(&mut self) {
        self.key = new_key();
        self.control.set(&format!("private_key={}", self.key.to_hex()));
    }

    /// Listens on another port. The peers do not know.
    #[track_caller]
    pub fn change_port(&mut self, port: u16) {
        self.port = port;
        self.control.set(&format!("listen_port={port}"));
    }

    /// Packets dropped for this reason; of [`Make::Ginnel`] only.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.state().drops.iter().find(|(found, _)| *found == reason).map_or(0, |(_, packets)| *packets)
    }

    /// State and fallbacks of an offload; of [`Make::Ginnel`] only.
    ///
    /// # Panics
    /// Where the device does not tell.
    #[must_use]
    pub fn offload(&self, offload: Offload) -> (OffloadState, u64) {
        let offloads = self.state().offloads;
        let (_, state, fallbacks) = offloads.into_iter().find(|(found, ..)| *found == offload).expect("all are told");
        (state, fallbacks)
    }

    /// Changes the MTU of the interface.
    ///
    /// # Panics
    /// Where that fails.
    pub fn set_mtu(&self, mtu: u16) {
        let work = self.inside.configure(async |netlink| {
            let link = netlink.link(&self.interface).await?;
            netlink.set_mtu(link.index, mtu.into()).await
        });
        work.expect("the MTU is changed");
    }

    /// Moves the interface to another namespace, with its addresses.
    ///
    /// # Panics
    /// Where that fails.
    pub fn move_inside(&mut self, netns: &Netns) {
        let work = self.inside.configure(async |netlink| {
            let link = netlink.link(&self.interface).await?;
            netlink.move_link(link.index, netns.as_fd()).await?;
            Ok(link.mtu)
        });
        let mtu = work.expect("the interface moves");
        self.inside = netns.clone();
        self.bring_up(u16::try_from(mtu).expect("it was set from one"));
    }

    /// Gives the interface another address.
    ///
    /// # Panics
    /// Where that fails.
    pub fn add_address(&self, address: IpNet) {
        let work = self.inside.configure(async |netlink| {
            let link = netlink.link(&self.interface).await?;
            netlink.add_address(link.index, address).await
        });
        work.expect("the address is added");
    }

    /// Moves the node to another address of the underlay, with this last part. The old one is gone.
    ///
    /// # Panics
    /// Where that fails.
    pub fn move_node(&mut self, last: u8) {
        let v4 = |ip: Ipv4Addr| IpNet::new_assert(ip.into(), 24);
        let v6 = |ip: Ipv6Addr| IpNet::new_assert(ip.into(), 64);
        let before = [v4(self.node.underlay_v4), v6(self.node.underlay_v6)];
        let [a, b, c, _] = self.node.underlay_v4.octets();
        self.node.underlay_v4 = Ipv4Addr::new(a, b, c, last);
        let mut segments = self.node.underlay_v6.segments();
        segments[7] = last.into();
        self.node.underlay_v6 = segments.into();
        let after = [v4(self.node.underlay_v4), v6(self.node.underlay_v6)];
        let work = self.node.netns.configure(async |netlink| {
            let link = netlink.link(UNDERLAY_LINK).await?;
            // In this order: a second IPv4 address of a network goes with the first.
            for address in before {
                netlink.remove_address(link.index, address).await?;
            }
            for address in after {
                netlink.add_address(link.index, address).await?;
            }
            Ok(())
        });
        work.expect("the node moves");
    }

    /// The last words of a program, for messages; empty for ours.
    #[must_use]
    pub fn last_words(&self) -> String {
        match &self.body {
            Body::Ours { .. } => String::new(),
            Body::Program { process, .. } => process.last_words(),
        }
    }

    fn addresses(&self) -> [IpNet; 2] {
        let v4 = Ipv4Addr::new(10, self.network, 0, self.number);
        let v6 = Ipv6Addr::new(0xfd00, self.network.into(), 0, 0, 0, 0, 0, self.number.into());
        [IpNet::new_assert(v4.into(), 24), IpNet::new_assert(v6.into(), 64)]
    }

    fn bring_up(&self, mtu: u16) {
        let work = self.inside.configure(async |netlink| {
            let link = netlink.link(&self.interface).await?;
            let change = LinkChange { up: Some(true), mtu: Some(mtu.into()), ..LinkChange::default() };
            netlink.change_link(link.index, &change).await?;
            for address in self.addresses() {
                netlink.add_address(link.index, address).await?;
            }
            Ok(())
        });
        work.expect("the interface comes up");
    }
}

fn new_key() -> PrivateKey {
    PrivateKey::new(rand::random())
}

fn start_ours(options: &PartyOptions, node: &Node, interface: &str) -> Body {
    let device_options = DeviceOptions {
        mtu: options.mtu,
        workers: options.workers,
        offloads_off: options.offloads_off.clone(),
        seccomp: options.seccomp,
        ..DeviceOptions::new(interface)
    };
    // The threads of device and server stay in the namespace in which they are started.
    let start = || {
        let device = match &options.faults {
            None => Device::open(&device_options),
            Some(faults) => Device::open_on::<Core<Ring>, _>(Faulty(Arc::clone(faults)), &device_options),
        };
        let device = Arc::new(device.expect("the device opens"));
        let server = UapiServer::start(Path::new(uapi::DIRECTORY), interface, Arc::clone(&device), || {});
        Body::Ours { _server: server.expect("the control socket is free"), device }
    };
    node.netns.run_in(start).expect("the namespace can be entered")
}

impl PeerEntry {
    /// With this endpoint.
    #[must_use]
    pub fn at(self, endpoint: SocketAddr) -> Self {
        Self { endpoint: Some(endpoint), ..self }
    }

    /// With this preshared key.
    #[must_use]
    pub fn preshared(self, key: [u8; 32]) -> Self {
        Self { preshared: Some(key), ..self }
    }

    /// With a persistent keepalive.
    #[must_use]
    pub fn keepalive(self, secs: u16) -> Self {
        Self { keepalive_secs: secs, ..self }
    }

    /// With these allowed IPs only.
    ///
    /// # Panics
    /// Where one is not a prefix.
    #[must_use]
    pub fn allowing(self, prefixes: &[&str]) -> Self {
        let parse = |text: &&str| text.parse().expect("a prefix");
        Self { allowed_ips: prefixes.iter().map(parse).collect(), ..self }
    }

    fn lines(&self) -> String {
        let mut lines = format!("public_key={}\n", self.key.to_hex());
        if let Some(preshared) = &self.preshared {
            let _ = writeln!(lines, "preshared_key={}", PublicKey(*preshared).to_hex());
        }
        if let Some(endpoint) = self.endpoint {
            let _ = writeln!(lines, "endpoint={endpoint}");
        }
        let _ = writeln!(lines, "persistent_keepalive_interval={}\nreplace_allowed_ips=true", self.keepalive_secs);
        for prefix in &self.allowed_ips {
            let _ = writeln!(lines, "allowed_ip={prefix}");
        }
        lines
    }
}
