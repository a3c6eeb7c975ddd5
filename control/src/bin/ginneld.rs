//! The daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    ginnel_control::daemon::main_with(std::env::args_os().collect())
}
