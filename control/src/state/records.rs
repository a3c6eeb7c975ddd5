//! The objects on disk. Where the wire has a word for something it is used here too: its spelling is frozen anyway.
//!
//! Added fields carry `#[serde(default)]`, so that the next version reads what this one wrote.

use crate::host::sysctl::Ledger;
use crate::ipc::wire::{AttachHandle, NatConfigSpec, OverlayMode, PublishedPort, Secret};
use ginnel_engine::key::PublicKey;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

/// What the node was told about itself. There is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Number of the node in the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_id: Option<u64>,
    /// The key the cluster knows the node by; not validated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advertised_key: Option<String>,
}

/// The global overlay as it was set up last. There is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GlobalOverlay {
    /// Name of the deployment.
    pub deployment: String,
    /// Name of this instance of it.
    pub instance_id: String,
    /// Prefix of the cluster.
    pub cluster: IpNet,
    /// This node's share of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<IpNet>,
    /// UDP port; 0 lets the kernel choose.
    pub port: u16,
    /// What the kernel chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen_port: Option<u16>,
    /// Whether it is to be up. One that was torn down still says which cluster this is.
    pub up: bool,
    /// Settings of NAT traversal, if any were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatConfigSpec>,
}

/// Who a dedicated overlay is: made at its first setup, kept until its teardown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The service.
    pub service: String,
    /// Its private key, base64.
    pub private_key: Secret,
    /// The public half.
    #[serde(with = "key_text")]
    pub public_key: PublicKey,
    /// Its UDP port.
    pub port: u16,
    /// Name of its interface.
    pub interface: String,
    /// Its subnet.
    pub subnet: IpNet,
}

/// What the record for the replaced daemon was or is to be when it was written last: whoever finds another there knows
/// that somebody else wrote it. There is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Checksums of the content.
    pub known: Vec<String>,
}

/// A service that is set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub service: String,
    /// Its mode.
    pub mode: OverlayMode,
    /// Name of the bridge its workloads are ports of: its own, or the shared one.
    pub bridge: String,
}

/// A bridge of ours and the subnet on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bridge {
    /// Name of the link.
    pub bridge: String,
    /// What the subnet was assigned for: the service, or the word for the shared bridge.
    pub subnet_of: String,
    /// The number the node had then.
    pub node_id: u64,
    /// The subnet.
    pub subnet: IpNet,
    /// Address of the bridge.
    pub gateway: IpAddr,
}

/// Which overlay a peer belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// That of the node.
    Global,
    /// The dedicated one of this service.
    Service(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Global => f.write_str("global"),
            Scope::Service(service) => write!(f, "service {service}"),
        }
    }
}

/// A WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is a peer.
    pub scope: Scope,
    /// Its key.
    #[serde(with = "key_text")]
    pub public_key: PublicKey,
    /// `ip:port` or `name:port` as it was asked for; absent where the peer is expected to call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Seconds between keepalives; 0 is off.
    pub keepalive_secs: u16,
    /// Its prefixes.
    pub allowed_ips: Vec<IpNet>,
    /// Its preshared key, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key: Option<Secret>,
}

/// An address that is in use, or was until a moment ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub ip: IpAddr,
    /// Whose it is.
    pub owner: String,
    /// Which lease of this address it is: greater is later.
    pub generation: u64,
    /// When it was given out, in milliseconds of Unix time; 0 where that was not noted.
    #[serde(default)]
    pub given_ms: u64,
    /// When it was given back, in milliseconds of Unix time; absent while it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<u64>,
}

/// A workload on the overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// How it was named when it was attached.
    pub handle: AttachHandle,
    /// Its service.
    pub service: String,
    /// Who asked for it, where that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The address it is told of: in its service, where it has a link there.
    pub ip: IpAddr,
    /// Its address in the global overlay, where that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub global_ip: Option<IpAddr>,
    /// When its process started, in clock ticks since the kernel did: tells it from a later one with the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ticks: Option<u64>,
    /// Inode of its network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<u64>,
    /// Where its network namespace was found, if by a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns_path: Option<String>,
    /// Names of the host's ends of its links.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// Whether its service goes with the last such workload.
    #[serde(default)]
    pub ephemeral: bool,
    /// The network it is fenced into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_network: Option<String>,
    /// Its resolver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_server: Option<IpAddr>,
    /// Its search domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dns_domain: Option<String>,
    /// Ports of the host that lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishedPort>,
    /// The private key of a guest, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_key: Option<Secret>,
    /// Since when, in milliseconds of Unix time.
    #[serde(default)]
    pub since_ms: u64,
}

/// A name and its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The name, lower case, without a dot at its end.
    pub name: String,
    /// Its addresses, in the order they were given.
    pub addresses: Vec<IpAddr>,
}

/// Who on other nodes is in an isolation network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The network.
    pub network: String,
    /// Their addresses.
    pub members: BTreeSet<IpAddr>,
}

/// Kernel settings that were changed, and what they were. There is one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctls {
    /// In the order of writing.
    pub ledger: Ledger,
}

impl Settings {
    pub(super) fn identify(&self) -> String {
        String::new()
    }
}

impl GlobalOverlay {
    pub(super) fn identify(&self) -> String {
        String::new()
    }
}

impl Identity {
    pub(super) fn identify(&self) -> String {
        self.service.clone()
    }
}

impl Seal {
    pub(super) fn identify(&self) -> String {
        String::new()
    }
}

impl Service {
    pub(super) fn identify(&self) -> String {
        self.service.clone()
    }
}

impl Bridge {
    pub(super) fn identify(&self) -> String {
        self.bridge.clone()
    }
}

impl Peer {
    pub(super) fn identify(&self) -> String {
        Self::id_of(&self.scope, &self.public_key)
    }

    /// The id of the peer with this key in this scope.
    #[must_use]
    pub fn id_of(scope: &Scope, public_key: &PublicKey) -> String {
        // The key first, for it has a fixed length and services any name.
        match scope {
            Scope::Global => format!("{public_key} global"),
            Scope::Service(service) => format!("{public_key} service {service}"),
        }
    }
}

impl Lease {
    pub(super) fn identify(&self) -> String {
        self.ip.to_string()
    }
}

impl Attachment {
    pub(super) fn identify(&self) -> String {
        Self::id_of(&self.handle)
    }

    /// The id of what was attached under this name.
    #[must_use]
    pub fn id_of(handle: &AttachHandle) -> String {
        handle.key()
    }

    /// What its leases and links are marked with: no other attachment has it, nor a later one with the same process id.
    #[must_use]
    pub fn mark(&self) -> String {
        let key = self.handle.key();
        self.started_ticks.or(self.netns).map_or_else(|| key.clone(), |tells| format!("{key}@{tells}"))
    }
}

impl Name {
    pub(super) fn identify(&self) -> String {
        self.name.clone()
    }
}

impl Network {
    pub(super) fn identify(&self) -> String {
        self.network.clone()
    }
}

impl Sysctls {
    pub(super) fn identify(&self) -> String {
        String::new()
    }
}

/// Public keys as base64.
mod key_text {
    use super::{Deserialize, PublicKey};
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(key: &PublicKey, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&key.to_base64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PublicKey, D::Error> {
        PublicKey::from_base64(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
