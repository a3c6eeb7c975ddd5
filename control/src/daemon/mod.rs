//! The process: what it is started with, what it holds while it runs, and how it ends.
//!
//! Order of the start: flags, configuration file, rights given up, heap, log, state directory and its lock, runtime,
//! signals, netlink, socket, and then everything that was up before. The socket is made before that, so that a second
//! daemon stops before it touches anything; whoever connects is served once all is up. Then the service manager is told,
//! if one waits.
//!
//! The end is the same for SIGTERM, SIGINT and the `shutdown` request: no new requests, take everything down, exit 0. A
//! signal leaves on disk what the next start makes again, the request does not. Taking down has a deadline, after which
//! the process exits anyway; the kernel removes its interfaces then. A second signal ends the wait at once.

mod args;
mod build_id;
mod defaults;
mod descriptors;
mod exit;
mod inherit;
mod lock;
mod logging;
mod notify;
mod reload;
mod rights;
mod setup;
mod watchdog;

#[cfg(test)]
mod process_tests;

pub use args::DaemonArgs;
pub(crate) use defaults::program_name;
pub use defaults::{Surroundings, System};
pub use exit::Exit;

use crate::config;
use crate::host::HostError;
use crate::ipc::events::EventHub;
use crate::ipc::health::HealthBoard;
use crate::ipc::live::Live;
use crate::ipc::server::Server;
use crate::ipc::socket::{BindError, BoundSocket};
use crate::ipc::stop::Stop;
use crate::metrics::Metrics;
use crate::node::{DeviceMaker, Host, KernelDevices, KernelHost, Node, NodeOptions};
use crate::state::StoreError;
use ginnel_backends::linux::keep_heap_small;
use lock::{InstanceLock, LockError};
use logging::Log;
use notify::Notifier;
use reload::Reload;
use setup::Setup;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Threads of the control side. Requests are few and short; two keep one busy thread from holding up the other's work.
const CONTROL_THREADS: usize = 2;

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
    #[error(transparent)]
    State(#[from] StoreError),
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl DaemonError {
    /// What a restart would not cure has a status of its own.
    fn exit(&self) -> Exit {
        let source = match self {
            Self::Lock(LockError::Unusable { source, .. })
            | Self::Bind(BindError::System { source, .. })
            | Self::Host(HostError::System { source, .. })
            | Self::Runtime(source) => source,
            _ => return Exit::Failed,
        };
        if source.kind() == io::ErrorKind::PermissionDenied { Exit::NotPermitted } else { Exit::Failed }
    }
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
    let file = match setup::read_file(args) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Misconfigured.into();
        }
    };
    if args.check_config {
        let path = args.config.as_deref().unwrap_or(Path::new(config::DEFAULT_PATH));
        println!("{}: {} keys, all sound", path.display(), file.said.len());
        return Exit::Done.into();
    }
    let setup = Setup::new(args, &file, system, &Surroundings::of_process());
    // Both before the threads of the log.
    let confined = rights::confine();
    let heap = keep_heap_small();
    let log = Log::start(&setup.log);
    confined.tell();
    if let Err(error) = heap {
        tracing::warn!(%error, "the heap may keep more than is in use");
    }
    descriptors::raise_limit();
    let devices = KernelDevices::new(&setup.uapi_dir);
    match run_with(&setup, Some(&log), devices, || KernelHost::open(&setup.state_dir)) {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            tracing::error!("{error}");
            error.exit().into()
        }
    }
}

/// Runs a daemon over any devices and host. `open_host` is called inside the runtime.
fn run_with<M: DeviceMaker, H: Host>(
    setup: &Setup,
    log: Option<&Log>,
    maker: M,
    open_host: impl FnOnce() -> Result<H, HostError>,
) -> Result<(), DaemonError> {
    let _lock = InstanceLock::take(&setup.state_dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("ginnel-control")
        .enable_all()
        .build()
        .map_err(DaemonError::Runtime)?;
    let outcome = runtime.block_on(live(setup, log, maker, open_host));
    runtime.shutdown_timeout(LEFTOVER_TIME);
    outcome
}

async fn live<M: DeviceMaker, H: Host>(
    setup: &Setup,
    log: Option<&Log>,
    maker: M,
    open_host: impl FnOnce() -> Result<H, HostError>,
) -> Result<(), DaemonError> {
    let mut signals = Signals::new().map_err(DaemonError::Runtime)?;
    let hangups = signal(SignalKind::hangup()).map_err(DaemonError::Runtime)?;
    let host = open_host()?;
    let socket = match inherit::socket()? {
        Some(socket) => socket,
        None => BoundSocket::bind_with(&setup.socket, Some(&setup.group), setup.mode)?,
    };
    let hub = EventHub::new(setup.events_kept);
    let board = HealthBoard::new(hub.clone());
    let options = NodeOptions {
        marker_dir: setup.marker_dir.clone(),
        tuning: setup.tuning.clone(),
        events: hub.clone(),
        board: board.clone(),
        naming: setup.dns.as_ref().and_then(setup::DnsSetup::start),
        ..NodeOptions::new(&setup.state_dir)
    };
    let node = tokio::select! {
        node = Node::open(maker, host, options) => node?,
        name = signals.next() => {
            tracing::info!(name, "told to end before everything was up");
            return Ok(());
        }
    };
    let lets_in = socket.lets_in();
    let settings = Live::new(setup::server_settings(&setup.args, &setup.file, &lets_in));
    let server = Server::new(node.clone(), settings.clone(), hub, board.clone(), Stop::default());
    let probe = server.probe();
    let metrics = Metrics::new(node.clone(), board.clone(), server.tally());
    let version = env!("CARGO_PKG_VERSION");
    tracing::info!(socket = %socket.path().display(), state = %setup.state_dir.display(), version, "ready");
    let notifier = Notifier::of_process();
    notifier.ready();
    let reload = Reload { setup, settings: &settings, lets_in: &lets_in, board: &board, log };
    let asked_by = {
        let reloading = reload.on_each(hangups, &notifier);
        let watching = watchdog::watch(&notifier, probe, node.clone());
        tokio::select! {
            () = server.serve(&socket) => "a request",
            name = signals.next() => name,
            never = watching => match never {},
            never = reloading => match never {},
            never = metrics.serve(setup.metrics.as_ref()) => match never {},
        }
    };
    tracing::info!(asked_by, "shutting down");
    notifier.stopping();
    drop(socket);
    tokio::select! {
        done = tokio::time::timeout(setup.teardown_time, node.stop()) => match done {
            Ok(()) => tracing::info!("done"),
            Err(_) => tracing::error!("not everything was down in time; leaving the rest to the kernel"),
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
