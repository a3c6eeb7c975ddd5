//! Who can take part, and how each is started.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

/// One program to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contender {
    /// Its name in the report; its beginning decides the kind.
    pub name: String,
    /// How it is driven.
    pub kind: Kind,
    /// The program; empty for [`Kind::Raw`].
    pub path: PathBuf,
}

/// How a program is started and configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No tunnel at all: the cable itself, to show what the generator and the kernel can do.
    Raw,
    /// Our own bare device.
    Ginnel,
    /// Our engine without a cipher: the ceiling that system calls and copies set.
    Null,
    /// wireguard-go.
    WireguardGo,
    /// boringtun-cli.
    Boringtun,
    /// gotatun.
    Gotatun,
    /// neptun-cli.
    Neptun,
    /// zlayer-overlayd, driven over its IPC instead of the WireGuard control socket.
    Zlayer,
}

impl Contender {
    /// The command that runs a WireGuard device called `interface` in the foreground; `None` for kinds that are no
    /// such program.
    #[must_use]
    pub fn device_command(&self, interface: &str) -> Option<Command> {
        let arguments: &[&str] = match self.kind {
            Kind::Raw | Kind::Zlayer => return None,
            Kind::Ginnel => &["device", "-f"],
            Kind::Null => &[],
            Kind::WireguardGo => &["-f"],
            Kind::Boringtun | Kind::Gotatun | Kind::Neptun => &["-f", "--disable-drop-privileges"],
        };
        let mut command = Command::new(&self.path);
        command.args(arguments).arg(interface);
        if self.kind == Kind::WireguardGo {
            // It warns, and on some systems stops, where the kernel could do it too.
            command.env("WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD", "1");
        }
        Some(command)
    }

    /// The command that runs a zlayer overlay daemon. It finds its control sockets only where both the flag and the
    /// variable name the same directory.
    #[must_use]
    pub fn daemon_command(&self, data: &Path, socket: &Path) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--data-dir").arg(data).arg("--socket").arg(socket);
        command.env("ZLAYER_DATA_DIR", data).env("HOME", data).env("RUST_LOG", "warn");
        command
    }
}

impl FromStr for Contender {
    type Err = String;

    /// `raw`, or `name=path`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').unwrap_or((text, ""));
        let kinds = [
            ("raw", Kind::Raw),
            ("ginnel", Kind::Ginnel),
            ("null", Kind::Null),
            ("wireguard-go", Kind::WireguardGo),
            ("boringtun", Kind::Boringtun),
            ("gotatun", Kind::Gotatun),
            ("neptun", Kind::Neptun),
            ("zlayer", Kind::Zlayer),
        ];
        let Some((_, kind)) = kinds.into_iter().find(|(prefix, _)| name.starts_with(prefix)) else {
            let names = kinds.map(|(prefix, _)| prefix).join(", ");
            return Err(format!("{name:?} is of no known kind: names begin with one of {names}"));
        };
        if kind != Kind::Raw && path.is_empty() {
            return Err(format!("{name} needs its program: {name}=PATH"));
        }
        Ok(Self { name: name.into(), kind, path: path.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_tells_the_kind() {
        let parse = |text: &str| text.parse::<Contender>();
        assert_eq!(parse("raw").unwrap().kind, Kind::Raw);
        let debian = parse("wireguard-go-debian=/usr/bin/wireguard-go").unwrap();
        assert_eq!((debian.kind, debian.path.to_str()), (Kind::WireguardGo, Some("/usr/bin/wireguard-go")));
        assert!(parse("openvpn=/x").unwrap_err().contains("gotatun"));
        assert!(parse("ginnel").unwrap_err().contains("ginnel=PATH"));
    }

    #[test]
    fn devices_run_in_the_foreground() {
        for text in ["ginnel=/g", "wireguard-go=/w", "boringtun=/b", "gotatun=/t", "neptun=/n"] {
            let command = text.parse::<Contender>().unwrap().device_command("wg7").unwrap();
            let arguments: Vec<_> = command.get_args().map(|argument| argument.to_str().unwrap()).collect();
            assert!(arguments.contains(&"-f") && arguments.last() == Some(&"wg7"), "{arguments:?}");
        }
        assert!("zlayer=/z".parse::<Contender>().unwrap().device_command("wg7").is_none());
    }
}
