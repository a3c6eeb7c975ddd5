//! The endpoint on real sockets, before a node with doubles for device and host.

use super::*;
use crate::ipc::wire::{ErrorCode, SetupGlobalOverlay};
use crate::node::fake::Lab;
use crate::node::{Node, NodeOptions};
use crate::temp_dir::TempDir;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

const SCRAPE: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: application/openmetrics-text\r\n\r\n";

fn on(listen: MetricsListen) -> MetricsSetup {
    MetricsSetup { listen, mode: 0o640, group: None }
}

/// Serves a node with the overlay up.
async fn serve(dir: &TempDir, setup: MetricsSetup) -> (HealthBoard, JoinHandle<()>) {
    let lab = Lab::default();
    let node = Node::open(lab.clone(), lab, NodeOptions::new(&dir.join("state"))).await.unwrap();
    let overlay = SetupGlobalOverlay {
        deployment: "prod".into(),
        instance_id: "0".into(),
        cluster_cidr: "10.200.0.0/16".into(),
        slice_cidr: None,
        wg_port: 51420,
        host_adapter_mandatory: false,
        nat: None,
    };
    let request = Request::SetupGlobalOverlay(overlay);
    let order = Order { caller: Caller::default(), request, descriptors: Vec::new() };
    assert!(matches!(Handler::handle(&*node, order).await, Response::BridgeName { .. }));
    let (board, tally) = (HealthBoard::default(), Tally::default());
    let busy = Response::Err(Fault::new(ErrorCode::Busy, "b"));
    tally.record("attach_container", &busy, Duration::from_millis(3));
    let metrics = Metrics::new(node, board.clone(), tally);
    let serving = tokio::spawn(async move {
        metrics.serve(Some(&setup)).await;
    });
    (board, serving)
}

async fn scrape(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> String {
    stream.write_all(SCRAPE).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn until<T>(mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it never comes");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn check(answer: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    let kind = "\r\nContent-Type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n";
    assert!(head.contains(kind), "{head}");
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    assert!(body.contains("\nginnel_overlay_up 1\n"), "{body}");
    assert!(body.contains("\nginnel_requests_total{op=\"attach_container\",outcome=\"busy\"} 1\n"), "{body}");
    assert!(body.contains("\nginnel_drop_packets_total{interface=\"zl-prod-0-g\",reason="), "{body}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
}

#[tokio::test]
async fn a_unix_socket_is_for_whom_its_mode_says() {
    let dir = TempDir::new();
    let path = dir.join("run/metrics.sock");
    let (_board, serving) = serve(&dir, on(MetricsListen::Unix(path.clone()))).await;
    let mut stream = until(async || UnixStream::connect(&path).await.ok()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    check(&scrape(&mut stream).await);
    serving.abort();
    let _ = serving.await;
    assert!(!path.exists());
}

#[tokio::test]
async fn the_loopback_is_served_and_a_taken_address_is_told() {
    let dir = TempDir::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let (board, serving) = serve(&dir, on(MetricsListen::Tcp(address))).await;
    let told = until(async || board.health().conditions.pop()).await;
    assert_eq!(told.code, "metrics_failed");
    assert!(told.text.contains(&address.to_string()), "{}", told.text);
    serving.abort();
    drop(taken);
    let dir = TempDir::new();
    let (board, _serving) = serve(&dir, on(MetricsListen::Tcp(address))).await;
    let mut stream = until(async || TcpStream::connect(address).await.ok()).await;
    check(&scrape(&mut stream).await);
    assert!(board.health().ok);
}

#[tokio::test]
async fn nothing_but_the_loopback_is_bound() {
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:127.0.0.1]:0"] {
        let setup = on(MetricsListen::Tcp(address.parse().unwrap()));
        assert!(matches!(Listener::bind(&setup).await, Err(BindError::NotLoopback(_))), "{address}");
    }
}

#[tokio::test]
async fn clients_that_stall_keep_nobody_from_being_served() {
    let dir = TempDir::new();
    let path = dir.join("m");
    let (_board, _serving) = serve(&dir, on(MetricsListen::Unix(path.clone()))).await;
    let mut stalled = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        let mut stream = until(async || UnixStream::connect(&path).await.ok()).await;
        stream.write_all(b"GET /met").await.unwrap();
        stalled.push(stream);
    }
    // Served once the time of the stalled ones is up.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    check(&scrape(&mut stream).await);
    let mut told = String::new();
    stalled[0].read_to_string(&mut told).await.unwrap();
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
}
