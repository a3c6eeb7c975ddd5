//! `ginnel events`: what happened, and what happens.

use super::client::{Args, Daemon, Failure, odd, print};
use crate::ipc::wire::{EventKind, EventRecord, ObjectKind, Objects, Request, Response, Subscribe};
use crate::utc::rfc3339;
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

/// Flags of `ginnel events`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct EventArgs {
    #[command(flatten)]
    args: Args,
    /// Go on with what happens from now on
    #[arg(long, short)]
    follow: bool,
    /// Only events of this kind; may be repeated
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<EventKind>,
    /// Only events behind the one with this cursor
    #[arg(long, value_name = "CURSOR")]
    after: Option<String>,
}

fn kind(name: &str) -> Result<EventKind, String> {
    let found = EventKind::ALL.into_iter().find(|kind| kind.name() == name);
    found.ok_or_else(|| format!("the kinds are {}", EventKind::ALL.map(EventKind::name).join(", ")))
}

/// Shows events until there are no more, or for ever.
pub(super) fn run(args: &EventArgs) -> ExitCode {
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn show(args: &EventArgs) -> Result<(), Failure> {
    let mut daemon = Daemon::connect(&args.args.target)?;
    if args.follow {
        return follow(args, &mut daemon);
    }
    let mut records = Vec::new();
    daemon.list(ObjectKind::Events, args.after.clone(), |objects| {
        if let Objects::Events(page) = objects {
            records.extend(page);
        }
    })?;
    let wanted = |record: &&EventRecord| {
        args.kind.is_empty() || record.event.kind().is_some_and(|kind| args.kind.contains(&kind))
    };
    for record in records.iter().filter(wanted) {
        if !print(&line(record, args.args.json)) {
            break;
        }
    }
    Ok(())
}

fn follow(args: &EventArgs, daemon: &mut Daemon) -> Result<(), Failure> {
    // A cursor of nowhere: all that is remembered.
    let after = args.after.clone().unwrap_or_default();
    let subscribe = Subscribe { kinds: args.kind.clone(), after: Some(after) };
    match daemon.ask(Request::Subscribe(subscribe))? {
        Response::Subscribed(subscribed) if args.after.is_some() && !subscribed.complete => {
            eprintln!("ginnel: events are missing behind this cursor: look at the state again");
        }
        Response::Subscribed(_) => {}
        other => return Err(odd(&other)),
    }
    loop {
        let record = daemon.0.next_event()?;
        if !print(&line(&record, args.args.json)) {
            return Ok(());
        }
    }
}

/// One event on one line: as it came, or time, kind and the rest.
fn line(record: &EventRecord, as_json: bool) -> String {
    // Strings and numbers have no way to fail on their way into memory.
    let value = serde_json::to_value(record).unwrap_or_default();
    if as_json {
        return format!("{value}\n");
    }
    let time = record.at_unix_ms.map_or_else(String::new, |ms| rfc3339(UNIX_EPOCH + Duration::from_millis(ms)));
    let mut words = Vec::new();
    for (name, value) in value.as_object().into_iter().flatten() {
        if !["event", "cursor", "at_unix_ms"].contains(&name.as_str()) {
            describe(name, value, &mut words);
        }
    }
    let kind = value["event"].as_str().unwrap_or_default();
    format!("{time}  {kind:<20} {}\n", words.join(" ")).replace(|c: char| c.is_control() && c != '\n', " ")
}

/// Objects are told by what is in them.
fn describe(name: &str, value: &Value, words: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| describe(name, value, words)),
        Value::String(text) if !text.contains(char::is_whitespace) => words.push(format!("{name}={text}")),
        Value::Array(items) => {
            let items: Vec<_> =
                items.iter().map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned)).collect();
            words.push(format!("{name}={}", items.join(",")));
        }
        value => words.push(format!("{name}={value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::{Event, PeerScope};

    #[test]
    fn events_are_lines_for_people_and_for_programs() {
        let event = Event::OverlayUp { scope: PeerScope::Service { service: "pay".into() }, interface: "zl 0".into() };
        let record = EventRecord { event, cursor: Some("a-1".into()), at_unix_ms: Some(1_700_000_000_123) };
        assert_eq!(
            line(&record, false),
            "2023-11-14T22:13:20.123Z  overlay_up           interface=\"zl 0\" scope=service service=pay\n"
        );
        let again: EventRecord = serde_json::from_str(&line(&record, true)).unwrap();
        assert_eq!(again, record);
        assert!(kind("nothing").unwrap_err().contains("peer_health_changed"));
    }
}
