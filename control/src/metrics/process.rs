//! The daemon as a process, under the names that every dashboard has for one.

use super::text::{Exposition, Kind};
use crate::lab::usage::{process_busy, process_rss};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// What the process uses; what the system does not tell is left out.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ProcessFacts {
    pub(super) rss_bytes: Option<u64>,
    pub(super) cpu_secs: Option<f64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    pub(super) started_unix_secs: Option<f64>,
}

impl ProcessFacts {
    /// Those of this process.
    pub(super) fn read(started: SystemTime) -> Self {
        let pid = std::process::id();
        Self {
            rss_bytes: process_rss(pid).ok(),
            cpu_secs: process_busy(pid).ok().map(|busy| busy.as_secs_f64()),
            // One of them is of the directory that is being read.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1)),
            max_fds: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
            started_unix_secs: started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64()),
        }
    }

    /// Writes them.
    pub(super) fn write(&self, text: &mut Exposition) {
        if let Some(bytes) = self.rss_bytes {
            let help = "Resident memory of the daemon.";
            text.family("process_resident_memory_bytes", Kind::Gauge, "bytes", help).sample(&[], bytes);
        }
        if let Some(secs) = self.cpu_secs {
            let help = "Processor time of the daemon, all its threads.";
            text.family("process_cpu_seconds", Kind::Counter, "seconds", help).sample(&[], secs);
        }
        if let Some(open) = self.open_fds {
            text.family("process_open_fds", Kind::Gauge, "", "Descriptors the daemon has open.").sample(&[], open);
        }
        if let Some(most) = self.max_fds {
            text.family("process_max_fds", Kind::Gauge, "", "Descriptors it may have open.").sample(&[], most);
        }
        if let Some(secs) = self.started_unix_secs {
            let help = "When the daemon was ready, in Unix seconds.";
            text.family("process_start_time_seconds", Kind::Gauge, "seconds", help).sample(&[], secs);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something_of_everything() {
        let facts = ProcessFacts::read(UNIX_EPOCH);
        assert!(facts.rss_bytes > Some(1 << 20) && facts.cpu_secs.is_some(), "{facts:?}");
        assert!(facts.open_fds >= Some(3) && facts.max_fds >= facts.open_fds, "{facts:?}");
        let mut text = Exposition::default();
        facts.write(&mut text);
        let text = text.finish();
        assert!(
            text.contains("\nprocess_start_time_seconds 0\n") && text.contains("\nprocess_cpu_seconds_total "),
            "{text}"
        );
        let mut none = Exposition::default();
        ProcessFacts::default().write(&mut none);
        assert_eq!(none.finish(), "# EOF\n");
    }
}
