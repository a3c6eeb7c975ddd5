//! Getting the rights a laboratory needs without touching the host: as root in namespaces of the process's own, as
//! anybody else in a user namespace first. Says exactly what is missing where that is impossible.
//!
//! Afterwards the process has its own network namespace (empty), its own mounts, and an empty `/var/run`, so that
//! daemons started in the laboratory meet neither links nor control sockets of the host.

use super::{HostError, Netns};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::io;
use std::path::Path;

const TUN: &str = "/dev/net/tun";

/// Why there is no laboratory here, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum UserNsError {
    /// User namespaces are switched off by a limit.
    #[error(
        "user namespaces are switched off (user.max_user_namespaces = 0): run as root, or `sysctl -w \
         user.max_user_namespaces=15000`"
    )]
    LimitZero,
    /// User namespaces are for root only, on Debian-like kernels.
    #[error(
        "user namespaces are kept for root (kernel.unprivileged_userns_clone = 0): run as root, or `sysctl -w \
         kernel.unprivileged_userns_clone=1`"
    )]
    RootOnly,
    /// AppArmor takes the rights away inside a user namespace, on Ubuntu since 23.10.
    #[error(
        "AppArmor forbids rights in user namespaces (kernel.apparmor_restrict_unprivileged_userns = 1): run as root, \
         or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`"
    )]
    AppArmor,
    /// All user namespaces are in use.
    #[error("no user namespace is left (user.max_user_namespaces): raise the limit or run as root")]
    Exhausted,
    /// Refused for no reason the system shows, usually the system-call filter of a container.
    #[error(
        "{what} is not permitted: run as root; in a container also give `--cap-add NET_ADMIN --cap-add SYS_ADMIN \
         --device /dev/net/tun` and a seccomp profile that allows it, or `--privileged`"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
    },
    /// The process has other threads already.
    #[error("a user namespace can only be entered before other threads are started")]
    Threads,
    /// Another failure.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// There is no TUN device.
    #[error("{TUN} is missing: `modprobe tun` as root; in a container also `--device {TUN}`")]
    NoTun,
    /// The TUN device may not be opened.
    #[error(
        "{TUN} cannot be opened ({0}): make it readable and writable for this user, or give the container `--device {TUN}`"
    )]
    TunDenied(io::Error),
}

/// How the rights were got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// The process is root outside, too.
    Root,
    /// The process is root only in a user namespace of its own.
    UserNamespace,
}

/// Enters the namespaces. To be called before any other thread is started.
///
/// # Errors
/// [`UserNsError`]; the process may have entered some of the namespaces then and should end.
pub fn enter() -> Result<Rights, UserNsError> {
    let own = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    // Root in a container may lack CAP_SYS_ADMIN; then the way of everybody else is left.
    let rights = if geteuid().is_root() && unshare(own).is_ok() {
        Rights::Root
    } else {
        enter_user_ns(own)?;
        Rights::UserNamespace
    };
    own_var_run()?;
    Netns::current().and_then(|netns| netns.bring_lo_up()).map_err(|error| match error {
        HostError::Denied { .. } => refusal("configuring the loopback link", Errno::EPERM, &Switches::read()),
        other => UserNsError::System { what: "configuring the loopback link", source: io::Error::other(other) },
    })?;
    Ok(rights)
}

/// Whether TUN interfaces can be made.
///
/// # Errors
/// [`UserNsError::NoTun`] or [`UserNsError::TunDenied`].
pub fn check_tun() -> Result<(), UserNsError> {
    match fs::File::options().read(true).write(true).open(TUN) {
        Ok(_) => Ok(()),
        // ENODEV: the node is there, the module is not.
        Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(Errno::ENODEV as i32) => {
            Err(UserNsError::NoTun)
        }
        Err(error) => Err(UserNsError::TunDenied(error)),
    }
}

/// The process becomes root inside, the only user there, mapped to who it was outside (user_namespaces(7)).
fn enter_user_ns(own: CloneFlags) -> Result<(), UserNsError> {
    let (uid, gid) = (geteuid(), getegid());
    let what = "making a user namespace";
    unshare(CloneFlags::CLONE_NEWUSER | own).map_err(|errno| refusal(what, errno, &Switches::read()))?;
    let write = |path: &str, text: String| {
        fs::write(path, text).map_err(|error| match error.raw_os_error() {
            Some(code) => refusal("mapping users in a user namespace", Errno::from_raw(code), &Switches::read()),
            None => UserNsError::System { what: "mapping users in a user namespace", source: error },
        })
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Mounts over `/var/run`, or what it links to, in the process's own mount namespace only.
fn own_var_run() -> Result<(), UserNsError> {
    let what = "mounting a private /var/run";
    let refused = |errno| refusal(what, errno, &Switches::read());
    mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>).map_err(refused)?;
    let target = fs::canonicalize("/var/run").map_err(|source| UserNsError::System { what, source })?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), &target, Some("tmpfs"), flags, Some("mode=755")).map_err(refused)
}

/// The switches that decide about user namespaces; `None` where the kernel does not have one.
#[derive(Default)]
struct Switches {
    user_namespaces_max: Option<u64>,
    unprivileged_clone: Option<u64>,
    apparmor_restricts: Option<u64>,
}

impl Switches {
    fn read() -> Self {
        let number = |path| fs::read_to_string(path).ok()?.trim().parse().ok();
        Self {
            user_namespaces_max: number("/proc/sys/user/max_user_namespaces"),
            unprivileged_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restricts: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
        }
    }
}

fn refusal(what: &'static str, errno: Errno, switches: &Switches) -> UserNsError {
    match errno {
        Errno::ENOSPC | Errno::EUSERS if switches.user_namespaces_max == Some(0) => UserNsError::LimitZero,
        Errno::ENOSPC | Errno::EUSERS => UserNsError::Exhausted,
        Errno::EINVAL if what.contains("user namespace") => UserNsError::Threads,
        Errno::EPERM | Errno::EACCES if switches.unprivileged_clone == Some(0) => UserNsError::RootOnly,
        Errno::EPERM | Errno::EACCES if switches.apparmor_restricts == Some(1) => UserNsError::AppArmor,
        Errno::EPERM | Errno::EACCES => UserNsError::Forbidden { what },
        other => UserNsError::System { what, source: other.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_switch_to_turn() {
        let what = "making a user namespace";
        let none = Switches::default();
        let zero = Switches { user_namespaces_max: Some(0), ..Switches::default() };
        let debian = Switches { unprivileged_clone: Some(0), ..Switches::default() };
        let ubuntu = Switches { apparmor_restricts: Some(1), unprivileged_clone: Some(1), ..Switches::default() };
        for (errno, switches, expected) in [
            (Errno::ENOSPC, &zero, "sysctl -w user.max_user_namespaces"),
            (Errno::ENOSPC, &none, "raise the limit"),
            (Errno::EPERM, &debian, "kernel.unprivileged_userns_clone=1"),
            (Errno::EPERM, &ubuntu, "kernel.apparmor_restrict_unprivileged_userns=0"),
            (Errno::EPERM, &none, "--privileged"),
            (Errno::EINVAL, &none, "before other threads"),
            (Errno::ENOMEM, &none, "Cannot allocate memory"),
        ] {
            let text = refusal(what, errno, switches).to_string();
            assert!(text.contains(expected), "{errno}: {text}");
        }
    }
}
