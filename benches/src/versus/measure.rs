//! What is measured on a tunnel, in which order, and in which unit.

use super::tunnel::Tunnel;
use ginnel_control::lab::process::Process;
use ginnel_control::lab::traffic::{self, Amount, EchoPlan, SearchPlan, TcpPlan};
use ginnel_control::lab::usage;
use std::time::Duration;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Length of each TCP transfer.
    pub transfer: Duration,
    /// Numbers of parallel TCP streams, each measured both ways.
    pub streams: Vec<usize>,
    /// Compare every byte of TCP transfers.
    pub verify: bool,
    /// Measure TCP.
    pub tcp: bool,
    /// Measure the rate of small UDP datagrams.
    pub udp: bool,
    /// Measure round trips.
    pub rtt: bool,
    /// IPv6 inside and outside, instead of IPv4.
    pub v6: bool,
}

/// One measured quantity.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Metric {
    /// Name for machines.
    pub key: String,
    /// Name for people.
    pub title: String,
    /// Unit.
    pub unit: &'static str,
    /// Whether more is better.
    pub more_is_better: bool,
}

/// Quantities of one round, in the order of measuring.
#[derive(Clone, Debug, Default)]
pub struct Measures(pub Vec<(Metric, f64)>);

impl Measures {
    fn more(&mut self, key: String, title: String, unit: &'static str, value: f64) {
        self.0.push((Metric { key, title, unit, more_is_better: true }, value));
    }

    fn less(&mut self, key: String, title: String, unit: &'static str, value: f64) {
        self.0.push((Metric { key, title, unit, more_is_better: false }, value));
    }
}

impl Tunnel {
    /// Measures what `plan` asks for. What was measured before a failure is in `measures`.
    pub(super) fn measure(&self, plan: &Plan, measures: &mut Measures) -> Result<(), String> {
        let failed = |what: &str, error: &dyn std::fmt::Display| self.blame(&format!("{what}: {error}")).to_string();
        if plan.rtt {
            self.round_trips(measures).map_err(|error| failed("round trips", &error))?;
        }
        if plan.tcp {
            for streams in &plan.streams {
                self.transfers(plan, *streams, measures).map_err(|error| failed("TCP", &error))?;
            }
        }
        if plan.udp {
            self.datagrams(measures).map_err(|error| failed("UDP", &error))?;
        }
        let rss = |process: &Process| usage::process_rss(process.pid()).ok();
        if let Some(bytes) = self.processes.iter().filter_map(rss).max() {
            measures.less("rss".into(), "memory (RSS)".into(), "MiB", bytes as f64 / f64::from(1 << 20));
        }
        Ok(())
    }

    fn round_trips(&self, measures: &mut Measures) -> Result<(), traffic::TrafficError> {
        let [a, b] = &self.ends;
        let plan = EchoPlan { count: 3_000, time_max: Duration::from_millis(1_500) };
        let report = traffic::echo(a, b, &plan)?;
        for (name, time) in [("min", report.min), ("p50", report.p50), ("p99", report.p99)] {
            measures.less(format!("rtt_{name}"), format!("round trip, {name}"), "µs", time.as_secs_f64() * 1e6);
        }
        Ok(())
    }

    /// Both directions, and the processor time of the whole machine for them.
    fn transfers(&self, plan: &Plan, streams: usize, measures: &mut Measures) -> Result<(), String> {
        let [a, b] = &self.ends;
        let tcp = TcpPlan { streams, amount: Amount::For(plan.transfer), verify: plan.verify };
        let busy = || usage::machine_busy().map_err(|error| error.to_string());
        let own = || -> Duration {
            self.processes.iter().filter_map(|process| usage::process_busy(process.pid()).ok()).sum()
        };
        let (before, own_before) = (busy()?, own());
        let mut bytes = 0;
        for (key, title, from, to) in [("forward", "forward", a, b), ("reverse", "reverse", b, a)] {
            let report = traffic::tcp(from, to, &tcp).map_err(|error| error.to_string())?;
            bytes += report.bytes;
            let title = format!("TCP, {streams} {}, {title}", if streams == 1 { "stream" } else { "streams" });
            measures.more(format!("tcp_{streams}_{key}"), title, "Gb/s", report.bits_per_sec() / 1e9);
        }
        let per_gigabyte = |time: Duration| time.as_secs_f64() / (bytes as f64 / 1e9).max(1e-9);
        let title = |who: &str| format!("CPU of the {who}, TCP × {streams}");
        let all = per_gigabyte(busy()?.saturating_sub(before));
        measures.less(format!("cpu_{streams}"), title("machine"), "s/GB", all);
        if !self.processes.is_empty() {
            let share = per_gigabyte(own().saturating_sub(own_before));
            measures.less(format!("cpu_own_{streams}"), title("processes"), "s/GB", share);
        }
        Ok(())
    }

    fn datagrams(&self, measures: &mut Measures) -> Result<(), traffic::TrafficError> {
        let [a, b] = &self.ends;
        let report = traffic::highest_rate(a, b, &SearchPlan::default())?;
        measures.more("udp_64".into(), "UDP, 64 bytes, loss < 1 %".into(), "kpps", report.per_sec() / 1e3);
        // As QUIC stacks send: many datagrams of one flow handed to the kernel at once.
        let quic = SearchPlan { payload_bytes: 1_200, trains: true, ..SearchPlan::default() };
        let report = traffic::highest_rate(a, b, &quic)?;
        let bits = report.per_sec() * 8.0 * quic.payload_bytes as f64;
        measures.more("udp_trains".into(), "UDP, 1200 bytes, in trains, loss < 1 %".into(), "Gb/s", bits / 1e9);
        Ok(())
    }
}
