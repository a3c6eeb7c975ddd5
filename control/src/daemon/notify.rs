//! Telling the service manager how far the daemon is: the datagrams of sd_notify(3), and nothing where none is waited for.

use nix::time::{ClockId, clock_gettime};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Where a manager waits.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The way to the service manager, if there is one.
#[derive(Debug)]
pub(super) struct Notifier(Option<OsString>);

impl Notifier {
    /// That of this process.
    pub(super) fn of_process() -> Self {
        Self(std::env::var_os(VARIABLE).filter(|name| !name.is_empty()))
    }

    /// Orders are taken.
    pub(super) fn ready(&self) {
        self.tell("READY=1");
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Settings are read again; [`Notifier::ready`] ends it.
    pub(super) fn reloading(&self) {
        // The manager tells a reload from earlier ones by this clock.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map_or(0, |time| i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_nsec()) / 1_000);
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// A sign of life.
    pub(super) fn watchdog(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, state: &str) {
        let Some(name) = &self.0 else { return };
        if let Err(error) = send(name, state) {
            tracing::warn!(%error, state, "the service manager at {VARIABLE} cannot be told");
        }
    }
}

fn send(name: &OsStr, state: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold us up.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &address(name)?).map(drop)
}

/// A path, or behind an `@` a name in the abstract namespace of Linux.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'/', ..] => SocketAddr::from_pathname(name),
        #[cfg(target_os = "linux")]
        [b'@', abstract_name @ ..] => {
            <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(abstract_name)
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;

    fn heard(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    }

    #[test]
    fn managers_are_told_at_paths_and_at_abstract_names() {
        let dir = TempDir::new();
        let at_path = UnixDatagram::bind(dir.join("notify")).unwrap();
        let abstract_name = format!("ginnel-test-notify-{}", std::process::id());
        let abstract_address = address(OsStr::new(&format!("@{abstract_name}"))).unwrap();
        let at_name = UnixDatagram::bind_addr(&abstract_address).unwrap();
        for (manager, name) in
            [(at_path, dir.join("notify").into_os_string()), (at_name, format!("@{abstract_name}").into())]
        {
            let notifier = Notifier(Some(name));
            notifier.ready();
            notifier.watchdog();
            notifier.stopping();
            assert_eq!([heard(&manager), heard(&manager), heard(&manager)], ["READY=1", "WATCHDOG=1", "STOPPING=1"]);
            notifier.reloading();
            let told = heard(&manager);
            let clock = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{told}"));
            assert!(clock.parse::<u64>().unwrap() > 0);
        }
    }

    #[test]
    fn nobody_to_tell_is_no_matter() {
        Notifier(None).ready();
        for name in ["/nonexistent/socket", "relative", "@", "vsock:2:1234", "/dev/null"] {
            Notifier(Some(name.into())).ready();
        }
        assert!(send(OsStr::new("relative"), "READY=1").is_err());
    }
}
