//! Every example request of the contract, sent as the very bytes of the paper.

use super::*;
use crate::ipc::frame::{read_body, read_length, write_frame};
use crate::ipc::wire::{ACCEPTED, EXAMPLES};
use tokio::net::UnixStream;

/// Sends one line and returns the answer as JSON text.
async fn exchange(stream: &mut UnixStream, line: &str) -> String {
    write_frame(stream, line.as_bytes()).await.unwrap();
    let length = read_length(stream).await.unwrap().unwrap();
    String::from_utf8(read_body(stream, length).await.unwrap()).unwrap()
}

fn example(op: &str) -> &'static str {
    EXAMPLES.iter().find(|line| line.contains(&format!("\"op\":\"{op}\""))).unwrap()
}

/// The answer that follows the first example of `op`.
fn answer(op: &str) -> &'static str {
    let position = EXAMPLES.iter().position(|line| *line == example(op)).unwrap();
    EXAMPLES[position + 1]
}

#[tokio::test]
async fn the_examples_of_the_operations_that_are_there_get_the_answers_of_the_paper() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for op in [
        "set_local_node_id",
        "set_local_wg_pubkey",
        "setup_global_overlay",
        "add_peer",
        "remove_peer",
        "add_allowed_ip",
        "remove_allowed_ip",
        "teardown_service_overlay",
        "register_dns",
        "unregister_dns",
        "teardown_global_overlay",
        "write_scoped_resolver",
        "shutdown",
    ] {
        let (told, published) = (exchange(&mut stream, example(op)).await, answer(op));
        // A refusal has more to say than the paper does.
        match published.contains("\"result\":\"err\"") {
            true => assert!(told.starts_with(&published[..published.len() - 2]), "{told}"),
            false => assert_eq!(told, published),
        }
    }
    daemon.serving.await.unwrap();
}

#[tokio::test]
async fn the_examples_of_services_and_addresses_get_the_answers_of_the_paper() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for op in ["setup_global_overlay", "setup_service_overlay", "allocate_ip", "release_ip"] {
        assert_eq!(exchange(&mut stream, example(op)).await, answer(op));
    }
    let position = EXAMPLES.iter().position(|line| line.contains("\"id\":51,")).unwrap();
    assert_eq!(exchange(&mut stream, EXAMPLES[position]).await, EXAMPLES[position + 1]);
    // Asked again it says the same, the name included.
    for _ in 0..2 {
        let dedicated = exchange(&mut stream, EXAMPLES[position + 2]).await;
        let key = daemon.node.service_overlay("pay").unwrap().public_key().unwrap().to_base64();
        assert_eq!(dedicated.replace(&key, "58BqK+3IPIpznbDf6U68Me8U/dCas4eBTSXh0RNaBkI="), EXAMPLES[position + 3]);
    }
}

#[tokio::test]
async fn the_accepted_forms_are_accepted() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    assert_eq!(exchange(&mut stream, ACCEPTED[0]).await, answer("setup_global_overlay"));
    // Its key is no key: the form is right, the peer is not.
    assert!(exchange(&mut stream, ACCEPTED[1]).await.contains("overlay engine error: add_peer failed: Invalid symbol"));
    let sound = ACCEPTED[1].replace("base64key", "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=");
    assert_eq!(exchange(&mut stream, &sound).await, answer("add_peer"));
}

#[tokio::test]
async fn status_has_the_shape_of_the_paper_and_more() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    let fresh = exchange(&mut stream, example("status")).await;
    assert!(
        fresh.starts_with(
            r#"{"frame":"response","id":20,"response":{"result":"status","overlay_cidr":"10.200.0.0/16","peer_count":0,"service_count":0,"boot_id":""#
        ),
        "{fresh}"
    );
    exchange(&mut stream, example("setup_global_overlay")).await;
    exchange(&mut stream, example("add_peer")).await;
    let key = daemon.node.overlay().public_key().unwrap().to_base64();
    let full = exchange(&mut stream, example("status")).await;
    let expected = format!(
        r#"{{"frame":"response","id":20,"response":{{"result":"status","interface":"zl-prod-0-g","node_ip":"10.200.5.1","public_key":"{key}","overlay_cidr":"10.200.0.0/16","slice_cidr":"10.200.5.0/28","peer_count":1,"service_count":0,"peers":[{{"public_key":"0909090909090909090909090909090909090909090909090909090909090909","endpoint":"192.0.2.50:51420","allowed_ips":"10.200.9.0/28","last_handshake_unix_secs":0,"rx_bytes":1000,"tx_bytes":2000}}],"boot_id":""#
    );
    assert!(full.starts_with(&expected), "{full}");
    assert!(full.ends_with(
        r#""offloads":[{"name":"tun_tcp","state":"on","fallbacks":0}],"drops":{"outbound_unrouted":1},"workers":1,"cipher":"none","totals":{"diverted_datagrams":0}}}"#
    ));
}

#[tokio::test]
async fn nat_status_is_honest() {
    let daemon = Daemon::start().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    assert_eq!(
        exchange(&mut stream, example("nat_status")).await,
        r#"{"frame":"response","id":22,"response":{"result":"nat_status","last_refresh":0}}"#
    );
}

#[tokio::test]
async fn the_other_operations_say_what_is_missing_and_still_check_their_fields() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let mut stream = UnixStream::connect(&daemon.path).await.unwrap();
    for line in EXAMPLES {
        let Ok(Frame::Request { request, .. }) = decode(line.as_bytes()) else { continue };
        let op = request.op();
        let missing = match op {
            "attach_container" if line.contains("windows") => {
                let message = refused(&mut client, request).await;
                assert_eq!(message, "WindowsContainer attach is only supported on Windows");
                continue;
            }
            "remove_scoped_resolver" => "scoped resolver",
            _ => continue,
        };
        let message = refused(&mut client, request).await;
        assert!(message.contains(missing), "{op}: {message}");
        let broken = line.replace(&format!("\"op\":\"{op}\""), &format!("\"op\":\"{op}\",\"op\":\"{op}\""));
        assert!(exchange(&mut stream, &broken).await.contains(&format!("bad request: {op}: duplicate field `op`")));
    }
    let bad = r#"{"frame":"request","id":7,"request":{"op":"allocate_ip","service":"web","join_global":1}}"#;
    assert!(exchange(&mut stream, bad).await.contains("allocate_ip: field `join_global`"));
}
