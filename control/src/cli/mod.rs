//! The operator's command line, and the choice of the program by the name it was started under.
//!
//! | Name | Program |
//! |---|---|
//! | `ginneld`, `zlayer-overlayd` | the daemon |
//! | `ginnel-device`, `wireguard-go` | one bare WireGuard device |
//! | anything else | this command line |
//!
//! Exit status: 0 done, 1 refused or failed, 2 wrong usage, 69 no daemon to talk to (`EX_UNAVAILABLE` of sysexits).

mod client;
mod json;
mod table;

use crate::daemon::{DaemonArgs, System, main_with, program_name, run};
use crate::{bare, demo};
use clap::Parser;
use std::ffi::OsString;
use std::process::ExitCode;

/// Ginnel: a WireGuard overlay for the containers of a node
#[derive(Parser)]
#[command(name = "ginnel", version, arg_required_else_help = true)]
struct Program {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show what the daemon has up
    Status(client::Args),
    /// Show its peers
    Peers(client::Args),
    /// Show an overlay at work on this machine, and clean up
    Demo(demo::DemoArgs),
    /// Run one bare WireGuard device, configured with wg(8)
    Device(bare::DeviceArgs),
    /// Run the daemon in the foreground
    Daemon(DaemonArgs),
}

/// One bare WireGuard device, configured with wg(8)
#[derive(Parser)]
#[command(name = "ginnel-device", version)]
struct DeviceProgram {
    #[command(flatten)]
    args: bare::DeviceArgs,
}

/// The whole program `ginnel`, under whichever name it was started.
#[must_use]
pub fn main() -> ExitCode {
    main_as(std::env::args_os().collect())
}

fn main_as(argv: Vec<OsString>) -> ExitCode {
    match program_name(argv.first()).as_deref() {
        Some("ginneld" | "zlayer-overlayd") => main_with(argv),
        Some("ginnel-device" | "wireguard-go") => match DeviceProgram::try_parse_from(argv) {
            Ok(program) => bare::run(program.args),
            Err(error) => usage(&error),
        },
        _ => match Program::try_parse_from(argv) {
            Ok(program) => program.command.run(),
            Err(error) => usage(&error),
        },
    }
}

impl Command {
    fn run(self) -> ExitCode {
        match self {
            Command::Status(args) => client::status(&args),
            Command::Peers(args) => client::peers(&args),
            Command::Demo(args) => demo::run(args),
            Command::Device(args) => bare::run(args),
            Command::Daemon(args) => run(&args, System::Ginnel),
        }
    }
}

/// Help and version end with 0, everything else with 2.
fn usage(error: &clap::Error) -> ExitCode {
    // Where even the terminal is gone there is nobody left to tell.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_lines_are_sound() {
        Program::command().debug_assert();
        DeviceProgram::command().debug_assert();
    }

    fn outcome(argv: &[&str]) -> ExitCode {
        main_as(argv.iter().map(Into::into).collect())
    }

    #[test]
    fn usage_errors_are_2_whatever_the_name() {
        let usage = format!("{:?}", ExitCode::from(2));
        for argv in [
            &["ginnel"][..],
            &["ginnel", "fly"],
            &["ginnel", "status", "--wrong"],
            &["/usr/sbin/ginneld", "--wrong"],
            &["zlayer-overlayd", "--workers", "many"],
        ] {
            assert_eq!(format!("{:?}", outcome(argv)), usage, "{argv:?}");
        }
        assert_eq!(format!("{:?}", outcome(&["ginnel", "--version"])), format!("{:?}", ExitCode::SUCCESS));
    }
}
