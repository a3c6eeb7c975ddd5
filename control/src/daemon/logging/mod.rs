//! The log of the daemon: lines to standard error as text or JSON, or to the journal with fields; to a file a day besides,
//! where there is a directory for that.
//!
//! ```text
//! tracing ──► filter ──► Limiter ──► queue ──► a thread of its own: encoders, sinks, rotation
//! ```
//!
//! Whoever logs never waits for a disk or a full pipe: where the queue is full, lines are lost and counted. One place in
//! the program has so many lines in a window of time, the rest is counted, too. Keys and credentials have no way in: their
//! types do not print.

mod file;
mod journal;
mod layer;
mod limit;
#[cfg(feature = "otlp")]
mod otlp;
mod record;
mod writer;

use crate::config::LogFormat;
use file::LogFiles;
use layer::LogLayer;
use limit::Limiter;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::sync::Arc;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};
use writer::{Console, Writer};

/// What is logged where nobody says.
pub(super) const DEFAULT_FILTER: &str = "info";

/// The variable that overrides the configured filter.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// How the daemon logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogSetup {
    pub(super) format: LogFormat,
    /// A filter, where one is configured.
    pub(super) level: Option<String>,
    /// Where log files go, if anywhere.
    pub(super) files: Option<LogFilesSetup>,
    /// What the journal calls this daemon.
    pub(super) identifier: &'static str,
}

/// Where log files go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFilesSetup {
    pub(super) dir: PathBuf,
    /// Name without the date.
    pub(super) stem: &'static str,
    /// How many are kept.
    pub(super) keep: usize,
}

/// The log of the process. Dropping it writes what is in the queue.
pub(super) struct Log {
    /// None where the process has set up its own.
    running: Option<(Writer, reload::Handle<EnvFilter, Registry>)>,
    #[cfg(feature = "otlp")]
    _collector: Option<otlp::Collector>,
}

impl Log {
    /// Starts the log of the process. What cannot be had of it is its own first line.
    pub(super) fn start(setup: &LogSetup) -> Self {
        let (filter, complaint) = filter(setup.level.as_deref());
        let (filter, handle) = reload::Layer::new(filter);
        let limiter = Arc::new(Limiter::default());
        let files = setup.files.as_ref().map(LogFiles::new);
        let writer = Writer::start(console(setup), files, limiter.clone());
        let registry = Registry::default().with(filter).with(LogLayer::new(limiter, writer.queue()));
        #[cfg(feature = "otlp")]
        let (registry, collector) = {
            let (layer, collector) = otlp::connect(setup.identifier);
            (registry.with(layer), collector)
        };
        let running = registry.try_init().is_ok().then_some((writer, handle));
        if let Some(complaint) = complaint {
            tracing::warn!("{complaint}");
        }
        Self {
            running,
            #[cfg(feature = "otlp")]
            _collector: collector,
        }
    }

    /// Changes what is logged, unless the environment says that.
    pub(super) fn set_level(&self, level: Option<&str>) {
        let (filter, complaint) = filter(level);
        if let Some(complaint) = complaint {
            tracing::warn!("{complaint}");
        }
        if let Some((_, handle)) = &self.running
            && let Err(error) = handle.reload(filter)
        {
            tracing::warn!(%error, "the filter of the log cannot be changed");
        }
    }
}

/// The environment's filter, the configured one, or the default; and what is wrong with the environment's.
fn filter(configured: Option<&str>) -> (EnvFilter, Option<String>) {
    let told = std::env::var(FILTER_VARIABLE).ok().filter(|filter| !filter.trim().is_empty());
    let fallback = configured.unwrap_or(DEFAULT_FILTER);
    match told.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => {
            let complaint = format!("{FILTER_VARIABLE} is no filter ({error}); using {fallback}");
            (EnvFilter::new(fallback), Some(complaint))
        }
        None => (EnvFilter::new(fallback), None),
    }
}

fn console(setup: &LogSetup) -> Console {
    let journal = || journal::Journal::connect(setup.identifier);
    let to_journal = match setup.format {
        LogFormat::Auto if journal::is_standard_error() => journal(),
        LogFormat::Journald => journal(),
        LogFormat::Json => return Console::Json,
        LogFormat::Auto | LogFormat::Text => None,
    };
    match to_journal {
        Some(journal) => Console::Journal(journal),
        None => Console::Text { colours: stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() },
    }
}
