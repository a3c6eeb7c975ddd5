//! The words of the wire: every frame, request, response, event and nested object of the overlayd contract (protocol
//! version 1), with its exact tags, defaults and omission rules, and the operations of this daemon's own in the same form.
//!
//! Owns the spelling only. What bytes surround a frame is [`super::frame`]; what a request does is [`crate::node`].
//! Field order is output order. Unknown fields are ignored everywhere, known ones may appear once.
//!
//! To add an operation: a variant in [`Request`] (and its word, role and subject), and its arm in the dispatch of the node.
//! `ginnel schema` prints all of it as JSON Schema.

mod attach;
mod decode;
mod event;
mod fault;
mod health;
mod list;
mod nat;
mod peer;
mod request;
mod response;
mod schema;
mod secret;
mod session;
mod status;
mod sync;

#[cfg(any(test, feature = "fuzzing"))]
mod examples;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use examples::{ACCEPTED, EXAMPLES};

pub use attach::{
    AttachContainer, AttachHandle, GuestOverlayConfig, OverlayMode, PortProtocol, PublishedPort, ServiceOverlayInfo,
};
pub use decode::{DecodeError, decode};
pub use event::{AttachmentState, Event, EventKind, EventRecord, LeaseState};
pub use fault::{ErrorCode, Fault};
pub use health::{Condition, Health, Severity};
pub use list::{
    AttachmentItem, DnsItem, DropItem, ITEMS_MAX, Item, LeaseItem, ListPage, ListQuery, NetworkItem, ObjectKind,
    Objects, OffloadItem, PAGE_BYTES_MAX, PeerItem, ServiceItem, page,
};
pub use nat::{NatCandidate, NatConfigSpec, NatPeer, NatStatus, RelayServerSpec, TurnServerSpec};
pub use peer::{AddPeer, AddPeers, PeerScope, PeerSpec};
pub use request::{Request, SetupGlobalOverlay};
pub use response::Response;
pub use schema::schema;
pub use secret::Secret;
pub use session::{FEATURES, Hello, PROTOCOL_VERSION, Role, Subscribe, Subscribed};
pub use status::{DedicatedServiceStatus, NameServerStatus, OffloadStatus, PeerStatus, StatusSnapshot};
pub use sync::{BeginSync, Gc, ObjectName, REMOVED_LISTED_MAX, Removed, SyncEnded, dns_key};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One frame, as it stands between the length prefixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub enum Frame {
    /// Client to server.
    Request {
        /// Chosen by the client, echoed in the answer. Any number; repeats are the client's affair.
        id: u64,
        /// What is asked.
        request: Request,
    },
    /// Server to client: the answer to the request with the same id.
    Response {
        /// The id of the request.
        id: u64,
        /// The answer.
        response: Response,
    },
    /// Server to client: a fact nobody asked for.
    Event(EventRecord),
}
