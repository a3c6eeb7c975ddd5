//! Telling a daemon all there is to be, and having it remove the rest.

use super::{ObjectKind, PeerSpec, Request};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names listed in the answer to `end_sync` and `gc`; all are removed and counted.
pub const REMOVED_LISTED_MAX: usize = 10_000;

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ObjectName {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its key, as `list` has it.
    pub key: String,
}

/// The fields of `begin_sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BeginSync {
    /// Chosen by the client, greater than that of any earlier sync: the time will do.
    pub epoch: u64,
    /// What the sync covers: at its end, objects of these kinds that nobody named are removed.
    pub kinds: Vec<ObjectKind>,
}

/// The answer to `end_sync`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SyncEnded {
    /// The sync that ended.
    pub epoch: u64,
    /// What was removed.
    #[serde(flatten)]
    pub removed: Removed,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Removed {
    /// The objects; no more than [`REMOVED_LISTED_MAX`].
    pub removed: Vec<ObjectName>,
    /// How many there were.
    pub removed_count: u64,
}

impl From<Vec<ObjectName>> for Removed {
    fn from(mut removed: Vec<ObjectName>) -> Self {
        let removed_count = u64::try_from(removed.len()).unwrap_or(u64::MAX);
        removed.truncate(REMOVED_LISTED_MAX);
        Self { removed, removed_count }
    }
}

/// The fields of `gc`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Gc {
    /// By kind, the keys of what is to stay. Kinds that are not mentioned are left alone; an empty list removes all.
    pub keep: BTreeMap<ObjectKind, Vec<String>>,
}

impl Request {
    /// The objects the request wants to be there. An address is named by the answer that gives it out instead.
    #[must_use]
    pub fn names(&self) -> Vec<ObjectName> {
        let name = |kind, key| ObjectName { kind, key };
        match self {
            Request::AddPeer(add) => vec![name(ObjectKind::Peers, add.scope.peer_key(&add.peer.public_key))],
            Request::AddPeers(add) => {
                let key = |peer: &PeerSpec| name(ObjectKind::Peers, add.scope.peer_key(&peer.public_key));
                add.peers.iter().map(key).collect()
            }
            Request::AddAllowedIp { pubkey, scope, .. } | Request::RemoveAllowedIp { pubkey, scope, .. } => {
                vec![name(ObjectKind::Peers, scope.peer_key(pubkey))]
            }
            Request::SetupServiceOverlay { service, .. } | Request::AllocateIp { service, .. } => {
                vec![name(ObjectKind::Services, service.clone())]
            }
            Request::AttachContainer(attach) => vec![
                name(ObjectKind::Attachments, attach.handle.key()),
                name(ObjectKind::Services, attach.service.clone()),
            ],
            Request::RegisterDns { name: host, .. } => vec![name(ObjectKind::Dns, dns_key(host))],
            Request::SetNetworkMembers { network, .. } => vec![name(ObjectKind::Networks, network.clone())],
            _ => Vec::new(),
        }
    }
}

/// Names are told apart without regard to case or a final dot (RFC 1035, section 2.3.3).
#[must_use]
pub fn dns_key(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
