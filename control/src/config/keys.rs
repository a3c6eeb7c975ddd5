//! Every key there is: its name, its meaning, its default, and how it is read. The example file, the suggestions for
//! unknown keys and the test of the paper are drawn from this table.

use super::value::{Complaint, Value, address, array, choice, complaint, nearest, number, path, text, toggle};
use super::{Config, LogFormat, MetricsListen, PrincipalSpec, Problem};
use crate::dns::{StaticRecord, canonical};
use crate::flags;
use ginnel_engine::limits::WORKERS_MAX;
use ginnel_engine::port::Offload;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One key.
pub struct Key {
    /// Section and name, with a dot between.
    pub name: &'static str,
    /// The default, as it would stand in the file; an example where that depends on the system.
    pub value: &'static str,
    /// What it means, in lines of a comment.
    pub about: &'static str,
    /// Whether SIGHUP is enough for a change; else it takes a restart.
    pub reloads: bool,
    read: fn(&mut Config, Value<'_, '_>) -> Result<(), Complaint>,
}

/// All keys, in the order of the example file.
pub const KEYS: &[Key] = &[
    Key {
        name: "data_dir",
        value: r#""/var/lib/ginnel""#,
        about: "What is kept across restarts: the key of the node and its state. Mode 0700.",
        reloads: false,
        read: |config, value| put(&mut config.data_dir, path(value)),
    },
    Key {
        name: "ipc.socket",
        value: r#""/run/ginnel/ginneld.sock""#,
        about: "Where orders come from. A socket handed over by the service manager takes its place.",
        reloads: false,
        read: |config, value| put(&mut config.ipc.socket, path(value)),
    },
    Key {
        name: "ipc.group",
        value: r#""ginnel""#,
        about: "The group the socket is given to, where there is one of that name.",
        reloads: false,
        read: |config, value| put(&mut config.ipc.group, text(value).map(str::to_owned)),
    },
    Key {
        name: "ipc.mode",
        value: r#""0660""#,
        about: "The mode of the socket. To give roles to users outside the group, let them connect: \"0666\".",
        reloads: false,
        read: |config, value| put(&mut config.ipc.mode, mode(value)),
    },
    Key {
        name: "ipc.connections",
        value: "512",
        about: "Connections at once; the last sixteenth is kept for admins.",
        reloads: true,
        read: |config, value| put(&mut config.ipc.connections, number(value, 16..=65_536).and_then(size)),
    },
    Key {
        name: "ipc.request_timeout_secs",
        value: "60",
        about: "How long a request may take before it is answered with an error.",
        reloads: true,
        read: |config, value| put(&mut config.ipc.request_timeout_secs, number(value, 1..=3_600)),
    },
    Key {
        name: "ipc.events_kept",
        value: "4096",
        about: "Events remembered for subscribers that are slow or come back.",
        reloads: false,
        read: |config, value| put(&mut config.ipc.events_kept, number(value, 16..=1_000_000).and_then(size)),
    },
    Key {
        name: "access.admin",
        value: r#"["user:root", "group:ginnel"]"#,
        about: "Who may do everything: user:NAME, group:NAME, or numbers. Without this, whoever owns the socket and its \
                group.\nRoot and the user of the daemon always may.",
        reloads: true,
        read: |config, value| put(&mut config.access.admin, array(value, principal)),
    },
    Key {
        name: "access.attach",
        value: "[]",
        about: "Who may attach and detach workloads, with their addresses and names, and look.",
        reloads: true,
        read: |config, value| set(&mut config.access.attach, array(value, principal)),
    },
    Key {
        name: "access.read",
        value: "[]",
        about: "Who may look and subscribe to events.",
        reloads: true,
        read: |config, value| set(&mut config.access.read, array(value, principal)),
    },
    Key {
        name: "device.uapi_dir",
        value: r#""/var/run/wireguard""#,
        about: "Directory of the control sockets for wg(8), which looks nowhere else.",
        reloads: false,
        read: |config, value| put(&mut config.device.uapi_dir, path(value)),
    },
    Key {
        name: "device.workers",
        value: "0",
        about: "Packet worker threads; 0 for one per core.",
        reloads: false,
        read: |config, value| put(&mut config.device.workers, number(value, 0..=WORKERS_MAX as u64).and_then(size)),
    },
    Key {
        name: "device.offload_off",
        value: "[]",
        about: "Kernel offloads to do without: tun_tcp, tun_udp, link_segmentation, link_coalescing, tun_steering, \
                link_steering.",
        reloads: false,
        read: |config, value| set(&mut config.device.offload_off, array(value, offload)),
    },
    Key {
        name: "device.seccomp",
        value: "false",
        about: "Leave packet workers only the system calls they need: others fail with EPERM.",
        reloads: false,
        read: |config, value| set(&mut config.device.seccomp, toggle(value)),
    },
    Key {
        name: "log.format",
        value: r#""auto""#,
        about: "text or json on standard error, journald with fields, or auto: journald where standard error is the \
                journal's.",
        reloads: false,
        read: |config, value| put(&mut config.log.format, choice(value, &LogFormat::ALL, LogFormat::name)),
    },
    Key {
        name: "log.level",
        value: r#""info""#,
        about: "What is logged: error, warn, info, debug, trace, also per module as in \"info,ginnel_control::node=debug\". \
                RUST_LOG overrides it.",
        reloads: true,
        read: |config, value| put(&mut config.log.level, filter(value)),
    },
    Key {
        name: "log.dir",
        value: r#""/var/log/ginnel""#,
        about: "Directory for log files besides, one a day, JSON. Without this there are none.",
        reloads: false,
        read: |config, value| put(&mut config.log.dir, path(value)),
    },
    Key {
        name: "log.keep",
        value: "7",
        about: "Log files kept there.",
        reloads: false,
        read: |config, value| put(&mut config.log.keep, number(value, 1..=3_650).and_then(size)),
    },
    Key {
        name: "ipam.quarantine_secs",
        value: "60",
        about: "How long an address rests after it was given back.",
        reloads: false,
        read: |config, value| put(&mut config.ipam.quarantine_secs, number(value, 0..=86_400)),
    },
    Key {
        name: "dns.enabled",
        value: "true",
        about: "Whether names are answered.",
        reloads: false,
        read: |config, value| put(&mut config.dns.enabled, toggle(value)),
    },
    Key {
        name: "dns.port",
        value: "53",
        about: "Where they are answered at the addresses of the overlay. Resolvers ask at 53 only.",
        reloads: false,
        read: |config, value| put(&mut config.dns.port, number(value, 1..=65_535).and_then(port)),
    },
    Key {
        name: "dns.listen",
        value: "[]",
        about: "Addresses to answer names at besides those of the overlay: ip or ip:port.",
        reloads: false,
        read: |config, value| set(&mut config.dns.listen, array(value, own_address)),
    },
    Key {
        name: "dns.zones",
        value: r#"["internal", "local"]"#,
        about: "Zones answered from the records of the overlay alone.",
        reloads: false,
        read: |config, value| put(&mut config.dns.zones, array(value, name)),
    },
    Key {
        name: "dns.search",
        value: "[]",
        about: "Domains in which names of one label are looked for.",
        reloads: false,
        read: |config, value| set(&mut config.dns.search, array(value, name)),
    },
    Key {
        name: "dns.upstreams",
        value: "[]",
        about: "Servers for all other names: ip or ip:port. Without any, those of /etc/resolv.conf.",
        reloads: false,
        read: |config, value| set(&mut config.dns.upstreams, array(value, |value| address(value, 53))),
    },
    Key {
        name: "dns.split",
        value: r#"["corp.example 10.0.0.53 10.0.1.53"]"#,
        about: "Servers for the names of a domain: the domain, then up to three of ip or ip:port. Without this, none.",
        reloads: false,
        read: |config, value| set(&mut config.dns.split, array(value, split)),
    },
    Key {
        name: "dns.records",
        value: r#"["_http._tcp.web.local SRV 0 0 80 web.local", "web.local TXT v=1"]"#,
        about: "Records besides those that are registered, SRV and TXT. Without this, none.",
        reloads: false,
        read: |config, value| set(&mut config.dns.records, array(value, record)),
    },
    Key {
        name: "dns.ttl_secs",
        value: "5",
        about: "How long an answer may be remembered.",
        reloads: false,
        read: |config, value| put(&mut config.dns.ttl_secs, number(value, 0..=86_400).and_then(small)),
    },
    Key {
        name: "dns.negative_ttl_secs",
        value: "1",
        about: "How long it may be remembered that there is no such name.",
        reloads: false,
        read: |config, value| put(&mut config.dns.negative_ttl_secs, number(value, 0..=86_400).and_then(small)),
    },
    Key {
        name: "metrics.listen",
        value: r#""127.0.0.1:9586""#,
        about: "Where metrics are served: an address of the loopback, or unix:/path. Without this, nowhere.",
        reloads: false,
        read: |config, value| put(&mut config.metrics.listen, metrics_listen(value)),
    },
    Key {
        name: "metrics.mode",
        value: r#""0660""#,
        about: "The mode of that socket, where it is one.",
        reloads: false,
        read: |config, value| put(&mut config.metrics.mode, mode(value)),
    },
    Key {
        name: "metrics.group",
        value: r#""prometheus""#,
        about: "The group that socket is given to, where there is one of that name.",
        reloads: false,
        read: |config, value| put(&mut config.metrics.group, text(value).map(str::to_owned)),
    },
];

/// Reads a text by the table.
pub(super) fn read(source: &str) -> Result<Config, Vec<Problem>> {
    let (document, errors) = DeTable::parse_recoverable(source);
    let mut problems: Vec<Problem> =
        errors.iter().map(|error| Problem::at(source, &error.span().unwrap_or_default(), error.message())).collect();
    let mut config = Config::default();
    // What follows a broken line means something else than it says.
    if problems.is_empty() {
        let mut complaints = Vec::new();
        read_table(&mut config, source, "", document.get_ref(), &mut complaints);
        problems = complaints.iter().map(|found| Problem::at(source, &found.span, &found.message)).collect();
    }
    problems.sort_by_key(|problem| (problem.line, problem.column));
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn read_table(config: &mut Config, source: &str, prefix: &str, table: &DeTable<'_>, complaints: &mut Vec<Complaint>) {
    for (name, value) in table.iter() {
        let full = format!("{prefix}{}", name.get_ref());
        if let Some(key) = KEYS.iter().find(|key| key.name == full) {
            match (key.read)(config, value) {
                Ok(()) => {
                    let said = source.get(value.span()).unwrap_or_default();
                    config.said.insert(key.name, said.to_owned());
                }
                Err(found) => complaints.push(Complaint { message: format!("{full}: {}", found.message), ..found }),
            }
            continue;
        }
        let is_section = KEYS.iter().any(|key| key.name.starts_with(&format!("{full}.")));
        match value.get_ref() {
            DeValue::Table(inner) if is_section => read_table(config, source, &format!("{full}."), inner, complaints),
            _ if is_section => complaints.push(Complaint {
                span: value.span(),
                message: format!("{full} is a section: write [{full}] and its keys below"),
            }),
            _ => complaints.push(unknown(&full, name)),
        }
    }
}

fn unknown(full: &str, name: &Spanned<impl AsRef<str>>) -> Complaint {
    let last = name.get_ref().as_ref();
    let names = || KEYS.iter().map(|key| key.name);
    // A key of another section by its own name alone, or one that is spelled alike.
    let elsewhere = names().find(|known| known.rsplit('.').next() == Some(last));
    let sections = names().filter_map(|known| Some(known.split_once('.')?.0));
    let meant = elsewhere.or_else(|| nearest(full, names().chain(sections)));
    let meant = meant.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
    Complaint { span: name.span(), message: format!("there is no key {full}{meant}") }
}

fn put<T>(field: &mut Option<T>, read: Result<T, Complaint>) -> Result<(), Complaint> {
    read.map(|value| *field = Some(value))
}

fn set<T>(field: &mut T, read: Result<T, Complaint>) -> Result<(), Complaint> {
    read.map(|value| *field = value)
}

/// Bounds are checked before, and none is beyond these types.
fn size(number: u64) -> Result<usize, Complaint> {
    Ok(usize::try_from(number).unwrap_or(usize::MAX))
}

fn small(number: u64) -> Result<u32, Complaint> {
    Ok(u32::try_from(number).unwrap_or(u32::MAX))
}

fn port(number: u64) -> Result<u16, Complaint> {
    Ok(u16::try_from(number).unwrap_or(u16::MAX))
}

fn name(value: Value<'_, '_>) -> Result<String, Complaint> {
    let text = text(value)?;
    canonical(text).or_else(|fault| complaint(value, format!("{text:?} is no name: {fault}")))
}

fn record(value: Value<'_, '_>) -> Result<StaticRecord, Complaint> {
    let text = text(value)?;
    StaticRecord::parse(text).or_else(|fault| complaint(value, format!("{text:?} is no record: {fault}")))
}

/// An address that is one, and not all.
fn own_address(value: Value<'_, '_>) -> Result<SocketAddr, Complaint> {
    match address(value, 53)? {
        all if all.ip().is_unspecified() => {
            complaint(value, "names are answered at addresses of their own, not at all there are")
        }
        one => Ok(one),
    }
}

/// A domain and its servers.
fn split(value: Value<'_, '_>) -> Result<(String, Vec<SocketAddr>), Complaint> {
    let mut words = text(value)?.split_whitespace();
    let domain = words.next().and_then(|domain| canonical(domain).ok());
    let servers: Option<Vec<_>> = words.map(|server| super::socket_addr(server, 53)).collect();
    match (domain, servers) {
        (Some(domain), Some(servers)) if (1..=3).contains(&servers.len()) => Ok((domain, servers)),
        _ => complaint(value, "a domain and behind it up to three servers are wanted, as \"corp.example 10.0.0.53\""),
    }
}

fn mode(value: Value<'_, '_>) -> Result<u32, Complaint> {
    let digits = text(value)?;
    match u32::from_str_radix(digits, 8) {
        Ok(mode) if mode & !0o666 == 0 && mode & 0o600 == 0o600 => Ok(mode),
        _ => complaint(
            value,
            format!("{digits:?} is no mode of a socket: octal digits in quotes, as \"0660\" or \"0666\""),
        ),
    }
}

fn principal(value: Value<'_, '_>) -> Result<PrincipalSpec, Complaint> {
    text(value)?.parse().or_else(|message: String| complaint(value, message))
}

fn offload(value: Value<'_, '_>) -> Result<Offload, Complaint> {
    flags::offload(text(value)?).or_else(|message| complaint(value, message))
}

fn filter(value: Value<'_, '_>) -> Result<String, Complaint> {
    let text = text(value)?;
    flags::log_filter(text).or_else(|error| complaint(value, format!("{text:?} is no filter: {error}")))
}

fn metrics_listen(value: Value<'_, '_>) -> Result<MetricsListen, Complaint> {
    let text = text(value)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok(MetricsListen::Unix(PathBuf::from(path))),
            false => complaint(value, "the path behind unix: is to be absolute"),
        };
    }
    match text.parse::<std::net::SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Ok(MetricsListen::Tcp(address)),
        Ok(_) => complaint(value, "metrics are served on the loopback only; put a proxy in front to serve others"),
        Err(_) => complaint(value, format!("{text:?} is neither ip:port nor unix:/path")),
    }
}
