//! Where queries are answered. What is wanted is tried at once and then every second until it is had: a gateway whose
//! bridge is being made, a port that somebody else has. A socket lives for as long as its address is wanted, whatever
//! happens to names, bridges and containers meanwhile.

use super::Core;
use super::problem::{Holder, Problem};
use super::{datagram, stream};
use crate::host::ports::{self, PortTable, Protocol};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A listener, by its address.
pub(super) type Listeners = BTreeMap<SocketAddr, Listener>;

pub(super) enum Listener {
    Up {
        at: SocketAddr,
        tasks: [AbortHandle; 2],
    },
    /// The host has no such address, which is no problem yet: a bridge that is being made has none for a moment.
    Awaited(Instant),
    Down(Problem),
}

/// How long an address may be missing until that is told. A bridge takes milliseconds, thousands of them a second.
const AWAITED_FOR: Duration = Duration::from_secs(2);

impl Core {
    /// Wants to answer at these addresses and no others.
    pub(super) fn want(self: &Arc<Self>, wanted: &BTreeSet<SocketAddr>, runtime: &Handle) {
        let mut listeners = self.listeners();
        listeners.retain(|at, listener| {
            let stays = wanted.contains(at);
            if let (false, Listener::Up { tasks, .. }) = (stays, &*listener) {
                tasks.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for at in wanted {
            if !matches!(listeners.get(at), Some(Listener::Up { .. })) {
                self.listen(&mut listeners, *at, runtime);
            }
        }
        self.tell_own(&listeners);
    }

    /// Tries again what could not be had.
    pub(super) fn try_again(self: &Arc<Self>, runtime: &Handle) {
        let mut listeners = self.listeners();
        let down: Vec<_> =
            listeners.iter().filter(|(_, one)| !matches!(one, Listener::Up { .. })).map(|(at, _)| *at).collect();
        for at in &down {
            self.listen(&mut listeners, *at, runtime);
        }
        if !down.is_empty() {
            self.tell_own(&listeners);
        }
    }

    fn listen(self: &Arc<Self>, listeners: &mut Listeners, at: SocketAddr, runtime: &Handle) {
        let awaited = match listeners.get(&at) {
            None => Some(Instant::now()),
            Some(Listener::Awaited(since)) => Some(*since).filter(|since| since.elapsed() < AWAITED_FOR),
            Some(_) => None,
        };
        let listener = match (self.open(at, runtime), awaited) {
            (Ok((tasks, at)), _) => {
                tracing::info!(%at, "answering names");
                Listener::Up { at, tasks }
            }
            (Err(error), Some(since)) if error.kind() == io::ErrorKind::AddrNotAvailable => Listener::Awaited(since),
            (Err(error), _) => {
                let problem = match error.kind() {
                    io::ErrorKind::AddrInUse => Problem::Taken { at, holder: holder(listeners.get(&at), at) },
                    io::ErrorKind::AddrNotAvailable => Problem::Absent { at },
                    _ => Problem::Unavailable { at, reason: error.to_string() },
                };
                if !matches!(listeners.get(&at), Some(Listener::Down(known)) if *known == problem) {
                    tracing::warn!("{problem}");
                }
                Listener::Down(problem)
            }
        };
        listeners.insert(at, listener);
    }

    fn open(self: &Arc<Self>, at: SocketAddr, runtime: &Handle) -> io::Result<([AbortHandle; 2], SocketAddr)> {
        if at.ip().is_unspecified() {
            return Err(io::Error::other("all addresses at once are not ours to answer at"));
        }
        let udp = UdpSocket::bind(at)?;
        udp.set_nonblocking(true)?;
        // Where the port is of the system's choice, it is the same for both.
        let at = udp.local_addr()?;
        let tcp = TcpListener::bind(at)?;
        tcp.set_nonblocking(true)?;
        let _inside = runtime.enter();
        let (udp, tcp) = (tokio::net::UdpSocket::from_std(udp)?, tokio::net::TcpListener::from_std(tcp)?);
        let datagrams = runtime.spawn(datagram::serve(self.clone(), udp, at.ip())).abort_handle();
        let streams = runtime.spawn(stream::serve(self.clone(), tcp, at.ip())).abort_handle();
        Ok(([datagrams, streams], at))
    }

    fn tell_own(&self, listeners: &Listeners) {
        let up = listeners.values().filter_map(|listener| match listener {
            Listener::Up { at, .. } => Some(*at),
            Listener::Awaited(_) | Listener::Down(_) => None,
        });
        self.forwarder.own.store(Arc::new(up.collect()));
    }

    pub(super) fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who has the port of `at`, as far as we may know. A look at all processes takes its time, so one that was found before
/// and is still there is taken to have it still.
fn holder(before: Option<&Listener>, at: SocketAddr) -> Option<Holder> {
    if let Some(Listener::Down(Problem::Taken { holder: Some(known), .. })) = before
        && Path::new("/proc").join(known.pid.to_string()).exists()
    {
        return Some(known.clone());
    }
    let table = PortTable::read();
    let (holder, at) = [Protocol::Udp, Protocol::Tcp].into_iter().find_map(|protocol| table.holder(protocol, at))?;
    match holder {
        ports::Holder::Process { pid, name } => Some(Holder { pid, name, at }),
        ports::Holder::Unknown => None,
    }
}
