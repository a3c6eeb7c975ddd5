//! The results as a picture: one panel per quantity, one bar per contender, a whisker from the smallest to the largest
//! value. Plain SVG that needs no font, script or style of anybody else.

use super::report::{Results, digits};
use std::fmt::Write as _;

const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 460;
const LABEL_WIDTH: usize = 130;
const VALUE_WIDTH: usize = 70;
const BAR_HEIGHT: usize = 18;
const BAR_STEP: usize = 24;
const HEAD_HEIGHT: usize = 34;
const MARGIN: usize = 16;

/// Draws `results`.
#[must_use]
pub fn svg(results: &Results) -> String {
    let panel_height = HEAD_HEIGHT + BAR_STEP * results.contenders.len() + MARGIN;
    let rows = results.metrics.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * PANEL_WIDTH + 2 * MARGIN, rows * panel_height + 3 * MARGIN);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} \
         {height}\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" \
         fill=\"#ffffff\"/>\n"
    );
    for (index, metric) in results.metrics.iter().enumerate() {
        let left = MARGIN + index % COLUMNS * PANEL_WIDTH;
        let top = MARGIN + index / COLUMNS * panel_height;
        let hint = if metric.more_is_better { "more is better" } else { "less is better" };
        let title = escape(&format!("{} [{}]", metric.title, metric.unit));
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\" font-weight=\"bold\" fill=\"#1c2733\">{title}<tspan font-weight=\"normal\" \
             fill=\"#6b7785\">  {hint}</tspan></text>",
            top + 18
        );
        let summaries: Vec<_> = results.contenders.iter().map(|name| results.summary(name, metric)).collect();
        let largest = summaries.iter().flatten().map(|summary| summary.max).fold(f64::MIN_POSITIVE, f64::max);
        let room = (PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH - MARGIN) as f64;
        let x0 = (left + LABEL_WIDTH) as f64;
        for (line, (name, summary)) in results.contenders.iter().zip(summaries).enumerate() {
            let y = top + HEAD_HEIGHT + line * BAR_STEP;
            let middle = y + BAR_HEIGHT / 2;
            let _ = writeln!(
                out,
                "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#1c2733\">{}</text>",
                left + LABEL_WIDTH - 8,
                middle + 4,
                escape(name)
            );
            let Some(summary) = summary else {
                let _ = writeln!(out, "<text x=\"{x0}\" y=\"{}\" fill=\"#6b7785\">no result</text>", middle + 4);
                continue;
            };
            let scale = |value: f64| (value.max(0.0) / largest * room).min(room);
            let fill = if line == results.reference { "#1f6feb" } else { "#a8b3bf" };
            let _ = writeln!(
                out,
                "<rect x=\"{x0}\" y=\"{y}\" width=\"{:.1}\" height=\"{BAR_HEIGHT}\" rx=\"2\" fill=\"{fill}\"/>",
                scale(summary.median)
            );
            let (low, high) = (x0 + scale(summary.min), x0 + scale(summary.max));
            let _ = writeln!(
                out,
                "<path d=\"M{low:.1} {}v8m0 -4H{high:.1}m0 -4v8\" stroke=\"#1c2733\" fill=\"none\"/>",
                middle - 4
            );
            let digits = digits(summary.median);
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{}\" fill=\"#1c2733\">{:.digits$}</text>",
                high + 6.0,
                middle + 4,
                summary.median
            );
        }
    }
    let _ = writeln!(
        out,
        "<text x=\"{MARGIN}\" y=\"{}\" font-size=\"11\" fill=\"#6b7785\">{}</text>\n</svg>",
        height - MARGIN,
        escape(&results.conditions)
    );
    out
}

fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::versus::measure::{Measures, Metric, Plan};
    use std::time::Duration;

    #[test]
    fn every_contender_has_a_bar_or_a_word_in_every_panel() {
        let contenders = ["ginnel=/g", "boringtun<&>=/b"].map(|text| text.parse().unwrap());
        let plan = Plan {
            transfer: Duration::from_secs(1),
            streams: vec![1],
            verify: true,
            tcp: true,
            udp: true,
            rtt: true,
            v6: false,
        };
        let mut results = Results::new(&contenders, 1, &plan);
        let metric = |key: &str| Metric { key: key.into(), title: "a < b".into(), unit: "s", more_is_better: false };
        results.add("ginnel", Measures(vec![(metric("x"), 2.0), (metric("y"), 0.0), (metric("z"), 1.0)]));
        results.add("boringtun<&>", Measures(vec![(metric("x"), 4.0)]));
        let svg = svg(&results);
        assert_eq!(svg.matches("rx=\"2\"").count(), 4);
        assert_eq!(svg.matches("no result").count(), 2);
        assert_eq!(svg.matches("boringtun&lt;&amp;&gt;").count(), 3);
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
