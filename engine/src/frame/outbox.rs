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
    /// Not sent: the socket stayed full.
    Overflow,
    /// Not sent: the kernel refused it. The source, if there was one, is worth forgetting. The `errno`.
    Refused(i32),
}

/// Datagrams of one size, except that the last may be shorter, for one endpoint.
pub struct Train {
    buffer: Box<[u8]>,
    len: usize,
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
            len: 0,
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
        &self.buffer[..self.len]
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

    /// Room for one more datagram of `bytes`, where it fits behind the others.
    pub fn slot(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let fits = !self.closed
            && (self.datagrams == 0 || bytes <= self.datagram_bytes)
            && self.len + bytes <= TRAIN_BYTES_MAX;
        fits.then(|| &mut self.buffer[self.len..])
    }

    /// Takes the first `bytes` of [`Self::slot`] as a datagram.
    pub fn push(&mut self, bytes: usize) {
        debug_assert!(self.len + bytes <= TRAIN_BYTES_MAX);
        if self.datagrams == 0 {
            self.datagram_bytes = bytes;
        }
        self.len += bytes;
        self.datagrams += 1;
        self.closed = bytes < self.datagram_bytes
            || self.datagrams == TRAIN_DATAGRAMS_MAX
            || self.len + self.datagram_bytes > TRAIN_BYTES_MAX;
    }

    /// Whether another datagram of `bytes` for this destination can follow.
    fn accepts(&self, owner: u32, endpoint: &Endpoint, ecn: Ecn, bytes: usize) -> bool {
        !self.closed
            && self.owner == owner
            && self.ecn == ecn
            && self.endpoint == *endpoint
            && bytes <= self.datagram_bytes
            && self.len + bytes <= TRAIN_BYTES_MAX
    }
}

/// The trains of one turn.
pub struct Outbox {
    trains: Vec<Train>,
    used: usize,
}

impl Outbox {
    /// An empty outbox with all its memory.
    #[must_use]
    pub fn new() -> Self {
        Self { trains: (0..TRAINS_MAX).map(|_| Train::new()).collect(), used: 0 }
    }

    /// A train to which a datagram of `bytes` for `endpoint` can be added, or `None` where everything is taken and the
    /// outbox has to be sent first.
    ///
    /// Order holds per owner: only its newest train is ever continued.
    pub fn train(&mut self, owner: u32, endpoint: &Endpoint, ecn: Ecn, bytes: usize) -> Option<&mut Train> {
        let newest = self.trains[..self.used].iter().rposition(|train| train.owner == owner);
        let open = newest.filter(|&at| self.trains[at].accepts(owner, endpoint, ecn, bytes));
        let at = match open {
            Some(at) => at,
            None if self.used == TRAINS_MAX => return None,
            None => {
                let train = &mut self.trains[self.used];
                train.len = 0;
                train.datagrams = 0;
                train.datagram_bytes = 0;
                train.closed = false;
                train.endpoint = *endpoint;
                train.ecn = ecn;
                train.owner = owner;
                train.whole = true;
                train.outcome = Outcome::Pending;
                self.used += 1;
                self.used - 1
            }
        };
        Some(&mut self.trains[at])
    }

    /// The trains in use.
    pub fn trains(&self) -> &[Train] {
        &self.trains[..self.used]
    }

    /// The trains in use, for the port to note outcomes.
    pub fn trains_mut(&mut self) -> &mut [Train] {
        &mut self.trains[..self.used]
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets all trains.
    pub fn clear(&mut self) {
        self.used = 0;
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
        let Some(train) = outbox.train(owner, &endpoint(port), ecn, bytes) else { return false };
        train.slot(bytes).expect("a train that was offered has room");
        train.push(bytes);
        true
    }

    #[test]
    fn equal_datagrams_share_a_train_and_a_short_one_ends_it() {
        let mut outbox = Outbox::new();
        for bytes in [1452, 1452, 100, 100] {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, bytes));
        }
        let lens: Vec<_> = outbox.trains().iter().map(Train::len).collect();
        assert_eq!(lens, [3, 1]);
        let sizes: Vec<_> = outbox.trains()[0].datagrams().map(<[u8]>::len).collect();
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
        assert_eq!(outbox.trains().len(), 5);
        // The owner's older train with the right size is not continued: that would reorder.
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 100));
        assert_eq!(outbox.trains().len(), 6);
    }

    #[test]
    fn limits_close_trains_and_fill_the_outbox() {
        let mut outbox = Outbox::new();
        for _ in 0..TRAIN_DATAGRAMS_MAX {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 64));
        }
        assert_eq!(outbox.trains().len(), 1);
        assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 64));
        assert_eq!(outbox.trains().len(), 2);
        outbox.clear();
        for _ in 0..45 * TRAINS_MAX {
            assert!(add(&mut outbox, 1, 1, Ecn::NOT_ECT, 1452));
        }
        assert_eq!(outbox.trains()[0].bytes().len(), 45 * 1452);
        assert!(!add(&mut outbox, 1, 1, Ecn::NOT_ECT, 1452));
    }
}
