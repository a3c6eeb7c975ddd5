//! `across`: how much of the throughput between two nodes is left between containers on them, over bridges, firewall and
//! the same tunnel. Rounds are interleaved; medians and ratios are printed.
//!
//! ```text
//! cargo build --release --workspace && target/release/across --ginnel target/release/ginnel --rounds 3
//! ```

use clap::Parser;
use ginnel_control::ipc::wire::{OverlayMode, PeerScope, Request};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::orchestrator::{Orchestrator, Overlay};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::traffic::{self, Amount, End, TcpPlan};
use ginnel_control::lab::{Lab, LabOptions, user_ns};
use ipnet::IpNet;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const PORT: u16 = 51_420;

/// What daemons and handshakes get.
const START_WITHIN: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(about = "Measures throughput between nodes and between containers on them")]
struct Arguments {
    /// The program `ginnel`.
    #[arg(long, value_name = "PATH", default_value = "target/release/ginnel")]
    ginnel: PathBuf,
    /// Times each pair is measured, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each transfer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Parallel TCP streams.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

/// A node with its daemon.
struct Node {
    orchestrator: Orchestrator,
    _process: Process,
    key: String,
    slice: IpNet,
    end: End,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let program = std::path::absolute(&arguments.ginnel)?;
    user_ns::check_tun()?;
    user_ns::enter()?;
    let keeper = Keeper::default();
    keeper.clear_on_signal()?;
    let scratch = keeper.scratch()?;
    let lab = Lab::build(LabOptions::default())?;
    let mut nodes = Vec::new();
    for side in 0..2 {
        nodes.push(Node::start(&program, side, &lab, &scratch, &keeper)?);
    }
    for (side, far) in [(0, 1), (1, 0)] {
        let (key, slice) = (nodes[far].key.clone(), nodes[far].slice);
        let endpoint = SocketAddr::new(lab.nodes()[far].underlay_v4.into(), PORT);
        nodes[side].orchestrator.add_peer(&key, endpoint, &[slice], 25)?;
    }
    let mut containers = Vec::new();
    for (side, far) in [(0, 1), (1, 0)] {
        let subnets = nodes[side].orchestrator.set_up_service("web", OverlayMode::Auto)?.subnets;
        let pubkey = nodes[side].key.clone();
        for cidr in subnets.iter().map(IpNet::to_string) {
            let request = Request::AddAllowedIp { pubkey: pubkey.clone(), cidr, scope: PeerScope::Global };
            nodes[far].orchestrator.call(request)?;
        }
        let container = Container::start()?;
        let ip = nodes[side].orchestrator.attach(container.pid(), "web", None)?;
        containers.push((container, ip));
    }
    let ends: Vec<_> = containers.iter().map(|(container, ip)| container.end(*ip)).collect();
    let pairs = [("node → node", [&nodes[0].end, &nodes[1].end]), ("container → container", [&ends[0], &ends[1]])];
    for (_, [near, far]) in &pairs {
        traffic::wait_reachable(near, far, START_WITHIN)?;
    }
    let amount = Amount::For(Duration::from_secs(arguments.seconds));
    let plan = TcpPlan { streams: arguments.streams, amount, verify: true };
    let mut rates = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds {
        for ((_, [near, far]), rates) in pairs.iter().zip(&mut rates) {
            rates.push(traffic::tcp(near, far, &plan)?.bits_per_sec() / 1e9);
        }
    }
    let medians = rates.map(|mut rates| {
        rates.sort_by(f64::total_cmp);
        (rates[rates.len() / 2], rates[0], rates[rates.len() - 1])
    });
    for ((what, _), (median, least, most)) in pairs.iter().zip(medians) {
        let part = median / medians[0].0;
        println!("{what:22} {median:5.2} Gb/s ({least:.2}–{most:.2})  {part:.2} of node → node");
    }
    keeper.clear();
    Ok(())
}

impl Node {
    fn start(
        program: &Path,
        side: usize,
        lab: &Lab,
        scratch: &Scratch,
        keeper: &Keeper,
    ) -> Result<Self, Box<dyn Error>> {
        let netns = lab.nodes()[side].netns.clone();
        let file = |what: &str| scratch.path().join(format!("{side}-{what}"));
        let mut command = Command::new(program);
        command.args(["daemon", "--data-dir"]).arg(file("data")).arg("--socket").arg(file("sock"));
        let process = keeper.start(&netns, command.env("RUST_LOG", "warn"), &file("log"))?;
        let mut orchestrator = Orchestrator::connect(&file("sock"), START_WITHIN)?;
        let slice = IpNet::new_assert(Ipv4Addr::new(10, 200, u8::try_from(side)? + 1, 0).into(), 24);
        let overlay = Overlay {
            deployment: "bench".into(),
            instance: side.to_string(),
            cluster: "10.200.0.0/16".parse()?,
            slice,
            port: PORT,
        };
        orchestrator.set_up(side as u64 + 1, &overlay)?;
        let status = orchestrator.status()?;
        let (Some(key), Some(ip)) = (status.public_key, status.node_ip) else {
            return Err("the daemon reports neither key nor address".into());
        };
        Ok(Self { orchestrator, _process: process, key, slice, end: End { netns, ip } })
    }
}
