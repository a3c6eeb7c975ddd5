//! Requests of rtnetlink as values: built in one place, sent in batches by [`super::socket`], named in errors.
//!
//! A reply is kept as bytes and decoded by whoever asked, which reads the few attributes it needs. An attribute that a
//! newer kernel made longer therefore spoils nothing.

use super::HostError;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NlaBuffer,
    NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;

/// What the kernel made of one request: the objects asked for (none, for a change), or why not.
pub(crate) type Outcome = Result<Vec<Reply>, HostError>;

/// One request.
#[derive(Debug)]
pub(crate) struct Request {
    what: String,
    bytes: Vec<u8>,
    kind: Kind,
    content: bool,
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// With an acknowledgement, after the object where one was asked for.
    Single,
    /// With any number of objects and an end. A socket serves one such request at a time.
    Dump,
}

/// One object of an answer.
#[derive(Debug)]
pub(crate) struct Reply {
    /// `RTM_*`.
    pub(crate) kind: u16,
    /// The family's header and the attributes.
    pub(crate) body: Vec<u8>,
}

impl Request {
    /// Asks for one object, or changes one that is there.
    pub(crate) fn new(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self::build(what.into(), message, NLM_F_ACK, Kind::Single)
    }

    /// Makes an object; refused where it is there.
    pub(crate) fn create(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self::build(what.into(), message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, Kind::Single)
    }

    /// Makes an object, content where it is there.
    pub(crate) fn ensure(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self { content: true, ..Self::create(what, message) }
    }

    /// Makes an object, or takes the place of one that is there.
    pub(crate) fn replace(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self::build(what.into(), message, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE, Kind::Single)
    }

    /// Asks for all objects that fit.
    pub(crate) fn dump(what: impl Into<String>, message: RouteNetlinkMessage) -> Self {
        Self::build(what.into(), message, NLM_F_DUMP, Kind::Dump)
    }

    /// Its name in errors.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether it removes something. The messages of rtnetlink come in fours: new, del, get, set.
    pub(crate) fn removes(&self) -> bool {
        matches!(self.bytes[4..6], [low, _] if low % 4 == 1)
    }

    /// Whether it is carried out by an object that is there already.
    pub(super) fn is_content(&self) -> bool {
        self.content
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// Appends the bytes of the request, numbered `sequence`, aligned as `NLMSG_ALIGN` has it.
    pub(super) fn write(&self, sequence: u32, to: &mut Vec<u8>) {
        let start = to.len();
        to.extend_from_slice(&self.bytes);
        to[start + 8..start + 12].copy_from_slice(&sequence.to_ne_bytes());
        to.resize(start + self.bytes.len().next_multiple_of(4), 0);
    }

    fn build(what: String, message: RouteNetlinkMessage, flags: u16, kind: Kind) -> Self {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        Self { what, bytes, kind, content: false }
    }
}

impl Reply {
    /// The attributes behind a header of `header_len` bytes; a broken one ends them.
    pub(crate) fn attributes(&self, header_len: usize) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
        attributes(self.body.get(header_len..).unwrap_or_default())
    }
}

/// The attributes in `bytes`; a broken one ends them.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = NlaBuffer<&[u8]>> {
    NlasIterator::new(bytes).map_while(Result::ok)
}

/// The number in an attribute's value.
pub(crate) fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(value.get(..4)?.try_into().ok()?))
}

/// The text in an attribute's value, up to its terminating zero.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}
