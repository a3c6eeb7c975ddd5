//! A line of the log as facts, and its two written forms.

use crate::utc::rfc3339;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::time::SystemTime;
use tracing::Level;
use tracing::field::{Field, Visit};

/// Text of one field or message at most. Some errors quote what they were about.
const TEXT_BYTES_MAX: usize = 8 * 1024;

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) time: SystemTime,
    pub(super) level: Level,
    pub(super) target: &'static str,
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Record {
    /// A line of the log about itself.
    pub(super) fn own(level: Level, message: impl Into<String>) -> Self {
        let (time, target) = (SystemTime::now(), module_path!());
        Self { time, level, target, message: message.into(), fields: Vec::new() }
    }

    /// `time LEVEL target: message field=value …`
    pub(super) fn text(&self, colours: bool) -> String {
        let (dim, level, reset) = match colours {
            true => ("\x1b[2m", colour(self.level), "\x1b[0m"),
            false => ("", "", ""),
        };
        format!(
            "{dim}{}{reset} {level}{:>5}{reset} {dim}{}:{reset} {}\n",
            rfc3339(self.time),
            self.level,
            self.target,
            self.words()
        )
    }

    /// Message and fields, on one line.
    pub(super) fn words(&self) -> String {
        let mut text = one_line(&self.message);
        for (name, value) in &self.fields {
            // Writing to a string does not fail.
            let _ = match value {
                Value::String(value) if plain(value) => write!(text, " {name}={value}"),
                value => write!(text, " {name}={value}"),
            };
        }
        text
    }

    /// One JSON object.
    pub(super) fn json(&self) -> String {
        let mut object = Map::new();
        object.insert("ts".into(), rfc3339(self.time).into());
        object.insert("level".into(), self.level.as_str().to_ascii_lowercase().into());
        object.insert("target".into(), self.target.into());
        object.insert("msg".into(), self.message.clone().into());
        for (name, value) in &self.fields {
            object.entry(*name).or_insert_with(|| value.clone());
        }
        format!("{}\n", Value::Object(object))
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG => "\x1b[34m",
        Level::TRACE => "\x1b[35m",
    }
}

/// Whether a value reads as one word without quotes.
fn plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '"' && c != '=')
}

/// What comes from others must not begin a line of its own, nor colour it.
fn one_line(text: &str) -> String {
    if !text.contains(char::is_control) {
        return text.to_owned();
    }
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Collects message and fields of an event.
#[derive(Default)]
pub(super) struct Fields {
    pub(super) message: String,
    pub(super) fields: Vec<(&'static str, Value)>,
}

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => self.message = text,
            ("message", value) => self.message = value.to_string(),
            (name, value) => self.fields.push((name, value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let end = (0..=TEXT_BYTES_MAX.min(value.len())).rev().find(|at| value.is_char_boundary(*at)).unwrap_or(0);
        let cut = if end < value.len() { "…" } else { "" };
        self.put(field, format!("{}{cut}", &value[..end]).into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    fn record() -> Record {
        Record {
            time: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123),
            level: Level::WARN,
            target: "a::b",
            message: "two\nlines \x1b[31m".into(),
            fields: vec![("op", "add peer".into()), ("uid", 7.into()), ("path", "/x".into()), ("none", "".into())],
        }
    }

    #[test]
    fn text_is_one_line_whatever_was_said() {
        let text = record().text(false);
        assert_eq!(
            text,
            "2023-11-14T22:13:20.123Z  WARN a::b: two lines  [31m op=\"add peer\" uid=7 path=/x none=\"\"\n"
        );
        assert!(record().text(true).contains("\x1b[33m WARN\x1b[0m"));
    }

    #[test]
    fn json_keeps_what_was_said_and_its_own_names() {
        let mut record = record();
        record.fields.push(("msg", "another".into()));
        let object: Value = serde_json::from_str(&record.json()).unwrap();
        assert_eq!(
            object,
            serde_json::json!({"ts": "2023-11-14T22:13:20.123Z", "level": "warn", "target": "a::b",
                "msg": "two\nlines \u{1b}[31m", "op": "add peer", "uid": 7, "path": "/x", "none": ""})
        );
        assert_eq!(record.json().lines().count(), 1);
    }
}
