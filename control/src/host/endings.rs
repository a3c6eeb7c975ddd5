//! Notices the ends of processes: one thread waits for any number of them.
//!
//! ```text
//! Endings ── epoll ──┬── pidfd ── Ending, held by whoever wants to know
//!   one thread       ├── pidfd ── Ending
//!                    └── eventfd: the last handle is gone
//! ```

use super::{HostError, Process};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use tokio::sync::oneshot;

/// Processes watched at once: what is left of the descriptors a service may have (1,048,576 in the unit) is ample.
const WATCHED_MAX: usize = 262_144;

/// Events taken from the kernel in one call; more wait there.
const BATCH: usize = 64;

/// Number of the eventfd among the watched.
const STOP: u64 = 0;

const WHAT: &str = "watch processes";

/// A watcher of processes. Clones are the same watcher; its thread ends with the last of them.
#[derive(Clone, Debug)]
pub struct Endings(Arc<Handle>);

/// The end of one process, to come. Dropping it gives the watch up.
#[derive(Debug)]
pub struct Ending {
    shared: Arc<Shared>,
    number: u64,
    reached: oneshot::Receiver<()>,
}

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    stop: EventFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    watched: HashMap<u64, Watched>,
    /// The thread has ended.
    closed: bool,
}

#[derive(Debug)]
struct Watched {
    pidfd: OwnedFd,
    tell: oneshot::Sender<()>,
}

impl Endings {
    /// Starts a watcher.
    ///
    /// # Errors
    /// [`HostError::System`] where no descriptor or thread is to be had.
    pub fn open() -> Result<Self, HostError> {
        let refused = |errno| HostError::errno(WHAT, errno);
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(refused)?;
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(refused)?;
        epoll.add(&stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP)).map_err(refused)?;
        let shared = Arc::new(Shared { epoll, stop, state: Mutex::new(State { last: STOP, ..State::default() }) });
        let watching = shared.clone();
        let thread = thread::Builder::new().name("endings".into()).spawn(move || watching.watch());
        thread.map_err(|error| HostError::io("start a thread", error))?;
        Ok(Self(Arc::new(Handle(shared))))
    }

    /// Watches `process` from now on. One that has ended is noticed at once.
    ///
    /// # Errors
    /// [`HostError::Busy`] where too many are watched, [`HostError::System`] where no descriptor is left.
    pub fn watch(&self, process: &Process) -> Result<Ending, HostError> {
        let shared = self.0.0.clone();
        let pidfd = process.as_fd().try_clone_to_owned().map_err(|error| HostError::io(WHAT, error))?;
        let (tell, reached) = oneshot::channel();
        let mut state = shared.lock();
        if state.closed {
            return Err(HostError::Closed { what: WHAT.into() });
        }
        if state.watched.len() >= WATCHED_MAX {
            return Err(HostError::Busy { what: WHAT.into() });
        }
        state.last += 1;
        let number = state.last;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        shared.epoll.add(&pidfd, event).map_err(|errno| HostError::errno(WHAT, errno))?;
        state.watched.insert(number, Watched { pidfd, tell });
        drop(state);
        Ok(Ending { shared, number, reached })
    }
}

impl Ending {
    /// Waits for it.
    ///
    /// # Errors
    /// [`HostError::Closed`] where the watcher ended first.
    pub async fn reached(&mut self) -> Result<(), HostError> {
        (&mut self.reached).await.map_err(|_| HostError::Closed { what: WHAT.into() })
    }
}

impl Shared {
    fn watch(&self) {
        let mut events = [EpollEvent::empty(); BATCH];
        loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) if events[..count].iter().any(|event| event.data() == STOP) => break,
                Ok(count) => events[..count].iter().for_each(|event| self.tell(event.data())),
                Err(Errno::EINTR) => {}
                Err(error) => {
                    tracing::error!(%error, "ends of processes are not noticed any more");
                    break;
                }
            }
        }
        // Whoever waits sees the end of the watch.
        let mut state = self.lock();
        state.closed = true;
        state.watched.clear();
    }

    fn tell(&self, number: u64) {
        if let Some(watched) = self.forget(number) {
            // Nobody waits where the watch is just being given up.
            let _ = watched.tell.send(());
        }
    }

    fn forget(&self, number: u64) -> Option<Watched> {
        let watched = self.lock().watched.remove(&number)?;
        // It is there unless the thread ended; either way it goes with the descriptor.
        let _ = self.epoll.delete(&watched.pidfd);
        Some(watched)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.forget(self.number);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Only a full counter would refuse, which has woken the thread.
        let _ = self.0.stop.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};
    use std::time::Duration;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(30);

    fn sleepers(count: usize) -> Vec<Child> {
        (0..count).map(|_| Command::new("sleep").arg("60").spawn().unwrap()).collect()
    }

    #[tokio::test]
    async fn each_end_is_told_to_whom_it_concerns() {
        let endings = Endings::open().unwrap();
        let mut children = sleepers(8);
        let processes: Vec<_> = children.iter().map(|child| Process::open(child.id()).unwrap()).collect();
        let mut watched: Vec<_> = processes.iter().map(|process| endings.watch(process).unwrap()).collect();
        for (number, child) in children.iter_mut().enumerate().rev() {
            assert!(timeout(Duration::from_millis(5), watched[number].reached()).await.is_err());
            child.kill().unwrap();
            // Before anybody has waited for it.
            timeout(DEADLINE, watched[number].reached()).await.unwrap().unwrap();
            child.wait().unwrap();
        }
        for process in &processes {
            let mut late = endings.watch(process).unwrap();
            timeout(DEADLINE, late.reached()).await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn a_watch_given_up_leaves_nothing_and_a_watcher_that_ends_tells() {
        let endings = Endings::open().unwrap();
        let mut children = sleepers(1);
        let process = Process::open(children[0].id()).unwrap();
        let shared = endings.0.0.clone();
        for _ in 0..100 {
            drop(endings.watch(&process).unwrap());
        }
        assert_eq!(shared.lock().watched.len(), 0);
        let mut left = endings.watch(&process).unwrap();
        drop(endings);
        assert!(matches!(timeout(DEADLINE, left.reached()).await.unwrap(), Err(HostError::Closed { .. })));
        children[0].kill().unwrap();
        children[0].wait().unwrap();
    }
}
