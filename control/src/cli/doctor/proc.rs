//! Tables of the kernel under `/proc`, as text: locks, and what a process may and has.

/// The process that holds a `flock` on the file with this device and inode (proc_locks(5)): `1: FLOCK  ADVISORY  WRITE 77
/// fd:01:1234 0 EOF`, the numbers of the device in hexadecimal.
pub(super) fn lock_holder(locks: &str, major: u64, minor: u64, inode: u64) -> Option<u32> {
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let holder = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        // One that waits for the lock has an arrow before the kind.
        let held = words.get(1) == Some(&"FLOCK") && words.get(5) == Some(&file.as_str());
        words.get(4).filter(|_| held)?.parse().ok()
    };
    locks.lines().find_map(holder)
}

/// A line of `/proc/PID/status`.
pub(super) fn status_line<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// The soft limit on descriptors in `/proc/PID/limits`.
pub(super) fn descriptors_max(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{Flock, FlockArg};
    use nix::sys::stat::{major, minor};
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_holder_of_a_lock_is_found_and_one_who_waits_is_not() {
        let text = "1: POSIX  ADVISORY  WRITE 5 fd:01:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 77 fd:01:99 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 78 fd:01:98 0 EOF\n";
        assert_eq!(lock_holder(text, 0xfd, 1, 99), Some(77));
        assert_eq!(lock_holder(text, 0xfd, 1, 98), None);
        let dir = crate::temp_dir::TempDir::new();
        let file = fs::File::create(dir.join("lock")).unwrap();
        let found = file.metadata().unwrap();
        let _lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap();
        let locks = fs::read_to_string("/proc/locks").unwrap();
        let holder = lock_holder(&locks, major(found.dev()), minor(found.dev()), found.ino());
        assert_eq!(holder, Some(std::process::id()), "{locks}");
    }

    #[test]
    fn lines_of_a_process() {
        let own = fs::read_to_string("/proc/self/status").unwrap();
        assert!(u64::from_str_radix(status_line(&own, "CapEff").unwrap(), 16).is_ok());
        assert_eq!(status_line(&own, "Cap"), None);
        assert!(descriptors_max(&fs::read_to_string("/proc/self/limits").unwrap()) > Some(0));
        assert_eq!(descriptors_max("Max open files            unlimited  unlimited  files"), None);
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in any::<String>(), line in "[0-9A-F: ÄFLOCK]{0,60}") {
            let joined = format!("{text}\n{line}");
            lock_holder(&joined, 1, 2, 3);
            descriptors_max(&joined);
        }
    }
}
