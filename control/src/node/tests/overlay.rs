//! What setup and teardown bring about: in the device, on the host, in `status`, and across failures and restarts.

use super::*;
use crate::node::fake::Trouble;

#[tokio::test]
async fn setup_makes_an_interface_that_routes_the_cluster() {
    for (cluster, slice, address) in
        [(CLUSTER, "10.200.5.0/28", "10.200.5.1/16"), ("fd00:77::/48", "fd00:77:0:5::/64", "fd00:77:0:5::1/48")]
    {
        let daemon = Daemon::start().await;
        let mut client = daemon.client().await;
        bring_up(&mut client, setup(cluster, slice, 7000)).await;
        assert_eq!(addresses(&daemon), [address]);
        let world = daemon.lab.world();
        let link = &world.links[NAME];
        assert_eq!((link.mtu, link.up, link.port), (1420, true, 7000));
        assert_eq!(link.private_key.as_ref().unwrap().public(), daemon.node.overlay().public_key().unwrap());
    }
}

#[tokio::test]
async fn the_key_survives_a_restart_and_a_damaged_one_is_not_replaced() {
    let first = Daemon::start().await;
    bring_up(&mut first.client().await, usual()).await;
    let key = first.node.overlay().public_key();
    ok(&mut first.client().await, Request::Shutdown).await;
    let dir = first.dir.clone();
    first.serving.await.unwrap();
    let second = Daemon::start_in(dir.clone()).await;
    let mut client = second.client().await;
    bring_up(&mut client, usual()).await;
    assert_eq!(second.node.overlay().public_key(), key);

    ok(&mut client, Request::TeardownGlobalOverlay).await;
    let path = dir.join("state/private.key");
    std::fs::write(&path, "scrambled").unwrap();
    let message = refused(&mut client, usual()).await;
    assert!(message.starts_with("overlay engine error: Failed to generate keys: "), "{message}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "scrambled");
    assert!(second.lab.world().links.is_empty());
}

#[tokio::test]
async fn repeating_setup_touches_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28")).await;
    let before = (peers(&daemon), addresses(&daemon), status(&mut client).await);
    let updates = daemon.lab.world().updates.len();
    for _ in 0..3 {
        bring_up(&mut client, usual()).await;
    }
    assert_eq!((peers(&daemon), addresses(&daemon), status(&mut client).await), before);
    let world = daemon.lab.world();
    assert_eq!(world.made, 1);
    let changed = |u: &&ginnel_engine::command::DeviceUpdate| {
        u.private_key.is_some() || u.listen_port.is_some() || u.replace_peers || !u.peers.is_empty()
    };
    assert_eq!(world.updates[updates..].iter().filter(changed).count(), 0);
}

#[tokio::test]
async fn port_and_addresses_change_in_place() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28")).await;
    bring_up(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 51999)).await;
    assert_eq!(addresses(&daemon), ["10.77.0.1/8"]);
    {
        let world = daemon.lab.world();
        let link = &world.links[NAME];
        assert_eq!((world.made, link.port, link.peers.len()), (1, 51999, 1));
    }
    let status = status(&mut client).await;
    assert_eq!(status.overlay_cidr.as_deref(), Some("10.0.0.0/8"));
    assert_eq!(status.slice_cidr.as_deref(), Some("10.77.0.0/24"));
    assert_eq!(status.node_ip, Some("10.77.0.1".parse().unwrap()));
}

#[tokio::test]
async fn a_change_that_fails_leaves_everything_as_it_was() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let before = status(&mut client).await;
    daemon.lab.world().taken_ports = vec![4242];
    let message = refused(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 4242)).await;
    assert!(message.contains("Failed to configure global overlay: UDP port 4242 is in use"), "{message}");
    for call in ["remove_address", "add_address"] {
        daemon.lab.world().fail = Some((call, 0));
        let message = refused(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 51999)).await;
        assert!(message.contains("told to fail"), "{call}: {message}");
        assert_eq!(addresses(&daemon), ["10.200.5.1/16"], "{call}");
        assert_eq!(daemon.lab.world().links[NAME].port, 51420, "{call}");
    }
    assert_eq!(status(&mut client).await, before);
    bring_up(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 51999)).await;
}

#[tokio::test]
async fn another_deployment_is_refused_while_this_one_is_up() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let before = status(&mut client).await;
    let other = setup_as("test", CLUSTER, "10.200.6.0/28", 51999);
    let message = refused(&mut client, other.clone()).await;
    assert!(message.contains("is up as zl-prod-0-g") && message.contains("teardown_global_overlay"), "{message}");
    assert_eq!(status(&mut client).await, before);
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    assert_eq!(client.call(other).await.unwrap(), Response::BridgeName { name: "zl-test-0-g".into() });
}

#[tokio::test]
async fn a_refused_setup_changes_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let fresh = status(&mut client).await;
    for (request, text) in [
        (setup("nonsense", "10.200.5.0/28", 1), "invalid cluster CIDR nonsense: "),
        (setup(CLUSTER, "nonsense", 1), "invalid slice CIDR nonsense: "),
        (setup(CLUSTER, "10.9.0.0/28", 1), "invalid slice CIDR 10.9.0.0/28: "),
        (setup_as("a b", CLUSTER, "10.200.5.0/28", 1), "interface name"),
    ] {
        assert!(refused(&mut client, request).await.contains(text));
    }
    daemon.lab.world().taken_ports = vec![4242];
    let message = refused(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 4242)).await;
    assert!(
        message.starts_with("overlay engine error: Failed to configure global overlay: UDP port 4242"),
        "{message}"
    );
    for call in ["set_mtu", "add_address", "set_up"] {
        daemon.lab.world().fail = Some((call, 0));
        let message = refused(&mut client, setup("10.0.0.0/8", "10.77.0.0/24", 1)).await;
        assert!(message.starts_with("overlay engine error: Failed to configure global overlay: "), "{message}");
        assert!(daemon.lab.world().links.is_empty(), "{call} left an interface");
    }
    daemon.lab.world().links.insert(NAME.into(), Default::default());
    let message = refused(&mut client, usual()).await;
    assert!(message.starts_with("overlay engine error: Failed to create global overlay: "), "{message}");
    assert!(message.contains("exists already"), "{message}");
    daemon.lab.delete_link(NAME);
    assert_eq!(status(&mut client).await, fresh);
    bring_up(&mut client, usual()).await;
}

#[tokio::test]
async fn peers_are_remembered_before_setup_and_replayed_after_every_loss() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28")).await;
    ok(&mut client, add(2, "0.0.0.0:0", "")).await;
    ok(&mut client, add(3, "192.0.2.3:3", "10.200.11.0/28")).await;
    ok(&mut client, allow("add_allowed_ip", 2, "10.200.10.0/28")).await;
    ok(&mut client, remove(3)).await;
    let waiting = status(&mut client).await;
    assert_eq!((waiting.peer_count, waiting.interface), (2, None));
    assert_eq!(waiting.peers[1].allowed_ips, "10.200.10.0/28");

    let expected = [
        (key(1), "192.0.2.1:1".to_owned(), "10.200.9.0/28".to_owned()),
        (key(2), String::new(), "10.200.10.0/28".to_owned()),
    ];
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon), expected);
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    assert!(daemon.lab.world().links.is_empty());
    assert_eq!(status(&mut client).await.interface, None);
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon), expected);

    daemon.lab.delete_link_unnoticed(NAME);
    let message = refused(&mut client, add(4, "192.0.2.4:4", "")).await;
    assert!(message.starts_with("overlay engine error: add_peer failed: the device has stopped"), "{message}");
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon), expected);
    assert_eq!(daemon.lab.world().made, 3);
}

#[tokio::test]
async fn status_answers_while_a_setup_waits_and_changes_wait_their_turn() {
    let daemon = Daemon::start().await;
    daemon.lab.close_gate();
    let (mut first, mut second, mut looking) = (daemon.client().await, daemon.client().await, daemon.client().await);
    let setups = tokio::spawn(async move {
        let again = async {
            bring_up(&mut second, usual()).await;
            ok(&mut second, add(1, "192.0.2.1:1", "")).await;
        };
        tokio::join!(bring_up(&mut first, usual()), again);
    });
    while daemon.lab.world().made == 0 {
        tokio::task::yield_now().await;
    }
    let seen = tokio::time::timeout(Duration::from_secs(2), status(&mut looking)).await.unwrap();
    assert_eq!((seen.interface, seen.public_key), (None, None));
    assert!(!setups.is_finished());
    daemon.lab.open_gate();
    setups.await.unwrap();
    assert_eq!(daemon.lab.world().made, 1);
    assert_eq!(peers(&daemon).len(), 1);
}

#[tokio::test]
async fn what_waits_behind_a_shutdown_is_not_carried_out() {
    let daemon = Daemon::start().await;
    daemon.lab.close_gate();
    let (mut first, mut second) = (daemon.client().await, daemon.client().await);
    let first = tokio::spawn(async move { first.call(usual()).await });
    while daemon.lab.world().made == 0 {
        tokio::task::yield_now().await;
    }
    let node = daemon.node.clone();
    let shutdown = tokio::spawn(async move { node.stop().await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let late = tokio::spawn(async move { refused(&mut second, usual()).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    daemon.lab.open_gate();
    assert!(first.await.unwrap().is_ok());
    shutdown.await.unwrap();
    assert!(late.await.unwrap().contains("shutting down"));
    assert!(daemon.lab.world().links.is_empty());
    assert_eq!(daemon.lab.world().made, 1);
}

#[tokio::test]
async fn node_id_and_boot_id_are_told() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    assert_eq!(status(&mut client).await.node_id, None);
    ok(&mut client, ask(r#""op":"set_local_node_id","node_id":18446744073709551615"#)).await;
    ok(&mut client, ask(r#""op":"set_local_wg_pubkey","pubkey":"anything at all""#)).await;
    let one = status(&mut client).await;
    assert_eq!(one.node_id, Some(u64::MAX));
    assert_eq!(one.version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let boot_id = one.boot_id.unwrap();
    assert_eq!(boot_id.len(), 32);
    let other = Daemon::start().await;
    assert_ne!(status(&mut other.client().await).await.boot_id.unwrap(), boot_id);
}

/// Whoever works out the rules while an overlay comes up reckons with it. Where it does not come up, they go again.
#[tokio::test]
async fn an_overlay_that_does_not_come_up_leaves_no_rules_whoever_made_them_meanwhile() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    daemon.lab.close_gate();
    let coming_up = tokio::spawn(async move { refused(&mut client, usual()).await });
    until("it waits for the kernel", async || daemon.lab.world().made == 1).await;
    daemon.node.fence_all_or_complain().await;
    assert!(image::kernel(&daemon.lab).contains(&format!("rules for {NAME}")));
    daemon.lab.world().fail = Some(("set_up", 0));
    daemon.lab.open_gate();
    coming_up.await.unwrap();
    assert_eq!(image::kernel(&daemon.lab), Vec::<String>::new());
}

#[tokio::test]
async fn many_peers_are_one_change_or_none() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.31.0/24, 10.200.32.0/24")).await;
    let spec = |number: u8, endpoint: &str, prefixes: &str| {
        let Request::AddPeer(add) = add(number, endpoint, prefixes) else { panic!("another request") };
        serde_json::to_value(add.peer).unwrap()
    };
    let request =
        |peers: Vec<serde_json::Value>| ask(&format!(r#""op":"add_peers","peers":{}"#, serde_json::json!(peers)));
    let (before, applied) = (peers(&daemon), daemon.lab.world().updates.len());
    let broken = vec![spec(2, "192.0.2.2:2", "10.200.33.0/24"), spec(3, "192.0.2.3:3", "10.200.34.0/99")];
    let message = refused(&mut client, request(broken)).await;
    assert!(message.contains("add_peers failed: invalid CIDR"), "{message}");
    assert_eq!((peers(&daemon), daemon.lab.world().updates.len()), (before, applied));

    // One of them takes a prefix of one that is there, and one of another of them.
    let many = vec![
        spec(2, "192.0.2.2:2", "10.200.32.0/24, 10.200.33.0/24"),
        spec(3, "192.0.2.3:3", "10.200.33.0/24"),
        spec(4, "0.0.0.0:0", ""),
    ];
    ok(&mut client, request(many)).await;
    assert_eq!(daemon.lab.world().updates.len(), applied + 1);
    let held = |daemon: &Daemon| {
        let stored = daemon.node.kit.store.all::<crate::state::Peer>();
        stored.into_iter().map(|peer| (peer.public_key.0[0], peer.allowed_ips)).collect::<Vec<_>>()
    };
    let net = |text: &str| text.parse().unwrap();
    let expected = [
        (1, vec![net("10.200.31.0/24")]),
        (2, vec![net("10.200.32.0/24")]),
        (3, vec![net("10.200.33.0/24")]),
        (4, Vec::new()),
    ];
    assert_eq!(held(&daemon), expected);
    let wanted = daemon.node.kit.store.read(|tables| image::wanted(tables, daemon.node.overlay().public_key()));
    assert_eq!(image::kernel(&daemon.lab), wanted);
}

/// Twice refused: on the way to another address, and on the way back.
#[tokio::test]
async fn an_address_that_could_not_be_taken_back_goes_later() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let before = addresses(&daemon);
    daemon.lab.world().troubles.extend([(1, Trouble::DoneAndRefused), (2, Trouble::Refused)]);
    refused(&mut client, setup(CLUSTER, "10.200.6.0/28", 51420)).await;
    assert_eq!(addresses(&daemon), ["10.200.6.1/16"]);
    daemon.node.mend().await;
    assert_eq!(addresses(&daemon), before);
}
