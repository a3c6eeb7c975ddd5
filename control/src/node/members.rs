//! Who is in an overlay: peers and their prefixes, on disk, in the device and in the book.
//!
//! A change is stored first, then goes to the routes and the device, and is noted last. Where the kernel refuses it, it is
//! taken back from the disk, so a refused change is nowhere.

use super::device::DeviceMaker;
use super::endpoint;
use super::error::NodeError;
use super::host::Host;
use super::overlay::{Live, Overlay};
use super::peers::{Changes, Peer, prefix, public_key, transaction};
use super::routes;
use crate::ipc::wire::PeerSpec;
use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use ginnel_engine::key::PublicKey;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

/// A session older than this is no longer used (WireGuard paper, section 6.1: `REJECT_AFTER_TIME`).
pub(super) const SESSION_AGE_MAX: Duration = Duration::from_secs(180);

impl<M: DeviceMaker, H: Host> Overlay<M, H> {
    /// Adds a peer, or makes a known one what `spec` says without disturbing its session. Returns where it is called.
    ///
    /// # Errors
    /// [`NodeError`]; the peer is as before then.
    pub(super) async fn add_peer(&self, spec: &PeerSpec) -> Result<Option<SocketAddr>, NodeError> {
        Ok(self.put_peers("add_peer", std::slice::from_ref(spec)).await?.pop())
    }

    /// The same for many, as one change: one write and one update of the device. A key or prefix that two have is the
    /// later one's.
    ///
    /// # Errors
    /// [`NodeError`]; all peers are as before then.
    pub(super) async fn add_peers(&self, specs: &[PeerSpec]) -> Result<Vec<SocketAddr>, NodeError> {
        self.put_peers("add_peers", specs).await
    }

    async fn put_peers(&self, op: &'static str, specs: &[PeerSpec]) -> Result<Vec<SocketAddr>, NodeError> {
        let mut asked = Vec::with_capacity(specs.len());
        for spec in specs {
            let endpoint = endpoint::resolve(&spec.endpoint).await?;
            let key = public_key(&spec.public_key).map_err(failed(op))?;
            asked.push((key, Peer::new(spec, endpoint).map_err(failed(op))?));
        }
        let mut turn = self.turn().await?;
        let live = self.live();
        if live.as_ref().is_some_and(|live| asked.iter().any(|(key, _)| live.public_key == *key)) {
            return Err(failed(op)("that is the key of this node itself".into()));
        }
        let (mut updates, mut moved, mut repeated) = (Vec::new(), Vec::new(), BTreeSet::new());
        let (changes, places) = {
            let book = self.peers();
            let new: BTreeSet<_> = asked.iter().map(|(key, _)| key).filter(|key| book.peer(key).is_none()).collect();
            if !book.has_room_for(new.len()) {
                return Err(failed(op)("the overlay has as many peers as a device holds".into()));
            }
            for (key, peer) in &mut asked {
                let known = book.peer(key).cloned().unwrap_or_default();
                if peer.endpoint.is_none() {
                    (peer.asked_endpoint, peer.endpoint) = (known.asked_endpoint, known.endpoint);
                }
                peer.preshared_key = known.preshared_key;
                updates.push(peer.update(*key));
                match peer.endpoint == known.endpoint {
                    true => drop(repeated.insert(*key)),
                    false => moved.push(*key),
                }
            }
            let places = asked.iter().filter_map(|(_, peer)| peer.endpoint).collect();
            (book.putting_all(asked), places)
        };
        if let Some(live) = live.as_ref().filter(|_| !repeated.is_empty()) {
            // A peer that roamed is heard at its present address; the configured one, told again, would cut it off until
            // it speaks.
            let kept: BTreeSet<_> = sessions(live).await.intersection(&repeated).copied().collect();
            updates
                .iter_mut()
                .filter(|update| kept.contains(&update.public_key))
                .for_each(|update| update.endpoint = None);
        }
        self.change_peers(op, live.as_ref(), changes, updates).await?;
        for key in moved {
            self.care.forget(&key);
            if let Some(lost) = &mut turn.lost {
                lost.forget_place(&key);
            }
        }
        Ok(places)
    }

    /// Removes a peer; one that is not there is removed already.
    ///
    /// # Errors
    /// [`NodeError`]; the peer is as before then.
    pub(super) async fn remove_peer(&self, key: &str) -> Result<(), NodeError> {
        const OP: &str = "remove_peer";
        let key = public_key(key).map_err(failed(OP))?;
        let _turn = self.turn().await?;
        let changes = self.peers().removing(&key);
        let update = PeerUpdate { remove: true, ..PeerUpdate::new(key) };
        self.change_peers(OP, self.live().as_ref(), changes, vec![update]).await?;
        self.care.forget(&key);
        Ok(())
    }

    /// Removes a peer whose owner is gone already, from disk and book in any case. Where the device does not let go of it,
    /// [`Overlay::dismiss_again`] tries it again.
    ///
    /// # Errors
    /// [`NodeError`] where the disk refuses; the peer is as before then.
    pub(super) async fn dismiss_peer(&self, key: PublicKey) -> Result<(), NodeError> {
        let _turn = self.turn().await?;
        let changes = self.peers().removing(&key);
        self.kit.commit(transaction(&self.scope, &changes)).await?;
        self.peers().make(changes);
        self.care.forget(&key);
        self.dismissed().insert(key);
        self.send_dismissed().await;
        Ok(())
    }

    /// Has the device let go of the peers that it has not yet, and mends the host's side if that is needed.
    pub(super) async fn dismiss_again(&self) {
        let needs_mending = self.live().is_some_and(|live| live.needs_mending.load(Ordering::Acquire));
        if self.dismissed().is_empty() && !needs_mending {
            return;
        }
        let Ok(_turn) = self.turn().await else { return };
        self.send_dismissed().await;
        if let Some(live) = self.live().filter(|live| live.needs_mending.swap(false, Ordering::AcqRel))
            && let Err(error) = self.configure_host(&live).await
        {
            tracing::warn!(%error, scope = %self.scope, "an overlay cannot be mended yet");
            live.needs_mending.store(true, Ordering::Release);
        }
    }

    async fn send_dismissed(&self) {
        let gone: Vec<_> = {
            let book = self.peers();
            // Who was added again is no concern of ours.
            self.dismissed().retain(|key| book.peer(key).is_none());
            self.dismissed().iter().copied().collect()
        };
        let updates = gone.iter().map(|key| PeerUpdate { remove: true, ..PeerUpdate::new(*key) }).collect();
        if let Some(live) = self.live()
            && let Err(error) = self.apply(&live, &Changes::new(), updates).await
        {
            return tracing::warn!(error, scope = %self.scope, "a device keeps a peer whose owner is gone; it is tried again");
        }
        self.dismissed().retain(|key| !gone.contains(key));
    }

    /// Removes the peers that `keeps` says no to, which it is asked when no other change is in progress. Returns them.
    ///
    /// # Errors
    /// [`NodeError`]; all peers are as before then.
    pub(super) async fn retain_peers(&self, keeps: impl Fn(&PublicKey) -> bool) -> Result<Vec<PublicKey>, NodeError> {
        const OP: &str = "remove_peer";
        let _turn = self.turn().await?;
        let (gone, changes) = {
            let book = self.peers();
            let gone: Vec<_> = book.iter().map(|(key, _)| *key).filter(|key| !keeps(key)).collect();
            let changes: Changes = gone.iter().flat_map(|key| book.removing(key)).collect();
            (gone, changes)
        };
        if !gone.is_empty() {
            let updates = gone.iter().map(|key| PeerUpdate { remove: true, ..PeerUpdate::new(*key) }).collect();
            self.change_peers(OP, self.live().as_ref(), changes, updates).await?;
            gone.iter().for_each(|key| self.care.forget(key));
        }
        Ok(gone)
    }

    /// Routes a prefix to a known peer.
    ///
    /// # Errors
    /// [`NodeError`]; nothing has changed then.
    pub(super) async fn add_allowed_ip(&self, key: &str, cidr: &str) -> Result<(), NodeError> {
        const OP: &str = "add_allowed_ip";
        let prefix = self.change_allowed_ip(OP, key, cidr, false).await?;
        prefix.map_or_else(|| Err(failed(OP)(format!("cannot add allowed_ip {cidr} to unknown peer {key}"))), Ok)
    }

    /// Stops routing a prefix to a peer; what it does not hold is taken already.
    ///
    /// # Errors
    /// [`NodeError`]; nothing has changed then.
    pub(super) async fn remove_allowed_ip(&self, key: &str, cidr: &str) -> Result<(), NodeError> {
        self.change_allowed_ip("remove_allowed_ip", key, cidr, true).await.map(|_| ())
    }

    /// `None` where the peer is not known.
    async fn change_allowed_ip(
        &self,
        op: &'static str,
        key: &str,
        cidr: &str,
        remove: bool,
    ) -> Result<Option<()>, NodeError> {
        let bad_cidr = |error: ipnet::AddrParseError| NodeError::Cidr { cidr: cidr.into(), reason: error.to_string() };
        let prefix = prefix(cidr).map_err(bad_cidr)?;
        let key = public_key(key).map_err(failed(op))?;
        let _turn = self.turn().await?;
        let changes = {
            let book = self.peers();
            match book.peer(&key) {
                None => return Ok(None),
                Some(_) if remove => book.taking(&key, prefix),
                Some(_) => book.giving(key, prefix),
            }
        };
        let allowed_ips = vec![AllowedIpUpdate { prefix, remove }];
        let update = PeerUpdate { update_only: true, allowed_ips, ..PeerUpdate::new(key) };
        self.change_peers(op, self.live().as_ref(), changes, vec![update]).await?;
        Ok(Some(()))
    }

    /// Makes `changes` hold everywhere; `updates` are the same for the device. To be called by whoever has the turn.
    async fn change_peers(
        &self,
        op: &'static str,
        live: Option<&Live>,
        changes: Changes,
        updates: Vec<PeerUpdate>,
    ) -> Result<(), NodeError> {
        let former = self.peers().undoing(&changes);
        // To ask for what is there already costs no write.
        let changed = former != changes;
        if changed {
            self.kit.commit(transaction(&self.scope, &changes)).await?;
        }
        if let Some(live) = live
            && let Err(reason) = self.apply(live, &changes, updates).await
        {
            if changed {
                self.kit.take_back(transaction(&self.scope, &former)).await;
            }
            return Err(failed(op)(reason));
        }
        self.peers().make(changes);
        Ok(())
    }

    async fn apply(&self, live: &Live, changes: &Changes, peers: Vec<PeerUpdate>) -> Result<(), String> {
        let (host, plan) = (&self.kit.host, &live.plan);
        let wanted = routes::wanted(plan, &self.peers(), changes);
        routes::bring_about(host, live, &wanted).await.map_err(|error| error.to_string())?;
        let applied = live.device.apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).await;
        if let Err(error) = applied {
            let former = routes::wanted(plan, &self.peers(), &Vec::new());
            if let Err(error) = routes::bring_about(host, live, &former).await {
                tracing::error!(%error, "the former routes could not be given back");
            }
            return Err(error.to_string());
        }
        Ok(())
    }
}

/// Peers that have a session.
async fn sessions(live: &Live) -> BTreeSet<PublicKey> {
    let peers = live.device.state().await.map(|state| state.peers).unwrap_or_default();
    let is_fresh = |at: SystemTime| SystemTime::now().duration_since(at).is_ok_and(|age| age < SESSION_AGE_MAX);
    let fresh = peers.into_iter().filter(|peer| peer.last_handshake.is_some_and(is_fresh));
    fresh.map(|peer| peer.public_key).collect()
}

fn failed(op: &'static str) -> impl Fn(String) -> NodeError {
    move |reason| NodeError::Peer { op, reason }
}
