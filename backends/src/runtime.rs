//! The threads of the workers of a device: each turns its worker, waits when it is idle, and swaps its socket when the
//! port changes.

use crate::backend::Backend;
use crate::device::DeviceError;
use crate::linux::Clock;
use crate::linux::seccomp::Filter;
use crate::linux::wait::Waker;
use ginnel_engine::command::Command;
use ginnel_engine::noise::stamp::Stamps;
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::port::{Link, Offloads, Ready, Tun};
use ginnel_engine::tick::Tick;
use ginnel_engine::worker::{Turn, Wiring, Worker};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use socket2::Socket;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// The worker threads of a device as it sees them, whatever their ports are.
pub trait Crew: Send + Sync {
    /// Queues a command for a worker; waits while the queue is full.
    ///
    /// # Errors
    /// [`DeviceError::Stopped`].
    fn command(&self, worker: usize, command: Command) -> Result<(), DeviceError>;

    /// Has the workers go on with sockets bound to `port`. Returns when they do, with second handles of the sockets.
    ///
    /// # Errors
    /// [`DeviceError`]; the workers go on as before then.
    fn rebind(&self, port: u16, fwmark: u32) -> Result<Vec<Socket>, DeviceError>;
}

/// What a worker thread is kept to.
#[derive(Debug, Default)]
pub struct Bounds {
    /// The only core it runs on.
    pub core: Option<usize>,
    /// What it may ask of the kernel; anything where there is none.
    pub filter: Option<Filter>,
}

impl Bounds {
    /// Keeps the calling thread to them. Where the system does not allow a core, the thread runs anywhere.
    fn keep(&self) -> io::Result<()> {
        if let Some(core) = self.core {
            pin(core);
        }
        self.filter.as_ref().map_or(Ok(()), Filter::confine)
    }
}

/// Worker threads on ports of one backend. Dropping it ends them.
pub struct Workers<B: Backend> {
    backend: B,
    offloads: Arc<Offloads>,
    clock: Clock,
    wakers: Vec<Waker>,
    threads: Vec<WorkerThread<B::Link>>,
}

struct WorkerThread<L> {
    commands: SyncSender<Command>,
    links: SyncSender<NewLink<L>>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct NewLink<L> {
    link: L,
    done: SyncSender<()>,
}

impl<B: Backend> Workers<B> {
    /// No threads yet. There is one of `wakers` for each worker to come.
    pub fn new(backend: B, offloads: Arc<Offloads>, clock: Clock, wakers: Vec<Waker>) -> Self {
        Self { backend, offloads, clock, wakers, threads: Vec::new() }
    }

    /// Starts the next worker on its ports.
    ///
    /// # Errors
    /// Where the system has no thread left, or cannot keep it from what it must not do.
    pub fn start<N: Noise + Send + 'static>(
        &mut self,
        (tun, link): (B::Tun, B::Link),
        bounds: Bounds,
        wire: impl FnOnce(Receiver<Command>) -> Wiring,
    ) -> Result<(), DeviceError>
    where
        N::Identity: Send,
    {
        let (commands, commands_rx) = sync_channel(ginnel_engine::limits::COMMANDS_QUEUED_MAX);
        let (links, links_rx) = sync_channel(1);
        let wiring = wire(commands_rx);
        let stamps = Arc::clone(&wiring.stamps);
        let waker = self.wakers.get(wiring.worker as usize).cloned().ok_or(DeviceError::Stopped)?;
        let stop = Arc::new(AtomicBool::new(false));
        let name = format!("ginnel-w{}", wiring.worker);
        let (kept_tx, kept) = sync_channel(1);
        let run = {
            let (waker, stop, wakers, clock) = (waker.clone(), Arc::clone(&stop), self.wakers.clone(), self.clock);
            move || {
                let kept = bounds.keep();
                let runs = kept.is_ok();
                // Whoever starts it waits for this.
                if kept_tx.send(kept).is_err() || !runs {
                    return;
                }
                run(Worker::<N, _, _>::new(tun, link, wiring), &links_rx, &waker, &wakers, &stop, (clock, &stamps));
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|source| DeviceError::System { action: "starting a worker thread", source })?;
        let kept = kept.recv().map_err(|_| DeviceError::Stopped)?;
        kept.map_err(|source| DeviceError::System { action: "putting the seccomp filter on a worker thread", source })?;
        self.threads.push(WorkerThread { commands, links, waker, stop, thread: Some(thread) });
        Ok(())
    }
}

impl<B: Backend> Crew for Workers<B> {
    fn command(&self, worker: usize, command: Command) -> Result<(), DeviceError> {
        let thread = self.threads.get(worker).ok_or(DeviceError::Stopped)?;
        thread.commands.send(command).map_err(|_| DeviceError::Stopped)?;
        thread.waker.wake();
        Ok(())
    }

    fn rebind(&self, port: u16, fwmark: u32) -> Result<Vec<Socket>, DeviceError> {
        let links = self.backend.links(port, fwmark, self.threads.len(), &self.offloads)?;
        let handles = links.iter().map(B::socket).collect::<Result<_, _>>()?;
        self.threads.iter().zip(links).try_for_each(|(thread, link)| thread.replace_link(link))?;
        Ok(handles)
    }
}

impl<L> WorkerThread<L> {
    fn replace_link(&self, link: L) -> Result<(), DeviceError> {
        let (done, replaced) = sync_channel(1);
        self.links.send(NewLink { link, done }).map_err(|_| DeviceError::Stopped)?;
        self.waker.wake();
        replaced.recv().map_err(|_| DeviceError::Stopped)
    }
}

impl<L> Drop for WorkerThread<L> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has said so on stderr; there is nothing left of it to stop.
            let _ = thread.join();
        }
    }
}

fn run<N: Noise, T: Tun + AsFd, L: Link + AsFd>(
    mut worker: Worker<N, T, L>,
    links: &Receiver<NewLink<L>>,
    waker: &Waker,
    wakers: &[Waker],
    stop: &AtomicBool,
    (clock, stamps): (Clock, &Stamps),
) {
    let mut looked = Tick::default();
    let mut ready = Ready::BOTH;
    while !stop.load(Ordering::Acquire) {
        if let Ok(NewLink { link, done }) = links.try_recv() {
            *worker.ports_mut().1 = link;
            ready = Ready::BOTH;
            // Whoever asked may have stopped waiting.
            let _ = done.try_send(());
        }
        let now = clock.tick();
        // The time of day may have been set since.
        if now.since(looked) >= Duration::from_secs(1) {
            looked = now;
            stamps.set_origin(clock.origin());
        }
        let turn = worker.turn(now, ready);
        worker.wake_others(|other| {
            if let Some(waker) = wakers.get(other as usize) {
                waker.wake_if_asleep();
            }
        });
        match turn {
            Turn::Busy => ready = Ready::BOTH,
            Turn::Idle(deadline) => {
                let (tun, link) = worker.ports();
                ready = waker.wait([tun.as_fd(), link.as_fd()], now, deadline, || worker.has_mail());
            }
            Turn::Closed(_) => return,
        }
    }
}

/// Keeps the calling thread on one core, if the system allows it.
fn pin(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).is_ok() {
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}

/// The cores this process may run on.
pub fn cores() -> Vec<usize> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
    let cores: Vec<_> = (0..CpuSet::count()).filter(|&core| allowed.is_set(core).unwrap_or(false)).collect();
    if cores.is_empty() { vec![0] } else { cores }
}
