//! What happens when somebody takes the device away, and what its events are good for.

use super::super::fake::CHOSEN_PORT;
use super::*;
use ginnel_engine::event::Event;
use ginnel_engine::key::PresharedKey;

async fn until_made(daemon: &Daemon, devices: usize) {
    until("the device is made again", async || daemon.lab.world().made >= devices).await;
}

async fn until_back(client: &mut Client) {
    until("the overlay is back", async || status(client).await.interface.is_some()).await;
}

#[tokio::test]
async fn a_lost_device_comes_back_as_it_was() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, setup(CLUSTER, "10.200.5.0/28", 0)).await;
    for byte in 1..=3 {
        ok(&mut client, add(byte, &format!("192.0.2.{byte}:1"), &format!("10.200.{byte}.0/28"))).await;
    }
    daemon.lab.wg_set(NAME, |link| {
        link.port += 1;
        link.peers[0].preshared_key = PresharedKey::new([7; 32]);
        link.peers.remove(2);
    });
    daemon.lab.world().roamed.insert(key(2), "198.51.100.2:7".parse().unwrap());
    let before = status(&mut client).await;
    let sought = [
        (key(1), "192.0.2.1:1".to_owned(), "10.200.1.0/28".to_owned()),
        (key(2), "198.51.100.2:7".to_owned(), "10.200.2.0/28".to_owned()),
    ];
    for round in 2..5 {
        daemon.lab.delete_link(NAME);
        until_made(&daemon, round).await;
        until_back(&mut client).await;
        assert_eq!(status(&mut client).await, before);
        assert_eq!(peers(&daemon), sought);
        let world = daemon.lab.world();
        let link = &world.links[NAME];
        assert_eq!((link.port, link.mtu, link.up, link.addresses.len()), (CHOSEN_PORT + 1, 1420, true, 1));
        assert!(link.peers[0].preshared_key.is_some());
    }
    // To repeat the setup is still to change nothing, and a teardown still ends the device.
    bring_up(&mut client, setup(CLUSTER, "10.200.5.0/28", 0)).await;
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    assert_eq!(daemon.lab.world().made, 4);
    assert!(daemon.lab.world().links.is_empty());
}

#[tokio::test]
async fn a_port_that_closed_counts_as_lost_although_the_interface_is_there() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    daemon.lab.tell(NAME, Event::PortClosed { errno: 77 });
    until_made(&daemon, 2).await;
    until_back(&mut client).await;
}

#[tokio::test]
async fn tries_go_on_and_take_in_what_changes_meanwhile() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    for byte in 1..=3 {
        ok(&mut client, add(byte, &format!("192.0.2.{byte}:1"), "")).await;
    }
    daemon.lab.world().roamed =
        [1, 2, 3].map(|byte| (key(byte), format!("198.51.100.{byte}:7").parse().unwrap())).into();
    daemon.lab.world().fail_made = 4;
    daemon.lab.world().fail = Some(("set_up", 0));
    daemon.lab.delete_link(NAME);
    until_made(&daemon, 2).await;
    let seen = status(&mut client).await;
    assert_eq!((seen.interface, seen.peer_count), (None, 3));
    ok(&mut client, add(1, "192.0.2.1:1", "10.200.9.0/28")).await;
    ok(&mut client, add(2, "192.0.2.2:2", "")).await;
    ok(&mut client, remove(3)).await;
    ok(&mut client, add(4, "192.0.2.4:1", "")).await;
    daemon.lab.world().roamed.clear();
    until_back(&mut client).await;
    assert_eq!(
        peers(&daemon),
        [
            (key(1), "198.51.100.1:7".to_owned(), "10.200.9.0/28".to_owned()),
            (key(2), "192.0.2.2:2".to_owned(), String::new()),
            (key(4), "192.0.2.4:1".to_owned(), String::new()),
        ]
    );
    // Four that could not be made, one that could not be set up, and the one that stands.
    assert_eq!(daemon.lab.world().made, 1 + 4 + 1 + 1);
}

#[tokio::test]
async fn a_teardown_a_setup_and_a_shutdown_end_the_tries() {
    for end in [Request::TeardownGlobalOverlay, usual(), Request::Shutdown] {
        let daemon = Daemon::start().await;
        let mut client = daemon.client().await;
        bring_up(&mut client, usual()).await;
        daemon.lab.world().fail_made = usize::MAX;
        daemon.lab.delete_link(NAME);
        // The pause before the next is 400 ms or so.
        until_made(&daemon, 4).await;
        if end == usual() {
            let message = refused(&mut client, end.clone()).await;
            assert!(message.contains("needs CAP_NET_ADMIN"), "{message}");
            daemon.lab.world().fail_made = 0;
            bring_up(&mut client, end.clone()).await;
        } else {
            ok(&mut client, end.clone()).await;
            daemon.lab.world().fail_made = 0;
        }
        let made = daemon.lab.world().made;
        tokio::time::sleep(Duration::from_millis(1000)).await;
        assert_eq!(daemon.lab.world().made, made, "{end:?}");
        assert_eq!(daemon.lab.world().links.len(), usize::from(end == usual()));
    }
}

#[tokio::test]
async fn events_do_not_disturb_and_strange_datagrams_are_counted() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let from = "203.0.113.1:9".parse().unwrap();
    for _ in 0..50 {
        daemon.lab.tell(NAME, Event::Diverted { from, datagram: vec![0xff; 20] });
    }
    daemon.lab.tell(NAME, Event::HandshakeCompleted { peer: key(1) });
    daemon.lab.tell(NAME, Event::EndpointChanged { peer: key(1), endpoint: from });
    daemon.lab.tell(NAME, Event::HandshakeAbandoned { peer: key(1) });
    until("they are counted", async || status(&mut client).await.totals["diverted_datagrams"] == 50).await;
    assert_eq!(daemon.lab.world().made, 1);
}

/// Each change of what is there is told, once, in the words of the wire.
#[tokio::test]
async fn overlays_leases_and_moves_of_peers_are_told() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.50:51420", "10.200.9.0/28")).await;
    let moved = "192.0.2.51:7".parse().unwrap();
    daemon.lab.tell(NAME, Event::EndpointChanged { peer: key(1), endpoint: moved });
    let Response::Ip { ip } =
        client.call(ask(r#""op":"allocate_ip","service":"web","join_global":false"#)).await.unwrap()
    else {
        panic!("no address")
    };
    ok(&mut client, ask(&format!(r#""op":"release_ip","ip":"{ip}""#))).await;
    ok(&mut client, ask(r#""op":"teardown_global_overlay""#)).await;
    let pubkey = key(1).to_base64();
    let told = [
        format!(r#"{{"event":"overlay_up","scope":{{"scope":"global"}},"interface":"{NAME}"}}"#),
        format!(r#"{{"event":"nat_endpoint_changed","pubkey":"{pubkey}","endpoint":"192.0.2.51:7"}}"#),
        format!(r#"{{"event":"lease_changed","ip":"{ip}","state":"leased","service":"web"}}"#),
        format!(r#"{{"event":"lease_changed","ip":"{ip}","state":"quarantined","service":"web"}}"#),
        format!(r#"{{"event":"overlay_down","scope":{{"scope":"global"}},"interface":"{NAME}"}}"#),
    ];
    let heard = || -> Vec<_> { daemon.heard().iter().map(|event| serde_json::to_string(event).unwrap()).collect() };
    until("all is told", async || told.iter().all(|event| heard().contains(event))).await;
    assert_eq!(heard().len(), told.len(), "{:?}", heard());
}
