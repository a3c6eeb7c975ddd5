//! The node behind its real server and a real socket, with doubles for device and host.

mod contract;
mod malformed;
mod overlay;

use super::fake::Lab;
use super::{KeyStore, Node, Tuning};
use crate::ipc::client::{Client, ClientError};
use crate::ipc::server::{Limits, serve};
use crate::ipc::socket::BoundSocket;
use crate::ipc::stop::Stop;
use crate::ipc::temp_dir::TempDir;
use crate::ipc::wire::{Frame, Request, Response, StatusSnapshot, decode};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// A daemon without a process.
struct Daemon {
    lab: Lab,
    node: Arc<Node<Lab, Lab>>,
    path: PathBuf,
    serving: JoinHandle<()>,
    /// Holds socket and key; another daemon may be started on it.
    dir: Arc<TempDir>,
}

impl Daemon {
    async fn start() -> Self {
        Self::start_in(Arc::new(TempDir::new())).await
    }

    async fn start_in(dir: Arc<TempDir>) -> Self {
        let lab = Lab::default();
        let node = Arc::new(Node::new(lab.clone(), lab.clone(), KeyStore::new(dir.join("state")), Tuning::default()));
        let path = dir.join("s");
        let socket = BoundSocket::bind(&path, None).await.unwrap();
        let limits = Limits { frame_time: Duration::from_secs(2), ..Limits::default() };
        let handler = node.clone();
        let serving = tokio::spawn(async move { serve(&socket, handler, limits, Stop::default()).await });
        Self { lab, node, path, serving, dir }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap().with_call_time(Duration::from_secs(20))
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
