//! The server against peers that misbehave, with handlers that do.

mod crowd;
mod descriptors;
mod own;
mod subscribers;

use super::*;
use crate::ipc::access::Principal;
use crate::ipc::client::{Client, ClientError};
use crate::ipc::wire::{AttachContainer, AttachHandle, ErrorCode, ObjectKind, Objects, page};
use crate::temp_dir::TempDir;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

/// Answers the number of the request, after doing what its name says. Has the names it is told to register.
#[derive(Default)]
struct Actor {
    calls: AtomicU64,
    names: Mutex<BTreeSet<String>>,
}

impl Handler for Actor {
    async fn handle(&self, order: Order) -> Response {
        assert_eq!(order.caller.uid, Some(nix::unistd::geteuid().as_raw()));
        match order.request {
            Request::UnregisterDns { name } if name == "panic" => panic!("as asked"),
            Request::UnregisterDns { name } if name == "hang" => std::future::pending().await,
            Request::UnregisterDns { name } if name == "slow" => {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Response::Ok
            }
            Request::UnregisterDns { name } if name == "long" => {
                Response::BridgeName { name: "x".repeat(crate::ipc::frame::FRAME_BYTES_MAX) }
            }
            Request::RegisterDns { name, .. } => {
                self.names.lock().unwrap().insert(name);
                Response::Ok
            }
            Request::AttachContainer(attach) if attach.netns_fd => descriptors::describe(order.descriptors),
            Request::Status => Response::Status(Box::default()),
            Request::Shutdown => Response::Ok,
            _ => {
                let call = self.calls.fetch_add(1, Ordering::Relaxed);
                Response::BridgeName { name: call.to_string() }
            }
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<ListPage, Fault> {
        let names = self.names.lock().unwrap();
        let items = names.iter().map(|name| crate::ipc::wire::DnsItem {
            name: name.clone(),
            addresses: Vec::new(),
            ttl_secs: 5,
        });
        let (items, next) = page(items, query);
        Ok(ListPage { objects: Objects::Dns(items), next })
    }

    async fn retain(&self, keep: &Keep) -> Result<Vec<ObjectName>, Fault> {
        let mut names = self.names.lock().unwrap();
        let name = |key: &String| ObjectName { kind: ObjectKind::Dns, key: key.clone() };
        let gone: Vec<_> = names.iter().map(name).filter(|name| !keep.keeps(name)).collect();
        names.retain(|key| keep.keeps(&name(key)));
        Ok(gone)
    }

    fn boot_id(&self) -> String {
        "boot".into()
    }
}

const QUICK: Limits = Limits {
    connections: 20,
    frame_time: Duration::from_millis(500),
    long_frames: 1,
    request_time: Duration::from_secs(1),
};

async fn start(limits: Limits) -> (TempDir, PathBuf, tokio::task::JoinHandle<()>) {
    let dir = TempDir::new();
    let path = dir.join("s");
    let socket = BoundSocket::bind(&path, None).unwrap();
    let task = tokio::spawn(async move { serve(&socket, Arc::new(Actor::default()), limits, Stop::default()).await });
    (dir, path, task)
}

async fn works(path: &Path) {
    let mut client = Client::connect(path).await.unwrap();
    assert!(matches!(client.call(Request::Status).await.unwrap(), Response::Status(_)));
}

fn named(name: &str) -> Request {
    Request::UnregisterDns { name: name.into() }
}

async fn refusal(client: &mut Client, request: Request) -> String {
    match client.call(request).await {
        Err(ClientError::Refused(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_panic_and_a_hang_are_answered_and_the_connection_lives() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    assert!(refusal(&mut client, named("panic")).await.contains("failed inside the daemon"));
    assert!(refusal(&mut client, named("hang")).await.contains("still running"));
    assert!(refusal(&mut client, named("long")).await.contains("exceeds the frame limit"));
    assert!(client.call(Request::Status).await.is_ok());
}

#[tokio::test]
async fn a_sender_that_stalls_inside_a_frame_is_cut_and_an_idle_one_is_not() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut idle = Client::connect(&path).await.unwrap();
    for half in [b"\x10".as_slice(), b"\x10\0\0\0{"] {
        let mut stalled = UnixStream::connect(&path).await.unwrap();
        stalled.write_all(half).await.unwrap();
        works(&path).await;
        let mut nothing = Vec::new();
        timeout(Duration::from_secs(5), stalled.read_to_end(&mut nothing)).await.unwrap().unwrap();
        assert!(nothing.is_empty());
    }
    assert!(idle.call(Request::Status).await.is_ok());
}

#[tokio::test]
async fn one_stalled_long_frame_does_not_hold_up_short_ones() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut long = UnixStream::connect(&path).await.unwrap();
    long.write_all(&8_388_608_u32.to_le_bytes()).await.unwrap();
    long.write_all(b"{").await.unwrap();
    works(&path).await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_returns() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut kept = Vec::new();
    for _ in 0..QUICK.connections {
        let mut client = Client::connect(&path).await.unwrap();
        client.call(Request::Status).await.unwrap();
        kept.push(client);
    }
    let mut refused = UnixStream::connect(&path).await.unwrap();
    assert_eq!(timeout(Duration::from_secs(5), refused.read(&mut [0])).await.unwrap().unwrap(), 0);
    kept.pop();
    for attempt in 0.. {
        let mut client = Client::connect(&path).await.unwrap();
        if client.call(Request::Status).await.is_ok() {
            break;
        }
        assert!(attempt < 100, "no room after a connection closed");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(kept[0].call(Request::Status).await.is_ok());
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_cut() {
    let (_dir, path, _task) = start(Limits { connections: 4, ..QUICK }).await;
    let deaf = UnixStream::connect(&path).await.unwrap();
    let request = br#"{"frame":"request","id":1,"request":{"op":"status"}}"#;
    let mut frame = u32::try_from(request.len()).unwrap().to_le_bytes().to_vec();
    frame.extend_from_slice(request);
    let deadline = Instant::now() + Duration::from_secs(20);
    let cut = loop {
        assert!(Instant::now() < deadline, "the server keeps a peer that does not read");
        match timeout(Duration::from_secs(1), deaf.writable()).await {
            Ok(ready) => ready.unwrap(),
            Err(_) => continue,
        }
        match deaf.try_write(&frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break error,
            // Part of a frame would be the stall of the other test; 60 bytes always fit or do not.
            Ok(written) => assert_eq!(written, frame.len()),
        }
    };
    assert!(matches!(cut.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset), "{cut}");
    works(&path).await;
}

#[tokio::test]
async fn shutdown_is_answered_before_the_server_ends() {
    let (_dir, path, task) = start(QUICK).await;
    let mut other = Client::connect(&path).await.unwrap();
    let mut client = Client::connect(&path).await.unwrap();
    assert_eq!(client.call(Request::Shutdown).await.unwrap(), Response::Ok);
    timeout(Duration::from_secs(5), task).await.unwrap().unwrap();
    assert!(!path.exists());
    assert!(matches!(other.call(Request::Status).await, Err(ClientError::Lost(_))));
}
