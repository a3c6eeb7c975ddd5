//! What a connection says of itself and is told about the daemon, and what it subscribes to.

use super::EventKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The contract of `zlayer-overlayd` 0.13.0. Additions do not change it: clients ask for features by name.
pub const PROTOCOL_VERSION: u32 = 1;

/// What this daemon can do beyond the published contract. A client that finds a name here may use what it stands for.
pub const FEATURES: &[&str] = &[
    "bulk",
    "descriptors",
    "error_codes",
    "events",
    "gc",
    "health",
    "list",
    "networks",
    "owners",
    "resolv_conf",
    "roles",
    "sync",
];

/// The answer to `hello`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hello {
    /// Version of the daemon.
    pub version: String,
    /// Version of the contract.
    pub protocol: u32,
    /// What it can do beyond that.
    pub features: Vec<String>,
    /// Drawn anew at every start, as in `status`.
    pub boot_id: String,
    /// What this caller may do, least first.
    pub roles: Vec<Role>,
    /// Longest frame, in bytes of its body.
    pub frame_bytes_max: usize,
}

/// What a caller may do. Each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Look, and subscribe.
    Read,
    /// Attach and detach workloads, with their addresses and names.
    Attach,
    /// Everything.
    Admin,
}

impl Role {
    /// All of them, least first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Attach, Self::Admin];

    /// Its word on the wire and in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Attach => "attach",
            Self::Admin => "admin",
        }
    }
}

/// The fields of `subscribe`. One subscription per connection; another takes the place of the first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribe {
    /// Which events; all kinds where empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<EventKind>,
    /// The cursor of the last event that was seen; events from then on where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
}

/// The answer to `subscribe`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Subscribed {
    /// Where the subscription begins: events behind this one follow.
    pub cursor: String,
    /// Nothing between `after` and `cursor` is missing. False where the daemon has started anew or forgotten it: ask for
    /// the state.
    pub complete: bool,
    /// Events that are gone, where they can be counted: an upper bound.
    pub lost: u64,
}
