//! How the process ends, in the words of sysexits.h where they fit, so that a service manager can tell what a restart would
//! not cure.

use std::process::ExitCode;

/// The reasons for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Asked to.
    Done,
    /// A start that failed.
    Failed,
    /// A right is missing: `EX_NOPERM`.
    NotPermitted,
    /// The configuration is wrong: `EX_CONFIG`.
    Misconfigured,
}

impl Exit {
    /// The status.
    #[must_use]
    pub fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::NotPermitted => 77,
            Self::Misconfigured => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.status())
    }
}
