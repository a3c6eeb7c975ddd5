//! Questions for others: each asked once at a time whoever wants to know, of one upstream after the other, and remembered.
//!
//! A query goes from a port and with an id of chance (RFC 5452, section 9.2), from a socket that takes datagrams of this
//! upstream only; what comes back counts if id and question are those of the query. It carries a mark, so that one of ours
//! that comes back to us is noticed. Where a mark is lost on the way round, the second query waits for the answer to the
//! first, and both end with its time.

use super::answer::{Asked, LOOP_OPTION};
use super::cache::{Answer, Cache, CacheKey};
use super::config::{DATAGRAM_BYTES_MAX, FORWARDED_MAX, TRIES_MAX, UPSTREAM_REST, UPSTREAM_TIME};
use super::upstreams::Upstreams;
use arc_swap::ArcSwap;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::OnceCell;
use tokio::time::timeout;

/// Queries in a row without an answer after which upstreams count as silent.
const SILENT_AFTER: u32 = 3;

/// How long a loop is told after it was last seen.
const LOOP_TOLD: Duration = Duration::from_secs(60);

pub(super) struct Forwarder {
    pub(super) upstreams: ArcSwap<Upstreams>,
    /// Where we answer ourselves.
    pub(super) own: ArcSwap<BTreeSet<SocketAddr>>,
    mark: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    in_flight: HashMap<CacheKey, Arc<OnceCell<Arc<Answer>>>>,
    /// Those that did not answer, and until when they are asked last.
    resting: HashMap<SocketAddr, Instant>,
    unanswered: u32,
    looped: Option<Instant>,
}

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it was silent")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("it says {0}")]
    Says(ResponseCode),
    #[error("it does not answer what was asked")]
    Wrong,
}

impl Forwarder {
    pub(super) fn new(upstreams: Upstreams) -> Self {
        Self {
            upstreams: ArcSwap::from_pointee(upstreams),
            own: ArcSwap::default(),
            mark: rand::random::<[u8; 8]>().to_vec(),
            state: Mutex::default(),
        }
    }

    /// Takes other upstreams for names without any of their own, and forgets what the ones before said.
    pub(super) fn set_usual(&self, usual: Vec<SocketAddr>) {
        self.upstreams.store(Arc::new(self.upstreams.load().with_usual(usual)));
        let mut state = self.state();
        state.cache.clear();
        state.resting.clear();
        state.unanswered = 0;
    }

    /// Whether a query is one of ours that came back.
    pub(super) fn sent(&self, edns: &Edns) -> bool {
        let ours = |option: &EdnsOption| matches!(option, EdnsOption::Unknown(_, mark) if *mark == self.mark);
        edns.option(EdnsCode::Unknown(LOOP_OPTION)).is_some_and(ours)
    }

    pub(super) fn note_loop(&self) {
        self.state().looped = Some(Instant::now());
    }

    pub(super) fn is_looped(&self) -> bool {
        self.state().looped.is_some_and(|seen| seen.elapsed() < LOOP_TOLD)
    }

    /// Whether upstreams have stopped to answer.
    pub(super) fn is_silent(&self) -> bool {
        self.state().unanswered >= SILENT_AFTER
    }

    pub(super) fn cached(&self) -> usize {
        self.state().cache.len()
    }

    /// The answer that is remembered.
    pub(super) fn remembered(&self, asked: &Asked) -> Option<Message> {
        let now = Instant::now();
        let found = self.state().cache.find(&CacheKey::of(asked), now);
        found.map(|answer| answer.message(asked, now))
    }

    /// The answer of an upstream, or SERVFAIL.
    pub(super) async fn ask(&self, asked: &Asked) -> Message {
        let key = CacheKey::of(asked);
        let cell = {
            let mut state = self.state();
            match state.in_flight.get(&key) {
                Some(cell) => cell.clone(),
                None if state.in_flight.len() >= FORWARDED_MAX => return asked.begin(ResponseCode::ServFail),
                None => {
                    let cell = Arc::<OnceCell<_>>::default();
                    state.in_flight.insert(key.clone(), cell.clone());
                    cell
                }
            }
        };
        let answer = cell.get_or_init(|| self.fetch(asked, &key)).await;
        answer.message(asked, Instant::now())
    }

    async fn fetch(&self, asked: &Asked, key: &CacheKey) -> Arc<Answer> {
        let servers = self.in_turn(key.name());
        let mut found = None;
        for server in &servers {
            match self.try_server(*server, asked).await {
                Ok(answer) => {
                    self.state().resting.remove(server);
                    found = Some(answer);
                    break;
                }
                Err(error) => {
                    tracing::debug!(%server, query = %asked.query, %error, "an upstream gave no answer");
                    self.state().resting.insert(*server, Instant::now() + UPSTREAM_REST);
                }
            }
        }
        let answer = Arc::new(found.unwrap_or_else(|| Answer::failure(Instant::now())));
        let mut state = self.state();
        state.unanswered =
            if answer.is_failure() && !servers.is_empty() { state.unanswered.saturating_add(1) } else { 0 };
        state.cache.put(key.clone(), answer.clone());
        state.in_flight.remove(key);
        answer
    }

    /// The servers to try for a name: those that answered last before those that did not, and a sole one twice.
    fn in_turn(&self, name: &[u8]) -> Vec<SocketAddr> {
        let own = self.own.load();
        let servers = self.upstreams.load().servers(name).to_vec();
        let mut servers: Vec<_> = servers.into_iter().filter(|server| !own.contains(server)).collect();
        let now = Instant::now();
        let mut state = self.state();
        state.resting.retain(|_, until| *until > now);
        servers.sort_by_key(|server| state.resting.contains_key(server));
        if let [sole] = servers[..] {
            servers.push(sole);
        }
        servers.truncate(TRIES_MAX);
        servers
    }

    async fn try_server(&self, server: SocketAddr, asked: &Asked) -> Result<Answer, NoAnswer> {
        let (message, bytes) = match timeout(UPSTREAM_TIME, self.over_udp(server, asked, true)).await? {
            // It knows no EDNS (RFC 6891, section 7).
            Ok((message, _)) if is_ignorant(message.metadata.response_code) => {
                timeout(UPSTREAM_TIME, self.over_udp(server, asked, false)).await??
            }
            other => other?,
        };
        let (message, bytes) = match message.metadata.truncation {
            true => timeout(UPSTREAM_TIME, self.over_tcp(server, asked)).await??,
            false => (message, bytes),
        };
        match message.metadata.response_code {
            ResponseCode::NoError | ResponseCode::NXDomain => Ok(Answer::of(message, bytes, Instant::now())),
            code => Err(NoAnswer::Says(code)),
        }
    }

    async fn over_udp(&self, server: SocketAddr, asked: &Asked, edns: bool) -> Result<(Message, usize), NoAnswer> {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        let (query, id) = self.query(asked, edns)?;
        socket.send(&query).await?;
        let mut buffer = [0; 2 * DATAGRAM_BYTES_MAX as usize];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Whatever else comes may be somebody's guess: the answer may still be on its way.
            if let Some(message) = response(&buffer[..length], id, &asked.query) {
                return Ok((message, length));
            }
        }
    }

    async fn over_tcp(&self, server: SocketAddr, asked: &Asked) -> Result<(Message, usize), NoAnswer> {
        let mut stream = TcpStream::connect(server).await?;
        let (query, id) = self.query(asked, true)?;
        let length = u16::try_from(query.len()).map_err(|_| NoAnswer::Wrong)?;
        stream.write_all(&[&length.to_be_bytes(), query.as_slice()].concat()).await?;
        let mut buffer = vec![0; usize::from(stream.read_u16().await?)];
        stream.read_exact(&mut buffer).await?;
        response(&buffer, id, &asked.query).map(|message| (message, buffer.len())).ok_or(NoAnswer::Wrong)
    }

    fn query(&self, asked: &Asked, with_edns: bool) -> Result<(Vec<u8>, u16), NoAnswer> {
        let id = rand::random();
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = asked.header.checking_disabled;
        message.metadata.authentic_data = asked.header.authentic_data;
        message.queries.push(asked.query.clone());
        if with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(DATAGRAM_BYTES_MAX).set_dnssec_ok(asked.dnssec_ok);
            edns.options_mut().insert(EdnsOption::Unknown(LOOP_OPTION, self.mark.clone()));
            message.edns = Some(edns);
        }
        Ok((message.to_vec().map_err(|_| NoAnswer::Wrong)?, id))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_ignorant(code: ResponseCode) -> bool {
    matches!(code, ResponseCode::FormErr | ResponseCode::NotImp | ResponseCode::BADVERS)
}

/// The message, if it answers the query with this id. One that understood nothing need not repeat the question.
fn response(bytes: &[u8], id: u16, query: &Query) -> Option<Message> {
    // As many questions as its header says, and no more memory than for one.
    if bytes.get(4..6)? > [0, 1].as_slice() {
        return None;
    }
    let message = Message::from_vec(bytes).ok()?;
    let metadata = &message.metadata;
    let ours = metadata.id == id && metadata.message_type == MessageType::Response && metadata.op_code == OpCode::Query;
    let same = match message.queries.as_slice() {
        [answered] => {
            let kinds = |query: &Query| (query.query_type(), query.query_class());
            answered.name() == query.name() && kinds(answered) == kinds(query)
        }
        _ => is_ignorant(metadata.response_code),
    };
    (ours && same).then_some(message)
}
