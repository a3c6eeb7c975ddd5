//! The way to a daemon: where its socket is, what an answer means for the exit status.

use crate::config::Config;
use crate::daemon::{Surroundings, System};
use crate::ipc::blocking::BlockingClient;
use crate::ipc::client::ClientError;
use crate::ipc::wire::{ErrorCode, Fault, ListPage, ListQuery, ObjectKind, Objects, Request, Response, StatusSnapshot};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How long somebody at a terminal is kept waiting.
const CALL_TIME: Duration = Duration::from_secs(10);

/// Exit statuses beside 0 and 1, in the words of sysexits.h.
const EXIT_UNREACHABLE: u8 = 69;
const EXIT_TRY_AGAIN: u8 = 75;
const EXIT_NOT_PERMITTED: u8 = 77;

/// Where the daemon is.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Target {
    /// Socket of the daemon [default: that of the configuration file, of ginneld, or of zlayer-overlayd]
    #[arg(long, value_name = "PATH", env = "GINNEL_SOCKET")]
    socket: Option<PathBuf>,
    /// Data directory of the daemon; its socket is sought where a ginneld with that directory has it
    #[arg(long, value_name = "DIR", env = "GINNEL_DATA_DIR")]
    data_dir: Option<PathBuf>,
}

/// Flags of the commands that show something.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) target: Target,
    /// Write JSON for programs; fields are added, never changed, as long as "schema" stays the same
    #[arg(long)]
    pub(super) json: bool,
}

/// Where a daemon has its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) socket: PathBuf,
    pub(super) state_dir: PathBuf,
}

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no daemon, or none that can be understood.
    Client(ClientError),
    /// It said no.
    Refused(Fault),
    /// Something of our own.
    Own(String),
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl Failure {
    /// Why, in one line.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Client(error) => error.to_string(),
            Self::Refused(fault) => fault.message.clone(),
            Self::Own(message) => message.clone(),
        }
    }

    /// Says why on standard error.
    pub(super) fn report(self) -> ExitCode {
        match self {
            Self::Client(error) => {
                eprintln!("ginnel: {error}");
                ExitCode::from(if error.is_unreachable() { EXIT_UNREACHABLE } else { 1 })
            }
            Self::Refused(fault) => {
                eprintln!("ginnel: {}", fault.message);
                if let Some(hint) = &fault.hint {
                    eprintln!("        {hint}");
                }
                ExitCode::from(status_of(fault.code))
            }
            Self::Own(message) => {
                eprintln!("ginnel: {message}");
                ExitCode::FAILURE
            }
        }
    }
}

/// The exit status for a refusal.
pub(super) fn status_of(code: Option<ErrorCode>) -> u8 {
    match code {
        Some(ErrorCode::Forbidden) => EXIT_NOT_PERMITTED,
        Some(code) if code.is_retryable() => EXIT_TRY_AGAIN,
        _ => 1,
    }
}

/// Prints what a command has to say, or why it has not.
pub(super) fn finish(outcome: Result<String, Failure>) -> ExitCode {
    match outcome {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}

/// Prints. A reader that left early, like head(1), has what it wanted: then there is no use in going on.
pub(super) fn print(text: &str) -> bool {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).is_ok()
}

/// A connection to the daemon.
pub(super) struct Daemon(pub(super) BlockingClient);

impl Daemon {
    pub(super) fn connect(target: &Target) -> Result<Self, Failure> {
        Self::connect_to(&target.path(), CALL_TIME)
    }

    /// The same at a known socket; no answer is waited for longer than `call_time`.
    pub(super) fn connect_to(socket: &Path, call_time: Duration) -> Result<Self, Failure> {
        Ok(Self(BlockingClient::connect(socket, call_time)?))
    }

    /// Asks, and takes no for a failure.
    pub(super) fn ask(&mut self, request: Request) -> Result<Response, Failure> {
        match self.0.ask(request)? {
            Response::Err(fault) => Err(Failure::Refused(fault)),
            response => Ok(response),
        }
    }

    pub(super) fn status(&mut self) -> Result<StatusSnapshot, Failure> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(odd(&other)),
        }
    }

    /// All objects of a kind, page by page, each handed to `take`.
    pub(super) fn list(
        &mut self,
        kind: ObjectKind,
        mut after: Option<String>,
        mut take: impl FnMut(Objects),
    ) -> Result<(), Failure> {
        loop {
            match self.ask(Request::List(ListQuery { kind, after, limit: None }))? {
                Response::List(ListPage { objects, next }) => {
                    take(objects);
                    after = next;
                }
                other => return Err(odd(&other)),
            }
            if after.is_none() {
                return Ok(());
            }
        }
    }
}

/// An answer to something else.
pub(super) fn odd(response: &Response) -> Failure {
    Failure::Client(ClientError::Unintelligible(format!("{response:?}")))
}

impl Target {
    /// The socket to ask.
    pub(super) fn path(&self) -> PathBuf {
        self.path_in(&Self::root(), &Config::read_default().unwrap_or_default())
    }

    /// Whoever asks, the daemon of the node runs as root.
    fn root() -> Surroundings {
        Surroundings { root: true, ..Surroundings::of_process() }
    }

    fn path_in(&self, root: &Surroundings, file: &Config) -> PathBuf {
        if let Some(socket) = &self.socket {
            return socket.clone();
        }
        let of_data_dir = |dir: &Path| System::Ginnel.socket(dir, root);
        if let Some(dir) = &self.data_dir {
            return of_data_dir(dir);
        }
        if let Some(told) = file.ipc.socket.clone().or_else(|| file.data_dir.as_deref().map(of_data_dir)) {
            return told;
        }
        let sockets = [System::Ginnel, System::Zlayer].map(|system| system.socket(&system.data_dir(root), root));
        let found = sockets.iter().find(|socket| socket.exists());
        found.unwrap_or(&sockets[0]).clone()
    }
}

impl Place {
    /// Where the daemon of `target` has its things, with `file` as its configuration.
    pub(super) fn find(target: &Target, file: &Config) -> Self {
        Self::find_in(target, &Target::root(), file)
    }

    fn find_in(target: &Target, root: &Surroundings, file: &Config) -> Self {
        let socket = target.path_in(root, file);
        let of = |system: System| system.socket(&system.data_dir(root), root);
        let system = if socket == of(System::Zlayer) { System::Zlayer } else { System::Ginnel };
        let data_dir = target.data_dir.clone().or_else(|| file.data_dir.clone());
        let state_dir = system.state_dir(&data_dir.unwrap_or_else(|| system.data_dir(root)));
        Self { socket, state_dir }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_sought_where_it_was_said_last() {
        let root = Surroundings { root: true, ..Surroundings::default() };
        let path = |socket: Option<&str>, data_dir: Option<&str>, file: &str| {
            let target = Target { socket: socket.map(Into::into), data_dir: data_dir.map(Into::into) };
            target.path_in(&root, &Config::parse(file).unwrap()).display().to_string()
        };
        let file = "data_dir = \"/f\"\n[ipc]\nsocket = \"/f.sock\"\n";
        assert_eq!(path(Some("s"), Some("/d"), file), "s");
        assert_eq!(path(None, Some("/d"), file), "/d/run/ginneld.sock");
        assert_eq!(path(None, None, file), "/f.sock");
        assert_eq!(path(None, None, "data_dir = \"/f\"\n"), "/f/run/ginneld.sock");
        assert_eq!(path(None, Some("/var/lib/ginnel"), ""), "/run/ginnel/ginneld.sock");
    }

    #[test]
    fn a_socket_tells_whose_data_directory_it_goes_with() {
        let root = Surroundings { root: true, ..Surroundings::default() };
        let state_dir = |socket: Option<&str>, data_dir: Option<&str>, file: &str| {
            let target = Target { socket: socket.map(Into::into), data_dir: data_dir.map(Into::into) };
            Place::find_in(&target, &root, &Config::parse(file).unwrap()).state_dir.display().to_string()
        };
        assert_eq!(state_dir(Some("/s"), None, ""), "/var/lib/ginnel");
        assert_eq!(state_dir(Some("/s"), None, "data_dir = \"/f\"\n"), "/f");
        assert_eq!(state_dir(None, Some("/d"), "data_dir = \"/f\"\n"), "/d");
        assert_eq!(state_dir(Some("/var/run/zlayer-overlayd.sock"), None, ""), "/var/lib/zlayer/overlayd");
    }

    #[test]
    fn refusals_have_a_status_that_says_what_to_do() {
        for (code, status) in [
            (None, 1),
            (Some(ErrorCode::Conflict), 1),
            (Some(ErrorCode::Forbidden), 77),
            (Some(ErrorCode::Busy), 75),
            (Some(ErrorCode::Stopping), 75),
        ] {
            assert_eq!(status_of(code), status, "{code:?}");
        }
    }
}
