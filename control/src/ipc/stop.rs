//! The one word that ends a daemon, told by a request or a signal and heard by everything that serves.

use std::sync::Arc;
use tokio::sync::watch;

/// A latch: once triggered, for ever. Clones share it.
#[derive(Clone, Debug)]
pub struct Stop(Arc<watch::Sender<bool>>);

impl Default for Stop {
    fn default() -> Self {
        Self(Arc::new(watch::channel(false).0))
    }
}

impl Stop {
    /// Ends whatever waits for it.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }

    /// Returns once [`Stop::trigger`] was called, at once if that was earlier.
    pub async fn triggered(&self) {
        // The wait fails only when the sender is gone, and this handle holds it.
        let _ = self.0.subscribe().wait_for(|stopped| *stopped).await;
    }
}
