//! What is there after a start, without a word from anybody: after a kill, after a signal, after a shutdown, and when not
//! everything can be.

use super::super::fake::CHOSEN_PORT;
use super::*;
use crate::state::Identity;

async fn everything(client: &mut Client) {
    ok(client, ask(r#""op":"set_local_node_id","node_id":0"#)).await;
    bring_up(client, usual()).await;
    for byte in 1..=3 {
        ok(client, add(byte, &format!("192.0.2.{byte}:1"), &format!("10.200.{byte}.0/28"))).await;
    }
    ok(client, allow("add_allowed_ip", 2, "10.200.77.0/24")).await;
    ok(client, remove(3)).await;
    for (service, mode) in [("web", "auto"), ("cache", "shared"), ("pay", "dedicated")] {
        let request = format!(r#""op":"setup_service_overlay","service":"{service}","mode":"{mode}""#);
        client.call(ask(&request)).await.unwrap();
    }
    let peer = format!(
        r#""op":"add_peer","public_key":"{}","endpoint":"0.0.0.0:0","allowed_ips":"10.200.7.0/26","persistent_keepalive_secs":0,"scope":{{"scope":"service","service":"pay"}}"#,
        key(7)
    );
    ok(client, ask(&peer)).await;
}

/// All that a client and the kernel show, but what is drawn anew at each start.
async fn seen(daemon: &Daemon) -> String {
    let status = StatusSnapshot { boot_id: None, ..status(&mut daemon.client().await).await };
    let world = daemon.lab.world();
    let links: Vec<_> = world
        .links
        .iter()
        .map(|(name, link)| {
            let peers: Vec<_> =
                link.peers.iter().map(|peer| (peer.public_key, peer.endpoint, &peer.allowed_ips)).collect();
            let public = link.private_key.as_ref().map(|key| key.public());
            format!(
                "{name} {:?} {} {} {} {public:?} {peers:?} {:?}",
                link.addresses, link.mtu, link.up, link.port, link.routes
            )
        })
        .collect();
    format!("{status:#?}\n{links:#?}\n{:#?}", world.bridges)
}

#[tokio::test]
async fn everything_is_there_again_before_anybody_asks() {
    let mut daemon = Daemon::start().await;
    everything(&mut daemon.client().await).await;
    let before = seen(&daemon).await;
    for _ in 0..3 {
        daemon = daemon.kill_and_restart().await;
        assert_eq!(seen(&daemon).await, before);
    }
    // What comes again by itself is what an orchestrator would ask for again.
    let made = daemon.lab.world().made;
    everything(&mut daemon.client().await).await;
    assert_eq!((seen(&daemon).await, daemon.lab.world().made), (before.clone(), made));

    // A signal takes everything from the kernel and nothing from the disk.
    daemon.node.stop().await;
    assert!(daemon.lab.world().links.is_empty() && daemon.lab.world().bridges.is_empty());
    let message = refused(&mut daemon.client().await, usual()).await;
    assert!(message.contains("shutting down"), "{message}");
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(seen(&daemon).await, before);
}

#[tokio::test]
async fn a_shutdown_forgets_all_but_who_the_node_and_its_services_were() {
    let daemon = Daemon::start().await;
    everything(&mut daemon.client().await).await;
    let keys = (daemon.node.overlay().public_key(), daemon.node.kit.store.all::<Identity>());
    ok(&mut daemon.client().await, Request::Shutdown).await;
    assert!(daemon.lab.world().links.is_empty() && daemon.lab.world().bridges.is_empty());
    let daemon = daemon.kill_and_restart().await;
    let fresh = status(&mut daemon.client().await).await;
    assert_eq!((fresh.interface, fresh.peer_count, fresh.service_count, fresh.node_id), (None, 0, 0, None));
    assert!(daemon.lab.world().links.is_empty() && daemon.lab.world().bridges.is_empty());
    everything(&mut daemon.client().await).await;
    assert_eq!((daemon.node.overlay().public_key(), daemon.node.kit.store.all::<Identity>()), keys);
}

#[tokio::test]
async fn teardowns_last_and_so_do_the_peers_that_wait() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    everything(&mut client).await;
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    let daemon = daemon.kill_and_restart().await;
    let mut client = daemon.client().await;
    let seen = status(&mut client).await;
    assert_eq!((seen.interface, seen.peer_count, seen.service_count), (None, 2, 0));
    assert_eq!(seen.slice_cidr.as_deref(), Some("10.200.5.0/28"));
    assert!(daemon.lab.world().links.is_empty() && daemon.lab.world().bridges.is_empty());
    bring_up(&mut client, usual()).await;
    assert_eq!(peers(&daemon).len(), 2);
}

#[tokio::test]
async fn a_port_the_kernel_chose_stays_if_it_can() {
    let daemon = Daemon::start().await;
    let any = || setup(CLUSTER, "10.200.5.0/28", 0);
    bring_up(&mut daemon.client().await, any()).await;
    daemon.lab.wg_set(NAME, |link| link.port = CHOSEN_PORT);
    let port = |daemon: &Daemon| daemon.lab.world().links[NAME].port;
    // In this kernel every choice is the same, so the one before is told apart by hand.
    let stored = || daemon.node.kit.store.find::<crate::state::GlobalOverlay>("").unwrap();
    assert_eq!(stored().chosen_port, Some(CHOSEN_PORT));
    let other = crate::state::GlobalOverlay { chosen_port: Some(41_000), ..stored() };
    daemon.node.kit.commit(crate::state::Transaction::new().put(other)).await.unwrap();
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(port(&daemon), 41_000);
    bring_up(&mut daemon.client().await, any()).await;
    assert_eq!(port(&daemon), 41_000, "to repeat the setup changes nothing");
    daemon.lab.world().taken_ports = vec![41_000];
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(port(&daemon), CHOSEN_PORT);
}

#[tokio::test]
async fn what_cannot_be_brought_up_at_start_is_tried_again_and_does_not_keep_the_daemon_from_starting() {
    let daemon = Daemon::start().await;
    everything(&mut daemon.client().await).await;
    let before = seen(&daemon).await;
    daemon.lab.world().fail_made = 3;
    let daemon = daemon.kill_and_restart().await;
    let mut client = daemon.client().await;
    status(&mut client).await;
    until("both devices are up", async || daemon.lab.world().links.values().filter(|link| link.up).count() == 2).await;
    until("status shows it", async || status(&mut client).await.dedicated_services.len() == 1).await;
    assert_eq!(seen(&daemon).await, before);
    // A teardown ends the tries.
    daemon.lab.world().fail_made = usize::MAX;
    let daemon = daemon.kill_and_restart().await;
    ok(&mut daemon.client().await, Request::TeardownGlobalOverlay).await;
    daemon.lab.world().fail_made = 0;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(daemon.lab.world().links.is_empty());
}

#[tokio::test]
async fn bridges_that_nobody_knows_of_are_removed_at_start() {
    let daemon = Daemon::start().await;
    everything(&mut daemon.client().await).await;
    let before = seen(&daemon).await;
    daemon.lab.world().bridges.insert("zl-prod-0-old-b".into(), ("10.200.1.1/26".parse().unwrap(), 1420));
    daemon.lab.world().bridges.remove("zl-prod-0-web-b");
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(seen(&daemon).await, before);
}

#[tokio::test]
async fn what_wg_set_survives_once_a_change_came_by() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    everything(&mut client).await;
    daemon.lab.wg_set(NAME, |link| {
        link.peers[0].preshared_key = ginnel_engine::key::PresharedKey::new([7; 32]);
        link.peers.remove(1);
    });
    ok(&mut client, add(4, "192.0.2.4:1", "10.200.4.0/28")).await;
    let before = seen(&daemon).await;
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(seen(&daemon).await, before);
    assert!(daemon.lab.world().links[NAME].peers[0].preshared_key.is_some());
}

#[tokio::test]
async fn a_disk_that_refuses_is_told_and_nothing_changes() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    everything(&mut client).await;
    let before = seen(&daemon).await;
    // A journal that is gone is the refusal that also root meets.
    let journal = daemon.dir.join("state/journal");
    let requests = || {
        [
            setup("10.0.0.0/8", "10.77.0.0/24", 51999),
            add(5, "192.0.2.5:1", "10.200.5.0/28"),
            remove(1),
            allow("add_allowed_ip", 1, "10.200.99.0/24"),
            ask(r#""op":"allocate_ip","service":"web","join_global":false"#),
            ask(r#""op":"setup_service_overlay","service":"new","mode":"dedicated""#),
            ask(r#""op":"teardown_service_overlay","service":"web""#),
            ask(r#""op":"register_dns","name":"a.b","ip":"10.0.0.1""#),
            ask(r#""op":"set_local_node_id","node_id":9"#),
            Request::TeardownGlobalOverlay,
            Request::Shutdown,
        ]
    };
    for request in requests() {
        std::fs::remove_file(&journal).unwrap();
        let message = refused(&mut client, request.clone()).await;
        assert!(message.contains("cannot be stored") && message.contains("removed"), "{request:?}: {message}");
        assert_eq!(seen(&daemon).await, before, "{request:?}");
        // The next change that is stored writes the file anew.
        ok(&mut client, ask(r#""op":"register_dns","name":"c.d","ip":"10.0.0.1""#)).await;
        ok(&mut client, ask(r#""op":"unregister_dns","name":"c.d""#)).await;
    }
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(seen(&daemon).await, before);
}

#[tokio::test]
async fn a_sweep_that_is_refused_at_start_is_tried_again() {
    let daemon = Daemon::start().await;
    bring_up(&mut daemon.client().await, usual()).await;
    let left = ("10.200.7.1/26".parse().unwrap(), 1420);
    daemon.lab.world().bridges.insert("zl-prod-0-left-b".into(), left);
    daemon.lab.world().fail = Some(("sweep", 0));
    let daemon = daemon.kill_and_restart().await;
    assert!(daemon.lab.world().fail.is_none() && !daemon.lab.world().bridges.is_empty());
    assert!(daemon.node.sweep_wanted.load(std::sync::atomic::Ordering::Acquire));
    daemon.node.sweep().await;
    assert!(daemon.lab.world().bridges.is_empty());
}
