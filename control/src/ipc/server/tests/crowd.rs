//! Many clients at once: none of them is noticed by the others.

use super::*;
use crate::ipc::frame::{read_body, read_length};
use crate::ipc::wire::{Frame, decode};

const CROWDED: Limits = Limits {
    connections: 600,
    frame_time: Duration::from_secs(60),
    long_frames: 2,
    request_time: Duration::from_secs(60),
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_idle_connections_and_stalls_hold_up_nobody() {
    let (_dir, path, _task) = start(CROWDED).await;
    let mut bystanders = Vec::new();
    for number in 0..300 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(b"\x10\0\0\0{").await.unwrap();
        }
        bystanders.push(stream);
    }
    let mut busy = Vec::new();
    for _ in 0..200 {
        let mut client = Client::connect(&path).await.unwrap();
        busy.push(tokio::spawn(async move { client.call(named("hang")).await }));
    }
    let mut client = Client::connect(&path).await.unwrap();
    for _ in 0..200 {
        client.call(Request::Status).await.unwrap();
    }
    assert!(busy.iter().all(|request| !request.is_finished()));
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_in_their_order_and_others_overtake() {
    let (_dir, path, _task) = start(CROWDED).await;
    let mut pipelined = UnixStream::connect(&path).await.unwrap();
    let mut bytes = Vec::new();
    for id in 0..50_u64 {
        let request = if id == 0 { named("slow") } else { named("quick") };
        bytes.extend(crate::ipc::frame::encode(&Frame::Request { id, request }).unwrap());
    }
    pipelined.write_all(&bytes).await.unwrap();
    let mut other = Client::connect(&path).await.unwrap();
    other.call(named("quick")).await.unwrap();
    let answered = AtomicU64::new(0);
    let order = async {
        for expected in 0..50 {
            let length = read_length(&mut pipelined).await.unwrap().unwrap();
            let body = read_body(&mut pipelined, length).await.unwrap();
            let Ok(Frame::Response { id, response }) = decode(&body) else { panic!("no answer") };
            // The client beside it was first, though it asked last.
            let first = if id == 0 { Response::Ok } else { Response::BridgeName { name: id.to_string() } };
            assert_eq!((id, response), (expected, first));
            answered.fetch_add(1, Ordering::Relaxed);
        }
    };
    timeout(Duration::from_secs(20), order).await.unwrap();
    assert_eq!(answered.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn the_last_places_are_for_admins() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let socket = BoundSocket::bind(&path, None).unwrap();
    let uid = nix::unistd::geteuid().as_raw();
    let reader = Policy { read: vec![Principal::User(uid)], ..Policy::default() };
    let settings = Live::new(ServerSettings { limits: QUICK, policy: reader });
    let board = HealthBoard::default();
    let handler = Arc::new(Actor::default());
    let server = Server::new(handler, settings.clone(), EventHub::default(), board.clone(), Stop::default());
    tokio::spawn(async move { server.serve(&socket).await });
    let mut kept = Vec::new();
    for _ in 0..QUICK.connections - QUICK.connections.div_ceil(16) {
        let mut client = Client::connect(&path).await.unwrap();
        client.call(Request::Status).await.unwrap();
        kept.push(client);
    }
    let mut refused = Client::connect(&path).await.unwrap();
    assert!(refused.call(Request::Status).await.is_err());
    assert_eq!(board.health().conditions[0].code, "connections_full");
    let admin = Policy { admin: vec![Principal::User(uid)], ..Policy::default() };
    settings.store(ServerSettings { limits: QUICK, policy: admin });
    works(&path).await;
}

/// Runs the server in a process that may have 40 descriptors: this test binary again, told so by the environment.
struct Starved(Child);

const STARVED_PATH: &str = "GINNEL_TEST_STARVED_SERVER";

impl Starved {
    fn start(path: &Path) -> Self {
        let child = Command::new("sh")
            .args([
                "-c",
                "ulimit -n 40; exec \"$0\" --exact ipc::server::tests::crowd::running_out_of_descriptors_ends_nothing",
            ])
            .arg(std::env::current_exe().unwrap())
            .env(STARVED_PATH, path)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn running_out_of_descriptors_ends_nothing() {
    if let Some(path) = std::env::var_os(STARVED_PATH) {
        let socket = BoundSocket::bind(Path::new(&path), None).unwrap();
        return serve(&socket, Arc::new(Actor::default()), Limits::default(), Stop::default()).await;
    }
    let dir = TempDir::new();
    let path = dir.join("s");
    let _server = Starved::start(&path);
    let deadline = Instant::now() + Duration::from_secs(20);
    while Client::connect(&path).await.is_err() {
        assert!(Instant::now() < deadline, "the server did not start");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut early = Client::connect(&path).await.unwrap();
    early.call(Request::Status).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..80 {
        crowd.push(UnixStream::connect(&path).await.unwrap());
    }
    // More than the process has descriptors: whoever comes is turned away, and who was there does not notice.
    let mut late = Client::connect(&path).await.unwrap();
    assert!(matches!(late.call(Request::Status).await, Err(ClientError::Lost(_))));
    let Ok(Response::Health(health)) = early.call(Request::Health).await else { panic!("no health") };
    assert_eq!((health.ok, health.conditions[0].code.as_str()), (false, "descriptors_exhausted"));
    drop(crowd);
    loop {
        let mut client = Client::connect(&path).await.unwrap();
        if client.call(Request::Status).await.is_ok() {
            break;
        }
        assert!(Instant::now() < deadline, "nobody is let in after the crowd has left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let Ok(Response::Health(health)) = early.call(Request::Health).await else { panic!("no health") };
    assert!(health.ok, "{health:?}");
}
