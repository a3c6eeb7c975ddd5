//! The commands that ask a daemon.

use super::{json, table};
use crate::daemon::{Surroundings, System};
use crate::ipc::blocking::BlockingClient;
use crate::ipc::client::ClientError;
use crate::ipc::wire::StatusSnapshot;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `EX_UNAVAILABLE` of sysexits: there is no daemon to talk to.
const EXIT_UNREACHABLE: u8 = 69;

/// How long somebody at a terminal is kept waiting.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Flags of the commands that ask a daemon.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Socket of the daemon [default: /run/ginnel/ginneld.sock, or that of zlayer-overlayd where only that is there]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Write JSON for programs; fields are added, never changed, as long as "schema" stays the same
    #[arg(long)]
    json: bool,
}

/// `ginnel status`.
pub(super) fn status(args: &Args) -> ExitCode {
    show(args, |status| if args.json { json::status(status) } else { table::status(status, now()) })
}

/// `ginnel peers`.
pub(super) fn peers(args: &Args) -> ExitCode {
    show(args, |status| if args.json { json::peers(status) } else { table::peers(status, now()) })
}

fn show(args: &Args, render: impl FnOnce(&StatusSnapshot) -> String) -> ExitCode {
    let socket = args.socket.clone().unwrap_or_else(default_socket);
    match ask(&socket) {
        Ok(status) => {
            // A reader that left early, like head(1), has what it wanted.
            let _ = std::io::stdout().write_all(render(&status).as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ginnel: {error}");
            ExitCode::from(if error.is_unreachable() { EXIT_UNREACHABLE } else { 1 })
        }
    }
}

fn ask(socket: &Path) -> Result<StatusSnapshot, ClientError> {
    BlockingClient::connect(socket, CALL_TIME)?.status()
}

/// The first daemon of this node that has a socket; its own name where none has.
fn default_socket() -> PathBuf {
    // Whoever asks, the daemon of the node runs as root.
    let root = Surroundings { root: true, ..Surroundings::of_process() };
    let sockets = [System::Ginnel, System::Zlayer].map(|system| system.socket(&system.data_dir(&root), &root));
    let found = sockets.iter().find(|socket| socket.exists());
    found.unwrap_or(&sockets[0]).clone()
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
