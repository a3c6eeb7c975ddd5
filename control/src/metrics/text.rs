//! The text format of OpenMetrics 1.0: families with their kind, unit and help, samples with labels, and the end mark.
//!
//! A label or a help text may hold anything; what would break a line is escaped. Names of families and labels are ours.

use std::fmt::{Display, Write};

/// What a text of this module is, for HTTP.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A label: name and value.
pub(super) type Label<'a> = (&'a str, &'a str);

/// Kinds of families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows while the daemon lives; the sample has the suffix `_total`.
    Counter,
    /// May go either way.
    Gauge,
    /// How many took how long.
    Histogram,
    /// What is told by labels alone; the sample has the suffix `_info`.
    Info,
}

/// A text that grows.
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// Begins a family. `name` ends with the unit where there is one, and has no suffix of its kind.
    pub(super) fn family<'a>(&'a mut self, name: &'a str, kind: Kind, unit: &str, help: &str) -> Family<'a> {
        debug_assert!(unit.is_empty() || name.ends_with(unit), "{name} is in {unit}");
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Info => "info",
        };
        self.write(format_args!("# TYPE {name} {word}\n"));
        if !unit.is_empty() {
            self.write(format_args!("# UNIT {name} {unit}\n"));
        }
        self.write(format_args!("# HELP {name} {}\n", escape(help)));
        Family { text: self, name, kind }
    }

    /// The whole text.
    pub(super) fn finish(mut self) -> String {
        self.0.push_str("# EOF\n");
        self.0
    }

    fn write(&mut self, what: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        let _ = self.0.write_fmt(what);
    }
}

/// A family that takes samples. No two may have the same labels.
pub(super) struct Family<'a> {
    text: &'a mut Exposition,
    name: &'a str,
    kind: Kind,
}

impl Family<'_> {
    /// Adds a sample.
    pub(super) fn sample(&mut self, labels: &[Label<'_>], value: impl Display) {
        debug_assert_ne!(self.kind, Kind::Histogram, "{} takes histograms", self.name);
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.line(suffix, labels, None, value);
    }

    /// Adds a histogram: how many values there are up to each end but above the one before, of all, and their sum.
    pub(super) fn histogram(&mut self, labels: &[Label<'_>], classes: &[(f64, u64)], count: u64, sum: f64) {
        debug_assert_eq!(self.kind, Kind::Histogram, "{} takes samples", self.name);
        let mut so_far = 0;
        for (end, values) in classes {
            so_far += values;
            self.line("_bucket", labels, Some(&format!("{end:?}")), so_far);
        }
        self.line("_bucket", labels, Some("+Inf"), count);
        self.line("_count", labels, None, count);
        self.line("_sum", labels, None, sum);
    }

    fn line(&mut self, suffix: &str, labels: &[Label<'_>], end: Option<&str>, value: impl Display) {
        let all = labels.iter().copied().chain(end.map(|end| ("le", end)));
        let all: Vec<_> = all.map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        let name = self.name;
        match all.is_empty() {
            true => self.text.write(format_args!("{name}{suffix} {value}\n")),
            false => self.text.write(format_args!("{name}{suffix}{{{}}} {value}\n", all.join(","))),
        }
    }
}

/// Backslashes, quotes and line feeds, which have a meaning.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_has_its_form() {
        let mut text = Exposition::default();
        text.family("a_bytes", Kind::Counter, "bytes", "h \"q\" \\ \n.").sample(&[("l", "v"), ("m", "")], 3_u64);
        text.family("g", Kind::Gauge, "", "g").sample(&[], -1.5);
        text.family("b", Kind::Info, "", "i").sample(&[("version", "1")], 1);
        let mut family = text.family("d_seconds", Kind::Histogram, "seconds", "d");
        family.histogram(&[("op", "x")], &[(0.0001, 2), (1.0, 1)], 4, 9.25);
        assert_eq!(
            text.finish(),
            r#"# TYPE a_bytes counter
# UNIT a_bytes bytes
# HELP a_bytes h \"q\" \\ \n.
a_bytes_total{l="v",m=""} 3
# TYPE g gauge
# HELP g g
g -1.5
# TYPE b info
# HELP b i
b_info{version="1"} 1
# TYPE d_seconds histogram
# UNIT d_seconds seconds
# HELP d_seconds d
d_seconds_bucket{op="x",le="0.0001"} 2
d_seconds_bucket{op="x",le="1.0"} 3
d_seconds_bucket{op="x",le="+Inf"} 4
d_seconds_count{op="x"} 4
d_seconds_sum{op="x"} 9.25
# EOF
"#
        );
    }

    /// The value of the only label, as a reader of the format takes it.
    fn read_back(line: &str) -> Option<String> {
        let mut chars = line.strip_prefix("g{l=\"")?.chars();
        let mut value = String::new();
        loop {
            match chars.next()? {
                '"' => return (chars.as_str() == "} 1").then_some(value),
                '\\' => value.push(match chars.next()? {
                    'n' => '\n',
                    escaped => escaped,
                }),
                plain => value.push(plain),
            }
        }
    }

    proptest! {
        #[test]
        fn any_label_is_one_line_and_reads_back(value in any::<String>()) {
            let mut text = Exposition::default();
            text.family("g", Kind::Gauge, "", "h").sample(&[("l", &value)], 1);
            let text = text.finish();
            let lines: Vec<_> = text.split('\n').collect();
            prop_assert_eq!(lines.len(), 5);
            prop_assert_eq!(read_back(lines[2]), Some(value));
        }
    }
}
