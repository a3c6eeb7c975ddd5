//! What the main daemon tells about this node: its number, and the key the cluster knows it by.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::state::{Settings, Transaction};
use ginnel_engine::key::PublicKey;

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// What was told last.
    pub(super) fn settings(&self) -> Settings {
        self.kit.store.find::<Settings>("").unwrap_or_default()
    }

    /// Notes something that was told.
    pub(super) async fn tell_settings(&self, tell: impl FnOnce(&mut Settings)) -> Result<(), NodeError> {
        // One after the other, or one of two would be lost.
        let _order = self.settings_order.lock().await;
        let former = self.settings();
        let mut settings = former.clone();
        tell(&mut settings);
        if settings != former {
            self.kit.commit(Transaction::new().put(settings)).await?;
        }
        self.check_advertised();
        Ok(())
    }

    /// Warns where the cluster knows this node by a key it does not have: no peer could complete a handshake then.
    pub(super) fn check_advertised(&self) {
        if let (Some(advertised), Some(own)) = (self.settings().advertised_key, self.overlay.public_key())
            && PublicKey::from_base64(&advertised) != Ok(own)
        {
            tracing::warn!(%advertised, %own, "the cluster advertises another key than this node has: peers need the node's own");
        }
    }
}
