//! The configuration file: what an operator can set, read with the place of every mistake.
//!
//! ```text
//! text ──► toml (positions) ──► keys (a table: name, meaning, default, reader) ──► Config
//!                                   └──► the commented example, the check of the paper, the suggestions
//! ```
//!
//! A [`Config`] holds what the file says and nothing else; defaults that depend on the system, flags and the environment
//! are laid over it by the daemon. All mistakes are reported at once, and one is enough for the file not to be used.
//!
//! Not here: what the settings do.

mod example;
mod keys;
mod principal;
mod problem;
mod value;

pub use example::example;
pub use keys::{KEYS, Key};
pub use principal::{PrincipalSpec, resolve};
pub use problem::{ConfigError, Problem};

use crate::dns::StaticRecord;
use crate::ipc::wire::Role;
use ginnel_engine::port::Offload;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Where the file is unless told otherwise.
pub const DEFAULT_PATH: &str = "/etc/ginnel/ginneld.toml";

/// A configuration longer than this is none.
const BYTES_MAX: u64 = 1024 * 1024;

/// What a file says. `None` and empty are what it does not mention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `[ipc]`.
    pub ipc: Ipc,
    /// `[access]`.
    pub access: Access,
    /// `[device]`.
    pub device: Device,
    /// `[log]`.
    pub log: Log,
    /// `[ipam]`.
    pub ipam: Ipam,
    /// `[dns]`.
    pub dns: Dns,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// The keys that are there, as they stand in the file.
    pub said: BTreeMap<&'static str, String>,
}

/// The socket for orders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipc {
    /// Where it is.
    pub socket: Option<PathBuf>,
    /// The group it is given to.
    pub group: Option<String>,
    /// Its mode.
    pub mode: Option<u32>,
    /// Connections at once.
    pub connections: Option<usize>,
    /// Seconds for one request.
    pub request_timeout_secs: Option<u64>,
    /// Events remembered for subscribers.
    pub events_kept: Option<usize>,
}

/// Who may do what, in place of whom the file of the socket lets in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// For [`Role::Admin`]; `None` leaves it to the file of the socket.
    pub admin: Option<Vec<PrincipalSpec>>,
    /// For [`Role::Attach`].
    pub attach: Vec<PrincipalSpec>,
    /// For [`Role::Read`].
    pub read: Vec<PrincipalSpec>,
}

/// The WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Directory of the control sockets for `wg`.
    pub uapi_dir: Option<PathBuf>,
    /// Packet worker threads; 0 for one per core.
    pub workers: Option<usize>,
    /// Offloads to do without.
    pub offload_off: Vec<Offload>,
    /// Leave packet workers only the system calls they need.
    pub seccomp: bool,
}

/// The log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// How lines are written.
    pub format: Option<LogFormat>,
    /// What is logged: a filter as `RUST_LOG` takes it.
    pub level: Option<String>,
    /// Directory of log files.
    pub dir: Option<PathBuf>,
    /// Files kept there.
    pub keep: Option<usize>,
}

/// How lines of the log are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// To the journal with fields where standard error is the journal's, else as text.
    #[default]
    Auto,
    /// As text on standard error.
    Text,
    /// As a JSON object per line on standard error.
    Json,
    /// To the journal with fields.
    Journald,
}

/// Addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipam {
    /// Seconds an address rests after it was given back.
    pub quarantine_secs: Option<u64>,
}

/// The name service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Whether there is one.
    pub enabled: Option<bool>,
    /// The port at the addresses of the overlay.
    pub port: Option<u16>,
    /// Addresses to answer at, beside those of the overlay.
    pub listen: Vec<SocketAddr>,
    /// Zones answered from the records of the overlay alone.
    pub zones: Option<Vec<String>>,
    /// Domains in which names of one label are looked for.
    pub search: Vec<String>,
    /// Servers for everything else; those of `resolv.conf` where empty.
    pub upstreams: Vec<SocketAddr>,
    /// Servers for the names of a domain.
    pub split: Vec<(String, Vec<SocketAddr>)>,
    /// Records besides those that are registered.
    pub records: Vec<StaticRecord>,
    /// Seconds an answer may be remembered.
    pub ttl_secs: Option<u32>,
    /// Seconds it may be remembered that there is nothing.
    pub negative_ttl_secs: Option<u32>,
}

/// The metrics endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Where it listens.
    pub listen: Option<MetricsListen>,
    /// Mode of a Unix socket.
    pub mode: Option<u32>,
    /// The group a Unix socket is given to.
    pub group: Option<String>,
}

/// Where metrics are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsListen {
    /// A Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// As it stands in the file.
impl std::fmt::Display for MetricsListen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl Access {
    /// The list for a role, where the file has one.
    #[must_use]
    pub fn list(&self, role: Role) -> Option<&[PrincipalSpec]> {
        match role {
            Role::Admin => self.admin.as_deref(),
            Role::Attach => Some(&self.attach),
            Role::Read => Some(&self.read),
        }
    }
}

impl LogFormat {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Text, Self::Json, Self::Journald];

    /// Its word in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journald => "journald",
        }
    }
}

impl Config {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError`], with every mistake and its place.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(unreadable)?.len();
        if bytes > BYTES_MAX {
            return Err(unreadable(std::io::Error::other(format!("{bytes} bytes are no configuration"))));
        }
        let text = std::fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text).map_err(|problems| ConfigError::Wrong { path: path.to_owned(), problems })
    }

    /// Reads the file at the usual place; without one there, it says nothing.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_default() -> Result<Self, ConfigError> {
        match Self::read(Path::new(DEFAULT_PATH)) {
            Err(ConfigError::Unreadable { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            read => read,
        }
    }

    /// Keys that this and another file say differently and that only a start reads.
    #[must_use]
    pub fn needs_restart(&self, other: &Self) -> Vec<&'static str> {
        let differs = |key: &&Key| !key.reloads && self.said.get(key.name) != other.said.get(key.name);
        KEYS.iter().filter(differs).map(|key| key.name).collect()
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Every mistake in it, in the order of their places.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        keys::read(text)
    }
}

/// A socket address, or an address alone with `port`.
fn socket_addr(text: &str, port: u16) -> Option<SocketAddr> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests;
