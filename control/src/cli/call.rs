//! `ginnel call OP [FIELDS]`: any request of the wire, the answer as it comes.

use super::client::{Daemon, Failure, Target, print, status_of};
use super::json::text;
use crate::ipc::wire::ErrorCode;
use serde_json::{Map, Value};
use std::process::ExitCode;

/// Flags of `ginnel call`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct CallArgs {
    #[command(flatten)]
    target: Target,
    /// Operation, as docs/ipc.md names it
    op: String,
    /// Its fields, a JSON object
    #[arg(default_value = "{}")]
    fields: String,
}

/// Asks and prints the answer. A refusal is an answer, with a status of its own.
pub(super) fn run(args: &CallArgs) -> ExitCode {
    let answer = request(&args.op, &args.fields).and_then(|request| {
        let answer = Daemon::connect(&args.target)?.0.ask_json(&request)?;
        Ok(answer)
    });
    match answer {
        Ok(answer) => {
            print(&text(&answer));
            if answer["result"] != "err" {
                return ExitCode::SUCCESS;
            }
            let code = answer.get("code").and_then(|code| serde_json::from_value::<ErrorCode>(code.clone()).ok());
            ExitCode::from(status_of(code))
        }
        Err(failure) => failure.report(),
    }
}

fn request(op: &str, fields: &str) -> Result<Value, Failure> {
    let wrong = |reason: String| Failure::Own(format!("the fields are no JSON object: {reason}"));
    let mut request: Map<String, Value> = serde_json::from_str(fields).map_err(|error| wrong(error.to_string()))?;
    if request.insert("op".into(), op.into()).is_some_and(|earlier| earlier != op) {
        return Err(wrong(format!("\"op\" in them is not {op}")));
    }
    Ok(Value::Object(request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_beside_the_operation() {
        let request = |fields| request("status", fields).map(|value| value.to_string()).ok();
        assert_eq!(request("{}").as_deref(), Some(r#"{"op":"status"}"#));
        assert_eq!(request(r#"{"a":[1]}"#).as_deref(), Some(r#"{"a":[1],"op":"status"}"#));
        assert_eq!(request(r#"{"op":"status"}"#).as_deref(), Some(r#"{"op":"status"}"#));
        for wrong in ["", "[]", "x", r#"{"op":"other"}"#] {
            assert_eq!(request(wrong), None, "{wrong}");
        }
    }
}
