//! Services: a bridge with a subnet each, one bridge for all shared ones, and a WireGuard device for dedicated ones.
//!
//! ```text
//! auto, isolated   bridge of its own  ─┐
//! shared           the node's one     ─┼─ gateway = first address of the subnet, the workloads behind it
//! dedicated        bridge of its own  ─┘  and a device with the same address and no network: the subnet is on the bridge,
//!                                         what is behind peers is routed to the device
//! ```
//!
//! Changes of one service are made in the order they came; those of several beside each other. A setup that fails leaves
//! nothing behind: no record, no subnet, no port, no link.

use super::addresses::Holder;
use super::device::{DeviceMaker, SlotError};
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use super::name::interface_name;
use super::overlay::{DevicePlan, Overlay};
use super::routes::RoutePlan;
use crate::attach::AttachError;
use crate::ipam::{AddressBook, Lease, first_behind_base};
use crate::ipc::wire::{OverlayMode, Secret, ServiceOverlayInfo};
use crate::state::{Bridge, GlobalOverlay, Identity, Kind, Peer, Scope, Service, Tables, Transaction};
use ginnel_backends::device::DeviceError;
use ginnel_engine::key::PrivateKey;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What the subnet of the shared bridge is assigned for. The word is part of the published algorithm.
const SHARED: &str = "__zlayer_shared_bridge__";

/// UDP ports of dedicated overlays, part of the contract.
const PORTS: std::ops::RangeInclusive<u16> = 51_421..=51_676;

/// Services at once. A /16 has subnets for a quarter of that.
const SERVICES_MAX: usize = 4096;

/// Longest name of a service: that of a DNS name.
const NAME_BYTES_MAX: usize = 253;

/// The overlays of dedicated services, and the ports that are theirs.
pub(super) struct Services<M, H> {
    overlays: Mutex<BTreeMap<String, Arc<Overlay<M, H>>>>,
    ports: Mutex<BTreeSet<u16>>,
}

impl<M, H> Default for Services<M, H> {
    fn default() -> Self {
        Self { overlays: Mutex::default(), ports: Mutex::default() }
    }
}

/// What a setup has to undo should it fail.
struct Undo {
    /// What puts the records back.
    records: Transaction,
    /// The subnet was assigned for this and by this number of the node.
    subnet: Option<(String, u64)>,
    bridge: Option<String>,
    port: Option<u16>,
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Brings a service up in `mode`, or sees to it that it still is.
    pub(super) async fn set_up_service(
        &self,
        service: &str,
        mode: OverlayMode,
    ) -> Result<ServiceOverlayInfo, NodeError> {
        check_service_name(service)?;
        let _turn = self.orders.turn(service).await;
        let store = &self.kit.store;
        if let Some(known) = store.find::<Service>(service) {
            if known.mode == mode {
                self.confirm_service(&known).await?;
                return Ok(self.describe(&known));
            }
            if self.has_workloads(service) {
                return Err(NodeError::ServiceInUse { service: service.to_owned() });
            }
            self.take_service_down(&known, Memory::Kept).await?;
        }
        if store.read(|tables| tables.count(Kind::Service)) >= SERVICES_MAX {
            return Err(NodeError::TooMany { what: "services", max: SERVICES_MAX });
        }
        // The bridge of all shared services is a change of one object, too.
        let shared = matches!(mode, OverlayMode::Shared);
        let _shared_turn = if shared { Some(self.orders.turn(SHARED).await) } else { None };
        let mut undo = Undo { records: Transaction::new(), subnet: None, bridge: None, port: None };
        match self.make_service(service, mode, &mut undo).await {
            Ok(info) => Ok(info),
            Err(error) => {
                self.undo_service(service, undo).await;
                Err(error)
            }
        }
    }

    /// Takes a service down and forgets who it was; what is not there is down already.
    pub(super) async fn tear_down_service(&self, service: &str) -> Result<(), NodeError> {
        self.tear_down_service_if(service, || true).await.map(|_| ())
    }

    /// The same if `wanted` says yes, which it is asked when no other change of the service is in progress. Returns the
    /// answer.
    pub(super) async fn tear_down_service_if(
        &self,
        service: &str,
        wanted: impl FnOnce() -> bool + Send,
    ) -> Result<bool, NodeError> {
        let _turn = self.orders.turn(service).await;
        if !wanted() {
            return Ok(false);
        }
        let identity = self.kit.store.find::<Identity>(service);
        match self.kit.store.find::<Service>(service) {
            Some(known) => {
                self.let_go_of_service(service).await?;
                self.take_service_down(&known, Memory::Forgotten).await?;
            }
            None => self.kit.commit(self.forgetting(service)).await?,
        }
        if let Some(identity) = identity {
            self.services.ports().remove(&identity.port);
            self.save_marker().await;
        }
        Ok(true)
    }

    /// What deletes the identity of a service, if it has one, and its peers.
    fn forgetting(&self, service: &str) -> Transaction {
        let scope = Scope::Service(service.to_owned());
        let peers = self.kit.store.read(|tables| peers_of(tables, &scope));
        match self.kit.store.find::<Identity>(service) {
            Some(_) => {
                peers.into_iter().fold(Transaction::new().delete::<Identity>(service), Transaction::delete::<Peer>)
            }
            None => Transaction::new(),
        }
    }

    /// Takes all services down, keeping who they were.
    pub(super) async fn take_services_down(&self) -> Result<(), NodeError> {
        for known in self.kit.store.all::<Service>() {
            let _turn = self.orders.turn(&known.service).await;
            if let Some(known) = self.kit.store.find::<Service>(&known.service) {
                self.let_go_of_service(&known.service).await?;
                self.take_service_down(&known, Memory::Kept).await?;
            }
        }
        Ok(())
    }

    /// Takes down what has a bridge that is not among `live` and nobody is on, unless it is dedicated or the shared one, and
    /// removes what is left of bridges that nothing is known of. Returns the names of the bridges.
    pub(super) async fn prune(&self, live: &[String]) -> Result<Vec<String>, NodeError> {
        let mut reclaimed = Vec::new();
        for known in self.kit.store.all::<Service>() {
            let idle = || !live.contains(&known.bridge) && !self.has_workloads(&known.service);
            let apart = matches!(known.mode, OverlayMode::Shared | OverlayMode::Dedicated);
            if !apart && idle() && self.tear_down_service_if(&known.service, idle).await? {
                reclaimed.push(known.bridge);
            }
        }
        let keep: Vec<_> = self.kit.store.all::<Bridge>().into_iter().map(|bridge| bridge.bridge).collect();
        let swept = self.kit.host.sweep_bridges(&keep).await;
        let swept = swept.map_err(|source| NodeError::ConfigureHost { scope: Scope::Global, source })?;
        reclaimed.extend(swept);
        reclaimed.sort();
        Ok(reclaimed)
    }

    /// The overlay of a dedicated service that is up.
    ///
    /// # Errors
    /// [`NodeError::NoServiceOverlay`].
    pub(super) fn service_overlay(&self, service: &str) -> Result<Arc<Overlay<M, H>>, NodeError> {
        let overlay = self.services.overlays().get(service).cloned();
        overlay.ok_or_else(|| NodeError::NoServiceOverlay(service.to_owned()))
    }

    /// All overlays of dedicated services, by service.
    pub(super) fn service_overlays(&self) -> Vec<(String, Arc<Overlay<M, H>>)> {
        self.services.overlays().iter().map(|(service, overlay)| (service.clone(), overlay.clone())).collect()
    }

    /// All overlays, the global one first.
    pub(super) fn overlays(&self) -> impl Iterator<Item = Arc<Overlay<M, H>>> {
        let services = self.service_overlays().into_iter().map(|(_, overlay)| overlay);
        std::iter::once(self.overlay.clone()).chain(services)
    }

    /// Brings the bridge and device of a service up that was up before this process started.
    pub(super) async fn restore_service(&self, known: &Service) {
        self.restore_bridge(known).await;
        let _turn = self.orders.turn(&known.service).await;
        if let Some(identity) = self.identity_of(known) {
            match self.device_plan(&identity) {
                Ok(plan) => {
                    let overlay = self.services.overlay_of(self, &known.service);
                    overlay.restore(plan, identity.port).await;
                }
                Err(error) => tracing::error!(%error, service = known.service, "the key of a service cannot be used"),
            }
        }
    }

    /// Brings up again what is written down of the bridge of a service; where that fails, it is tried again.
    pub(super) async fn restore_bridge(&self, known: &Service) {
        let _turn = self.orders.turn(&known.service).await;
        if self.kit.store.find::<Service>(&known.service).as_ref() != Some(known) {
            return;
        }
        if let Err(error) = self.confirm_bridge(known).await {
            tracing::error!(%error, service = known.service, "the bridge of a service could not be brought up again yet");
            self.mend_later();
        }
    }

    /// Has the routes of dedicated overlays follow a cluster that changed.
    pub(super) async fn follow_cluster(&self) {
        for known in self.kit.store.all::<Service>() {
            let _turn = self.orders.turn(&known.service).await;
            let Some(known) = self.kit.store.find::<Service>(&known.service) else { continue };
            if known.mode == OverlayMode::Dedicated
                && let Err(error) = self.confirm_service(&known).await
            {
                tracing::warn!(%error, service = known.service, "a service does not follow the new cluster; repeat its setup");
            }
        }
    }

    /// Takes note of the ports that identities have.
    pub(super) fn claim_ports(&self) {
        self.services.ports().extend(self.kit.store.all::<Identity>().iter().map(|identity| identity.port));
    }

    async fn make_service(
        &self,
        service: &str,
        mode: OverlayMode,
        undo: &mut Undo,
    ) -> Result<ServiceOverlayInfo, NodeError> {
        let bridge = self.plan_bridge(service, mode, undo)?;
        let known = Service { service: service.to_owned(), mode, bridge: bridge.bridge.clone() };
        let mut transaction = Transaction::new().put(known.clone());
        undo.records = Transaction::new().delete::<Service>(service);
        if undo.subnet.is_some() {
            transaction = transaction.put(bridge.clone());
            undo.records = std::mem::take(&mut undo.records).delete::<Bridge>(bridge.bridge.clone());
        }
        if mode == OverlayMode::Dedicated {
            self.make_device(service, bridge.subnet, transaction, undo).await?;
            self.save_marker().await;
        } else {
            self.kit.commit(transaction).await?;
        }
        if undo.subnet.is_some() {
            undo.bridge = Some(bridge.bridge.clone());
        }
        self.confirm_bridge(&known).await?;
        self.fence_all().await?;
        tracing::info!(service, bridge = known.bridge, subnet = %bridge.subnet, "a service is up");
        Ok(self.describe(&known))
    }

    /// The bridge of a service: the one there is, or a new one with a subnet.
    fn plan_bridge(&self, service: &str, mode: OverlayMode, undo: &mut Undo) -> Result<Bridge, NodeError> {
        let (deployment, instance) = self.deployment();
        let (subnet_of, name, suffix) = match mode {
            OverlayMode::Shared => (SHARED, "shared", "sh"),
            _ => (service, service, "b"),
        };
        let bridge = interface_name(&[&deployment, &instance, name], suffix);
        if let Some(known) = self.kit.store.find::<Bridge>(&bridge) {
            if known.subnet_of != subnet_of {
                let source = AttachError::OtherBridge { name: bridge.clone(), object: known.subnet_of };
                return Err(NodeError::Bridge { bridge, source: Box::new(source) });
            }
            return Ok(known);
        }
        if let Err(source) = crate::host::check_name(&bridge) {
            return Err(NodeError::Bridge { bridge, source: Box::new(source.into()) });
        }
        let node_id = self.settings().node_id.unwrap_or(0);
        let elsewhere: Vec<_> = self.kit.store.all::<Peer>().into_iter().flat_map(|peer| peer.allowed_ips).collect();
        let mut book = self.addresses();
        let subnet = book.assign(subnet_of, node_id, &elsewhere);
        let subnet = subnet.map_err(|source| NodeError::Subnet { service: service.to_owned(), source })?;
        undo.subnet = Some((subnet_of.to_owned(), node_id));
        // Subnets have more than one address.
        let gateway = first_behind_base(subnet).unwrap_or(subnet.addr());
        book.open(subnet, gateway);
        Ok(Bridge { bridge, subnet_of: subnet_of.to_owned(), node_id, subnet, gateway })
    }

    /// Stores the records of a dedicated service and brings its device up: at the port it had, or at the lowest one that
    /// is free, here and for the kernel.
    async fn make_device(
        &self,
        service: &str,
        subnet: IpNet,
        transaction: Transaction,
        undo: &mut Undo,
    ) -> Result<(), NodeError> {
        let known = self.kit.store.find::<Identity>(service);
        let private_key = match &known {
            Some(known) => known.private_key.clone(),
            None => {
                undo.records = std::mem::take(&mut undo.records).delete::<Identity>(service);
                Secret::new(super::key_store::generate()?.to_base64())
            }
        };
        let public_key = key(&private_key)?.public();
        let mut tried = PORTS;
        loop {
            let port = match &known {
                Some(known) => known.port,
                None => {
                    let port = self.claim_port(&mut tried)?;
                    undo.port = Some(port);
                    port
                }
            };
            let (service, private_key) = (service.to_owned(), private_key.clone());
            let interface = known.as_ref().map_or_else(|| self.device_name(&service), |known| known.interface.clone());
            let identity = Identity { service, private_key, public_key, port, interface, subnet };
            if let Some(known) = known.as_ref().filter(|known| **known != identity) {
                undo.records = std::mem::take(&mut undo.records).put(known.clone());
            }
            self.kit.commit(transaction.clone().put(identity.clone())).await?;
            let overlay = self.services.overlay_of(self, &identity.service);
            let brought = async {
                let mut turn = overlay.turn().await?;
                overlay.bring(&mut turn, self.device_plan(&identity)?).await
            };
            match brought.await {
                Ok(_) => return Ok(()),
                Err(error) if known.is_none() && port_is_taken(&error) => {
                    tracing::info!(port, "a port of dedicated overlays is taken by another program");
                    self.services.ports().remove(&port);
                    undo.port = None;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn claim_port(&self, left: &mut std::ops::RangeInclusive<u16>) -> Result<u16, NodeError> {
        let global = self.kit.store.find::<GlobalOverlay>("").filter(|global| global.up).map(|global| global.port);
        let mut ports = self.services.ports();
        let free = left.find(|port| Some(*port) != global && !ports.contains(port));
        let port = free.ok_or(NodeError::Ports { first: *PORTS.start(), last: *PORTS.end() })?;
        ports.insert(port);
        Ok(port)
    }

    /// Makes sure that what is recorded of a service is there.
    async fn confirm_service(&self, known: &Service) -> Result<(), NodeError> {
        if let Some(identity) = self.identity_of(known) {
            let overlay = self.services.overlay_of(self, &known.service);
            let mut turn = overlay.turn().await?;
            overlay.bring(&mut turn, self.device_plan(&identity)?).await?;
        }
        self.confirm_bridge(known).await.map(drop)
    }

    /// Makes sure that the bridge of a service is as it is to be. True where it was there and had to be mended.
    pub(super) async fn confirm_bridge(&self, known: &Service) -> Result<bool, NodeError> {
        let Some(bridge) = self.kit.store.find::<Bridge>(&known.bridge) else { return Ok(false) };
        let address = IpNet::new(bridge.gateway, bridge.subnet.prefix_len()).unwrap_or(bridge.subnet);
        let ensured = self.kit.host.ensure_bridge(&bridge.bridge, address, self.kit.size.mtu()).await;
        ensured.map_err(|source| NodeError::Bridge { bridge: bridge.bridge, source: Box::new(source) })
    }

    async fn take_service_down(&self, known: &Service, identity: Memory) -> Result<(), NodeError> {
        let _shared_turn = match known.mode {
            OverlayMode::Shared => Some(self.orders.turn(SHARED).await),
            _ => None,
        };
        let overlay = self.services.overlays().get(&known.service).cloned();
        // Whoever has a peer added at this moment does so before, or is refused.
        let overlay_turn = match &overlay {
            Some(overlay) => Some(overlay.turn().await?),
            None => None,
        };
        let transaction = match identity {
            Memory::Forgotten => self.forgetting(&known.service),
            Memory::Kept => Transaction::new(),
        };
        let mut transaction = transaction.delete::<Service>(known.service.clone());
        let others = |tables: &Tables| {
            tables.all::<Service>().any(|other| other.bridge == known.bridge && other.service != known.service)
        };
        // The shared bridge goes with the last service on it.
        let bridge = match self.kit.store.read(others) {
            true => None,
            false => self.kit.store.find::<Bridge>(&known.bridge),
        };
        if let Some(bridge) = &bridge {
            transaction = transaction.delete::<Bridge>(bridge.bridge.clone());
        }
        // Addresses that were asked for go with the service they were asked for, all others with the bridge.
        let subnet = self.kit.store.find::<Bridge>(&known.bridge).map(|bridge| bridge.subnet);
        let asked_for =
            |lease: &Lease| Holder::read(&lease.owner).is_some_and(|holder| holder.service == known.service);
        let inside = |book: &AddressBook| -> Vec<_> {
            let Some(subnet) = subnet else { return Vec::new() };
            let inside = book.leases().filter(|(ip, lease)| {
                subnet.contains(ip) && (bridge.is_some() || asked_for(lease)) && !book.is_leaving(*ip)
            });
            inside.map(|(ip, lease)| (ip, lease.clone())).collect()
        };
        self.begin_releases(inside, transaction)?.finish(self).await?;
        self.fence_all_or_complain().await;
        self.services.overlays().remove(&known.service);
        if let Some((overlay, turn)) = overlay.as_ref().zip(overlay_turn) {
            overlay.end(turn).await;
        }
        if let Some(bridge) = bridge {
            if let Err(error) = self.kit.host.remove_bridge(&bridge.bridge).await {
                tracing::error!(%error, bridge = bridge.bridge, "a bridge could not be removed; a sweep tries again");
                self.sweep_later();
            }
            self.addresses().close(&bridge.subnet_of, bridge.node_id);
        }
        tracing::info!(service = known.service, "a service is down");
        Ok(())
    }

    async fn undo_service(&self, service: &str, undo: Undo) {
        self.kit.take_back(undo.records).await;
        self.fence_all_or_complain().await;
        let overlay = self.services.overlays().remove(service);
        if let Some(overlay) = overlay {
            overlay.stop().await;
        }
        if let Some(bridge) = undo.bridge
            && let Err(error) = self.kit.host.remove_bridge(&bridge).await
        {
            tracing::error!(%error, bridge, "a bridge of a setup that failed could not be removed; a sweep tries again");
            self.sweep_later();
        }
        if let Some((subnet_of, node_id)) = undo.subnet {
            self.addresses().close(&subnet_of, node_id);
        }
        if let Some(port) = undo.port {
            self.services.ports().remove(&port);
        }
        self.save_marker().await;
    }

    pub(super) fn has_workloads(&self, service: &str) -> bool {
        let attached = |tables: &Tables| tables.all::<crate::state::Attachment>().any(|one| one.service == service);
        self.kit.store.read(attached)
    }

    fn identity_of(&self, known: &Service) -> Option<Identity> {
        let dedicated = known.mode == OverlayMode::Dedicated;
        dedicated.then(|| self.kit.store.find::<Identity>(&known.service)).flatten()
    }

    fn describe(&self, known: &Service) -> ServiceOverlayInfo {
        let identity = self.identity_of(known);
        ServiceOverlayInfo {
            name: known.bridge.clone(),
            // As published: what is fenced is said by each attachment.
            mode: if known.mode == OverlayMode::Isolated { OverlayMode::Auto } else { known.mode },
            wg_public_key: identity.as_ref().map(|identity| identity.public_key.to_base64()),
            wg_port: identity.as_ref().map(|identity| identity.port),
            overlay_ip: identity.as_ref().and_then(overlay_ip),
            subnet: identity.map(|identity| identity.subnet.to_string()),
        }
    }

    fn device_plan(&self, identity: &Identity) -> Result<DevicePlan, NodeError> {
        let address = overlay_ip(identity).unwrap_or(identity.subnet.addr());
        Ok(DevicePlan {
            interface: identity.interface.clone(),
            // No network: the bridge has that.
            address: address.into(),
            port: identity.port,
            private_key: key(&identity.private_key)?,
            routes: RoutePlan::Peers { cluster: self.cluster().cluster, own: identity.subnet },
        })
    }

    fn device_name(&self, service: &str) -> String {
        let (deployment, instance) = self.deployment();
        interface_name(&[&deployment, &instance, service], "d")
    }

    /// Names of deployment and instance, empty before the first setup.
    fn deployment(&self) -> (String, String) {
        let global = self.kit.store.find::<GlobalOverlay>("");
        global.map(|global| (global.deployment, global.instance_id)).unwrap_or_default()
    }
}

impl<M: DeviceMaker, H: Host> Services<M, H> {
    fn overlays(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Overlay<M, H>>>> {
        self.overlays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ports(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The overlay of a service, made where there is none.
    fn overlay_of(&self, node: &Node<M, H>, service: &str) -> Arc<Overlay<M, H>> {
        let mut overlays = self.overlays();
        let make = || Overlay::new(Scope::Service(service.to_owned()), node.kit.clone());
        overlays.entry(service.to_owned()).or_insert_with(make).clone()
    }
}

/// What becomes of the identity of a service that goes down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    /// It is there for the next setup, with its peers.
    Kept,
    /// It goes, too.
    Forgotten,
}

/// The address of a dedicated overlay on this node.
pub(super) fn overlay_ip(identity: &Identity) -> Option<IpAddr> {
    first_behind_base(identity.subnet)
}

fn key(secret: &Secret) -> Result<PrivateKey, NodeError> {
    PrivateKey::from_base64(secret.expose()).map_err(|_| NodeError::Keys(super::key_store::KeyStoreError::Stored))
}

fn peers_of(tables: &Tables, scope: &Scope) -> Vec<String> {
    let peers = tables.all::<Peer>().filter(|peer| peer.scope == *scope);
    peers.map(|peer| Peer::id_of(scope, &peer.public_key)).collect()
}

fn port_is_taken(error: &NodeError) -> bool {
    matches!(error, NodeError::ConfigureDevice { source: SlotError::Device(DeviceError::PortTaken { .. }), .. })
}

fn check_service_name(service: &str) -> Result<(), NodeError> {
    let bad = |reason| Err(NodeError::ServiceName { service: service.to_owned(), reason });
    match service {
        "" => bad("it is empty"),
        SHARED => bad("the node uses it itself"),
        _ if service.len() > NAME_BYTES_MAX => bad("it is longer than 253 bytes"),
        _ if service.chars().any(|c| c.is_control() || c.is_whitespace() || c == '/') => {
            bad("it has blanks, '/' or characters that do not show")
        }
        _ => Ok(()),
    }
}
