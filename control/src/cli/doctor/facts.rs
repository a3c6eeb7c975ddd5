//! What the checks look at: plain values, so that a check is a function of them and nothing else.

use crate::host::ports::{Holder, Protocol};
use crate::ipc::wire::{Condition, StatusSnapshot};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// All that was found out. What could not be is `None`, empty, or not in a map; no check complains of that.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Unix seconds.
    pub(super) now: i64,
    /// Whether the one who asks is root.
    pub(super) root: bool,
    /// The capabilities of the one who asks, a bit each.
    pub(super) own_capabilities: Option<u64>,
    pub(super) config: ConfigFacts,
    pub(super) socket: SocketFacts,
    pub(super) daemon: Option<DaemonFacts>,
    /// The process of the daemon, by the lock or the socket.
    pub(super) process: Option<ProcessFacts>,
    pub(super) state: StateFacts,
    pub(super) tun: TunFacts,
    /// Addresses the daemon is to have, and who has them.
    pub(super) ports: Vec<PortFacts>,
    /// Values below `/proc/sys`, by path.
    pub(super) sysctls: BTreeMap<String, String>,
    pub(super) links: Vec<LinkFacts>,
    /// Paths to endpoints of peers.
    pub(super) paths: Vec<PathFacts>,
    /// Whether the kernel has nf_tables.
    pub(super) nf_tables: Option<bool>,
    /// What could not be looked at, and why.
    pub(super) unseen: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ConfigFacts {
    pub(super) path: PathBuf,
    /// Mistakes with their places, or why it cannot be read.
    pub(super) problems: Vec<String>,
    /// Keys that nothing goes by.
    pub(super) unread: Vec<&'static str>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct SocketFacts {
    pub(super) path: PathBuf,
    /// Whose the file is.
    pub(super) file: Option<FileFacts>,
    pub(super) reach: Reach,
}

/// How far a request came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reach {
    /// It was answered.
    #[default]
    Answered,
    /// There is no file.
    Missing,
    /// There is one, and nobody behind it.
    Dead,
    /// It may not be opened.
    Denied,
    /// The caller has no role.
    NoRole(String),
    /// Nothing of use came back.
    Silent(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileFacts {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Without the kind of the file.
    pub(super) mode: u32,
}

/// What the daemon tells.
#[derive(Clone, Debug, Default)]
pub(super) struct DaemonFacts {
    pub(super) status: StatusSnapshot,
    pub(super) conditions: Vec<Condition>,
    /// Interfaces of its services, where it tells them.
    pub(super) service_links: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct ProcessFacts {
    pub(super) pid: u32,
    pub(super) name: String,
    /// Effective capabilities, a bit each.
    pub(super) capabilities: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct StateFacts {
    pub(super) dir: PathBuf,
    pub(super) found: Option<FileFacts>,
    /// Why it cannot be looked into, where that is not for want of rights.
    pub(super) problem: Option<String>,
    pub(super) key: Option<FileFacts>,
    /// The process that holds the lock.
    pub(super) locked_by: Option<u32>,
    /// The instance whose mark the links of this daemon have.
    pub(super) instance: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum TunFacts {
    #[default]
    Usable,
    Missing,
    /// May not be opened by the one who asks.
    Denied(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortFacts {
    /// Whose it is to be.
    pub(super) purpose: &'static str,
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// Who has it.
    pub(super) holder: Option<Holder>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct LinkFacts {
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) alias: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct PathFacts {
    pub(super) to: IpAddr,
    /// Largest IP packet.
    pub(super) mtu: u32,
    /// What it leaves for packets of the overlay.
    pub(super) room: u32,
}

impl Facts {
    /// The global interface, while it is up.
    pub(super) fn interface(&self) -> Option<&str> {
        self.daemon.as_ref()?.status.interface.as_deref()
    }

    /// A value below `/proc/sys`.
    pub(super) fn sysctl(&self, name: &str) -> Option<&str> {
        self.sysctls.get(name).map(String::as_str)
    }

    /// A number below `/proc/sys`.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.sysctl(name)?.parse().ok()
    }
}
