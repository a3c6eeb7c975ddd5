//! The global overlay of the node: setup and teardown, as one change of disk, addresses and kernel.

use super::address::Plan;
use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use super::overlay::DevicePlan;
use super::routes::RoutePlan;
use crate::ipam::first_behind_base;
use crate::ipc::wire::SetupGlobalOverlay;
use crate::state::{GlobalOverlay, Transaction};
use ginnel_engine::key::PrivateKey;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::PoisonError;

/// What `status` shows of a cluster: that of the last setup that succeeded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cluster {
    pub(super) cluster: IpNet,
    pub(super) slice: Option<IpNet>,
}

impl Cluster {
    /// Address of the node in it, whether the overlay is up or not.
    pub(super) fn node_ip(&self) -> Option<IpAddr> {
        first_behind_base(self.slice.unwrap_or(self.cluster))
    }
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Brings the global overlay up, or up to date, and returns the name of its interface. Repeating a request changes
    /// nothing; port and addresses change in place, with all sessions; another deployment or instance needs a teardown
    /// first. Leases stay whatever happens.
    pub(super) async fn set_up_global(&self, setup: &SetupGlobalOverlay) -> Result<String, NodeError> {
        let plan = Plan::new(setup)?;
        let mut turn = self.overlay.turn().await?;
        self.overlay.check_name(&turn, &plan.interface).await?;
        let private_key = self.identity().await?;
        let former = self.kit.store.find::<GlobalOverlay>("");
        let record = record(setup, &plan, former.as_ref());
        let was = self.cluster();
        self.move_addresses(plan.cluster, plan.slice)?;
        let mut stored = Ok(());
        if former.as_ref() != Some(&record) {
            stored = self.kit.commit(Transaction::new().put(record.clone())).await;
        }
        let former_device = self.overlay.live().map(|live| live.device);
        let brought = match stored {
            Ok(()) => self.overlay.bring(&mut turn, plan.device(private_key)).await,
            Err(error) => Err(error),
        };
        match brought {
            Ok(interface) => {
                *self.cluster.write().unwrap_or_else(PoisonError::into_inner) =
                    Cluster { cluster: plan.cluster, slice: plan.slice };
                self.note_chosen_port(record).await;
                self.fence_all_or_complain().await;
                drop(turn);
                if (was.cluster, was.slice) != (plan.cluster, plan.slice) {
                    // Containers reach the cluster by the address of the node.
                    self.wire_all_again().await;
                } else if !former_device.is_some_and(|device| self.overlay.has_device(&device)) {
                    self.wire_to_global_again().await;
                }
                if was.cluster != plan.cluster {
                    self.follow_cluster().await;
                }
                Ok(interface)
            }
            Err(error) => {
                // They were free a moment ago, and nobody else moves the node.
                let _ = self.move_addresses(was.cluster, was.slice);
                let transaction = match former {
                    Some(former) => Transaction::new().put(former),
                    None => Transaction::new().delete::<GlobalOverlay>(""),
                };
                self.kit.take_back(transaction).await;
                // Whoever worked out the rules meanwhile reckoned with the overlay.
                self.fence_all_or_complain().await;
                Err(error)
            }
        }
    }

    /// Takes the global overlay down, and with it the services, whose bridges and devices hang on it. Identities and peers
    /// are kept for the next setup.
    pub(super) async fn tear_down_global(&self) -> Result<(), NodeError> {
        let mut turn = self.overlay.turn().await?;
        if let Some(record) = self.kit.store.find::<GlobalOverlay>("").filter(|record| record.up) {
            self.kit.commit(Transaction::new().put(GlobalOverlay { up: false, ..record })).await?;
        }
        self.overlay.take_down(&mut turn).await;
        drop(turn);
        self.take_services_down().await?;
        self.fence_all_or_complain().await;
        Ok(())
    }

    /// The cluster and slice of the last setup that succeeded.
    pub(super) fn cluster(&self) -> Cluster {
        *self.cluster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The identity of the node. Blocks no one: the disk is read elsewhere.
    pub(super) async fn identity(&self) -> Result<PrivateKey, NodeError> {
        let keys = self.keys.clone();
        let loaded = tokio::task::spawn_blocking(move || keys.load_or_make()).await;
        Ok(loaded.map_err(|_| NodeError::Stopping)??)
    }

    fn move_addresses(&self, cluster: IpNet, slice: Option<IpNet>) -> Result<(), NodeError> {
        self.addresses().move_node(cluster, slice).map_err(|subnet| NodeError::NodeInSubnet { subnet })
    }

    /// A port that the kernel chose is to be the same after a restart.
    async fn note_chosen_port(&self, record: GlobalOverlay) {
        if record.port != 0 {
            return;
        }
        let Some(live) = self.overlay.live() else { return };
        let chosen_port = live.device.state().await.map(|state| state.listen_port);
        if chosen_port != record.chosen_port {
            let noted = self.kit.commit(Transaction::new().put(GlobalOverlay { chosen_port, ..record })).await;
            if let Err(error) = noted {
                tracing::warn!(%error, "the port the kernel chose is not stored: after a restart it is another");
            }
        }
    }
}

impl Plan {
    /// The plan of what was set up before.
    pub(super) fn restore(record: &GlobalOverlay) -> Result<Self, NodeError> {
        Self::new(&SetupGlobalOverlay {
            deployment: record.deployment.clone(),
            instance_id: record.instance_id.clone(),
            cluster_cidr: record.cluster.to_string(),
            slice_cidr: record.slice.map(|slice| slice.to_string()),
            wg_port: record.port,
            host_adapter_mandatory: false,
            nat: None,
        })
    }

    /// The device it asks for.
    pub(super) fn device(&self, private_key: PrivateKey) -> DevicePlan {
        DevicePlan {
            interface: self.interface.clone(),
            address: self.address,
            port: self.port,
            private_key,
            routes: RoutePlan::Address,
        }
    }
}

fn record(setup: &SetupGlobalOverlay, plan: &Plan, former: Option<&GlobalOverlay>) -> GlobalOverlay {
    GlobalOverlay {
        deployment: setup.deployment.clone(),
        instance_id: setup.instance_id.clone(),
        cluster: plan.cluster,
        slice: plan.slice,
        port: plan.port,
        chosen_port: former.filter(|former| former.port == plan.port).and_then(|former| former.chosen_port),
        up: true,
        // Absent keeps those in force.
        nat: setup.nat.clone().or_else(|| former?.nat.clone()),
    }
}
