//! The calls that ports make of the kernel while packets move, as traits, so that something can stand in between:
//! [`crate::fault`] gives the answers that kernels give on bad days. Calls that set up a socket or an interface are not
//! here.

pub use super::sys::{Arrived, Parcel};
use super::sys::{Receiver, Sender};
use ginnel_engine::limits::INBOX_SLOTS;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Write as _};
use std::os::fd::BorrowedFd;

/// Datagrams from and to a socket.
pub trait SocketCalls: Send + 'static {
    /// Receives at most one message for each of `buffers`, without waiting, and passes what arrived to `take`, in order.
    /// Returns how many there were.
    ///
    /// # Errors
    /// `EAGAIN` where there is none.
    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [Box<[u8]>],
        take: impl FnMut(Arrived),
    ) -> io::Result<usize>;

    /// Sends parcels without waiting. Returns how many the kernel took, from the first on.
    ///
    /// # Errors
    /// Why the first parcel was not taken.
    fn send<'a>(&mut self, socket: BorrowedFd<'_>, parcels: impl Iterator<Item = Parcel<'a>>) -> io::Result<usize>;
}

/// Packets from and to a TUN queue, each behind its virtio header.
pub trait QueueCalls: Send + 'static {
    /// Reads one packet. Returns the bytes of both parts.
    ///
    /// # Errors
    /// The kernel's.
    fn read(&mut self, queue: &File, header: &mut [u8], packet: &mut [u8]) -> io::Result<usize>;

    /// Writes one packet.
    ///
    /// # Errors
    /// The kernel's.
    fn write(&mut self, queue: &File, header: &[u8], packet: &[u8]) -> io::Result<usize>;
}

/// `recvmmsg` and `sendmmsg`.
pub struct Messages {
    receiver: Receiver,
    sender: Sender,
}

impl Messages {
    /// For a socket that takes IPv4 destinations in mapped form, if it is `dual_stack`.
    #[must_use]
    pub fn new(dual_stack: bool) -> Self {
        Self { receiver: Receiver::new(INBOX_SLOTS), sender: Sender::new(dual_stack) }
    }
}

impl SocketCalls for Messages {
    fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffers: &mut [Box<[u8]>],
        take: impl FnMut(Arrived),
    ) -> io::Result<usize> {
        self.receiver.receive(socket, buffers, take)
    }

    fn send<'a>(&mut self, socket: BorrowedFd<'_>, parcels: impl Iterator<Item = Parcel<'a>>) -> io::Result<usize> {
        self.sender.send_all(socket, parcels)
    }
}

/// `readv` and `writev`.
pub struct Vectored;

impl QueueCalls for Vectored {
    fn read(&mut self, mut queue: &File, header: &mut [u8], packet: &mut [u8]) -> io::Result<usize> {
        queue.read_vectored(&mut [IoSliceMut::new(header), IoSliceMut::new(packet)])
    }

    fn write(&mut self, mut queue: &File, header: &[u8], packet: &[u8]) -> io::Result<usize> {
        queue.write_vectored(&[IoSlice::new(header), IoSlice::new(packet)])
    }
}
