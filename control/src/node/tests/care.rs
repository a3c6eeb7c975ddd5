//! Peers that answer, peers that do not, and where those are sought.

use super::*;
use ginnel_engine::event::Event as DeviceEvent;
use std::time::SystemTime;

fn health(daemon: &Daemon) -> Vec<(String, bool)> {
    let health = daemon.heard().into_iter().filter_map(|event| match event {
        Event::PeerHealthChanged { pubkey, healthy } => Some((pubkey, healthy)),
        _ => None,
    });
    health.collect()
}

#[tokio::test]
async fn health_is_told_when_it_changes() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "")).await;
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now());
    daemon.lab.tell(NAME, DeviceEvent::HandshakeCompleted { peer: key(1) });
    let one = key(1).to_base64();
    until("it answers", async || health(&daemon) == [(one.clone(), true)]).await;
    assert_eq!(daemon.node.overlay().care.is_healthy(&key(1)), Some(true));
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now() - Duration::from_secs(181));
    until("it is silent", async || health(&daemon) == [(one.clone(), true), (one.clone(), false)]).await;
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now());
    until("it is back", async || health(&daemon).len() == 3).await;
    daemon.lab.tell(NAME, DeviceEvent::HandshakeAbandoned { peer: key(1) });
    until("it was given up", async || health(&daemon).last() == Some(&(one.clone(), false))).await;
    // A peer that is removed is nobody's concern.
    ok(&mut client, remove(1)).await;
    assert_eq!(daemon.node.overlay().care.is_healthy(&key(1)), None);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(health(&daemon).len(), 4);
}

#[tokio::test]
async fn a_peer_that_roamed_and_fell_silent_is_called_where_it_was_asked_for() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "192.0.2.1:1", "")).await;
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now());
    daemon.lab.wg_set(NAME, |link| link.peers[0].endpoint = "198.51.100.1:9".parse().ok());
    until("it is seen elsewhere", async || {
        daemon.node.overlay().care.is_healthy(&key(1)) == Some(true) && peers(&daemon)[0].1 == "198.51.100.1:9"
    })
    .await;
    daemon.lab.world().handshakes.insert(key(1), SystemTime::now() - Duration::from_secs(136));
    until("it is called at home", async || peers(&daemon)[0].1 == "192.0.2.1:1").await;
    let device = daemon.lab.world().updates.iter().flat_map(|update| update.peers.clone()).collect::<Vec<_>>();
    assert!(!device.iter().any(|peer| peer.remove), "its sessions are left alone");
}

#[tokio::test]
async fn a_name_is_looked_up_again_after_a_restart_and_until_it_leads_somewhere() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(1, "localhost:7", "10.200.1.0/28")).await;
    let daemon = daemon.kill_and_restart().await;
    until("the name is looked up", async || peers(&daemon)[0].1.ends_with(":7")).await;
    let mut client = daemon.client().await;
    ok(&mut client, add(1, "localhost:8", "10.200.1.0/28")).await;
    assert!(peers(&daemon)[0].1.ends_with(":8"));
}
