//! The asynchronous side of rtnetlink: requests run on helper threads, each with a [`Socket`] for life.
//!
//! A request can take the kernel long: the lock of the network configuration is one per machine, and removing a link
//! waits for grace periods after the lock is given back (20 ms). So requests never run on the threads of a runtime. A
//! helper that takes a job while no other is idle starts the next one first, up to the bound of the handle; an order
//! among jobs exists only where the bound is one. The helper that became idle last is woken first, and one that nobody
//! needed for a while ends, with its socket and descriptors, as long as another idles.
//!
//! ```text
//! async caller ─job─► queue ─► helper 0 │ socket, made in the namespace of the handle
//!              ◄─result─┘      helper 1 │ socket      enters a container's namespace, opens a
//!                              …                      socket there, comes back
//! ```
//!
//! A job runs to its end whether or not its caller still waits.

use super::ipv6::LinksV6;
use super::request::{Reply, Request};
use super::socket::{Exchange, Socket};
use super::{HostError, Netns};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Jobs that may wait. At the pace of the slowest ones, removals by a full pool, these take two seconds; more would only
/// hide that the kernel does not keep up.
const JOBS_MAX: usize = 4_096;

/// How long a helper idles before it ends: longer than the pauses within a wave of attaches.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// A handle to rtnetlink in one namespace. Clones share the helpers, which end with the last of them, after the jobs
/// that wait.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    state: Mutex<State>,
    helpers_max: usize,
    idle_max: Duration,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    helpers: usize,
    /// Helpers that wait, the last to be woken first.
    idle: Vec<Thread>,
    closed: bool,
}

type Job = Box<dyn FnOnce(&mut Helper) + Send>;

/// A helper thread's belongings.
pub(crate) struct Helper {
    socket: Socket,
    home: Option<Netns>,
    links_v6: Option<LinksV6>,
    /// It could not come back from another namespace.
    astray: bool,
}

impl Netlink {
    /// Opens a handle in the network namespace of the current thread. Its requests run one after the other.
    ///
    /// # Errors
    /// [`HostError::System`] where the kernel gives no socket, or the system no thread.
    pub fn open() -> Result<Self, HostError> {
        Self::open_pool(1)
    }

    /// Opens a handle in the network namespace of the current thread, whose requests run on up to `helpers_max` threads.
    ///
    /// # Errors
    /// As [`Netlink::open`].
    pub fn open_pool(helpers_max: usize) -> Result<Self, HostError> {
        Self::open_with(helpers_max, IDLE_MAX)
    }

    fn open_with(helpers_max: usize, idle_max: Duration) -> Result<Self, HostError> {
        let pool = Pool { state: Mutex::default(), helpers_max, idle_max };
        let handle = Handle(Arc::new(pool));
        handle.0.lock().helpers = 1;
        handle.0.start_helper(Socket::open()?)?;
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Opens a handle in `netns`, like one of [`Netlink::open_pool`]. Blocks for the time of starting a thread.
    ///
    /// # Errors
    /// As [`Netlink::open`], and [`HostError::Denied`] where the namespace may not be entered.
    pub fn open_in(netns: &Netns, helpers_max: usize) -> Result<Self, HostError> {
        netns.run_in(|| Self::open_pool(helpers_max))?
    }

    /// Runs `work` on a helper and returns what it returns. `what` names it in errors.
    ///
    /// # Errors
    /// [`HostError::Busy`] where too much waits; [`HostError::Closed`] where `work` panicked or no helper is left.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce(&mut Helper) -> T + Send + 'static,
    ) -> Result<T, HostError> {
        let (sender, receiver) = oneshot::channel();
        self.submit(what, move |helper| drop(sender.send(work(helper))))?;
        receiver.await.map_err(|_| HostError::Closed { what: what.into() })
    }

    /// Leaves `work` to a helper.
    ///
    /// # Errors
    /// [`HostError::Busy`] and [`HostError::Closed`] as [`Netlink::run`].
    pub(crate) fn submit(&self, what: &str, work: impl FnOnce(&mut Helper) + Send + 'static) -> Result<(), HostError> {
        let pool = &self.handle.0;
        let mut state = pool.lock();
        if state.helpers == 0 {
            return Err(HostError::Closed { what: what.into() });
        }
        if state.jobs.len() >= JOBS_MAX {
            return Err(HostError::Busy { what: what.into() });
        }
        state.jobs.push_back(Box::new(work));
        let idle = state.idle.pop();
        drop(state);
        if let Some(idle) = idle {
            idle.unpark();
        }
        Ok(())
    }

    /// Carries out one request.
    pub(super) async fn ask(&self, request: Request) -> Result<Vec<Reply>, HostError> {
        let what = request.what().to_owned();
        self.run(&what, move |helper| helper.socket.ask(request)).await?
    }
}

impl Helper {
    /// The socket in the namespace of the handle.
    pub(crate) fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// The namespace of the handle.
    ///
    /// # Errors
    /// [`HostError::NotFound`] where `/proc` is not mounted.
    pub(crate) fn home(&mut self) -> Result<Netns, HostError> {
        match &self.home {
            Some(home) => Ok(home.clone()),
            None => Ok(self.home.insert(Netns::current()?).clone()),
        }
    }

    /// The IPv6 settings of the links in the namespace of the handle.
    ///
    /// # Errors
    /// [`HostError::Denied`] where they may not be looked at.
    pub(crate) fn links_v6(&mut self) -> Result<&LinksV6, HostError> {
        match &mut self.links_v6 {
            Some(links) => Ok(links),
            none => Ok(none.insert(LinksV6::open()?)),
        }
    }

    /// Does `work` in `netns`, and comes back.
    ///
    /// # Errors
    /// [`HostError::Denied`] where it may not be entered.
    pub(crate) fn inside<T>(&mut self, netns: &Netns, work: impl FnOnce() -> T) -> Result<T, HostError> {
        let home = self.home()?;
        netns.enter()?;
        // The way back has to be taken on every path; a helper that panicked on the way would serve the wrong namespace.
        self.astray = true;
        let done = catch_unwind(AssertUnwindSafe(work));
        home.enter()?;
        self.astray = false;
        done.map_err(|_| HostError::Closed { what: "work in another namespace".into() })
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread inherits the namespace of the one that starts it: the opener's, later a helper's.
    fn start_helper(self: &Arc<Self>, socket: Socket) -> Result<(), HostError> {
        let pool = self.clone();
        let thread = thread::Builder::new().name("netlink".into());
        let started = thread.spawn(move || pool.help(Helper { socket, home: None, links_v6: None, astray: false }));
        started.map(drop).map_err(|error| {
            self.lock().helpers -= 1;
            HostError::io("start a thread", error)
        })
    }

    fn help(self: &Arc<Self>, mut helper: Helper) {
        while let Some(job) = self.next_job() {
            // The panic has been reported by its hook, the caller learns of it by the end of its channel.
            let _ = catch_unwind(AssertUnwindSafe(|| job(&mut helper)));
            if helper.astray {
                tracing::error!("a netlink helper could not return to its namespace and ends");
                break;
            }
        }
        let mut state = self.lock();
        state.helpers -= 1;
        if state.helpers == 0 {
            // Nobody is left to run them; their callers see the end of the channel. A job may hold a handle of this very
            // pool, so none is dropped under the lock.
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            drop(jobs);
        }
    }

    /// Waits for a job; `None` where the helper is to end.
    fn next_job(self: &Arc<Self>) -> Option<Job> {
        let me = thread::current();
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                let spare = state.idle.is_empty() && state.helpers < self.helpers_max && !state.closed;
                state.helpers += usize::from(spare);
                drop(state);
                if spare {
                    self.start_spare();
                }
                return Some(job);
            }
            if state.closed {
                return None;
            }
            state.idle.push(me.clone());
            drop(state);
            let since = Instant::now();
            thread::park_timeout(self.idle_max);
            state = self.lock();
            // Whoever woke it has taken it from the list.
            state.idle.retain(|idle| idle.id() != me.id());
            if since.elapsed() >= self.idle_max && state.jobs.is_empty() && !state.idle.is_empty() {
                return None;
            }
        }
    }

    /// Without it the pool is as large as it is.
    fn start_spare(self: &Arc<Self>) {
        let started = match Socket::open() {
            Ok(socket) => self.start_helper(socket),
            Err(error) => {
                self.lock().helpers -= 1;
                Err(error)
            }
        };
        if let Err(error) = started {
            tracing::warn!(%error, "no further netlink helper can be started");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.idle.drain(..).for_each(|idle| idle.unpark());
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { jobs, helpers, idle, closed } = self;
        write!(f, "State {{ {} jobs, {helpers} helpers, {} idle, closed: {closed} }}", jobs.len(), idle.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{LinkInfo, link};
    use crate::lab::rights_or_skip;
    use std::sync::mpsc;

    /// Long enough for a slow machine.
    const DEADLINE: Duration = Duration::from_secs(30);

    fn helpers(netlink: &Netlink) -> usize {
        netlink.handle.0.lock().helpers
    }

    #[tokio::test]
    async fn a_pool_grows_to_its_bound_and_serves_all() {
        let netlink = Netlink::open_pool(3).unwrap();
        let (arrived, arrivals) = mpsc::channel();
        let gates: Vec<_> = (0..5).map(|_| mpsc::channel::<()>()).collect();
        let mut keys = Vec::new();
        for (number, (key, gate)) in gates.into_iter().enumerate() {
            keys.push(key);
            let arrived = arrived.clone();
            let work = move |_: &mut Helper| {
                arrived.send(number).unwrap();
                gate.recv().unwrap();
            };
            netlink.submit("wait", work).unwrap();
        }
        for _ in 0..3 {
            arrivals.recv_timeout(DEADLINE).unwrap();
        }
        // The others wait until one is free.
        assert!(arrivals.recv_timeout(Duration::from_millis(50)).is_err());
        assert_eq!(helpers(&netlink), 3);
        for key in &keys {
            key.send(()).unwrap();
        }
        assert!(arrivals.recv_timeout(DEADLINE).is_ok() && arrivals.recv_timeout(DEADLINE).is_ok());
        assert_eq!(netlink.run("count", |_| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn helpers_that_are_not_needed_end_but_one() {
        let netlink = Netlink::open_with(8, Duration::from_millis(20)).unwrap();
        let (arrived, arrivals) = mpsc::channel();
        let keys: Vec<_> = (0..8)
            .map(|_| {
                let ((key, gate), arrived) = (mpsc::channel::<()>(), arrived.clone());
                let work = move |_: &mut Helper| {
                    arrived.send(()).unwrap();
                    let _ = gate.recv();
                };
                netlink.submit("wait", work).unwrap();
                key
            })
            .collect();
        (0..8).for_each(|_| arrivals.recv_timeout(DEADLINE).unwrap());
        assert_eq!(helpers(&netlink), 8);
        drop(keys);
        let start = Instant::now();
        while helpers(&netlink) > 1 {
            assert!(start.elapsed() < DEADLINE, "{:?}", netlink.handle.0.lock());
            thread::sleep(Duration::from_millis(1));
        }
        // The last one stays, however long nobody needs it.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(helpers(&netlink), 1);
        assert_eq!(netlink.run("count", |_| 7).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn too_much_waiting_is_refused() {
        let netlink = Netlink::open().unwrap();
        let (key, gate) = mpsc::channel::<()>();
        let (started, start) = mpsc::channel();
        let wait = move |_: &mut Helper| {
            started.send(()).unwrap();
            let _ = gate.recv();
        };
        netlink.submit("wait", wait).unwrap();
        start.recv_timeout(DEADLINE).unwrap();
        for _ in 0..JOBS_MAX {
            netlink.submit("wait", |_| ()).unwrap();
        }
        assert!(matches!(netlink.run("one more", |_| ()).await, Err(HostError::Busy { what }) if what == "one more"));
        drop(key);
        while netlink.run("again", |_| ()).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_is_its_callers_alone() {
        let netlink = Netlink::open().unwrap();
        let panicked = netlink.run("panic", |_| panic!("inside")).await;
        assert!(matches!(panicked, Err::<(), _>(HostError::Closed { .. })));
        assert!(netlink.link("lo").await.unwrap().index > 0);
        if rights_or_skip() {
            let (netns, home) = (Netns::create().unwrap(), Netns::current().unwrap().id().unwrap());
            let panicked = netlink.run("panic", move |helper| helper.inside(&netns, || panic!("inside"))).await;
            assert!(matches!(panicked, Ok(Err::<(), _>(HostError::Closed { .. }))));
            let back = netlink.run("look", |_| Netns::current()?.id()).await.unwrap().unwrap();
            assert_eq!(back, home);
        }
    }

    #[tokio::test]
    async fn the_last_handle_ends_the_helpers_after_what_waits() {
        let netlink = Netlink::open_pool(2).unwrap();
        let pool = netlink.handle.0.clone();
        let (done, ends) = mpsc::channel();
        for number in 0..20 {
            let done = done.clone();
            // Each keeps a handle for itself, the last of them on a helper.
            let own = netlink.clone();
            let work = move |_: &mut Helper| {
                drop(own);
                done.send(number).unwrap();
            };
            netlink.submit("work", work).unwrap();
        }
        drop(netlink);
        for _ in 0..20 {
            ends.recv_timeout(DEADLINE).unwrap();
        }
        let start = Instant::now();
        while pool.lock().helpers > 0 {
            assert!(start.elapsed() < DEADLINE);
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn requests_of_a_batch_are_answered_each() {
        let netlink = Netlink::open().unwrap();
        let work = |helper: &mut Helper| {
            let names = ["lo", "no-such-link", "lo"].map(|name| link::find(name).unwrap());
            // Dumps and single requests side by side, more of them than go out at once.
            let mut requests: Vec<_> = (0..400).map(|_| link::look_up(1)).collect();
            requests.push(link::list());
            requests.extend(names);
            requests.push(link::list());
            helper.socket().exchange(&requests)
        };
        let outcomes = netlink.run("ask", work).await.unwrap();
        assert_eq!(outcomes.len(), 405);
        for (number, outcome) in outcomes.into_iter().enumerate() {
            match number {
                402 => assert!(outcome.unwrap_err().is_not_found()),
                _ => assert_eq!(outcome.unwrap().iter().filter_map(LinkInfo::read).next().unwrap().name, "lo"),
            }
        }
    }

    #[tokio::test]
    async fn the_kernels_own_words_are_kept() {
        if !rights_or_skip() {
            return;
        }
        let netlink = Netlink::open_in(&Netns::create().unwrap(), 1).unwrap();
        let index = netlink.create_veth("d0", "e0", None).await.unwrap();
        let error = netlink.set_mtu(index, 70_000).await.unwrap_err();
        assert!(error.to_string().contains("mtu greater than device maximum"), "{error}");
    }
}
