//! Everything a daemon has, kind by kind, page by page.
//!
//! Items come in the order of their keys. A page ends at the limit the client set, at [`ITEMS_MAX`], or where it would
//! grow beyond [`PAGE_BYTES_MAX`], whichever comes first, so an answer never meets the limit of a frame. `next` is the key
//! of the last item where there are more.

use super::{AttachmentState, EventRecord, LeaseState, OffloadStatus, OverlayMode, PeerScope, PeerStatus};
use ginnel_engine::key::PublicKey;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Items of a page at most.
pub const ITEMS_MAX: usize = 1_000;

/// JSON of a page at most, an eighth of what a frame may have. One item goes whatever its size.
pub const PAGE_BYTES_MAX: usize = 1024 * 1024;

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    /// WireGuard peers; key: the public key in base64, behind `SERVICE/` for a dedicated overlay.
    Peers,
    /// Service overlays; key: the name.
    Services,
    /// Workloads; key: the platform, a colon and the id of the handle.
    Attachments,
    /// Addresses given out; key: the address.
    Leases,
    /// Names; key: the name.
    Dns,
    /// Isolation networks; key: the name.
    Networks,
    /// Packets dropped; key: interface, a slash and the reason.
    Drops,
    /// Kernel offloads; key: interface, a slash and the name.
    Offloads,
    /// Events that are still remembered; key: the cursor.
    Events,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Peers,
        Self::Services,
        Self::Attachments,
        Self::Leases,
        Self::Dns,
        Self::Networks,
        Self::Drops,
        Self::Offloads,
        Self::Events,
    ];

    /// Those that are there because somebody asked for them: a sync or a `gc` may cover these.
    pub const ORDERED: [Self; 6] =
        [Self::Peers, Self::Services, Self::Attachments, Self::Leases, Self::Dns, Self::Networks];

    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Services => "services",
            Self::Attachments => "attachments",
            Self::Leases => "leases",
            Self::Dns => "dns",
            Self::Networks => "networks",
            Self::Drops => "drops",
            Self::Offloads => "offloads",
            Self::Events => "events",
        }
    }
}

/// The fields of `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListQuery {
    /// What to list.
    pub kind: ObjectKind,
    /// Items behind this key only: `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Items of the page at most; as many as fit where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The answer to `list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListPage {
    /// The items, of the kind that was asked for.
    #[serde(flatten)]
    pub objects: Objects,
    /// There are more: ask with this as `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The items of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", content = "items", rename_all = "snake_case")]
pub enum Objects {
    /// Of [`ObjectKind::Peers`].
    Peers(Vec<PeerItem>),
    /// Of [`ObjectKind::Services`].
    Services(Vec<ServiceItem>),
    /// Of [`ObjectKind::Attachments`].
    Attachments(Vec<AttachmentItem>),
    /// Of [`ObjectKind::Leases`].
    Leases(Vec<LeaseItem>),
    /// Of [`ObjectKind::Dns`].
    Dns(Vec<DnsItem>),
    /// Of [`ObjectKind::Networks`].
    Networks(Vec<NetworkItem>),
    /// Of [`ObjectKind::Drops`].
    Drops(Vec<DropItem>),
    /// Of [`ObjectKind::Offloads`].
    Offloads(Vec<OffloadItem>),
    /// Of [`ObjectKind::Events`].
    Events(Vec<EventRecord>),
}

/// Something that can be listed.
pub trait Item: Serialize {
    /// What it is told apart by within its kind.
    fn key(&self) -> String;

    /// Whether it comes behind the item with this key, which need not be there any more.
    fn is_behind(&self, key: &str) -> bool {
        self.key().as_str() > key
    }
}

/// Cuts the page that `query` asks for out of `items`, which come in the order of [`Item::is_behind`].
pub fn page<T: Item>(items: impl IntoIterator<Item = T>, query: &ListQuery) -> (Vec<T>, Option<String>) {
    let limit = query.limit.map_or(ITEMS_MAX, |limit| usize::try_from(limit).unwrap_or(ITEMS_MAX).clamp(1, ITEMS_MAX));
    let (mut taken, mut bytes, mut last) = (Vec::new(), 0, None);
    for item in items {
        if query.after.as_ref().is_some_and(|after| !item.is_behind(after)) {
            continue;
        }
        // What cannot be written is refused as a whole page later.
        bytes += serde_json::to_vec(&item).map_or(0, |json| json.len() + 1);
        if taken.len() == limit || (bytes > PAGE_BYTES_MAX && !taken.is_empty()) {
            return (taken, last);
        }
        last = Some(item.key());
        taken.push(item);
    }
    (taken, None)
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PeerItem {
    /// Public key, base64.
    pub public_key: String,
    /// The overlay it belongs to.
    pub scope: PeerScope,
    /// Where its datagrams go, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Its prefixes.
    pub allowed_ips: Vec<String>,
    /// Unix seconds of the last handshake, once there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handshake_unix_secs: Option<u64>,
    /// Bytes of datagrams received.
    pub rx_bytes: u64,
    /// Bytes of datagrams sent.
    pub tx_bytes: u64,
    /// Whether it answers, where that is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
}

impl PeerItem {
    /// A peer of `status` as `list` has it.
    #[must_use]
    pub fn new(peer: &PeerStatus, scope: PeerScope) -> Self {
        Self {
            public_key: PublicKey::from_hex(&peer.public_key)
                .map_or_else(|_| peer.public_key.clone(), |key| key.to_base64()),
            scope,
            endpoint: Some(peer.endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
            allowed_ips: peer.allowed_ips.split(',').filter(|prefix| !prefix.is_empty()).map(str::to_owned).collect(),
            last_handshake_unix_secs: u64::try_from(peer.last_handshake_unix_secs).ok().filter(|secs| *secs > 0),
            rx_bytes: peer.rx_bytes.unwrap_or(0),
            tx_bytes: peer.tx_bytes.unwrap_or(0),
            healthy: peer.healthy,
        }
    }
}

/// A service overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ServiceItem {
    /// Its name.
    pub service: String,
    /// Its mode.
    pub mode: OverlayMode,
    /// The link of the service, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Its subnets.
    pub subnets: Vec<String>,
    /// The addresses of its gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Workloads attached to it.
    pub attachments: u32,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachmentItem {
    /// Its key: [`AttachHandle::key`](super::AttachHandle::key).
    pub attachment: String,
    /// Its service.
    pub service: String,
    /// What became of it.
    pub state: AttachmentState,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Who asked for it, where that was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The network it is fenced into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation_network: Option<String>,
    /// Since when, in Unix seconds.
    pub since_unix_secs: u64,
}

/// An address that is not free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LeaseItem {
    /// The address.
    pub ip: IpAddr,
    /// What it is.
    pub state: LeaseState,
    /// The service it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Grows each time the address is given out.
    pub generation: u64,
    /// Since when, in Unix seconds.
    pub since_unix_secs: u64,
}

/// A name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsItem {
    /// The name, without a final dot.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Seconds it may be remembered.
    pub ttl_secs: u32,
}

/// An isolation network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NetworkItem {
    /// Its name.
    pub network: String,
    /// Keys of the workloads in it.
    pub members: Vec<String>,
    /// Addresses of its members on other nodes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<IpAddr>,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DropItem {
    /// The device.
    pub interface: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub packets: u64,
}

/// A kernel offload of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OffloadItem {
    /// The device.
    pub interface: String,
    /// The offload, as in `status`.
    #[serde(flatten)]
    pub offload: OffloadStatus,
}

impl Item for PeerItem {
    fn key(&self) -> String {
        self.scope.peer_key(&self.public_key)
    }
}

impl Item for ServiceItem {
    fn key(&self) -> String {
        self.service.clone()
    }
}

impl Item for AttachmentItem {
    fn key(&self) -> String {
        self.attachment.clone()
    }
}

impl Item for LeaseItem {
    fn key(&self) -> String {
        self.ip.to_string()
    }

    /// In the order of addresses, which is not that of their texts.
    fn is_behind(&self, key: &str) -> bool {
        key.parse::<IpAddr>().is_ok_and(|ip| self.ip > ip)
    }
}

impl Item for DnsItem {
    fn key(&self) -> String {
        self.name.clone()
    }
}

impl Item for NetworkItem {
    fn key(&self) -> String {
        self.network.clone()
    }
}

impl Item for DropItem {
    fn key(&self) -> String {
        format!("{}/{}", self.interface, self.reason)
    }
}

impl Item for OffloadItem {
    fn key(&self) -> String {
        format!("{}/{}", self.interface, self.offload.name)
    }
}

impl Item for EventRecord {
    fn key(&self) -> String {
        self.cursor.clone().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drops(reasons: impl IntoIterator<Item = usize>, bytes: usize) -> Vec<DropItem> {
        let item = |at| DropItem { interface: "i".into(), reason: format!("{at:06}{}", "x".repeat(bytes)), packets: 1 };
        reasons.into_iter().map(item).collect()
    }

    fn query(after: Option<String>, limit: Option<u32>) -> ListQuery {
        ListQuery { kind: ObjectKind::Drops, after, limit }
    }

    #[test]
    fn pages_together_are_the_whole_whatever_their_size() {
        for (count, bytes, limit) in
            [(0, 0, None), (5, 0, Some(1)), (5, 0, Some(0)), (2_500, 0, None), (40, 100_000, None)]
        {
            let all = drops(0..count, bytes);
            let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let (items, next) = page(all.clone(), &query(after, limit));
                assert!(items.len() <= ITEMS_MAX && serde_json::to_vec(&items).unwrap().len() <= PAGE_BYTES_MAX + 2);
                seen.extend(items);
                pages += 1;
                after = next;
                if after.is_none() {
                    break;
                }
            }
            assert_eq!(seen, all, "{count} items of {bytes} bytes, {pages} pages");
        }
    }

    #[test]
    fn an_item_beyond_the_size_goes_alone() {
        let all = drops(0..3, PAGE_BYTES_MAX);
        let (items, next) = page(all.clone(), &query(None, None));
        assert_eq!((items.len(), next), (1, Some(all[0].key())));
    }

    #[test]
    fn a_key_that_is_gone_is_no_hindrance() {
        let (items, _) = page(drops([1, 3, 5], 0), &query(Some("i/000002".into()), None));
        assert_eq!(items, drops([3, 5], 0));
    }
}
