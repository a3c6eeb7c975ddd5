//! Ports of the host that lead to workloads: each to one.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::ipc::wire::AttachContainer;
use crate::state::Attachment;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Holds other workloads with published ports off until the guard is dropped, by when this one is written down.
    ///
    /// # Errors
    /// [`NodeError::PortPublished`] where another workload has one of the ports.
    pub(super) async fn claim_published(
        &self,
        attach: &AttachContainer,
    ) -> Result<Option<tokio::sync::MutexGuard<'_, ()>>, NodeError> {
        if attach.publish.is_empty() {
            return Ok(None);
        }
        let order = self.ports_order.lock().await;
        let taken = self.kit.store.read(|tables| {
            tables.all::<Attachment>().filter(|other| other.handle != attach.handle).find_map(|other| {
                let same = |port: &&crate::ipc::wire::PublishedPort| {
                    let all = attach.publish.iter();
                    all.into_iter().any(|wanted| {
                        (wanted.host_port, wanted.protocol, wanted.host_ip)
                            == (port.host_port, port.protocol, port.host_ip)
                    })
                };
                other.publish.iter().find(same).map(|port| (port.host_port, other.handle.key()))
            })
        });
        match taken {
            Some((port, by)) => Err(NodeError::PortPublished { port, by }),
            None => Ok(Some(order)),
        }
    }
}
