//! The node behind its real server and a real socket, with doubles for device and host.

mod addresses;
mod attachments;
mod care;
mod contract;
mod drift;
mod image;
mod inventory;
mod malformed;
mod members;
mod model;
mod overlay;
mod recovery;
mod restart;
mod services;

use super::fake::Lab;
use super::{Node, NodeOptions, Tuning};
use crate::ipc::client::{Client, ClientError};
use crate::ipc::events::{EventHub, Subscription};
use crate::ipc::server::{Limits, serve};
use crate::ipc::socket::BoundSocket;
use crate::ipc::stop::Stop;
use crate::ipc::wire::{Event, Frame, Request, Response, StatusSnapshot, Subscribe, decode};
use crate::temp_dir::TempDir;
use ginnel_engine::key::PublicKey;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// A daemon without a process.
struct Daemon {
    lab: Lab,
    node: Arc<Node<Lab, Lab>>,
    path: PathBuf,
    serving: JoinHandle<()>,
    heard: Mutex<(Subscription, Vec<Event>)>,
    /// Holds socket and state; another daemon may be started on it.
    dir: Arc<TempDir>,
}

impl Daemon {
    async fn start() -> Self {
        Self::start_in(Arc::new(TempDir::new())).await
    }

    /// On another machine with the same disk.
    async fn start_in(dir: Arc<TempDir>) -> Self {
        Self::start_on(dir, Lab::default()).await
    }

    async fn start_on(dir: Arc<TempDir>, lab: Lab) -> Self {
        let events = EventHub::default();
        let (heard, _) = events.subscribe(&Subscribe::default());
        let options = NodeOptions {
            marker_dir: Some(dir.path().to_owned()),
            tuning: Tuning { look_interval: Duration::from_millis(50), ..Tuning::default() },
            events,
            ..NodeOptions::new(&dir.join("state"))
        };
        let node = Node::open(lab.clone(), lab.clone(), options).await.unwrap();
        let path = dir.join("s");
        let socket = BoundSocket::bind(&path, None).unwrap();
        let limits = Limits { frame_time: Duration::from_secs(2), ..Limits::default() };
        let handler = node.clone();
        let serving = tokio::spawn(async move { serve(&socket, handler, limits, Stop::default()).await });
        Self { lab, node, path, serving, heard: Mutex::new((heard, Vec::new())), dir }
    }

    /// Ends as by a kill and starts again: devices go with the process, the rest of the kernel stays.
    async fn kill_and_restart(self) -> Self {
        let Self { lab, node, serving, dir, .. } = self;
        serving.abort();
        let _ = serving.await;
        drop(node);
        until("the process is gone", async || lab.world().links.is_empty()).await;
        Self::start_on(dir, lab).await
    }

    /// What the node has told so far.
    fn heard(&self) -> Vec<Event> {
        let (subscription, events) = &mut *self.heard.lock().unwrap();
        events.extend(std::iter::from_fn(|| subscription.poll()).map(|record| record.event));
        events.clone()
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap().with_call_time(Duration::from_secs(20))
    }
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The request in an example line.
fn request(line: &str) -> Request {
    match decode(line.as_bytes()) {
        Ok(Frame::Request { request, .. }) => request,
        other => panic!("{line}: {other:?}"),
    }
}

/// A request from its fields.
fn ask(fields: &str) -> Request {
    request(&format!(r#"{{"frame":"request","id":1,"request":{{{fields}}}}}"#))
}

async fn ok(client: &mut Client, request: Request) {
    assert_eq!(client.call(request).await.unwrap(), Response::Ok);
}

async fn refused(client: &mut Client, request: Request) -> String {
    match client.call(request).await {
        Err(ClientError::Refused(message)) => message,
        other => panic!("{other:?}"),
    }
}

async fn status(client: &mut Client) -> StatusSnapshot {
    match client.call(Request::Status).await.unwrap() {
        Response::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

const NAME: &str = "zl-prod-0-g";
const CLUSTER: &str = "10.200.0.0/16";

fn setup(cluster: &str, slice: &str, port: u16) -> Request {
    setup_as("prod", cluster, slice, port)
}

fn setup_as(deployment: &str, cluster: &str, slice: &str, port: u16) -> Request {
    ask(&format!(
        r#""op":"setup_global_overlay","deployment":"{deployment}","instance_id":"0","cluster_cidr":"{cluster}","slice_cidr":"{slice}","wg_port":{port}"#
    ))
}

fn usual() -> Request {
    setup(CLUSTER, "10.200.5.0/28", 51420)
}

fn key(byte: u8) -> PublicKey {
    PublicKey([byte; 32])
}

fn add(byte: u8, endpoint: &str, allowed_ips: &str) -> Request {
    let key = key(byte);
    ask(&format!(
        r#""op":"add_peer","public_key":"{key}","endpoint":"{endpoint}","allowed_ips":"{allowed_ips}","persistent_keepalive_secs":25"#
    ))
}

fn allow(op: &str, byte: u8, cidr: &str) -> Request {
    ask(&format!(r#""op":"{op}","pubkey":"{}","cidr":"{cidr}""#, key(byte)))
}

fn remove(byte: u8) -> Request {
    ask(&format!(r#""op":"remove_peer","pubkey":"{}""#, key(byte)))
}

async fn bring_up(client: &mut Client, request: Request) {
    assert_eq!(client.call(request).await.unwrap(), Response::BridgeName { name: NAME.into() });
}

/// Endpoint and prefixes of each peer of the device.
fn peers(daemon: &Daemon) -> Vec<(PublicKey, String, String)> {
    let world = daemon.lab.world();
    let peers = world.links[NAME].peers.iter().map(|peer| {
        let prefixes: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        (peer.public_key, peer.endpoint.map(|e| e.to_string()).unwrap_or_default(), prefixes.join(","))
    });
    peers.collect()
}

fn addresses(daemon: &Daemon) -> Vec<String> {
    daemon.lab.world().links[NAME].addresses.iter().map(ToString::to_string).collect()
}
