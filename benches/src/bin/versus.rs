//! `versus`: measures Ginnel and its rivals side by side. See `ginnel_benches::versus` for what the numbers mean.
//!
//! ```text
//! cargo run --release -p ginnel-benches --bin versus -- \
//!     --contender ginnel=target/release/ginnel --contender wireguard-go=/usr/bin/wireguard-go --contender raw
//! ```

use clap::{Parser, ValueEnum};
use ginnel_benches::versus::contender::Contender;
use ginnel_benches::versus::measure::Plan;
use ginnel_benches::versus::{self, plot};
use ginnel_control::lab::process::Keeper;
use ginnel_control::lab::user_ns;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Measures WireGuard programs side by side between two network namespaces")]
struct Arguments {
    /// A program to measure, as NAME=PATH; the beginning of NAME says what it is: ginnel, wireguard-go, boringtun,
    /// gotatun, neptun, zlayer or null (`null-device`: our engine without a cipher). `raw` alone measures the cable without a
    /// tunnel. Give it several times.
    #[arg(long = "contender", value_name = "NAME=PATH", required = true)]
    contenders: Vec<Contender>,
    /// Times every contender is measured, in turn.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Seconds of each TCP transfer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Numbers of parallel TCP streams.
    #[arg(long, value_delimiter = ',', default_value = "1,4")]
    streams: Vec<usize>,
    /// Measure only these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Do not compare received bytes with sent ones.
    #[arg(long)]
    unchecked: bool,
    /// IPv6 inside and outside, instead of IPv4.
    #[arg(long)]
    v6: bool,
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// Write a picture of the results, too.
    #[arg(long, value_name = "PATH")]
    svg: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Tcp,
    Udp,
    Rtt,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("versus: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<ExitCode, String> {
    // Relative paths are to be found later, whatever the process does.
    let mut contenders = arguments.contenders;
    for contender in contenders.iter_mut().filter(|contender| !contender.path.as_os_str().is_empty()) {
        let found = contender.path.canonicalize();
        contender.path = found.map_err(|error| format!("{}: {error}", contender.path.display()))?;
    }
    user_ns::check_tun().map_err(|error| error.to_string())?;
    user_ns::enter().map_err(|error| error.to_string())?;
    let keeper = Keeper::default();
    keeper.clear_on_signal().map_err(|error| error.to_string())?;
    let wanted = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let plan = Plan {
        transfer: Duration::from_secs(arguments.seconds),
        streams: arguments.streams,
        verify: !arguments.unchecked,
        tcp: wanted(Part::Tcp),
        udp: wanted(Part::Udp),
        rtt: wanted(Part::Rtt),
        v6: arguments.v6,
    };
    let results = versus::run(&contenders, arguments.rounds, &plan, &keeper);
    keeper.clear();
    if arguments.json {
        println!("{:#}", results.json());
    } else {
        println!("{}", results.markdown());
    }
    if let Some(path) = arguments.svg {
        std::fs::write(&path, plot::svg(&results)).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(if results.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
