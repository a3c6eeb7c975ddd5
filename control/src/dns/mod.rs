//! The name server of a node: the names of the overlay out of its own records, all others from upstreams.
//!
//! ```text
//!   clients ──► datagram, stream ──► answer ──► lookup ──► Records          read without a lock
//!                     │                │                      ▲
//!                     │                └► Forwarder            └── the node: register, unregister
//!                     │                     ├─ cache, queries under way
//!                     │                     └─ upstreams ◄── resolv.conf, looked at every second
//!                 listeners ◄── wanted addresses, tried every second until they are had
//! ```
//!
//! It runs on a thread of its own, so that no flood of queries holds up anything else of the daemon, nor the other way
//! round. Everything taken from the network has a limit (config).
//!
//! Left out: DNSSEC of our own zones, transfers, dynamic updates; who may register what (ipc, node); port 53 in the
//! firewall (node).

mod answer;
mod cache;
mod clients;
mod config;
mod datagram;
mod forward;
mod listeners;
mod lookup;
mod name;
mod problem;
pub(crate) mod query;
mod records;
mod shards;
mod stream;
mod upstreams;

pub use config::{DEFAULT_NEGATIVE_TTL_SECS, DEFAULT_TTL_SECS, DEFAULT_ZONES, DnsConfig, StaticData, StaticRecord};
pub use name::{NameFault, canonical};
pub use problem::{Holder, Problem};
pub use records::Records;

use answer::{Asked, Outcome, Way};
use clients::Clients;
use config::LOOK_INTERVAL;
use forward::Forwarder;
use hickory_proto::rr::RecordType;
use ipnet::IpNet;
use listeners::{Listener, Listeners};
use lookup::Rules;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use stream::Places;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use upstreams::{ResolvConf, Upstreams};

/// What all parts of a server share.
struct Core {
    records: Records,
    rules: Rules,
    clients: Clients,
    forwarder: Forwarder,
    listeners: Mutex<Listeners>,
    places: Places,
    counters: Counters,
    ttl_secs: u32,
    negative_ttl_secs: u32,
}

#[derive(Default)]
struct Counters {
    queries: AtomicU64,
    own: AtomicU64,
    cached: AtomicU64,
    forwarded: AtomicU64,
    refused: AtomicU64,
    malformed: AtomicU64,
    crowded: AtomicU64,
    unsent: AtomicU64,
    looped: AtomicU64,
    turns: AtomicU32,
}

/// A name server that runs. It ends when this is dropped.
pub struct DnsServer {
    core: Arc<Core>,
    runtime: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DnsServer {
    /// A server that answers nobody yet: it has neither an address nor clients.
    ///
    /// # Errors
    /// Where the system has no thread or descriptors left.
    pub fn start(config: &DnsConfig) -> io::Result<Self> {
        let core = Arc::new(Core::new(config));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let handle = runtime.handle().clone();
        let resolv_conf = config.upstreams.is_empty().then(|| ResolvConf::new(&config.resolv_conf));
        let looking = look(core.clone(), resolv_conf);
        let thread = std::thread::Builder::new().name("ginnel-dns".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = looking => {}
                    // Where the sender is dropped it is over, too.
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        })?;
        Ok(Self { core, runtime: handle, stop: Some(stop), thread: Some(thread) })
    }

    /// The names. What is changed there is answered at once.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.core.records
    }

    /// Answers at these addresses and no others. Those that can be had are when this returns.
    pub fn listen_at(&self, wanted: &BTreeSet<SocketAddr>) {
        self.core.want(wanted, &self.runtime);
    }

    /// Answers clients in these networks, beside those of the host itself. Their addresses are ours to tell the names of.
    pub fn allow(&self, networks: &[IpNet]) {
        self.core.clients.set(networks);
    }

    /// What it does and has done.
    #[must_use]
    pub fn status(&self) -> DnsStatus {
        let (core, counters) = (&*self.core, &self.core.counters);
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let listeners = core.listeners();
        let up = listeners.values().filter_map(|listener| match listener {
            Listener::Up { at, .. } => Some(*at),
            Listener::Awaited(_) | Listener::Down(_) => None,
        });
        DnsStatus {
            listening: up.collect(),
            names: core.records.count(),
            upstreams: core.forwarder.upstreams.load().usual().to_vec(),
            cached: core.forwarder.cached(),
            counts: vec![
                ("queries", read(&counters.queries)),
                ("own", read(&counters.own)),
                ("from_cache", read(&counters.cached)),
                ("forwarded", read(&counters.forwarded)),
                ("refused", read(&counters.refused)),
                ("malformed", read(&counters.malformed)),
                ("crowded_out", read(&counters.crowded)),
                ("unsent", read(&counters.unsent)),
                ("looped", read(&counters.looped)),
            ],
        }
    }

    /// What is wrong now.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        let core = &*self.core;
        let listeners = core.listeners();
        let mut problems: Vec<_> = listeners
            .values()
            .filter_map(|listener| match listener {
                Listener::Down(problem) => Some(problem.clone()),
                Listener::Up { .. } | Listener::Awaited(_) => None,
            })
            .collect();
        let upstreams = core.forwarder.upstreams.load();
        if upstreams.usual().is_empty() && !listeners.is_empty() {
            problems.push(Problem::NoUpstream);
        }
        if core.forwarder.is_silent() {
            problems.push(Problem::UpstreamsSilent { servers: upstreams.usual().to_vec() });
        }
        problems.extend(core.forwarder.is_looped().then_some(Problem::Loop));
        problems
    }

    /// How a query of `client` for the addresses of `name` is decided, in words.
    ///
    /// # Errors
    /// [`NameFault`] where that is no name.
    pub fn explain(&self, name: &str, client: IpAddr) -> Result<String, NameFault> {
        let name = name::absolute(&canonical(name)?);
        let core = &*self.core;
        if !core.clients.allow(client) {
            return Ok(format!("refused: {client} is not in a network of the overlay"));
        }
        Ok(core.rules.decide(&core.records, &core.clients, &name, RecordType::A, client).to_string())
    }

    /// The bytes of the answer to the bytes of a query, as far as that takes nobody else: what a datagram of `client` gets.
    #[must_use]
    pub fn answer(&self, query: &[u8], client: IpAddr) -> Option<Vec<u8>> {
        let mut out = Vec::with_capacity(512);
        let way = Way { client, server: client, stream: false };
        matches!(self.core.answer(query, way, &mut out), Outcome::Answer).then_some(out)
    }

    /// Ends it, and waits until its sockets are closed.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has ended as well.
            let _ = thread.join();
        }
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a server does and has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsStatus {
    /// Where it answers.
    pub listening: Vec<SocketAddr>,
    /// Names it has.
    pub names: usize,
    /// Whom it asks for others.
    pub upstreams: Vec<SocketAddr>,
    /// Answers of theirs that it remembers.
    pub cached: usize,
    /// What it has counted, by name.
    pub counts: Vec<(&'static str, u64)>,
}

impl Core {
    fn new(config: &DnsConfig) -> Self {
        let records = Records::default();
        // RFC 6761, section 6.3: not to be asked of others.
        let own = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let known = records.set_addresses("localhost", &own);
        let known = config.records.iter().fold(known, |known, record| known.and(records.add(record)));
        if let Err(error) = known {
            tracing::error!(%error, "a record of the configuration is left out");
        }
        Self {
            records,
            rules: Rules::new(&config.zones, &config.search),
            clients: Clients::default(),
            forwarder: Forwarder::new(Upstreams::new(config.upstreams.clone(), &config.split)),
            listeners: Mutex::default(),
            places: Places::default(),
            counters: Counters::default(),
            ttl_secs: config.ttl_secs,
            negative_ttl_secs: config.negative_ttl_secs,
        }
    }

    /// Has somebody else answer into `out`.
    async fn forward(&self, asked: &Asked, out: &mut Vec<u8>) {
        self.counters.forwarded.fetch_add(1, Ordering::Relaxed);
        let message = self.forwarder.ask(asked).await;
        asked.finish(message, out);
    }
}

/// Looks after what changes by itself.
async fn look(core: Arc<Core>, mut resolv_conf: Option<ResolvConf>) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        ticks.tick().await;
        if let Some(servers) = resolv_conf.as_mut().and_then(ResolvConf::changed) {
            tracing::info!(?servers, "names outside the overlay are asked of these");
            core.forwarder.set_usual(servers);
        }
        core.try_again(&Handle::current());
    }
}
