//! What could not be brought up again at start, what could not be taken away, what the firewall could not be made: all are
//! tried again until they can be.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::fence::has_links;
use super::host::Host;
use crate::host::HostError;
use crate::ipc::wire::Event;
use crate::state::{Attachment, Bridge, Service};
use std::sync::atomic::Ordering;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Has [`Node::mend`] look at bridges and workloads.
    pub(super) fn mend_later(&self) {
        self.mend_wanted.store(true, Ordering::Release);
    }

    /// Brings about what is written down of services and workloads, if some of it could not be before, and takes away what
    /// is not.
    pub(super) async fn mend(&self) {
        for overlay in self.overlays() {
            overlay.dismiss_again().await;
        }
        if let Err(error) = self.look_for_links().await {
            tracing::warn!(%error, "it cannot be told whether links are missing");
        }
        if !self.mend_wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        for known in self.kit.store.all::<Service>() {
            self.restore_bridge(&known).await;
        }
        for known in self.kit.store.all::<Attachment>() {
            match has_links(&known.handle) {
                true => self.restore_attachment(&known).await,
                false => self.restore_linkless(&known).await,
            }
        }
    }

    /// Looks whether bridges and links of containers are there, which anybody with the rights can remove.
    async fn look_for_links(&self) -> Result<(), HostError> {
        for known in self.kit.store.all::<Bridge>() {
            if self.kit.host.has_link(std::slice::from_ref(&known.bridge)).await? {
                continue;
            }
            // It may be on its way, or have gone.
            let _turn = self.orders.turn(&known.subnet_of).await;
            if self.kit.store.find::<Bridge>(&known.bridge).is_some() {
                self.note_missing(&known.bridge).await?;
            }
        }
        for known in self.kit.store.all::<Attachment>() {
            for link in &known.links {
                if self.kit.host.has_link(std::slice::from_ref(link)).await? {
                    continue;
                }
                let _turn = self.workload_orders.turn(&known.handle.key()).await;
                if self.kit.store.find::<Attachment>(&Attachment::id_of(&known.handle)).as_ref() == Some(&known) {
                    self.note_missing(link).await?;
                }
            }
        }
        Ok(())
    }

    async fn note_missing(&self, link: &str) -> Result<(), HostError> {
        if !self.kit.host.has_link(&[link.to_owned()]).await? {
            tracing::warn!(link, "a link of ours is missing; making it again");
            self.kit.events.publish(Event::Drift { object: link.to_owned(), found: "removed".into(), mended: false });
            self.mend_later();
        }
        Ok(())
    }

    /// Has the firewall be made anew, if it could not be made what it is to be.
    pub(super) async fn mend_firewall(&self) {
        if self.fence_wanted.swap(false, Ordering::AcqRel) {
            self.fence_all_or_complain().await;
        }
    }
}
