//! Between a connection and the node: whether the caller may, what the request names, how long it may take, the operations
//! that are the daemon's own, and a line in the log for each change.

use super::{Handler, Order, ServerSettings};
use crate::ipc::access::{Caller, Credentials};
use crate::ipc::events::EventHub;
use crate::ipc::frame::FRAME_BYTES_MAX;
use crate::ipc::health::HealthBoard;
use crate::ipc::live::Live;
use crate::ipc::sync::{Ending, Keep, SyncBook};
use crate::ipc::tally::Tally;
use crate::ipc::wire::{
    ErrorCode, FEATURES, Fault, Hello, ListPage, ListQuery, ObjectKind, Objects, PROTOCOL_VERSION, Request, Response,
    SyncEnded,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::time::timeout;

/// The target of the lines that say who changed what, for filters.
pub(crate) const AUDIT: &str = "ginnel_control::audit";

pub(crate) struct Desk<H> {
    handler: Arc<H>,
    pub(super) settings: Live<ServerSettings>,
    pub(super) hub: EventHub,
    pub(super) board: HealthBoard,
    pub(super) tally: Tally,
    book: SyncBook,
    /// Read by requests that give out addresses, which only their answers name; written by removals, which would find an
    /// address whose answer is on its way unnamed.
    giving: tokio::sync::RwLock<()>,
}

impl<H: Handler> Desk<H> {
    pub(crate) fn new(handler: Arc<H>, settings: Live<ServerSettings>, hub: EventHub, board: HealthBoard) -> Self {
        let (book, giving) = (SyncBook::default(), tokio::sync::RwLock::default());
        Self { handler, settings, hub, board, tally: Tally::default(), book, giving }
    }

    /// Whether the caller may ask this; if not, that is logged.
    pub(super) fn permit(&self, credentials: &Credentials, request: &Request) -> Result<(), Fault> {
        self.settings.load().policy.permit(credentials, request).inspect_err(|fault| {
            let Caller { uid, pid } = credentials.caller;
            tracing::warn!(target: AUDIT, op = request.op(), subject = request.subject(), uid, pid, "{}", fault.message);
        })
    }

    pub(super) fn hello(&self, credentials: &Credentials) -> Response {
        Response::Hello(Hello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: PROTOCOL_VERSION,
            features: FEATURES.iter().map(|name| (*name).to_owned()).collect(),
            boot_id: self.handler.boot_id(),
            roles: self.settings.load().policy.roles_of(credentials),
            frame_bytes_max: FRAME_BYTES_MAX,
        })
    }

    /// Carries out a request within its time. It goes on to its end when the time is up or nobody waits any more.
    pub(super) async fn carry_out(desk: Arc<Self>, order: Order) -> Response {
        let op = order.request.op();
        let time = desk.settings.load().limits.request_time;
        let task = tokio::spawn(async move { desk.record(order).await });
        let fault = match timeout(time, task).await {
            Ok(Ok(response)) => return response,
            Ok(Err(error)) => {
                tracing::error!(op, %error, "a request failed in a way it should not");
                let text = format!("overlay engine error: {op} failed inside the daemon: see its log");
                Fault::new(ErrorCode::Internal, text)
            }
            Err(_) => {
                let secs = time.as_secs();
                let text = format!(
                    "overlay engine error: {op} is still running after {secs} s: ask for status before trying again"
                );
                Fault::new(ErrorCode::Timeout, text)
            }
        };
        Response::Err(fault)
    }

    /// Carries the request out and says so in the log, unless it only looks.
    pub(crate) async fn record(&self, order: Order) -> Response {
        if order.request.reads_only() {
            return self.dispatch(order).await;
        }
        let (op, subject, Caller { uid, pid }) = (order.request.op(), order.request.subject(), order.caller);
        let start = Instant::now();
        let response = self.dispatch(order).await;
        let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &response {
            Response::Err(fault) => {
                let code = fault.code.unwrap_or(ErrorCode::Unknown).name();
                tracing::warn!(target: AUDIT, op, subject, uid, pid, ms, code, "refused: {}", fault.message);
            }
            _ => tracing::info!(target: AUDIT, op, subject, uid, pid, ms, "carried out"),
        }
        response
    }

    async fn dispatch(&self, order: Order) -> Response {
        let answer = match order.request {
            Request::List(query) => self.list(&query).await.map(Response::List),
            Request::Health => Ok(Response::Health(self.board.health())),
            Request::BeginSync(begin) => self.book.begin(&begin),
            Request::EndSync { epoch } => self.end_sync(epoch).await.map(Response::SyncEnded),
            Request::Gc(gc) => match Keep::listed(gc) {
                Ok(keep) => {
                    let _turn = self.giving.write().await;
                    self.handler.retain(&keep).await.map(|removed| Response::Collected(removed.into()))
                }
                Err(fault) => Err(fault),
            },
            _ => return self.hand_on(order).await,
        };
        answer.unwrap_or_else(Response::Err)
    }

    async fn hand_on(&self, order: Order) -> Response {
        let _giving = match &order.request {
            Request::AllocateIp { .. } | Request::AttachContainer(_) => Some(self.giving.read().await),
            _ => None,
        };
        let _named = self.book.note(&order.request);
        let mut response = self.handler.handle(order).await;
        self.book.note_answer(&response);
        if let Response::Status(status) = &mut response {
            status.epoch = self.book.epoch();
            status.health = self.board.health().conditions;
        }
        response
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, Fault> {
        match (query.kind, &query.after) {
            (ObjectKind::Events, _) => {
                let (records, next) = self.hub.page(query);
                Ok(ListPage { objects: Objects::Events(records), next })
            }
            (ObjectKind::Leases, Some(after)) if after.parse::<IpAddr>().is_err() => {
                Err(Fault::new(ErrorCode::InvalidArgument, format!("after: {after:?} is no address")))
            }
            _ => self.handler.list(query).await,
        }
    }

    async fn end_sync(&self, epoch: u64) -> Result<SyncEnded, Fault> {
        let _turn = self.giving.write().await;
        let keep = match self.book.end(epoch)? {
            Ending::Repeated(ended) => return Ok(ended),
            Ending::Remove(keep) => keep,
        };
        let ended = SyncEnded { epoch, removed: self.handler.retain(&keep).await?.into() };
        self.book.ended(ended.clone());
        Ok(ended)
    }
}
