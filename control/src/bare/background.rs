//! The way to the background without `fork`, which is unsafe in a program with threads: the launcher starts the same
//! program again, which stays in the foreground, and waits until that says it is ready.
//!
//! The word travels through the standard output of the device process, a pipe. Errors of the start go to the standard
//! error both share. Ready, the device process has a session of its own, `/` as its directory, and `/dev/null` for
//! input, output and, unless logs were asked for, errors; so neither a terminal nor a waiting pipe holds on to it.

use super::BareError;
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// Keeps a device in the foreground; a variable of wireguard-go.
pub const FOREGROUND_VARIABLE: &str = "WG_PROCESS_FOREGROUND";

/// Tells a device process that a launcher waits for it.
pub const LAUNCHED_VARIABLE: &str = "GINNEL_DEVICE_LAUNCHED";

const READY: &str = "ginnel device: ready";

/// A device process says one line. What else may stand before it, by a wrapper perhaps, has to be shorter than this.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

/// Starts this program again as a device process, and returns when it is ready.
pub fn launch() -> Result<(), BareError> {
    let program = std::env::current_exe().map_err(failed("finding the program to start in the background"))?;
    let mut args = std::env::args_os();
    let mut command = Command::new(program);
    // The name too: it may be what chose this command.
    args.next().into_iter().for_each(|name| {
        command.arg0(name);
    });
    command.args(args).env(FOREGROUND_VARIABLE, "1").env(LAUNCHED_VARIABLE, "1");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed("starting the device process"))?;
    if child.stdout.take().is_some_and(says_ready) {
        return Ok(());
    }
    let status = child.wait().map_err(failed("waiting for the device process"))?;
    Err(BareError::Background(status))
}

/// Leaves the terminal and the launcher behind, and tells the latter that the device is ready.
pub fn detach(keep_stderr: bool) -> Result<(), BareError> {
    // Fails where this process leads a group already, which is as good.
    let _ = setsid();
    std::env::set_current_dir("/").map_err(failed("changing to /"))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed("opening /dev/null"))?;
    let redirected = failed("redirecting to /dev/null");
    dup2_stdin(&null).map_err(|errno| redirected(errno.into()))?;
    // Fails where the launcher was killed. Whoever did that does not want the device.
    let mut stdout = io::stdout();
    writeln!(stdout, "{READY}").and_then(|()| stdout.flush()).map_err(failed("telling that the device is ready"))?;
    dup2_stdout(&null).map_err(|errno| redirected(errno.into()))?;
    if !keep_stderr {
        dup2_stderr(&null).map_err(|errno| redirected(errno.into()))?;
    }
    Ok(())
}

fn says_ready(output: impl Read) -> bool {
    BufReader::new(output.take(OUTPUT_BYTES_MAX))
        .split(b'\n')
        .any(|line| line.is_ok_and(|line| line == READY.as_bytes()))
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> BareError {
    move |source| BareError::System { action, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_line_counts_as_ready() {
        assert!(says_ready(format!("a wrapper speaks\n{READY}\nmore").as_bytes()));
        assert!(!says_ready("".as_bytes()));
        assert!(!says_ready(format!("not {READY}\n").as_bytes()));
        assert!(!says_ready(io::repeat(b'x')), "endless output ends the wait");
    }
}
