//! `soak`: two whole daemons that are treated badly for minutes or hours: traffic, containers that come and go, killed
//! daemons, lost rules, links that fail, nodes that move, junk. No byte may be wrong, nothing may stand still for longer than
//! WireGuard's timers explain, and at the end nothing may be left or lost. What has to hold is in `ginnel_benches::soak`.
//!
//! ```text
//! cargo build --release --workspace && target/release/soak --minutes 10
//! ```
//!
//! A failure names what is broken and the seed. A seed fixes what is done; when exactly it strikes is up to the machine.

use clap::Parser;
use ginnel_benches::soak::play::{self, Plan};
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::user_ns;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Treats two daemons badly for a while and looks whether anything breaks, leaks or is left behind")]
struct Arguments {
    /// The program `ginnel`.
    #[arg(long, value_name = "PATH", default_value = "target/release/ginnel")]
    ginnel: PathBuf,
    /// How long.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// What is done and when [default: another one each time]
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments = Arguments::parse();
    let program = std::path::absolute(&arguments.ginnel)?;
    let seed = arguments.seed.unwrap_or_else(rand::random);
    user_ns::check_tun()?;
    user_ns::enter()?;
    let keeper = Keeper::default();
    keeper.clear_on_signal()?;
    println!("seed {seed}, {} minutes", arguments.minutes);
    let plan = Plan { program, seed, time: Duration::from_secs(60) * arguments.minutes };
    let outcome = play::play(&plan, &keeper);
    keeper.clear();
    Ok(match outcome {
        Ok(()) => {
            println!("nothing broke (seed {seed})");
            ExitCode::SUCCESS
        }
        Err(broken) => {
            eprintln!("BROKEN with seed {seed}: {broken}");
            ExitCode::FAILURE
        }
    })
}
