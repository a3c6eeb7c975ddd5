//! An overlay: at most one device, its address, its port. The global one of the node, or the dedicated one of a service. Its
//! peers are in `members`, their well-being in `care`.
//!
//! Changes take `changes`, a fair lock of this overlay alone, for their whole length, so they happen one after the other in
//! the order they came. Readers take `live` and `peers`, which are only ever held for a few instructions, so `status`
//! answers while a change waits for the kernel. The server runs each request to its end even when its client leaves, so a
//! change is never dropped half-way.
//!
//! A change is checked first, then stored, then made in the kernel, then noted here. Where the kernel refuses a later step,
//! the earlier ones are undone, on disk too, and the notes stay as they were.
//!
//! The device has a second door, its control socket for `wg(8)`. Peers changed there are noted and stored before the next
//! change comes to its turn, so they hold as if they had come over IPC, but that an endpoint once asked for is asked for
//! again after a teardown. A key or port set there lasts as long as the device; repeating a setup does not take it back.

use super::care::Care;
use super::device::{DeviceMaker, DeviceSlot, SlotError};
use super::error::NodeError;
use super::host::Host;
use super::kit::Kit;
use super::peers::{PeerBook, transaction};
use super::recovery::{Lost, Recovery};
use super::routes::{self, RoutePlan};
use crate::host::HostError;
use crate::ipc::wire::{AttachHandle, Event, PeerScope};
use crate::state::{self, Attachment, Scope};
use ginnel_backends::device::{DeviceError, DeviceOptions};
use ginnel_engine::command::{DeviceUpdate, PrivateKeyUpdate};
use ginnel_engine::event::Event as DeviceEvent;
use ginnel_engine::key::{PrivateKey, PublicKey};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// A device as it is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DevicePlan {
    /// Name of the interface.
    pub(super) interface: String,
    /// Its address. The kernel routes the prefix to it.
    pub(super) address: IpNet,
    /// UDP port of WireGuard; 0 lets the kernel choose.
    pub(super) port: u16,
    /// Who it is.
    pub(super) private_key: PrivateKey,
    /// Which prefixes of peers get routes of their own.
    pub(super) routes: RoutePlan,
}

/// One overlay.
pub struct Overlay<M, H> {
    pub(super) scope: Scope,
    pub(super) kit: Arc<Kit<M, H>>,
    changes: tokio::sync::Mutex<Recovery>,
    live: RwLock<Option<Live>>,
    peers: Mutex<PeerBook>,
    pub(super) care: Care,
    /// Peers that are gone but for the device.
    dismissed: Mutex<BTreeSet<PublicKey>>,
    /// Told when a device that was lost is there again.
    pub(super) returned: watch::Sender<()>,
    stopping: AtomicBool,
}

/// An overlay that is up.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) plan: DevicePlan,
    /// The real name of the interface.
    pub(super) interface: String,
    pub(super) public_key: PublicKey,
    pub(super) device: Arc<DeviceSlot>,
    /// Datagrams the device received that are not WireGuard.
    pub(super) diverted: Arc<AtomicU64>,
    /// Routes that were made, besides that of the address.
    pub(super) routes: Arc<Mutex<BTreeSet<IpNet>>>,
    /// Addresses that it may have and is not to: of programs that are gone, and of a move that failed twice.
    strays: Arc<Mutex<BTreeSet<IpNet>>>,
    /// The host's side of it is not what it is to be, because of a failure after another.
    pub(super) needs_mending: Arc<AtomicBool>,
}

impl Live {
    fn strays(&self) -> MutexGuard<'_, BTreeSet<IpNet>> {
        self.strays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: DeviceMaker, H: Host> Overlay<M, H> {
    /// An overlay that is not up, with the peers the store has for it. To be called within a tokio runtime.
    pub(super) fn new(scope: Scope, kit: Arc<Kit<M, H>>) -> Arc<Self> {
        let records = kit.store.read(|tables| {
            let peers = tables.all::<state::Peer>().filter(|peer| peer.scope == scope);
            peers.cloned().collect::<Vec<_>>()
        });
        let overlay = Arc::new(Self {
            scope,
            kit,
            changes: tokio::sync::Mutex::default(),
            live: RwLock::default(),
            peers: Mutex::new(PeerBook::restore(records.into_iter())),
            care: Care::default(),
            dismissed: Mutex::default(),
            returned: watch::Sender::default(),
            stopping: AtomicBool::new(false),
        });
        overlay.start_care();
        overlay
    }

    /// Whether a device of this name could be brought up or brought up to date now.
    ///
    /// # Errors
    /// [`NodeError::OtherOverlay`] where another is up.
    pub(super) async fn check_name(&self, _turn: &Recovery, interface: &str) -> Result<(), NodeError> {
        match self.live() {
            Some(live) if live.plan.interface != interface && live.device.is_running().await => {
                Err(NodeError::OtherOverlay { live: live.interface, asked: interface.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Brings the overlay up, or up to date, and returns the name of its interface. To repeat it changes nothing; port
    /// and address change in place, with all sessions. The key of a device that is up stays.
    ///
    /// # Errors
    /// [`NodeError`]; the overlay is as before then.
    pub(super) async fn bring(self: &Arc<Self>, turn: &mut Recovery, plan: DevicePlan) -> Result<String, NodeError> {
        self.check_name(turn, &plan.interface).await?;
        let live = match self.live() {
            Some(live) if live.device.is_running().await => {
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
        let came_up = !self.has_device(&live.device);
        self.note_live(Some(live));
        if came_up {
            self.tell_up(interface.clone());
        }
        Ok(interface)
    }

    /// Takes the device away. Peers are remembered.
    pub(super) async fn take_down(&self, turn: &mut Recovery) {
        *turn = Recovery::default();
        self.close().await;
    }

    /// Takes the device away for good: changes that still wait, and later ones, are refused.
    pub(super) async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.end(self.changes.lock().await).await;
    }

    /// The same for whoever has the turn.
    pub(super) async fn end(&self, mut turn: tokio::sync::MutexGuard<'_, Recovery>) {
        self.stopping.store(true, Ordering::Release);
        self.take_down(&mut turn).await;
    }

    /// The public key of the device, while there is one.
    #[must_use]
    pub fn public_key(&self) -> Option<PublicKey> {
        self.live().map(|live| live.public_key)
    }

    pub(super) fn live(&self) -> Option<Live> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it is up with this very device.
    pub(super) fn has_device(&self, device: &Arc<DeviceSlot>) -> bool {
        self.live().is_some_and(|live| Arc::ptr_eq(&live.device, device))
    }

    pub(super) fn peers(&self) -> MutexGuard<'_, PeerBook> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn dismissed(&self) -> MutexGuard<'_, BTreeSet<PublicKey>> {
        self.dismissed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a device according to `plan`, taking over what is left of a `lost` one.
    pub(super) async fn bring_up(&self, plan: DevicePlan, lost: Option<&Lost>) -> Result<Live, NodeError> {
        let private_key = lost.and_then(Lost::private_key).unwrap_or_else(|| plan.private_key.clone());
        let public_key = private_key.public();
        let options = DeviceOptions {
            mtu: self.kit.size.mtu(),
            listen_port: lost.map_or(plan.port, |lost| lost.port(&plan)),
            workers: self.kit.tuning.workers,
            offloads_off: self.kit.tuning.offloads_off.clone(),
            seccomp: self.kit.tuning.seccomp,
            ..DeviceOptions::new(&plan.interface)
        };
        let device = DeviceSlot::open(self.kit.maker.clone(), options).await;
        let device = device.map_err(|source| match source {
            SlotError::Device(DeviceError::PortTaken { .. }) => self.device_refused(source),
            source => NodeError::Create { scope: self.scope.clone(), source },
        })?;
        let interface = device.name().await.unwrap_or_else(|| plan.interface.clone());
        let (diverted, routes, strays, needs_mending) = Default::default();
        let live = Live { plan, interface, public_key, device, diverted, routes, strays, needs_mending };
        if let Err(error) = self.configure(&live, private_key, lost).await {
            live.device.close().await;
            return Err(error);
        }
        let (scope, address, port) = (&self.scope, live.plan.address, live.plan.port);
        tracing::info!(%scope, interface = %live.interface, %address, port, key = %public_key, "an overlay is up");
        Ok(live)
    }

    async fn configure(&self, live: &Live, private_key: PrivateKey, lost: Option<&Lost>) -> Result<(), NodeError> {
        let mut peers = self.peers().replay(&live.public_key);
        if let Some(lost) = lost {
            lost.place(&mut peers);
        }
        let update = DeviceUpdate {
            private_key: Some(PrivateKeyUpdate::Set(private_key)),
            fwmark: lost.and_then(Lost::fwmark),
            replace_peers: true,
            peers,
            ..DeviceUpdate::default()
        };
        live.device.apply(update).await.map_err(|error| self.device_refused(error))?;
        self.configure_host(live).await.map_err(|error| self.host_refused(error))
    }

    /// Makes the host's side what it is to be, as often as that is asked for.
    pub(super) async fn configure_host(&self, live: &Live) -> Result<(), HostError> {
        let host = &self.kit.host;
        host.set_mtu(&live.interface, self.kit.size.mtu()).await?;
        // One that goes may take others of its network along, so it goes first.
        self.shed(live).await?;
        for address in self.addresses(live) {
            host.add_address(&live.interface, address).await?;
        }
        host.set_up(&live.interface).await?;
        let wanted = routes::wanted(&live.plan, &self.peers(), &Vec::new());
        routes::bring_about(host, live, &wanted).await
    }

    /// Takes addresses from the interface that it is not to have; whose they are by now keeps them.
    async fn shed(&self, live: &Live) -> Result<(), HostError> {
        let strays = live.strays().clone();
        for stray in strays {
            if !self.addresses(live).contains(&stray) {
                match self.kit.host.remove_address(&live.interface, stray).await {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            live.strays().remove(&stray);
        }
        Ok(())
    }

    /// Takes the address of a program that is gone from the interface, now or when the overlay is mended.
    pub(super) async fn take_address(&self, ip: IpAddr) {
        let Some(live) = self.live() else { return };
        live.strays().insert(ip.into());
        if let Err(error) = self.shed(&live).await {
            tracing::error!(%error, %ip, "an address of a program that is gone cannot be removed yet");
            live.needs_mending.store(true, Ordering::Release);
        }
    }

    /// The addresses that the interface is to have: its own first.
    pub(super) fn addresses(&self, live: &Live) -> Vec<IpNet> {
        std::iter::once(live.plan.address).chain(self.tenants().into_iter().map(IpNet::from)).collect()
    }

    /// Addresses of programs on this host, which are on the tunnel of the node.
    fn tenants(&self) -> Vec<IpAddr> {
        if self.scope != Scope::Global {
            return Vec::new();
        }
        self.kit.store.read(|tables| {
            let all = tables.all::<Attachment>();
            all.filter(|one| matches!(one.handle, AttachHandle::HostShared { .. })).map(|one| one.ip).collect()
        })
    }

    async fn change(&self, live: &Live, plan: &DevicePlan) -> Result<(), NodeError> {
        let port = |port| DeviceUpdate { listen_port: Some(port), ..DeviceUpdate::default() };
        if plan.port != live.plan.port {
            live.device.apply(port(plan.port)).await.map_err(|error| self.device_refused(error))?;
        }
        if plan.address != live.plan.address
            && let Err(error) = self.move_address(live, plan).await
        {
            if plan.port != live.plan.port
                && let Err(error) = live.device.apply(port(live.plan.port)).await
            {
                tracing::error!(%error, "the former UDP port could not be taken back");
            }
            return Err(self.host_refused(error));
        }
        if plan.routes != live.plan.routes {
            let wanted = routes::wanted(plan, &self.peers(), &Vec::new());
            routes::bring_about(&self.kit.host, live, &wanted).await.map_err(|error| self.host_refused(error))?;
        }
        Ok(())
    }

    /// The old address goes first: while it is there, a new one of the same network would be its secondary, and the kernel
    /// removes secondaries with their primary.
    async fn move_address(&self, live: &Live, plan: &DevicePlan) -> Result<(), HostError> {
        let (host, interface, old) = (&self.kit.host, &live.interface, live.plan.address);
        let moved = async {
            host.remove_address(interface, old).await?;
            host.add_address(interface, plan.address).await
        };
        let moved = moved.await;
        if moved.is_err() {
            let back = async {
                host.remove_address(interface, plan.address).await?;
                host.add_address(interface, old).await
            };
            if let Err(error) = back.await {
                tracing::error!(%error, "the former address could not be given back yet");
                live.strays().insert(plan.address);
                live.needs_mending.store(true, Ordering::Release);
            }
        }
        moved
    }

    fn device_refused(&self, source: SlotError) -> NodeError {
        NodeError::ConfigureDevice { scope: self.scope.clone(), source }
    }

    fn host_refused(&self, source: HostError) -> NodeError {
        NodeError::ConfigureHost { scope: self.scope.clone(), source }
    }

    async fn close(&self) {
        let live = self.live.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(live) = live {
            live.device.close().await;
            tracing::info!(scope = %self.scope, interface = %live.interface, "an overlay is down");
            self.tell_down(live.interface);
        }
    }

    /// Tells that there is a device.
    pub(super) fn tell_up(&self, interface: String) {
        self.kit.events.publish(Event::OverlayUp { scope: self.peer_scope(), interface });
    }

    /// Tells that there is no device any more.
    pub(super) fn tell_down(&self, interface: String) {
        self.kit.events.publish(Event::OverlayDown { scope: self.peer_scope(), interface });
    }

    /// Tells where a peer is reached from now on, if that is what the device says.
    pub(super) fn tell_move(&self, event: &DeviceEvent) {
        if let DeviceEvent::EndpointChanged { peer, endpoint } = event {
            let (pubkey, endpoint) = (peer.to_base64(), endpoint.to_string());
            self.kit.events.publish(Event::NatEndpointChanged { pubkey, endpoint });
        }
    }

    fn peer_scope(&self) -> PeerScope {
        match &self.scope {
            Scope::Global => PeerScope::Global,
            Scope::Service(service) => PeerScope::Service { service: service.clone() },
        }
    }

    /// Waits for earlier changes to end, and notes those that came through the other door.
    pub(super) async fn turn(&self) -> Result<tokio::sync::MutexGuard<'_, Recovery>, NodeError> {
        let turn = self.changes.lock().await;
        if self.stopping.load(Ordering::Acquire) {
            return Err(NodeError::Stopping);
        }
        if let Some(live) = self.live()
            && let Some(state) = live.device.changed_state().await
        {
            self.adopt(state.peers).await;
        }
        Ok(turn)
    }

    /// Notes what others made of the peers. That it cannot be stored does not undo it.
    pub(super) async fn adopt(&self, mut peers: Vec<ginnel_backends::device::PeerState>) {
        // Those that the device has still to let go of were made by nobody.
        peers.retain(|peer| !self.dismissed().contains(&peer.public_key));
        let changes = self.peers().adopting(peers);
        if let Err(error) = self.kit.commit(transaction(&self.scope, &changes)).await {
            tracing::warn!(%error, "what was set with wg is not stored: it is lost with the next restart");
        }
        self.peers().make(changes);
    }

    pub(super) fn note_live(&self, live: Option<Live>) {
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
    }
}
