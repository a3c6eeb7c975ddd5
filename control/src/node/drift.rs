//! What others do to links of ours is noticed as it happens and put right: a tunnel that lost its address, a bridge that was
//! set down, a container's link that was taken from its bridge. Network managers do so when they start again.
//!
//! ```text
//! Watch ─► about something of ours? ─► noted ─► a moment later, in its turn: as it is to be? ─ no ─► made so, and told
//! ```
//! The watch tells of our own changes, too. Those hold the turn of what they change, so by the time it is looked at
//! nothing is missing. Left out: what is missing altogether for want of a watch ([`super::mend`] looks now and then), the
//! device behind a tunnel ([`super::recovery`]), rules (they watch themselves), and what a container does inside.

use super::device::DeviceMaker;
use super::dispatch::Node;
use super::error::NodeError;
use super::fence::has_links;
use super::host::Host;
use super::overlay::Overlay;
use super::wiring::Found;
use crate::host::{Change, Event as HostEvent, Watch};
use crate::ipc::wire::Event;
use crate::state::{Attachment, Bridge, Scope, Service};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long after the first of it something is looked at: what a restart of a network manager does is done by then.
const PAUSE_FIRST: Duration = Duration::from_millis(100);

/// What is undone again and again is mended after twice the time each: somebody else wants it otherwise.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// After so long without a mend, the next is another story.
const CALM: Duration = Duration::from_secs(60);

/// Something that may not be as it is to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// The tunnel of this name.
    Tunnel(String),
    /// The bridge of this name.
    Bridge(String),
    /// The links of the attachment with this id.
    Attachment(String),
}

impl<M: DeviceMaker, H: Host> Node<M, H> {
    /// Watches what happens to our links, from now on.
    pub(super) async fn start_watching(self: &Arc<Self>) {
        match self.kit.host.watch().await {
            Ok(watch) => drop(tokio::spawn(keep_watch(Arc::downgrade(self), watch))),
            Err(error) => {
                tracing::warn!(%error, "what others do to our links is not noticed as it happens");
            }
        }
    }

    /// What `event` is about, if something of ours may not be as it is to be.
    fn places_of(&self, event: &HostEvent) -> BTreeSet<Place> {
        let (name, change) = match event {
            HostEvent::Link { name, change, .. } => (name, change),
            HostEvent::Overrun => return self.places(),
        };
        let as_planned = match change {
            Change::Appeared | Change::Up(true) => true,
            Change::Mtu(mtu) => *mtu == u32::from(self.kit.size.mtu()),
            // What has another name or mark is not ours to change any more.
            Change::Unmarked | Change::Name(_) => true,
            Change::Gone
            | Change::Up(false)
            | Change::Controller(_)
            | Change::AddressGone(_)
            | Change::RouteGone(_) => false,
        };
        let place = || {
            if self.overlay_on(name).is_some() {
                return Some(Place::Tunnel(name.clone()));
            }
            if self.kit.store.find::<Bridge>(name).is_some() {
                return Some(Place::Bridge(name.clone()));
            }
            let known = self.attachment_with(name)?;
            // Every attach has the bridge take the link.
            let takes = matches!(change, Change::Controller(Some(bridge))
                if self.bridge_of(&known.service).is_some_and(|planned| planned.bridge == *bridge));
            (!takes).then(|| Place::Attachment(Attachment::id_of(&known.handle)))
        };
        (!as_planned).then(place).flatten().into_iter().collect()
    }

    fn attachment_with(&self, link: &str) -> Option<Attachment> {
        self.kit
            .store
            .read(|tables| tables.all::<Attachment>().find(|one| one.links.iter().any(|l| l == link)).cloned())
    }

    /// Everything that is ours.
    fn places(&self) -> BTreeSet<Place> {
        let tunnels = self.overlays().filter_map(|overlay| Some(Place::Tunnel(overlay.live()?.interface)));
        let bridges = self.kit.store.all::<Bridge>().into_iter().map(|bridge| Place::Bridge(bridge.bridge));
        let attachments = self.kit.store.all::<Attachment>().into_iter().filter(|known| has_links(&known.handle));
        let attachments = attachments.map(|known| Place::Attachment(Attachment::id_of(&known.handle)));
        tunnels.chain(bridges).chain(attachments).collect()
    }

    fn overlay_on(&self, interface: &str) -> Option<Arc<Overlay<M, H>>> {
        let on = |overlay: &Arc<Overlay<M, H>>| overlay.live().is_some_and(|live| live.interface == interface);
        self.overlays().find(on)
    }

    /// Looks at `places`, mends what has to be, and tells. Returns those where something had to be.
    async fn look_at(&self, places: BTreeSet<Place>) -> Vec<Place> {
        let mut mended = Vec::new();
        // Tunnels first: routes to containers have their addresses as source. Then bridges, which containers hang on.
        for place in places {
            tracing::debug!(?place, "something happened to it");
            let looked = match &place {
                Place::Tunnel(name) => match self.overlay_on(name) {
                    Some(overlay) => self.look_at_tunnel(&overlay).await,
                    None => Ok(None),
                },
                Place::Bridge(name) => self.look_at_bridge(name).await,
                Place::Attachment(id) => self.look_at_attachment(id).await,
            };
            match looked {
                Ok(None) => {}
                Ok(Some((object, found))) => {
                    tracing::warn!(object, found, "others changed what is ours; it is as it was again");
                    self.kit.events.publish(Event::Drift { object, found, mended: true });
                    mended.push(place);
                }
                Err(error) => {
                    tracing::error!(%error, ?place, "others changed what is ours, and it cannot be mended yet");
                    self.mend_later();
                }
            }
        }
        mended
    }

    async fn look_at_tunnel(&self, overlay: &Overlay<M, H>) -> Result<Option<(String, String)>, NodeError> {
        let mended = overlay.mend_host().await?;
        if mended.is_some() && overlay.scope == Scope::Global {
            self.wire_to_global_again().await;
        }
        Ok(mended)
    }

    async fn look_at_bridge(&self, name: &str) -> Result<Option<(String, String)>, NodeError> {
        let on = |service: &Service| service.bridge == name;
        let Some(service) = self.kit.store.all::<Service>().into_iter().find(on) else { return Ok(None) };
        let stays = self.orders.share(&service.service).await;
        if self.kit.store.find::<Service>(&service.service).as_ref() != Some(&service) {
            return Ok(None);
        }
        let missing = |source| NodeError::Bridge { bridge: name.to_owned(), source: Box::new(source) };
        let was_there = self.kit.host.has_link(&[name.to_owned()]).await;
        let was_there = was_there.map_err(|source| missing(source.into()))?;
        let changed = self.confirm_bridge(&service).await?;
        drop(stays);
        if !was_there {
            // Its ports are on their own.
            self.wire_again(|known| self.bridge_of(&known.service).is_some_and(|bridge| bridge.bridge == name)).await;
        }
        let found = (!was_there).then_some("removed").or_else(|| changed.then_some("changed"));
        Ok(found.map(|found| (name.to_owned(), found.to_owned())))
    }

    async fn look_at_attachment(&self, id: &str) -> Result<Option<(String, String)>, NodeError> {
        let Some(known) = self.kit.store.find::<Attachment>(id) else { return Ok(None) };
        let _turn = self.workload_orders.turn(&known.handle.key()).await;
        let _stays = self.orders.share(&known.service).await;
        if self.kit.store.find::<Attachment>(id).as_ref() != Some(&known) {
            return Ok(None);
        }
        // One that has ended takes its links along, and its end is noticed elsewhere.
        let Ok(found) = Found::again(&known) else { return Ok(None) };
        let failed = |source| NodeError::Container { handle: known.handle.key(), source };
        let mut missing = Vec::new();
        for link in &known.links {
            if !self.kit.host.has_link(std::slice::from_ref(link)).await.map_err(failed)? {
                missing.push(format!("{link} was removed"));
            }
        }
        let repaired = self.confirm_links(&known, &found).await?;
        let differences: Vec<_> = missing.into_iter().chain(repaired).collect();
        Ok((!differences.is_empty()).then(|| (known.handle.key(), differences.join(", "))))
    }
}

impl<M: DeviceMaker, H: Host> Overlay<M, H> {
    /// Makes the host's side what it is to be, if it is not. Returns its interface and what was found.
    async fn mend_host(&self) -> Result<Option<(String, String)>, NodeError> {
        let _turn = self.turn().await?;
        let Some(live) = self.live() else { return Ok(None) };
        let refused = |source| NodeError::ConfigureHost { scope: self.scope.clone(), source };
        // Without an interface the device has ended, which it says itself.
        let found = self.kit.host.interface(&live.interface).await.map_err(refused)?;
        let Some(found) = found else { return Ok(None) };
        let mut differences = Vec::new();
        if !found.up {
            differences.push("it was down".to_owned());
        }
        if found.mtu != u32::from(self.kit.size.mtu()) {
            differences.push(format!("it had MTU {}", found.mtu));
        }
        let addresses = self.addresses(&live).into_iter().filter(|address| !found.addresses.contains(address));
        differences.extend(addresses.map(|address| format!("address {address} was missing")));
        {
            let mut routes = live.routes.lock().unwrap_or_else(PoisonError::into_inner);
            let missing = routes.extract_if(.., |prefix| !found.routes.contains(prefix));
            differences.extend(missing.map(|prefix| format!("the route to {prefix} was missing")));
        }
        if differences.is_empty() {
            return Ok(None);
        }
        if let Err(error) = self.configure_host(&live).await {
            live.needs_mending.store(true, Ordering::Release);
            return Err(refused(error));
        }
        Ok(Some((live.interface, differences.join(", "))))
    }
}

/// When what was mended last, and how long to wait with the next time.
#[derive(Default)]
struct Patience(BTreeMap<Place, (Instant, Duration)>);

impl Patience {
    /// When to look at `place`, of which something is heard now.
    fn due(&mut self, place: &Place, now: Instant) -> Instant {
        self.0.retain(|_, (last, _)| now.duration_since(*last) < CALM);
        now + self.0.get(place).map_or(PAUSE_FIRST, |(_, pause)| *pause)
    }

    fn mended(&mut self, place: Place, now: Instant) {
        let (last, pause) = self.0.entry(place).or_insert((now, PAUSE_FIRST));
        *last = now;
        *pause = (*pause * 2).min(PAUSE_MAX);
    }
}

async fn keep_watch<M: DeviceMaker, H: Host>(node: Weak<Node<M, H>>, mut watch: Watch) {
    let (mut patience, mut noted) = (Patience::default(), BTreeMap::new());
    loop {
        let now = Instant::now();
        let due: BTreeSet<_> = noted.extract_if(.., |_, at| *at <= now).map(|(place, _)| place).collect();
        if !due.is_empty() {
            let Some(node) = node.upgrade() else { return };
            let Ok(_gate) = node.enter().await else { return };
            for place in node.look_at(due).await {
                patience.mended(place, Instant::now());
            }
            continue;
        }
        let event = match noted.values().min() {
            Some(at) => timeout_at(*at, watch.next()).await,
            None => Ok(watch.next().await),
        };
        match event {
            Ok(Some(event)) => {
                let Some(node) = node.upgrade() else { return };
                let now = Instant::now();
                for place in node.places_of(&event) {
                    noted.entry(place).or_insert_with_key(|place| patience.due(place, now));
                }
            }
            Ok(None) => return tracing::warn!("the kernel tells no more of what others do to our links"),
            // Something is due.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_undone_again_and_again_has_to_wait() {
        let mut patience = Patience::default();
        let (fought, other) = (Place::Bridge("a".into()), Place::Tunnel("b".into()));
        let mut now = Instant::now();
        for _ in 0..20 {
            now = patience.due(&fought, now);
            patience.mended(fought.clone(), now);
        }
        assert_eq!(patience.due(&fought, now), now + PAUSE_MAX);
        assert_eq!(patience.due(&other, now), now + PAUSE_FIRST);
        assert_eq!(patience.due(&fought, now + CALM), now + CALM + PAUSE_FIRST);
    }
}
