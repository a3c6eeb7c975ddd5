//! The thread of a worker: turns it, waits when it is idle, and swaps its socket when the port changes.

use crate::device::DeviceError;
use crate::linux::Clock;
use crate::linux::tun::TunQueue;
use crate::linux::udp::UdpLink;
use crate::linux::wait::Waker;
use ginnel_engine::command::Command;
use ginnel_engine::peer::noise::Noise;
use ginnel_engine::worker::{Turn, Wiring, Worker};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// A worker thread as its device sees it.
pub struct WorkerThread {
    commands: SyncSender<Command>,
    links: SyncSender<NewLink>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct NewLink {
    link: UdpLink,
    done: SyncSender<()>,
}

impl WorkerThread {
    /// Starts the thread of `worker`. `wakers` are those of all workers of the device, in order.
    ///
    /// # Errors
    /// Where the system has no thread left.
    pub fn start<N: Noise + Send + 'static>(
        (tun, link): (TunQueue, UdpLink),
        clock: Clock,
        wakers: &[Waker],
        core: Option<usize>,
        wire: impl FnOnce(Receiver<Command>) -> Wiring,
    ) -> Result<Self, DeviceError>
    where
        N::Identity: Send,
    {
        let (commands, commands_rx) = sync_channel(ginnel_engine::limits::COMMANDS_QUEUED_MAX);
        let (links, links_rx) = sync_channel(1);
        let wiring = wire(commands_rx);
        let waker = wakers.get(wiring.worker as usize).cloned().ok_or(DeviceError::Stopped)?;
        let stop = Arc::new(AtomicBool::new(false));
        let name = format!("ginnel-w{}", wiring.worker);
        let run = {
            let (waker, stop, wakers) = (waker.clone(), Arc::clone(&stop), wakers.to_vec());
            move || {
                if let Some(core) = core {
                    pin(core);
                }
                run(Worker::<N, _, _>::new(tun, link, wiring), &links_rx, &waker, &wakers, &stop, clock);
            }
        };
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(run)
            .map_err(|source| DeviceError::System { action: "starting a worker thread", source })?;
        Ok(Self { commands, links, waker, stop, thread: Some(thread) })
    }

    /// Queues a command; waits while the queue is full.
    ///
    /// # Errors
    /// [`DeviceError::Stopped`].
    pub fn command(&self, command: Command) -> Result<(), DeviceError> {
        self.commands.send(command).map_err(|_| DeviceError::Stopped)?;
        self.waker.wake();
        Ok(())
    }

    /// Has the worker go on with another socket. Returns when it does.
    ///
    /// # Errors
    /// [`DeviceError::Stopped`].
    pub fn replace_link(&self, link: UdpLink) -> Result<(), DeviceError> {
        let (done, replaced) = sync_channel(1);
        self.links.send(NewLink { link, done }).map_err(|_| DeviceError::Stopped)?;
        self.waker.wake();
        replaced.recv().map_err(|_| DeviceError::Stopped)
    }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = self.thread.take() {
            // A worker that panicked has said so on stderr; there is nothing left of it to stop.
            let _ = thread.join();
        }
    }
}

fn run<N: Noise>(
    mut worker: Worker<N, TunQueue, UdpLink>,
    links: &Receiver<NewLink>,
    waker: &Waker,
    wakers: &[Waker],
    stop: &AtomicBool,
    clock: Clock,
) {
    while !stop.load(Ordering::Acquire) {
        if let Ok(NewLink { link, done }) = links.try_recv() {
            *worker.ports_mut().1 = link;
            // Whoever asked may have stopped waiting.
            let _ = done.try_send(());
        }
        let now = clock.tick();
        let turn = worker.turn(now);
        worker.wake_others(|other| {
            if let Some(waker) = wakers.get(other as usize) {
                waker.wake_if_asleep();
            }
        });
        match turn {
            Turn::Busy => {}
            Turn::Idle(deadline) => {
                let (tun, link) = worker.ports();
                waker.wait([tun.as_fd(), link.as_fd()], now, deadline, || worker.has_mail());
            }
            Turn::Closed(_) => return,
        }
    }
}

/// Keeps the calling thread on one core. Where the system does not allow it, the thread runs anywhere.
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
