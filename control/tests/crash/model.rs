//! What the daemon is to remember: operations, what each does, and the states an interrupted one may leave.

use ginnel_control::ipc::wire::OverlayMode;
use ginnel_control::state::{Bridge, GlobalOverlay, Identity, Lease, Name, Peer, Scope, Service, Tables};
use ginnel_engine::key::PublicKey;
use ipnet::IpNet;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const SERVICES: [&str; 5] = ["web", "db", "pay", "cache", "job"];
const SLICES: [&str; 2] = ["10.200.5.0/24", "10.200.6.0/24"];
const PORTS: [u16; 2] = [51_420, 51_419];
const PREFIXES: [&str; 4] = ["10.200.30.0/26", "10.200.31.0/26", "10.200.32.0/24", "10.201.0.0/16"];
const NAMES: [&str; 3] = ["web.prod.local", "db.prod.local", "_http._tcp.web"];

/// One request.
#[derive(Clone, Debug)]
pub enum Operation {
    SetUpGlobal { slice: IpNet, port: u16 },
    TearDownGlobal,
    SetUpService { service: &'static str, mode: OverlayMode },
    TearDownService { service: &'static str },
    Allocate { service: &'static str },
    Release { ip: IpAddr },
    AddPeer { scope: Scope, key: PublicKey, prefixes: Vec<IpNet> },
    RemovePeer { scope: Scope, key: PublicKey },
    ChangePrefix { scope: Scope, key: PublicKey, prefix: IpNet, remove: bool },
    Register { name: &'static str, ip: IpAddr },
    Unregister { name: &'static str },
    Shutdown,
}

/// The states the daemon may be in: one, unless something was interrupted.
#[derive(Clone, Debug)]
pub struct World(Vec<State>);

/// What is to be on disk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Slice, port, and whether it is up.
    global: Option<(IpNet, u16, bool)>,
    services: BTreeMap<String, OverlayMode>,
    /// Services that were dedicated since they were torn down last.
    identities: BTreeSet<String>,
    peers: BTreeMap<(Scope, PublicKey), BTreeSet<IpNet>>,
    held: BTreeMap<IpAddr, String>,
    names: BTreeMap<String, BTreeSet<IpAddr>>,
    /// An address was asked for, and whether it was given is not known.
    asked: Option<String>,
}

fn pick<T: Copy>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())]
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn mode_text(mode: OverlayMode) -> String {
    serde_json::to_value(mode).unwrap().as_str().unwrap().to_owned()
}

fn scope_text(scope: &Scope) -> String {
    match scope {
        Scope::Global => r#"{"scope":"global"}"#.to_owned(),
        Scope::Service(service) => format!(r#"{{"scope":"service","service":"{service}"}}"#),
    }
}

fn join(prefixes: &[IpNet]) -> String {
    prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

impl Operation {
    /// Draws one that makes sense most of the time, and after which there can be others.
    pub fn draw(rng: &mut StdRng, world: &World) -> Self {
        let state = &world.0[0];
        let set_up = |rng: &mut StdRng| Self::SetUpGlobal { slice: net(pick(rng, &SLICES)), port: pick(rng, &PORTS) };
        if state.global.is_none() {
            return set_up(rng);
        }
        let service = pick(rng, &SERVICES);
        let scope = if rng.random_bool(0.6) { Scope::Global } else { Scope::Service("pay".to_owned()) };
        let key = PublicKey([rng.random_range(1..5); 32]);
        let ip = IpAddr::from([10, 200, 5, rng.random_range(2..6)]);
        match rng.random_range(0..100) {
            0..8 => set_up(rng),
            8..11 => Self::TearDownGlobal,
            11..30 => {
                // `pay` is dedicated most of the time, so that it has peers.
                let modes = [OverlayMode::Auto, OverlayMode::Shared, OverlayMode::Isolated, OverlayMode::Dedicated];
                let dedicated = service == "pay" && rng.random_bool(0.7);
                let mode = if dedicated { OverlayMode::Dedicated } else { pick(rng, &modes) };
                Self::SetUpService { service, mode }
            }
            30..37 => Self::TearDownService { service },
            37..53 => Self::Allocate { service },
            53..60 => match state.held.keys().nth(rng.random_range(0..state.held.len().max(1))) {
                Some(held) => Self::Release { ip: *held },
                None => Self::Release { ip },
            },
            60..75 => {
                let prefixes = PREFIXES.iter().filter(|_| rng.random_bool(0.5)).map(|prefix| net(prefix)).collect();
                Self::AddPeer { scope, key, prefixes }
            }
            75..81 => Self::RemovePeer { scope, key },
            81..89 => {
                Self::ChangePrefix { scope, key, prefix: net(pick(rng, &PREFIXES)), remove: rng.random_bool(0.4) }
            }
            89..95 => Self::Register { name: pick(rng, &NAMES), ip },
            _ => Self::Unregister { name: pick(rng, &NAMES) },
        }
    }

    /// Whether it changes more than one thing in the kernel.
    pub fn is_long(&self) -> bool {
        matches!(
            self,
            Self::SetUpGlobal { .. } | Self::TearDownGlobal | Self::SetUpService { .. } | Self::TearDownService { .. }
        )
    }

    /// Its words.
    pub fn request(&self) -> String {
        match self {
            Self::SetUpGlobal { slice, port } => format!(
                r#"{{"op":"setup_global_overlay","deployment":"prod","instance_id":"0","cluster_cidr":"10.200.0.0/16","slice_cidr":"{slice}","wg_port":{port},"nat":{{"enabled":false}}}}"#
            ),
            Self::TearDownGlobal => r#"{"op":"teardown_global_overlay"}"#.to_owned(),
            Self::SetUpService { service, mode } => {
                format!(r#"{{"op":"setup_service_overlay","service":"{service}","mode":"{}"}}"#, mode_text(*mode))
            }
            Self::TearDownService { service } => {
                format!(r#"{{"op":"teardown_service_overlay","service":"{service}"}}"#)
            }
            Self::Allocate { service } => {
                format!(r#"{{"op":"allocate_ip","service":"{service}","join_global":false}}"#)
            }
            Self::Release { ip } => format!(r#"{{"op":"release_ip","ip":"{ip}"}}"#),
            Self::AddPeer { scope, key, prefixes } => format!(
                r#"{{"op":"add_peer","public_key":"{key}","endpoint":"{}","allowed_ips":"{}","persistent_keepalive_secs":25,"scope":{}}}"#,
                endpoint(key),
                join(prefixes),
                scope_text(scope)
            ),
            Self::RemovePeer { scope, key } => {
                format!(r#"{{"op":"remove_peer","pubkey":"{key}","scope":{}}}"#, scope_text(scope))
            }
            Self::ChangePrefix { scope, key, prefix, remove } => {
                let op = if *remove { "remove_allowed_ip" } else { "add_allowed_ip" };
                format!(r#"{{"op":"{op}","pubkey":"{key}","cidr":"{prefix}","scope":{}}}"#, scope_text(scope))
            }
            Self::Register { name, ip } => format!(r#"{{"op":"register_dns","name":"{name}","ip":"{ip}"}}"#),
            Self::Unregister { name } => format!(r#"{{"op":"unregister_dns","name":"{name}"}}"#),
            Self::Shutdown => r#"{"op":"shutdown"}"#.to_owned(),
        }
    }
}

/// Where a peer is; nobody answers there.
pub fn endpoint(key: &PublicKey) -> String {
    format!("192.0.2.{}:51420", key.0[0])
}

impl Default for World {
    fn default() -> Self {
        Self(vec![State::default()])
    }
}

impl World {
    /// After `operation` was answered.
    pub fn answered(&self, operation: &Operation, answer: &str) -> Self {
        let [state] = &self.0[..] else { panic!("it was not looked at") };
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

    /// After `operation` was interrupted.
    pub fn interrupted(&self, operation: &Operation) -> Self {
        let [state] = &self.0[..] else { panic!("it was not looked at") };
        let mut states = vec![state.clone()];
        states.extend(state.after(operation).into_iter().flatten());
        Self(states)
    }

    /// What was found on disk, which must be one of the states there may be.
    pub fn found(&self, tables: &Tables) -> Self {
        let found = State::of(tables);
        let matching = self.0.iter().any(|state| match &state.asked {
            None => *state == found,
            Some(owner) => {
                let new: Vec<_> = found.held.iter().filter(|(ip, _)| !state.held.contains_key(*ip)).collect();
                matches!(&new[..], [(ip, holder)] if *holder == owner && {
                    let mut held = state.held.clone();
                    held.insert(**ip, owner.clone());
                    State { held, asked: None, ..state.clone() } == found
                })
            }
        });
        assert!(matching, "found {found:?}\nwhich is none of {:?}", self.0);
        Self(vec![found])
    }
}

impl State {
    fn of(tables: &Tables) -> Self {
        let global = tables.find::<GlobalOverlay>("");
        Self {
            global: global.map(|global| (global.slice.unwrap(), global.port, global.up)),
            services: tables.all::<Service>().map(|service| (service.service.clone(), service.mode)).collect(),
            identities: tables.all::<Identity>().map(|identity| identity.service.clone()).collect(),
            peers: tables
                .all::<Peer>()
                .map(|peer| ((peer.scope.clone(), peer.public_key), peer.allowed_ips.iter().copied().collect()))
                .collect(),
            held: tables
                .all::<Lease>()
                .filter(|lease| lease.released_ms.is_none())
                .map(|lease| (lease.ip, lease.owner.clone()))
                .collect(),
            names: tables
                .all::<Name>()
                .map(|name| (name.name.clone(), name.addresses.iter().copied().collect()))
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
                    next.take_down(service);
                    states.push(next.clone());
                }
                return Some(states);
            }
            Operation::SetUpService { service, mode } => {
                let mut states = Vec::new();
                if self.services.get(*service).is_some_and(|known| known != mode) {
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
            Operation::TearDownService { service } => {
                next.take_down(service);
                if next.identities.remove(*service) {
                    next.peers.retain(|(scope, _), _| *scope != Scope::Service((*service).to_owned()));
                }
            }
            Operation::Allocate { service } => next.asked = Some(format!("allocate_ip {service}")),
            Operation::Release { ip } => drop(next.held.remove(ip)),
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
            Operation::Shutdown => next = Self { identities: next.identities, ..Self::default() },
        }
        Some(vec![next])
    }

    fn take_down(&mut self, service: &str) {
        let Some(mode) = self.services.remove(service) else { return };
        let shared = mode == OverlayMode::Shared;
        if shared && self.services.values().any(|other| *other == OverlayMode::Shared) {
            return;
        }
        let subnet = subnet(service, mode);
        self.held.retain(|ip, _| !subnet.contains(ip));
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
    let global = state.peers.keys().filter(|(scope, _)| *scope == Scope::Global).count();
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
