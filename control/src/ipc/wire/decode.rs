//! From bytes to a [`Frame`], or to as much of one as is needed to answer.
//!
//! A frame that is not what it should be still deserves an answer if its `id` can be read, even where the JSON breaks off
//! behind it. [`decode`] first tries the types; only when they refuse does it look a second time, token by token, for
//! frame kind, id and op, and names the field at fault where the parser does not.

use super::{Frame, Request};
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::fmt;

/// Fields of a request that are tried when looking for the one at fault. No operation has more; beyond that the search,
/// which is quadratic, is not worth a refusal's while.
const FIELDS_SEARCHED_MAX: usize = 32;

/// Length of a body that is searched; for the same reason.
const BYTES_SEARCHED_MAX: usize = 64 * 1024;

/// Why bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecodeError {
    /// A request that can be answered: its id is known.
    Refused {
        /// The id to answer to.
        id: u64,
        /// What is wrong, for the client.
        reason: String,
    },
    /// A malformed answer: not for a server, and of no use to a client.
    Response(String),
    /// A malformed event, or one of a later version: nobody waits for it.
    Event,
    /// No id can be read.
    Unreadable(String),
}

/// Decodes the body of a frame. White space around the JSON value is accepted, anything else behind it is not.
///
/// # Errors
/// [`DecodeError`], saying whether and to whom the refusal can be told.
pub fn decode(body: &[u8]) -> Result<Frame, DecodeError> {
    let problem = match std::str::from_utf8(body) {
        Ok(text) => match serde_json::from_str(text) {
            Ok(frame) => return Ok(frame),
            Err(error) => error.to_string(),
        },
        Err(error) => format!("not UTF-8: {error}"),
    };
    let mut envelope = Envelope::default();
    // The walk ends with an error wherever the frame is broken; what it saw before that is all that is wanted of it.
    let mut tokens = serde_json::Deserializer::from_slice(body);
    let _ = EnvelopeSeed(&mut envelope).deserialize(&mut tokens);
    match envelope.frame.as_deref() {
        Some("response") => return Err(DecodeError::Response(problem)),
        Some("event") => return Err(DecodeError::Event),
        _ => {}
    }
    let Some(id) = envelope.id.filter(|_| !envelope.ids_differ) else {
        return Err(DecodeError::Unreadable(problem));
    };
    let field = culprit(body, &problem).map(|field| format!("field `{field}`: ")).unwrap_or_default();
    let op = envelope.op.map(|op| format!("{op}: ")).unwrap_or_default();
    Err(DecodeError::Refused { id, reason: format!("bad request: {op}{field}{problem}") })
}

/// The parser names missing, repeated and unknown words itself, but not the field whose value it did not like: that is
/// the one without which the complaint changes.
fn culprit(body: &[u8], problem: &str) -> Option<String> {
    if ["missing field", "duplicate field", "unknown variant"].iter().any(|known| problem.starts_with(known)) {
        return None;
    }
    if body.len() > BYTES_SEARCHED_MAX {
        return None;
    }
    let frame: Value = serde_json::from_slice(body).ok()?;
    let fields = frame.get("request")?.as_object()?;
    if fields.len() > FIELDS_SEARCHED_MAX {
        return None;
    }
    fields.keys().filter(|field| *field != "op").find_map(|field| {
        let mut without = fields.clone();
        without.remove(field);
        match Request::deserialize(Value::Object(without)) {
            Ok(_) => Some(field.clone()),
            Err(error) => (error.to_string() == format!("missing field `{field}`")).then(|| field.clone()),
        }
    })
}

/// What can be read of a broken frame.
#[derive(Default)]
struct Envelope {
    frame: Option<String>,
    id: Option<u64>,
    ids_differ: bool,
    op: Option<String>,
}

struct EnvelopeSeed<'a>(&'a mut Envelope);

impl<'de> DeserializeSeed<'de> for EnvelopeSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for EnvelopeSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a frame")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "frame" => self.0.frame = Some(map.next_value()?),
                "id" => {
                    let id = map.next_value()?;
                    self.0.ids_differ |= self.0.id.is_some_and(|earlier| earlier != id);
                    self.0.id = Some(id);
                }
                "request" => map.next_value_seed(OpSeed(&mut self.0.op))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

struct OpSeed<'a>(&'a mut Option<String>);

impl<'de> DeserializeSeed<'de> for OpSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OpSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            if key == "op" {
                *self.0 = map.next_value::<Value>()?.as_str().map(str::to_owned);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(json: &str) -> (u64, String) {
        match decode(json.as_bytes()) {
            Err(DecodeError::Refused { id, reason }) => (id, reason),
            other => panic!("{json}: {other:?}"),
        }
    }

    fn unreadable(body: &[u8]) {
        assert!(matches!(decode(body), Err(DecodeError::Unreadable(_))), "{:?}", String::from_utf8_lossy(body));
    }

    #[test]
    fn the_refusal_names_op_and_field() {
        let (id, reason) = refusal(r#"{"frame":"request","id":4,"request":{"op":"frobnicate"}}"#);
        assert_eq!(id, 4);
        assert!(reason.starts_with("bad request: frobnicate: unknown variant `frobnicate`"), "{reason}");
        let (_, reason) = refusal(r#"{"frame":"request","id":4,"request":{"op":"set_local_node_id"}}"#);
        assert_eq!(reason, "bad request: set_local_node_id: missing field `node_id`");
        let (_, reason) = refusal(r#"{"frame":"request","id":4,"request":{"op":"set_local_node_id","node_id":"7"}}"#);
        assert_eq!(reason, "bad request: set_local_node_id: field `node_id`: invalid type: string \"7\", expected u64");
        let (_, reason) = refusal(
            r#"{"frame":"request","id":4,"request":{"op":"add_peer","public_key":"k","endpoint":"e","allowed_ips":"",
            "persistent_keepalive_secs":1.5}}"#,
        );
        assert!(reason.contains("add_peer: field `persistent_keepalive_secs`: invalid type"), "{reason}");
        let (_, reason) = refusal(r#"{"frame":"request","id":4,"request":{"op":"release_ip","ip":"10.0.0"}}"#);
        assert!(reason.contains("field `ip`: "), "{reason}");
    }

    #[test]
    fn null_is_for_optional_fields_only() {
        let peer = |scope: &str| {
            format!(r#"{{"frame":"request","id":1,"request":{{"op":"remove_peer","pubkey":"k","scope":{scope}}}}}"#)
        };
        assert!(decode(peer(r#"{"scope":"global"}"#).as_bytes()).is_ok());
        assert!(refusal(&peer("null")).1.contains("field `scope`"));
        let setup = |slice: &str, mandatory: &str| {
            format!(
                r#"{{"frame":"request","id":1,"request":{{"op":"setup_global_overlay","deployment":"a",
                "instance_id":"b","cluster_cidr":"c","wg_port":1,"slice_cidr":{slice},
                "host_adapter_mandatory":{mandatory}}}}}"#
            )
        };
        assert!(decode(setup("null", "true").as_bytes()).is_ok());
        assert!(refusal(&setup("null", "null")).1.contains("field `host_adapter_mandatory`"));
    }

    #[test]
    fn repeated_fields_are_refused_at_every_level() {
        for json in [
            r#"{"frame":"request","id":9,"id":9,"request":{"op":"status"}}"#,
            r#"{"frame":"request","id":9,"request":{"op":"status"},"request":{"op":"status"}}"#,
            r#"{"frame":"request","id":9,"request":{"op":"set_local_node_id","node_id":1,"node_id":1}}"#,
            r#"{"frame":"request","id":9,"request":{"op":"add_peer","public_key":"a","public_key":"a","endpoint":"e",
                "allowed_ips":"","persistent_keepalive_secs":0}}"#,
            r#"{"frame":"request","id":9,"request":{"op":"add_peer","public_key":"a","endpoint":"e","allowed_ips":"",
                "persistent_keepalive_secs":0,"scope":{"scope":"global"},"scope":{"scope":"global"}}}"#,
            r#"{"frame":"request","id":9,"request":{"op":"detach_container","handle":{"platform":"linux_pid","pid":1,
                "pid":1}}}"#,
        ] {
            let (id, reason) = refusal(json);
            assert_eq!(id, 9);
            assert!(reason.contains("duplicate field"), "{json}: {reason}");
        }
        unreadable(br#"{"frame":"request","id":9,"id":8,"request":{"op":"status"}}"#);
    }

    #[test]
    fn the_id_is_found_where_the_json_breaks_behind_it() {
        assert_eq!(refusal(r#"{"frame":"request","id":18446744073709551615,"request":{"op":"#).0, u64::MAX);
        assert_eq!(refusal(r#"{"frame":"request","id":5,"request":{"op":"status"}} x"#).0, 5);
        assert_eq!(refusal(r#"{"frame":"request","id":5}"#).0, 5);
        assert_eq!(refusal(r#"{"frame":"query","id":5}"#).0, 5);
        assert_eq!(refusal(r#"{"id":5,"request":7}"#).0, 5);
        assert_eq!(refusal(r#"{"request":["status"],"id":5}"#).0, 5);
        let mut body = br#"{"frame":"request","id":5,"request":{"op":"unregister_dns","name":""#.to_vec();
        body.extend_from_slice(&[0xff, 0xfe]);
        body.extend_from_slice(b"\"}}");
        assert!(matches!(decode(&body), Err(DecodeError::Refused { id: 5, .. })));
    }

    #[test]
    fn without_an_id_there_is_nobody_to_answer() {
        unreadable(b"");
        unreadable(b"   ");
        unreadable(b"{");
        unreadable(b"null");
        unreadable(b"\xff\xff");
        unreadable(br#"{"frame":"request","id":-1,"request":{"op":"status"}}"#);
        unreadable(br#"{"frame":"request","id":18446744073709551616,"request":{"op":"status"}}"#);
        unreadable(br#"{"frame":"request","id":"1","request":{"op":"status"}}"#);
        unreadable(br#"{"frame":"request","id":1.0,"request":{"op":"status"}}"#);
        unreadable(br#"{"frame":"request","request":{"op":"status"}}"#);
        unreadable("[".repeat(100_000).as_bytes());
    }

    #[test]
    fn broken_answers_are_not_answered() {
        let answer = decode(br#"{"frame":"response","id":1,"response":{"result":"?"}}"#);
        assert!(matches!(answer, Err(DecodeError::Response(_))));
        assert_eq!(decode(br#"{"frame":"event","event":"?"}"#), Err(DecodeError::Event));
    }

    #[test]
    fn white_space_order_unknown_fields_and_the_array_form_are_accepted() {
        for json in [
            " \n{\"frame\":\"request\",\"id\":1,\"request\":{\"op\":\"status\"}}\t ",
            r#"{"request":{"later":{"a":[1]},"op":"status"},"new":null,"id":1,"frame":"request"}"#,
            r#"["request",1,{"op":"status"}]"#,
        ] {
            assert_eq!(decode(json.as_bytes()), Ok(Frame::Request { id: 1, request: Request::Status }), "{json}");
        }
    }
}
