//! Names: a server with so many, for a public load tool to ask.
//!
//! ```text
//! cargo run --release -p ginnel-benches --bin names -- --queries /tmp/queries &
//! dnsperf -s 127.0.0.1 -p 5300 -d /tmp/queries -l 10
//! ```
//!
//! It answers on one thread. What dnsperf reports is what both of them reach on the cores they share, and its latency is
//! that of a loaded server; `-Q 1000` asks at a steady pace instead. The thread's own share of a core is told at the end.

use clap::Parser;
use ginnel_benches::names::{fill, name, server};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "A name server with so many names")]
struct Args {
    /// Where it answers.
    #[arg(long, default_value = "127.0.0.1:5300")]
    listen: SocketAddr,
    /// Names it has.
    #[arg(long, default_value_t = 10_000)]
    names: u32,
    /// Where the queries are written that dnsperf reads.
    #[arg(long)]
    queries: Option<PathBuf>,
    /// How long it answers.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let server = server();
    fill(&server, args.names);
    server.listen_at(&[args.listen].into());
    if let Some(problem) = server.problems().first() {
        return Err(std::io::Error::other(problem.to_string()));
    }
    if let Some(path) = &args.queries {
        // In an order that is not that of the table.
        let at = |step: u32| (u64::from(step) * 7_919 % u64::from(args.names.max(1))) as u32;
        let lines = (0..args.names).map(|step| format!("{} A\n", name(at(step))));
        fs::write(path, lines.collect::<String>())?;
    }
    println!("answering {} names at {}", args.names, args.listen);
    std::thread::sleep(Duration::from_secs(args.seconds));
    let status = server.status();
    println!("{} names, {:?}; the answering thread ran {:?}", status.names, status.counts, thread_time("ginnel-dns"));
    Ok(())
}

/// Seconds that a thread of this process ran (proc(5), `schedstat`).
fn thread_time(name: &str) -> Option<Duration> {
    let threads = fs::read_dir("/proc/self/task").ok()?.flatten();
    let mut named = threads
        .filter(|thread| fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    let stat = fs::read_to_string(named.next()?.path().join("schedstat")).ok()?;
    Some(Duration::from_nanos(stat.split(' ').next()?.parse().ok()?))
}
