//! Results: collected by contender and quantity, told as a Markdown table or as JSON.

use super::contender::{Contender, Kind};
use super::measure::{Measures, Metric, Plan};
use ginnel_control::lab::usage;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::thread;
use std::time::Duration;

/// Everything measured.
#[derive(Clone, Debug)]
pub struct Results {
    /// Names in the order of the command line.
    pub contenders: Vec<String>,
    /// Quantities in the order of measuring.
    pub metrics: Vec<Metric>,
    /// Whose measures others are held against: Ginnel's if it takes part, else those of the first tunnel.
    pub reference: usize,
    /// What went wrong, one line each.
    pub failures: Vec<String>,
    /// What was asked for, one line.
    pub conditions: String,
    values: BTreeMap<(String, String), Vec<f64>>,
}

/// Median and extremes of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// Middle value; the mean of the two middle ones for an even number.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// `None` of no values.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl Results {
    /// Results without a value yet.
    #[must_use]
    pub fn new(contenders: &[Contender], rounds: u32, plan: &Plan) -> Self {
        let first = |wanted: fn(Kind) -> bool| contenders.iter().position(|contender| wanted(contender.kind));
        let reference =
            first(|kind| kind == Kind::Ginnel).or_else(|| first(|kind| kind != Kind::Raw)).unwrap_or_default();
        let contenders: Vec<_> = contenders.iter().map(|contender| contender.name.clone()).collect();
        let conditions = format!(
            "{}, {:.1} of them busy before the start; {rounds} interleaved rounds, {} s per TCP transfer, bytes {}; \
             {}, veth, MTU 1500, tunnel MTU 1420",
            machine(),
            busy_before(),
            plan.transfer.as_secs_f64(),
            if plan.verify { "checked" } else { "not checked" },
            if plan.v6 { "IPv6" } else { "IPv4" },
        );
        Self { contenders, metrics: Vec::new(), reference, failures: Vec::new(), conditions, values: BTreeMap::new() }
    }

    /// Adds one round of a contender.
    pub fn add(&mut self, contender: &str, measures: Measures) {
        for (metric, value) in measures.0 {
            self.values.entry((contender.into(), metric.key.clone())).or_default().push(value);
            if !self.metrics.contains(&metric) {
                self.metrics.push(metric);
            }
        }
    }

    /// What is known of a quantity of a contender.
    #[must_use]
    pub fn summary(&self, contender: &str, metric: &Metric) -> Option<Summary> {
        Summary::of(self.values.get(&(contender.into(), metric.key.clone()))?)
    }

    /// How much better the reference is than `contender`: above 1 it is, whichever way the quantity counts.
    #[must_use]
    pub fn ratio(&self, contender: &str, metric: &Metric) -> Option<f64> {
        let ours = self.summary(self.contenders.get(self.reference)?, metric)?.median;
        let theirs = self.summary(contender, metric)?.median;
        let (over, under) = if metric.more_is_better { (ours, theirs) } else { (theirs, ours) };
        (under > 0.0).then_some(over / under)
    }

    /// Two Markdown tables: medians with extremes, and ratios against the reference.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut text = format!("{}\n\n", self.conditions);
        let names = self.contenders.join(" | ");
        let rule = " ---: |".repeat(self.contenders.len());
        // Writing to a string cannot fail.
        let _ = writeln!(text, "Median (smallest–largest); ↑ more is better, ↓ less is.\n");
        let _ = writeln!(text, "| | {names} |\n| :--- |{rule}");
        for metric in &self.metrics {
            let arrow = if metric.more_is_better { "↑" } else { "↓" };
            let _ = write!(text, "| {} [{}] {arrow} |", metric.title, metric.unit);
            for name in &self.contenders {
                let cell = self.summary(name, metric).map_or("–".into(), |s| {
                    let digits = digits(s.median);
                    format!("**{:.digits$}** ({:.digits$}–{:.digits$})", s.median, s.min, s.max)
                });
                let _ = write!(text, " {cell} |");
            }
            text.push('\n');
        }
        if let Some(reference) = self.contenders.get(self.reference).filter(|_| self.contenders.len() > 1) {
            let _ = writeln!(text, "\nHow many times better {reference} is, by medians; below 1 it is worse.\n");
            let _ = writeln!(text, "| | {names} |\n| :--- |{rule}");
            for metric in &self.metrics {
                let _ = write!(text, "| {} |", metric.title);
                for name in &self.contenders {
                    let cell = self.ratio(name, metric).map_or("–".into(), |ratio| format!("{ratio:.2}"));
                    let _ = write!(text, " {cell} |");
                }
                text.push('\n');
            }
        }
        for failure in &self.failures {
            let _ = write!(text, "\nFailed: {failure}\n");
        }
        text
    }

    /// Everything, single values included.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut rows = Vec::new();
        for name in &self.contenders {
            for metric in &self.metrics {
                let Some(summary) = self.summary(name, metric) else { continue };
                rows.push(json!({
                    "contender": name,
                    "metric": metric.key,
                    "title": metric.title,
                    "unit": metric.unit,
                    "more_is_better": metric.more_is_better,
                    "median": summary.median,
                    "min": summary.min,
                    "max": summary.max,
                    "values": self.values.get(&(name.clone(), metric.key.clone())),
                    "reference_ratio": self.ratio(name, metric),
                }));
            }
        }
        json!({
            "conditions": self.conditions,
            "reference": self.contenders.get(self.reference),
            "results": rows,
            "failures": self.failures,
        })
    }
}

/// Three figures that matter.
pub(super) fn digits(value: f64) -> usize {
    match value.abs() {
        magnitude if magnitude >= 100.0 => 0,
        magnitude if magnitude >= 10.0 => 1,
        _ => 2,
    }
}

/// Processor and kernel, for whoever reads the numbers later.
fn machine() -> String {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let cores = thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{cores} × {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

/// Processors busy with the work of others, for how much the numbers are worth; NaN where it cannot be told.
fn busy_before() -> f64 {
    let time = Duration::from_millis(500);
    let busy = || usage::machine_busy().ok();
    let before = busy();
    thread::sleep(time);
    let spent = busy().zip(before).map(|(after, before)| after.saturating_sub(before));
    spent.map_or(f64::NAN, |spent| spent.as_secs_f64() / time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let contenders = ["boringtun=/b", "ginnel=/g"].map(|text| text.parse::<Contender>().unwrap());
        let plan = Plan {
            transfer: Duration::from_secs(2),
            streams: vec![1],
            verify: true,
            tcp: true,
            udp: true,
            rtt: true,
            v6: false,
        };
        let mut results = Results::new(&contenders, 3, &plan);
        let more = Metric { key: "tcp".into(), title: "TCP".into(), unit: "Gb/s", more_is_better: true };
        let less = Metric { key: "rtt".into(), title: "RTT".into(), unit: "µs", more_is_better: false };
        for (tcp, rtt) in [(3.0, 200.0), (1.0, 90.0), (2.0, 100.0)] {
            results.add("boringtun", Measures(vec![(more.clone(), tcp), (less.clone(), rtt)]));
        }
        results.add("ginnel", Measures(vec![(more, 8.0)]));
        results.add("ginnel", Measures(vec![(less, 50.0)]));
        results
    }

    #[test]
    fn medians_and_extremes() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0]), Some(Summary { median: 2.5, min: 1.0, max: 4.0 }));
    }

    #[test]
    fn ratios_are_above_one_where_we_are_better() {
        let results = results();
        assert_eq!(results.reference, 1);
        let ratios: Vec<_> = results.metrics.iter().map(|metric| results.ratio("boringtun", metric).unwrap()).collect();
        assert_eq!(ratios, [4.0, 2.0]);
    }

    #[test]
    fn the_table_has_every_cell() {
        let mut results = results();
        results.failures.push("ginnel, round 2: gone".into());
        let text = results.markdown();
        assert!(text.contains("| TCP [Gb/s] ↑ | **2.00** (1.00–3.00) | **8.00** (8.00–8.00) |"), "{text}");
        assert!(text.contains("| RTT | 2.00 | 1.00 |"), "{text}");
        assert!(text.contains("Failed: ginnel, round 2: gone"), "{text}");
        let json = results.json();
        assert_eq!(json["results"].as_array().unwrap().len(), 4);
        assert_eq!(json["results"][0]["values"], json!([3.0, 1.0, 2.0]));
    }
}
