//! What the daemon is to remember: what each operation does, and the states an interrupted one may leave.
//!
//! Addresses of workloads are not in it: which they get is theirs to show. What the disk says of those is checked by itself.

#![allow(dead_code, reason = "not every test needs all of it")]

pub mod operation;

use operation::peer_name;
pub use operation::{Choices, Operation, Workload};

use ginnel_control::ipc::wire::OverlayMode;
use ginnel_control::state::{
    Attachment, Bridge, GlobalOverlay, Identity, Lease, Name, Network, Peer, Scope, Service, Tables,
};
use ginnel_engine::key::{PrivateKey, PublicKey};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The domain that workloads have names in.
const DOMAIN: &str = ".lab";

/// The states the daemon may be in: one, unless something was interrupted.
#[derive(Clone, Debug)]
pub struct World(Vec<State>);

/// What is to be on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Slice, port, and whether it is up.
    pub global: Option<(IpNet, u16, bool)>,
    pub services: BTreeMap<String, OverlayMode>,
    /// Services that were dedicated since they were torn down last.
    identities: BTreeSet<String>,
    pub peers: BTreeMap<(Scope, PublicKey), BTreeSet<IpNet>>,
    /// Addresses given on request.
    pub held: BTreeMap<IpAddr, String>,
    pub names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Of isolation networks, those on other nodes.
    pub members: BTreeMap<String, BTreeSet<IpAddr>>,
    pub attached: BTreeMap<String, Attached>,
    /// An address was asked for, and whether it was given is not known.
    asked: Option<String>,
}

/// A workload that is attached.
#[derive(Clone, Debug, PartialEq)]
pub struct Attached {
    service: String,
    ephemeral: bool,
    port: Option<u16>,
    /// Of a guest: the overlay it is a peer in.
    home: Option<Scope>,
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

impl Default for World {
    fn default() -> Self {
        Self(vec![State::default()])
    }
}

impl World {
    /// The one state it is in.
    pub fn state(&self) -> &State {
        let [state] = &self.0[..] else { panic!("it was not looked at") };
        state
    }

    /// What the disk says, whatever it was to be.
    pub fn adopt(tables: &Tables) -> Self {
        Self(vec![State::of(tables)])
    }

    /// After the end of a container that somebody or nobody has noticed.
    pub fn ended(&self, key: &str) -> Self {
        let states = self.0.iter().map(|state| state.detached(key).pop().unwrap_or_else(|| state.clone()));
        Self(states.collect())
    }

    /// After `operation` was answered.
    pub fn answered(&self, operation: &Operation, answer: &str) -> Self {
        let state = self.state();
        let answer: Value = serde_json::from_str(answer).unwrap();
        let expected = state.after(operation);
        let refused = answer["result"] == "err";
        assert_eq!(refused, expected.is_none(), "{operation:?}: {answer} in {state:?}");
        let mut next = expected.map_or_else(|| state.clone(), |mut states| states.pop().unwrap());
        if let Some(owner) = next.asked.take() {
            let ip: IpAddr = answer["ip"].as_str().unwrap().parse().unwrap();
            let before = next.held.insert(ip, owner);
            assert_eq!(before, None, "{ip} was given twice");
        }
        Self(vec![next])
    }

    /// After `operation` was interrupted, or failed for a reason of the machine's.
    pub fn interrupted(&self, operation: &Operation) -> Self {
        let state = self.state();
        let mut states = vec![state.clone()];
        states.extend(state.after(operation).into_iter().flatten());
        Self(states)
    }

    /// What was found on disk, which must be one of the states there may be.
    pub fn found(&self, tables: &Tables) -> Self {
        let found = State::of(tables);
        assert!(self.allows(tables), "found {found:?}\nwhich is none of {:?}", self.0);
        Self(vec![found])
    }

    /// Whether it may be in this state.
    pub fn allows(&self, tables: &Tables) -> bool {
        let found = State::of(tables);
        self.0.iter().any(|state| match &state.asked {
            None => *state == found,
            Some(owner) => {
                let new: Vec<_> = found.held.iter().filter(|(ip, _)| !state.held.contains_key(*ip)).collect();
                matches!(&new[..], [(ip, holder)] if *holder == owner && {
                    let mut held = state.held.clone();
                    held.insert(**ip, owner.clone());
                    State { held, asked: None, ..state.clone() } == found
                })
            }
        })
    }
}

impl State {
    fn of(tables: &Tables) -> Self {
        let global = tables.find::<GlobalOverlay>("");
        let guests: BTreeSet<_> = tables.all::<Attachment>().filter_map(guest_key).collect();
        Self {
            global: global.map(|global| (global.slice.unwrap(), global.port, global.up)),
            services: tables.all::<Service>().map(|service| (service.service.clone(), service.mode)).collect(),
            identities: tables.all::<Identity>().map(|identity| identity.service.clone()).collect(),
            peers: tables
                .all::<Peer>()
                .filter(|peer| !guests.contains(&peer.public_key))
                .map(|peer| ((peer.scope.clone(), peer.public_key), peer.allowed_ips.iter().copied().collect()))
                .collect(),
            held: tables
                .all::<Lease>()
                .filter(|lease| lease.released_ms.is_none() && lease.owner.starts_with("allocate_ip "))
                .map(|lease| (lease.ip, lease.owner.clone()))
                .collect(),
            names: tables
                .all::<Name>()
                .filter(|name| !name.name.ends_with(DOMAIN))
                .map(|name| (name.name.clone(), name.addresses.iter().copied().collect()))
                .collect(),
            members: tables.all::<Network>().map(|known| (known.network.clone(), known.members.clone())).collect(),
            attached: tables
                .all::<Attachment>()
                .map(|one| {
                    let port = one.publish.first().map(|port| port.host_port);
                    let home = guest_key(one).and_then(|key| {
                        let peer = tables.all::<Peer>().find(|peer| peer.public_key == key);
                        peer.map(|peer| peer.scope.clone())
                    });
                    (one.handle.key(), Attached { service: one.service.clone(), ephemeral: one.ephemeral, port, home })
                })
                .collect(),
            asked: None,
        }
    }

    /// The states that `operation` goes through, its last the one it ends in; `None` where it is refused.
    fn after(&self, operation: &Operation) -> Option<Vec<Self>> {
        let mut next = self.clone();
        match operation {
            Operation::SetUpGlobal { slice, port } => next.global = Some((*slice, *port, true)),
            Operation::TearDownGlobal => {
                let mut states = Vec::new();
                next.global = next.global.map(|(slice, port, _)| (slice, port, false));
                states.push(next.clone());
                for service in self.services.keys() {
                    states.extend(next.emptied(service));
                    next = states.last().cloned().unwrap_or(next);
                    next.take_down(service);
                    states.push(next.clone());
                }
                return Some(states);
            }
            Operation::SetUpService { service, mode } => {
                let mut states = Vec::new();
                if self.services.get(*service).is_some_and(|known| known != mode) {
                    if self.has_workloads(service) {
                        return None;
                    }
                    next.take_down(service);
                    states.push(next.clone());
                }
                next.services.insert((*service).to_owned(), *mode);
                if *mode == OverlayMode::Dedicated {
                    next.identities.insert((*service).to_owned());
                }
                states.push(next);
                return Some(states);
            }
            Operation::TearDownService { service } => return Some(self.torn_down(service)),
            Operation::Allocate { service, owner } => {
                let holder =
                    format!("allocate_ip {service}{}", owner.map_or(String::new(), |owner| format!("\n{owner}")));
                if owner.is_none() || !self.held.values().any(|held| *held == holder) {
                    next.asked = Some(holder);
                }
            }
            Operation::Release { ip, .. } => drop(next.held.remove(ip)),
            Operation::AddPeer { scope, key, prefixes } => {
                self.overlay(scope)?;
                for prefix in prefixes {
                    next.lose(scope, prefix);
                }
                next.peers.insert((scope.clone(), *key), prefixes.iter().copied().collect());
            }
            Operation::RemovePeer { scope, key } => {
                self.overlay(scope)?;
                next.peers.remove(&(scope.clone(), *key));
            }
            Operation::ChangePrefix { scope, key, prefix, remove } => {
                self.overlay(scope)?;
                let peer = (scope.clone(), *key);
                match (next.peers.contains_key(&peer), remove) {
                    (true, true) => drop(next.peers.get_mut(&peer).map(|held| held.remove(prefix))),
                    (true, false) => {
                        next.lose(scope, prefix);
                        next.peers.get_mut(&peer).map(|held| held.insert(*prefix));
                    }
                    (false, true) => {}
                    (false, false) => return None,
                }
            }
            Operation::Register { name, ip } => {
                next.names.entry((*name).to_owned()).or_default().insert(*ip);
            }
            Operation::Unregister { name } => drop(next.names.remove(*name)),
            Operation::SetMembers { network, members } => {
                next.members.remove(*network);
                let members: BTreeSet<_> = members.iter().copied().collect();
                if next.members.values().any(|other| !other.is_disjoint(&members)) {
                    return None;
                }
                if !members.is_empty() {
                    next.members.insert((*network).to_owned(), members);
                }
            }
            Operation::Attach { workload, service } => {
                let global_is_up = self.global.is_some_and(|(.., up)| up);
                let mode = self.services.get(*service);
                let known = self.attached.get(&workload.key());
                let may_be = match workload.handle {
                    _ if workload.is_linked() => mode.is_some(),
                    // One that is a peer somewhere stays there.
                    _ if known.is_some() && workload.is_guest() => return self.guest_again(workload, service),
                    _ if workload.is_guest() => global_is_up || mode == Some(&OverlayMode::Dedicated),
                    _ => global_is_up,
                };
                let taken = |other: (&String, &Attached)| workload.port.is_some() && other.1.port == workload.port;
                if !may_be || known.is_some_and(|known| known.service != **service) {
                    return None;
                }
                if known.is_none() {
                    if self.attached.iter().any(taken) {
                        return None;
                    }
                    let home = match mode {
                        Some(OverlayMode::Dedicated) => Scope::Service((*service).to_owned()),
                        _ => Scope::Global,
                    };
                    let home = workload.is_guest().then_some(home);
                    let (service, ephemeral, port) = ((*service).to_owned(), workload.ephemeral, workload.port);
                    next.attached.insert(workload.key(), Attached { service, ephemeral, port, home });
                }
            }
            Operation::Detach { workload } => return Some(self.detached_or_same(&workload.key())),
            Operation::Prune { live } => {
                let mut states = vec![next.clone()];
                for (service, mode) in &self.services {
                    let apart = matches!(mode, OverlayMode::Shared | OverlayMode::Dedicated);
                    let listed = live.contains(&format!("zl-prod-0-{service}-b"));
                    if !apart && !listed && !self.has_workloads(service) {
                        states.extend(next.torn_down(service));
                        next = states.last().cloned().unwrap_or(next);
                    }
                }
                return Some(states);
            }
            Operation::Collect { keep } => return Some(self.collected(keep)),
            Operation::Shutdown => {
                let down = self.global.map(|(slice, port, _)| (slice, port, false));
                let gone = Self { identities: next.identities, ..Self::default() };
                return Some(vec![Self { global: down, ..gone.clone() }, gone]);
            }
        }
        Some(vec![next])
    }

    fn has_workloads(&self, service: &str) -> bool {
        self.attached.values().any(|one| one.service == service)
    }

    /// A guest that is attached is told again, if its overlay is up.
    fn guest_again(&self, workload: &Workload, service: &str) -> Option<Vec<Self>> {
        let known = self.attached.get(&workload.key())?;
        let global_is_up = self.global.is_some_and(|(.., up)| up);
        let dedicated = matches!(known.home, Some(Scope::Service(_)));
        (known.service == service && (dedicated || global_is_up)).then(|| vec![self.clone()])
    }

    /// The states while every workload of a service goes.
    fn emptied(&self, service: &str) -> Vec<Self> {
        let mut next = self.clone();
        let keys: Vec<_> = self.attached.iter().filter(|(_, one)| one.service == service).map(|(key, _)| key).collect();
        keys.into_iter()
            .map(|key| {
                next.attached.remove(key);
                next.clone()
            })
            .collect()
    }

    /// The states while a service goes for good.
    fn torn_down(&self, service: &str) -> Vec<Self> {
        let mut states = if self.services.contains_key(service) { self.emptied(service) } else { Vec::new() };
        let mut next = states.last().unwrap_or(self).clone();
        next.take_down(service);
        if next.identities.remove(service) {
            next.peers.retain(|(scope, _), _| *scope != Scope::Service(service.to_owned()));
        }
        states.push(next);
        states
    }

    /// The states while a workload goes; none where it is not there.
    fn detached(&self, key: &str) -> Vec<Self> {
        let mut next = self.clone();
        let Some(one) = next.attached.remove(key) else { return Vec::new() };
        let mut states = vec![next.clone()];
        if one.ephemeral && !next.has_workloads(&one.service) {
            states.extend(next.torn_down(&one.service));
        }
        states
    }

    fn detached_or_same(&self, key: &str) -> Vec<Self> {
        let states = self.detached(key);
        if states.is_empty() { vec![self.clone()] } else { states }
    }

    /// The states while everything that is covered and not kept goes, kind by kind.
    fn collected(&self, keep: &[(&'static str, Vec<String>)]) -> Vec<Self> {
        let mut states = vec![self.clone()];
        let kept = |kind: &str| keep.iter().find(|(covered, _)| *covered == kind).map(|(_, keys)| keys);
        if let Some(keys) = kept("attachments") {
            for key in self.attached.keys().filter(|key| !keys.contains(key)) {
                let next = states.last().unwrap_or(self).detached(key);
                states.extend(next);
            }
        }
        if let Some(keys) = kept("services") {
            let before = states.last().unwrap_or(self).clone();
            for service in before.services.keys().filter(|service| !keys.contains(service)) {
                let next = states.last().unwrap_or(self).torn_down(service);
                states.extend(next);
            }
        }
        let mut next = states.last().unwrap_or(self).clone();
        if let Some(keys) = kept("leases") {
            next.held.retain(|ip, _| keys.contains(&ip.to_string()));
            states.push(next.clone());
        }
        if let Some(keys) = kept("dns") {
            next.names.retain(|name, _| keys.contains(name));
            states.push(next.clone());
        }
        if let Some(keys) = kept("networks") {
            for network in self.members.keys().filter(|network| !keys.contains(network)) {
                next.members.remove(network);
                states.push(next.clone());
            }
        }
        if let Some(keys) = kept("peers") {
            let up = |scope: &Scope| next.overlay(scope).is_some();
            let stays: BTreeSet<_> = next
                .peers
                .keys()
                .filter(|(scope, key)| !up(scope) || keys.contains(&peer_name(scope, key)))
                .cloned()
                .collect();
            // One overlay after the other.
            let scopes: BTreeSet<_> = next.peers.keys().map(|(scope, _)| scope.clone()).collect();
            for done in scopes {
                next.peers.retain(|peer, _| peer.0 != done || stays.contains(peer));
                states.push(next.clone());
            }
        }
        states
    }

    fn take_down(&mut self, service: &str) {
        let Some(mode) = self.services.remove(service) else { return };
        let shared = mode == OverlayMode::Shared;
        let stays = shared && self.services.values().any(|other| *other == OverlayMode::Shared);
        let subnet = subnet(service, mode);
        let asked = format!("allocate_ip {service}");
        let of_it = |holder: &str| holder.split('\n').next() == Some(&asked);
        self.held.retain(|ip, holder| !subnet.contains(ip) || (stays && !of_it(holder)));
    }

    fn overlay(&self, scope: &Scope) -> Option<()> {
        match scope {
            Scope::Global => Some(()),
            Scope::Service(service) => (self.services.get(service) == Some(&OverlayMode::Dedicated)).then_some(()),
        }
    }

    fn lose(&mut self, scope: &Scope, prefix: &IpNet) {
        for ((other, _), held) in &mut self.peers {
            if other == scope {
                held.remove(prefix);
            }
        }
    }
}

fn guest_key(one: &Attachment) -> Option<PublicKey> {
    let secret = one.guest_key.as_ref()?;
    Some(PrivateKey::from_base64(secret.expose()).ok()?.public())
}

/// The published vectors.
fn subnet(service: &str, mode: OverlayMode) -> IpNet {
    net(match (service, mode) {
        (_, OverlayMode::Shared) => "10.200.90.64/26",
        ("web", _) => "10.200.187.128/26",
        ("db", _) => "10.200.243.0/26",
        ("pay", _) => "10.200.141.128/26",
        ("job", _) => "10.200.186.192/26",
        _ => "10.200.14.128/26",
    })
}

/// The answer to `status` is what the disk says.
pub fn check_status(tables: &Tables, status: &Value) {
    let state = State::of(tables);
    let up = state.global.is_some_and(|(.., up)| up);
    assert_eq!(status.get("interface").is_some(), up);
    let global = tables.all::<Peer>().filter(|peer| peer.scope == Scope::Global).count();
    assert_eq!(
        (&status["peer_count"], &status["service_count"]),
        (&Value::from(global), &Value::from(state.services.len()))
    );
    let none = Vec::new();
    let dedicated: Vec<_> = status["dedicated_services"].as_array().unwrap_or(&none).iter().collect();
    let expected: Vec<_> = state
        .services
        .iter()
        .filter(|(_, mode)| **mode == OverlayMode::Dedicated)
        .map(|(service, _)| service)
        .collect();
    assert_eq!(dedicated.iter().map(|one| one["service"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    for one in dedicated {
        let identity = tables.find::<Identity>(one["service"].as_str().unwrap()).unwrap();
        assert_eq!(one["public_key"], identity.public_key.to_base64());
        assert_eq!(one["listen_port"], identity.port);
    }
    for service in tables.all::<Service>() {
        let bridge = tables.find::<Bridge>(&service.bridge).unwrap();
        assert_eq!(bridge.subnet, subnet(&service.service, service.mode), "{service:?}");
    }
}
