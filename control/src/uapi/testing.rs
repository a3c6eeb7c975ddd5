//! What the tests of the control socket share: a device without a kernel, and a corner of the machine in which `wg` can
//! look for sockets without finding, or leaving, anything in the real `/var/run`.

use super::Configurable;
use crate::lab::user_ns;
use ginnel_backends::device::{DeviceError, DeviceState, PeerState};
use ginnel_engine::command::{AllowedIpUpdate, DeviceUpdate, PrivateKeyUpdate};
use ginnel_engine::key::PublicKey;
use ipnet::IpNet;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The obvious model of a device: it keeps what it is told.
pub(crate) struct FakeDevice {
    model: Mutex<Model>,
    failure: Mutex<Option<DeviceError>>,
    updates: AtomicUsize,
}

/// The state, with an index of peers and of prefix owners so that large updates stay linear.
struct Model {
    state: DeviceState,
    peers: HashMap<PublicKey, usize>,
    owners: HashMap<IpNet, PublicKey>,
}

impl FakeDevice {
    pub(crate) fn new(name: &str) -> Self {
        let model = Model { state: empty_state(name), peers: HashMap::new(), owners: HashMap::new() };
        Self { model: Mutex::new(model), failure: Mutex::new(None), updates: AtomicUsize::new(0) }
    }

    /// Makes the next update fail.
    pub(crate) fn fail_next(&self, error: DeviceError) {
        *self.failure.lock().unwrap() = Some(error);
    }

    /// Updates applied so far.
    pub(crate) fn updates(&self) -> usize {
        self.updates.load(Ordering::SeqCst)
    }

    /// Changes what only traffic changes.
    pub(crate) fn edit(&self, edit: impl FnOnce(&mut DeviceState)) {
        edit(&mut self.model.lock().unwrap().state);
    }
}

impl Configurable for FakeDevice {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        if let Some(error) = self.failure.lock().unwrap().take() {
            return Err(error);
        }
        self.model.lock().unwrap().apply(update);
        self.updates.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn state(&self) -> DeviceState {
        self.model.lock().unwrap().state.clone()
    }
}

impl Model {
    fn apply(&mut self, update: DeviceUpdate) {
        match update.private_key {
            Some(PrivateKeyUpdate::Set(key)) => self.state.private_key = Some(key),
            Some(PrivateKeyUpdate::Clear) => self.state.private_key = None,
            None => {}
        }
        self.state.listen_port = update.listen_port.unwrap_or(self.state.listen_port);
        self.state.fwmark = update.fwmark.unwrap_or(self.state.fwmark);
        if update.replace_peers {
            self.state.peers.clear();
            self.peers.clear();
            self.owners.clear();
        }
        for change in update.peers {
            let known = self.peers.get(&change.public_key).copied();
            if change.remove {
                if let Some(at) = known {
                    self.forget_allowed_ips(at);
                    self.state.peers.remove(at);
                    self.peers = self.state.peers.iter().enumerate().map(|(at, peer)| (peer.public_key, at)).collect();
                }
                continue;
            }
            if change.update_only && known.is_none() {
                continue;
            }
            let at = known.unwrap_or_else(|| {
                self.state.peers.push(peer_state(change.public_key.0));
                self.peers.insert(change.public_key, self.state.peers.len() - 1);
                self.state.peers.len() - 1
            });
            let peer = &mut self.state.peers[at];
            peer.preshared_key = change.preshared_key.unwrap_or(peer.preshared_key.take());
            peer.endpoint = change.endpoint.or(peer.endpoint);
            peer.persistent_keepalive_secs = change.persistent_keepalive_secs.unwrap_or(peer.persistent_keepalive_secs);
            if change.replace_allowed_ips {
                self.forget_allowed_ips(at);
            }
            change.allowed_ips.into_iter().for_each(|allowed_ip| self.apply_allowed_ip(change.public_key, allowed_ip));
        }
    }

    fn forget_allowed_ips(&mut self, at: usize) {
        for prefix in self.state.peers[at].allowed_ips.drain(..) {
            self.owners.remove(&prefix);
        }
    }

    fn apply_allowed_ip(&mut self, key: PublicKey, AllowedIpUpdate { prefix, remove }: AllowedIpUpdate) {
        let owner = self.owners.get(&prefix).copied();
        if let Some(owner) = owner.filter(|&owner| owner == key || !remove) {
            self.state.peers[self.peers[&owner]].allowed_ips.retain(|held| *held != prefix);
            self.owners.remove(&prefix);
        }
        if !remove {
            self.state.peers[self.peers[&key]].allowed_ips.push(prefix);
            self.owners.insert(prefix, key);
        }
    }
}

pub(crate) fn empty_state(name: &str) -> DeviceState {
    DeviceState {
        name: name.to_owned(),
        mtu: 1420,
        private_key: None,
        listen_port: 0,
        fwmark: 0,
        peers: Vec::new(),
        offloads: Vec::new(),
        drops: Vec::new(),
        totals: Vec::new(),
        workers: 1,
        cipher: "none",
    }
}

pub(crate) fn peer_state(key: [u8; 32]) -> PeerState {
    PeerState {
        public_key: PublicKey(key),
        preshared_key: None,
        endpoint: None,
        persistent_keepalive_secs: 0,
        allowed_ips: Vec::new(),
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_packets: 0,
        tx_packets: 0,
    }
}

/// 32 equal bytes, in hexadecimal.
pub(crate) fn hex_key(byte: u8) -> String {
    PublicKey([byte; 32]).to_hex()
}

/// Runs `test` on a thread with a `/var/run` and a network of its own, which the threads and programs it starts inherit.
/// Prints why where that cannot be done, or where `wg` is missing.
pub(crate) fn in_private_run(test: impl FnOnce() + Send + 'static) {
    if !Path::new("/usr/bin/wg").exists() {
        return println!("skipped: /usr/bin/wg is not installed");
    }
    match std::thread::spawn(|| user_ns::enter().map(|_| test())).join() {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => println!("skipped: {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
