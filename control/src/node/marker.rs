//! The record of dedicated overlays that the replaced daemon would read, kept in step with the store.
//!
//! The store is the truth, unless somebody else wrote the record: the replaced daemon, before an upgrade or after a
//! roll-back. To tell, the store knows the checksums the record may have by our own hand: that of before and that of after
//! the last writing, noted before it.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::host::Host;
use crate::state::{Identity, Marker, MarkerError, Seal, Transaction};

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Takes over what the replaced daemon left or changed, and brings the record up to date.
    pub(super) async fn read_marker(&self) {
        let Some(marker) = &self.marker else { return };
        let (file, known) = (marker.lock().await.clone(), self.kit.store.find::<Seal>("").unwrap_or_default().known);
        let found = off_thread(move || match file.seal() {
            Some(seal) if !known.contains(&seal) => file.load(),
            _ => Ok(Vec::new()),
        });
        match found.await {
            Ok(found) => self.take_over(found).await,
            Err(error) => tracing::error!("{error}"),
        }
        self.save_marker().await;
    }

    async fn take_over(&self, found: Vec<Identity>) {
        let known = |identity: &Identity| self.kit.store.find::<Identity>(&identity.service);
        let news: Vec<_> = found.into_iter().filter(|found| known(found).as_ref() != Some(found)).collect();
        for identity in &news {
            tracing::info!(service = identity.service, port = identity.port, "took over the identity of a service");
        }
        if let Err(error) = self.kit.commit(news.into_iter().fold(Transaction::new(), Transaction::put)).await {
            tracing::error!(%error, "identities of services could not be taken over");
        }
    }

    /// Has the record say what the store does. That it cannot is no failure of what was asked.
    pub(super) async fn save_marker(&self) {
        let Some(marker) = &self.marker else { return };
        // What is read under the lock is written under it, so the last to write has read last.
        let marker = marker.lock().await;
        if let Err(error) = self.write_marker(&marker).await {
            tracing::warn!("the record for the replaced daemon is not up to date: {error}");
        }
    }

    async fn write_marker(&self, marker: &Marker) -> Result<(), NodeError> {
        let (file, identities) = (marker.clone(), self.kit.store.all::<Identity>());
        let prepared = off_thread(move || Ok((file.seal(), file.prepare(&identities)?))).await?;
        let (before, after) = (prepared.0, prepared.1.as_ref().map(|text| text.seal()));
        let seal = Seal { known: before.into_iter().chain(after).collect() };
        if self.kit.store.find::<Seal>("").unwrap_or_default() != seal {
            self.kit.commit(Transaction::new().put(seal)).await?;
        }
        let Some(text) = prepared.1 else { return Ok(()) };
        let file = marker.clone();
        off_thread(move || file.write(&text)).await
    }
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, MarkerError> + Send + 'static,
) -> Result<T, NodeError> {
    Ok(tokio::task::spawn_blocking(work).await.map_err(|_| NodeError::Stopping)??)
}
