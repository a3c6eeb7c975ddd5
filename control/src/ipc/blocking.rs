//! The client for code without a runtime: the same connection, with calls that wait.

use super::client::{Client, ClientError};
use super::wire::{EventRecord, Request, Response, StatusSnapshot};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;
use tokio::runtime::Runtime;

/// A connection to a daemon and the runtime that drives it while a call waits. Not for use within another runtime.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: Runtime,
}

impl BlockingClient {
    /// Connects to the daemon at `path`; no call waits longer than `call_time`.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`].
    pub fn connect(path: &Path, call_time: Duration) -> Result<Self, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| ClientError::Unreachable { path: path.to_owned(), source })?;
        let client = runtime.block_on(Client::connect(path))?.with_call_time(call_time);
        Ok(Self { client, runtime })
    }

    /// Sends `request` and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]; an `err` answer is [`ClientError::Refused`] and leaves the connection usable.
    pub fn call(&mut self, request: Request) -> Result<Response, ClientError> {
        self.runtime.block_on(self.client.call(request))
    }

    /// The same, with a refusal as the answer it is.
    ///
    /// # Errors
    /// [`ClientError`], but for [`ClientError::Refused`].
    pub fn ask(&mut self, request: Request) -> Result<Response, ClientError> {
        self.runtime.block_on(self.client.ask(request))
    }

    /// Sends a request as it is and waits for its answer.
    ///
    /// # Errors
    /// As [`BlockingClient::ask`].
    pub fn ask_json(&mut self, request: &Value) -> Result<Value, ClientError> {
        self.runtime.block_on(self.client.ask_json(request))
    }

    /// Waits for the next event, for as long as it takes.
    ///
    /// # Errors
    /// [`ClientError`] where the connection ends.
    pub fn next_event(&mut self) -> Result<EventRecord, ClientError> {
        self.runtime.block_on(self.client.next_event())
    }

    /// Asks what is up.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&mut self) -> Result<StatusSnapshot, ClientError> {
        match self.call(Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => Err(ClientError::Unintelligible(format!("{other:?} in answer to status"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::temp_dir::TempDir;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    #[test]
    fn answers_come_to_code_that_waits() {
        let dir = TempDir::new();
        let listener = UnixListener::bind(dir.join("s")).unwrap();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for response in [r#"{"result":"status","peer_count":3,"service_count":0}"#, r#"{"result":"ok"}"#] {
                let mut length = [0; 4];
                stream.read_exact(&mut length).unwrap();
                let mut body = vec![0; u32::from_le_bytes(length) as usize];
                stream.read_exact(&mut body).unwrap();
                let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
                let frame = format!(r#"{{"frame":"response","id":{},"response":{response}}}"#, body["id"]);
                stream.write_all(&u32::try_from(frame.len()).unwrap().to_le_bytes()).unwrap();
                stream.write_all(frame.as_bytes()).unwrap();
            }
        });
        let mut client = BlockingClient::connect(&dir.join("s"), Duration::from_secs(20)).unwrap();
        assert_eq!(client.status().unwrap().peer_count, 3);
        assert!(matches!(client.status(), Err(ClientError::Unintelligible(_))));
        daemon.join().unwrap();
        let missing = BlockingClient::connect(&dir.join("none"), Duration::from_secs(1)).unwrap_err();
        assert!(missing.is_unreachable());
    }
}
