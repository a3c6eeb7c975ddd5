//! What stays for the whole run: two nodes, peers of each other, with three services of different modes and containers in
//! them.
//!
//! ```text
//! node  a ═══ node b      the overlay itself
//! web   1 ─── 1           behind bridges, over the global overlay
//! pay   1 ─── 1           over a WireGuard device of its own
//! red   1, 2   1, 2       fenced in: they reach each other on their node, and nothing of the overlay else
//! ```

use super::lane::{Kind, Lane};
use super::node::{Caller, Node};
use super::{Broken, Run};
use ginnel_control::ipc::wire::{
    AddPeer, AttachContainer, AttachHandle, ObjectKind, Objects, OverlayMode, PeerScope, PeerSpec, Request, Response,
    ServiceOverlayInfo, SetupGlobalOverlay,
};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::traffic::{End, wait_reachable};
use ginnel_control::lab::{Lab, LabOptions};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

/// UDP port of the global overlay.
pub const PORT: u16 = 51_420;

/// The services that stay.
pub const SERVICES: [(&str, OverlayMode); 3] =
    [("web", OverlayMode::Auto), ("pay", OverlayMode::Dedicated), ("red", OverlayMode::Isolated)];

/// A dedicated service and the second member of an isolated one.
const PAY: usize = 1;
const RED: usize = 2;

/// What a stranger gets to reach what is fenced in, which it must not.
const STAYS_AWAY: Duration = Duration::from_millis(300);

/// A container that stays, and its address.
#[derive(Debug)]
struct Resident {
    container: Container,
    ip: IpAddr,
}

/// One node and what is on it.
#[derive(Debug)]
pub struct Side {
    /// Its daemon.
    pub node: Node,
    /// What it is at, in the overlay.
    pub ip: IpAddr,
    key: String,
    /// Subnets of what is behind it in the global overlay.
    prefixes: Vec<String>,
    pay: ServiceOverlayInfo,
    residents: Vec<Resident>,
}

/// Both nodes.
#[derive(Debug)]
pub struct Scene {
    /// The nodes.
    pub sides: [Side; 2],
    _lab: Lab,
}

impl Scene {
    /// Starts two daemons in a laboratory of their own, with nothing set up.
    pub fn start(
        program: &Path,
        scratch: &Path,
        keeper: &Keeper,
        run: &'static Run,
    ) -> Result<(Lab, [Node; 2]), Broken> {
        let lab = Lab::build(LabOptions::default()).map_err(|error| Broken(error.to_string()))?;
        let start = |name, side: usize| Node::start(name, &lab.nodes()[side], program, scratch, keeper, run);
        let nodes = [start("a", 0)?, start("b", 1)?];
        Ok((lab, nodes))
    }

    /// Sets everything up that stays.
    pub fn set_up(lab: Lab, nodes: [Node; 2]) -> Result<Self, Broken> {
        let [a, b] = nodes;
        let sides = [Side::set_up(a, 1)?, Side::set_up(b, 2)?];
        let scene = Self { sides, _lab: lab };
        for side in 0..2 {
            scene.introduce(side)?;
        }
        Ok(scene)
    }

    /// Tells a node, numbered by `side`, where the other is.
    pub fn introduce(&self, side: usize) -> Result<(), Broken> {
        let (near, far) = (&self.sides[side], &self.sides[1 - side]);
        let mut caller = near.node.caller();
        for (scope, peer) in far.as_peers() {
            caller.call(&Request::AddPeer(AddPeer { peer, scope }))?;
        }
        Ok(())
    }

    /// Takes the other from a node.
    pub fn part(&self, side: usize) -> Result<(), Broken> {
        let (near, far) = (&self.sides[side], &self.sides[1 - side]);
        let mut caller = near.node.caller();
        for (scope, peer) in far.as_peers() {
            caller.call(&Request::RemovePeer { pubkey: peer.public_key, scope })?;
        }
        Ok(())
    }

    /// The lanes between all that is to reach each other.
    pub fn lanes(&self) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (near, far) in [(0, 1), (1, 0)] {
            let [from, to] = [near, far].map(|side| &self.sides[side]);
            let mut lane = |what: &str, kind, [near, far]: [End; 2]| {
                let name = format!("{what} {} → {} {kind:?}", from.node.name, to.node.name);
                lanes.push(Lane::new(name, kind, near, far));
            };
            for kind in [Kind::Stream, Kind::Probes] {
                lane("node", kind, [from.end(), to.end()]);
                lane("web", kind, [from.resident(0), to.resident(0)]);
                lane("pay", kind, [from.resident(PAY), to.resident(PAY)]);
            }
            let name = format!("red on {}", from.node.name);
            lanes.push(Lane::new(name, Kind::Probes, from.resident(RED), from.resident(RED + 1)));
        }
        lanes
    }

    /// What is fenced in on a node is not reached by what is not.
    pub fn check_fence(&self, side: usize) -> Result<(), Broken> {
        let side = &self.sides[side];
        match wait_reachable(&side.resident(0), &side.resident(RED), STAYS_AWAY) {
            Ok(_) => Err(Broken(format!("a stranger reaches what is fenced in on {}", side.node.name))),
            Err(_) => Ok(()),
        }
    }

    /// Takes everything down that was set up.
    pub fn tear_down(&mut self) -> Result<(), Broken> {
        for side in &mut self.sides {
            let mut caller = side.node.caller();
            for resident in side.residents.drain(..) {
                caller.call(&detach(resident.container.pid()))?;
            }
            for (service, _) in SERVICES {
                caller.call(&Request::TeardownServiceOverlay { service: service.into() })?;
            }
            caller.call(&Request::TeardownGlobalOverlay)?;
        }
        Ok(())
    }
}

impl Side {
    fn set_up(node: Node, number: u8) -> Result<Self, Broken> {
        let mut caller = node.caller();
        caller.call(&Request::SetLocalNodeId { node_id: number.into() })?;
        let slice = format!("10.200.{number}.0/24");
        caller.call(&Request::SetupGlobalOverlay(SetupGlobalOverlay {
            deployment: "soak".into(),
            instance_id: node.name.into(),
            cluster_cidr: "10.200.0.0/16".into(),
            slice_cidr: Some(slice.clone()),
            wg_port: PORT,
            host_adapter_mandatory: false,
            nat: None,
        }))?;
        let Response::Status(status) = caller.call(&Request::Status)? else {
            return Err(Broken("status is answered with something else".into()));
        };
        let (Some(key), Some(ip)) = (status.public_key, status.node_ip) else {
            return Err(Broken("the daemon reports neither key nor address".into()));
        };
        let mut pay = None;
        for (service, mode) in SERVICES {
            if let Response::ServiceOverlay(info) =
                caller.call(&Request::SetupServiceOverlay { service: service.into(), mode })?
                && mode == OverlayMode::Dedicated
            {
                pay = Some(info);
            }
        }
        let pay = pay.ok_or_else(|| Broken("no answer about the dedicated service".into()))?;
        let mut prefixes = vec![slice];
        if let Objects::Services(services) = caller.list(ObjectKind::Services)? {
            let global = services.into_iter().filter(|service| service.mode != OverlayMode::Dedicated);
            prefixes.extend(global.flat_map(|service| service.subnets));
        }
        let mut residents = Vec::new();
        for service in ["web", "pay", "red", "red"] {
            let container = Container::start()?;
            let ip =
                attach(&mut caller, &AttachContainer::new(AttachHandle::LinuxPid { pid: container.pid() }, service))?
                    [0];
            residents.push(Resident { container, ip });
        }
        Ok(Self { node, ip, key, prefixes, pay, residents })
    }

    /// What it is to the other, in each overlay.
    fn as_peers(&self) -> [(PeerScope, PeerSpec); 2] {
        let peer = |key: &str, port: u16, allowed_ips: String| PeerSpec {
            public_key: key.to_owned(),
            endpoint: format!("{}:{port}", self.node.underlay()),
            allowed_ips,
            persistent_keepalive_secs: 25,
            candidates: Vec::new(),
        };
        let key = self.pay.wg_public_key.as_deref().unwrap_or_default();
        let subnet = self.pay.subnet.clone().unwrap_or_default();
        [
            (PeerScope::Global, peer(&self.key, PORT, self.prefixes.join(","))),
            (PeerScope::Service { service: "pay".into() }, peer(key, self.pay_port(), subnet)),
        ]
    }

    /// UDP port of the dedicated overlay.
    pub fn pay_port(&self) -> u16 {
        self.pay.wg_port.unwrap_or_default()
    }

    /// The node itself.
    pub fn end(&self) -> End {
        End { netns: self.node.netns.clone(), ip: self.ip }
    }

    /// A container of service `web` or another, by its number.
    pub fn resident(&self, number: usize) -> End {
        self.residents[number].container.end(self.residents[number].ip)
    }

    /// Prefix of a service that is told by its number.
    #[must_use]
    pub fn prefix(&self) -> Option<IpNet> {
        self.prefixes.first()?.parse().ok()
    }
}

/// Attaches it, and returns its addresses.
pub fn attach(caller: &mut Caller<'_>, workload: &AttachContainer) -> Result<Vec<IpAddr>, Broken> {
    match caller.call(&Request::AttachContainer(workload.clone()))? {
        Response::Attached { ip, addresses, .. } => Ok(if addresses.is_empty() { vec![ip] } else { addresses }),
        other => Err(Broken(format!("an attach is answered with {other:?}"))),
    }
}

/// What is asked to detach it.
#[must_use]
pub fn detach(pid: u32) -> Request {
    Request::DetachContainer { handle: AttachHandle::LinuxPid { pid }, owner: None }
}
