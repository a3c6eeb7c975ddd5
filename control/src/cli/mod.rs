//! The operator's command line, and the choice of the program by the name it was started under.
//!
//! | Name | Program |
//! |---|---|
//! | `ginneld`, `zlayer-overlayd` | the daemon |
//! | `ginnel-device`, `wireguard-go` | one bare WireGuard device |
//! | anything else | this command line |
//!
//! Exit status: 0 done, 1 refused or failed, 2 wrong usage, and of sysexits.h 69 no daemon to talk to, 75 try again, 77 not
//! permitted.

mod call;
mod client;
mod dns;
mod doctor;
mod events;
mod json;
mod lists;
mod papers;
mod show;
mod style;
mod table;
mod top;

use crate::daemon::{DaemonArgs, System, main_with, program_name, run};
use crate::ipc::wire::ObjectKind;
use crate::{bare, demo};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;
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
    /// Show its service overlays
    Services(client::Args),
    /// Show the workloads attached
    Attachments(client::Args),
    /// Show the addresses given out
    Leases(client::Args),
    /// Watch the node on a terminal: peers with their rates, drops, offloads, attachments
    Top(top::TopArgs),
    /// Show what is wrong; status 1 if something does not work
    Health(client::Args),
    /// Ask for names, and show those the daemon knows
    Dns {
        #[command(subcommand)]
        command: dns::DnsCommand,
    },
    /// Look for what keeps the overlay from working, and tell what mends it; status 1 if something is wrong
    Doctor(doctor::DoctorArgs),
    /// Show what happened, and with -f what happens
    Events(events::EventArgs),
    /// Send a request of the wire and print the answer
    Call(call::CallArgs),
    /// Print the JSON Schema of the wire
    Schema,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print or write manual pages
    Man(papers::ManArgs),
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
            Command::Status(args) => show::status(&args),
            Command::Peers(args) => show::peers(&args),
            Command::Services(args) => show::objects(&args, ObjectKind::Services),
            Command::Attachments(args) => show::objects(&args, ObjectKind::Attachments),
            Command::Leases(args) => show::objects(&args, ObjectKind::Leases),
            Command::Top(args) => top::run(&args),
            Command::Health(args) => show::health(&args),
            Command::Dns { command } => dns::run(&command),
            Command::Doctor(args) => doctor::run(&args),
            Command::Events(args) => events::run(&args),
            Command::Call(args) => call::run(&args),
            Command::Schema => papers::schema(),
            Command::Completions { shell } => papers::completions(Program::command(), shell),
            Command::Man(args) => papers::man(Program::command(), &args),
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
