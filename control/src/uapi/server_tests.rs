//! Clients of every kind against the threads of the control socket.

use super::*;
use crate::temp_dir::TempDir;
use crate::uapi::testing::FakeDevice;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::mpsc;

const GET: &[u8] = b"get=1\n\n";
const LONG: Duration = Duration::from_secs(20);

fn start(temp: &TempDir) -> (Arc<FakeDevice>, UapiServer) {
    let device = Arc::new(FakeDevice::new("wg0"));
    let server = UapiServer::start(temp.path(), "wg0", device.clone(), || {}).unwrap();
    (device, server)
}

fn connect(server: &UapiServer) -> UnixStream {
    let stream = UnixStream::connect(server.path()).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Sends a request and reads to the blank line behind its answer.
fn ask(mut stream: &UnixStream, request: &[u8]) -> String {
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n\n") {
        let mut piece = [0; 4096];
        let bytes = stream.read(&mut piece).unwrap();
        assert_ne!(bytes, 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&piece[..bytes]);
    }
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_connection_carries_many_requests() {
    let temp = TempDir::new();
    let (device, server) = start(&temp);
    let stream = connect(&server);
    assert_eq!(ask(&stream, GET), "errno=0\n\n");
    assert_eq!(ask(&stream, b"set=1\nlisten_port=7\n\n"), "errno=0\n\n");
    assert_eq!(ask(&stream, GET), "listen_port=7\nerrno=0\n\n");
    assert_eq!(device.updates(), 1);
    assert_eq!(std::fs::metadata(server.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_client_that_closes_its_half_reads_to_the_end() {
    let temp = TempDir::new();
    let (_, server) = start(&temp);
    let mut stream = connect(&server);
    stream.write_all(b"set=1\nfwmark=1\n\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "errno=0\n\n");
}

#[test]
fn more_clients_than_places_are_all_served() {
    let temp = TempDir::new();
    let (device, server) = start(&temp);
    thread::scope(|scope| {
        for port in 1..=4 * CLIENTS_MAX {
            let server = &server;
            scope.spawn(move || {
                let stream = connect(server);
                assert_eq!(ask(&stream, format!("set=1\nlisten_port={port}\n\n").as_bytes()), "errno=0\n\n");
                assert!(ask(&stream, GET).ends_with("errno=0\n\n"));
            });
        }
    });
    assert_eq!(device.updates(), 4 * CLIENTS_MAX);
}

#[test]
fn clients_beyond_the_places_wait_until_one_leaves() {
    let temp = TempDir::new();
    let (_, server) = start(&temp);
    let mut silent: Vec<_> = (0..CLIENTS_MAX).map(|_| connect(&server)).collect();
    silent.iter().for_each(|stream| assert_eq!(ask(stream, GET), "errno=0\n\n"));
    let mut waiting = connect(&server);
    waiting.write_all(GET).unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert_eq!(waiting.read(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    silent.pop();
    waiting.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(ask(&waiting, b""), "errno=0\n\n");
}

#[test]
fn trickling_does_not_extend_the_time_of_a_request() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut timed = Timed::new(&ours, Duration::from_millis(200));
    let trickle = thread::spawn(move || {
        while (&theirs).write_all(b"x").is_ok() {
            thread::sleep(Duration::from_millis(20));
        }
    });
    let started = Instant::now();
    let error = loop {
        if let Err(error) = timed.read(&mut [0; 1]) {
            break error;
        }
        assert!(started.elapsed() < LONG, "never timed out");
    };
    assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
    timed.limit = LONG;
    timed.restart();
    assert_eq!(timed.read(&mut [0; 1]).unwrap(), 1);
    drop(ours);
    trickle.join().unwrap();
}

#[test]
fn dropping_ends_connections_and_frees_the_device() {
    let temp = TempDir::new();
    let (device, server) = start(&temp);
    let mut idle = connect(&server);
    assert_eq!(ask(&idle, GET), "errno=0\n\n");
    let path = server.path().to_owned();
    drop(server);
    assert_eq!(idle.read(&mut [0; 1]).unwrap(), 0);
    assert!(!path.exists());
    assert_eq!(Arc::strong_count(&device), 1);
    let (_, _again) = start(&temp);
}

#[test]
fn losing_the_socket_file_is_noticed() {
    let temp = TempDir::new();
    let (lost, heard) = mpsc::channel();
    let on_lost = move || lost.send(()).unwrap();
    let server = UapiServer::start(temp.path(), "wg0", FakeDevice::new("wg0"), on_lost).unwrap();
    let stream = connect(&server);
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
    std::fs::remove_file(server.path()).unwrap();
    heard.recv_timeout(LONG).unwrap();
    assert_eq!(ask(&stream, GET), "errno=0\n\n", "the connected are still served");
    let (_, successor) = start(&temp);
    drop(server);
    assert_eq!(ask(&connect(&successor), GET), "errno=0\n\n", "the file of the successor stays");
}

#[test]
fn a_restoring_server_makes_its_file_again_but_leaves_a_place_that_is_taken() {
    let temp = TempDir::new();
    let directory = temp.path().join("served");
    let server = UapiServer::start_restoring(&directory, "wg0", FakeDevice::new("wg0")).unwrap();
    let inode = || std::fs::metadata(server.path()).ok().map(|file| file.ino());
    let stream = connect(&server);
    for round in 0..2 {
        let before = inode();
        std::fs::remove_file(server.path()).unwrap();
        // Fails where the file is back already.
        let _ = std::fs::remove_dir(&directory);
        let started = Instant::now();
        while inode() == before || UnixStream::connect(server.path()).is_err() {
            assert!(started.elapsed() < LONG, "not made again in round {round}");
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(ask(&connect(&server), GET), "errno=0\n\n");
        assert_eq!(std::fs::metadata(server.path()).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(ask(&stream, GET), "errno=0\n\n", "the connected are still served");
    let (_, successor) = start(&temp);
    std::fs::rename(successor.path(), server.path()).unwrap();
    let taken = inode();
    thread::sleep(SOCKET_FILE_CHECK_INTERVAL + Duration::from_millis(300));
    assert_eq!(inode(), taken);
    let path = server.path().to_owned();
    drop(server);
    assert!(UnixStream::connect(path).is_ok(), "the file of the successor stays");
}

#[test]
fn a_panicking_device_costs_one_connection() {
    struct Panicking;
    impl Configurable for Panicking {
        fn apply(&self, _: ginnel_engine::command::DeviceUpdate) -> Result<(), ginnel_backends::device::DeviceError> {
            Ok(())
        }
        fn state(&self) -> ginnel_backends::device::DeviceState {
            panic!("asked for by the test")
        }
    }
    let temp = TempDir::new();
    let server = UapiServer::start(temp.path(), "wg0", Panicking, || {}).unwrap();
    for _ in 0..2 * CLIENTS_MAX {
        let mut stream = connect(&server);
        stream.write_all(GET).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(ask(&connect(&server), b"set=1\nfwmark=1\n\n"), "errno=0\n\n");
}
