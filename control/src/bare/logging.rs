//! Logs of a bare device: to standard error, in the three levels of wireguard-go.

use std::io::{self, IsTerminal};
use tracing_subscriber::filter::LevelFilter;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Verbose,
    /// What went wrong, and what was refused.
    Error,
    /// Nothing.
    Silent,
}

impl LogLevel {
    /// Reads the value of `LOG_LEVEL`. What is no level counts as [`LogLevel::Error`], the default.
    pub fn from_text(text: &str) -> Self {
        match text {
            "verbose" | "debug" => Self::Verbose,
            "silent" => Self::Silent,
            _ => Self::Error,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Self::Verbose => LevelFilter::DEBUG,
            // Our warnings are errors in the words of wireguard-go, which has nothing between these and verbose.
            Self::Error => LevelFilter::WARN,
            Self::Silent => LevelFilter::OFF,
        }
    }
}

/// Starts logging. Does nothing where the program has set up its own.
pub fn start(level: LogLevel) {
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level.filter())
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_wireguard_go() {
        for (text, filter) in [
            ("verbose", LevelFilter::DEBUG),
            ("debug", LevelFilter::DEBUG),
            ("error", LevelFilter::WARN),
            ("silent", LevelFilter::OFF),
            ("", LevelFilter::WARN),
            ("loud", LevelFilter::WARN),
        ] {
            assert_eq!(LogLevel::from_text(text).filter(), filter, "{text}");
        }
    }
}
