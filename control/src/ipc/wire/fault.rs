//! Refusals: the published `message`, and beside it what a program can act on.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a request was not carried out. Only `message` is published; older clients ignore the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// For people; may change.
    pub message: String,
    /// For programs; stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<ErrorCode>,
    /// The same request may succeed later without anybody doing anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub retryable: bool,
    /// What to do about it: a sentence, or a command to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Fault {
    /// A refusal with a code; whether it is worth a retry follows from that.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { message: message.into(), code: Some(code), retryable: code.is_retryable(), hint: None }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What kind of refusal. A code never changes its meaning; later versions may have more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The frame is no request of this version.
    BadRequest,
    /// A field has a value that cannot be.
    InvalidArgument,
    /// What the request is about is not there.
    NotFound,
    /// It contradicts what is there, or who owns it.
    Conflict,
    /// Something has to be set up first.
    NotReady,
    /// A pool, a table or a range of ports is full.
    Exhausted,
    /// This version or this system cannot do it.
    Unsupported,
    /// The caller lacks the role.
    Forbidden,
    /// Not done within the time for a request; it may still be done.
    Timeout,
    /// Too much at once.
    Busy,
    /// The answer does not fit into a frame.
    TooLarge,
    /// The daemon is on its way out.
    Stopping,
    /// The kernel or the device refused.
    System,
    /// What has to be kept cannot be written or read.
    Storage,
    /// A defect of the daemon.
    Internal,
    /// A code of a later version.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// All that a daemon sends.
    pub const ALL: [Self; 15] = [
        Self::BadRequest,
        Self::InvalidArgument,
        Self::NotFound,
        Self::Conflict,
        Self::NotReady,
        Self::Exhausted,
        Self::Unsupported,
        Self::Forbidden,
        Self::Timeout,
        Self::Busy,
        Self::TooLarge,
        Self::Stopping,
        Self::System,
        Self::Storage,
        Self::Internal,
    ];

    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::NotReady => "not_ready",
            Self::Exhausted => "exhausted",
            Self::Unsupported => "unsupported",
            Self::Forbidden => "forbidden",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::TooLarge => "too_large",
            Self::Stopping => "stopping",
            Self::System => "system",
            Self::Storage => "storage",
            Self::Internal => "internal",
            Self::Unknown => "unknown",
        }
    }

    /// Whether time alone may cure it.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Timeout | Self::Busy | Self::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_form_has_nothing_but_the_message() {
        let plain = r#"{"message":"no"}"#;
        let fault: Fault = serde_json::from_str(plain).unwrap();
        assert_eq!(serde_json::to_string(&fault).unwrap(), plain);
        assert_eq!((fault.code, fault.retryable), (None, false));
    }

    #[test]
    fn codes_are_spelled_as_they_are_named_and_later_ones_are_read() {
        for code in ErrorCode::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
            assert_eq!(serde_json::from_value::<ErrorCode>(code.name().into()).unwrap(), code);
        }
        assert_eq!(serde_json::from_str::<ErrorCode>("\"of_2031\"").unwrap(), ErrorCode::Unknown);
        let fault = Fault::new(ErrorCode::Busy, "later").with_hint("wait");
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(text, r#"{"message":"later","code":"busy","retryable":true,"hint":"wait"}"#);
    }
}
