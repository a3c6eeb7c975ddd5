//! Whose WireGuard a party runs.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An implementation of WireGuard with a control socket in `/var/run/wireguard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// Ours, in the process of the test.
    Ginnel,
    /// `wireguard-go`, from `PATH` or where `GINNEL_TEST_WIREGUARD_GO` says.
    WireguardGo,
    /// `boringtun-cli`, from `PATH` or where `GINNEL_TEST_BORINGTUN_CLI` says.
    BoringtunCli,
}

impl Make {
    /// Why this make cannot take part, if so.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        let (name, variable) = self.names()?;
        self.program()
            .is_none()
            .then(|| format!("{name} is not installed: put it in PATH, or its path into the variable {variable}"))
    }

    /// The command that runs this make in the foreground; `None` for ours, which needs no program.
    #[must_use]
    pub fn command(self, interface: &str) -> Option<Command> {
        let mut command = Command::new(self.program()?);
        match self {
            Self::Ginnel => return None,
            Self::WireguardGo => command.arg("--foreground").env("LOG_LEVEL", "verbose"),
            // It looks for the user behind `sudo`, and gives up where there is none.
            Self::BoringtunCli => command.args(["--foreground", "--disable-drop-privileges"]),
        };
        command.arg(interface);
        Some(command)
    }

    fn names(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Ginnel => None,
            Self::WireguardGo => Some(("wireguard-go", "GINNEL_TEST_WIREGUARD_GO")),
            Self::BoringtunCli => Some(("boringtun-cli", "GINNEL_TEST_BORINGTUN_CLI")),
        }
    }

    fn program(self) -> Option<PathBuf> {
        let (name, variable) = self.names()?;
        if let Some(path) = env::var_os(variable) {
            return Some(path.into()).filter(|path: &PathBuf| path.is_file());
        }
        let path = env::var_os("PATH")?;
        env::split_paths(&path).map(|directory| directory.join(name)).find(|path| Path::is_file(path))
    }
}
