//! Metrics for whoever collects them, in the text format of OpenMetrics, on a Unix socket or an address of the loopback.
//!
//! ```text
//! scrape ─► http ─► gather: status, lists, health, tally ─► page ─► text
//! ```
//!
//! A scrape sees what `status` and `list` see: it reads the node and waits for no change in progress. There are few of them
//! at once, each with a deadline, so that a collector
//! gone mad cannot take the daemon with it. Where the address cannot be
//! had the daemon runs without, says so, and tries again.
//!
//! Not here: storing, pushing, or any protection beyond who may connect.

mod http;
mod page;
mod process;
mod text;

use crate::config::MetricsListen;
use crate::ipc::access::Caller;
use crate::ipc::health::{ConditionCode, HealthBoard};
use crate::ipc::server::{Handler, Order};
use crate::ipc::tally::Tally;
use crate::ipc::wire::{
    Fault, ListPage, ListQuery, ObjectKind, Objects, PeerItem, PeerScope, Request, Response, Severity,
};
use crate::socket_file::{self, Access, ListenError, SocketFile};
use http::Refusal;
use page::Facts;
use process::ProcessFacts;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Connections at once; more wait in the queue of the kernel. One collector opens one at a time.
const CONNECTIONS_MAX: usize = 8;

/// For the node to tell everything. It takes milliseconds.
const GATHER_TIME: Duration = Duration::from_secs(5);

/// Between two tries to have the address, or to accept a connection.
const PAUSE: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections the kernel queues.
const BACKLOG: i32 = 16;

/// Where metrics are served, and to whom on a Unix socket.
#[derive(Clone, Debug)]
pub(crate) struct MetricsSetup {
    pub(crate) listen: MetricsListen,
    pub(crate) mode: u32,
    pub(crate) group: Option<String>,
}

/// Why the address cannot be had.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("metrics are served on the loopback only, and {0} is not of it")]
    NotLoopback(std::net::SocketAddr),
    #[error("metrics cannot be served at {0}: {1}")]
    Tcp(std::net::SocketAddr, io::Error),
    #[error("metrics cannot be served at {0}: {1}")]
    Unix(String, String),
}

/// The node as metrics tell it.
pub(crate) struct Metrics<H> {
    handler: Arc<H>,
    board: HealthBoard,
    tally: Tally,
    started: SystemTime,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl<H: Handler> Metrics<H> {
    pub(crate) fn new(handler: Arc<H>, board: HealthBoard, tally: Tally) -> Arc<Self> {
        Arc::new(Self { handler, board, tally, started: SystemTime::now() })
    }

    /// Serves where `setup` says, for ever; without one, waits for ever.
    pub(crate) async fn serve(self: Arc<Self>, setup: Option<&MetricsSetup>) -> Infallible {
        let Some(setup) = setup else { return std::future::pending().await };
        loop {
            match Listener::bind(setup).await {
                Ok(listener) => {
                    self.board.clear(ConditionCode::MetricsFailed, None);
                    tracing::info!(at = %setup.listen, "metrics are served");
                    self.accept(&listener).await;
                }
                Err(error) => {
                    let hint = "free the address, or set metrics.listen to another";
                    let text = error.to_string();
                    tracing::warn!("{text}");
                    self.board.raise(ConditionCode::MetricsFailed, None, Severity::Warning, &text, Some(hint));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes one connection after the other, until the file of the socket is somebody else's.
    async fn accept(self: &Arc<Self>, listener: &Listener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            while connections.try_join_next().is_some() {}
            let itself = self.clone();
            let accepted = match listener {
                Listener::Tcp(listener) => listener.accept().await.map(|(mut stream, _)| {
                    connections.spawn(async move { itself.converse(&mut stream).await });
                }),
                Listener::Unix(listener, file) => {
                    if !file.is_ours() {
                        return;
                    }
                    match timeout(PAUSE, listener.accept()).await {
                        Ok(accepted) => accepted.map(|(mut stream, _)| {
                            connections.spawn(async move { itself.converse(&mut stream).await });
                        }),
                        Err(_) => Ok(()),
                    }
                }
            };
            if accepted.is_err() {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }

    async fn converse(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
        let wish = match http::read(stream).await {
            Ok(wish) => wish,
            Err(None) => return,
            Err(Some(refusal)) => return http::refuse(stream, refusal).await,
        };
        match timeout(GATHER_TIME, self.gather()).await {
            Ok(Ok(facts)) => http::answer(stream, wish, text::CONTENT_TYPE, &page::page(&facts)).await,
            Ok(Err(fault)) => {
                tracing::debug!(%fault.message, "nothing can be told to a collector of metrics");
                http::refuse(stream, Refusal::Unavailable).await;
            }
            Err(_) => http::refuse(stream, Refusal::Unavailable).await,
        }
    }

    async fn gather(&self) -> Result<Facts, Fault> {
        let order = Order { caller: Caller::default(), request: Request::Status, descriptors: Vec::new() };
        let mut facts = match self.handler.handle(order).await {
            Response::Status(status) => Facts { status: *status, ..Facts::default() },
            Response::Err(fault) => return Err(fault),
            other => return Err(Fault::new(crate::ipc::wire::ErrorCode::Internal, format!("{other:?}"))),
        };
        let interface = facts.status.interface.clone().unwrap_or_default();
        facts.peers =
            facts.status.peers.iter().map(|peer| (interface.clone(), PeerItem::new(peer, PeerScope::Global))).collect();
        for dedicated in facts.status.dedicated_services.clone() {
            self.dedicated_peers(&dedicated.service, &dedicated.interface, &mut facts.peers).await?;
        }
        self.list(ObjectKind::Services, |page| {
            if let Objects::Services(page) = page {
                facts.services.extend(page)
            }
        })
        .await?;
        self.list(ObjectKind::Drops, |page| {
            if let Objects::Drops(page) = page {
                facts.drops.extend(page)
            }
        })
        .await?;
        self.list(ObjectKind::Offloads, |page| {
            if let Objects::Offloads(page) = page {
                facts.offloads.extend(page)
            }
        })
        .await?;
        facts.health = self.board.health().conditions;
        facts.requests = self.tally.read();
        facts.process = ProcessFacts::read(self.started);
        Ok(facts)
    }

    async fn list(&self, kind: ObjectKind, mut take: impl FnMut(Objects)) -> Result<(), Fault> {
        let mut after = None;
        loop {
            let ListPage { objects, next } = self.handler.list(&ListQuery { kind, after, limit: None }).await?;
            take(objects);
            after = next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// Those of a dedicated overlay, whose keys come one behind the other in the list of all.
    async fn dedicated_peers(
        &self,
        service: &str,
        interface: &str,
        to: &mut Vec<(String, PeerItem)>,
    ) -> Result<(), Fault> {
        let scope = PeerScope::Service { service: service.to_owned() };
        let mut after = Some(scope.peer_key(""));
        while after.is_some() {
            let query = ListQuery { kind: ObjectKind::Peers, after, limit: None };
            let ListPage { objects, next } = self.handler.list(&query).await?;
            let Objects::Peers(page) = objects else { return Ok(()) };
            let count = page.len();
            let of_service: Vec<_> = page.into_iter().filter(|peer| peer.scope == scope).collect();
            after = next.filter(|_| of_service.len() == count);
            to.extend(of_service.into_iter().map(|peer| (interface.to_owned(), peer)));
        }
        Ok(())
    }
}

impl Listener {
    async fn bind(setup: &MetricsSetup) -> Result<Self, BindError> {
        match &setup.listen {
            MetricsListen::Tcp(address) if !address.ip().is_loopback() => Err(BindError::NotLoopback(*address)),
            MetricsListen::Tcp(address) => {
                TcpListener::bind(address).await.map(Self::Tcp).map_err(|error| BindError::Tcp(*address, error))
            }
            MetricsListen::Unix(path) => {
                let failed = |error| BindError::Unix(path.display().to_string(), words(error));
                let access = Access { mode: setup.mode, group: setup.group.as_deref(), backlog: BACKLOG };
                let (listener, file) = socket_file::listen(path, access).map_err(failed)?;
                let failed = |error: io::Error| BindError::Unix(path.display().to_string(), error.to_string());
                Ok(Self::Unix(UnixListener::from_std(listener).map_err(failed)?, file))
            }
        }
    }
}

fn words(error: ListenError) -> String {
    match error {
        ListenError::InUse => "another program listens there".to_owned(),
        ListenError::NotASocket => "a file that is no socket is there".to_owned(),
        ListenError::TooLong => "the path is too long for a socket".to_owned(),
        ListenError::Directory(error) => format!("its directory cannot be made: {error}"),
        ListenError::System(action, error) => format!("to {action} it failed: {error}"),
    }
}

#[cfg(test)]
mod tests;
