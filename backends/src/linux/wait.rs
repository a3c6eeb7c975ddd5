//! Waiting for a worker's ports, for commands, or for time to pass.

use ginnel_engine::port::Ready;
use ginnel_engine::tick::Tick;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// Wakes a worker from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    event: EventFd,
    /// The worker waits, or is about to: whoever puts something in its way has to ring.
    asleep: AtomicBool,
}

impl Waker {
    /// A waker.
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Bell { event, asleep: AtomicBool::new(false) })))
    }

    /// Wakes the worker, now or when it next waits.
    pub fn wake(&self) {
        // A full counter wakes as well.
        let _ = self.0.event.write(1);
    }

    /// Wakes the worker if it waits. What it is to find was put in its way before.
    pub fn wake_if_asleep(&self) {
        // Orders the load of `asleep` behind what the caller stored; pairs with the fence in `wait`.
        fence(Ordering::SeqCst);
        if self.0.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// Waits until a port is readable, the waker was used, or `deadline` has come, and tells which ports, TUN and link, are
    /// worth asking. May return early, and does not wait where `work` says that there is something to do.
    pub fn wait(
        &self,
        ports: [BorrowedFd<'_>; 2],
        now: Tick,
        deadline: Option<Tick>,
        work: impl FnOnce() -> bool,
    ) -> Ready {
        self.0.asleep.store(true, Ordering::Relaxed);
        // Either whoever brings work sees `asleep`, or `work` sees what was brought.
        fence(Ordering::SeqCst);
        let ready = if work() { Ready::BOTH } else { self.poll(ports, now, deadline) };
        self.0.asleep.store(false, Ordering::Relaxed);
        ready
    }

    fn poll(&self, ports: [BorrowedFd<'_>; 2], now: Tick, deadline: Option<Tick>) -> Ready {
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up: waking a millisecond early would spin for it.
            let millis = deadline.since(now).saturating_add(Duration::from_micros(999)).as_millis();
            PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
        });
        let mut polled = [
            PollFd::new(ports[0], PollFlags::POLLIN),
            PollFd::new(ports[1], PollFlags::POLLIN),
            PollFd::new(self.0.event.as_fd(), PollFlags::POLLIN),
        ];
        // EINTR and the like: the next turn looks for itself.
        if poll(&mut polled, timeout).is_err() {
            return Ready::BOTH;
        }
        // Errors count: whoever asks hears them.
        let [tun, link, bell] = polled.map(|port| port.any() != Some(false));
        if bell {
            let _ = self.0.event.read();
        }
        Ready { tun, link }
    }
}
