//! Frames: one netlink message each, several in a datagram.

use super::Writer;
use nix::errno::Errno;

/// `NLM_F_REQUEST`.
pub const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub const ACK: u16 = 0x4;
/// `NLM_F_EXCL`: of a new object, that it must not be there yet.
pub const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_DUMP`.
pub const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub const CREATE: u16 = 0x400;
/// `NLM_F_DUMP_INTR`: the dump saw two states.
const DUMP_INTERRUPTED: u16 = 0x10;

/// `NFNL_SUBSYS_CTNETLINK`.
pub const SUBSYSTEM_CONNTRACK: u8 = 1;
/// `NFNL_SUBSYS_NFTABLES`.
pub const SUBSYSTEM_NFTABLES: u8 = 10;

/// `nlmsghdr` and `nfgenmsg`.
pub const HEADER_LEN: usize = 20;

const NLMSGHDR_LEN: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;

/// Writes a frame of `kind` (subsystem in the high byte) for `family`; `attributes` writes its attributes.
pub fn frame(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: impl FnOnce(&mut Writer),
) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.raw(&[0; 4]).raw(&kind.to_ne_bytes()).raw(&flags.to_ne_bytes()).raw(&sequence.to_ne_bytes()).raw(&[0; 4]);
    writer.raw(&[family, 0]).raw(&resource.to_be_bytes());
    attributes(&mut writer);
    let mut bytes = writer.into_bytes();
    let len = u32::try_from(bytes.len()).expect("frames are bounded by their writers");
    bytes[..4].copy_from_slice(&len.to_ne_bytes());
    bytes
}

/// One received frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Subsystem in the high byte, message in the low one; below 16 it is netlink's own.
    pub kind: u16,
    flags: u16,
    /// Of the request that this answers or tells of.
    pub sequence: u32,
    /// Port of the socket that asked for what this tells of; 0 for the kernel.
    pub port: u32,
    payload: &'a [u8],
}

/// What a frame says about the request it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// One of many objects, or an event.
    Object,
    /// Done as asked, or the end of a list.
    Done,
    /// Refused.
    Refused(Errno),
    /// Frames were lost.
    Overrun,
    /// The list that ends here saw two states, so it is to be asked for again.
    Interrupted,
}

impl<'a> Frame<'a> {
    /// What it says about its request.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let code = || self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        match self.kind {
            NLMSG_ERROR | NLMSG_DONE if code() != 0 => Outcome::Refused(Errno::from_raw(code().saturating_neg())),
            NLMSG_ERROR | NLMSG_DONE if self.flags & DUMP_INTERRUPTED != 0 => Outcome::Interrupted,
            NLMSG_ERROR | NLMSG_DONE => Outcome::Done,
            NLMSG_OVERRUN => Outcome::Overrun,
            _ if self.flags & DUMP_INTERRUPTED != 0 => Outcome::Interrupted,
            _ => Outcome::Object,
        }
    }

    /// The protocol family of its `nfgenmsg`; 0 where there is none.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or(0)
    }

    /// What follows the `nfgenmsg`.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.payload.get(HEADER_LEN - NLMSGHDR_LEN..).unwrap_or_default()
    }
}

/// The frames of a datagram. What cannot be a frame ends them.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Reads a datagram.
    #[must_use]
    pub fn new(datagram: &'a [u8]) -> Self {
        Self { rest: datagram }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (header, _) = self.rest.split_first_chunk::<NLMSGHDR_LEN>()?;
        let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let len = word(0) as usize;
        let Some(payload) = self.rest.get(NLMSGHDR_LEN..len) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(Frame { kind: half(4), flags: half(6), sequence: word(8), port: word(12), payload })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::netfilter::Attributes;
    use proptest::prelude::*;

    #[test]
    fn frames_follow_one_another() {
        let mut datagram = frame(0x0a01, REQUEST, 9, 2, 0, |writer| {
            writer.u8(1, 3);
        });
        datagram.extend(frame(NLMSG_ERROR, 0, 10, 0, 0, |_| {}));
        let mut refused = frame(NLMSG_ERROR, 0, 11, 0, 0, |_| {});
        refused[NLMSGHDR_LEN..NLMSGHDR_LEN + 4].copy_from_slice(&(-2i32).to_ne_bytes());
        datagram.extend(refused);
        let frames: Vec<_> = Frames::new(&datagram).collect();
        assert_eq!(frames.iter().map(|frame| frame.sequence).collect::<Vec<_>>(), [9, 10, 11]);
        assert_eq!((frames[0].family(), Attributes::new(frames[0].body()).find(1)), (2, Some(&[3][..])));
        let outcomes: Vec<_> = frames.iter().map(Frame::outcome).collect();
        assert_eq!(outcomes, [Outcome::Object, Outcome::Done, Outcome::Refused(Errno::ENOENT)]);
    }

    proptest! {
        #[test]
        fn any_datagram_is_read_to_an_end(bytes: Vec<u8>) {
            for frame in Frames::new(&bytes) {
                let _ = (frame.outcome(), frame.family(), frame.body());
            }
        }
    }
}
