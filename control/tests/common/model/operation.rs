//! Operations: how they are drawn, and their words.

use super::State;
use ginnel_control::ipc::wire::{AttachHandle, OverlayMode, PeerScope};
use ginnel_control::state::Scope;
use ginnel_engine::key::PublicKey;
use ipnet::IpNet;
use std::net::IpAddr;

const SERVICES: [&str; 5] = ["web", "db", "pay", "cache", "job"];
const SLICES: [&str; 2] = ["10.200.5.0/24", "10.200.6.0/24"];
const PORTS: [u16; 2] = [51_420, 51_419];
const PREFIXES: [&str; 4] = ["10.200.30.0/26", "10.200.31.0/26", "10.200.32.0/24", "10.201.0.0/16"];
const NETWORKS: [&str; 3] = ["red", "blue", "service:job"];
/// Of other nodes, and of workloads here.
const MEMBERS: [&str; 5] = ["10.200.60.1", "10.200.60.2", "10.200.60.3", "10.200.187.130", "10.200.5.2"];
const NAMES: [&str; 3] = ["web.prod.local", "db.prod.local", "_http._tcp.web"];

/// One request.
#[derive(Clone, Debug)]
pub enum Operation {
    SetUpGlobal {
        slice: IpNet,
        port: u16,
    },
    TearDownGlobal,
    SetUpService {
        service: &'static str,
        mode: OverlayMode,
    },
    TearDownService {
        service: &'static str,
    },
    Allocate {
        service: &'static str,
        owner: Option<&'static str>,
    },
    Release {
        ip: IpAddr,
        owner: Option<String>,
    },
    AddPeer {
        scope: Scope,
        key: PublicKey,
        prefixes: Vec<IpNet>,
    },
    RemovePeer {
        scope: Scope,
        key: PublicKey,
    },
    ChangePrefix {
        scope: Scope,
        key: PublicKey,
        prefix: IpNet,
        remove: bool,
    },
    Register {
        name: &'static str,
        ip: IpAddr,
    },
    Unregister {
        name: &'static str,
    },
    SetMembers {
        network: &'static str,
        members: Vec<IpAddr>,
    },
    Attach {
        workload: Workload,
        service: &'static str,
    },
    Detach {
        workload: Workload,
    },
    Prune {
        live: Vec<String>,
    },
    /// Kinds, and what is to stay of each.
    Collect {
        keep: Vec<(&'static str, Vec<String>)>,
    },
    Shutdown,
}

/// What is attached, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub handle: AttachHandle,
    pub ephemeral: bool,
    /// A port of the host that leads to it.
    pub port: Option<u16>,
    pub owner: Option<&'static str>,
    /// Further fields of the request.
    more: &'static str,
}

impl Workload {
    /// One for each of the processes, each of another sort, and some without.
    pub fn all(pids: &[u32]) -> Vec<Self> {
        let plain =
            |handle| Self { handle, ephemeral: false, port: None, owner: None, more: r#","join_global":false"# };
        let mut all = Vec::new();
        for (number, pid) in pids.iter().enumerate() {
            let one = plain(AttachHandle::LinuxPid { pid: *pid });
            all.push(match number % 4 {
                0 => one,
                1 => Self { port: Some(8_080), more: r#","join_global":true,"dns_domain":"lab""#, ..one },
                2 => Self {
                    port: Some(8_080),
                    owner: Some("x"),
                    more: r#","join_global":false,"isolation_network":"red""#,
                    ..one
                },
                _ => Self { ephemeral: true, more: r#","join_global":true"#, ..one },
            });
        }
        all.push(plain(AttachHandle::GuestManaged { id: "vm".into() }));
        let fenced = r#","join_global":true,"isolation_network":"red""#;
        all.push(Self { more: fenced, ..plain(AttachHandle::HostShared { id: "agent".into() }) });
        all
    }

    pub fn key(&self) -> String {
        self.handle.key()
    }

    /// Whether it has links on this host.
    pub fn is_linked(&self) -> bool {
        matches!(self.handle, AttachHandle::LinuxPid { .. })
    }

    pub fn is_guest(&self) -> bool {
        matches!(self.handle, AttachHandle::GuestManaged { .. })
    }

    fn words(&self) -> String {
        let handle = serde_json::to_string(&self.handle).unwrap();
        let owner = self.owner.map_or(String::new(), |owner| format!(r#","owner":"{owner}""#));
        format!(r#""handle":{handle}{owner}"#)
    }
}

/// Where a draw gets its choices from. When they are used up, it is the first of everything.
pub struct Choices<'a>(std::slice::Iter<'a, u8>);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default()) * count / 256
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) >= 100 - percent
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }
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

/// Where a peer is; nobody answers there.
pub fn endpoint(key: &PublicKey) -> String {
    format!("192.0.2.{}:51420", key.0[0])
}

/// What a peer is called when all are told.
pub fn peer_name(scope: &Scope, key: &PublicKey) -> String {
    let scope = match scope {
        Scope::Global => PeerScope::Global,
        Scope::Service(service) => PeerScope::Service { service: service.clone() },
    };
    scope.peer_key(&key.to_base64())
}

impl Operation {
    /// Draws one that makes sense most of the time, and after which there can be others.
    pub fn draw(choices: &mut Choices<'_>, state: &State, workloads: &[Workload]) -> Self {
        let set_up = |choices: &mut Choices<'_>| Self::SetUpGlobal {
            slice: net(choices.pick(&SLICES)),
            port: choices.pick(&PORTS),
        };
        if state.global.is_none() {
            return set_up(choices);
        }
        let what = choices.below(100);
        let service = choices.pick(&SERVICES);
        let scope = |choices: &mut Choices<'_>| match choices.chance(40) {
            true => Scope::Service("pay".to_owned()),
            false => Scope::Global,
        };
        let key = |choices: &mut Choices<'_>| PublicKey([u8::try_from(1 + choices.below(4)).unwrap(); 32]);
        match what {
            0..18 => {
                // `pay` is dedicated most of the time, so that it has peers.
                let modes = [OverlayMode::Auto, OverlayMode::Shared, OverlayMode::Isolated, OverlayMode::Dedicated];
                let dedicated = service == "pay" && choices.chance(70);
                let mode = if dedicated { OverlayMode::Dedicated } else { choices.pick(&modes) };
                Self::SetUpService { service, mode }
            }
            18..38 => {
                // Services that are up are found more often.
                let up: Vec<_> = SERVICES.into_iter().filter(|name| state.services.contains_key(*name)).collect();
                let service = if up.is_empty() || choices.chance(15) { service } else { choices.pick(&up) };
                Self::Attach { workload: choices.pick(workloads), service }
            }
            38..45 => Self::Detach { workload: choices.pick(workloads) },
            45..53 => Self::Allocate { service, owner: choices.chance(40).then_some("x") },
            53..58 => match state.held.iter().nth(choices.below(state.held.len().max(1))) {
                Some((ip, holder)) => {
                    Self::Release { ip: *ip, owner: holder.split_once('\n').map(|(_, owner)| owner.to_owned()) }
                }
                None => Self::Release { ip: IpAddr::from([10, 200, 7, 1]), owner: None },
            },
            58..66 => {
                let (scope, key) = (scope(choices), key(choices));
                let prefixes = PREFIXES.iter().filter(|_| choices.chance(50)).map(|prefix| net(prefix)).collect();
                Self::AddPeer { scope, key, prefixes }
            }
            66..69 => Self::RemovePeer { scope: scope(choices), key: key(choices) },
            69..73 => {
                let (scope, key, prefix) = (scope(choices), key(choices), net(choices.pick(&PREFIXES)));
                Self::ChangePrefix { scope, key, prefix, remove: choices.chance(40) }
            }
            73..76 => {
                let ip = IpAddr::from([10, 200, 5, u8::try_from(2 + choices.below(4)).unwrap()]);
                Self::Register { name: choices.pick(&NAMES), ip }
            }
            76..78 => Self::Unregister { name: choices.pick(&NAMES) },
            78..81 => set_up(choices),
            81..84 => {
                let network = choices.pick(&NETWORKS);
                let members = MEMBERS.iter().filter(|_| choices.chance(35)).map(|member| member.parse().unwrap());
                Self::SetMembers { network, members: members.collect() }
            }
            84..90 => Self::TearDownService { service },
            90..94 => Self::Collect { keep: Self::draw_kept(choices, state) },
            94..97 => {
                let bridge = |service: &&str| format!("zl-prod-0-{service}-b");
                Self::Prune { live: ["web", "db", "job"].iter().filter(|_| choices.chance(50)).map(bridge).collect() }
            }
            _ => Self::TearDownGlobal,
        }
    }

    fn draw_kept(choices: &mut Choices<'_>, state: &State) -> Vec<(&'static str, Vec<String>)> {
        let all: [(_, Vec<String>); 6] = [
            ("attachments", state.attached.keys().cloned().collect()),
            ("services", state.services.keys().cloned().collect()),
            ("leases", state.held.keys().map(ToString::to_string).collect()),
            ("dns", state.names.keys().cloned().collect()),
            ("networks", state.members.keys().cloned().collect()),
            ("peers", state.peers.keys().map(|(scope, key)| peer_name(scope, key)).collect()),
        ];
        let first = choices.below(all.len());
        let covered = all.into_iter().enumerate().filter(|(number, _)| *number == first || choices.chance(25));
        let covered: Vec<_> = covered.map(|(_, covered)| covered).collect();
        covered
            .into_iter()
            .map(|(kind, keys)| (kind, keys.into_iter().filter(|_| choices.chance(60)).collect()))
            .collect()
    }

    /// Whether it changes more than one thing in the kernel.
    pub fn is_long(&self) -> bool {
        use Operation as O;
        matches!(
            self,
            O::SetUpGlobal { .. }
                | O::TearDownGlobal
                | O::SetUpService { .. }
                | O::TearDownService { .. }
                | O::Attach { .. }
                | O::Detach { .. }
                | O::Collect { .. }
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
            Self::Allocate { service, owner } => {
                let owner = owner.map_or(String::new(), |owner| format!(r#","owner":"{owner}""#));
                format!(r#"{{"op":"allocate_ip","service":"{service}","join_global":false{owner}}}"#)
            }
            Self::Release { ip, owner } => {
                let owner = owner.as_ref().map_or(String::new(), |owner| format!(r#","owner":"{owner}""#));
                format!(r#"{{"op":"release_ip","ip":"{ip}"{owner}}}"#)
            }
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
            Self::SetMembers { network, members } => {
                let members = serde_json::to_string(members).unwrap();
                format!(r#"{{"op":"set_network_members","network":"{network}","members":{members}}}"#)
            }
            Self::Attach { workload, service } => {
                let publish = workload.port.map_or(String::new(), |port| {
                    format!(r#","publish":[{{"host_port":{port},"container_port":80}}]"#)
                });
                let (words, more, ephemeral) = (workload.words(), workload.more, workload.ephemeral);
                format!(
                    r#"{{"op":"attach_container",{words},"service":"{service}","ephemeral":{ephemeral}{publish}{more}}}"#
                )
            }
            Self::Detach { workload } => format!(r#"{{"op":"detach_container",{}}}"#, workload.words()),
            Self::Prune { live } => {
                format!(
                    r#"{{"op":"prune_orphan_bridges","live_bridge_names":{}}}"#,
                    serde_json::to_string(live).unwrap()
                )
            }
            Self::Collect { keep } => {
                let keep: serde_json::Map<_, _> =
                    keep.iter().map(|(kind, keys)| ((*kind).to_owned(), serde_json::to_value(keys).unwrap())).collect();
                format!(r#"{{"op":"gc","keep":{}}}"#, serde_json::Value::Object(keep))
            }
            Self::Shutdown => r#"{"op":"shutdown"}"#.to_owned(),
        }
    }
}
