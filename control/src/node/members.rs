//! Who is in the global overlay: peers and their prefixes, in the device and in the book.
//!
//! Every change goes to the device first and is noted only if that took it, so a refused change is nowhere.

use super::device::DeviceMaker;
use super::endpoint;
use super::error::NodeError;
use super::host::Host;
use super::overlay::{GlobalOverlay, Live};
use super::peers::{Peer, prefix, public_key};
use crate::ipc::wire::PeerSpec;
use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PeerUpdate};
use ginnel_engine::key::PublicKey;
use std::time::{Duration, SystemTime};

/// A session older than this is no longer used (WireGuard paper, section 6.1: `REJECT_AFTER_TIME`).
const SESSION_AGE_MAX: Duration = Duration::from_secs(180);

impl<M: DeviceMaker, H: Host> GlobalOverlay<M, H> {
    /// Adds a peer, or makes a known one what `spec` says without disturbing its session.
    ///
    /// # Errors
    /// [`NodeError`]; the peer is as before then.
    pub async fn add_peer(&self, spec: &PeerSpec) -> Result<(), NodeError> {
        const OP: &str = "add_peer";
        let endpoint = endpoint::resolve(&spec.endpoint).await?;
        let key = public_key(&spec.public_key).map_err(failed(OP))?;
        let mut peer = Peer::new(spec, endpoint).map_err(failed(OP))?;
        let mut turn = self.turn().await?;
        let (known, has_room) = {
            let book = self.peers();
            (book.peer(&key).cloned(), book.has_room())
        };
        if known.is_none() && !has_room {
            return Err(failed(OP)("the overlay has as many peers as a device holds".into()));
        }
        let (known_endpoint, preshared_key) =
            known.map(|known| (known.endpoint, known.preshared_key)).unwrap_or_default();
        peer.endpoint = peer.endpoint.or(known_endpoint);
        peer.preshared_key = preshared_key;
        if let Some(live) = self.view().live {
            if live.public_key == key {
                return Err(failed(OP)("that is the key of this node itself".into()));
            }
            let mut update = peer.update(key);
            // A peer that roamed is heard at its present address; the configured one, told again, would cut it off until
            // it speaks.
            if peer.endpoint == known_endpoint && has_session(&live, key).await {
                update.endpoint = None;
            }
            self.apply(OP, &live, update).await?;
        }
        if let Some(lost) = &mut turn.lost
            && peer.endpoint != known_endpoint
        {
            lost.forget_place(&key);
        }
        self.peers().put(key, peer);
        Ok(())
    }

    /// Removes a peer; one that is not there is removed already.
    ///
    /// # Errors
    /// [`NodeError`]; the peer is as before then.
    pub async fn remove_peer(&self, key: &str) -> Result<(), NodeError> {
        const OP: &str = "remove_peer";
        let key = public_key(key).map_err(failed(OP))?;
        let _turn = self.turn().await?;
        if let Some(live) = self.view().live {
            self.apply(OP, &live, PeerUpdate { remove: true, ..PeerUpdate::new(key) }).await?;
        }
        self.peers().remove(&key);
        Ok(())
    }

    /// Removes the peers that `keeps` says no to, which it is asked when no other change is in progress. Returns them.
    ///
    /// # Errors
    /// [`NodeError`]; all peers are as before then.
    pub(super) async fn retain_peers(&self, keeps: impl Fn(&PublicKey) -> bool) -> Result<Vec<PublicKey>, NodeError> {
        const OP: &str = "remove_peer";
        let _turn = self.turn().await?;
        let gone: Vec<_> = self.peers().iter().map(|(key, _)| *key).filter(|key| !keeps(key)).collect();
        if let Some(live) = self.view().live
            && !gone.is_empty()
        {
            let peers = gone.iter().map(|key| PeerUpdate { remove: true, ..PeerUpdate::new(*key) }).collect();
            let update = DeviceUpdate { peers, ..DeviceUpdate::default() };
            live.device.apply(update).await.map_err(|error| failed(OP)(error.to_string()))?;
        }
        let mut peers = self.peers();
        gone.iter().for_each(|key| peers.remove(key));
        drop(peers);
        Ok(gone)
    }

    /// Routes a prefix to a known peer.
    ///
    /// # Errors
    /// [`NodeError`]; nothing has changed then.
    pub async fn add_allowed_ip(&self, key: &str, cidr: &str) -> Result<(), NodeError> {
        const OP: &str = "add_allowed_ip";
        let prefix = self.change_allowed_ip(OP, key, cidr, false).await?;
        prefix.map_or_else(|| Err(failed(OP)(format!("cannot add allowed_ip {cidr} to unknown peer {key}"))), Ok)
    }

    /// Stops routing a prefix to a peer; what it does not hold is taken already.
    ///
    /// # Errors
    /// [`NodeError`]; nothing has changed then.
    pub async fn remove_allowed_ip(&self, key: &str, cidr: &str) -> Result<(), NodeError> {
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
        if self.peers().peer(&key).is_none() {
            return Ok(None);
        }
        if let Some(live) = self.view().live {
            let allowed_ips = vec![AllowedIpUpdate { prefix, remove }];
            self.apply(op, &live, PeerUpdate { update_only: true, allowed_ips, ..PeerUpdate::new(key) }).await?;
        }
        match remove {
            true => self.peers().take(&key, prefix),
            false => self.peers().give(key, prefix),
        }
        Ok(Some(()))
    }

    async fn apply(&self, op: &'static str, live: &Live, update: PeerUpdate) -> Result<(), NodeError> {
        let update = DeviceUpdate { peers: vec![update], ..DeviceUpdate::default() };
        live.device.apply(update).await.map_err(|error| failed(op)(error.to_string()))
    }
}

async fn has_session(live: &Live, key: PublicKey) -> bool {
    let state = live.device.state().await;
    let peer = state.as_ref().and_then(|state| state.peers.iter().find(|peer| peer.public_key == key));
    let age = peer.and_then(|peer| SystemTime::now().duration_since(peer.last_handshake?).ok());
    age.is_some_and(|age| age < SESSION_AGE_MAX)
}

fn failed(op: &'static str) -> impl Fn(String) -> NodeError {
    move |reason| NodeError::Peer { op, reason }
}
