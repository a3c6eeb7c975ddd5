//! Peers and prefixes: added, changed, moved, refused.

use super::*;
use ginnel_engine::key::PresharedKey;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn adding_a_known_peer_updates_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28, 10.200.10.0/28")).await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.10.0/28,fd00::/64")).await;
    assert_eq!(peers(&daemon), [(key(1), "192.0.2.1:1".into(), "10.200.10.0/28,fd00::/64".into())]);
    // An unset endpoint leaves the one that is known.
    ok(&mut client, add(1, "0.0.0.0:0", "10.200.10.0/28")).await;
    assert_eq!(peers(&daemon)[0].1, "192.0.2.1:1");
    ok(&mut client, add(1, "localhost:5", "10.200.10.0/28")).await;
    assert!(peers(&daemon)[0].1.ends_with(":5"));
    assert!(!daemon.lab.world().updates.iter().flat_map(|update| &update.peers).any(|peer| peer.remove));
}

#[tokio::test]
async fn a_peer_that_roamed_is_not_called_back() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let told = |daemon: &Daemon| -> Option<SocketAddr> { daemon.lab.world().updates.last().unwrap().peers[0].endpoint };
    ok(&mut client, add(1, "192.0.2.1:1", "")).await;
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now());
    daemon.lab.world().roamed.insert(key(1), "198.51.100.1:7".parse().unwrap());
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28")).await;
    assert_eq!(told(&daemon), None);
    // A new place is meant, and so is the old one once nothing is heard any more.
    ok(&mut client, add(1, "192.0.2.1:2", "10.200.9.0/28")).await;
    assert_eq!(told(&daemon), Some("192.0.2.1:2".parse().unwrap()));
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now() - Duration::from_secs(600));
    ok(&mut client, add(1, "192.0.2.1:2", "10.200.9.0/28")).await;
    assert_eq!(told(&daemon), Some("192.0.2.1:2".parse().unwrap()));
    let status = status(&mut client).await;
    assert_eq!(status.peers[0].endpoint, "198.51.100.1:7");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let handshake = u64::try_from(status.peers[0].last_handshake_unix_secs).unwrap();
    assert!((595..=610).contains(&(now - handshake)), "{handshake}");
}

#[tokio::test]
async fn prefixes_come_and_go_and_change_hands() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "0.0.0.0:0", "10.200.9.0/28")).await;
    ok(&mut client, add(2, "0.0.0.0:0", "")).await;
    ok(&mut client, allow("add_allowed_ip", 1, "10.200.10.3/26")).await;
    ok(&mut client, allow("add_allowed_ip", 1, "10.200.10.0/26")).await;
    assert_eq!(peers(&daemon)[0].2, "10.200.9.0/28,10.200.10.0/26");
    ok(&mut client, allow("add_allowed_ip", 2, "10.200.9.0/28")).await;
    ok(&mut client, allow("remove_allowed_ip", 1, "10.200.9.0/28")).await;
    ok(&mut client, allow("remove_allowed_ip", 9, "10.200.9.0/28")).await;
    ok(&mut client, remove(9)).await;
    let expected = ["10.200.10.0/26".to_owned(), "10.200.9.0/28".to_owned()];
    assert_eq!(peers(&daemon).into_iter().map(|peer| peer.2).collect::<Vec<_>>(), expected);
    // What is remembered has changed hands too.
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon).into_iter().map(|peer| peer.2).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn bad_peers_are_refused_in_the_words_of_the_catalogue_whether_a_device_is_there_or_not() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    for up in [false, true] {
        if up {
            bring_up(&mut client, usual()).await;
            let own = daemon.node.overlay().public_key().unwrap();
            let own = ask(&format!(
                r#""op":"add_peer","public_key":"{own}","endpoint":"0.0.0.0:0","allowed_ips":"","persistent_keepalive_secs":0"#
            ));
            assert!(refused(&mut client, own).await.contains("key of this node itself"));
        }
        for (request, text) in [
            (add(1, "nowhere", ""), "invalid peer endpoint nowhere: invalid socket address syntax"),
            (add(1, "1.2.3.4:5", "10.0.0.0"), "overlay engine error: add_peer failed: invalid CIDR"),
            (
                ask(
                    r#""op":"add_peer","public_key":"AAAA","endpoint":"1.2.3.4:5","allowed_ips":"","persistent_keepalive_secs":0"#,
                ),
                "overlay engine error: add_peer failed: Invalid key length: expected 32 bytes, got 3",
            ),
            (
                ask(&format!(
                    r#""op":"add_peer","public_key":"{}","endpoint":"1.2.3.4:5","allowed_ips":"","persistent_keepalive_secs":65536"#,
                    key(1)
                )),
                "overlay engine error: add_peer failed: persistent_keepalive_secs 65536",
            ),
            (ask(r#""op":"remove_peer","pubkey":"!""#), "overlay engine error: remove_peer failed: Invalid symbol"),
            (allow("add_allowed_ip", 1, "10.0.0.0"), "invalid CIDR 10.0.0.0: invalid IP address syntax"),
            (allow("remove_allowed_ip", 1, "x"), "invalid CIDR x: invalid IP address syntax"),
            (
                allow("add_allowed_ip", 1, "10.0.0.0/8"),
                "overlay engine error: add_allowed_ip failed: cannot add allowed_ip 10.0.0.0/8 to unknown peer AQEB",
            ),
            (
                ask(
                    r#""op":"add_peer","public_key":"x","endpoint":"1.2.3.4:5","allowed_ips":"","persistent_keepalive_secs":0,"scope":{"scope":"service","service":"pay"}"#,
                ),
                "no dedicated overlay for service pay",
            ),
            (
                ask(r#""op":"add_allowed_ip","pubkey":"x","cidr":"x","scope":{"scope":"service","service":"pay"}"#),
                "no dedicated overlay for service pay",
            ),
        ] {
            let message = refused(&mut client, request).await;
            assert!(message.starts_with(text), "{message}");
        }
        assert_eq!(status(&mut client).await.peer_count, 0);
    }
}

#[tokio::test]
async fn what_wg_sets_shows_holds_and_is_not_undone() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    for byte in 1..=3 {
        ok(&mut client, add(byte, &format!("192.0.2.{byte}:1"), &format!("10.200.{byte}.0/28"))).await;
    }
    daemon.lab.wg_set(NAME, |link| {
        link.peers.remove(0);
        link.peers[0].preshared_key = PresharedKey::new([7; 32]);
        link.peers[1].public_key = key(4);
        link.port = 7777;
    });
    let shown: Vec<_> = status(&mut client).await.peers.into_iter().map(|peer| peer.public_key).collect();
    assert_eq!(shown, [key(2).to_hex(), key(4).to_hex()]);

    // A peer that is gone is unknown, one that came is known, and repeating the setup takes nothing back.
    let message = refused(&mut client, allow("add_allowed_ip", 1, "10.200.77.0/28")).await;
    assert!(message.contains("unknown peer"), "{message}");
    ok(&mut client, allow("add_allowed_ip", 4, "10.200.44.0/28")).await;
    bring_up(&mut client, usual()).await;
    assert_eq!(daemon.lab.world().links[NAME].port, 7777);
    ok(&mut client, add(2, "192.0.2.2:1", "10.200.22.0/28")).await;
    let expected = [
        (key(2), "192.0.2.2:1".to_owned(), "10.200.22.0/28".to_owned()),
        (key(4), "192.0.2.3:1".to_owned(), "10.200.3.0/28,10.200.44.0/28".to_owned()),
    ];
    assert_eq!(peers(&daemon), expected);

    ok(&mut client, Request::TeardownGlobalOverlay).await;
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon), expected);
    let world = daemon.lab.world();
    assert!(world.links[NAME].peers[0].preshared_key == PresharedKey::new([7; 32]));
    assert_eq!(world.links[NAME].port, 51420);
}
