//! The server: accepts connections, takes one request after the other from each, answers in order, and lets nothing a peer
//! does or omits touch another.
//!
//! ```text
//! accept ──► Connection (a task each) ──► Desk: role, name, audit, own operations ──► Handler (the node)
//!                ▲ events                   └──► EventHub, HealthBoard, SyncBook
//! ```
//!
//! A request runs in a task of its own, so that neither a panic nor a closed connection nor the deadline interrupts it
//! half-way. What each bound protects:
//!
//! | Bound | Against |
//! |---|---|
//! | [`Limits::connections`] | descriptors and tasks running out |
//! | [`Limits::frame_time`] | a sender that stops inside a frame, a receiver that does not read |
//! | [`Limits::long_frames`] | memory for many large bodies at once |
//! | [`Limits::request_time`] | waiting for ever for a request that hangs |
//!
//! Idle connections have no deadline: the published client keeps one open for days and never reconnects. They hold a
//! descriptor and the state of a task, no buffer. When the process has no descriptor left, one that was kept for this is
//! given up for a moment, so that whoever connects is turned away rather than left waiting.

mod connection;
pub(crate) mod desk;
mod receiver;
mod spare;

use super::access::{Caller, Credentials, Policy};
use super::events::EventHub;
use super::health::{ConditionCode, HealthBoard};
use super::live::Live;
use super::socket::BoundSocket;
use super::stop::Stop;
use super::sync::Keep;
use super::tally::Tally;
use super::wire::{Fault, ListPage, ListQuery, ObjectName, Request, Response, Role, Severity};
use crate::log_budget::LogBudget;
use connection::Connection;
pub(crate) use desk::AUDIT;
use desk::Desk;
use spare::Spare;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// A request on its way to whoever carries it out.
#[derive(Debug)]
pub struct Order {
    /// Who asks.
    pub caller: Caller,
    /// What is asked.
    pub request: Request,
    /// Descriptors that came beside the frame; closed where nobody takes them.
    pub descriptors: Vec<OwnedFd>,
}

/// Whoever carries requests out: the node behind the server.
pub trait Handler: Send + Sync + 'static {
    /// Carries out an operation of the published contract. Runs to its end even when the connection that asked is gone.
    fn handle(&self, order: Order) -> impl Future<Output = Response> + Send;

    /// A page of the objects of a kind, which is not [`super::wire::ObjectKind::Events`]. [`super::wire::page`] cuts it.
    fn list(&self, query: &ListQuery) -> impl Future<Output = Result<ListPage, Fault>> + Send;

    /// Removes the objects of the kinds that `keep` covers, but for those it keeps. `keep` is asked about each object where
    /// a request for it would have to wait, right before it goes. To be repeated after an error.
    fn retain(&self, keep: &Keep) -> impl Future<Output = Result<Vec<ObjectName>, Fault>> + Send;

    /// What `status` says.
    fn boot_id(&self) -> String;
}

/// Bounds of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; more are closed as they come. Half of the usual 1,024 descriptors of a process. The last
    /// sixteenth is for callers with the role admin.
    pub connections: usize,
    /// For the rest of a frame once its first byte is there, and for the peer to take an answer. Orders of magnitude
    /// above what a local socket needs.
    pub frame_time: Duration,
    /// Bodies above [`LONG_FRAME_BYTES`] being read or carried out at once. JSON of many small values takes up to 16 times
    /// its length once read, so two keep the worst case near 256 MiB. No request of the contract is that long.
    pub long_frames: usize,
    /// For one request. A little above the slowest thing a request may wait for.
    pub request_time: Duration,
}

/// Bodies above this are long.
pub const LONG_FRAME_BYTES: usize = 256 * 1024;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            frame_time: Duration::from_secs(30),
            long_frames: 2,
            request_time: Duration::from_secs(60),
        }
    }
}

/// What may be exchanged while a server runs. `long_frames` is read at its start only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerSettings {
    /// Bounds.
    pub limits: Limits,
    /// Who may do what.
    pub policy: Policy,
}

/// First and longest pause after a failed accept for which nothing else can be done.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Complaints about refused connections are not logged more often than this.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A server that does not run yet.
pub struct Server<H> {
    desk: Arc<Desk<H>>,
    stop: Stop,
    probes: (mpsc::Sender<oneshot::Sender<()>>, mpsc::Receiver<oneshot::Sender<()>>),
}

impl<H: Handler> Server<H> {
    /// A server in front of `handler`, which tells the events of `hub` and the conditions of `board`.
    #[must_use]
    pub fn new(handler: Arc<H>, settings: Live<ServerSettings>, hub: EventHub, board: HealthBoard, stop: Stop) -> Self {
        Self { desk: Arc::new(Desk::new(handler, settings, hub, board)), stop, probes: mpsc::channel(1) }
    }

    /// A way to see that the server turns.
    #[must_use]
    pub fn probe(&self) -> Probe {
        Probe(self.probes.0.clone())
    }

    /// What it was asked and how it went.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.desk.tally.clone()
    }

    /// Serves `socket` until told to stop, from outside or by a `shutdown` request that was answered `ok`. Open connections
    /// are cut then. Nothing else ends it.
    pub async fn serve(self, socket: &BoundSocket) {
        let (_alive, mut probes) = self.probes;
        let mut hall = Hall::new(self.desk, self.stop.clone());
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.stop.triggered() => return,
                Some(asked) = probes.recv() => {
                    // Whoever asked may have lost patience.
                    let _ = asked.send(());
                    continue;
                }
                Some(_) = hall.connections.join_next(), if !hall.connections.is_empty() => continue,
                accepted = socket.listener().accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => hall.admit(stream),
                Err(error) if Spare::helps(&error) && hall.turn_away(socket).await => {}
                Err(error) => {
                    if let Some(withheld) = hall.complaints.admit(Instant::now()) {
                        tracing::warn!(%error, withheld, "a connection cannot be accepted; going on");
                    }
                    tokio::select! {
                        () = self.stop.triggered() => return,
                        () = tokio::time::sleep(hall.pause) => hall.pause = (hall.pause * 2).min(ACCEPT_PAUSE.1),
                    }
                }
            }
        }
    }
}

/// Asks a running server for a sign of life.
#[derive(Clone, Debug)]
pub struct Probe(mpsc::Sender<oneshot::Sender<()>>);

impl Probe {
    /// Returns once the loop that accepts connections has come round; never where it does not run.
    pub async fn turned(&self) {
        let (sender, receiver) = oneshot::channel();
        if self.0.send(sender).await.is_err() || receiver.await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The connections of a server, and who gets in.
struct Hall<H> {
    desk: Arc<Desk<H>>,
    long_frames: Arc<Semaphore>,
    stop: Stop,
    connections: JoinSet<()>,
    spare: Spare,
    pause: Duration,
    complaints: LogBudget,
}

impl<H: Handler> Hall<H> {
    fn new(desk: Arc<Desk<H>>, stop: Stop) -> Self {
        let long_frames = Arc::new(Semaphore::new(desk.settings.load().limits.long_frames));
        Self {
            desk,
            long_frames,
            stop,
            connections: JoinSet::new(),
            spare: Spare::new(),
            pause: ACCEPT_PAUSE.0,
            complaints: LogBudget::new(1, COMPLAINT_INTERVAL),
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        self.pause = ACCEPT_PAUSE.0;
        if self.spare.is_ready() {
            self.desk.board.clear(ConditionCode::DescriptorsExhausted, None);
        }
        let settings = self.desk.settings.load();
        let credentials = Credentials::of(&stream);
        let most = settings.limits.connections;
        let kept_for_admin =
            if settings.policy.role_of(&credentials) == Some(Role::Admin) { 0 } else { most.div_ceil(16) };
        if self.connections.len() >= most - kept_for_admin.min(most) {
            if let Some(withheld) = self.complaints.admit(Instant::now()) {
                tracing::warn!(open = self.connections.len(), withheld, "too many connections: closing new ones");
            }
            let text = format!("{} connections are open; new ones are closed", self.connections.len());
            let hint = "find out who opens them, or set ipc.connections higher";
            self.desk.board.raise(ConditionCode::ConnectionsFull, None, Severity::Warning, &text, Some(hint));
            return;
        }
        if self.connections.len() < most - most.div_ceil(16) {
            self.desk.board.clear(ConditionCode::ConnectionsFull, None);
        }
        let connection = Connection::new(credentials, self.desk.clone(), self.long_frames.clone(), self.stop.clone());
        self.connections.spawn(connection.run(stream));
    }

    /// Takes a connection with the descriptor kept for this and closes it. Returns whether that could be done.
    async fn turn_away(&mut self, socket: &BoundSocket) -> bool {
        if !self.spare.give_up() {
            return false;
        }
        // Somebody is waiting; should he leave first, there is nobody to turn away.
        let turned_away = tokio::time::timeout(ACCEPT_PAUSE.0, socket.listener().accept()).await;
        drop(turned_away);
        if let Some(withheld) = self.complaints.admit(Instant::now()) {
            tracing::warn!(withheld, "no descriptor is left: closing new connections");
        }
        let text = "the process has no descriptor left; new connections are closed";
        let hint = "raise LimitNOFILE of the unit, and find out what holds them: ls -l /proc/PID/fd";
        self.desk.board.raise(ConditionCode::DescriptorsExhausted, None, Severity::Error, text, Some(hint));
        self.spare.take_back()
    }
}

/// Serves without a configuration: the user of the test may do everything.
#[cfg(test)]
pub(crate) async fn serve<H: Handler>(socket: &BoundSocket, handler: Arc<H>, limits: Limits, stop: Stop) {
    let admin = vec![super::access::Principal::User(nix::unistd::geteuid().as_raw())];
    let settings = Live::new(ServerSettings { limits, policy: Policy { admin, ..Policy::default() } });
    Server::new(handler, settings, EventHub::default(), HealthBoard::default(), stop).serve(socket).await;
}

/// Serves one connection to its end. Its peer, which is this process, may do everything.
#[cfg(feature = "fuzzing")]
pub(crate) async fn serve_one<H: Handler>(stream: UnixStream, handler: Arc<H>) {
    let admin = vec![super::access::Principal::User(nix::unistd::geteuid().as_raw())];
    let settings = ServerSettings { policy: Policy { admin, ..Policy::default() }, ..ServerSettings::default() };
    let long_frames = Arc::new(Semaphore::new(settings.limits.long_frames));
    let desk = Desk::new(handler, Live::new(settings), EventHub::default(), HealthBoard::default());
    Connection::new(Credentials::of(&stream), Arc::new(desk), long_frames, Stop::default()).run(stream).await;
}

#[cfg(test)]
mod tests;
