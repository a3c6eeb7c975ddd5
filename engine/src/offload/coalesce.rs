//! Gathers decrypted packets into superpackets, so that the kernel is entered once per run and not once per packet.
//!
//! A `Lane` holds one flow's run. A packet is decrypted straight to where its payload belongs: behind the payload of
//! the lane used last. Its headers then lie over the end of that payload, which is saved first and put back after the
//! headers have been looked at:
//!
//! ```text
//! lane     [IP|TCP][ payload 0 ][ payload 1 ]
//! room()   [IP|TCP][ payload 0 ][ payl|IP|TCP][ payload 2 ]     tail of payload 1 saved
//! settle() [IP|TCP][ payload 0 ][ payload 1 ][ payload 2 ]      tail put back: nothing was moved
//! ```
//! A guess that fails costs one copy of one packet. Order inside a flow always holds: a packet that cannot join its
//! flow's run sends the run off first.
//!
//! The caller takes units out through [`Sink`]; what a TUN refuses whole is cut again there, not here.

use super::merge::{Candidate, Run, same_flow};
use crate::limits::{LANE_ROOM, LANES_MAX};
use crate::port::{Transport, UnitMeta};
use crate::wire::ip::IpHeader;

/// Where finished units go: the TUN.
pub trait Sink {
    /// Takes a unit of `packets` packets in the first `len` bytes of `bytes`, which has room behind them
    /// ([`super::segment::TAIL_ROOM`]).
    fn deliver(&mut self, bytes: &mut [u8], len: usize, meta: &UnitMeta, packets: u16);

    /// Whether superpackets of `transport` are worth building.
    fn takes_superpackets(&self, transport: Transport) -> bool;
}

/// The lanes of one worker.
pub struct Coalescer {
    /// One more than hold runs: a packet that joins none needs a place too.
    lanes: Vec<Lane>,
    /// Indices of lanes with a run, oldest first.
    busy: Vec<u8>,
    /// Indices of the others.
    free: Vec<u8>,
    guess: Guess,
    saved: [u8; SAVED_MAX],
}

struct Lane {
    bytes: Box<[u8]>,
    len: usize,
    run: Option<Run>,
}

/// Where the packet being decrypted lies.
#[derive(Clone, Copy)]
struct Guess {
    lane: u8,
    at: usize,
}

/// Headers without IP options: IPv6 and the longest TCP header.
const SAVED_MAX: usize = 40 + 60;

impl Coalescer {
    /// All lanes, empty.
    #[must_use]
    pub fn new() -> Self {
        let lanes = LANES_MAX + 1;
        Self {
            lanes: (0..lanes)
                .map(|_| Lane { bytes: vec![0; LANE_ROOM].into_boxed_slice(), len: 0, run: None })
                .collect(),
            busy: Vec::with_capacity(lanes),
            free: (0..u8::try_from(lanes).unwrap_or(u8::MAX)).rev().collect(),
            guess: Guess { lane: 0, at: 0 },
            saved: [0; SAVED_MAX],
        }
    }

    /// Room for one decrypted packet of up to `bytes` (at most 65,535). Followed by [`Self::settle`] or
    /// [`Self::discard`] before anything else.
    pub fn room(&mut self, bytes: usize) -> &mut [u8] {
        let tail = self.busy.last().and_then(|&index| {
            let lane = &self.lanes[usize::from(index)];
            let run = lane.run.as_ref().filter(|run| !run.closed)?;
            let at = lane.len - run.headers_bytes;
            // A payload shorter than its headers would have the run's own headers overwritten.
            (at >= run.headers_bytes && at + bytes <= LANE_ROOM).then_some(Guess { lane: index, at })
        });
        // One lane is always free: `settle` sends the oldest run off when the last one is taken.
        self.guess =
            tail.or_else(|| self.free.last().map(|&lane| Guess { lane, at: 0 })).unwrap_or(Guess { lane: 0, at: 0 });
        let Guess { lane, at } = self.guess;
        let lane = &mut self.lanes[usize::from(lane)];
        if at > 0 {
            let headers = lane.len - at;
            self.saved[..headers].copy_from_slice(&lane.bytes[at..lane.len]);
        }
        &mut lane.bytes[at..at + bytes]
    }

    /// The packet decrypted into [`Self::room`], of `len` bytes.
    pub fn packet_mut(&mut self, len: usize) -> &mut [u8] {
        let Guess { lane, at } = self.guess;
        &mut self.lanes[usize::from(lane)].bytes[at..at + len]
    }

    /// Gives the room back unused.
    pub fn discard(&mut self) {
        self.restore();
    }

    /// Takes the packet in the room, whose IP header is `header`; units that have to leave before it do.
    pub fn settle(&mut self, header: &IpHeader, sink: &mut impl Sink) {
        let Guess { lane, at } = self.guess;
        let len = header.packet_bytes;
        let index = usize::from(lane);
        let packet = &self.lanes[index].bytes[at..at + len];
        let candidate =
            Candidate::of(packet, header).filter(|candidate| sink.takes_superpackets(candidate.transport()));
        if at > 0 {
            if let Some(candidate) = &candidate {
                let lane = &mut self.lanes[index];
                let joins = lane
                    .run
                    .is_some_and(|run| run.continues(&lane.bytes[..lane.len], &lane.bytes[at..at + len], candidate));
                if let Some(run) = lane.run.as_mut().filter(|_| joins) {
                    run.add(&lane.bytes[at..at + len], candidate);
                    lane.len = at + len;
                    self.restore();
                    return;
                }
            }
            self.move_to_free_lane(len);
        }
        self.place(header, candidate, sink);
    }

    /// Sends every run off. The end of a turn.
    pub fn flush(&mut self, sink: &mut impl Sink) {
        for at in 0..self.busy.len() {
            let index = self.busy[at];
            self.send(index, sink);
        }
        self.busy.clear();
    }

    /// The guess was wrong: the packet gets a lane of its own.
    fn move_to_free_lane(&mut self, len: usize) {
        let Guess { lane: from, at } = self.guess;
        let Some(&to) = self.free.last() else { return };
        if let Ok([source, target]) = self.lanes.get_disjoint_mut([usize::from(from), usize::from(to)]) {
            target.bytes[..len].copy_from_slice(&source.bytes[at..at + len]);
        }
        self.restore();
        self.guess = Guess { lane: to, at: 0 };
    }

    fn restore(&mut self) {
        let Guess { lane, at } = self.guess;
        if at > 0 {
            let lane = &mut self.lanes[usize::from(lane)];
            let end = at + lane.run.map_or(0, |run| run.headers_bytes);
            lane.bytes[at..end].copy_from_slice(&self.saved[..end - at]);
        }
    }

    /// Finds the place of a packet that lies alone in a free lane.
    fn place(&mut self, header: &IpHeader, candidate: Option<Candidate>, sink: &mut impl Sink) {
        let own = self.guess.lane;
        let len = header.packet_bytes;
        let Some(candidate) = candidate else {
            while let Some(position) = self.rival(own, len, header) {
                self.send_at(position, sink);
            }
            sink.deliver(&mut self.lanes[usize::from(own)].bytes, len, &UnitMeta::default(), 1);
            return;
        };
        if let Some(position) = self.rival(own, len, header) {
            let index = self.busy[position];
            if self.join(index, own, len, &candidate) {
                // The lane used last is the next guess.
                self.busy.remove(position);
                self.busy.push(index);
                return;
            }
            self.send_at(position, sink);
        }
        let lane = &mut self.lanes[usize::from(own)];
        lane.run = Some(Run::start(&lane.bytes[..len], &candidate));
        lane.len = len;
        self.free.retain(|&index| index != own);
        self.busy.push(own);
        if self.free.is_empty() {
            self.send_at(0, sink);
        }
    }

    /// Where in `busy` a run waits that must not be overtaken by the packet in lane `own`.
    fn rival(&self, own: u8, len: usize, header: &IpHeader) -> Option<usize> {
        let packet = &self.lanes[usize::from(own)].bytes[..len];
        self.busy.iter().position(|&index| {
            let lane = &self.lanes[usize::from(index)];
            same_flow(&lane.bytes[..lane.len], packet, header)
        })
    }

    fn send_at(&mut self, position: usize, sink: &mut impl Sink) {
        let index = self.busy.remove(position);
        self.send(index, sink);
    }

    /// Appends the payload of the packet in lane `own` to the run in lane `index`, if it continues it.
    fn join(&mut self, index: u8, own: u8, len: usize, candidate: &Candidate) -> bool {
        let Ok([lane, packet]) = self.lanes.get_disjoint_mut([usize::from(index), usize::from(own)]) else {
            return false;
        };
        let packet = &packet.bytes[..len];
        let Some(run) = &mut lane.run else { return false };
        if !run.continues(&lane.bytes[..lane.len], packet, candidate) {
            return false;
        }
        run.add(packet, candidate);
        let payload = &packet[candidate.headers_bytes..];
        lane.bytes[lane.len..lane.len + payload.len()].copy_from_slice(payload);
        lane.len += payload.len();
        true
    }

    /// Sends off the run of a lane that is already out of `busy`, or about to be.
    fn send(&mut self, index: u8, sink: &mut impl Sink) {
        let lane = &mut self.lanes[usize::from(index)];
        if let Some(run) = lane.run.take() {
            let meta = run.finish(&mut lane.bytes[..lane.len]);
            sink.deliver(&mut lane.bytes, lane.len, &meta, run.packets);
        }
        lane.len = 0;
        self.free.push(index);
    }
}

impl Default for Coalescer {
    fn default() -> Self {
        Self::new()
    }
}
