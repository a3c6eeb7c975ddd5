//! Ginnel and its rivals side by side: two namespaces, one virtual cable, the same traffic through each in turn.
//!
//! Rounds are interleaved (A B C A B C …), so that a disturbance of the machine hits everybody, and every round starts
//! fresh processes. What a number means and what it does not: the cable is a veth pair, which carries superpackets
//! whole, as a network card with offloads would; generator, tunnel ends and kernel share the same processors, so
//! throughput here is a measure of work per byte rather than of a single tunnel end.

pub mod contender;
pub mod measure;
pub mod plot;
pub mod report;
mod tunnel;

use contender::Contender;
use ginnel_control::lab::process::Keeper;
use measure::{Measures, Plan};
use report::Results;
use std::time::Instant;

/// Measures every contender in every round. A contender that fails in a round is noted and left out of that round.
#[must_use]
pub fn run(contenders: &[Contender], rounds: u32, plan: &Plan, keeper: &Keeper) -> Results {
    let mut results = Results::new(contenders, rounds, plan);
    let start = Instant::now();
    for round in 1..=rounds {
        for contender in contenders {
            eprintln!("[{:4} s] round {round} of {rounds}: {}", start.elapsed().as_secs(), contender.name);
            let mut measures = Measures::default();
            let outcome = tunnel::Tunnel::open(contender, plan.v6, keeper)
                .map_err(|error| error.to_string())
                .and_then(|tunnel| tunnel.measure(plan, &mut measures));
            if let Err(error) = outcome {
                eprintln!("         {error}");
                results.failures.push(format!("{}, round {round}: {error}", contender.name));
            }
            for (metric, value) in &measures.0 {
                eprintln!("         {:<32} {value:10.2} {}", metric.title, metric.unit);
            }
            results.add(&contender.name, measures);
        }
    }
    results
}
