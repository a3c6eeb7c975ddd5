//! The seam between the overlay and the device that carries its packets.
//!
//! A device is driven by blocking calls that are short but not free (they wait for every worker to take a batch, and
//! dropping one joins threads). [`DeviceSlot`] keeps them off the async threads, gives each a deadline, and makes sure
//! that once a device is closed nobody still holds it.

use ginnel_backends::device::{DeviceError, DeviceOptions, DeviceState};
use ginnel_backends::linux::give_heap_back;
use ginnel_engine::command::DeviceUpdate;
use ginnel_engine::event::Event;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::timeout;

/// A running WireGuard device.
pub trait OverlayDevice: Send + Sync + 'static {
    /// The name of its interface.
    fn name(&self) -> String;

    /// Applies `update` as a whole or not at all. May block for the time of a batch.
    ///
    /// # Errors
    /// [`DeviceError`]; the device is as before then.
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError>;

    /// Whether the interface is still there: anybody with the rights can remove it.
    fn is_running(&self) -> bool;

    /// Configuration and counters.
    fn state(&self) -> DeviceState;

    /// Whether anything but [`OverlayDevice::apply`] changed the configuration since this was last asked.
    fn take_changed(&self) -> bool;

    /// What the device tells of itself; the first caller gets it. It ends with the device.
    fn take_events(&self) -> Option<Receiver<Event>>;
}

/// Where devices come from.
pub trait DeviceMaker: Send + Sync + 'static {
    /// Makes a device; dropping it removes its interface. May block.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing is left behind then.
    fn open(&self, options: &DeviceOptions) -> Result<Box<dyn OverlayDevice>, DeviceError>;
}

/// How long a device may take for anything. A batch takes microseconds; this is for one that hangs.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a device did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// It said so.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It said nothing.
    #[error("the device did not answer within {} s: see the log, and restart the daemon if this stays", PATIENCE.as_secs())]
    Stuck,
}

/// A device and the right to end it. Readers and changers share it; [`DeviceSlot::close`] waits for them.
pub(super) struct DeviceSlot(RwLock<Option<Box<dyn OverlayDevice>>>);

impl DeviceSlot {
    pub(super) async fn open<M: DeviceMaker>(maker: Arc<M>, options: DeviceOptions) -> Result<Arc<Self>, SlotError> {
        let device = off_thread(move || maker.open(&options)).await??;
        Ok(Arc::new(Self(RwLock::new(Some(device)))))
    }

    /// The name of the interface; `None` once closed.
    pub(super) async fn name(self: &Arc<Self>) -> Option<String> {
        self.with(|device| device.name()).await.ok().flatten()
    }

    pub(super) async fn apply(self: &Arc<Self>, update: DeviceUpdate) -> Result<(), SlotError> {
        let applied = self.with(move |device| device.apply(update)).await?;
        Ok(applied.unwrap_or(Err(DeviceError::Stopped))?)
    }

    /// `None` once closed, or where the device does not answer.
    pub(super) async fn state(self: &Arc<Self>) -> Option<DeviceState> {
        self.with(|device| device.state()).await.ok().flatten()
    }

    /// The state, if somebody else changed it since this was last asked.
    pub(super) async fn changed_state(self: &Arc<Self>) -> Option<DeviceState> {
        self.with(|device| device.take_changed().then(|| device.state())).await.ok().flatten().flatten()
    }

    /// What the device tells; the first caller gets it. Does not wait for the device.
    pub(super) fn take_events(&self) -> Option<Receiver<Event>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).as_deref()?.take_events()
    }

    /// Whether the device is there. One that does not answer is: what hangs may still come back.
    pub(super) async fn is_running(self: &Arc<Self>) -> bool {
        !matches!(self.with(|device| device.is_running()).await, Ok(None | Some(false)))
    }

    /// Ends the device and removes its interface. Returns when that is done.
    pub(super) async fn close(self: &Arc<Self>) {
        let slot = self.clone();
        let closed = off_thread(move || {
            let device = slot.0.write().unwrap_or_else(PoisonError::into_inner).take();
            drop(device);
            // The buffers of its workers were most of it.
            give_heap_back();
        });
        if closed.await.is_err() {
            tracing::error!("a device did not stop in time; its interface goes with the process at the latest");
        }
    }

    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&dyn OverlayDevice) -> T + Send + 'static,
    ) -> Result<Option<T>, SlotError> {
        let slot = self.clone();
        off_thread(move || slot.0.read().unwrap_or_else(PoisonError::into_inner).as_deref().map(work)).await
    }
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SlotError> {
    match timeout(PATIENCE, tokio::task::spawn_blocking(work)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            tracing::error!(%error, "a call to the device failed in a way it should not");
            Err(SlotError::Stuck)
        }
        Err(_) => Err(SlotError::Stuck),
    }
}
