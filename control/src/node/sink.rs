//! Where the node tells what happens: to whoever hands events on to those who want them.

use crate::ipc::wire::Event;

/// Takes events. Called from any thread, now and then under a lock: it must neither wait nor call back.
pub trait EventSink: Send + Sync + 'static {
    /// Takes one.
    fn tell(&self, event: Event);
}

/// Nobody wants them.
impl EventSink for () {
    fn tell(&self, _: Event) {}
}
