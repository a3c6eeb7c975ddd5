//! `restart`: how long a daemon that is started anew takes until everything that was up before is up again: from the start
//! of the process to its first answer, which it gives only then.
//!
//! The state is that of a node with so many peers, leases and services. The daemon runs in a network of its own; its state
//! is in the directory for temporary files, or where `--dir` says.
//!
//! ```text
//! cargo build --release --workspace && target/release/restart --daemon target/release/ginneld
//! ```

use clap::Parser;
use ginnel_control::ipam::Pool;
use ginnel_control::ipc::blocking::BlockingClient;
use ginnel_control::lab::user_ns;
use ginnel_control::state::{Bridge, GlobalOverlay, Lease, Peer, Scope, Service, Store, Transaction};
use ginnel_engine::key::PublicKey;
use ipnet::{IpNet, Ipv4Net};
use std::error::Error;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(about = "Measures how soon a daemon that is started anew has everything up again")]
struct Arguments {
    /// The daemon.
    #[arg(long, value_name = "PATH", default_value = "target/release/ginneld")]
    daemon: PathBuf,
    /// Peers of the global overlay, each with two prefixes.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    peers: u32,
    /// Addresses in use.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(0..=60_000))]
    leases: u32,
    /// Services with a bridge each.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=200))]
    services: u32,
    /// Starts measured.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Where the state is put.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// A daemon that is killed when it is no longer needed: the next one starts as after a crash.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory that goes with its owner.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    user_ns::check_tun()?;
    user_ns::enter()?;
    let place = arguments.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = Directory(place.join(format!("ginnel-restart-{}", std::process::id())));
    let daemon = std::path::absolute(&arguments.daemon)?;
    fill(&directory.0, &arguments)?;
    let mut times = Vec::new();
    for _ in 0..arguments.rounds {
        times.push(start(&daemon, &directory.0, &arguments)?);
    }
    times.sort();
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let Arguments { peers, leases, services, rounds, .. } = arguments;
    println!(
        "{peers} peers, {leases} leases, {services} services: median {:.0} ms, {:.0} to {:.0} ms of {rounds} starts",
        ms(times[times.len() / 2]),
        ms(times[0]),
        ms(times[times.len() - 1])
    );
    Ok(())
}

/// Writes the state of such a node.
fn fill(data: &Path, arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let (store, _) = Store::open(data)?;
    let cluster: IpNet = "10.0.0.0/8".parse()?;
    let slice: IpNet = "10.1.0.0/16".parse()?;
    let overlay = GlobalOverlay {
        deployment: "bench".into(),
        instance_id: "0".into(),
        cluster,
        slice: Some(slice),
        port: 51_420,
        chosen_port: None,
        up: true,
        nat: None,
    };
    let mut all = Transaction::new().put(overlay);
    for number in 1..=arguments.peers {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        let prefix = |base: u32| Ipv4Net::new(Ipv4Addr::from(base + (number << 4)), 28).map(IpNet::from);
        all = all.put(Peer {
            scope: Scope::Global,
            public_key: PublicKey(key),
            endpoint: Some(format!("192.0.2.{}:51420", number % 250 + 1)),
            keepalive_secs: 25,
            allowed_ips: vec![prefix(0x0a40_0000)?, prefix(0x0a80_0000)?],
            preshared_key: None,
        });
    }
    let mut pool = Pool::new(slice, 0);
    pool.exclude("10.1.0.1/32".parse()?);
    for number in 0..arguments.leases {
        let grant = pool.allocate("", 0)?;
        let owner = format!("attachment pid {number}");
        all = all.put(Lease { ip: grant.ip, owner, generation: grant.generation, given_ms: 0, released_ms: None });
    }
    for number in 0..arguments.services {
        let (service, bridge) = (format!("s{number}"), format!("zl-bench-{number}-b"));
        let subnet: IpNet = format!("10.200.{number}.0/26").parse()?;
        let gateway = format!("10.200.{number}.1").parse()?;
        all = all.put(Bridge { bridge: bridge.clone(), subnet_of: service.clone(), node_id: 0, subnet, gateway });
        all = all.put(Service { service, mode: ginnel_control::ipc::wire::OverlayMode::Auto, bridge });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    Ok(runtime.block_on(store.commit(all))?)
}

/// Starts a daemon, waits for its first answer and kills it.
fn start(program: &Path, data: &Path, arguments: &Arguments) -> Result<Duration, Box<dyn Error>> {
    let socket = data.join("socket");
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(data).arg("--socket").arg(&socket).env("RUST_LOG", "error");
    let start = Instant::now();
    let mut daemon = Daemon(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
    let status = loop {
        match BlockingClient::connect(&socket, Duration::from_secs(60)).and_then(|mut client| client.status()) {
            Ok(status) => break status,
            Err(error) if start.elapsed() > Duration::from_secs(60) => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
        if let Some(status) = daemon.0.try_wait()? {
            return Err(format!("the daemon ended: {status}").into());
        }
    };
    let time = start.elapsed();
    if status.interface.is_none() || status.peer_count != arguments.peers || status.service_count != arguments.services
    {
        return Err(format!("not everything is up: {status:?}").into());
    }
    Ok(time)
}
