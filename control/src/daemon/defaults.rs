//! Where things are when no flag says so, for the two systems this daemon can belong to: its own, and the one whose
//! `zlayer-overlayd` it replaces. The latter's rules are its published ones, quirks included, because its main daemon
//! computes the same paths.

use crate::uapi;
use nix::unistd::geteuid;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Longest socket path the replaced daemon uses before it falls back to a hashed one.
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Longest directory of control sockets that leaves room for the name of an interface in a socket address.
const UAPI_DIR_BYTES_MAX: usize = 82;

/// Whose daemon this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// Its own: `ginneld`.
    Ginnel,
    /// The drop-in for `zlayer-overlayd`.
    Zlayer,
}

/// What the defaults depend on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Whether the process is root.
    pub root: bool,
    /// Whether the system is macOS.
    pub macos: bool,
    /// Home directory, if there is one.
    pub home: Option<PathBuf>,
    /// `ZLAYER_DATA_DIR`, if it is not empty.
    pub zlayer_data_dir: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            root: geteuid().is_root(),
            macos: cfg!(target_os = "macos"),
            home: path("HOME"),
            zlayer_data_dir: path("ZLAYER_DATA_DIR"),
        }
    }
}

impl System {
    /// Whose daemon a program of this name is (its directory and an `.exe` do not matter).
    #[must_use]
    pub fn of_program(argv0: Option<&OsString>) -> Self {
        match program_name(argv0).as_deref() {
            Some("zlayer-overlayd") => System::Zlayer,
            _ => System::Ginnel,
        }
    }

    pub(super) fn program(self) -> &'static str {
        match self {
            System::Ginnel => "ginneld",
            System::Zlayer => "zlayer-overlayd",
        }
    }

    /// What `--version` says. The drop-in names the contract it keeps first.
    pub(super) fn version(self) -> &'static str {
        match self {
            System::Ginnel => env!("CARGO_PKG_VERSION"),
            System::Zlayer => concat!("0.13.0 (ginneld ", env!("CARGO_PKG_VERSION"), ")"),
        }
    }

    /// The group that may give orders.
    pub(super) fn group(self) -> &'static str {
        match self {
            System::Ginnel => "ginnel",
            System::Zlayer => "zlayer",
        }
    }

    /// Where log files go without being configured, if anywhere. The published program falls back to the directory for
    /// temporary files; that is everybody's, so without a home there are none.
    pub(super) fn log_dir(self, around: &Surroundings) -> Option<PathBuf> {
        match self {
            System::Ginnel => None,
            System::Zlayer => around.home.as_deref().map(|home| home.join(".zlayer/logs")),
        }
    }

    /// The name of log files without the date.
    pub(super) fn log_stem(self) -> &'static str {
        match self {
            System::Ginnel => "ginneld.log",
            System::Zlayer => "overlayd.log",
        }
    }

    /// Where the system keeps its data.
    #[must_use]
    pub fn data_dir(self, around: &Surroundings) -> PathBuf {
        match self {
            System::Ginnel if around.root => "/var/lib/ginnel".into(),
            System::Ginnel => around.home.as_deref().unwrap_or(Path::new("/var/lib/ginnel")).join(".ginnel"),
            System::Zlayer => around.zlayer_data_dir.clone().unwrap_or_else(|| zlayer_platform_data_dir(around)),
        }
    }

    /// The part of the data directory that is this daemon's own, mode 0700. The data directory of the other system is
    /// shared with its main daemon, so there it is one below.
    pub(crate) fn state_dir(self, data_dir: &Path) -> PathBuf {
        match self {
            System::Ginnel => data_dir.to_owned(),
            System::Zlayer => data_dir.join("overlayd"),
        }
    }

    /// Where a daemon with this data directory listens.
    #[must_use]
    pub fn socket(self, data_dir: &Path, around: &Surroundings) -> PathBuf {
        let (usual, near, far) = match self {
            System::Ginnel => {
                let usual = data_dir == Path::new("/var/lib/ginnel");
                (usual.then(|| "/run/ginnel/ginneld.sock".into()), "run/ginneld.sock", "/run/ginnel/ginneld-")
            }
            System::Zlayer => {
                // The comparison does not look at ZLAYER_DATA_DIR.
                let usual = !around.macos && data_dir == zlayer_platform_data_dir(around);
                let usual = usual.then(|| "/var/run/zlayer-overlayd.sock".into());
                (usual, "run/zlayer-overlayd.sock", "/tmp/zlayer-overlayd-")
            }
        };
        usual.unwrap_or_else(|| {
            let near = data_dir.join(near);
            if near.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
                return near;
            }
            let hash = fnv1a(data_dir.as_os_str().as_bytes().iter().chain(b"overlayd"));
            format!("{far}{hash:016x}.sock").into()
        })
    }

    /// Where the control sockets of its devices are: where `wg` looks, unless the contract says otherwise.
    #[must_use]
    pub fn uapi_dir(self, data_dir: &Path, around: &Surroundings) -> PathBuf {
        let near = data_dir.join("run/wireguard");
        let usual = match self {
            System::Ginnel => true,
            // Unlike for its socket, the variable does make a default here.
            System::Zlayer => {
                let told = around.zlayer_data_dir.as_deref() == Some(data_dir);
                !around.macos && (told || data_dir == zlayer_platform_data_dir(around))
            }
        };
        // The published rule hashes a long path into /tmp, where anybody could put a directory of that name first.
        if usual || near.as_os_str().len() > UAPI_DIR_BYTES_MAX { uapi::DIRECTORY.into() } else { near }
    }
}

/// The last part of the path a program was started by, without an `.exe`.
pub(crate) fn program_name(argv0: Option<&OsString>) -> Option<String> {
    let name = Path::new(argv0?).file_name()?.to_str()?;
    Some(name.strip_suffix(".exe").unwrap_or(name).to_owned())
}

fn zlayer_platform_data_dir(around: &Surroundings) -> PathBuf {
    const SYSTEM_WIDE: &str = "/var/lib/zlayer";
    if around.root && !around.macos {
        return SYSTEM_WIDE.into();
    }
    around.home.as_deref().unwrap_or(Path::new(SYSTEM_WIDE)).join(".zlayer")
}

/// FNV-1a, 64 bits.
fn fnv1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Surroundings {
        Surroundings { root: true, home: Some("/root".into()), ..Surroundings::default() }
    }

    fn user() -> Surroundings {
        Surroundings { home: Some("/home/u".into()), ..Surroundings::default() }
    }

    fn socket(system: System, data_dir: &str, around: &Surroundings) -> String {
        system.socket(Path::new(data_dir), around).display().to_string()
    }

    #[test]
    fn the_name_decides() {
        for (name, system) in [
            ("zlayer-overlayd", System::Zlayer),
            ("/usr/bin/zlayer-overlayd", System::Zlayer),
            ("zlayer-overlayd.exe", System::Zlayer),
            ("/usr/bin/ginneld", System::Ginnel),
            ("", System::Ginnel),
        ] {
            assert_eq!(System::of_program(Some(&name.into())), system, "{name}");
        }
        assert_eq!(System::of_program(None), System::Ginnel);
    }

    #[test]
    fn own_paths() {
        assert_eq!(System::Ginnel.data_dir(&root()), Path::new("/var/lib/ginnel"));
        assert_eq!(System::Ginnel.data_dir(&user()), Path::new("/home/u/.ginnel"));
        assert_eq!(socket(System::Ginnel, "/var/lib/ginnel", &root()), "/run/ginnel/ginneld.sock");
        assert_eq!(socket(System::Ginnel, "/var/lib/ginnel", &user()), "/run/ginnel/ginneld.sock");
        assert_eq!(socket(System::Ginnel, "/srv/x", &root()), "/srv/x/run/ginneld.sock");
    }

    #[test]
    fn paths_of_the_system_that_is_replaced() {
        let system = System::Zlayer;
        assert_eq!(system.data_dir(&root()), Path::new("/var/lib/zlayer"));
        assert_eq!(system.data_dir(&user()), Path::new("/home/u/.zlayer"));
        assert_eq!(system.data_dir(&Surroundings::default()), Path::new("/var/lib/zlayer/.zlayer"));
        let told = Surroundings { zlayer_data_dir: Some("/srv/z".into()), ..root() };
        assert_eq!(system.data_dir(&told), Path::new("/srv/z"));
        assert_eq!(socket(system, "/var/lib/zlayer", &root()), "/var/run/zlayer-overlayd.sock");
        assert_eq!(socket(system, "/home/u/.zlayer", &user()), "/var/run/zlayer-overlayd.sock");
        // The published quirk: the default of root is no default for others, and the variable makes none.
        assert_eq!(socket(system, "/var/lib/zlayer", &user()), "/var/lib/zlayer/run/zlayer-overlayd.sock");
        assert_eq!(socket(system, "/srv/z", &told), "/srv/z/run/zlayer-overlayd.sock");
        let mac = Surroundings { macos: true, ..user() };
        assert_eq!(system.data_dir(&Surroundings { root: true, ..mac.clone() }), Path::new("/home/u/.zlayer"));
        assert_eq!(socket(system, "/home/u/.zlayer", &mac), "/home/u/.zlayer/run/zlayer-overlayd.sock");
        assert_eq!(system.state_dir(Path::new("/srv/z")), Path::new("/srv/z/overlayd"));
    }

    #[test]
    fn long_paths_are_hashed() {
        // 103 bytes still fit: the name behind the data directory takes 25.
        let fits = format!("/{}", "d".repeat(77));
        assert_eq!(socket(System::Zlayer, &fits, &root()).len(), 103);
        let long = format!("/{}", "d".repeat(78));
        let path = socket(System::Zlayer, &long, &root());
        let hash = fnv1a(format!("{long}overlayd").as_bytes().iter());
        assert_eq!(path, format!("/tmp/zlayer-overlayd-{hash:016x}.sock"));
        assert!(socket(System::Ginnel, &long.repeat(2), &root()).starts_with("/run/ginnel/ginneld-"));
    }

    #[test]
    fn control_sockets_are_where_wg_looks_but_for_the_drop_in_with_another_data_directory() {
        let dir = |system: System, data_dir: &str, around: &Surroundings| {
            system.uapi_dir(Path::new(data_dir), around).display().to_string()
        };
        assert_eq!(dir(System::Ginnel, "/var/lib/ginnel", &root()), "/var/run/wireguard");
        assert_eq!(dir(System::Ginnel, "/srv/x", &root()), "/var/run/wireguard");
        assert_eq!(dir(System::Zlayer, "/var/lib/zlayer", &root()), "/var/run/wireguard");
        assert_eq!(dir(System::Zlayer, "/srv/z", &root()), "/srv/z/run/wireguard");
        let told = Surroundings { zlayer_data_dir: Some("/srv/z".into()), ..root() };
        assert_eq!(dir(System::Zlayer, "/srv/z", &told), "/var/run/wireguard");
        assert_eq!(dir(System::Zlayer, "/srv/y", &told), "/srv/y/run/wireguard");
        assert_eq!(dir(System::Zlayer, &format!("/{}", "d".repeat(100)), &root()), "/var/run/wireguard");
        let mac = Surroundings { macos: true, ..user() };
        assert_eq!(dir(System::Zlayer, "/home/u/.zlayer", &mac), "/home/u/.zlayer/run/wireguard");
    }

    #[test]
    fn fnv1a_reference_values() {
        assert_eq!(fnv1a(b"".iter()), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a".iter()), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar".iter()), 0x8594_4171_f739_67e8);
    }
}
