//! An answer for people and for programs. What a server put into it is shown, never obeyed: no control character gets to
//! the terminal.

use crate::cli::json::{SCHEMA, text};
use crate::cli::table::columns;
use crate::dns::query::Answer;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Record;
use serde_json::{Value, json};

impl Answer {
    /// Whether the name is there, with records of the type or without.
    pub(super) fn is_positive(&self) -> bool {
        self.message.metadata.response_code == ResponseCode::NoError
    }

    fn protocol(&self) -> &'static str {
        if self.tcp { "TCP" } else { "UDP" }
    }
}

/// The records, and a line about the answer.
pub(super) fn words(answer: &Answer) -> String {
    let message = &answer.message;
    let rows = |records: &[Record]| records.iter().map(row).collect::<Vec<_>>();
    let mut told = columns(rows(&message.answers));
    if message.answers.is_empty() {
        // The SOA record says how long that may be remembered (RFC 2308).
        told = columns(rows(&message.authorities));
    }
    let status = match (message.metadata.response_code, message.answers.is_empty()) {
        (ResponseCode::NoError, true) => "NOERROR, no records of this type".to_owned(),
        (code, _) => name(code),
    };
    let by = if message.metadata.authoritative { "authoritative" } else { "from elsewhere" };
    let ms = answer.took.as_secs_f64() * 1e3;
    let line = format!("{status}, {by}, {} over {} in {ms:.1} ms\n", answer.server, answer.protocol());
    told + &line
}

fn row(record: &Record) -> Vec<String> {
    let Value::Object(fields) = value(record) else { return Vec::new() };
    let cell = |name: &str| fields[name].as_str().map_or_else(|| fields[name].to_string(), str::to_owned);
    ["name", "ttl_secs", "type", "data"].map(cell).into()
}

/// All of it.
pub(super) fn json(answer: &Answer) -> String {
    let message = &answer.message;
    let values = |records: &[Record]| records.iter().map(value).collect::<Vec<_>>();
    text(&json!({
        "schema": SCHEMA,
        "status": name(message.metadata.response_code),
        "authoritative": message.metadata.authoritative,
        "server": answer.server,
        "protocol": answer.protocol(),
        "took_us": u64::try_from(answer.took.as_micros()).unwrap_or(u64::MAX),
        "answers": values(&message.answers),
        "authorities": values(&message.authorities),
        "additionals": values(&message.additionals),
    }))
}

fn value(record: &Record) -> Value {
    let visible = |text: String| text.replace(char::is_control, "\u{fffd}");
    json!({
        "name": visible(record.name.to_string()),
        "ttl_secs": record.ttl,
        "type": record.record_type().to_string(),
        "data": visible(record.data.to_string()),
    })
}

/// The usual word for a code.
fn name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::FormErr => "FORMERR".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::NotImp => "NOTIMP".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => format!("RCODE {}", u16::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::query::tests::question;
    use hickory_proto::op::{Message, OpCode};
    use hickory_proto::rr::RData;
    use hickory_proto::rr::rdata::{A, TXT};
    use std::time::Duration;

    fn answer(code: ResponseCode, records: Vec<RData>) -> Answer {
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.response_code = code;
        message.metadata.authoritative = true;
        for data in records {
            message.add_answer(Record::from_rdata(question().name, 5, data));
        }
        let server = "10.0.0.1:53".parse().unwrap();
        Answer { message, server, tcp: false, took: Duration::from_micros(1_234) }
    }

    #[test]
    fn records_are_rows_and_the_rest_a_line() {
        let found = answer(ResponseCode::NoError, vec![RData::A(A::new(10, 0, 0, 2)), RData::A(A::new(10, 0, 0, 30))]);
        assert_eq!(
            words(&found),
            "\
web.overlay.  5  A  10.0.0.2
web.overlay.  5  A  10.0.0.30
NOERROR, authoritative, 10.0.0.1:53 over UDP in 1.2 ms
"
        );
        let told: Value = serde_json::from_str(&json(&found)).unwrap();
        assert_eq!((&told["status"], &told["took_us"]), (&"NOERROR".into(), &1_234.into()));
        assert_eq!(told["answers"][1]["data"], "10.0.0.30");
        assert!(found.is_positive());
    }

    #[test]
    fn nothing_there_is_told_in_its_two_forms() {
        let none = answer(ResponseCode::NXDomain, Vec::new());
        assert!(words(&none).starts_with("NXDOMAIN, ") && !none.is_positive());
        assert!(words(&answer(ResponseCode::NoError, Vec::new())).starts_with("NOERROR, no records of this type, "));
        assert!(words(&answer(ResponseCode::Unknown(77), Vec::new())).starts_with("RCODE 77, "));
    }

    #[test]
    fn no_control_character_gets_out() {
        let found = answer(ResponseCode::NoError, vec![RData::TXT(TXT::new(vec!["a\u{1b}[31m\nb".to_owned()]))]);
        assert!(!words(&found).trim_end().contains(|c: char| c.is_control() && c != '\n'), "{:?}", words(&found));
        assert_eq!(words(&found).lines().count(), 2);
    }
}
