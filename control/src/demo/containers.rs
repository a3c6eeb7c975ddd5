//! The containers of the demo: processes in network namespaces of their own, each a web server; attached by the daemons,
//! visiting each other across nodes, and kept apart where that was ordered.

use super::{Actor, DemoError, progress};
use crate::dns::query;
use crate::host::Netns;
use crate::ipc::wire::{OverlayMode, PeerScope, Request};
use crate::lab::process::{Keeper, Process, Scratch};
use crate::lab::web;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// The service whose containers see each other.
const OPEN: &str = "shop";

/// The service, and the isolation network, of the fenced container.
const FENCED: &str = "vault";

/// What names end with.
const DOMAIN: &str = "shop.internal";

/// Where names are asked for (RFC 1035, section 4.2).
const NAMES_PORT: u16 = 53;

/// What a page gets to arrive. The first one may meet a server that still starts.
const ARRIVES: Duration = Duration::from_secs(5);

/// How long somebody is tried who is to stay out of reach: many round trips.
const STAYS_AWAY: Duration = Duration::from_millis(500);

/// A container that is attached. Dropping it ends it.
pub(super) struct Container {
    pub(super) name: String,
    /// Index of its node.
    pub(super) node: usize,
    pub(super) ip: IpAddr,
    /// What the daemon took for it, its answer included.
    pub(super) attached_in: Duration,
    /// The address of its node on its network, if it is an open one: where it asks for names.
    gateway: Option<IpAddr>,
    netns: Netns,
    process: Process,
}

/// A page that one container fetched from another, whose name it asked its gateway for.
pub(super) struct Visit {
    pub(super) from: String,
    pub(super) to: String,
    /// What the name server of the node took.
    pub(super) resolved_in: Duration,
    pub(super) page: String,
    pub(super) took: Duration,
}

/// What is shown of the containers.
#[derive(Default)]
pub(super) struct Containers {
    pub(super) all: Vec<Container>,
    pub(super) visits: Vec<Visit>,
    /// Who tried in vain to fetch from whom.
    pub(super) refused: Vec<(String, String)>,
}

impl Container {
    fn start(node: usize, name: &str, keeper: &Keeper, scratch: &Scratch, program: &Path) -> Result<Self, DemoError> {
        let netns = Netns::create()?;
        netns.bring_lo_up()?;
        let mut command = Command::new(program);
        command.args(["demo", "--container", name]);
        let process = keeper.start(&netns, &mut command, &scratch.path().join(format!("{name}.log")))?;
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        Ok(Self {
            name: name.to_owned(),
            node,
            ip: nowhere,
            attached_in: Duration::ZERO,
            gateway: None,
            netns,
            process,
        })
    }

    fn attach(&mut self, actor: &mut Actor, service: &str, network: Option<&str>) -> Result<(), DemoError> {
        let (pid, start) = (self.process.pid(), Instant::now());
        self.ip = actor.try_to(self.node, |orchestrator| orchestrator.attach(pid, service, network))?;
        self.attached_in = start.elapsed();
        Ok(())
    }

    /// Its name in the overlay.
    fn host_name(&self) -> String {
        format!("{}.{DOMAIN}", self.name)
    }

    /// Asks for the name of `to` and fetches its page.
    fn visit(&self, to: &Self) -> Result<Visit, DemoError> {
        let (addresses, resolved_in) = self.resolve(&to.host_name()).map_err(|error| to.blame(&self.name, &*error))?;
        if addresses != [to.ip] {
            return Err(to.blame(&self.name, &format_args!("its name has the addresses {addresses:?}, not {}", to.ip)));
        }
        let (page, took) = fetch(&self.netns, to, ARRIVES).map_err(|error| to.blame(&self.name, &error))?;
        Ok(Visit { from: self.name.clone(), to: to.host_name(), resolved_in, page, took })
    }

    fn resolve(&self, name: &str) -> Result<(Vec<IpAddr>, Duration), Box<dyn std::error::Error>> {
        let gateway = self.gateway.ok_or("it has no gateway")?;
        let server = SocketAddr::new(gateway, NAMES_PORT);
        Ok(self.netns.run_in(|| query::addresses(server, name))??)
    }

    fn blame(&self, from: &str, error: &dyn std::fmt::Display) -> DemoError {
        let what = format!("{from} fetches from it: {error}");
        DemoError::Container { name: self.name.clone(), what, words: self.process.last_words() }
    }
}

impl Containers {
    /// Sets up the services; starts and attaches two open containers on each node, and a fenced one on the first.
    pub(super) fn attach(
        actors: &mut [Actor],
        keeper: &Keeper,
        scratch: &Scratch,
        program: &Path,
    ) -> Result<Self, DemoError> {
        let gateways = set_up_services(actors)?;
        progress("attaching containers");
        let mut all = Vec::new();
        let mut add = |actor: &mut Actor, node: usize, name: String, service, network| {
            let mut container = Container::start(node, &name, keeper, scratch, program)?;
            container.attach(actor, service, network)?;
            container.gateway = gateways.get(node).copied().filter(|_| network.is_none());
            all.push(container);
            Ok::<_, DemoError>(())
        };
        for (node, actor) in actors.iter_mut().enumerate() {
            for role in ["web", "job"] {
                add(actor, node, format!("{role}-{}", node + 1), OPEN, None)?;
            }
        }
        add(&mut actors[0], 0, format!("{FENCED}-1"), FENCED, Some(FENCED))?;
        progress("telling every node their names");
        for (node, actor) in actors.iter_mut().enumerate() {
            for container in &all {
                let request = Request::RegisterDns { name: container.host_name(), ip: container.ip };
                actor.try_to(node, |orchestrator| orchestrator.call(request))?;
            }
        }
        Ok(Self { all, ..Self::default() })
    }

    /// Lets them visit each other. `host` is the namespace of the first node, which may enter the fence.
    pub(super) fn visit(&mut self, host: &Netns) -> Result<(), DemoError> {
        progress("fetching pages from container to container");
        let named = |name: &str| self.all.iter().find(|container| container.name == name);
        let pairs = |wanted: &[(&str, &str)]| -> Vec<(&Container, &Container)> {
            wanted.iter().filter_map(|(from, to)| Some((named(from)?, named(to)?))).collect()
        };
        let mut visits = Vec::new();
        for (from, to) in pairs(&[("job-1", "web-1"), ("job-1", "web-2"), ("job-2", "web-1")]) {
            // The first page finds the way; the second one tells how long it is.
            from.visit(to)?;
            visits.push(from.visit(to)?);
        }
        progress("trying the fence");
        let tries = pairs(&[("job-1", "vault-1"), ("job-2", "vault-1"), ("vault-1", "web-1"), ("vault-1", "web-2")]);
        // It is there, and it serves.
        if let Some((_, fenced)) = tries.first() {
            fetch(host, fenced, ARRIVES).map_err(|error| fenced.blame("the node", &error))?;
        }
        let outcomes: Vec<_> = thread::scope(|scope| {
            let tried: Vec<_> =
                tries.iter().map(|(from, to)| scope.spawn(|| fetch(&from.netns, to, STAYS_AWAY))).collect();
            tried.into_iter().map(|thread| thread.join()).collect()
        });
        let mut refused = Vec::new();
        for ((from, to), outcome) in tries.iter().zip(outcomes) {
            if matches!(outcome, Ok(Ok(_))) {
                return Err(to.blame(&from.name, &"that went through, and the fence is to prevent it"));
            }
            refused.push((from.name.clone(), to.name.clone()));
        }
        (self.visits, self.refused) = (visits, refused);
        Ok(())
    }
}

/// Fetches the page of `to`, patiently while its server still starts. How long the last try took.
fn fetch(netns: &Netns, to: &Container, within: Duration) -> Result<(String, Duration), DemoError> {
    let start = Instant::now();
    loop {
        let attempt = Instant::now();
        match netns.run_in(|| web::fetch(to.ip, &to.name, within))? {
            Ok(page) => return Ok((page, attempt.elapsed())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && start.elapsed() < within => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(source) => return Err(DemoError::Io { what: "fetch a page", source }),
        }
    }
}

/// Sets up the services on each node, and tells the others where they are. Returns the nodes' addresses on the open one.
fn set_up_services(actors: &mut [Actor]) -> Result<Vec<IpAddr>, DemoError> {
    progress("setting up services");
    let mut gateways = Vec::new();
    for node in 0..actors.len() {
        let mut set_up =
            |service, mode| actors[node].try_to(node, |orchestrator| orchestrator.set_up_service(service, mode));
        let (open, fenced) = (set_up(OPEN, OverlayMode::Auto)?, set_up(FENCED, OverlayMode::Isolated)?);
        gateways.extend(open.gateways.first());
        let subnets = [open.subnets, fenced.subnets].concat();
        let pubkey = actors[node].status.public_key.clone().unwrap_or_default();
        for (other, actor) in actors.iter_mut().enumerate().filter(|(other, _)| *other != node) {
            for cidr in &subnets {
                let (pubkey, cidr) = (pubkey.clone(), cidr.to_string());
                let request = Request::AddAllowedIp { pubkey, cidr, scope: PeerScope::Global };
                actor.try_to(other, |orchestrator| orchestrator.call(request))?;
            }
        }
    }
    Ok(gateways)
}
