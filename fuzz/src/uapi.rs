//! Text on the WireGuard control socket into the real plan of device updates. What is printed reads back as the same device,
//! and what the workers would be told adds up to what is printed.

use ginnel_backends::device::{DeviceError, DeviceState};
use ginnel_backends::fuzzing::DevicePlan;
use ginnel_control::uapi::Configurable;
use ginnel_control::uapi::lines::Lines;
use ginnel_control::uapi::session::{Next, Service};
use ginnel_engine::command::{DeviceUpdate, Operation};
use ginnel_engine::key::PublicKey;
use ginnel_engine::peer::PeerRef;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Runs the target.
pub fn run(bytes: &[u8]) {
    let first = Arc::new(Model::default());
    let answers = converse(&first, bytes);
    assert!(answers.is_empty() || answers.ends_with("\n\n"), "each answer ends in a blank line");
    first.check();

    let printed = converse(&first, b"get=1\n\n");
    let is_setting = |line: &&str| {
        let counters = ["last_", "tx_", "rx_", "errno="];
        !line.is_empty() && !counters.iter().any(|counter| line.starts_with(counter))
    };
    let settings: String = printed.lines().filter(is_setting).map(|line| format!("{line}\n")).collect();
    let second = Arc::new(Model::default());
    assert_eq!(converse(&second, format!("set=1\n{settings}\n").as_bytes()), "errno=0\n\n", "{settings}");
    second.check();
    assert_eq!(converse(&second, b"get=1\n\n"), printed);
}

fn converse(device: &Arc<Model>, bytes: &[u8]) -> String {
    let service = Service::new(device.clone());
    let mut lines = Lines::new(bytes);
    let mut answers = Vec::new();
    while service.answer(&mut lines, &mut answers).expect("memory does not fail") == Next::Request {}
    String::from_utf8(answers).expect("answers are text")
}

/// A device whose workers only note what they are told.
#[derive(Default)]
struct Model(Mutex<Parts>);

#[derive(Default)]
struct Parts {
    plan: DevicePlan,
    port: u16,
    has_identity: bool,
    peers: BTreeMap<PeerRef, (PublicKey, u16)>,
    routes: BTreeMap<IpNet, PeerRef>,
}

impl Configurable for Model {
    fn apply(&self, update: DeviceUpdate) -> Result<(), DeviceError> {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for operation in parts.plan.apply(&update)? {
            parts.carry_out(operation);
        }
        parts.port = update.listen_port.unwrap_or(parts.port);
        Ok(())
    }

    fn state(&self) -> DeviceState {
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        DeviceState { listen_port: parts.port, ..parts.plan.state() }
    }
}

impl Parts {
    fn carry_out(&mut self, operation: Operation) {
        match operation {
            Operation::SetIdentity(key) => self.has_identity = key.is_some(),
            Operation::AddPeer { peer, key, stats: _ } => {
                assert!(self.peers.insert(peer, (key, 0)).is_none(), "a number in use is not given out");
            }
            Operation::RemovePeer(peer, key) => {
                assert_eq!(self.peers.remove(&peer).map(|peer| peer.0), Some(key));
                assert!(!self.routes.values().any(|holder| *holder == peer), "a peer that goes has no routes left");
            }
            Operation::SetKeepalive(peer, secs) => self.peers.get_mut(&peer).expect("the peer exists").1 = secs,
            Operation::SetEndpoint(peer, _) | Operation::SetPresharedKey(peer, _) => {
                assert!(self.peers.contains_key(&peer));
            }
            Operation::Route(prefix, peer) => {
                assert!(self.peers.contains_key(&peer));
                self.routes.insert(prefix, peer);
            }
            Operation::Unroute(prefix) => {
                self.routes.remove(&prefix);
            }
        }
    }
}

impl Model {
    /// What was told adds up to what is said.
    fn check(&self) {
        let state = self.state();
        let parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(parts.has_identity, state.private_key.is_some());
        let said =
            |key: PublicKey| state.peers.iter().find(|peer| peer.public_key == key).expect("a peer that was added");
        assert_eq!(parts.peers.len(), state.peers.len());
        for (id, (key, keepalive)) in &parts.peers {
            let said = said(*key);
            assert_eq!(said.persistent_keepalive_secs, *keepalive);
            let routed = parts.routes.iter().filter(|(_, holder)| *holder == id).map(|(prefix, _)| *prefix);
            assert_eq!(routed.collect::<BTreeSet<_>>(), said.allowed_ips.iter().copied().collect::<BTreeSet<_>>());
        }
    }
}
