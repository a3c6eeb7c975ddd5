//! Trains on their way out: datagrams of equal size for one destination, side by side in one buffer, so that one UDP GSO
//! send carries them all.

use crate::limits::{TRAIN_BYTES_MAX, TRAIN_DATAGRAMS_MAX, TRAINS_MAX, UNIT_ROOM};
use std::net::{IpAddr, SocketAddr};

/// The two congestion bits of an IP header (RFC 3168, section 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ecn(pub u8);

impl Ecn {
    /// Not capable.
    pub const NOT_ECT: Ecn = Ecn(0);
    /// Congestion experienced.
    pub const CE: Ecn = Ecn(3);

    /// The mark in a TOS or traffic-class byte.
    #[must_use]
    pub fn of_tos(tos: u8) -> Self {
        Self(tos & 3)
    }
}

/// The local address and interface a peer is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Local address.
    pub address: IpAddr,
    /// Interface index, or 0.
    pub interface: u32,
}

/// Where datagrams of a peer go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address.
    pub to: SocketAddr,
    /// What it last reached us on; `None` leaves the choice to the routing table.
    pub source: Option<Source>,
}

/// What became of a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not sent yet.
    Pending,
    /// Sent, whole or one by one.
    Sent,
    /// Sent one by one, because this path refuses trains: do not build any for it for a while.
    SentSingly,
    /// Sent, but not from the source that was asked for, which does not exist any more: forget it.
    SentUnsourced,
    /// Not sent: the socket stayed full.
    Overflow,
    /// Not sent: the kernel refused it. The `errno`.
    Refused(i32),
}

/// Datagrams of one size, except that the last may be shorter, for one endpoint.
pub struct Train {
    buffer: Box<[u8]>,
    end: usize,
    /// Bytes of each datagram but the last.
    datagram_bytes: usize,
    datagrams: usize,
    /// No more fit: a shorter one was added, or a limit is reached.
    closed: bool,
    /// Destination.
    pub endpoint: Endpoint,
    /// Congestion mark for the outer header.
    pub ecn: Ecn,
    /// Whose packets these are: a value of the engine's, untouched by the port.
    pub owner: u32,
    /// May go out in one piece.
    pub whole: bool,
    /// Set by the port.
    pub outcome: Outcome,
}

impl Train {
    fn new() -> Self {
        Self {
            buffer: vec![0; UNIT_ROOM].into_boxed_slice(),
            end: 0,
            datagram_bytes: 0,
            datagrams: 0,
            closed: false,
            endpoint: Endpoint { to: SocketAddr::from(([0, 0, 0, 0], 0)), source: None },
            ecn: Ecn::NOT_ECT,
            owner: 0,
            whole: true,
            outcome: Outcome::Pending,
        }
    }

    /// All datagrams, end to end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.end]
    }

    /// The datagrams one by one.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes().chunks(self.datagram_bytes.max(1))
    }

    /// Bytes of each datagram but the last.
    #[must_use]
    pub fn datagram_bytes(&self) -> usize {
        self.datagram_bytes
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.datagrams
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    fn push(&mut self, bytes: usize) {
        debug_assert!(self.end + bytes <= TRAIN_BYTES_MAX);
        if self.datagrams == 0 {
            self.datagram_bytes = bytes;
        }
        self.end += bytes;
        self.datagrams += 1;
        self.closed = bytes < self.datagram_bytes
            || self.datagrams == TRAIN_DATAGRAMS_MAX
            || self.end + self.datagram_bytes > TRAIN_BYTES_MAX;
    }

    /// Whether another datagram of `bytes` for this destination can follow.
    fn accepts(&self, owner: u32, endpoint: &Endpoint, ecn: Ecn, bytes: usize) -> bool {
        !self.closed
            && self.owner == owner
            && self.ecn == ecn
            && self.endpoint == *endpoint
            && (bytes <= self.datagram_bytes || self.datagrams == 0)
            && self.end + bytes <= TRAIN_BYTES_MAX
    }
}

/// The trains of one turn.
pub struct Outbox {
    trains: Vec<Train>,
    used: usize,
    open: usize,
    remarks: Vec<(u32, Outcome)>,
}

/// Outcomes remembered until the engine asks; more in one turn are forgotten, and come again with the next train.
const REMARKS_MAX: usize = 4 * TRAINS_MAX;

impl Outbox {
    /// An empty outbox with all its memory.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trains: (0..TRAINS_MAX).map(|_| Train::new()).collect(),
            used: 0,
            open: 0,
            remarks: Vec::with_capacity(REMARKS_MAX),
        }
    }

    /// Opens the train to which a datagram of `bytes` (at most [`TRAIN_BYTES_MAX`]) for `endpoint` is added next. False
    /// where everything is taken and the outbox has to be sent first.
    ///
    /// Order holds per owner: only its newest train is ever continued. `whole` says whether a new train may go out in one
    /// piece.
    pub fn open(&mut self, owner: u32, endpoint: &Endpoint, ecn: Ecn, whole: bool, bytes: usize) -> bool {
        let newest = self.trains[..self.used].iter().rposition(|train| train.owner == owner);
        if let Some(at) = newest.filter(|&at| self.trains[at].accepts(owner, endpoint, ecn, bytes)) {
            self.open = at;
            return true;
        }
        if self.used == TRAINS_MAX {
            return false;
        }
        let train = &mut self.trains[self.used];
        train.end = 0;
        train.datagrams = 0;
        train.datagram_bytes = 0;
        train.closed = false;
        train.endpoint = *endpoint;
        train.ecn = ecn;
        train.owner = owner;
        train.whole = whole;
        train.outcome = Outcome::Pending;
        self.open = self.used;
        self.used += 1;
        true
    }

    /// Room behind the last datagram of the open train: at least what [`Self::open`] was asked for.
    pub fn slot(&mut self) -> &mut [u8] {
        let train = &mut self.trains[self.open];
        &mut train.buffer[train.end..]
    }

    /// Takes the first `bytes` of the slot as a datagram.
    pub fn push(&mut self, bytes: usize) {
        self.trains[self.open].push(bytes);
    }

    /// The trains to send.
    pub fn trains(&self) -> impl Iterator<Item = &Train> {
        self.trains[..self.used].iter().filter(|train| !train.is_empty())
    }

    /// The trains to send, for the port to note outcomes.
    pub fn trains_mut(&mut self) -> impl Iterator<Item = &mut Train> {
        self.trains[..self.used].iter_mut().filter(|train| !train.is_empty())
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets all trains, but not what is worth knowing of their outcomes.
    pub fn settle(&mut self) {
        for train in &self.trains[..self.used] {
            let news = matches!(train.outcome, Outcome::SentSingly | Outcome::SentUnsourced);
            if news && self.remarks.len() < REMARKS_MAX {
                self.remarks.push((train.owner, train.outcome));
            }
        }
        self.used = 0;
    }

    /// An outcome of a settled train that changes how its owner is to be treated.
    pub fn take_remark(&mut self) -> Option<(u32, Outcome)> {
        self.remarks.pop()
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(port: u16) -> Endpoint {
        Endpoint { to: SocketAddr::from(([192, 0, 2, 1], port)), source: None }
    }

    fn add(outbox: &mut Outbox, owner: u32, port: u16, ecn: Ecn, bytes: usize) -> bool {
        let open = outbox.open(owner, &endpoint(port), ecn, true, bytes);
        if open {
            assert!(outbox.slot().len() >= bytes);
            outbox.push(bytes);
        }
        open
    }

    #[test]
    fn equal_datagrams_share_a_train_and_a_short_one_ends_it() {
        let mut outbox = Outbox::new();
        for bytes in [1452, 1452, 100, 100] {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, bytes));
        }
        let lens: Vec<_> = outbox.trains().map(Train::len).collect();
        assert_eq!(lens, [3, 1]);
        let sizes: Vec<_> = outbox.trains().next().unwrap().datagrams().map(<[u8]>::len).collect();
        assert_eq!(sizes, [1452, 1452, 100]);
    }

    #[test]
    fn a_longer_datagram_another_mark_or_endpoint_needs_a_new_train() {
        let mut outbox = Outbox::new();
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 100));
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 101));
        assert!(add(&mut outbox, 1, 1, Ecn::CE, 101));
        assert!(add(&mut outbox, 1, 2, Ecn::CE, 101));
        assert!(add(&mut outbox, 2, 2, Ecn::CE, 101));
        assert_eq!(outbox.trains().count(), 5);
        // The owner's older train with the right size is not continued: that would reorder.
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 100));
        assert_eq!(outbox.trains().count(), 6);
    }

    #[test]
    fn limits_close_trains_and_fill_the_outbox() {
        let mut outbox = Outbox::new();
        for _ in 0..TRAIN_DATAGRAMS_MAX {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 64));
        }
        assert_eq!(outbox.trains().count(), 1);
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 64));
        assert_eq!(outbox.trains().count(), 2);
        outbox.settle();
        for _ in 0..45 * TRAINS_MAX {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 1452));
        }
        assert_eq!(outbox.trains().next().unwrap().bytes().len(), 45 * 1452);
        assert!(!add(&mut outbox, 1, 1, Ecn::NOT_ECT, 1452));
    }
}
