//! The log: lines on standard error, filtered by `RUST_LOG`. Keys and credentials have no way in: their types do not
//! print.

use std::io::{IsTerminal, stderr};
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` does not say. The handshake library is silenced because its lines are per packet.
const DEFAULT_FILTER: &str = "info,boringtun=off";

/// Starts the log of the process. A second call changes nothing.
pub(super) fn start() {
    let told = std::env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let (filter, problem) = match told.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
        None => (EnvFilter::new(DEFAULT_FILTER), None),
    };
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours).try_init();
    if let Some(error) = problem {
        tracing::warn!(%error, "RUST_LOG is not a filter; using {DEFAULT_FILTER}");
    }
}
