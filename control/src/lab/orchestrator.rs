//! The part of an orchestrator: driving an overlay daemon over its IPC socket, with blocking calls.
//!
//! Speaks the published contract (one frame per message: length as 32-bit little endian, then JSON), so it drives
//! `zlayer-overlayd` as well as our own daemon. What only ours reports is optional in [`Status`].

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// Largest frame of the contract.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// An answer that takes longer counts as none.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Why the daemon did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub enum OrchestratorError {
    /// Nobody listens.
    #[error("no daemon answers at {}: {source}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The last refusal.
        source: io::Error,
    },
    /// The connection failed or the answer took too long.
    #[error("{op}: the daemon gave no answer: {source}")]
    Io {
        /// The operation.
        op: String,
        /// What happened.
        source: io::Error,
    },
    /// The daemon answered `err`.
    #[error("{op}: the daemon says: {message}")]
    Refused {
        /// The operation.
        op: String,
        /// Its words.
        message: String,
    },
    /// The answer is not what the contract says.
    #[error("{op}: the answer is not understood: {detail}")]
    Answer {
        /// The operation.
        op: String,
        /// What is wrong.
        detail: String,
    },
}

/// The overlay of one node.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Deployment; part of the interface name.
    pub deployment: String,
    /// Instance; part of the interface name.
    pub instance: String,
    /// Addresses of the whole overlay.
    pub cluster: IpNet,
    /// Addresses of this node; the node itself takes the first host.
    pub slice: IpNet,
    /// UDP port of WireGuard.
    pub port: u16,
}

/// What `status` says, as far as a laboratory asks.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    /// Interface of the overlay.
    pub interface: Option<String>,
    /// Overlay address of the node.
    pub node_ip: Option<IpAddr>,
    /// Public key in base64.
    pub public_key: Option<String>,
    /// Peers.
    #[serde(default)]
    pub peers: Vec<PeerStatus>,
    /// Offloads and their states; ours only.
    #[serde(default)]
    pub offloads: Vec<OffloadStatus>,
    /// Packets dropped by reason; ours only.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// One peer in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct PeerStatus {
    /// Its public key.
    pub public_key: String,
    /// When the last handshake completed, in seconds of Unix time; 0 for never. (Some daemons report an age instead.)
    pub last_handshake_unix_secs: i64,
    /// Bytes of datagrams received; ours only.
    #[serde(default)]
    pub rx_bytes: u64,
    /// Bytes of datagrams sent; ours only.
    #[serde(default)]
    pub tx_bytes: u64,
}

/// One offload in [`Status`].
#[derive(Clone, Debug, Deserialize)]
pub struct OffloadStatus {
    /// Its name.
    pub name: String,
    /// `on`, `untested` or why it is off.
    pub state: String,
    /// Batches that went the slow way because of it.
    #[serde(default)]
    pub fallbacks: u64,
}

/// A connection to one daemon.
#[derive(Debug)]
pub struct Orchestrator {
    stream: UnixStream,
    id: u64,
}

impl Orchestrator {
    /// Connects to the daemon at `path`, which may still be starting.
    ///
    /// # Errors
    /// [`OrchestratorError::Connect`] where nobody listens within the time.
    pub fn connect(path: &Path, within: Duration) -> Result<Self, OrchestratorError> {
        let start = Instant::now();
        loop {
            match UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(ANSWER_WITHIN))?;
                stream.set_write_timeout(Some(ANSWER_WITHIN))?;
                Ok(stream)
            }) {
                Ok(stream) => return Ok(Self { stream, id: 0 }),
                Err(source) if start.elapsed() >= within => {
                    return Err(OrchestratorError::Connect { path: path.into(), source });
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Names the node and sets up its overlay. Returns the name of the interface.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn set_up(&mut self, node_id: u64, overlay: &Overlay) -> Result<String, OrchestratorError> {
        self.call(json!({ "op": "set_local_node_id", "node_id": node_id }))?;
        let answer = self.call(json!({
            "op": "setup_global_overlay",
            "deployment": overlay.deployment,
            "instance_id": overlay.instance,
            "cluster_cidr": overlay.cluster,
            "slice_cidr": overlay.slice,
            "wg_port": overlay.port,
            // Nothing outside the laboratory is to be asked for an address.
            "nat": { "enabled": false },
        }))?;
        field(&answer, "setup_global_overlay", "name")
    }

    /// Makes a peer known: where it is and which addresses are behind it.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn add_peer(
        &mut self,
        public_key: &str,
        endpoint: SocketAddr,
        allowed: IpNet,
        keepalive_secs: u16,
    ) -> Result<(), OrchestratorError> {
        let request = json!({
            "op": "add_peer",
            "public_key": public_key,
            "endpoint": endpoint,
            "allowed_ips": allowed.to_string(),
            "persistent_keepalive_secs": keepalive_secs,
        });
        self.call(request).map(drop)
    }

    /// Asks how things are.
    ///
    /// # Errors
    /// [`OrchestratorError`].
    pub fn status(&mut self) -> Result<Status, OrchestratorError> {
        let answer = self.call(json!({ "op": "status" }))?;
        serde_json::from_value(answer)
            .map_err(|error| OrchestratorError::Answer { op: "status".into(), detail: error.to_string() })
    }

    /// Sends one request and waits for its answer, passing over events.
    ///
    /// # Errors
    /// [`OrchestratorError::Refused`] where the answer is `err`.
    pub fn call(&mut self, request: Value) -> Result<Value, OrchestratorError> {
        let op = request.get("op").and_then(Value::as_str).unwrap_or_default().to_owned();
        self.id += 1;
        let frame = json!({ "frame": "request", "id": self.id, "request": request });
        let io = |source| OrchestratorError::Io { op: op.clone(), source };
        self.write(frame.to_string().as_bytes()).map_err(io)?;
        loop {
            let bytes = self.read().map_err(io)?;
            let mut frame: Value = serde_json::from_slice(&bytes)
                .map_err(|error| OrchestratorError::Answer { op: op.clone(), detail: error.to_string() })?;
            if frame["frame"] != "response" || frame["id"] != self.id {
                continue;
            }
            let response = frame["response"].take();
            if response["result"] == "err" {
                return Err(OrchestratorError::Refused { message: field(&response, &op, "message")?, op });
            }
            return Ok(response);
        }
    }

    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        let len = u32::try_from(body.len()).map_err(io::Error::other)?;
        let mut frame = len.to_le_bytes().to_vec();
        frame.extend_from_slice(body);
        self.stream.write_all(&frame)
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix)?;
        let len = u32::from_le_bytes(prefix) as usize;
        if len > FRAME_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes is too long")));
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }
}

fn field(answer: &Value, op: &str, name: &str) -> Result<String, OrchestratorError> {
    let text = answer.get(name).and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| OrchestratorError::Answer { op: op.into(), detail: format!("no {name} in {answer}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::process::{Keeper, Scratch};
    use std::os::unix::net::UnixListener;

    fn frame(text: &str) -> Vec<u8> {
        let mut bytes = u32::try_from(text.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    /// A daemon that reads one request per entry and answers with the frames of the entry.
    fn daemon(answers: Vec<Vec<&'static str>>) -> (Scratch, Orchestrator, thread::JoinHandle<Vec<Value>>) {
        let scratch = Keeper::default().scratch().unwrap();
        let path = scratch.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = Vec::new();
            for frames in answers {
                let mut prefix = [0; 4];
                stream.read_exact(&mut prefix).unwrap();
                let mut body = vec![0; u32::from_le_bytes(prefix) as usize];
                stream.read_exact(&mut body).unwrap();
                requests.push(serde_json::from_slice(&body).unwrap());
                for text in frames {
                    stream.write_all(&frame(text)).unwrap();
                }
            }
            requests
        });
        let orchestrator = Orchestrator::connect(&path, Duration::from_secs(5)).unwrap();
        (scratch, orchestrator, thread)
    }

    #[test]
    fn events_and_late_answers_are_passed_over() {
        let (_scratch, mut orchestrator, thread) = daemon(vec![
            vec![r#"{"frame":"response","id":1,"response":{"result":"ok"}}"#],
            vec![
                r#"{"frame":"event","event":"peer_health_changed","pubkey":"k","healthy":true}"#,
                r#"{"frame":"response","id":1,"response":{"result":"ok"}}"#,
                r#"{"frame":"response","id":2,"response":{"result":"bridge_name","name":"gnl-x-g"}}"#,
            ],
        ]);
        let overlay = Overlay {
            deployment: "x".into(),
            instance: "1".into(),
            cluster: "10.200.0.0/16".parse().unwrap(),
            slice: "10.200.1.0/24".parse().unwrap(),
            port: 51_820,
        };
        assert_eq!(orchestrator.set_up(7, &overlay).unwrap(), "gnl-x-g");
        let requests = thread.join().unwrap();
        assert_eq!(requests[0]["request"], json!({ "op": "set_local_node_id", "node_id": 7 }));
        assert_eq!(requests[1]["request"]["slice_cidr"], "10.200.1.0/24");
    }

    #[test]
    fn refusals_keep_the_words_of_the_daemon() {
        let (_scratch, mut orchestrator, _thread) =
            daemon(vec![vec![r#"{"frame":"response","id":1,"response":{"result":"err","message":"no slice"}}"#]]);
        let error = orchestrator.call(json!({ "op": "nat_tick" })).unwrap_err();
        assert_eq!(error.to_string(), "nat_tick: the daemon says: no slice");
    }

    #[test]
    fn status_of_either_daemon_is_read() {
        let published = r#"{"frame":"response","id":1,"response":{"result":"status","overlay_cidr":"10.200.0.0/16","peer_count":0,"service_count":0}}"#;
        let ours = r#"{"frame":"response","id":2,"response":{"result":"status","interface":"g","node_ip":"10.200.1.1","public_key":"k","peer_count":1,"service_count":0,"peers":[{"public_key":"09","endpoint":"","allowed_ips":"","last_handshake_unix_secs":1700000000,"rx_bytes":5,"tx_bytes":6}],"offloads":[{"name":"tun_tcp","state":"on","fallbacks":2}],"drops":{"replay":3}}}"#;
        let (_scratch, mut orchestrator, _thread) = daemon(vec![vec![published], vec![ours]]);
        assert!(orchestrator.status().unwrap().peers.is_empty());
        let status = orchestrator.status().unwrap();
        assert_eq!((status.peers[0].rx_bytes, status.offloads[0].fallbacks, status.drops["replay"]), (5, 2, 3));
    }

    #[test]
    fn nonsense_is_an_error() {
        let (_scratch, mut orchestrator, _thread) = daemon(vec![vec!["{"], vec![]]);
        assert!(matches!(orchestrator.status(), Err(OrchestratorError::Answer { .. })));
        assert!(matches!(orchestrator.status(), Err(OrchestratorError::Io { .. })));
        let missing = Orchestrator::connect(Path::new("/nonexistent/sock"), Duration::ZERO).unwrap_err();
        assert!(matches!(missing, OrchestratorError::Connect { .. }), "{missing}");
    }
}
