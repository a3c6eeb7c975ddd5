//! Waiting for a worker's ports, for commands, or for time to pass.

use ginnel_engine::tick::Tick;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Wakes a worker from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A waker.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(event)))
    }

    /// Wakes the worker, now or when it next waits.
    pub fn wake(&self) {
        // A full counter wakes as well.
        let _ = self.0.write(1);
    }

    /// Waits until a port is readable, the waker was used, or `deadline` has come. May return early.
    pub fn wait(&self, ports: [BorrowedFd<'_>; 2], now: Tick, deadline: Option<Tick>) {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up: waking a millisecond early would spin for it.
            let millis = deadline.since(now).saturating_add(Duration::from_micros(999)).as_millis();
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = [
            PollFd::new(ports[0], PollFlags::POLLIN),
            PollFd::new(ports[1], PollFlags::POLLIN),
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut polled, timeout) {
            Ok(_) if polled[2].any() == Some(true) => {
                let _ = self.0.read();
            }
            // EINTR and the like: the next turn looks for itself.
            Ok(_) | Err(Errno::EINTR | _) => {}
        }
    }
}
