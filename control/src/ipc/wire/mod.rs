//! The words of the wire: every frame, request, response, event and nested object of the overlayd contract (protocol
//! version 1), with its exact tags, defaults and omission rules.
//!
//! Owns the spelling only. What bytes surround a frame is [`super::frame`]; what a request does is [`crate::node`].
//! Field order is output order. Unknown fields are ignored everywhere, known ones may appear once.
//!
//! To add an operation: a variant in [`Request`] (and in [`Request::op`]), and its arm in the dispatch of the node.

mod attach;
mod decode;
mod nat;
mod peer;
mod request;
mod response;
mod secret;
mod status;

#[cfg(test)]
mod examples;

#[cfg(test)]
pub(crate) use examples::{ACCEPTED, EXAMPLES};

pub use attach::{AttachContainer, AttachHandle, GuestOverlayConfig, OverlayMode, ServiceOverlayInfo};
pub use decode::{DecodeError, decode};
pub use nat::{NatCandidate, NatConfigSpec, NatPeer, NatStatus, RelayServerSpec, TurnServerSpec};
pub use peer::{AddPeer, PeerScope, PeerSpec};
pub use request::{Request, SetupGlobalOverlay};
pub use response::{Event, Response};
pub use secret::Secret;
pub use status::{DedicatedServiceStatus, OffloadStatus, PeerStatus, StatusSnapshot};

use serde::{Deserialize, Serialize};

/// One frame, as it stands between the length prefixes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    Event(Event),
}
