//! What a daemon runs with: flags over environment over configuration file over the defaults of the system.

use super::args::DaemonArgs;
use super::defaults::{Surroundings, System};
use super::logging::{LogFilesSetup, LogSetup};
use crate::config::{Config, ConfigError, Dns, resolve};
use crate::dns::{DnsConfig, DnsServer};
use crate::ipc::access::{Policy, Principal};
use crate::ipc::events::EVENTS_KEPT;
use crate::ipc::server::{Limits, ServerSettings};
use crate::ipc::socket::SOCKET_MODE;
use crate::metrics::MetricsSetup;
use crate::node::{DNS_PORT, Naming, Tuning};
use nix::unistd::geteuid;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long taking the overlay down may last. It takes milliseconds; service managers wait 90 s.
const TEARDOWN_TIME: Duration = Duration::from_secs(10);

/// Log files kept unless told otherwise, as the daemon that is replaced keeps them.
const LOG_FILES_KEPT: usize = 7;

/// Every default filled in.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) state_dir: PathBuf,
    /// Where the replaced daemon would look for its record.
    pub(super) marker_dir: Option<PathBuf>,
    pub(super) socket: PathBuf,
    pub(super) uapi_dir: PathBuf,
    pub(super) group: String,
    pub(super) mode: u32,
    pub(super) events_kept: usize,
    pub(super) tuning: Tuning,
    /// The name server, unless there is to be none.
    pub(super) dns: Option<DnsSetup>,
    pub(super) log: LogSetup,
    pub(super) metrics: Option<MetricsSetup>,
    pub(super) teardown_time: Duration,
    /// What was read, to be compared when it is read again.
    pub(super) file: Config,
    /// What overrides the file.
    pub(super) args: DaemonArgs,
}

/// What the name server is made with.
#[derive(Clone, Debug)]
pub(super) struct DnsSetup {
    pub(super) config: DnsConfig,
    port: u16,
    at_node: bool,
    listen: Vec<SocketAddr>,
}

impl DnsSetup {
    /// Beside the replaced daemon's companion, which answers at the address of the node itself, that one is left alone.
    fn new(file: &Dns, system: System) -> Option<Self> {
        let usual = DnsConfig::default();
        let config = DnsConfig {
            zones: file.zones.clone().unwrap_or(usual.zones),
            search: file.search.clone(),
            upstreams: file.upstreams.clone(),
            split: file.split.clone(),
            records: file.records.clone(),
            ttl_secs: file.ttl_secs.unwrap_or(usual.ttl_secs),
            negative_ttl_secs: file.negative_ttl_secs.unwrap_or(usual.negative_ttl_secs),
            resolv_conf: usual.resolv_conf,
        };
        let (port, at_node) = (file.port.unwrap_or(DNS_PORT), system == System::Ginnel);
        file.enabled.unwrap_or(true).then(|| Self { config, port, at_node, listen: file.listen.clone() })
    }

    /// Starts it. A node without one is better than none.
    pub(super) fn start(&self) -> Option<Naming> {
        match DnsServer::start(&self.config) {
            Ok(server) => {
                let naming = Naming::new(server, self.port, self.at_node, self.config.ttl_secs);
                Some(naming.also_at(self.listen.clone()))
            }
            Err(error) => {
                tracing::error!(%error, "names are not answered");
                None
            }
        }
    }
}

/// Reads the configuration file that `args` name, or the usual one.
pub(super) fn read_file(args: &DaemonArgs) -> Result<Config, ConfigError> {
    match &args.config {
        Some(path) => Config::read(path),
        None => Config::read_default(),
    }
}

impl Setup {
    pub(super) fn new(args: &DaemonArgs, file: &Config, system: System, surroundings: &Surroundings) -> Self {
        let first = |flag: &Option<PathBuf>, key: &Option<PathBuf>| flag.clone().or_else(|| key.clone());
        let data_dir = first(&args.data_dir, &file.data_dir).unwrap_or_else(|| system.data_dir(surroundings));
        let socket = first(&args.socket, &file.ipc.socket);
        let uapi_dir = first(&args.uapi_dir, &file.device.uapi_dir);
        let offloads_off = match args.offload_off.is_empty() {
            true => file.device.offload_off.clone(),
            false => args.offload_off.clone(),
        };
        let log_dir = file.log.dir.clone().or_else(|| system.log_dir(surroundings));
        let keep = file.log.keep.unwrap_or(LOG_FILES_KEPT);
        Self {
            state_dir: system.state_dir(&data_dir),
            marker_dir: (system == System::Zlayer).then(|| data_dir.clone()),
            socket: socket.unwrap_or_else(|| system.socket(&data_dir, surroundings)),
            uapi_dir: uapi_dir.unwrap_or_else(|| system.uapi_dir(&data_dir, surroundings)),
            group: file.ipc.group.clone().unwrap_or_else(|| system.group().to_owned()),
            mode: file.ipc.mode.unwrap_or(SOCKET_MODE),
            events_kept: file.ipc.events_kept.unwrap_or(EVENTS_KEPT),
            tuning: Tuning {
                workers: args.workers.or(file.device.workers).unwrap_or(0),
                offloads_off,
                seccomp: args.seccomp || file.device.seccomp,
                quarantine: file.ipam.quarantine_secs.map_or_else(|| Tuning::default().quarantine, Duration::from_secs),
                ..Tuning::default()
            },
            dns: DnsSetup::new(&file.dns, system),
            log: LogSetup {
                format: args.log_format.or(file.log.format).unwrap_or_default(),
                level: level(args, file),
                files: log_dir.map(|dir| LogFilesSetup { dir, stem: system.log_stem(), keep }),
                identifier: system.program(),
            },
            metrics: file.metrics.listen.clone().map(|listen| MetricsSetup {
                listen,
                mode: file.metrics.mode.unwrap_or(SOCKET_MODE),
                group: file.metrics.group.clone(),
            }),
            teardown_time: TEARDOWN_TIME,
            file: file.clone(),
            args: args.clone(),
        }
    }
}

/// What the log filter is, where one is configured.
pub(super) fn level(args: &DaemonArgs, file: &Config) -> Option<String> {
    args.log_level.clone().or_else(|| file.log.level.clone())
}

/// What may change while the daemon runs, with the file in force. `lets_in` is whom the file of the socket lets in: they
/// may do everything unless the configuration says who may.
pub(super) fn server_settings(args: &DaemonArgs, file: &Config, lets_in: &[Principal]) -> ServerSettings {
    let usual = Limits::default();
    let limits = Limits {
        connections: file.ipc.connections.unwrap_or(usual.connections),
        request_time: file.ipc.request_timeout_secs.map_or(usual.request_time, Duration::from_secs),
        ..usual
    };
    let mut admin = vec![Principal::User(0), Principal::User(geteuid().as_raw())];
    admin.extend(file.access.admin.as_ref().map_or_else(|| lets_in.to_vec(), |specs| resolve(specs)));
    let set_in = args.config.as_deref().unwrap_or(Path::new(crate::config::DEFAULT_PATH)).display().to_string();
    let (attach, read) = (resolve(&file.access.attach), resolve(&file.access.read));
    ServerSettings { limits, policy: Policy { admin, attach, read, set_in } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::ipc::access::{Caller, Credentials};
    use crate::ipc::wire::Role;

    fn file(text: &str) -> Config {
        Config::parse(text).unwrap()
    }

    fn root() -> Surroundings {
        Surroundings { root: true, home: Some("/root".into()), ..Surroundings::default() }
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_the_defaults() {
        let said = file(
            "data_dir = \"/srv/f\"\n[ipc]\ngroup = \"g\"\nmode = \"0666\"\n[device]\nworkers = 3\noffload_off = [\"tun_udp\"]\nseccomp = true\n\
             [log]\nformat = \"json\"\nlevel = \"warn\"\n",
        );
        let args = DaemonArgs::default();
        let setup = Setup::new(&args, &said, System::Ginnel, &root());
        assert_eq!((setup.state_dir, setup.socket), ("/srv/f".into(), "/srv/f/run/ginneld.sock".into()));
        assert_eq!((setup.group.as_str(), setup.mode, setup.tuning.workers), ("g", 0o666, 3));
        assert_eq!((setup.tuning.offloads_off.len(), setup.tuning.seccomp), (1, true));
        assert_eq!((setup.log.format, setup.log.level.as_deref()), (LogFormat::Json, Some("warn")));
        let args = DaemonArgs {
            data_dir: Some("/srv/a".into()),
            workers: Some(0),
            log_level: Some("debug".into()),
            log_format: Some(LogFormat::Text),
            ..args
        };
        let setup = Setup::new(&args, &said, System::Ginnel, &root());
        assert_eq!((setup.state_dir, setup.tuning.workers), ("/srv/a".into(), 0));
        assert_eq!((setup.log.format, setup.log.level.as_deref()), (LogFormat::Text, Some("debug")));
        let setup = Setup::new(&DaemonArgs::default(), &Config::default(), System::Ginnel, &root());
        assert_eq!((setup.socket, setup.mode, setup.log.files), ("/run/ginnel/ginneld.sock".into(), 0o660, None));
    }

    #[test]
    fn the_name_server_is_made_as_the_file_says_and_leaves_the_companion_its_address() {
        let said = file("[dns]\nport = 5353\nzones = [\"a\"]\nttl_secs = 9\nlisten = [\"127.0.0.1\"]\n");
        let dns = DnsSetup::new(&said.dns, System::Ginnel).unwrap();
        assert_eq!((dns.port, dns.at_node, dns.listen.len()), (5_353, true, 1));
        assert_eq!((dns.config.zones, dns.config.ttl_secs, dns.config.negative_ttl_secs), (vec!["a".into()], 9, 1));
        let dns = DnsSetup::new(&Dns::default(), System::Zlayer).unwrap();
        assert_eq!((dns.port, dns.at_node, dns.config.zones.len()), (53, false, 2));
        assert!(DnsSetup::new(&file("[dns]\nenabled = false\n").dns, System::Ginnel).is_none());
    }

    #[test]
    fn the_drop_in_writes_its_log_where_that_one_did_but_never_without_a_home() {
        let args = DaemonArgs::default();
        let setup = Setup::new(&args, &Config::default(), System::Zlayer, &root());
        let files = setup.log.files.unwrap();
        assert_eq!((files.dir, files.stem, files.keep), ("/root/.zlayer/logs".into(), "overlayd.log", 7));
        let homeless = Surroundings { home: None, ..root() };
        assert_eq!(Setup::new(&args, &Config::default(), System::Zlayer, &homeless).log.files, None);
    }

    #[test]
    fn the_file_of_the_socket_decides_unless_the_configuration_does() {
        let who = |uid, gids: &[u32]| Credentials { caller: Caller { uid: Some(uid), pid: None }, gids: gids.to_vec() };
        let role = |text: &str, who| {
            server_settings(&DaemonArgs::default(), &file(text), &[Principal::Group(70)]).policy.role_of(&who)
        };
        assert_eq!(role("", who(5, &[70])), Some(Role::Admin));
        assert_eq!(role("[access]\nadmin = []\n", who(5, &[70])), None);
        assert_eq!(role("[access]\nadmin = []\n", who(0, &[])), Some(Role::Admin));
        assert_eq!(role("[access]\nadmin = []\n", who(geteuid().as_raw(), &[])), Some(Role::Admin));
        assert_eq!(role("[access]\nread = [\"user:5\"]\n", who(5, &[])), Some(Role::Read));
        assert_eq!(role("[access]\nread = [\"user:5\"]\n", who(5, &[70])), Some(Role::Admin));
    }
}
