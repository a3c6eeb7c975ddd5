//! `requests`: how many requests a daemon answers a second, and how soon, per operation: several connections, each asking
//! again as soon as it has its answer. For whole daemons of the same contract, side by side. Attaching is measured by
//! `attaches`.
//!
//! ```text
//! cargo build --release --workspace && target/release/requests --daemon ginnel=target/release/ginnel --daemon zlayer=PATH
//! ```

use clap::Parser;
use ginnel_benches::daemon::{Daemon, percentile_ms, prepare};
use ginnel_benches::versus::contender::Contender;
use ginnel_control::ipc::wire::{AddPeer, PeerScope, PeerSpec, Request, Response};
use ginnel_control::lab::orchestrator::{Orchestrator, OrchestratorError};
use ginnel_engine::key::PublicKey;
use std::error::Error;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures how many requests daemons answer, and how soon")]
struct Arguments {
    /// A daemon, as NAME=PATH; the beginning of NAME says what it is: ginnel (the program `ginnel`) or zlayer.
    #[arg(long = "daemon", value_name = "NAME=PATH", required = true)]
    daemons: Vec<Contender>,
    /// Connections that ask at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=200))]
    connections: u8,
    /// Seconds each operation is asked for.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Peers there are.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    peers: u16,
}

/// An operation, with the one that takes it back where it has one.
type Step = fn(&mut Orchestrator, u32) -> Result<(), OrchestratorError>;

const STEPS: [(&str, Step); 4] = [
    ("status", |orchestrator, _| orchestrator.status().map(drop)),
    ("add_peer + remove_peer", |orchestrator, number| {
        let key = key(0x8000_0000 | number);
        orchestrator.call(Request::AddPeer(AddPeer { peer: peer(&key, number), scope: PeerScope::Global }))?;
        orchestrator.call(Request::RemovePeer { pubkey: key, scope: PeerScope::Global }).map(drop)
    }),
    ("allocate_ip + release_ip", |orchestrator, _| {
        let allocate = Request::AllocateIp { service: "web".into(), join_global: true, owner: None };
        match orchestrator.call(allocate)? {
            Response::Ip { ip } => orchestrator.call(Request::ReleaseIp { ip, owner: None }).map(drop),
            _ => Ok(()),
        }
    }),
    ("register_dns + unregister_dns", |orchestrator, number| {
        let name = format!("n{number}.web.overlay");
        let ip = IpAddr::from([10, 200, 9, 9]);
        orchestrator.call(Request::RegisterDns { name: name.clone(), ip })?;
        orchestrator.call(Request::UnregisterDns { name }).map(drop)
    }),
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = Arguments::parse();
    let keeper = prepare(&mut arguments.daemons)?;
    let running = arguments.daemons.iter().map(|contender| Daemon::start(contender, &keeper).map(|it| (contender, it)));
    let daemons = running.collect::<Result<Vec<_>, _>>()?;
    for (_, daemon) in &daemons {
        let mut orchestrator = daemon.connect()?;
        for number in 0..u32::from(arguments.peers) {
            let peer = peer(&key(number), number);
            orchestrator.call(Request::AddPeer(AddPeer { peer, scope: PeerScope::Global }))?;
        }
    }
    println!("| operation | daemon | a second | p50 [ms] | p99 [ms] |");
    println!("| :--- | :--- | ---: | ---: | ---: |");
    for (name, step) in STEPS {
        for (contender, daemon) in &daemons {
            match ask(daemon, step, &arguments) {
                Ok(times) => report(name, &contender.name, arguments.seconds, times),
                Err(error) => println!("| {name} | {} | {} | | |", contender.name, daemon.blame(&error)),
            }
        }
    }
    keeper.clear();
    Ok(())
}

fn ask(daemon: &Daemon, step: Step, arguments: &Arguments) -> Result<Vec<Duration>, OrchestratorError> {
    let orchestrators = (0..arguments.connections).map(|_| daemon.connect()).collect::<Result<Vec<_>, _>>()?;
    let end = Instant::now() + Duration::from_secs(arguments.seconds);
    thread::scope(|scope| {
        let asking: Vec<_> = (0_u32..)
            .zip(orchestrators)
            .map(|(number, mut orchestrator)| {
                scope.spawn(move || {
                    let mut times = Vec::new();
                    while Instant::now() < end {
                        let start = Instant::now();
                        step(&mut orchestrator, number)?;
                        times.push(start.elapsed());
                    }
                    Ok(times)
                })
            })
            .collect();
        let mut all = Vec::new();
        // A thread that panicked has said why.
        for times in asking.into_iter().filter_map(|thread| thread.join().ok()) {
            all.extend(times?);
        }
        Ok(all)
    })
}

fn report(name: &str, daemon: &str, seconds: u64, mut times: Vec<Duration>) {
    let [p50, p99] = [50, 99].map(|percent| percentile_ms(&mut times, percent));
    println!("| {name} | {daemon} | {} | {p50:.2} | {p99:.2} |", times.len() as u64 / seconds);
}

/// A public key of its own for each number. No two are alike; whether somebody has the private half is of no account.
fn key(number: u32) -> String {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(bytes).to_base64()
}

fn peer(key: &str, number: u32) -> PeerSpec {
    let [_, _, high, low] = number.to_be_bytes();
    PeerSpec {
        public_key: key.to_owned(),
        endpoint: "192.0.2.7:51420".into(),
        allowed_ips: format!("10.{}.{high}.{low}/32", 64 + (number >> 31)),
        persistent_keepalive_secs: 0,
        candidates: Vec::new(),
    }
}
