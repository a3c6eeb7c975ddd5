//! Where queries are answered. What is wanted is tried at once and then every second until it is had: a gateway whose
//! bridge is being made, a port that somebody else has. A socket lives for as long as its address is wanted, whatever
//! happens to names, bridges and containers meanwhile.

use super::Core;
use super::holder::holder;
use super::problem::Problem;
use super::{datagram, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// A listener, by its address.
pub(super) type Listeners = BTreeMap<SocketAddr, Listener>;

pub(super) enum Listener {
    Up { at: SocketAddr, tasks: [AbortHandle; 2] },
    Down(Problem),
}

impl Core {
    /// Wants to answer at these addresses and no others. Returns the problems that are new.
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
            listeners.iter().filter(|(_, one)| matches!(one, Listener::Down(_))).map(|(at, _)| *at).collect();
        for at in &down {
            self.listen(&mut listeners, *at, runtime);
        }
        if !down.is_empty() {
            self.tell_own(&listeners);
        }
    }

    fn listen(self: &Arc<Self>, listeners: &mut Listeners, at: SocketAddr, runtime: &Handle) {
        let listener = match self.open(at, runtime) {
            Ok((tasks, at)) => {
                tracing::info!(%at, "answering names");
                Listener::Up { at, tasks }
            }
            Err(error) => {
                let problem = match error.kind() {
                    io::ErrorKind::AddrInUse => Problem::Taken { at, holder: holder(at) },
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
            Listener::Down(_) => None,
        });
        self.forwarder.own.store(Arc::new(up.collect()));
    }

    pub(super) fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
