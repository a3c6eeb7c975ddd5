//! SIGHUP: the configuration file is read again, and what may change while the daemon runs changes.
//!
//! A file with a mistake changes nothing. What only a start reads is named, in the log and as a condition.

use super::logging::Log;
use super::notify::Notifier;
use super::setup::{Setup, level, read_file, server_settings};
use crate::ipc::access::Principal;
use crate::ipc::health::{ConditionCode, HealthBoard};
use crate::ipc::live::Live;
use crate::ipc::server::ServerSettings;
use crate::ipc::wire::Severity;
use std::convert::Infallible;
use tokio::signal::unix::Signal;

/// What a reload reaches.
pub(super) struct Reload<'a> {
    pub(super) setup: &'a Setup,
    pub(super) settings: &'a Live<ServerSettings>,
    pub(super) lets_in: &'a [Principal],
    pub(super) board: &'a HealthBoard,
    pub(super) log: Option<&'a Log>,
}

impl Reload<'_> {
    /// Reloads on each signal, and tells the service manager when it has.
    pub(super) async fn on_each(&self, mut hangups: Signal, notifier: &Notifier) -> Infallible {
        while hangups.recv().await.is_some() {
            notifier.reloading();
            self.load();
            notifier.ready();
        }
        std::future::pending().await
    }

    fn load(&self) {
        let args = &self.setup.args;
        let file = match read_file(args) {
            Ok(file) => file,
            Err(error) => {
                tracing::error!("the settings stay as they are: {error}");
                let hint = "mend the file, check it with ginneld --check-config, and reload";
                self.board.raise(ConditionCode::ConfigInvalid, None, Severity::Error, &error.to_string(), Some(hint));
                return;
            }
        };
        self.board.clear(ConditionCode::ConfigInvalid, None);
        self.settings.store(server_settings(args, &file, self.lets_in));
        if let Some(log) = self.log {
            log.set_level(level(args, &file).as_deref());
        }
        let waiting = file.needs_restart(&self.setup.file);
        if waiting.is_empty() {
            self.board.clear(ConditionCode::RestartNeeded, None);
            tracing::info!("the settings were read again");
            return;
        }
        let text = format!("changed, but read at a start only: {}", waiting.join(", "));
        tracing::warn!("the settings were read again; {text}");
        let hint = "restart the daemon when it suits";
        self.board.raise(ConditionCode::RestartNeeded, None, Severity::Info, &text, Some(hint));
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::DaemonArgs;
    use super::super::defaults::{Surroundings, System};
    use super::*;
    use crate::temp_dir::TempDir;
    use std::fs;

    #[test]
    fn what_can_change_does_and_the_rest_is_named() {
        let dir = TempDir::new();
        let path = dir.join("c.toml");
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("[ipc]\nconnections = 100\n");
        let args = DaemonArgs { config: Some(path.clone()), ..DaemonArgs::default() };
        let file = read_file(&args).unwrap();
        let setup = Setup::new(&args, &file, System::Ginnel, &Surroundings::default());
        let settings = Live::new(server_settings(&args, &file, &[]));
        let board = HealthBoard::default();
        let reload =
            Reload { setup: &setup, settings: &settings, lets_in: &[Principal::Group(7)], board: &board, log: None };
        let codes = || -> Vec<_> {
            board.health().conditions.into_iter().map(|condition| (condition.code, condition.text)).collect()
        };

        write("[ipc]\nconnections = 200\nrequest_timeout_secs = 5\n");
        reload.load();
        assert_eq!((settings.load().limits.connections, settings.load().limits.request_time.as_secs()), (200, 5));
        assert!(settings.load().policy.admin.contains(&Principal::Group(7)));
        assert_eq!(codes(), []);

        write("[ipc]\nconnections = 3\n");
        reload.load();
        assert_eq!(settings.load().limits.connections, 200);
        assert!(codes()[0].0 == "config_invalid" && codes()[0].1.contains("c.toml:2:15: "), "{:?}", codes());

        write("data_dir = \"/elsewhere\"\n[access]\nread = [\"user:5\"]\n[device]\nworkers = 2\n");
        reload.load();
        assert_eq!(settings.load().policy.read, [Principal::User(5)]);
        let text = "changed, but read at a start only: data_dir, device.workers";
        assert_eq!(codes(), [("restart_needed".to_owned(), text.to_owned())]);

        write("[ipc]\nconnections = 100\n");
        reload.load();
        assert_eq!(codes(), []);
    }
}
