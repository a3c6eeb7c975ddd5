//! The commands that show what a daemon has: the whole, its objects kind by kind, and what is wrong with it.

use super::client::{Args, Daemon, finish, odd, print};
use super::{json, lists, style, table};
use crate::ipc::wire::{Condition, Health, ObjectKind, Request, Response};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// `ginnel status`.
pub(super) fn status(args: &Args) -> ExitCode {
    finish(Daemon::connect(&args.target).and_then(|mut daemon| {
        let status = daemon.status()?;
        Ok(if args.json { json::status(&status) } else { table::status(&status, now()) })
    }))
}

/// `ginnel peers`.
pub(super) fn peers(args: &Args) -> ExitCode {
    finish(Daemon::connect(&args.target).and_then(|mut daemon| {
        let status = daemon.status()?;
        Ok(if args.json { json::peers(&status) } else { table::peers(&status, now()) })
    }))
}

/// `ginnel leases` and its like.
pub(super) fn objects(args: &Args, kind: ObjectKind) -> ExitCode {
    finish(Daemon::connect(&args.target).and_then(|mut daemon| {
        let mut list = lists::List::new(kind);
        daemon.list(kind, None, |page| list.add(page))?;
        Ok(if args.json { list.json() } else { list.table(now()) })
    }))
}

/// `ginnel health`: fails where something does not work.
pub(super) fn health(args: &Args) -> ExitCode {
    let health = Daemon::connect(&args.target).and_then(|mut daemon| match daemon.ask(Request::Health)? {
        Response::Health(health) => Ok(health),
        other => Err(odd(&other)),
    });
    match health {
        Ok(health) => {
            print(&if args.json { json::health(&health) } else { words(&health, style::of_stdout()) });
            if health.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(failure) => failure.report(),
    }
}

fn words(health: &Health, style: style::Style) -> String {
    if health.conditions.is_empty() {
        return "nothing is wrong\n".to_owned();
    }
    let line = |condition: &Condition| {
        let subject = condition.subject.as_ref().map(|subject| format!(" ({subject})")).unwrap_or_default();
        let hint = condition.hint.as_ref().map(|hint| format!("         {hint}\n")).unwrap_or_default();
        let severity = style.severity(condition.severity);
        format!("{severity} {}{subject}: {}\n{hint}", condition.code, condition.text)
    };
    health.conditions.iter().map(line).collect()
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::Severity;

    #[test]
    fn conditions_are_told_with_what_to_do() {
        let condition = Condition {
            code: "config_invalid".into(),
            subject: Some("x".into()),
            severity: Severity::Error,
            text: "t".into(),
            hint: Some("h".into()),
            since_unix_secs: 1,
        };
        let health = Health { ok: false, conditions: vec![condition] };
        let plain = style::Style::plain();
        assert_eq!(words(&health, plain), "error    config_invalid (x): t\n         h\n");
        assert_eq!(words(&Health { ok: true, conditions: Vec::new() }, plain), "nothing is wrong\n");
    }
}
