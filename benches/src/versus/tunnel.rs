//! A contender at work: two nodes on a cable, its processes in them, a tunnel between.
//!
//! ```text
//! node A  ── underlay 192.0.2.1 ══ veth, MTU 1500 ══ 192.0.2.2 ──  node B
//!         ── tunnel   10.88.0.1 ·· WireGuard, MTU 1420 ·· 10.88.0.2 ──
//! ```
//! Or all of it in IPv6: `2001:db8::1` outside, `fd00:88::1` inside.

use super::contender::{Contender, Kind};
use crate::uapi;
use ginnel_control::host::{HostError, LinkChange};
use ginnel_control::lab::orchestrator::{Orchestrator, OrchestratorError, Overlay};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::traffic::{self, End, TrafficError};
use ginnel_control::lab::{Lab, LabError, LabOptions, Node};
use ginnel_engine::key::PrivateKey;
use ipnet::IpNet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// MTU inside the tunnels: 1500 less the headers of WireGuard over IPv6, the usual choice.
const TUNNEL_MTU: u32 = 1420;

const PORT: u16 = 51_820;

/// What a contender gets to start and to complete its first handshake.
const START_WITHIN: Duration = Duration::from_secs(15);

/// A tunnel that carries packets. Dropping it ends its processes.
pub(super) struct Tunnel {
    pub(super) ends: [End; 2],
    pub(super) processes: Vec<Process>,
    scratch: Scratch,
    lab: Lab,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Orchestrator(#[from] OrchestratorError),
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
    #[error("{what}; its last words: {words}")]
    Process { what: String, words: String },
}

impl Tunnel {
    /// Starts `contender` on both sides and waits until a packet went there and back.
    pub(super) fn open(contender: &Contender, v6: bool, keeper: &Keeper) -> Result<Self, TunnelError> {
        let lab = Lab::build(LabOptions::default())?;
        let scratch = keeper.scratch().map_err(|source| TunnelError::Io { what: "make a directory", source })?;
        let mut tunnel =
            Self { ends: [lab.nodes()[0].end(v6), lab.nodes()[1].end(v6)], processes: Vec::new(), scratch, lab };
        match contender.kind {
            Kind::Raw => {}
            Kind::Zlayer if v6 => return Err(tunnel.blame("this daemon routes no IPv6")),
            Kind::Zlayer => tunnel.start_daemons(contender, keeper)?,
            _ => tunnel.start_devices(contender, v6, keeper)?,
        }
        let [a, b] = &tunnel.ends;
        match traffic::wait_reachable(a, b, START_WITHIN) {
            Ok(_) => Ok(tunnel),
            Err(error) => Err(tunnel.blame(&error.to_string())),
        }
    }

    fn start_devices(&mut self, contender: &Contender, v6: bool, keeper: &Keeper) -> Result<(), TunnelError> {
        // Control sockets of both nodes share a directory, so the names differ.
        let names = ["vsa0", "vsb0"];
        for (node, name) in self.lab.nodes().iter().zip(names) {
            let Some(mut command) = contender.device_command(name) else { continue };
            let log = self.scratch.path().join(name);
            self.processes.push(keeper.start(&node.netns, &mut command, &log)?);
        }
        let keys = [PrivateKey::new(rand::random()), PrivateKey::new(rand::random())];
        let address = |side: usize| match (v6, side) {
            (false, side) => IpNet::new_assert(Ipv4Addr::new(10, 88, 0, if side == 0 { 1 } else { 2 }).into(), 24),
            (true, side) => IpNet::new_assert(Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, side as u16 + 1).into(), 64),
        };
        for side in 0..2 {
            let (node, far) = (self.lab.nodes()[side].clone(), self.lab.nodes()[1 - side].clone());
            let config = uapi::Config {
                private_key: &keys[side],
                listen_port: PORT,
                peers: &[uapi::Peer {
                    key: keys[1 - side].public(),
                    endpoint: SocketAddr::new(far.end(v6).ip, PORT),
                    allowed: IpNet::from(address(1 - side).addr()),
                }],
            };
            let stream = self.patiently(|| uapi::connect(names[side]))?;
            uapi::configure(stream, &config).map_err(|error| self.blame(&error.to_string()))?;
            bring_up(&node, names[side], address(side))?;
            self.ends[side].ip = address(side).addr();
        }
        Ok(())
    }

    fn start_daemons(&mut self, contender: &Contender, keeper: &Keeper) -> Result<(), TunnelError> {
        let names = ["a", "b"];
        let file = |name: &str, what: &str| self.scratch.path().join(format!("{name}-{what}"));
        for (node, name) in self.lab.nodes().iter().zip(names) {
            let mut command = contender.daemon_command(&file(name, "data"), &file(name, "sock"));
            self.processes.push(keeper.start(&node.netns, &mut command, &file(name, "log"))?);
        }
        // Both are up before either has a device: at its start a daemon sweeps the control sockets of all.
        let mut orchestrators = names
            .iter()
            .map(|name| Orchestrator::connect(&file(name, "sock"), START_WITHIN))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| self.blame(&error.to_string()))?;
        let slices = [1, 2].map(|side| IpNet::new_assert(Ipv4Addr::new(10, 88, side, 0).into(), 24));
        let mut keys = Vec::new();
        for (side, orchestrator) in orchestrators.iter_mut().enumerate() {
            let overlay = Overlay {
                deployment: "vs".into(),
                instance: names[side].into(),
                cluster: IpNet::new_assert(Ipv4Addr::new(10, 88, 0, 0).into(), 16),
                slice: slices[side],
                port: PORT,
            };
            orchestrator.set_up(side as u64 + 1, &overlay)?;
            let status = orchestrator.status()?;
            let (Some(key), Some(ip)) = (status.public_key, status.node_ip) else {
                return Err(self.blame("the daemon reports neither key nor address"));
            };
            keys.push(key);
            self.ends[side].ip = ip;
        }
        for (side, orchestrator) in orchestrators.iter_mut().enumerate() {
            let far = SocketAddr::new(self.lab.nodes()[1 - side].underlay_v4.into(), PORT);
            orchestrator.add_peer(&keys[1 - side], far, &[slices[1 - side]], 0)?;
        }
        Ok(())
    }

    /// Repeats `attempt` until it succeeds, the time is over or a process has ended.
    fn patiently<T>(&self, attempt: impl Fn() -> io::Result<T>) -> Result<T, TunnelError> {
        let start = Instant::now();
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let dead = self.processes.iter().any(|process| process.ended().is_some());
                    if dead || start.elapsed() > START_WITHIN {
                        return Err(self.blame(&format!("no control socket ({error})")));
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
        }
    }

    /// An error with what the processes have to say to it.
    pub(super) fn blame(&self, what: &str) -> TunnelError {
        let words = |process: &Process| {
            let state = process.ended().map_or("running".into(), |status| status.to_string());
            format!("[{state}] {}", process.last_words())
        };
        TunnelError::Process {
            what: what.into(),
            words: self.processes.iter().map(words).collect::<Vec<_>>().join(" | "),
        }
    }
}

fn bring_up(node: &Node, name: &str, address: IpNet) -> Result<(), HostError> {
    node.netns.configure(async |netlink| {
        let link = netlink.link(name).await?;
        netlink.add_address(link.index, address).await?;
        let change = LinkChange { up: Some(true), mtu: Some(TUNNEL_MTU), ..LinkChange::default() };
        netlink.change_link(link.index, &change).await
    })
}
