//! The process: what it is started with, what it holds while it runs, and how it ends.
//!
//! Order of the start: flags, log, state directory and its lock, runtime, signals, netlink, socket. Everything that can be
//! wrong with the surroundings is found before the socket is there, so a client that can connect can also be served. Then
//! the service manager is told, if one waits.
//!
//! The end is the same for SIGTERM, SIGINT and the `shutdown` request: no new requests, take the overlay down, exit 0.
//! Taking down has a deadline, after which the process exits anyway; the kernel removes its interfaces then. A second
//! signal ends the wait at once.

mod args;
mod build_id;
mod defaults;
mod lock;
mod logging;
mod notify;

#[cfg(test)]
mod process_tests;

pub use args::DaemonArgs;
pub(crate) use defaults::program_name;
pub use defaults::{Surroundings, System};

use crate::host::{HostError, Netlink};
use crate::ipc::access::Policy;
use crate::ipc::events::EventHub;
use crate::ipc::health::HealthBoard;
use crate::ipc::live::Live;
use crate::ipc::server::{Server, ServerSettings};
use crate::ipc::socket::{BindError, BoundSocket};
use crate::ipc::stop::Stop;
use crate::node::{DeviceMaker, Host, KernelDevices, KeyStore, Node, Tuning};
use lock::{InstanceLock, LockError};
use notify::Notifier;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads of the control side. Requests are few and short; two keep one busy thread from holding up the other's work.
const CONTROL_THREADS: usize = 2;

/// How long taking the overlay down may last. It takes milliseconds; service managers wait 90 s.
const TEARDOWN_TIME: Duration = Duration::from_secs(10);

/// How long blocking calls may outlast the runtime.
const LEFTOVER_TIME: Duration = Duration::from_secs(1);

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

/// What a daemon runs with, every default filled in.
#[derive(Clone, Debug)]
struct Config {
    state_dir: PathBuf,
    socket: PathBuf,
    uapi_dir: PathBuf,
    group: &'static str,
    tuning: Tuning,
    teardown_time: Duration,
}

/// The whole program `ginneld`, or `zlayer-overlayd` if that is what the first of `argv` says.
#[must_use]
pub fn main_with(argv: Vec<OsString>) -> ExitCode {
    let system = System::of_program(argv.first());
    match DaemonArgs::parse(system, argv) {
        Ok(args) => run(&args, system),
        Err(error) => {
            // Where even the terminal is gone there is nobody left to tell.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
        }
    }
}

/// Runs a daemon with `args` and the defaults of `system` until it is told to end.
#[must_use]
pub fn run(args: &DaemonArgs, system: System) -> ExitCode {
    if args.build_id {
        return build_id::print();
    }
    logging::start();
    let config = Config::new(args, system, &Surroundings::of_process());
    let devices = KernelDevices::new(&config.uapi_dir);
    match run_with(&config, devices, Netlink::open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

impl Config {
    fn new(args: &DaemonArgs, system: System, surroundings: &Surroundings) -> Self {
        let data_dir = args.data_dir.clone().unwrap_or_else(|| system.data_dir(surroundings));
        Self {
            state_dir: system.state_dir(&data_dir),
            socket: args.socket.clone().unwrap_or_else(|| system.socket(&data_dir, surroundings)),
            uapi_dir: args.uapi_dir.clone().unwrap_or_else(|| system.uapi_dir(&data_dir, surroundings)),
            group: system.group(),
            tuning: Tuning { workers: args.workers, offloads_off: args.offload_off.clone() },
            teardown_time: TEARDOWN_TIME,
        }
    }
}

/// Runs a daemon over any devices and host. `open_host` is called inside the runtime.
fn run_with<M: DeviceMaker, H: Host>(
    config: &Config,
    maker: M,
    open_host: impl FnOnce() -> Result<H, HostError>,
) -> Result<(), DaemonError> {
    let _lock = InstanceLock::take(&config.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("ginnel-control")
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    let outcome = runtime.block_on(live(config, maker, open_host));
    runtime.shutdown_timeout(LEFTOVER_TIME);
    outcome
}

async fn live<M: DeviceMaker, H: Host>(
    config: &Config,
    maker: M,
    open_host: impl FnOnce() -> Result<H, HostError>,
) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Runtime)?;
    let node = Node::new(maker, open_host()?, KeyStore::new(&config.state_dir), config.tuning.clone());
    let node = Arc::new(node);
    let socket = BoundSocket::bind(&config.socket, Some(config.group))?;
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(socket = %socket.path().display(), state = %config.state_dir.display(), version, "ready");
    let notifier = Notifier::of_process();
    notifier.ready();
    let asked_by = tokio::select! {
        () = Server::new(node.clone(), Live::new(ServerSettings { policy: Policy { admin: socket.lets_in(), ..Policy::default() }, ..ServerSettings::default() }), EventHub::default(), HealthBoard::default(), Stop::default()).serve(&socket) => "a request",
        name = signals.next() => name,
    };
    tracing::info!(asked_by, "shutting down");
    notifier.stopping();
    drop(socket);
    tokio::select! {
        done = tokio::time::timeout(config.teardown_time, node.overlay().shut_down()) => match done {
            Ok(()) => tracing::info!("done"),
            Err(_) => tracing::error!("the overlay was not down in time; leaving the rest to the kernel"),
        },
        name = signals.next() => tracing::warn!(name, "not waiting any longer"),
    }
    Ok(())
}

/// The signals that end a daemon. From the moment this exists they no longer kill the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next one and names it.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
