//! What the process may do: as little as its work needs, from before its first thread on.
//!
//! Capabilities it does not use are given up for good, the programs it could be tricked into starting get none at all, and
//! its memory, which holds private keys, is neither dumped when it crashes nor read by processes of its user.
//!
//! Left out: what is not a right of the process but of the unit it runs in (file systems, system calls, devices); see
//! `contrib/systemd`.

use ginnel_backends::linux::{Capabilities, capabilities, drop_from_bound, set_capabilities};
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use std::io;

/// A capability that is kept where it was given.
#[derive(Debug)]
struct Kept {
    /// Its number in `linux/capability.h`.
    number: u8,
    name: &'static str,
    /// What does not work without it.
    without: &'static str,
}

const fn kept(number: u8, name: &'static str, without: &'static str) -> Kept {
    Kept { number, name, without }
}

/// Everything the daemon and its devices do that takes a capability.
const KEPT: [Kept; 7] = [
    kept(0, "CAP_CHOWN", "the socket is not given to its group"),
    kept(
        2,
        "CAP_DAC_READ_SEARCH",
        "namespaces in directories of other users, as of rootless containers, are not found",
    ),
    kept(10, "CAP_NET_BIND_SERVICE", "a wg_port below 1024 cannot be had"),
    kept(12, "CAP_NET_ADMIN", "no overlay comes up"),
    kept(19, "CAP_SYS_PTRACE", "containers cannot be attached by their process"),
    kept(21, "CAP_SYS_ADMIN", "containers cannot be attached: their namespaces may not be entered"),
    kept(39, "CAP_BPF", "packets are not steered to the worker that owns their peer"),
];

/// What came of [`confine`], to be told once there is a log.
#[derive(Debug)]
pub(super) struct Confined {
    missing: Vec<&'static Kept>,
    failures: Vec<(&'static str, io::Error)>,
}

/// Gives up everything that is not needed. To be called before there is a second thread: capabilities are a thread's, and
/// threads have those of the one that started them. What cannot be given up is no reason not to start.
pub(super) fn confine() -> Confined {
    let mut failures = Vec::new();
    let mut attempt = |what, result: io::Result<()>| {
        if let Err(error) = result {
            failures.push((what, error));
        }
    };
    attempt("forbid new privileges", set_no_new_privs().map_err(io::Error::from));
    attempt("forbid core dumps", setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(io::Error::from));
    let wanted = KEPT.iter().fold(0, |set, kept| set | 1_u64 << kept.number);
    let missing = match capabilities() {
        Ok(has) => {
            drop_bound(wanted);
            let permitted = has.permitted & wanted;
            attempt("give capabilities up", set_capabilities(Capabilities { effective: permitted, permitted }));
            KEPT.iter().filter(|kept| has.permitted >> kept.number & 1 == 0).collect()
        }
        Err(error) => {
            attempt("read the capabilities", Err(error));
            Vec::new()
        }
    };
    // Last: a change of capabilities may set it.
    attempt("hide the memory from other processes", set_dumpable(false).map_err(io::Error::from));
    Confined { missing, failures }
}

/// Programs that are started get nothing but `kept` in any way; without CAP_SETPCAP that rests on the ban on new privileges.
fn drop_bound(kept: u64) {
    for capability in (0..64).filter(|number| kept >> number & 1 == 0) {
        if drop_from_bound(capability).is_err() {
            return;
        }
    }
}

impl Confined {
    /// Tells what could not be given up, and what is missed.
    pub(super) fn tell(&self) {
        for (what, error) in &self.failures {
            tracing::warn!(%error, "cannot {what}; going on with more rights than are needed");
        }
        for Kept { name, without, .. } in &self.missing {
            tracing::info!(capability = name, "not given: {without}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::prctl::get_no_new_privs;
    use nix::sys::resource::getrlimit;
    use std::process::{Command, Stdio};

    const CONFINED: &str = "GINNEL_TEST_CONFINED";

    /// In a process of its own, for what is given up does not come back.
    #[test]
    fn what_is_not_needed_is_given_up() {
        if std::env::var_os(CONFINED).is_none() {
            let mut program = Command::new(std::env::current_exe().unwrap());
            program.args(["--exact", "daemon::rights::tests::what_is_not_needed_is_given_up", "--nocapture"]);
            let output = program.env(CONFINED, "1").stdin(Stdio::null()).output().unwrap();
            return assert!(output.status.success(), "{output:?}");
        }
        let before = capabilities().unwrap();
        let confined = confine();
        assert!(confined.failures.is_empty(), "{confined:?}");
        let wanted = KEPT.iter().fold(0, |set, kept| set | 1_u64 << kept.number);
        let permitted = before.permitted & wanted;
        assert_eq!(capabilities().unwrap(), Capabilities { effective: permitted, permitted });
        assert_eq!(confined.missing.len() as u32, (wanted & !before.permitted).count_ones());
        assert_eq!((get_no_new_privs(), getrlimit(Resource::RLIMIT_CORE)), (Ok(true), Ok((0, 0))));
        // A thread started now, and the memory: as the kernel tells it.
        let status =
            std::thread::spawn(|| std::fs::read_to_string("/proc/thread-self/status").unwrap()).join().unwrap();
        let set = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            u64::from_str_radix(line.trim_start_matches(':').trim(), 16).unwrap()
        };
        assert_eq!((set("CapPrm"), set("CapEff"), set("CapInh")), (permitted, permitted, 0));
        assert!(before.permitted >> 8 & 1 == 0 || set("CapBnd") & !wanted == 0, "CAP_SETPCAP was there");
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
        // The namespaces of our own process can still be opened.
        crate::host::Netns::current().unwrap();
    }

    #[test]
    fn numbers_and_names_are_those_of_the_unit_and_the_paper() {
        let unit = include_str!("../../../contrib/systemd/ginneld.service");
        let paper = include_str!("../../../docs/operate.md");
        let bound = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let mut named: Vec<_> = bound.split(' ').collect();
        named.sort_unstable();
        let mut kept: Vec<_> = KEPT.iter().map(|kept| kept.name).collect();
        kept.sort_unstable();
        assert_eq!(named, kept);
        for name in kept {
            assert!(paper.contains(&format!("| `{name}` |")), "{name} is not in the paper");
        }
    }
}
