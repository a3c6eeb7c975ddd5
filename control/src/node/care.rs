//! The well-being of peers: who answers, who does not, and where else to look for those.
//!
//! ```text
//! handshake completed ─┐                        ┌─► peer_health_changed, on every change
//! handshake abandoned ─┼─► Monitor ── look ─────┤
//! every few seconds  ──┘                        └─► seek: the endpoint that was asked for, its name looked up again,
//!                                                    then where the peer was heard last, in turns
//! ```
//!
//! A peer answers if a handshake with it completed within the last 180 s, the life of a session. A peer that was never
//! heard of is reported once it had 90 s to answer.
//!
//! A peer roams by being heard elsewhere. When it then falls silent, both sides may be calling where nobody is; so one that
//! does not answer is called at its configured endpoint, and at the one it had in between, until it does.

use super::device::DeviceMaker;
use super::endpoint;
use super::host::Host;
use super::members::SESSION_AGE_MAX;
use super::overlay::Overlay;
use crate::ipc::wire;
use ginnel_engine::command::{DeviceUpdate, PeerUpdate};
use ginnel_engine::event::Event;
use ginnel_engine::key::PublicKey;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

/// How long a new peer may stay unheard of (WireGuard paper, section 6.1: `REKEY_ATTEMPT_TIME`).
const ATTEMPT_TIME: Duration = Duration::from_secs(90);

/// A session of a peer with keepalives is renewed at 120 s (`REKEY_AFTER_TIME`); one older than this is not being renewed,
/// three attempts at `REKEY_TIMEOUT` included.
const RENEWAL_AGE_MAX: Duration = Duration::from_secs(135);

/// First and longest pause between two searches for one peer. A resolver is not to be asked more often, and a handshake
/// needs a few seconds to show that a place is right.
const SEEK_PAUSE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// Peers sought at once: so many names are looked up beside each other.
const SEEKS_MAX: usize = 16;

/// Between two looks, however much happens.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);

/// What an overlay knows of the well-being of its peers.
#[derive(Default)]
pub(super) struct Care {
    monitor: Mutex<Monitor>,
    news: Arc<Notify>,
}

impl Care {
    /// Takes in what a device tells. From any thread.
    pub(super) fn hear(&self, event: &Event, now: SystemTime) {
        match event {
            Event::HandshakeAbandoned { peer } => self.monitor().abandoned(*peer, now),
            Event::HandshakeCompleted { .. } => {}
            Event::EndpointChanged { .. } | Event::PortClosed { .. } | Event::Diverted { .. } => return,
        }
        self.news.notify_one();
    }

    /// Begins anew with a peer that was changed or removed.
    pub(super) fn forget(&self, key: &PublicKey) {
        self.monitor().peers.remove(key);
    }

    /// Whether the peer answers, once that is known.
    pub(super) fn is_healthy(&self, key: &PublicKey) -> Option<bool> {
        self.monitor().peers.get(key).and_then(|watched| watched.told)
    }

    fn monitor(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A peer as the device has it.
#[derive(Clone, Copy, Debug)]
struct Sample {
    key: PublicKey,
    handshake: Option<SystemTime>,
    endpoint: Option<SocketAddr>,
    /// The endpoint that was asked for, as far as its address is known.
    configured: Option<SocketAddr>,
    /// It was asked for and leads nowhere yet.
    unplaced: bool,
    keepalive: bool,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Whether a peer answers has changed.
    Health(PublicKey, bool),
    /// A peer is to be sought elsewhere.
    Silent(PublicKey),
}

#[derive(Default)]
struct Monitor {
    peers: HashMap<PublicKey, Watched>,
}

#[derive(Debug)]
struct Watched {
    since: SystemTime,
    /// What was reported.
    told: Option<bool>,
    handshake: Option<SystemTime>,
    /// When it was given up, unless it was heard of later.
    abandoned: Option<SystemTime>,
    /// Where it was heard, other than where it was asked for.
    roamed: Option<SocketAddr>,
    seeks: u32,
    next_seek: SystemTime,
}

impl Watched {
    fn new(now: SystemTime) -> Self {
        Self {
            since: now,
            told: None,
            handshake: None,
            abandoned: None,
            roamed: None,
            seeks: 0,
            next_seek: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Monitor {
    fn abandoned(&mut self, key: PublicKey, now: SystemTime) {
        self.peers.entry(key).or_insert_with(|| Watched::new(now)).abandoned = Some(now);
    }

    fn look(&mut self, samples: &[Sample], now: SystemTime) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut former = std::mem::take(&mut self.peers);
        for sample in samples {
            let mut watched = former.remove(&sample.key).unwrap_or_else(|| Watched::new(now));
            watched.look(sample, now, &mut findings);
            self.peers.insert(sample.key, watched);
        }
        findings
    }

    /// Where to look for a silent peer next: one of `places`, where its configured endpoint leads, or where it was heard
    /// last. `None` where it is called already.
    fn next_place(
        &mut self,
        key: &PublicKey,
        places: &[SocketAddr],
        current: Option<SocketAddr>,
        now: SystemTime,
    ) -> Option<SocketAddr> {
        let watched = self.peers.get_mut(key)?;
        let roamed = watched.roamed.filter(|roamed| !places.contains(roamed));
        let candidates: Vec<_> = places.iter().copied().chain(roamed).collect();
        let turn = usize::try_from(watched.seeks).unwrap_or_default();
        let pause = SEEK_PAUSE.0.saturating_mul(1 << watched.seeks.min(16)).min(SEEK_PAUSE.1);
        watched.seeks = watched.seeks.saturating_add(1);
        watched.next_seek = now + pause;
        let order = (0..candidates.len()).map(|step| candidates[(turn + step) % candidates.len()]);
        order.into_iter().find(|place| Some(*place) != current)
    }
}

impl Watched {
    fn look(&mut self, sample: &Sample, now: SystemTime, findings: &mut Vec<Finding>) {
        let key = sample.key;
        let age = |time: SystemTime| now.duration_since(time).unwrap_or_default();
        if sample.handshake >= self.abandoned {
            self.abandoned = None;
        }
        let healthy = self.abandoned.is_none() && sample.handshake.is_some_and(|time| age(time) < SESSION_AGE_MAX);
        if sample.handshake > self.handshake {
            (self.handshake, self.seeks, self.next_seek) = (sample.handshake, 0, SystemTime::UNIX_EPOCH);
        }
        if healthy && sample.endpoint != sample.configured {
            self.roamed = sample.endpoint;
        }
        let waited = self.abandoned.is_some() || age(self.since) >= ATTEMPT_TIME;
        if self.told != Some(healthy) && (healthy || self.told.is_some() || waited) {
            self.told = Some(healthy);
            findings.push(Finding::Health(key, healthy));
        }
        let overdue = sample.keepalive && age(sample.handshake.unwrap_or(self.since)) >= RENEWAL_AGE_MAX;
        if (self.abandoned.is_some() || overdue || sample.unplaced) && now >= self.next_seek {
            findings.push(Finding::Silent(key));
        }
    }
}

impl<M: DeviceMaker, H: Host> Overlay<M, H> {
    /// Looks after the peers for as long as the overlay exists.
    pub(super) fn start_care(self: &Arc<Self>) {
        let (overlay, news, interval) = (Arc::downgrade(self), self.care.news.clone(), self.kit.tuning.look_interval);
        tokio::spawn(async move {
            loop {
                // Whether it was news or time makes no difference.
                let _ = tokio::time::timeout(interval, news.notified()).await;
                let Some(overlay) = overlay.upgrade() else { return };
                overlay.look_after_peers().await;
                drop(overlay);
                tokio::time::sleep(LOOK_PAUSE_MIN).await;
            }
        });
    }

    async fn look_after_peers(&self) {
        let Some(live) = self.live() else { return };
        let Some(state) = live.device.state().await else { return };
        let samples: Vec<_> = {
            let book = self.peers();
            let samples = state.peers.iter().map(|peer| {
                let asked = book.peer(&peer.public_key);
                Sample {
                    key: peer.public_key,
                    handshake: peer.last_handshake,
                    endpoint: peer.endpoint,
                    configured: asked.and_then(|asked| asked.endpoint),
                    unplaced: peer.endpoint.is_none() && asked.is_some_and(|asked| asked.asked_endpoint.is_some()),
                    keepalive: peer.persistent_keepalive_secs > 0,
                }
            });
            samples.collect()
        };
        let findings = self.care.monitor().look(&samples, SystemTime::now());
        let mut silent = Vec::new();
        for finding in findings {
            match finding {
                Finding::Health(key, healthy) => {
                    tracing::debug!(peer = %key, healthy, scope = %self.scope, "a peer changed its health");
                    self.kit.events.publish(wire::Event::PeerHealthChanged { pubkey: key.to_base64(), healthy });
                }
                Finding::Silent(key) => silent.push(self.seek(key)),
            }
        }
        // Those left over are still silent at the next look.
        silent.truncate(SEEKS_MAX);
        futures_util::future::join_all(silent).await;
    }

    /// Calls a silent peer elsewhere.
    async fn seek(&self, key: PublicKey) {
        let asked = self.peers().peer(&key).and_then(|peer| peer.asked_endpoint.clone());
        let places = match &asked {
            Some(asked) => endpoint::places(asked).await,
            None => Vec::new(),
        };
        let Ok(_turn) = self.turn().await else { return };
        let Some(live) = self.live() else { return };
        // It may have been changed, or heard, while its name was looked up.
        if self.peers().peer(&key).is_none_or(|peer| peer.asked_endpoint != asked) {
            return;
        }
        let Some(state) = live.device.state().await else { return };
        let Some(peer) = state.peers.iter().find(|peer| peer.public_key == key) else { return };
        let now = SystemTime::now();
        let place = self.care.monitor().next_place(&key, &places, peer.endpoint, now);
        let Some(place) = place else { return };
        let update = PeerUpdate { update_only: true, endpoint: Some(place), ..PeerUpdate::new(key) };
        match live.device.apply(DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() }).await {
            Ok(()) => {
                tracing::debug!(peer = %key, endpoint = %place, scope = %self.scope, "a silent peer is sought elsewhere");
                if places.contains(&place) {
                    self.peers().place(&key, place);
                }
            }
            Err(error) => tracing::warn!(%error, peer = %key, "a silent peer cannot be sought elsewhere"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + secs)
    }

    fn place(number: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], number))
    }

    const KEY: PublicKey = PublicKey([1; 32]);

    fn sample(handshake: Option<u64>) -> Sample {
        Sample {
            key: KEY,
            handshake: handshake.map(at),
            endpoint: Some(place(1)),
            configured: Some(place(1)),
            unplaced: false,
            keepalive: false,
        }
    }

    fn look(monitor: &mut Monitor, sample: Sample, secs: u64) -> Vec<Finding> {
        monitor.look(&[sample], at(secs))
    }

    #[test]
    fn health_is_told_on_every_change_and_at_no_other_time() {
        let mut monitor = Monitor::default();
        let mut told = |handshake, secs| look(&mut monitor, sample(handshake), secs);
        assert_eq!(told(None, 0), []);
        assert_eq!(told(None, 89), []);
        assert_eq!(told(None, 90), [Finding::Health(KEY, false)]);
        assert_eq!(told(None, 500), []);
        assert_eq!(told(Some(501), 501), [Finding::Health(KEY, true)]);
        assert_eq!(told(Some(501), 680), []);
        assert_eq!(told(Some(501), 681), [Finding::Health(KEY, false)]);
        assert_eq!(told(Some(690), 690), [Finding::Health(KEY, true)]);
        // A clock that went back makes nobody ill.
        assert_eq!(told(Some(690), 600), []);
        // Without keepalives nobody expects a handshake, so nobody is sought.
        assert_eq!(told(Some(690), 9_000), [Finding::Health(KEY, false)]);
        assert_eq!(monitor.look(&[], at(9_001)), []);
        assert!(monitor.peers.is_empty());
    }

    #[test]
    fn a_peer_that_was_given_up_is_ill_at_once_and_well_with_its_next_handshake() {
        let mut monitor = Monitor::default();
        look(&mut monitor, sample(Some(0)), 1);
        monitor.abandoned(KEY, at(110));
        let findings = look(&mut monitor, sample(Some(0)), 111);
        assert_eq!(findings, [Finding::Health(KEY, false), Finding::Silent(KEY)]);
        assert_eq!(look(&mut monitor, sample(Some(112)), 113), [Finding::Health(KEY, true)]);
    }

    #[test]
    fn who_should_have_renewed_is_sought_ever_more_rarely() {
        let mut monitor = Monitor::default();
        let keeping = |handshake| Sample { keepalive: true, ..sample(handshake) };
        assert_eq!(look(&mut monitor, keeping(Some(0)), 134), [Finding::Health(KEY, true)]);
        let mut sought = Vec::new();
        for secs in 135..1_500 {
            if look(&mut monitor, keeping(Some(0)), secs).contains(&Finding::Silent(KEY)) {
                monitor.next_place(&KEY, &[place(1)], Some(place(1)), at(secs));
                sought.push(secs);
            }
        }
        assert_eq!(sought, [135, 150, 180, 240, 360, 600, 900, 1_200]);
        look(&mut monitor, keeping(Some(1_500)), 1_500);
        assert!(look(&mut monitor, keeping(Some(1_500)), 1_640).contains(&Finding::Silent(KEY)));
    }

    #[test]
    fn configured_places_and_where_it_was_heard_take_turns() {
        let mut monitor = Monitor::default();
        look(&mut monitor, Sample { endpoint: Some(place(9)), ..sample(Some(0)) }, 1);
        let mut next = |places: &[SocketAddr], current| monitor.next_place(&KEY, places, Some(current), at(200));
        assert_eq!(next(&[place(1)], place(9)), Some(place(1)));
        assert_eq!(next(&[place(1)], place(1)), Some(place(9)));
        assert_eq!(next(&[place(1)], place(9)), Some(place(1)));
        // A name that leads elsewhere now, to two places.
        assert_eq!(next(&[place(2), place(3)], place(1)), Some(place(2)));
        assert_eq!(next(&[place(2), place(3)], place(2)), Some(place(3)));
        assert_eq!(next(&[], place(9)), None);
        assert_eq!(next(&[], place(1)), Some(place(9)));
        assert_eq!(monitor.next_place(&PublicKey([2; 32]), &[place(1)], None, at(0)), None);
    }

    #[test]
    fn a_name_that_leads_nowhere_yet_is_looked_up_at_once() {
        let mut monitor = Monitor::default();
        let unplaced = Sample { endpoint: None, configured: None, unplaced: true, ..sample(None) };
        assert_eq!(look(&mut monitor, unplaced, 0), [Finding::Silent(KEY)]);
        assert_eq!(monitor.next_place(&KEY, &[place(4)], None, at(0)), Some(place(4)));
        assert_eq!(look(&mut monitor, unplaced, 1), []);
    }
}
