//! `ginnel device`: one WireGuard device and its control socket, and nothing else. What wireguard-go does, for
//! `wg-quick` (`WG_QUICK_USERSPACE_IMPLEMENTATION`) and everyone who configures with `wg` and `ip`.
//!
//! ```text
//! launcher ──starts itself again──► device process: interface → control socket → "ready" ──► serves
//!    ▲ waits on a pipe ───────────────────────────────────────────────────────────┘
//! ```
//!
//! The device ends, and takes interface and socket file with it, on SIGTERM and SIGINT, when the interface is deleted,
//! and when the socket file is removed. Addresses, routes and the state of the link are left to the caller.

mod background;
mod ending;
mod logging;

#[cfg(test)]
mod tests;

use crate::flags;
use crate::uapi::{self, Configurable, UapiError, UapiServer};
use ending::{End, Ending};
use ginnel_backends::device::{Device, DeviceError, DeviceOptions};
use ginnel_engine::event::Event;
use ginnel_engine::limits::{MTU_MAX, MTU_MIN};
use ginnel_engine::port::Offload;
use logging::LogLevel;
use std::io::{self, Write};
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// What a bare device is told on its command line.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// Stay in the foreground (also: WG_PROCESS_FOREGROUND=1)
    #[arg(short, long)]
    pub foreground: bool,
    /// MTU of the interface at start; later changes are followed
    #[arg(long, value_name = "N", default_value_t = 1420, value_parser = mtu_range())]
    pub mtu: u16,
    /// Worker threads; 0 for one per core
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = flags::workers)]
    pub workers: usize,
    /// Do not use this offload; may be given several times
    #[arg(long, value_name = "NAME", value_parser = flags::offload)]
    pub offload_off: Vec<Offload>,
    /// Leave the workers only the system calls they need
    #[arg(long, env = "GINNEL_SECCOMP", value_parser = clap::builder::FalseyValueParser::new())]
    pub seccomp: bool,
    /// Name of the interface to create
    #[arg(value_name = "IFACE")]
    pub interface: String,
}

/// Runs a bare device to its end, or, without `--foreground`, starts one in the background and returns when it is
/// ready. Prints what goes wrong. Logs go to standard error, as much as `LOG_LEVEL` (verbose, error or silent) asks for.
///
/// The background process is this program again with the same arguments, so the caller must arrive here from them.
#[must_use]
pub fn run(args: DeviceArgs) -> ExitCode {
    let environment = Environment::read();
    logging::start(environment.log_level.unwrap_or(LogLevel::Error));
    match run_with(&args, &environment, Path::new(uapi::DIRECTORY), Device::open) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error may be closed, and there is nowhere else to complain.
            let _ = writeln!(io::stderr(), "{}: {error}", args.interface);
            ExitCode::FAILURE
        }
    }
}

/// Why a bare device did not start.
#[derive(Debug, thiserror::Error)]
enum BareError {
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Uapi(#[from] UapiError),
    #[error("{action}: {source}")]
    System { action: &'static str, source: io::Error },
    #[error("the device process did not start ({0}); --foreground shows it at work")]
    Background(ExitStatus),
}

/// The part of a device that a bare process needs; the tests have one without a kernel.
trait BareDevice: Configurable {
    fn name(&self) -> String;
    fn take_events(&self) -> Option<Receiver<Event>>;
}

impl BareDevice for Device {
    fn name(&self) -> String {
        Device::name(self).to_owned()
    }

    fn take_events(&self) -> Option<Receiver<Event>> {
        Device::take_events(self)
    }
}

/// What a bare device is told by its environment.
#[derive(Clone, Debug, Default)]
struct Environment {
    /// `WG_PROCESS_FOREGROUND=1`.
    foreground: bool,
    /// A launcher waits for the word that the device is ready.
    launched: bool,
    /// `LOG_LEVEL`, where it is set.
    log_level: Option<LogLevel>,
}

impl Environment {
    fn read() -> Self {
        let is_set = |name| std::env::var_os(name).is_some_and(|value| value == "1");
        Self {
            foreground: is_set(background::FOREGROUND_VARIABLE),
            launched: is_set(background::LAUNCHED_VARIABLE),
            log_level: std::env::var("LOG_LEVEL").ok().map(|text| LogLevel::from_text(&text)),
        }
    }
}

fn run_with<D: BareDevice>(
    args: &DeviceArgs,
    environment: &Environment,
    directory: &Path,
    open: impl FnOnce(&DeviceOptions) -> Result<D, DeviceError>,
) -> Result<(), BareError> {
    if !args.foreground && !environment.foreground {
        return background::launch();
    }
    // First of all, so that a signal during the start finds somebody to clean up.
    let ending = Ending::new()?;
    let device = Arc::new(open(&args.options())?);
    if let Some(events) = device.take_events() {
        ending.follow_events(events)?;
    }
    let lost = ending.sender();
    let server = UapiServer::start(directory, &device.name(), device.clone(), move || lost.send(End::SocketRemoved))?;
    if environment.launched {
        let keep_stderr = environment.log_level.is_some_and(|level| level != LogLevel::Silent);
        background::detach(keep_stderr)?;
    }
    tracing::info!(interface = device.name(), socket = %server.path().display(), "the device is ready");
    let end = ending.wait();
    tracing::info!(interface = device.name(), %end, "the device ends");
    Ok(())
}

impl DeviceArgs {
    fn options(&self) -> DeviceOptions {
        DeviceOptions {
            mtu: self.mtu,
            workers: self.workers,
            offloads_off: self.offload_off.clone(),
            seccomp: self.seccomp,
            ..DeviceOptions::new(&self.interface)
        }
    }
}

fn mtu_range() -> clap::builder::RangedI64ValueParser<u16> {
    clap::value_parser!(u16).range(i64::from(MTU_MIN)..=i64::from(MTU_MAX))
}
