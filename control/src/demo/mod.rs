//! `ginnel demo`: a whole overlay on one machine, in under a minute and without touching the machine's network.
//!
//! Builds a laboratory, runs one real daemon per node, drives each over its IPC socket as an orchestrator would, sends
//! traffic through the overlay checking every byte, tells what it saw and removes everything. Needs root or user
//! namespaces; where something is missing it says what and what to do.

mod containers;
mod show;

use self::containers::Containers;
use crate::host::HostError;
use crate::ipc::wire::StatusSnapshot;
use crate::lab::orchestrator::{Orchestrator, OrchestratorError, Overlay};
use crate::lab::process::{Keeper, Process, Scratch};
use crate::lab::traffic::{self, Amount, EchoPlan, EchoReport, End, TcpPlan, TcpReport, TrafficError};
use crate::lab::user_ns::{self, Rights, UserNsError};
use crate::lab::{Lab, LabError, LabOptions, usage, web};
use ipnet::IpNet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

/// UDP port of WireGuard in every node.
const PORT: u16 = 51_820;

/// What a daemon gets to start, and a pair of nodes to complete a handshake.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// Bytes sent each way between further neighbours, only to be checked.
const CHECK_BYTES: u64 = 8 << 20;

/// Arguments of `ginnel demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Nodes of the overlay, each in a network namespace of its own.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub nodes: u8,
    /// Seconds of each TCP transfer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=10))]
    pub seconds: u8,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    pub json: bool,
    /// Leave the overlay running until Ctrl-C, and say how to enter its nodes.
    #[arg(long)]
    pub keep: bool,
    /// Be the process of the container of that name: how the demo starts its own.
    #[arg(long, hide = true)]
    pub container: Option<String>,
}

/// Runs the demo. To be called before the process starts other threads: without root it enters a user namespace.
#[must_use]
pub fn run(args: DemoArgs) -> ExitCode {
    if let Some(name) = &args.container {
        let Err(error) = web::serve(name);
        eprintln!("{name}: {error}");
        return ExitCode::FAILURE;
    }
    let keeper = Keeper::default();
    let outcome = demonstrate(&args, &keeper);
    keeper.clear();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if args.json {
                println!("{}", show::failure(&error.to_string()));
            }
            eprintln!("ginnel demo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error(transparent)]
    Rights(#[from] UserNsError),
    #[error(transparent)]
    Lab(#[from] LabError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("between the nodes: {0}")]
    Traffic(#[from] TrafficError),
    #[error("node {node}: {source}")]
    Orchestrator { node: usize, source: OrchestratorError },
    #[error("node {node}: {what}; the daemon's last words:\n{words}")]
    Daemon { node: usize, what: String, words: String },
    #[error("container {name}: {what}; its last words:\n{words}")]
    Container { name: String, what: String, words: String },
    #[error("{what}: {source}")]
    Io { what: &'static str, source: io::Error },
}

/// What was seen.
struct Outcome {
    nodes: Vec<NodeOutcome>,
    containers: Containers,
    /// Between the first two nodes.
    round_trip: EchoReport,
    transfers: Vec<Transfer>,
    /// Processor seconds of the whole machine and of the daemons, for each 10⁹ bytes of the measured transfers.
    machine_secs_per_gb: f64,
    daemon_secs_per_gb: f64,
    elapsed: Duration,
}

struct NodeOutcome {
    pid: u32,
    underlay: Ipv4Addr,
    status: StatusSnapshot,
    rss_bytes: u64,
}

struct Transfer {
    from: usize,
    to: usize,
    /// Sent for speed, not only to check the way.
    measured: bool,
    report: TcpReport,
}

fn demonstrate(args: &DemoArgs, keeper: &Keeper) -> Result<(), DemoError> {
    let start = Instant::now();
    let program = std::env::current_exe().map_err(|source| DemoError::Io { what: "find this program", source })?;
    user_ns::check_tun()?;
    let rights = user_ns::enter()?;
    keeper.clear_on_signal().map_err(|source| DemoError::Io { what: "watch for Ctrl-C", source })?;
    let scratch = keeper.scratch().map_err(|source| DemoError::Io { what: "make a directory", source })?;
    let command = |data: &Path, socket: &Path| {
        let mut command = Command::new(&program);
        command.arg("daemon").arg("--data-dir").arg(data).arg("--socket").arg(socket);
        command
    };
    let mut stage = Stage::set(args.nodes.into(), &scratch, keeper, &command)?;
    stage.connect_nodes()?;
    let mut containers = Containers::attach(&mut stage.actors, keeper, &scratch, &program)?;
    containers.visit(&stage.lab.nodes()[0].netns)?;
    let outcome = stage.perform(containers, Duration::from_secs(args.seconds.into()), start)?;
    if args.json {
        println!("{}", show::json(&outcome));
    } else {
        println!("\n{}", show::table(&outcome));
    }
    if args.keep {
        eprintln!("{}", show::entrances(&outcome, rights == Rights::UserNamespace));
        // The signal watcher ends the program.
        loop {
            thread::park();
        }
    }
    progress("removing everything");
    // All daemons at once; dropping the stage would end them one after the other.
    keeper.clear();
    Ok(())
}

/// The nodes with their daemons. Dropping it ends them.
struct Stage {
    actors: Vec<Actor>,
    lab: Lab,
}

struct Actor {
    daemon: Process,
    orchestrator: Orchestrator,
    slice: IpNet,
    status: StatusSnapshot,
}

impl Stage {
    /// Builds the nodes and brings up one overlay in each; nobody knows of anybody yet.
    fn set(
        nodes: usize,
        scratch: &Scratch,
        keeper: &Keeper,
        command: &dyn Fn(&Path, &Path) -> Command,
    ) -> Result<Self, DemoError> {
        progress(&format!("building {nodes} nodes in network namespaces of their own"));
        let lab = Lab::build(LabOptions { nodes, ..LabOptions::default() })?;
        progress("starting a daemon in each");
        let file = |index: usize, what: &str| scratch.path().join(format!("node{}.{what}", index + 1));
        let mut daemons = Vec::new();
        for (index, node) in lab.nodes().iter().enumerate() {
            let mut command = command(&file(index, "data"), &file(index, "sock"));
            daemons.push(keeper.start(&node.netns, &mut command, &file(index, "log"))?);
        }
        let mut actors = Vec::new();
        for (index, daemon) in daemons.into_iter().enumerate() {
            let orchestrator = await_daemon(index, &daemon, &file(index, "sock"))?;
            let slice = IpNet::new_assert(Ipv4Addr::new(10, 200, number(index), 0).into(), 24);
            let status = StatusSnapshot::default();
            actors.push(Actor { daemon, orchestrator, slice, status });
        }
        for (index, actor) in actors.iter_mut().enumerate() {
            let overlay = Overlay {
                deployment: "demo".into(),
                instance: (index + 1).to_string(),
                cluster: IpNet::new_assert(Ipv4Addr::new(10, 200, 0, 0).into(), 16),
                slice: actor.slice,
                port: PORT,
            };
            actor.try_to(index, |orchestrator| orchestrator.set_up(index as u64 + 1, &overlay))?;
            actor.status = actor.try_to(index, Orchestrator::status)?;
        }
        Ok(Self { actors, lab })
    }

    /// Tells every daemon of every other and waits until all of them have shaken hands.
    fn connect_nodes(&mut self) -> Result<(), DemoError> {
        progress("introducing them to each other");
        let known: Vec<_> = self.actors.iter().map(|actor| (actor.status.public_key.clone(), actor.slice)).collect();
        for (index, actor) in self.actors.iter_mut().enumerate() {
            for (far, (key, slice)) in known.iter().enumerate().filter(|(far, _)| *far != index) {
                let key = key.as_deref().unwrap_or_default();
                let endpoint = SocketAddr::new(self.lab.nodes()[far].underlay_v4.into(), PORT);
                actor.try_to(index, |orchestrator| orchestrator.add_peer(key, endpoint, &[*slice], 25))?;
            }
        }
        progress("waiting for their handshakes");
        let ends = self.ends()?;
        for (index, near) in ends.iter().enumerate() {
            for far in &ends[index + 1..] {
                traffic::wait_reachable(near, far, READY_WITHIN)
                    .map_err(|error| self.actors[index].blame(index, &error.to_string()))?;
            }
        }
        let start = Instant::now();
        for (index, actor) in self.actors.iter_mut().enumerate() {
            loop {
                actor.status = actor.try_to(index, Orchestrator::status)?;
                let shaken = actor.status.peers.iter().filter(|peer| peer.last_handshake_unix_secs > 0).count();
                if shaken + 1 >= known.len() {
                    break;
                }
                if start.elapsed() > READY_WITHIN {
                    let what = format!("{shaken} of {} handshakes show in its status", known.len() - 1);
                    return Err(actor.blame(index, &what));
                }
                thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(())
    }

    /// Sends the traffic and looks at everything once more.
    fn perform(&mut self, containers: Containers, transfer: Duration, start: Instant) -> Result<Outcome, DemoError> {
        let ends = self.ends()?;
        progress("measuring round trips");
        let plan = EchoPlan { count: 2_000, time_max: Duration::from_secs(2) };
        let round_trip = traffic::echo(&ends[0], &ends[1], &plan)?;
        let send = |from: usize, to: usize, amount: Amount| {
            progress(&format!("sending from node {} to node {}, checking every byte", from + 1, to + 1));
            let report = traffic::tcp(&ends[from], &ends[to], &TcpPlan { streams: 1, amount, verify: true })?;
            Ok::<_, TrafficError>(Transfer { from, to, measured: matches!(amount, Amount::For(_)), report })
        };
        let busy = || usage::machine_busy().map_err(|source| DemoError::Io { what: "read processor time", source });
        let daemons = || -> Duration {
            self.actors.iter().filter_map(|actor| usage::process_busy(actor.daemon.pid()).ok()).sum()
        };
        let (machine_before, daemons_before) = (busy()?, daemons());
        let mut transfers = vec![send(0, 1, Amount::For(transfer))?, send(1, 0, Amount::For(transfer))?];
        let bytes: u64 = transfers.iter().map(|transfer| transfer.report.bytes).sum();
        let per_gb = |time: Duration| time.as_secs_f64() / (bytes as f64 / 1e9).max(1e-9);
        let machine_secs_per_gb = per_gb(busy()?.saturating_sub(machine_before));
        let daemon_secs_per_gb = per_gb(daemons().saturating_sub(daemons_before));
        for from in 1..if ends.len() > 2 { ends.len() } else { 0 } {
            let to = (from + 1) % ends.len();
            transfers.push(send(from, to, Amount::Bytes(CHECK_BYTES))?);
            transfers.push(send(to, from, Amount::Bytes(CHECK_BYTES))?);
        }
        let mut nodes = Vec::new();
        for (index, actor) in self.actors.iter_mut().enumerate() {
            let status = actor.try_to(index, Orchestrator::status)?;
            let pid = actor.daemon.pid();
            let rss_bytes = usage::process_rss(pid).unwrap_or_default();
            nodes.push(NodeOutcome { pid, underlay: self.lab.nodes()[index].underlay_v4, status, rss_bytes });
        }
        let elapsed = start.elapsed();
        Ok(Outcome { nodes, containers, round_trip, transfers, machine_secs_per_gb, daemon_secs_per_gb, elapsed })
    }

    /// The nodes at their overlay addresses.
    fn ends(&self) -> Result<Vec<End>, DemoError> {
        let end = |(index, actor): (usize, &Actor)| {
            let netns = self.lab.nodes()[index].netns.clone();
            let ip = actor.status.node_ip.ok_or_else(|| actor.blame(index, "the daemon reports no overlay address"))?;
            Ok(End { netns, ip })
        };
        self.actors.iter().enumerate().map(end).collect()
    }
}

impl Actor {
    /// Does one thing over IPC; an error carries the daemon's own words if it has died of it.
    fn try_to<T>(
        &mut self,
        index: usize,
        work: impl FnOnce(&mut Orchestrator) -> Result<T, OrchestratorError>,
    ) -> Result<T, DemoError> {
        work(&mut self.orchestrator).map_err(|source| match source.is_refusal() {
            true => DemoError::Orchestrator { node: index + 1, source },
            false => self.blame(index, &source.to_string()),
        })
    }

    fn blame(&self, index: usize, what: &str) -> DemoError {
        blame(index, &self.daemon, what)
    }
}

fn await_daemon(index: usize, daemon: &Process, socket: &Path) -> Result<Orchestrator, DemoError> {
    let start = Instant::now();
    loop {
        match Orchestrator::connect(socket, Duration::ZERO) {
            Ok(orchestrator) => return Ok(orchestrator),
            Err(error) if start.elapsed() > READY_WITHIN => return Err(blame(index, daemon, &error.to_string())),
            Err(_) => {}
        }
        if let Some(status) = daemon.ended() {
            return Err(blame(index, daemon, &format!("the daemon ended at once ({status})")));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn blame(index: usize, daemon: &Process, what: &str) -> DemoError {
    DemoError::Daemon { node: index + 1, what: what.into(), words: daemon.last_words() }
}

/// The byte of a node in its addresses; the number of nodes is bounded far below 255.
fn number(index: usize) -> u8 {
    u8::try_from(index + 1).unwrap_or(u8::MAX)
}

/// One line of what goes on, for whoever waits.
fn progress(text: &str) {
    eprintln!("· {text} …");
}
