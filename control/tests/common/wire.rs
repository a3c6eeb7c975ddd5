//! The contract by hand: a length of four bytes, little-endian, and JSON as the paper has it. Nothing here is shared with
//! the daemon, so that an error in its types cannot hide.

use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A connection to a daemon.
pub struct Wire(UnixStream);

impl Wire {
    /// Connects to `path`, waiting for a daemon that is still starting.
    pub fn connect(path: impl AsRef<Path>) -> Self {
        let start = Instant::now();
        loop {
            match UnixStream::connect(path.as_ref()) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
                    return Self(stream);
                }
                Err(error) => {
                    assert!(start.elapsed() < Duration::from_secs(30), "{}: {error}", path.as_ref().display())
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends one frame.
    pub fn send(&mut self, frame: &str) {
        let mut bytes = u32::try_from(frame.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(frame.as_bytes());
        self.0.write_all(&bytes).unwrap();
    }

    /// Receives one frame; `None` where the daemon closed.
    pub fn receive(&mut self) -> Option<String> {
        let mut length = [0; 4];
        let gone = |error: &std::io::Error| {
            matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset)
        };
        match self.0.read_exact(&mut length) {
            Err(error) if gone(&error) => return None,
            other => other.unwrap(),
        }
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut body).unwrap();
        Some(String::from_utf8(body).unwrap())
    }

    /// Sends a request with the id 7.
    pub fn send_request(&mut self, request: &str) {
        self.send(&format!(r#"{{"frame":"request","id":7,"request":{request}}}"#));
    }

    /// What is in the response with that id, as text; `None` where the daemon closed.
    pub fn receive_answer(&mut self) -> Option<String> {
        let answer = self.receive()?;
        let inside = answer.strip_prefix(r#"{"frame":"response","id":7,"response":"#).and_then(|a| a.strip_suffix('}'));
        Some(inside.unwrap_or_else(|| panic!("{answer}")).to_owned())
    }

    /// Sends a request and returns its answer.
    pub fn ask(&mut self, request: &str) -> String {
        self.send_request(request);
        self.receive_answer().unwrap()
    }

    /// The answer to `status`.
    pub fn status(&mut self) -> Value {
        serde_json::from_str(&self.ask(r#"{"op":"status"}"#)).unwrap()
    }
}
