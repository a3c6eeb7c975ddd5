//! The calls of [`crate::linux::calls`], asking [`Faults`] first.
//!
//! An answer is given where the kernel would give it: an error on the first message of a `sendmmsg` is that call's error,
//! one on a later message ends the call before that message, without an error (sendmmsg(2)).

use super::rules::{Answer, Call, Faults, Subject};
use crate::linux::calls::{Arrived, Messages, Parcel, QueueCalls, SocketCalls, Vectored};
use ginnel_engine::frame::Ecn;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A socket whose calls go wrong.
pub struct FaultySocket {
    faults: Arc<Faults>,
    messages: Messages,
}

/// A TUN queue whose calls go wrong.
pub struct FaultyQueue {
    faults: Arc<Faults>,
    queue: Vectored,
}

impl FaultySocket {
    pub(super) fn new(faults: Arc<Faults>, messages: Messages) -> Self {
        Self { faults, messages }
    }
}

impl FaultyQueue {
    pub(super) fn new(faults: Arc<Faults>) -> Self {
        Self { faults, queue: Vectored }
    }
}

impl SocketCalls for FaultySocket {
    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [Box<[u8]>],
        mut take: impl FnMut(Arrived),
    ) -> io::Result<usize> {
        self.faults.strike_before(Call::Receive)?;
        let mut taken = 0;
        let mut stopped = false;
        let received = self.messages.receive(socket, buffers, |mut arrived| {
            let subject =
                Subject { bytes: arrived.len, piece_bytes: arrived.datagram_bytes, remote: Some(arrived.from) };
            match self.faults.strike_after(Call::Receive, &subject) {
                None | Some(Answer::Kernel | Answer::Errno(_)) => {}
                // The buffers are filled from the first on, so that what follows cannot move up: it is lost as well.
                Some(Answer::Nothing) => stopped = true,
                Some(Answer::Short(bytes)) => {
                    arrived.len = arrived.len.min(bytes);
                    arrived.datagram_bytes = arrived.datagram_bytes.min(arrived.len);
                    arrived.truncated = true;
                }
                Some(Answer::WithoutControl) => {
                    arrived.datagram_bytes = arrived.len;
                    arrived.source = None;
                    arrived.ecn = Ecn::NOT_ECT;
                    arrived.uncontrolled = true;
                }
            }
            if !stopped {
                taken += 1;
                take(arrived);
            }
        });
        received.map(|_| taken)
    }

    fn send<'a>(&mut self, socket: BorrowedFd<'_>, parcels: impl Iterator<Item = Parcel<'a>>) -> io::Result<usize> {
        let mut good = Vec::new();
        for parcel in parcels {
            let bytes = parcel.bytes.len();
            let piece_bytes = parcel.segment_bytes.map_or(bytes, usize::from);
            match self.faults.strike(Call::Send, &Subject { bytes, piece_bytes, remote: Some(parcel.to) }) {
                None | Some(Answer::Kernel) => good.push(parcel),
                Some(Answer::Errno(errno)) if good.is_empty() => return Err(io::Error::from_raw_os_error(errno)),
                Some(_) => break,
            }
        }
        self.messages.send(socket, good.into_iter())
    }
}

impl QueueCalls for FaultyQueue {
    fn read(&mut self, queue: &File, header: &mut [u8], packet: &mut [u8]) -> io::Result<usize> {
        self.faults.strike_before(Call::Read)?;
        let bytes = self.queue.read(queue, header, packet)?;
        match self.faults.strike_after(Call::Read, &superpacket(header, bytes.saturating_sub(header.len()))) {
            Some(Answer::Short(short)) => Ok(bytes.min(short)),
            Some(Answer::Nothing) => Ok(0),
            Some(Answer::Kernel | Answer::WithoutControl | Answer::Errno(_)) | None => Ok(bytes),
        }
    }

    fn write(&mut self, queue: &File, header: &[u8], packet: &[u8]) -> io::Result<usize> {
        match self.faults.strike(Call::Write, &superpacket(header, packet.len())) {
            Some(Answer::Errno(errno)) => Err(io::Error::from_raw_os_error(errno)),
            _ => self.queue.write(queue, header, packet),
        }
    }
}

/// A packet behind its virtio header: kind of superpacket at byte 1, bytes of a segment's payload at 4 and 5.
fn superpacket(header: &[u8], bytes: usize) -> Subject {
    let segment = header.get(4..6).map_or(0, |size| usize::from(u16::from_ne_bytes([size[0], size[1]])));
    let piece_bytes = if header.get(1).is_some_and(|kind| *kind != 0) { segment } else { bytes };
    Subject { bytes, piece_bytes, remote: None }
}
