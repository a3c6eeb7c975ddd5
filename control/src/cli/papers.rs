//! What the program writes about itself: completions for shells, manual pages, the schema of the wire.

use super::client::{Failure, finish, print};
use crate::daemon::{DaemonArgs, System};
use crate::ipc::wire;
use clap_complete::Shell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Flags of `ginnel man`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Directory for all pages, also those of the commands and of ginneld; without it, ginnel(1) goes to standard output
    dir: Option<PathBuf>,
}

/// `ginnel schema`.
pub(super) fn schema() -> ExitCode {
    finish(Ok(wire::schema()))
}

/// `ginnel completions`.
pub(super) fn completions(command: clap::Command, shell: Shell) -> ExitCode {
    print(&completion(command, shell));
    ExitCode::SUCCESS
}

/// `ginnel man`.
pub(super) fn man(command: clap::Command, args: &ManArgs) -> ExitCode {
    let pages = || -> std::io::Result<String> {
        match &args.dir {
            None => page(command),
            Some(dir) => write_pages(command, dir).map(|()| String::new()),
        }
    };
    finish(pages().map_err(|error| Failure::Own(format!("the pages cannot be written: {error}"))))
}

fn completion(mut command: clap::Command, shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut command, "ginnel", &mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn page(command: clap::Command) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    clap_mangen::Man::new(command).render(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn write_pages(command: clap::Command, dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    clap_mangen::generate_to(command, dir)?;
    let daemon = clap_mangen::Man::new(DaemonArgs::command(System::Ginnel)).section("8");
    let mut bytes = Vec::new();
    daemon.render(&mut bytes)?;
    std::fs::write(dir.join("ginneld.8"), bytes)
}

#[cfg(test)]
mod tests {
    use super::super::Program;
    use super::*;
    use crate::temp_dir::TempDir;
    use clap::{CommandFactory, ValueEnum};

    #[test]
    fn every_shell_learns_every_command() {
        for shell in Shell::value_variants() {
            let text = completion(Program::command(), *shell);
            for command in Program::command().get_subcommands() {
                assert!(text.contains(command.get_name()), "{shell}: {}", command.get_name());
            }
        }
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = TempDir::new();
        write_pages(Program::command(), &dir.join("man")).unwrap();
        let program = Program::command();
        let commands = program.get_subcommands().flat_map(|command| {
            let nested =
                command.get_subcommands().map(|nested| format!("{}-{}", command.get_name(), nested.get_name()));
            std::iter::once(command.get_name().to_owned()).chain(nested)
        });
        let commands: Vec<_> = commands.collect();
        assert!(commands.iter().any(|name| name == "dns-query"), "{commands:?}");
        for command in commands {
            let name = format!("man/ginnel-{command}.1");
            assert!(std::fs::read_to_string(dir.join(&name)).unwrap().contains(".TH"), "{name}");
        }
        let daemon = std::fs::read_to_string(dir.join("man/ginneld.8")).unwrap();
        assert!(daemon.contains("check\\-config"), "{daemon}");
        assert!(page(Program::command()).unwrap().contains("completions"));
    }
}
