//! Facts told unasked, to whoever subscribed.
//!
//! The first two are published and keep their shape. Each frame has a `cursor` beside the event, from which a later
//! subscription goes on, and the time; both are absent where an event is written by hand.

use super::{Condition, PeerScope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One event as it stands in a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct EventRecord {
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
    /// Where in the sequence of events; opaque.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// When, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
}

impl From<Event> for EventRecord {
    fn from(event: Event) -> Self {
        Self { event, cursor: None, at_unix_ms: None }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A peer was heard of, or lost. Published.
    PeerHealthChanged {
        /// Its public key, base64.
        pubkey: String,
        /// Whether it answers.
        healthy: bool,
    },
    /// A peer is reached elsewhere than before. Published.
    NatEndpointChanged {
        /// Its public key, base64.
        pubkey: String,
        /// The socket address.
        endpoint: String,
    },
    /// An overlay came up.
    OverlayUp {
        /// Which.
        scope: PeerScope,
        /// Its interface.
        interface: String,
    },
    /// An overlay went down, or was lost.
    OverlayDown {
        /// Which.
        scope: PeerScope,
        /// The interface it had.
        interface: String,
    },
    /// A workload was attached or detached.
    AttachmentChanged {
        /// Its key, as `list` has it.
        attachment: String,
        /// Its service.
        service: String,
        /// What became of it.
        state: AttachmentState,
        /// Its addresses.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        addresses: Vec<IpAddr>,
    },
    /// An address was given out, or taken back.
    LeaseChanged {
        /// The address.
        ip: IpAddr,
        /// What became of it.
        state: LeaseState,
        /// The service it was for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// Who had it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        owner: Option<String>,
    },
    /// A condition arose, changed or passed.
    HealthChanged {
        /// The condition.
        condition: Condition,
        /// Whether it holds.
        active: bool,
    },
    /// Something of ours in the kernel was changed by somebody else.
    Drift {
        /// What: a link, a rule, an address.
        object: String,
        /// How it was found.
        found: String,
        /// Whether it is as it was again.
        mended: bool,
    },
    /// This subscriber did not keep up, or came back too late: so many events it asked for are gone. Ask for the state.
    EventsLost {
        /// How many; an upper bound for what was lost before the subscription.
        count: u64,
    },
}

/// What became of an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttachmentState {
    /// It is connected.
    Attached,
    /// It is not, and its addresses are free.
    Detached,
}

/// What becomes of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// In use by its owner.
    Leased,
    /// Set aside.
    Reserved,
    /// Given back, and not given out again for a while.
    Quarantined,
    /// Free.
    Released,
}

/// The kinds a client may subscribe to. `events_lost` is none: it comes with every subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// [`Event::PeerHealthChanged`].
    PeerHealthChanged,
    /// [`Event::NatEndpointChanged`].
    NatEndpointChanged,
    /// [`Event::OverlayUp`].
    OverlayUp,
    /// [`Event::OverlayDown`].
    OverlayDown,
    /// [`Event::AttachmentChanged`].
    AttachmentChanged,
    /// [`Event::LeaseChanged`].
    LeaseChanged,
    /// [`Event::HealthChanged`].
    HealthChanged,
    /// [`Event::Drift`].
    Drift,
}

impl EventKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::PeerHealthChanged,
        Self::NatEndpointChanged,
        Self::OverlayUp,
        Self::OverlayDown,
        Self::AttachmentChanged,
        Self::LeaseChanged,
        Self::HealthChanged,
        Self::Drift,
    ];

    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerHealthChanged => "peer_health_changed",
            Self::NatEndpointChanged => "nat_endpoint_changed",
            Self::OverlayUp => "overlay_up",
            Self::OverlayDown => "overlay_down",
            Self::AttachmentChanged => "attachment_changed",
            Self::LeaseChanged => "lease_changed",
            Self::HealthChanged => "health_changed",
            Self::Drift => "drift",
        }
    }
}

impl Event {
    /// The kind it is of; `None` for [`Event::EventsLost`].
    #[must_use]
    pub fn kind(&self) -> Option<EventKind> {
        Some(match self {
            Self::PeerHealthChanged { .. } => EventKind::PeerHealthChanged,
            Self::NatEndpointChanged { .. } => EventKind::NatEndpointChanged,
            Self::OverlayUp { .. } => EventKind::OverlayUp,
            Self::OverlayDown { .. } => EventKind::OverlayDown,
            Self::AttachmentChanged { .. } => EventKind::AttachmentChanged,
            Self::LeaseChanged { .. } => EventKind::LeaseChanged,
            Self::HealthChanged { .. } => EventKind::HealthChanged,
            Self::Drift { .. } => EventKind::Drift,
            Self::EventsLost { .. } => return None,
        })
    }
}
