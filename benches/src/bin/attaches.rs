//! `attaches`: what it takes to attach a container and to detach it, as the orchestrator sees it: from the request to the
//! answer over the socket, for whole daemons of the same contract, side by side.
//!
//! Containers are processes that sleep in network namespaces of their own. A service has 60 of them, as its subnet has room
//! for; `isolated` has members of one isolation network. Each daemon starts in an empty network for each row, and each row
//! is measured for one daemon after the other.
//!
//! ```text
//! cargo build --release --workspace && target/release/attaches \
//!     --daemon ginnel=target/release/ginnel --daemon zlayer=PATH --present 0,100,1000 --isolated 40
//! ```

use clap::Parser;
use ginnel_benches::daemon::{Daemon, percentile_ms, prepare};
use ginnel_benches::versus::contender::Contender;
use ginnel_control::ipc::wire::{AttachHandle, OverlayMode, Request};
use ginnel_control::lab::container::Container;
use ginnel_control::lab::orchestrator::{Orchestrator, OrchestratorError};
use std::error::Error;
use std::thread;
use std::time::{Duration, Instant};

/// Containers of a service.
const SERVICE: usize = 60;

#[derive(Parser)]
#[command(about = "Measures how long daemons take to attach and detach containers")]
struct Arguments {
    /// A daemon, as NAME=PATH; the beginning of NAME says what it is: ginnel (the program `ginnel`) or zlayer.
    #[arg(long = "daemon", value_name = "NAME=PATH", required = true)]
    daemons: Vec<Contender>,
    /// Containers that are attached already.
    #[arg(long, value_delimiter = ',', default_value = "0,100,1000")]
    present: Vec<usize>,
    /// Members of an isolation network that are attached already.
    #[arg(long, value_delimiter = ',', default_value = "40")]
    isolated: Vec<usize>,
    /// Calls measured one after the other.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    calls: u32,
    /// Calls at once, a connection each.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=60))]
    at_once: u16,
}

/// One row of the table, before it is measured.
#[derive(Clone, Copy)]
struct Case {
    present: usize,
    isolated: bool,
}

/// What was measured: the answer times of attaches and of detaches.
#[derive(Default)]
struct Times {
    attach: Vec<Duration>,
    detach: Vec<Duration>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::parse();
    let keeper = prepare(&mut arguments.daemons)?;
    let cases: Vec<_> = [(&arguments.present, false), (&arguments.isolated, true)]
        .iter()
        .flat_map(|(counts, isolated)| counts.iter().map(|present| Case { present: *present, isolated: *isolated }))
        .collect();
    let most = cases.iter().map(|case| case.present).max().unwrap_or_default();
    let at_once = usize::from(arguments.at_once);
    let calls = usize::try_from(arguments.calls)?;
    let containers = (0..most + at_once.max(calls)).map(|_| Container::start()).collect::<Result<Vec<_>, _>>()?;
    let pids: Vec<_> = containers.iter().map(Container::pid).collect();
    println!("| present | | calls | daemon | attach p50 [ms] | p99 | detach p50 [ms] | p99 |");
    println!("| ---: | :--- | ---: | :--- | ---: | ---: | ---: | ---: |");
    for case in cases {
        for contender in &arguments.daemons {
            let daemon = Daemon::start(contender, &keeper)?;
            let mut orchestrator = daemon.connect()?;
            let (there, free) = (&pids[..case.present], &pids[case.present..]);
            case.set_up(&mut orchestrator, there, at_once.max(calls)).map_err(|error| daemon.blame(&error))?;
            let alone = alone(&mut orchestrator, case, &free[..calls]).map_err(|error| daemon.blame(&error))?;
            case.report(&contender.name, 1, alone);
            let rounds = arguments.calls.div_ceil(u32::from(arguments.at_once));
            let together = together(&daemon, case, &free[..at_once], rounds).map_err(|error| daemon.blame(&*error))?;
            case.report(&contender.name, at_once, together);
        }
    }
    keeper.clear();
    Ok(())
}

impl Case {
    /// The service of the container with that number, and its isolation network.
    fn place(self, number: usize) -> (String, Option<&'static str>) {
        (format!("s{}", number / SERVICE), self.isolated.then_some("red"))
    }

    /// Sets the services up, those of `further` containers too, and attaches what is to be there.
    fn set_up(self, orchestrator: &mut Orchestrator, pids: &[u32], further: usize) -> Result<(), OrchestratorError> {
        let mode = if self.isolated { OverlayMode::Isolated } else { OverlayMode::Auto };
        for number in (0..=self.present + further).step_by(SERVICE) {
            let (service, _) = self.place(number);
            orchestrator.call(Request::SetupServiceOverlay { service, mode })?;
        }
        for (number, pid) in pids.iter().enumerate() {
            let (service, network) = self.place(number);
            orchestrator.attach(*pid, &service, network)?;
        }
        Ok(())
    }

    fn report(self, daemon: &str, at_once: usize, times: Times) {
        let show = |mut times: Vec<Duration>| {
            [50, 99].map(|percent| format!("{:.1}", percentile_ms(&mut times, percent))).join(" | ")
        };
        let kind = if self.isolated { "isolated" } else { "" };
        let how = if at_once == 1 { "alone".into() } else { format!("{at_once} at once") };
        let (attach, detach) = (show(times.attach), show(times.detach));
        println!("| {} | {kind} | {how} | {daemon} | {attach} | {detach} |", self.present);
    }
}

/// Attaches containers one after the other, and detaches them so.
fn alone(orchestrator: &mut Orchestrator, case: Case, pids: &[u32]) -> Result<Times, OrchestratorError> {
    let mut times = Times::default();
    for (number, pid) in pids.iter().enumerate() {
        times.attach.push(attach(orchestrator, case, case.present + number, *pid)?);
    }
    for pid in pids {
        times.detach.push(detach(orchestrator, *pid)?);
    }
    Ok(times)
}

fn together(daemon: &Daemon, case: Case, pids: &[u32], rounds: u32) -> Result<Times, Box<dyn Error + Send + Sync>> {
    let mut all = Times::default();
    let mut orchestrators = pids.iter().map(|_| daemon.connect()).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..rounds {
        let outcomes: Vec<Result<(Duration, Duration), OrchestratorError>> = thread::scope(|scope| {
            let running: Vec<_> = orchestrators
                .iter_mut()
                .zip(pids)
                .enumerate()
                .map(|(number, (orchestrator, pid))| {
                    scope.spawn(move || {
                        let attach = attach(orchestrator, case, case.present + number, *pid)?;
                        Ok((attach, detach(orchestrator, *pid)?))
                    })
                })
                .collect();
            // A thread that panicked has said why.
            running.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for outcome in outcomes {
            let (attach, detach) = outcome?;
            all.attach.push(attach);
            all.detach.push(detach);
        }
    }
    Ok(all)
}

/// How long the answer took.
fn attach(orchestrator: &mut Orchestrator, case: Case, number: usize, pid: u32) -> Result<Duration, OrchestratorError> {
    let (service, network) = case.place(number);
    let start = Instant::now();
    orchestrator.attach(pid, &service, network)?;
    Ok(start.elapsed())
}

/// How long the answer took.
fn detach(orchestrator: &mut Orchestrator, pid: u32) -> Result<Duration, OrchestratorError> {
    let start = Instant::now();
    orchestrator.call(Request::DetachContainer { handle: AttachHandle::LinuxPid { pid }, owner: None })?;
    Ok(start.elapsed())
}
