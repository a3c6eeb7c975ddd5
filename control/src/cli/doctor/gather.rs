//! Finding the facts out: from the daemon where there is one, from the kernel and the disk in any case. Changes nothing,
//! takes no lock, and goes on where it may not look.

use super::facts::{
    ConfigFacts, DaemonFacts, Facts, FileFacts, LinkFacts, PathFacts, PortFacts, ProcessFacts, Reach, SocketFacts,
    StateFacts, TunFacts,
};
use super::proc::{descriptors_max, lock_holder, status_line};
use crate::cli::client::{Daemon, Failure, Place};
use crate::config::{Config, ConfigError, MetricsListen};
use crate::host::Netlink;
use crate::host::ports::{PortTable, Protocol, process_name};
use crate::ipc::wire::{ErrorCode, ObjectKind, Objects, Request, Response, StatusSnapshot};
use crate::lab::user_ns::{UserNsError, check_tun};
use crate::node::instance_of;
use crate::state::{GlobalOverlay, read_journal};
use nix::sys::socket::{getsockopt, sockopt};
use nix::sys::stat::{major, minor};
use nix::unistd::geteuid;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long the daemon is waited for. A healthy one answers in milliseconds.
const CALL_TIME: Duration = Duration::from_secs(5);

/// Paths looked at; those of more peers lead over the same few routers.
const PATHS_MAX: usize = 256;

/// A journal longer than this is not read for one number in it.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;

/// Everything, for the daemon at `place` with what was read of its configuration.
pub(super) fn gather(place: &Place, path: &Path, file: Result<Config, ConfigError>, now: i64) -> Facts {
    let own_capabilities = process(std::process::id()).capabilities;
    let mut facts = Facts { now, root: geteuid().is_root(), own_capabilities, ..Facts::default() };
    let file = file.unwrap_or_else(|error| {
        facts.config.problems = error.to_string().lines().map(str::to_owned).collect();
        Config::default()
    });
    facts.config = ConfigFacts { path: path.to_owned(), unread: file.unread().collect(), ..facts.config };
    facts.socket =
        SocketFacts { path: place.socket.clone(), file: file_facts(&place.socket).ok(), reach: Reach::Answered };
    match ask(&place.socket) {
        Ok(daemon) => facts.daemon = Some(daemon),
        Err(reach) => facts.socket.reach = reach,
    }
    state(&place.state_dir, &mut facts);
    let behind_socket = UnixStream::connect(&place.socket).ok().and_then(|stream| {
        let pid = getsockopt(&stream, sockopt::PeerCredentials).ok()?.pid();
        // A socket of the service manager is listened to by that one.
        u32::try_from(pid).ok().filter(|pid| *pid > 1)
    });
    facts.process = facts.state.locked_by.or(behind_socket).map(process);
    facts.tun = match check_tun() {
        Ok(()) => TunFacts::Usable,
        Err(UserNsError::TunDenied(error)) => TunFacts::Denied(error.to_string()),
        Err(_) => TunFacts::Missing,
    };
    ports(&file, &mut facts);
    sysctls(&mut facts);
    network(&mut facts);
    facts.nf_tables = crate::firewall::is_offered();
    if facts.nf_tables.is_none() {
        facts.unseen.push("whether the kernel has nf_tables: root may ask".to_owned());
    }
    facts
}

fn ask(socket: &Path) -> Result<DaemonFacts, Reach> {
    if let Err(error) = UnixStream::connect(socket) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => Reach::Missing,
            io::ErrorKind::ConnectionRefused => Reach::Dead,
            io::ErrorKind::PermissionDenied => Reach::Denied,
            _ => Reach::Silent(format!("{}: {error}", socket.display())),
        });
    }
    let told = Daemon::connect_to(socket, CALL_TIME).and_then(|mut daemon| {
        let status = daemon.status()?;
        // The daemon that is replaced knows neither.
        let conditions = match daemon.ask(Request::Health) {
            Ok(Response::Health(health)) => health.conditions,
            _ => status.health.clone(),
        };
        let mut service_links = Vec::new();
        let listed = daemon.list(ObjectKind::Services, None, |page| {
            if let Objects::Services(page) = page {
                service_links.extend(page.into_iter().filter_map(|service| service.interface));
            }
        });
        let service_links = listed.ok().map(|()| service_links);
        Ok(DaemonFacts { status, conditions, service_links })
    });
    told.map_err(|failure| match failure {
        Failure::Refused(fault) if fault.code == Some(ErrorCode::Forbidden) => Reach::NoRole(fault.message),
        failure => Reach::Silent(failure.words()),
    })
}

fn file_facts(path: &Path) -> io::Result<FileFacts> {
    let found = fs::metadata(path)?;
    Ok(FileFacts { uid: found.uid(), gid: found.gid(), mode: found.mode() & 0o7777 })
}

fn state(dir: &Path, facts: &mut Facts) {
    let mut state = StateFacts { dir: dir.to_owned(), instance: instance_of(dir), ..StateFacts::default() };
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => state.problem = Some("it is no directory".to_owned()),
        Ok(_) => state.found = file_facts(dir).ok(),
        // A daemon that never ran makes it at its first start.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            state.problem = facts.daemon.is_some().then(|| "it is gone, and the daemon runs".to_owned());
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) => state.problem = Some(error.to_string()),
    }
    if state.found.is_some() {
        match fs::read_dir(dir) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !facts.root => {
                facts.unseen.push(format!("what is in {}: root may look", dir.display()));
            }
            Err(error) => state.problem = Some(error.to_string()),
        }
        state.key = file_facts(&dir.join("private.key")).ok();
        if let (Ok(lock), Ok(locks)) = (fs::metadata(dir.join("lock")), fs::read_to_string("/proc/locks")) {
            state.locked_by = lock_holder(&locks, major(lock.dev()), minor(lock.dev()), lock.ino());
        }
    }
    facts.state = state;
}

fn process(pid: u32) -> ProcessFacts {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    ProcessFacts {
        pid,
        name: process_name(pid),
        capabilities: status_line(&read("status"), "CapEff").and_then(|bits| u64::from_str_radix(bits, 16).ok()),
        open_fds: fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.count() as u64),
        max_fds: descriptors_max(&read("limits")),
    }
}

/// The addresses of the configuration and the port of the overlay that is to be up.
fn ports(file: &Config, facts: &mut Facts) {
    let mut wanted: Vec<(&'static str, Protocol, SocketAddr)> = Vec::new();
    if let Some(MetricsListen::Tcp(address)) = file.metrics.listen {
        wanted.push(("metrics", Protocol::Tcp, address));
    }
    for address in &file.dns.listen {
        wanted.extend([("names", Protocol::Udp, *address), ("names", Protocol::Tcp, *address)]);
    }
    let journal = facts.state.dir.join("journal");
    if fs::metadata(&journal).is_ok_and(|found| found.len() <= JOURNAL_BYTES_MAX)
        && let Ok(bytes) = fs::read(&journal)
        && let Some(overlay) = read_journal(&bytes).tables.find::<GlobalOverlay>("").filter(|overlay| overlay.up)
        && let Some(port) = Some(overlay.port).filter(|port| *port != 0).or(overlay.chosen_port)
    {
        wanted.push(("WireGuard", Protocol::Udp, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)));
    }
    if wanted.is_empty() {
        return;
    }
    let table = PortTable::read();
    facts.ports = wanted
        .into_iter()
        .map(|(purpose, protocol, address)| {
            let holder = table.holder(protocol, address).map(|(holder, _)| holder);
            PortFacts { purpose, protocol, address, holder }
        })
        .collect();
}

fn sysctls(facts: &mut Facts) {
    let interface = facts.interface().map(|interface| format!("net/ipv4/conf/{interface}/rp_filter"));
    let names = [
        "net/ipv4/ip_forward",
        "net/ipv4/conf/all/rp_filter",
        "net/netfilter/nf_conntrack_count",
        "net/netfilter/nf_conntrack_max",
        "user/max_user_namespaces",
        "kernel/unprivileged_userns_clone",
        "kernel/apparmor_restrict_unprivileged_userns",
    ];
    let names = names.into_iter().map(str::to_owned).chain(interface);
    let read = |name: String| {
        let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
        Some((name, value.trim().to_owned()))
    };
    facts.sysctls = names.filter_map(read).collect::<BTreeMap<_, _>>();
}

/// Links and paths, from the kernel.
fn network(facts: &mut Facts) {
    let endpoints: Vec<_> =
        facts.daemon.as_ref().map(|daemon| endpoints(&daemon.status).take(PATHS_MAX).collect()).unwrap_or_default();
    let looked = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
    let looked = looked.and_then(|runtime| {
        runtime.block_on(async {
            let netlink = Netlink::open().map_err(|error| error.to_string())?;
            let links = netlink.links().await.map_err(|error| error.to_string())?;
            let mut paths = Vec::new();
            for to in endpoints {
                // One without a route is told by its missing handshake.
                if let Ok((path, _)) = netlink.path_mtu(to).await {
                    paths.push(PathFacts { to, mtu: path.mtu, room: path.room() });
                }
            }
            Ok((links, paths))
        })
    });
    match looked {
        Ok((links, paths)) => {
            let fact = |link: crate::host::LinkInfo| LinkFacts { name: link.name, mtu: link.mtu, alias: link.alias };
            facts.links = links.into_iter().map(fact).collect();
            facts.paths = paths;
        }
        Err(error) => facts.unseen.push(format!("links and paths: {error}")),
    }
}

fn endpoints(status: &StatusSnapshot) -> impl Iterator<Item = IpAddr> + '_ {
    status.peers.iter().filter_map(|peer| peer.endpoint.parse::<SocketAddr>().ok()).map(|endpoint| endpoint.ip())
}
