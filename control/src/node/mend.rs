//! What could not be brought up again at start, what could not be taken away, what the firewall could not be made: all are
//! tried again until they can be.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::fence::has_links;
use super::host::Host;
use crate::state::{Attachment, Service};
use std::sync::atomic::Ordering;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Has [`Node::mend`] look at bridges and workloads.
    pub(super) fn mend_later(&self) {
        self.mend_wanted.store(true, Ordering::Release);
    }

    /// Brings about what is written down of services and workloads, if some of it could not be before, and takes away what
    /// is not.
    pub(super) async fn mend(&self) {
        let services = self.service_overlays().into_iter().map(|(_, overlay)| overlay);
        for overlay in std::iter::once(self.overlay.clone()).chain(services) {
            overlay.dismiss_again().await;
        }
        if !self.mend_wanted.swap(false, Ordering::AcqRel) {
            return;
        }
        self.remove_left_addresses().await;
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

    /// Has the firewall be made anew, if it could not be made what it is to be.
    pub(super) async fn mend_firewall(&self) {
        if self.fence_wanted.swap(false, Ordering::AcqRel) {
            self.fence_all_or_complain().await;
        }
    }
}
