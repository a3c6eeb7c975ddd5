//! The other end of the socket: one connection, one request at a time, no wait without an end.
//!
//! Events and answers to other requests are skipped while waiting. After a transport error the connection is of no more
//! use; connect again.

use super::frame::{FrameError, encode, read_body, read_length};
use super::wire::{DecodeError, EventRecord, Frame, Request, Response, decode};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long [`Client::connect`] waits.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// How long a call waits unless told otherwise: a little more than the server gives a request.
const CALL_TIME: Duration = Duration::from_secs(65);

/// Why a call brought no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("no daemon answers at {path} ({source}): start it, or name its socket with --socket")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection failed or the daemon closed it.
    #[error("the daemon went away: {0}")]
    Lost(FrameError),
    /// No answer in time.
    #[error("the daemon did not answer within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// What came is not the contract.
    #[error("the daemon said something this client does not understand: {0}")]
    Unintelligible(String),
    /// The daemon answered that it did not do it.
    #[error("{0}")]
    Refused(String),
    /// An earlier call failed in the middle.
    #[error("this connection is no longer usable after an earlier error: connect again")]
    Spent,
}

impl ClientError {
    /// Whether there is no daemon to talk to, rather than one that says no.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost(_) | Self::TimedOut(_) | Self::Spent)
    }
}

/// A connection to a daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    last_id: u64,
    call_time: Duration,
    spent: bool,
}

impl Client {
    /// Connects to the daemon at `path`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let unreachable = |source| ClientError::Unreachable { path: path.to_owned(), source };
        let connected = timeout(CONNECT_TIME, UnixStream::connect(path)).await;
        let stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(unreachable)?;
        Ok(Self { stream: BufReader::new(stream), last_id: 0, call_time: CALL_TIME, spent: false })
    }

    /// The same connection with another deadline per call.
    #[must_use]
    pub fn with_call_time(self, call_time: Duration) -> Self {
        Self { call_time, ..self }
    }

    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]; an `err` answer is [`ClientError::Refused`] and leaves the connection usable.
    pub async fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        match self.ask(request).await? {
            Response::Err(fault) => Err(ClientError::Refused(fault.message)),
            response => Ok(response),
        }
    }

    /// The same, with a refusal as the answer it is.
    ///
    /// # Errors
    /// [`ClientError`], but for [`ClientError::Refused`].
    pub async fn ask(&mut self, request: Request) -> Result<Response, ClientError> {
        self.last_id = self.last_id.wrapping_add(1);
        let (id, frame) = (self.last_id, encode(&Frame::Request { id: self.last_id, request }));
        self.exchange(frame, |body| match decode(body) {
            Ok(Frame::Response { id: answered, response }) if answered == id => Ok(Some(response)),
            // An event of a later version is skipped like any other.
            Ok(Frame::Response { .. } | Frame::Event(_)) | Err(DecodeError::Event) => Ok(None),
            Ok(Frame::Request { .. }) | Err(DecodeError::Refused { .. }) => Err("a request from the server".into()),
            Err(DecodeError::Response(reason) | DecodeError::Unreadable(reason)) => Err(reason),
        })
        .await
    }

    /// Sends a request as it is, whether this version knows it or not, and waits for its answer, a refusal perhaps.
    ///
    /// # Errors
    /// [`ClientError`], but for [`ClientError::Refused`].
    pub async fn ask_json(&mut self, request: &Value) -> Result<Value, ClientError> {
        self.last_id = self.last_id.wrapping_add(1);
        let id = self.last_id;
        let frame = encode(&json!({"frame": "request", "id": id, "request": request}));
        self.exchange(frame, |body| {
            let mut frame: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
            let answers = frame["frame"] == "response" && frame["id"] == id;
            Ok(answers.then(|| frame["response"].take()))
        })
        .await
    }

    /// Waits for the next event, for as long as it takes. Events of kinds this version does not know are passed over.
    ///
    /// # Errors
    /// [`ClientError`] where the connection ends.
    pub async fn next_event(&mut self) -> Result<EventRecord, ClientError> {
        if std::mem::replace(&mut self.spent, true) {
            return Err(ClientError::Spent);
        }
        loop {
            if let Ok(Frame::Event(record)) = decode(&self.receive().await?) {
                self.spent = false;
                return Ok(record);
            }
        }
    }

    /// Sends a frame and takes what comes until `answer` finds it.
    async fn exchange<T>(
        &mut self,
        frame: Result<Vec<u8>, serde_json::Error>,
        answer: impl Fn(&[u8]) -> Result<Option<T>, String>,
    ) -> Result<T, ClientError> {
        if std::mem::replace(&mut self.spent, true) {
            return Err(ClientError::Spent);
        }
        let call_time = self.call_time;
        let talk = async {
            let frame = frame.map_err(|error| ClientError::Unintelligible(error.to_string()))?;
            self.stream.write_all(&frame).await.map_err(|error| ClientError::Lost(error.into()))?;
            loop {
                let body = self.receive().await?;
                if let Some(found) = answer(&body).map_err(ClientError::Unintelligible)? {
                    return Ok(found);
                }
            }
        };
        let found = timeout(call_time, talk).await.unwrap_or(Err(ClientError::TimedOut(call_time)))?;
        self.spent = false;
        Ok(found)
    }

    async fn receive(&mut self) -> Result<Vec<u8>, ClientError> {
        let length = read_length(&mut self.stream).await.map_err(ClientError::Lost)?;
        let length = length.ok_or_else(|| ClientError::Lost(io::Error::from(io::ErrorKind::UnexpectedEof).into()))?;
        read_body(&mut self.stream, length).await.map_err(ClientError::Lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::frame::write_frame;
    use crate::temp_dir::TempDir;
    use tokio::net::UnixListener;

    /// A server that answers the first request with `frames`, then waits.
    async fn scripted(frames: &'static [&'static str]) -> (TempDir, Client) {
        let dir = TempDir::new();
        let listener = UnixListener::bind(dir.join("s")).unwrap();
        let client = Client::connect(dir.join("s")).await.unwrap().with_call_time(Duration::from_millis(300));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = read_length(&mut stream).await.unwrap().unwrap();
            read_body(&mut stream, length).await.unwrap();
            for frame in frames {
                write_frame(&mut stream, frame.as_bytes()).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        (dir, client)
    }

    #[tokio::test]
    async fn events_and_foreign_answers_are_skipped() {
        let (_dir, mut client) = scripted(&[
            r#"{"frame":"event","event":"peer_health_changed","pubkey":"k","healthy":true}"#,
            r#"{"frame":"event","event":"of_a_later_version","x":1}"#,
            r#"{"frame":"response","id":77,"response":{"result":"ok"}}"#,
            r#"{"frame":"response","id":1,"response":{"result":"bridge_name","name":"n"}}"#,
        ])
        .await;
        assert_eq!(client.call(Request::Status).await.unwrap(), Response::BridgeName { name: "n".into() });
    }

    #[tokio::test]
    async fn what_this_version_does_not_know_is_asked_and_answered_as_it_is() {
        let (_dir, mut client) = scripted(&[
            r#"{"frame":"event","event":"of_a_later_version","x":1}"#,
            r#"{"frame":"response","id":1,"response":{"result":"later","x":[1]}}"#,
            r#"{"frame":"event","event":"of_a_later_version","x":1}"#,
            r#"{"frame":"event","event":"peer_health_changed","pubkey":"k","healthy":true,"cursor":"c-1"}"#,
        ])
        .await;
        let answer = client.ask_json(&json!({"op": "later", "y": 2})).await.unwrap();
        assert_eq!(answer, json!({"result": "later", "x": [1]}));
        assert_eq!(client.next_event().await.unwrap().cursor.as_deref(), Some("c-1"));
    }

    #[tokio::test]
    async fn silence_ends_and_spends_the_connection() {
        let (_dir, mut client) = scripted(&[]).await;
        assert!(matches!(client.call(Request::Status).await, Err(ClientError::TimedOut(_))));
        assert!(matches!(client.call(Request::Status).await, Err(ClientError::Spent)));
    }

    #[tokio::test]
    async fn a_request_from_the_server_and_an_unknown_answer_are_errors() {
        let (_dir, mut client) = scripted(&[r#"{"frame":"request","id":1,"request":{"op":"status"}}"#]).await;
        assert!(matches!(client.call(Request::Status).await, Err(ClientError::Unintelligible(_))));
        let (_dir, mut client) = scripted(&[r#"{"frame":"response","id":1,"response":{"result":"?"}}"#]).await;
        assert!(matches!(client.call(Request::Status).await, Err(ClientError::Unintelligible(_))));
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let dir = TempDir::new();
        let error = Client::connect(dir.join("none")).await.unwrap_err();
        assert!(error.is_unreachable() && error.to_string().contains("--socket"), "{error}");
    }
}
