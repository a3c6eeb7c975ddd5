//! The beginning and the end of a node.
//!
//! At start everything that was up before is brought up again before anybody can ask for it: the same keys, ports,
//! addresses, peers and subnets. What cannot be is told in the log and tried again; the node starts all the same.
//!
//! | End | Kernel | Disk |
//! |---|---|---|
//! | crash, kill | devices go with the process, bridges stay | all stays; the next start takes everything up again |
//! | [`Node::stop`]: a signal | everything of ours is removed | all stays; the next start makes everything again |
//! | [`Node::shut_down`]: the `shutdown` request | everything of ours is removed | only who the node and its services were |

use super::address::{DEFAULT_CLUSTER, Plan};
use super::addresses::now_ms;
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::fence::has_links;
use super::global::Cluster;
use super::host::Host;
use super::key_store::KeyStore;
use super::kit::{Kit, Tuning};
use super::mtu::PacketSize;
use super::naming::Naming;
use super::overlay::Overlay;
use crate::host::Endings;
use crate::ipam::{AddressBook, Lease as IpamLease};
use crate::ipc::events::EventHub;
use crate::ipc::health::HealthBoard;
use crate::state::{
    Attachment, Bridge, GlobalOverlay, Kind, Lease, Marker, Scope, Service, Store, StoreError, Sysctls, Tables,
    Transaction,
};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;
use tokio::sync::{RwLockReadGuard, watch};
use tokio::task::JoinSet;

/// How often addresses that have rested are forgotten. They may be used again before; this is for the size of the journal.
const TIDY_INTERVAL: Duration = Duration::from_secs(30);

/// How often the firewall is looked at. It mends itself at once; this is for whoever asks afterwards.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// What a node is made of.
pub struct NodeOptions {
    /// Where its state is.
    pub state_dir: PathBuf,
    /// The data directory of the replaced daemon, if that is to find its record there.
    pub marker_dir: Option<PathBuf>,
    /// The operator's wishes.
    pub tuning: Tuning,
    /// Who is told what happens.
    pub events: EventHub,
    /// Where it says what is wrong.
    pub board: HealthBoard,
    /// What answers names, if anything does.
    pub naming: Option<Naming>,
}

impl NodeOptions {
    /// A node with its state in `state_dir`, and everything else as usual.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            marker_dir: None,
            tuning: Tuning::default(),
            events: EventHub::default(),
            board: HealthBoard::default(),
            naming: None,
        }
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// A node with everything up again that was before. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`StoreError`] where the state cannot be read. That something cannot be brought up is no error.
    pub async fn open(maker: M, host: H, options: NodeOptions) -> Result<Arc<Self>, StoreError> {
        let NodeOptions { state_dir, marker_dir, tuning, events, board, naming } = options;
        let (store, _report) = open_store(&state_dir).await?;
        let marker = marker_dir.map(|dir| tokio::sync::Mutex::new(Marker::new(&dir)));
        let (cluster, book) = store.read(|tables| restore_book(tables, &tuning));
        let kit = Arc::new(Kit { maker: Arc::new(maker), host, store, events, tuning, size: PacketSize::default() });
        let watcher = Endings::open().inspect_err(|error| {
            tracing::warn!(%error, "the end of a container will not be noticed");
        });
        let sysctls = kit.store.find::<Sysctls>("").unwrap_or_default().ledger;
        let node = Arc::new_cyclic(|itself| Self {
            overlay: Overlay::new(Scope::Global, kit.clone()),
            kit,
            keys: KeyStore::new(&state_dir),
            cluster: RwLock::new(cluster),
            services: Default::default(),
            addresses: Mutex::new(book),
            marker,
            orders: Default::default(),
            settings_order: Default::default(),
            names_order: Default::default(),
            networks_order: Default::default(),
            workload_orders: Default::default(),
            fence_order: Default::default(),
            size_order: Default::default(),
            ports_order: Default::default(),
            networks: Default::default(),
            sysctls: tokio::sync::Mutex::new(sysctls),
            forwards: AtomicBool::new(false),
            watcher: watcher.ok(),
            endings: Default::default(),
            sweep_wanted: AtomicBool::new(false),
            mend_wanted: AtomicBool::new(false),
            fence_wanted: AtomicBool::new(false),
            fenced: AtomicBool::new(false),
            board,
            naming,
            itself: itself.clone(),
            gate: Default::default(),
            stopping: AtomicBool::new(false),
            boot_id: format!("{:032x}", rand::random::<u128>()),
        });
        node.read_marker().await;
        node.claim_ports();
        node.load_names();
        let returned = node.overlay.returned.subscribe();
        node.restore().await;
        node.look_at_paths().await;
        node.start_watching().await;
        node.start_tidying(returned);
        Ok(node)
    }

    /// Lets a change in, unless the node is ending. Whoever ends it waits for the guard.
    pub(super) async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, NodeError> {
        let gate = self.gate.read().await;
        match self.stopping.load(Ordering::Acquire) {
            true => Err(NodeError::Stopping),
            false => Ok(gate),
        }
    }

    /// Removes everything of ours from the kernel and keeps it on disk: the next start makes it again. Changes that wait
    /// are refused.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        let _gate = self.gate.write().await;
        self.leave_kernel().await;
    }

    /// Removes everything of ours from the kernel and from disk, but who the node and its services were.
    ///
    /// # Errors
    /// Where the disk refuses; nothing has changed then.
    pub async fn shut_down(&self) -> Result<(), NodeError> {
        let _gate = self.gate.write().await;
        if self.stopping.load(Ordering::Acquire) {
            return Err(NodeError::Stopping);
        }
        let all = self.kit.store.read(|tables| tables.iter().map(|object| object.key()).collect::<Vec<_>>());
        // What settings of the kernel were is needed until they are put back, and that there was an overlay until its
        // rules are gone.
        let kept = [Kind::Identity, Kind::Seal, Kind::Sysctls, Kind::GlobalOverlay];
        let deletions = all.into_iter().filter(|key| !kept.contains(&key.kind)).collect();
        let global = self.kit.store.find::<GlobalOverlay>("");
        let puts = global.map(|global| GlobalOverlay { up: false, ..global }.into()).into_iter().collect();
        self.kit.commit(Transaction { puts, deletions }).await?;
        self.stopping.store(true, Ordering::Release);
        self.leave_kernel().await;
        self.kit.take_back(Transaction::new().delete::<GlobalOverlay>("")).await;
        Ok(())
    }

    async fn leave_kernel(&self) {
        self.stop_naming();
        self.overlay.stop().await;
        for (_, overlay) in self.service_overlays() {
            overlay.stop().await;
        }
        match self.kit.host.sweep(|_| false).await {
            Ok(removed) => removed.iter().for_each(|link| tracing::info!(link, "removed a link")),
            Err(error) => tracing::error!(%error, "links of ours could not be removed"),
        }
        if let Err(error) = self.kit.host.unfence().await {
            tracing::error!(%error, "rules of ours could not be removed from the firewall");
        }
        self.stop_forwarding().await;
    }

    async fn restore(self: &Arc<Self>) {
        let mut tasks = JoinSet::new();
        for service in self.kit.store.all::<Service>() {
            let node = self.clone();
            tasks.spawn(async move { node.restore_service(&service).await });
        }
        self.restore_global().await;
        tasks.join_all().await;
        self.serve_names();
        self.fence_all_or_complain().await;
        let mut tasks = JoinSet::new();
        for known in self.kit.store.all::<Attachment>() {
            let node = self.clone();
            tasks.spawn(async move {
                match has_links(&known.handle) {
                    true => node.restore_attachment(&known).await,
                    false => node.restore_linkless(&known).await,
                }
            });
        }
        tasks.join_all().await;
        self.sweep().await;
    }

    async fn restore_global(&self) {
        let Some(record) = self.kit.store.find::<GlobalOverlay>("").filter(|record| record.up) else { return };
        let plan = match (Plan::restore(&record), self.identity().await) {
            (Ok(plan), Ok(private_key)) => plan.device(private_key),
            (Err(error), _) | (_, Err(error)) => {
                return tracing::error!(%error, "the global overlay that was up before cannot be");
            }
        };
        let port = record.chosen_port.filter(|_| record.port == 0).unwrap_or(record.port);
        self.overlay.restore(plan, port).await;
        self.check_advertised();
    }

    fn start_tidying(self: &Arc<Self>, mut returned: watch::Receiver<()>) {
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            while returned.changed().await.is_ok() {
                let Some(node) = node.upgrade() else { return };
                let Ok(_gate) = node.enter().await else { return };
                node.wire_to_global_again().await;
            }
        });
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            let mut heals = 0;
            loop {
                tokio::time::sleep(LOOK_INTERVAL).await;
                let Some(node) = node.upgrade() else { return };
                if let Ok(_gate) = node.enter().await {
                    node.mend_firewall().await;
                    node.go_on_forwarding().await;
                }
                if node.is_fenced() {
                    heals = node.look_at_firewall(heals).await;
                }
                if let Ok(_gate) = node.enter().await {
                    node.serve_names();
                }
            }
        });
        let node = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(TIDY_INTERVAL).await;
                let Some(node) = node.upgrade() else { return };
                if let Ok(_gate) = node.enter().await {
                    node.tidy_addresses().await;
                    node.mend().await;
                    node.look_at_paths().await;
                    if node.sweep_wanted.swap(false, Ordering::AcqRel) {
                        node.sweep().await;
                    }
                }
            }
        });
    }
}

async fn open_store(dir: &Path) -> Result<(Store, crate::state::Report), StoreError> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || Store::open(&dir)).await.unwrap_or(Err(StoreError::Closed))
}

/// The addresses as they were.
fn restore_book(tables: &Tables, tuning: &Tuning) -> (Cluster, AddressBook) {
    let global = tables.find::<GlobalOverlay>("");
    let cluster = Cluster {
        cluster: global.map_or(DEFAULT_CLUSTER, |global| global.cluster),
        slice: global.and_then(|global| global.slice),
    };
    let quarantine_ms = u64::try_from(tuning.quarantine.as_millis()).unwrap_or(u64::MAX);
    let mut book = AddressBook::new(cluster.cluster, cluster.slice, quarantine_ms);
    for bridge in tables.all::<Bridge>() {
        book.restore_subnet(&bridge.subnet_of, bridge.node_id, bridge.subnet);
        book.open(bridge.subnet, bridge.gateway);
    }
    let mut leases: Vec<_> = tables.all::<Lease>().collect();
    leases.sort_by_key(|lease| lease.released_ms);
    let now = now_ms();
    for Lease { ip, owner, generation, released_ms, .. } in leases {
        // A clock that went back since must not let an address rest for ever.
        let released_ms = released_ms.map(|at| at.min(now));
        book.restore(*ip, IpamLease { owner: owner.clone(), generation: *generation }, released_ms);
    }
    (cluster, book)
}
