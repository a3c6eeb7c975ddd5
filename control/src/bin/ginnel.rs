//! The operator's command line; under other names, the daemon or a bare device.

use std::process::ExitCode;

fn main() -> ExitCode {
    ginnel_control::cli::main()
}
