//! Bytes that are not what they should be, and peers that are not what they should be.

use super::*;
use crate::ipc::frame::{FRAME_BYTES_MAX, read_body, read_length, write_frame};
use crate::ipc::wire::{ACCEPTED, DecodeError, EXAMPLES, Fault};
use ginnel_backends::mem::Random;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const STATUS: &str = r#"{"frame":"request","id":42,"request":{"op":"status"}}"#;

async fn receive(stream: &mut UnixStream) -> Option<(u64, Response)> {
    let length = timeout(Duration::from_secs(10), read_length(stream)).await.unwrap().ok()??;
    match decode(&read_body(stream, length).await.unwrap()) {
        Ok(Frame::Response { id, response }) => Some((id, response)),
        other => panic!("{other:?}"),
    }
}

async fn is_closed(stream: &mut UnixStream) -> bool {
    // A close with unread bytes is a reset.
    timeout(Duration::from_secs(10), stream.read(&mut [0])).await.unwrap().map_or(true, |read| read == 0)
}

async fn answers(stream: &mut UnixStream) -> bool {
    write_frame(stream, STATUS.as_bytes()).await.unwrap();
    matches!(receive(stream).await, Some((42, Response::Status(_))))
}

#[tokio::test]
async fn refusals_carry_the_id_and_the_connection_lives() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    let invalid_utf8 =
        [br#"{"frame":"request","id":1,"request":{"op":"unregister_dns","name":""#.as_slice(), b"\xff\"}}"].concat();
    let cases: &[(u64, &[u8], &str)] = &[
        (1, &invalid_utf8, "not UTF-8"),
        (2, br#"{"frame":"request","id":2,"request":{"op":"status"}} {}"#, "trailing characters"),
        (2, b"{\"frame\":\"request\",\"id\":2,\"request\":{\"op\":\"status\"}}\0", "trailing characters"),
        (3, br#"{"frame":"request","id":3,"request":{"op":"fly"}}"#, "unknown variant `fly`"),
        (4, br#"{"frame":"request","id":4,"request":{"op":"release_ip"}}"#, "missing field `ip`"),
        (5, br#"{"frame":"request","id":5,"request":{"op":"set_local_node_id","node_id":"x"}}"#, "field `node_id`"),
        (6, br#"{"frame":"request","id":6,"request":{"op":"set_local_node_id","node_id":-1}}"#, "field `node_id`"),
        (7, br#"{"frame":"request","id":7,"request":{"node_id":1}}"#, "missing field `op`"),
        (8, br#"{"frame":"request","id":8,"request":{"op":"#, "EOF"),
        (9, br#"{"frame":"request","id":9}"#, "missing field `request`"),
        (10, br#"{"frame":"question","id":10,"request":{"op":"status"}}"#, "unknown variant `question`"),
        (u64::MAX, br#"{"frame":"request","id":18446744073709551615,"request":{"op":"fly"}}"#, "fly"),
    ];
    for (id, body, reason) in cases {
        write_frame(&mut stream, body).await.unwrap();
        let Some((answered, Response::Err(Fault { message, .. }))) = receive(&mut stream).await else {
            panic!("{}", String::from_utf8_lossy(body))
        };
        assert_eq!(answered, *id);
        assert!(message.starts_with("bad request: ") && message.contains(reason), "{message}");
        assert!(answers(&mut stream).await);
    }
}

#[tokio::test]
async fn the_greatest_id_is_echoed() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    write_frame(&mut stream, STATUS.replace("42", "18446744073709551615").as_bytes()).await.unwrap();
    assert!(matches!(receive(&mut stream).await, Some((u64::MAX, Response::Status(_)))));
}

#[tokio::test]
async fn without_a_readable_id_only_that_connection_closes() {
    let daemon = Daemon::start().await;
    let mut witness = UnixStream::connect(&daemon.path).await.unwrap();
    for body in [
        b"".as_slice(),
        b"\xff\xfe\xfd",
        b"nonsense",
        b"{}",
        b"[1,2]",
        br#"{"frame":"request","request":{"op":"status"}}"#,
        br#"{"frame":"request","id":18446744073709551616,"request":{"op":"status"}}"#,
        br#"{"frame":"request","id":1,"id":2,"request":{"op":"status"}}"#,
    ] {
        let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
        write_frame(&mut stream, body).await.unwrap();
        assert!(is_closed(&mut stream).await, "{}", String::from_utf8_lossy(body));
        assert!(answers(&mut witness).await);
    }
}

#[tokio::test]
async fn oversize_is_refused_at_the_prefix_and_the_largest_is_read() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    stream.write_all(&too_long.to_le_bytes()).await.unwrap();
    assert!(is_closed(&mut stream).await);

    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    let body = format!("{STATUS}{}", " ".repeat(FRAME_BYTES_MAX - STATUS.len()));
    write_frame(&mut stream, body.as_bytes()).await.unwrap();
    assert!(matches!(receive(&mut stream).await, Some((42, Response::Status(_)))));
}

#[tokio::test]
async fn frames_that_are_no_requests_are_ignored() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for body in [
        r#"{"frame":"response","id":1,"response":{"result":"ok"}}"#,
        r#"{"frame":"event","event":"peer_health_changed","pubkey":"k","healthy":true}"#,
        r#"{"frame":"event","event":"unheard_of"}"#,
    ] {
        write_frame(&mut stream, body.as_bytes()).await.unwrap();
        assert!(answers(&mut stream).await);
    }
}

#[tokio::test]
async fn a_stalled_half_frame_holds_up_nobody() {
    let daemon = Daemon::start().await;
    let mut stalled = Vec::new();
    for half in [b"\x05".as_slice(), b"\x20\0\0\0", b"\x20\0\0\0{\"frame\"", &8_388_608_u32.to_le_bytes()] {
        let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
        stream.write_all(half).await.unwrap();
        stalled.push(stream);
    }
    let start = Instant::now();
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for _ in 0..20 {
        assert!(answers(&mut stream).await);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for mut stream in stalled {
        assert!(is_closed(&mut stream).await);
    }
    assert!(answers(&mut stream).await);
}

#[tokio::test]
async fn a_close_inside_a_frame_is_nobodys_business() {
    let daemon = Daemon::start().await;
    for part in [b"".as_slice(), b"\x20\0", b"\x20\0\0\0{\"fr"] {
        let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
        stream.write_all(part).await.unwrap();
    }
    assert!(answers(&mut UnixStream::connect(&daemon.path).await.unwrap()).await);
}

#[tokio::test]
async fn two_hundred_idle_connections_cost_nothing() {
    let daemon = Daemon::start().await;
    let mut idle = Vec::new();
    for _ in 0..200 {
        idle.push(UnixStream::connect(&daemon.path).await.unwrap());
    }
    let start = Instant::now();
    assert!(answers(&mut UnixStream::connect(&daemon.path).await.unwrap()).await);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    for stream in &mut idle {
        assert!(answers(stream).await);
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    let mut burst = Vec::new();
    for id in 0..100_u64 {
        let body = match id % 4 {
            0 => format!(r#"{{"frame":"request","id":{id},"request":{{"op":"set_local_node_id","node_id":{id}}}}}"#),
            1 => format!(r#"{{"frame":"request","id":{id},"request":{{"op":"status"}}}}"#),
            2 => format!(r#"{{"frame":"request","id":{id},"request":{{"op":"fly"}}}}"#),
            _ => format!(r#"{{"frame":"request","id":{id},"request":{{"op":"nat_status"}}}}"#),
        };
        write_frame(&mut burst, body.as_bytes()).await.unwrap();
    }
    stream.write_all(&burst).await.unwrap();
    for expected in 0..100_u64 {
        let (id, response) = receive(&mut stream).await.unwrap();
        assert_eq!(id, expected);
        match response {
            Response::Ok => assert_eq!(id % 4, 0),
            // Each request is done before the next is begun.
            Response::Status(status) => assert_eq!(status.node_id, Some(id - 1)),
            Response::Err(_) => assert_eq!(id % 4, 2),
            _ => assert_eq!(id % 4, 3),
        }
    }
}

/// An example with something wrong in it, and whether the connection outlives it.
fn malformed(random: &mut Random, examples: &[&str]) -> (Vec<u8>, bool) {
    loop {
        let mut body = random.pick(examples).as_bytes().to_vec();
        for _ in 0..=random.below(3) {
            let at = usize::try_from(random.below(body.len() as u64)).unwrap();
            match random.below(6) {
                0 => body.truncate(at.max(1)),
                1 => body[at] = random.draw().to_le_bytes()[0],
                2 => body[at] ^= 1 << random.below(8),
                3 => drop(body.remove(at)),
                4 => body.insert(at, random.pick(b"{}[]\",:0-\0\xff")),
                _ => body = [&body[..at], &body[..]].concat(),
            }
            body.resize(body.len().max(1), b' ');
        }
        match decode(&body) {
            // Still a request: not what is wanted here.
            Ok(Frame::Request { .. }) => {}
            Err(DecodeError::Unreadable(_)) => return (body, false),
            Ok(_) | Err(_) => return (body, true),
        }
    }
}

#[tokio::test]
async fn five_thousand_malformed_frames_change_nothing() {
    const FRAMES: usize = 5_000;
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(9, "192.0.2.50:51420", "10.200.9.0/28")).await;
    let journal = || std::fs::read(daemon.dir.join("state").join("journal")).unwrap();
    let kernel = || {
        let world = daemon.lab.world();
        (
            world.made,
            world.updates.len(),
            world.links.len(),
            world.bridges.len(),
            world.veths.len(),
            world.fence.desired().clone(),
        )
    };
    let before = (status(&mut client).await, journal(), kernel(), peers(&daemon), daemon.heard().len());

    let examples: Vec<&str> = EXAMPLES.iter().chain(ACCEPTED).copied().collect();
    let mut random = Random::new(5);
    let (mut refused, mut closed) = (0, 0);
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for _ in 0..FRAMES {
        let (body, survives) = malformed(&mut random, &examples);
        write_frame(&mut stream, &body).await.unwrap();
        if survives {
            // Refused or ignored; a question behind it tells that the connection goes on.
            write_frame(&mut stream, STATUS.as_bytes()).await.unwrap();
            match receive(&mut stream).await {
                Some((_, Response::Err(_))) => {
                    refused += 1;
                    assert!(matches!(receive(&mut stream).await, Some((42, Response::Status(_)))));
                }
                Some((42, Response::Status(_))) => {}
                other => panic!("{}: {other:?}", String::from_utf8_lossy(&body)),
            }
        } else {
            assert!(is_closed(&mut stream).await, "{}", String::from_utf8_lossy(&body));
            closed += 1;
            stream = UnixStream::connect(&daemon.path).await.unwrap();
        }
    }
    assert!(refused > 500 && closed > 500, "{refused} refused, {closed} closed");
    let after = (status(&mut client).await, journal(), kernel(), peers(&daemon), daemon.heard().len());
    assert_eq!(after, before);
}
