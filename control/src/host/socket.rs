//! One rtnetlink socket, used by one thread: requests go out together, answers are sorted back to them.
//!
//! The kernel works on a request while it is being sent, under the one lock of its network configuration, so sending
//! blocks for as long as that takes, and every answer is there when sending returns. That is why nothing here is
//! asynchronous, and why sockets live on threads of their own (see [`super::netlink`]).
//!
//! ```text
//! [ request 7 | request 8 | request 9 ] ─one send─► kernel, in this order ─► [ack 7] [object 8] [ack 8] [error 9]
//! ```
//!
//! A request that fails does not keep the kernel from those behind it: what depends on another goes into a later batch.

use super::HostError;
use super::request::{Kind, Outcome, Reply, Request, attributes, text};
use netlink_packet_core::{NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket as RawSocket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;
use std::io;

/// Requests sent at once. Their answers wait in the receive buffer meanwhile.
const BATCH_MAX: usize = 64;

/// Receive buffer: an object as the kernel books it, 4.6 KiB at most for a link, and an acknowledgement of 1 KiB for every
/// request of a batch. The kernel grants twice what is asked for, and so much to everybody (`net.core.rmem_max`).
const BUFFER_BYTES: usize = 208 * 1024;
const _: () = assert!(BATCH_MAX * (4_700 + 1_024) < 2 * BUFFER_BYTES);

/// The kernel fills at most 32 KiB of a datagram of a dump (`netlink_dump`); single objects are smaller.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How often a dump is asked for again because its objects changed meanwhile. After that it is taken as it is: the
/// callers look again anyway where it matters.
const DUMP_TRIES: u32 = 4;

/// How long an answer may take once a request is sent. It is there at once; this is for a kernel that lost it.
const ANSWER_SECS_MAX: i64 = 10;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER_BYTES: usize = 16;

/// `NLMSGERR_ATTR_MSG`: the kernel's own words.
const ERROR_TEXT: u16 = 1;

/// A connection to the kernel in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Socket {
    inner: RawSocket,
    sequence: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
}

/// Whatever carries out requests: a [`Socket`], or in tests one that fails on purpose.
pub(crate) trait Exchange {
    /// Sends `requests` in order and returns as many outcomes.
    fn exchange(&mut self, requests: &[Request]) -> Vec<Outcome>;

    /// Sends one request.
    fn ask(&mut self, request: Request) -> Outcome {
        let what = request.what().to_owned();
        self.exchange(&[request]).pop().unwrap_or(Err(HostError::Closed { what }))
    }
}

impl Socket {
    pub(crate) fn open() -> Result<Self, HostError> {
        let refused = |error| HostError::io("open a netlink socket", error);
        let inner = connect().map_err(refused)?;
        // Without these, by kernels before 4.20, errors say less and dumps more.
        let _ = inner.set_ext_ack(true);
        let _ = inner.set_cap_ack(true);
        let _ = inner.set_netlink_get_strict_chk(true);
        set_receive_buffer(&inner, BUFFER_BYTES).map_err(|errno| refused(errno.into()))?;
        setsockopt(&inner, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECS_MAX, 0))
            .map_err(|errno| refused(errno.into()))?;
        Ok(Self { inner, sequence: 0, outgoing: Vec::new(), incoming: Vec::with_capacity(RECEIVE_BYTES) })
    }

    /// As many requests from the front as go out together.
    fn batch(requests: &[Request]) -> usize {
        let singles = requests.iter().take_while(|request| request.kind() == Kind::Single);
        singles.take(BATCH_MAX).count().max(1)
    }

    /// Also tells whether objects came or went during a dump.
    fn send_and_sort(&mut self, requests: &[Request]) -> (Vec<Outcome>, bool) {
        let first = self.sequence.wrapping_add(1);
        self.outgoing.clear();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            request.write(self.sequence, &mut self.outgoing);
        }
        let mut sorter = Sorter::new(first, requests);
        let mut result = self.inner.send(&self.outgoing, 0).map(drop);
        while result.is_ok() && sorter.open > 0 {
            self.incoming.clear();
            match self.inner.recv(&mut self.incoming, 0) {
                Ok(_) => sorter.take(&self.incoming),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        let interrupted = sorter.interrupted;
        (sorter.finish(result.err()), interrupted)
    }
}

impl Exchange for Socket {
    fn exchange(&mut self, requests: &[Request]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(requests.len());
        while outcomes.len() < requests.len() {
            let rest = &requests[outcomes.len()..];
            let batch = &rest[..Self::batch(rest)];
            let (mut done, mut interrupted) = self.send_and_sort(batch);
            for _ in 1..DUMP_TRIES {
                if !interrupted {
                    break;
                }
                (done, interrupted) = self.send_and_sort(batch);
            }
            outcomes.append(&mut done);
        }
        outcomes
    }
}

fn connect() -> io::Result<RawSocket> {
    let mut socket = RawSocket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // Only the kernel's messages are received then.
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Without the right to more than the system's limit, what the limit allows has to do.
pub(super) fn set_receive_buffer(socket: &RawSocket, bytes: usize) -> nix::Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &bytes).or_else(|_| setsockopt(socket, sockopt::RcvBuf, &bytes))
}

/// Answers on their way to the requests they belong to.
struct Sorter<'a> {
    first: u32,
    requests: &'a [Request],
    slots: Vec<Slot>,
    /// Requests that are not answered in full.
    open: usize,
    /// Objects came or went during a dump.
    interrupted: bool,
}

#[derive(Default)]
struct Slot {
    replies: Vec<Reply>,
    /// Once it is answered in full.
    end: Option<Result<(), HostError>>,
}

impl<'a> Sorter<'a> {
    fn new(first: u32, requests: &'a [Request]) -> Self {
        let slots = requests.iter().map(|_| Slot::default()).collect();
        Self { first, requests, slots, open: requests.len(), interrupted: false }
    }

    fn take(&mut self, datagram: &[u8]) {
        messages(datagram).for_each(|(header, body)| self.take_message(header, body));
    }

    fn take_message(&mut self, header: &[u8; HEADER_BYTES], body: &[u8]) {
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let flags = u16::from_ne_bytes([header[6], header[7]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        // An answer to a request given up earlier is no concern of these.
        let index = sequence.wrapping_sub(self.first) as usize;
        let Some(slot) = self.slots.get_mut(index).filter(|slot| slot.end.is_none()) else { return };
        self.interrupted |= flags & NLM_F_DUMP_INTR != 0;
        if kind == NLMSG_ERROR || kind == NLMSG_DONE {
            let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes([code[0], code[1], code[2], code[3]]));
            let request = &self.requests[index];
            let what = request.what();
            slot.end = Some(match code {
                0 => Ok(()),
                code if code == -(Errno::EEXIST as i32) && request.is_content() => Ok(()),
                code => {
                    let words = if kind == NLMSG_ERROR { kernel_words(flags, body) } else { None };
                    let what = words.map_or(what.to_owned(), |words| format!("{what} ({words})"));
                    Err(HostError::errno(what, Errno::from_raw(code.saturating_abs())))
                }
            });
            self.open -= 1;
        } else if kind > NLMSG_DONE {
            slot.replies.push(Reply { kind, body: body.to_vec() });
        }
    }

    fn finish(self, failure: Option<io::Error>) -> Vec<Outcome> {
        let code = failure.and_then(|error| error.raw_os_error()).unwrap_or(Errno::EIO as i32);
        let outcome = |(slot, request): (Slot, &Request)| match slot.end {
            Some(Ok(())) => Ok(slot.replies),
            Some(Err(error)) => Err(error),
            None => Err(HostError::System { what: request.what().into(), source: io::Error::from_raw_os_error(code) }),
        };
        self.slots.into_iter().zip(self.requests).map(outcome).collect()
    }
}

/// The messages in a datagram; a broken one ends them.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (&[u8; HEADER_BYTES], &[u8])> {
    std::iter::from_fn(move || {
        let (header, rest) = datagram.split_first_chunk::<HEADER_BYTES>()?;
        let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = rest.get(..len.checked_sub(HEADER_BYTES)?)?;
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// `body` is the code, the header of the request, and attributes.
fn kernel_words(flags: u16, body: &[u8]) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 || flags & NLM_F_CAPPED == 0 {
        return None;
    }
    let attributes = attributes(body.get(4 + HEADER_BYTES..)?);
    attributes.into_iter().find(|attribute| attribute.kind() == ERROR_TEXT).map(|found| text(found.value()))
}
