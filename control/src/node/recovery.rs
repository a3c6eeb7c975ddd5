//! Bringing an overlay back: at start, because it was up before, and whenever somebody took its device away: the interface
//! was deleted, or its socket failed for good.
//!
//! ```text
//! device ends ─► events end ─► bring_back: torn down or replaced meanwhile? ─ yes ─► nothing to do
//!                                    │ no
//!                                    ▼
//!                              note what it had, make another ─ fails ─► pause, try again, at last give up
//! ```
//!
//! The new device has the key, port, mark, address and peers of the old, what `wg` set included; peers that roamed are
//! sought where they were last. Each try is a change like any other and waits its turn, so orders are taken between two
//! tries: a teardown ends the matter, a setup that succeeds settles it, and peers that change are noted for the next try.

use super::device::{DeviceMaker, DeviceSlot};
use super::host::Host;
use super::overlay::{DevicePlan, Live, Overlay};
use ginnel_engine::command::PeerUpdate;
use ginnel_engine::event::Event;
use ginnel_engine::key::{PrivateKey, PublicKey};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::runtime::Handle;

/// First pause between two tries; the next are twice as long each. A name or port still held by what ends is free by then.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// Longest pause: what somebody who mends the cause is ready to wait.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Tries until the cause counts as permanent; they take six minutes.
const TRIES_MAX: u32 = 20;

/// After this long without a try, the next loss is another story. Longer than any pause and the try behind it.
const CALM: Duration = Duration::from_secs(300);

/// What only the holder of the turn sees.
#[derive(Default)]
pub(super) struct Recovery {
    /// An overlay that is to come back.
    pub(super) lost: Option<Lost>,
    backoff: Backoff,
}

/// An overlay without its device.
pub(super) struct Lost {
    plan: DevicePlan,
    private_key: Option<PrivateKey>,
    port: u16,
    fwmark: u32,
    places: HashMap<PublicKey, SocketAddr>,
}

impl Lost {
    /// One that was there before this process, at `port`.
    fn planned(plan: DevicePlan, port: u16) -> Self {
        Self { plan, private_key: None, port, fwmark: 0, places: HashMap::new() }
    }

    pub(super) fn private_key(&self) -> Option<PrivateKey> {
        self.private_key.clone()
    }

    /// The port for a new device according to `plan`: the old one, which the kernel or `wg` may have chosen, unless the
    /// plan is for another.
    pub(super) fn port(&self, plan: &DevicePlan) -> u16 {
        if plan.port == self.plan.port { self.port } else { plan.port }
    }

    pub(super) fn fwmark(&self) -> Option<u32> {
        Some(self.fwmark).filter(|mark| *mark != 0)
    }

    /// Sends `peers` where they were last.
    pub(super) fn place(&self, peers: &mut [PeerUpdate]) {
        for peer in peers {
            peer.endpoint = self.places.get(&peer.public_key).copied().or(peer.endpoint);
        }
    }

    /// The peer is to be sought where it was asked for.
    pub(super) fn forget_place(&mut self, key: &PublicKey) {
        self.places.remove(key);
    }
}

impl Recovery {
    /// How long to wait before the next try. `None` where there is nothing to bring back, or no hope.
    fn next_pause(&mut self) -> Option<Duration> {
        let lost = self.lost.as_ref()?;
        let pause = self.backoff.next(Instant::now());
        if pause.is_none() {
            tracing::error!(interface = %lost.plan.interface, "giving up on the overlay: mend the cause and set it up again");
        }
        pause
    }
}

impl<M: DeviceMaker, H: Host> Overlay<M, H> {
    /// Hears what the device of `live` tells, until it ends.
    pub(super) fn watch(self: &Arc<Self>, live: &Live) {
        let Some(events) = live.device.take_events() else { return };
        let (overlay, device) = (Arc::downgrade(self), Arc::downgrade(&live.device));
        let runtime = Handle::current();
        let on_end = move || {
            if let Some(overlay) = overlay.upgrade() {
                runtime.spawn(overlay.bring_back(device));
            }
        };
        let watcher = Arc::downgrade(self);
        let hear = move |event: &Event| {
            if let Some(overlay) = watcher.upgrade() {
                overlay.care.hear(event, SystemTime::now());
                overlay.tell_move(event);
            }
        };
        if let Err(error) = super::events::listen(events, live.diverted.clone(), hear, on_end) {
            tracing::warn!(%error, "the device is not watched: a removed interface comes back with the next setup only");
        }
    }

    /// Brings up at start what was up before, at the `port` it had. What fails is tried again in the background.
    pub(super) async fn restore(self: &Arc<Self>, plan: DevicePlan, port: u16) {
        let Ok(mut turn) = self.turn().await else { return };
        turn.lost = Some(Lost::planned(plan.clone(), port));
        let mut outcome = self.bring(&mut turn, plan.clone()).await;
        if outcome.is_err() && port != plan.port {
            // The kernel chose it once, and may choose another.
            turn.lost = Some(Lost::planned(plan.clone(), plan.port));
            outcome = self.bring(&mut turn, plan).await;
        }
        if let Err(error) = outcome {
            tracing::error!(%error, scope = %self.scope, "an overlay that was up before is not yet");
            let pause = turn.next_pause();
            tokio::spawn(self.clone().keep_trying(pause));
        }
    }

    /// Takes leave of a device that ended by itself.
    pub(super) async fn bury(&self, dead: Live) -> Lost {
        tracing::warn!(interface = %dead.interface, "the device ended unasked, most likely because its interface was removed; making it again");
        self.tell_down(dead.interface.clone());
        let state = dead.device.state().await;
        dead.device.close().await;
        self.note_live(None);
        let Some(state) = state else {
            let port = dead.plan.port;
            return Lost::planned(dead.plan, port);
        };
        let places = state.peers.iter().filter_map(|peer| Some((peer.public_key, peer.endpoint?))).collect();
        self.adopt(state.peers).await;
        let (private_key, port, fwmark) = (state.private_key, state.listen_port, state.fwmark);
        Lost { plan: dead.plan, private_key, port, fwmark, places }
    }

    async fn bring_back(self: Arc<Self>, ended: Weak<DeviceSlot>) {
        let pause = self.on_end(&ended).await;
        self.keep_trying(pause).await;
    }

    async fn keep_trying(self: Arc<Self>, mut pause: Option<Duration>) {
        while let Some(time) = pause {
            tokio::time::sleep(time).await;
            pause = self.try_again().await;
        }
    }

    /// A device ended: was it ours to keep?
    async fn on_end(&self, ended: &Weak<DeviceSlot>) -> Option<Duration> {
        let mut turn = self.turn().await.ok()?;
        if let Some(live) = self.live().filter(|live| Arc::downgrade(&live.device).ptr_eq(ended)) {
            turn.lost = Some(self.bury(live).await);
        }
        turn.next_pause()
    }

    async fn try_again(self: &Arc<Self>) -> Option<Duration> {
        let mut turn = self.turn().await.ok()?;
        let lost = turn.lost.as_ref()?;
        match self.bring_up(lost.plan.clone(), Some(lost)).await {
            Ok(live) => {
                turn.lost = None;
                self.watch(&live);
                let interface = live.interface.clone();
                self.note_live(Some(live));
                self.tell_up(interface);
                self.returned.send_replace(());
                None
            }
            Err(error) => {
                tracing::warn!(%error, "the overlay cannot be brought back yet");
                turn.next_pause()
            }
        }
    }
}

/// How long to wait before a try, and when to stop trying.
#[derive(Debug, Default)]
struct Backoff {
    tries: u32,
    last: Option<Instant>,
}

impl Backoff {
    fn next(&mut self, now: Instant) -> Option<Duration> {
        if self.last.is_some_and(|last| now.saturating_duration_since(last) >= CALM) {
            self.tries = 0;
        }
        if self.tries >= TRIES_MAX {
            return None;
        }
        self.last = Some(now);
        self.tries += 1;
        // The first try, which mends nearly every case, is at once.
        let doublings = self.tries.checked_sub(2);
        Some(doublings.map_or(Duration::ZERO, |n| PAUSE_FIRST.saturating_mul(1 << n.min(16)).min(PAUSE_MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end_and_start_anew_after_a_calm() {
        let mut backoff = Backoff::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        while let Some(pause) = backoff.next(now) {
            now += pause + Duration::from_secs(1);
            pauses.push(pause);
        }
        let millis: Vec<_> = pauses.iter().take(5).map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 100, 200, 400, 800]);
        assert_eq!((pauses.len(), pauses.last()), (20, Some(&PAUSE_MAX)));
        let total: Duration = pauses.iter().sum();
        assert!((300..=400).contains(&total.as_secs()), "{total:?}");
        assert_eq!(backoff.next(now), None);
        assert_eq!(backoff.next(now + CALM), Some(Duration::ZERO));
    }
}
