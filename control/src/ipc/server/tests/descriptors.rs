//! Descriptors beside frames: with the right request, not too many, and none left behind.

use super::*;
use crate::ipc::frame::{encode, read_body, read_length};
use crate::ipc::wire::{Frame, decode};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use std::fs::File;
use std::io::{IoSlice, Read, Seek, Write};
use std::os::fd::{AsRawFd, RawFd};

/// Tells what the first descriptor leads to, and how many there are.
pub(super) fn describe(mut descriptors: Vec<OwnedFd>) -> Response {
    let count = descriptors.len();
    if descriptors.is_empty() {
        return Response::Err(Fault::new(ErrorCode::InvalidArgument, "no descriptor came"));
    }
    let mut text = String::new();
    File::from(descriptors.remove(0)).read_to_string(&mut text).unwrap();
    Response::BridgeName { name: format!("{count} {text}") }
}

fn attach() -> Request {
    let handle = AttachHandle::LinuxNetns { id: "c".into() };
    Request::AttachContainer(AttachContainer { netns_fd: true, ..AttachContainer::new(handle, "web") })
}

fn file(dir: &TempDir, text: &str) -> File {
    let path = dir.join(&format!("{text}.txt"));
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    file
}

/// Sends bytes with descriptors beside them.
fn send(stream: &UnixStream, bytes: &[u8], files: &[&File]) {
    let numbers: Vec<RawFd> = files.iter().map(|file| file.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None).unwrap();
    assert_eq!(sent, bytes.len());
}

fn frame(id: u64, request: Request) -> Vec<u8> {
    encode(&Frame::Request { id, request }).unwrap()
}

async fn answer(stream: &mut UnixStream) -> (u64, Response) {
    let read = async {
        let length = read_length(stream).await.unwrap().unwrap();
        let body = read_body(stream, length).await.unwrap();
        match decode(&body) {
            Ok(Frame::Response { id, response }) => (id, response),
            other => panic!("{other:?}"),
        }
    };
    timeout(Duration::from_secs(20), read).await.unwrap()
}

fn names(text: &str) -> Response {
    Response::BridgeName { name: text.into() }
}

/// Descriptors of this process that lead into the directory of the test.
fn held(dir: &TempDir) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    open.filter(|entry| std::fs::read_link(entry.as_ref().unwrap().path()).is_ok_and(|to| to.starts_with(dir.path())))
        .count()
}

#[tokio::test]
async fn a_descriptor_goes_with_the_frame_it_was_sent_with() {
    let (_dir, path, _task) = start(QUICK).await;
    let files = TempDir::new();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let (one, two) = (file(&files, "one"), file(&files, "two"));
    // Before and behind frames without one, all of them sent before any answer was read.
    stream.write_all(&frame(1, attach())).await.unwrap();
    send(&stream, &frame(2, attach()), &[&one, &two]);
    stream.write_all(&frame(3, attach())).await.unwrap();
    // In the middle of a frame, after its first bytes.
    let last = frame(4, attach());
    stream.write_all(&last[..10]).await.unwrap();
    send(&stream, &last[10..], &[&two]);
    let refused =
        |response: &Response| matches!(response, Response::Err(fault) if fault.message == "no descriptor came");
    let (id, response) = answer(&mut stream).await;
    assert!(id == 1 && refused(&response), "{response:?}");
    assert_eq!(answer(&mut stream).await, (2, names("2 one")));
    let (id, response) = answer(&mut stream).await;
    assert!(id == 3 && refused(&response), "{response:?}");
    assert_eq!(answer(&mut stream).await, (4, names("1 two")));
}

#[tokio::test]
async fn what_nobody_wants_is_closed_and_too_many_are_refused() {
    let (_dir, path, _task) = start(QUICK).await;
    let files = TempDir::new();
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let one = file(&files, "one");
    send(&stream, &frame(1, Request::Status), &[&one, &one]);
    assert!(matches!(answer(&mut stream).await, (1, Response::Status(_))));
    let five = [&one; 5];
    send(&stream, &frame(2, attach()), &five);
    // Few at a time, again and again.
    let many = frame(3, attach());
    for piece in many.chunks(8) {
        send(&stream, piece, &[&one; 4]);
    }
    for id in [2, 3] {
        match answer(&mut stream).await {
            (answered, Response::Err(fault)) => assert_eq!((answered, fault.code), (id, Some(ErrorCode::Busy))),
            other => panic!("{other:?}"),
        }
    }
    // With a frame that is never completed.
    send(&stream, &frame(4, attach())[..20], &[&one]);
    drop(stream);
    let deadline = Instant::now() + Duration::from_secs(20);
    // One is the test's own.
    while held(&files) > 1 {
        assert!(Instant::now() < deadline, "{} descriptors are held", held(&files) - 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
