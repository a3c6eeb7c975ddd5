//! The flags of the daemon, under either of its names.

use super::defaults::System;
use crate::config::LogFormat;
use crate::flags;
use clap::{CommandFactory, FromArgMatches, Parser};
use ginnel_engine::port::Offload;
use std::ffi::OsString;
use std::path::PathBuf;

/// Flags of the daemon. Each overrides its variable, which overrides the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct DaemonArgs {
    /// Configuration file [default: /etc/ginnel/ginneld.toml, where it exists]
    #[arg(long, value_name = "FILE", env = "GINNEL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Tell what is wrong with the configuration file and exit; status 78 if anything is
    #[arg(long)]
    pub check_config: bool,
    /// Where state is kept across restarts [default: /var/lib/ginnel]
    #[arg(long, value_name = "DIR", env = "GINNEL_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Unix socket to listen on for orders [default: /run/ginnel/ginneld.sock]
    #[arg(long, value_name = "PATH", env = "GINNEL_SOCKET")]
    pub socket: Option<PathBuf>,
    /// Directory of the control sockets for wg(8) [default: /var/run/wireguard, the only place where wg looks]
    #[arg(long, value_name = "DIR", env = "GINNEL_UAPI_DIR")]
    pub uapi_dir: Option<PathBuf>,
    /// Run under the Windows service manager; without meaning elsewhere
    #[arg(long, hide = true)]
    pub service: bool,
    /// Print what identifies this build and exit
    #[arg(long, hide = true)]
    pub build_id: bool,
    /// Do without a kernel offload: tun_tcp, tun_udp, link_segmentation, link_coalescing, tun_steering or link_steering;
    /// may be repeated
    #[arg(long, value_name = "NAME", value_parser = flags::offload, env = "GINNEL_OFFLOAD_OFF", value_delimiter = ',')]
    pub offload_off: Vec<Offload>,
    /// Leave the packet workers only the system calls they need
    #[arg(long, env = "GINNEL_SECCOMP", value_parser = clap::builder::FalseyValueParser::new())]
    pub seccomp: bool,
    /// Packet worker threads; 0 for one per core [default: 0]
    #[arg(long, value_name = "N", value_parser = flags::workers, env = "GINNEL_WORKERS")]
    pub workers: Option<usize>,
    /// What to log, as RUST_LOG has it, which overrides this [default: info]
    #[arg(long, value_name = "FILTER", value_parser = flags::log_filter, env = "GINNEL_LOG_LEVEL")]
    pub log_level: Option<String>,
    /// How to log [default: auto]
    #[arg(long, value_enum, value_name = "FORMAT", env = "GINNEL_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

#[derive(Parser)]
#[command(about = "Overlay network daemon: WireGuard for the containers of a node", long_about = None)]
struct Program {
    #[command(flatten)]
    args: DaemonArgs,
}

impl DaemonArgs {
    /// Reads the command line of a daemon process.
    pub(super) fn parse(system: System, argv: Vec<OsString>) -> Result<Self, clap::Error> {
        let matches = Self::command(system).try_get_matches_from(argv)?;
        Program::from_arg_matches(&matches).map(|program| program.args)
    }

    /// The command line under the name of `system`.
    pub(crate) fn command(system: System) -> clap::Command {
        let mut command =
            Program::command().name(system.program()).bin_name(system.program()).version(system.version());
        if system == System::Zlayer {
            command = command
                .mut_arg("data_dir", |arg| {
                    arg.help("Root data directory [default: /var/lib/zlayer, or $ZLAYER_DATA_DIR]")
                })
                .mut_arg("socket", |arg| arg.help("IPC socket [default: /var/run/zlayer-overlayd.sock]"))
                .mut_arg("uapi_dir", |arg| {
                    arg.help("Directory of the control sockets for wg(8) [default: /var/run/wireguard; with another data directory, run/wireguard in that]")
                });
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<DaemonArgs, clap::Error> {
        let argv = std::iter::once("ginneld").chain(args.iter().copied()).map(Into::into).collect();
        DaemonArgs::parse(System::Ginnel, argv)
    }

    #[test]
    fn flags() {
        assert_eq!(parse(&[]).unwrap(), DaemonArgs::default());
        let all = ["--data-dir", "/d", "--socket", "/s", "--service", "--workers", "3", "--offload-off", "tun_tcp"];
        let args = parse(&[&all[..], &["--offload-off", "link_coalescing", "--uapi-dir", "/u", "--seccomp"]].concat())
            .unwrap();
        assert_eq!(args.uapi_dir, Some("/u".into()));
        assert_eq!((args.data_dir, args.socket), (Some("/d".into()), Some("/s".into())));
        assert_eq!((args.service, args.workers, args.seccomp), (true, Some(3), true));
        assert_eq!(args.offload_off, [Offload::TunTcp, Offload::LinkCoalescing]);
    }

    #[test]
    fn wrong_flags_are_usage_errors() {
        for bad in [
            &["--offload-off", "gro"][..],
            &["--workers", "257"],
            &["--workers", "-1"],
            &["--what"],
            &["x"],
            &["--log-format", "xml"],
            &["--log-level", "=,="],
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        assert!(parse(&["--offload-off", "gro"]).unwrap_err().to_string().contains("link_segmentation"));
    }

    #[test]
    fn each_name_has_its_version_and_defaults() {
        let text = |system: System, flag: &str| {
            let error = DaemonArgs::parse(system, vec!["x".into(), flag.into()]).unwrap_err();
            assert_eq!(error.exit_code(), 0);
            error.to_string()
        };
        assert_eq!(text(System::Ginnel, "--version").trim(), concat!("ginneld ", env!("CARGO_PKG_VERSION")));
        assert!(text(System::Zlayer, "--version").starts_with("zlayer-overlayd 0.13.0"));
        assert!(text(System::Ginnel, "--help").contains("/run/ginnel/ginneld.sock"));
        let zlayer = text(System::Zlayer, "--help");
        assert!(zlayer.contains("zlayer-overlayd.sock") && !zlayer.contains("/run/ginnel"), "{zlayer}");
    }
}
