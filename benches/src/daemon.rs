//! A daemon with an overlay, in an empty network of its own: the subject of what is measured over the socket.

use crate::versus::contender::{Contender, Kind};
use ginnel_control::host::Netns;
use ginnel_control::lab::orchestrator::{Orchestrator, OrchestratorError, Overlay};
use ginnel_control::lab::process::{Keeper, Process, Scratch};
use ginnel_control::lab::user_ns;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

/// What it gets to start.
const START_WITHIN: Duration = Duration::from_secs(15);

/// Makes the ground for daemons: paths that stay right, rights, and somebody to end what was started. To be called before
/// the process starts other threads.
///
/// # Errors
/// Where namespaces or `/dev/net/tun` cannot be had; the error says what to do.
pub fn prepare(contenders: &mut [Contender]) -> Result<Keeper, Box<dyn Error>> {
    for contender in contenders {
        contender.path = std::path::absolute(&contender.path)?;
    }
    user_ns::check_tun()?;
    user_ns::enter()?;
    let keeper = Keeper::default();
    keeper.clear_on_signal()?;
    Ok(keeper)
}

/// The time below which `percent` of these are, in milliseconds; sorts them.
#[must_use]
pub fn percentile_ms(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let at = times.get((times.len() * percent).div_ceil(100).saturating_sub(1));
    at.map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// It ends when this is dropped.
pub struct Daemon {
    scratch: Scratch,
    process: Process,
}

impl Daemon {
    /// Starts one and sets its overlay up: the cluster 10.200.0.0/16, of which it has 10.200.5.0/24.
    ///
    /// # Errors
    /// Where `contender` is no daemon, or does not answer.
    pub fn start(contender: &Contender, keeper: &Keeper) -> Result<Self, Box<dyn Error>> {
        let scratch = keeper.scratch()?;
        let netns = Netns::create()?;
        netns.bring_lo_up()?;
        let (data, socket) = (scratch.path().join("data"), scratch.path().join("sock"));
        let mut command = match contender.kind {
            Kind::Ginnel => {
                let mut command = Command::new(&contender.path);
                command.args(["daemon", "--data-dir"]).arg(data).arg("--socket").arg(socket).env("RUST_LOG", "warn");
                command
            }
            Kind::Zlayer => contender.daemon_command(&data, &socket),
            _ => return Err(format!("{} is no daemon", contender.name).into()),
        };
        let process = keeper.start(&netns, &mut command, &scratch.path().join("log"))?;
        let daemon = Self { scratch, process };
        let overlay = Overlay {
            deployment: "bench".into(),
            instance: "1".into(),
            cluster: "10.200.0.0/16".parse()?,
            slice: "10.200.5.0/24".parse()?,
            port: 51_420,
        };
        let set_up = daemon.connect().and_then(|mut orchestrator| orchestrator.set_up(1, &overlay));
        set_up.map_err(|error| daemon.blame(&error))?;
        Ok(daemon)
    }

    /// A connection to it.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn connect(&self) -> Result<Orchestrator, OrchestratorError> {
        Orchestrator::connect(&self.scratch.path().join("sock"), START_WITHIN)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `error` with what the daemon has to say to it.
    #[must_use]
    pub fn blame(&self, error: &dyn std::fmt::Display) -> String {
        format!("{error}; the daemon's last words: {}", self.process.last_words())
    }
}
