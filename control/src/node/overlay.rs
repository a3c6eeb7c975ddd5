//! The global overlay: at most one device, its address, its port. Its peers are in `members`.
//!
//! Changes take `changes`, a fair lock of this overlay alone, for their whole length, so they happen one after the other in
//! the order they came. Readers take `view` and `peers`, which are only ever held for a few instructions, so `status`
//! answers while a change waits for the kernel. The server runs each request to its end even when its client leaves, so a
//! change is never dropped half-way.
//!
//! A change is checked first, then made in the kernel, then noted here. Where the kernel refuses a later step, the earlier
//! ones are undone and the notes stay as they were.
//!
//! The device has a second door, its control socket for `wg(8)`. Peers changed there are noted before the next change
//! comes to its turn, so they hold as if they had come over IPC, but that an endpoint once asked for is asked for again
//! after a teardown. A key or port set there lasts as long as the device; repeating a setup does not take it back.

use super::address::{DEFAULT_CLUSTER, Plan};
use super::device::{DeviceMaker, DeviceSlot};
use super::error::NodeError;
use super::host::Host;
use super::key_store::KeyStore;
use super::peers::PeerBook;
use super::recovery::{Lost, Recovery};
use crate::host::HostError;
use crate::ipc::wire::SetupGlobalOverlay;
use ginnel_backends::device::DeviceOptions;
use ginnel_engine::command::{DeviceUpdate, PrivateKeyUpdate};
use ginnel_engine::key::{PrivateKey, PublicKey};
use ginnel_engine::port::Offload;
use ipnet::IpNet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// MTU of the interface: what a 1500-byte IPv6 path leaves after IP, UDP and WireGuard headers (40 + 8 + 32), as wg-quick
/// has it.
const MTU: u16 = 1420;

/// The operator's wishes for devices.
#[derive(Clone, Debug, Default)]
pub struct Tuning {
    /// Worker threads per device; 0 for one per core.
    pub workers: usize,
    /// Offloads that are not to be used.
    pub offloads_off: Vec<Offload>,
}

/// The overlay of the node.
pub struct GlobalOverlay<M, H> {
    maker: Arc<M>,
    host: H,
    keys: KeyStore,
    tuning: Tuning,
    changes: tokio::sync::Mutex<Recovery>,
    view: RwLock<View>,
    peers: Mutex<PeerBook>,
    stopping: AtomicBool,
}

/// What readers see.
#[derive(Clone)]
pub(super) struct View {
    /// Of the last setup that succeeded.
    pub(super) cluster: IpNet,
    /// Of the last setup that succeeded.
    pub(super) slice: Option<IpNet>,
    /// The device, while there is one.
    pub(super) live: Option<Live>,
}

/// An overlay that is up.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) plan: Plan,
    /// The real name of the interface.
    pub(super) interface: String,
    pub(super) public_key: PublicKey,
    pub(super) device: Arc<DeviceSlot>,
    /// Datagrams the device received that are not WireGuard.
    pub(super) diverted: Arc<AtomicU64>,
}

impl<M: DeviceMaker, H: Host> GlobalOverlay<M, H> {
    /// An overlay that is not up.
    pub fn new(maker: M, host: H, keys: KeyStore, tuning: Tuning) -> Self {
        Self {
            maker: Arc::new(maker),
            host,
            keys,
            tuning,
            changes: tokio::sync::Mutex::default(),
            view: RwLock::new(View { cluster: DEFAULT_CLUSTER, slice: None, live: None }),
            peers: Mutex::default(),
            stopping: AtomicBool::new(false),
        }
    }

    /// Brings the overlay up, or up to date, and returns the name of its interface. Repeating a request changes nothing;
    /// port and addresses change in place, with all sessions; another deployment or instance needs a teardown first.
    ///
    /// # Errors
    /// [`NodeError`]; the overlay is as before then.
    pub async fn set_up(self: &Arc<Self>, setup: &SetupGlobalOverlay) -> Result<String, NodeError> {
        let plan = Plan::new(setup)?;
        let mut turn = self.turn().await?;
        let live = match self.view().live {
            Some(live) if live.device.is_running().await => {
                if live.plan.interface != plan.interface {
                    return Err(NodeError::OtherOverlay { live: live.interface, asked: plan.interface });
                }
                self.change(&live, &plan).await?;
                Live { plan, ..live }
            }
            dead => {
                if let Some(dead) = dead {
                    turn.lost = Some(self.bury(dead).await);
                }
                let live = self.bring_up(plan, turn.lost.as_ref()).await?;
                *turn = Recovery::default();
                self.watch(&live);
                live
            }
        };
        let interface = live.interface.clone();
        *self.write_view() = View { cluster: live.plan.cluster, slice: live.plan.slice, live: Some(live) };
        Ok(interface)
    }

    /// Takes the overlay down. Peers are remembered for the next setup.
    ///
    /// # Errors
    /// [`NodeError::Stopping`].
    pub async fn tear_down(&self) -> Result<(), NodeError> {
        let mut turn = self.turn().await?;
        *turn = Recovery::default();
        self.close().await;
        Ok(())
    }

    /// Takes the overlay down for good: changes that still wait, and later ones, are refused.
    pub async fn shut_down(&self) {
        self.stopping.store(true, Ordering::Release);
        let _turn = self.changes.lock().await;
        self.close().await;
    }

    /// The public key of the node, while the overlay is up.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.view().live.map(|live| live.public_key)
    }

    pub(super) fn view(&self) -> View {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, PeerBook> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a device according to `plan`, taking over what is left of a `lost` one.
    pub(super) async fn bring_up(&self, plan: Plan, lost: Option<&Lost>) -> Result<Live, NodeError> {
        let private_key = match lost.and_then(Lost::private_key) {
            Some(key) => key,
            None => self.identity().await?,
        };
        let public_key = private_key.public();
        let options = DeviceOptions {
            name: plan.interface.clone(),
            mtu: MTU,
            workers: self.tuning.workers,
            pinned: false,
            offloads_off: self.tuning.offloads_off.clone(),
        };
        let device = DeviceSlot::open(self.maker.clone(), options).await.map_err(NodeError::Create)?;
        let interface = device.name().await.unwrap_or_else(|| plan.interface.clone());
        let live = Live { plan, interface, public_key, device, diverted: Arc::default() };
        if let Err(error) = self.configure(&live, private_key, lost).await {
            live.device.close().await;
            return Err(error);
        }
        let (address, port) = (live.plan.address, live.plan.port);
        tracing::info!(interface = %live.interface, %address, port, key = %public_key, "the global overlay is up");
        Ok(live)
    }

    async fn configure(&self, live: &Live, private_key: PrivateKey, lost: Option<&Lost>) -> Result<(), NodeError> {
        let mut peers = self.peers().replay(&live.public_key);
        if let Some(lost) = lost {
            lost.place(&mut peers);
        }
        let update = DeviceUpdate {
            private_key: Some(PrivateKeyUpdate::Set(private_key)),
            listen_port: Some(lost.map_or(live.plan.port, |lost| lost.port(&live.plan))),
            fwmark: lost.and_then(Lost::fwmark),
            replace_peers: true,
            peers,
        };
        live.device.apply(update).await.map_err(NodeError::ConfigureDevice)?;
        self.host.set_mtu(&live.interface, MTU).await?;
        self.host.add_address(&live.interface, live.plan.address).await?;
        self.host.set_up(&live.interface).await?;
        Ok(())
    }

    async fn change(&self, live: &Live, plan: &Plan) -> Result<(), NodeError> {
        let port = |port| DeviceUpdate { listen_port: Some(port), ..DeviceUpdate::default() };
        if plan.port != live.plan.port {
            live.device.apply(port(plan.port)).await.map_err(NodeError::ConfigureDevice)?;
        }
        if plan.address != live.plan.address
            && let Err(error) = self.move_address(live, plan).await
        {
            if plan.port != live.plan.port
                && let Err(error) = live.device.apply(port(live.plan.port)).await
            {
                tracing::error!(%error, "the former UDP port could not be taken back");
            }
            return Err(error.into());
        }
        Ok(())
    }

    /// The old address goes first: while it is there, a new one of the same network would be its secondary, and the kernel
    /// removes secondaries with their primary.
    async fn move_address(&self, live: &Live, plan: &Plan) -> Result<(), HostError> {
        let (interface, old) = (&live.interface, live.plan.address);
        self.host.remove_address(interface, old).await?;
        let moved = self.host.add_address(interface, plan.address).await;
        if moved.is_err()
            && let Err(error) = self.host.add_address(interface, old).await
        {
            tracing::error!(%error, "the former address could not be given back");
        }
        moved
    }

    async fn identity(&self) -> Result<PrivateKey, NodeError> {
        let keys = self.keys.clone();
        let loaded = tokio::task::spawn_blocking(move || keys.load_or_make()).await;
        Ok(loaded.map_err(|_| NodeError::Stopping)??)
    }

    async fn close(&self) {
        let live = self.write_view().live.take();
        if let Some(live) = live {
            live.device.close().await;
            tracing::info!(interface = %live.interface, "the global overlay is down");
        }
    }

    /// Waits for earlier changes to end, and notes those that came through the other door.
    pub(super) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, Recovery>, NodeError> {
        let turn = self.changes.lock().await;
        if self.stopping.load(Ordering::Acquire) {
            return Err(NodeError::Stopping);
        }
        if let Some(live) = self.view().live
            && let Some(state) = live.device.changed_state().await
        {
            self.peers().adopt(state.peers);
        }
        Ok(turn)
    }

    pub(super) fn note_live(&self, live: Live) {
        self.write_view().live = Some(live);
    }

    pub(super) fn forget_live(&self) {
        self.write_view().live = None;
    }

    fn write_view(&self) -> std::sync::RwLockWriteGuard<'_, View> {
        self.view.write().unwrap_or_else(PoisonError::into_inner)
    }
}
