//! What is wrong with a daemon, as conditions with a stable code.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something an operator may have to do something about. One code and subject at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// For programs; never changes its meaning.
    pub code: String,
    /// What it is about, where there can be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// For people.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Since when, in Unix seconds.
    pub since_unix_secs: u64,
}

/// How bad a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Something works less well than it could.
    Warning,
    /// Something does not work.
    Error,
}

impl Severity {
    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// The answer to `health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Health {
    /// No condition is an error.
    pub ok: bool,
    /// The worst first.
    pub conditions: Vec<Condition>,
}
