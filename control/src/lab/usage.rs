//! What things cost: processor time of the machine and of processes, and their memory, as `/proc` tells it.

use std::fs;
use std::io;
use std::time::Duration;

/// Length of a clock tick in `/proc`: `USER_HZ` is 100 on every architecture this project runs on.
const TICK: Duration = Duration::from_millis(10);

/// Time that all processors together have spent on work since boot, interrupts included, idleness and stolen time not.
///
/// # Errors
/// The error of reading `/proc/stat`.
pub fn machine_busy() -> io::Result<Duration> {
    parse_machine(&fs::read_to_string("/proc/stat")?).ok_or_else(|| malformed("/proc/stat"))
}

/// Processor time that a process has used in all its threads, ended ones included.
///
/// # Errors
/// The error of reading `/proc/PID/stat`: not found where the process has ended.
pub fn process_busy(pid: u32) -> io::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    parse_process(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// The error of reading `/proc/PID/status`: not found where the process has ended.
pub fn process_rss(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/status");
    parse_rss(&fs::read_to_string(&path)?).ok_or_else(|| malformed(&path))
}

/// `cpu user nice system idle iowait irq softirq steal …` (proc_stat(5)).
fn parse_machine(text: &str) -> Option<Duration> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields = line.split_whitespace().map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = fields.as_slice() else { return None };
    ticks([user, nice, system, irq, softirq].into_iter().copied())
}

/// Fields 14 and 15 are `utime` and `stime`; the name in field 2 may hold blanks and brackets (proc_pid_stat(5)).
fn parse_process(text: &str) -> Option<Duration> {
    let (_, behind_name) = text.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    ticks([user, system].into_iter())
}

fn parse_rss(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn ticks(counts: impl Iterator<Item = u64>) -> Option<Duration> {
    TICK.checked_mul(u32::try_from(counts.sum::<u64>()).ok()?)
}

fn malformed(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} has another form than expected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn proc_lines_are_read() {
        assert_eq!(parse_machine("cpu  1 2 3 400 500 6 7 800 0 0\ncpu0 1"), Some(TICK * 19));
        assert_eq!(parse_machine("cpu0 1 2 3"), None);
        let stat = "77 (a) b (c)) S 1 77 77 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_process(stat), Some(TICK * 300));
        assert_eq!(parse_process("77 (a"), None);
        assert_eq!(parse_rss("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
    }

    #[test]
    fn own_work_is_seen() {
        let pid = std::process::id();
        let before = (machine_busy().unwrap(), process_busy(pid).unwrap());
        let start = Instant::now();
        let mut sum = 0_u64;
        while process_busy(pid).unwrap() < before.1 + TICK * 5 {
            assert!(start.elapsed() < Duration::from_secs(30));
            (0..1_000_000_u64).for_each(|n| sum = std::hint::black_box(sum ^ n));
        }
        assert!(machine_busy().unwrap() > before.0);
        assert!(process_rss(pid).unwrap() > 100_000);
        assert!(process_rss(u32::MAX).is_err());
    }
}
