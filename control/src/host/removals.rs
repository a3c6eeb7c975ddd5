//! Notices when links are gone, which is well before the kernel has answered the request to remove them.
//!
//! By the time the kernel tells of a removal, the link is out of the tables: its name is free, its routes are gone, no
//! packet goes through it. Only then, and without its lock, does the kernel wait for every processor to have forgotten
//! the link, for some 20 ms, and answer.
//!
//! ```text
//! request ─► gone from the tables ─► notice ─► … grace periods … ─► answer
//!                0.3 ms                                 20 ms
//! ```

use super::HostError;
use super::link::RTM_DELLINK;
use super::listener::{Heard, LINKS, Listener, Stop};
use super::request::{Reply, number};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tokio::sync::oneshot;

/// Room for notices that wait: hundreds of them. Missing one costs a few milliseconds.
const RECEIVE_BYTES: usize = 1024 * 1024;

/// A listener for removals. Clones are the same one; its thread ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Removals(Arc<Handle>);

#[derive(Debug)]
struct Handle {
    awaited: Arc<Awaited>,
    stop: Stop,
}

/// By index. Bounded by the jobs that can remove links at once.
#[derive(Debug, Default)]
struct Awaited(Mutex<HashMap<u32, oneshot::Sender<()>>>);

impl Removals {
    /// Listens in the namespace of the current thread.
    pub(crate) fn open() -> Result<Self, HostError> {
        let mut listener = Listener::open(&[LINKS], RECEIVE_BYTES)?;
        let handle = Handle { awaited: Arc::default(), stop: listener.stop() };
        let awaited = handle.awaited.clone();
        let thread = thread::Builder::new().name("removals".into());
        let started = thread.spawn(move || {
            loop {
                match listener.hear() {
                    Heard::Notices(notices) => awaited.tell(&notices),
                    // What was missed shows with the kernel's answer, a little later.
                    Heard::Overrun => {}
                    Heard::End => break,
                }
            }
        });
        started.map_err(|error| HostError::io("start a thread", error))?;
        Ok(Self(Arc::new(handle)))
    }

    /// The removal of the link with this index, which must be there still. Indices are not given again soon: the kernel
    /// counts through all of them first.
    pub(crate) fn await_removal(&self, index: u32) -> oneshot::Receiver<()> {
        let (tell, gone) = oneshot::channel();
        self.0.awaited.lock().insert(index, tell);
        gone
    }

    /// Ends the wait for it: the kernel has answered.
    pub(crate) fn forget(&self, index: u32) {
        self.0.awaited.lock().remove(&index);
    }
}

impl Awaited {
    fn tell(&self, notices: &[Reply]) {
        for index in notices.iter().filter_map(removed) {
            if let Some(tell) = self.lock().remove(&index) {
                // Nobody waits any more where the kernel's answer came first.
                let _ = tell.send(());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// A bridge tells of the loss of a port in the same words, under its own address family.
fn removed(notice: &Reply) -> Option<u32> {
    let unspecified = notice.body.first() == Some(&0);
    (notice.kind == RTM_DELLINK && unspecified).then(|| number(notice.body.get(4..)?))?
}
