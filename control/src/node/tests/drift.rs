//! What others do to links of ours, and what the node makes of it.

use super::*;
use crate::host::{Change, Event as HostEvent};

const BRIDGE: &str = "zl-prod-0-web-b";

async fn with_bridge() -> Daemon {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    client.call(ask(r#""op":"setup_service_overlay","service":"web","mode":"auto""#)).await.unwrap();
    daemon
}

impl Daemon {
    /// What was found of what others did.
    fn drifts(&self) -> Vec<(String, String)> {
        let drift = |event| match event {
            Event::Drift { object, found, mended: true } => Some((object, found)),
            _ => None,
        };
        self.heard().into_iter().filter_map(drift).collect()
    }
}

#[tokio::test]
async fn what_is_missing_is_put_back_and_told_and_what_is_not_is_not() {
    let daemon = with_bridge().await;
    // Its own changes are told to it, too.
    for change in [Change::Gone, Change::Up(false), Change::Mtu(1300), Change::RouteGone("10.0.0.0/8".parse().unwrap())]
    {
        daemon.lab.tell_change(NAME, change.clone());
        daemon.lab.tell_change(BRIDGE, change.clone());
        daemon.lab.tell_change("eth0", change);
    }
    let address = daemon.lab.world().links[NAME].addresses[0];
    daemon.lab.world().links.get_mut(NAME).unwrap().addresses.clear();
    daemon.lab.tell_change(NAME, Change::AddressGone(address));
    until("the address is back", async || daemon.lab.world().links[NAME].addresses == [address]).await;
    until("it is told", async || !daemon.drifts().is_empty()).await;
    assert_eq!(daemon.drifts(), [(NAME.to_owned(), format!("address {address} was missing"))]);

    let bridge = daemon.lab.world().bridges.insert(BRIDGE.to_owned(), ("192.0.2.1/24".parse().unwrap(), 1500)).unwrap();
    // Where too much happens, everything is looked at.
    daemon.lab.world().watchers.retain(|watcher| watcher.try_send(HostEvent::Overrun).is_ok());
    until("the bridge is as it was", async || daemon.lab.world().bridges[BRIDGE] == bridge).await;
    until("it is told", async || daemon.drifts().len() == 2).await;
    assert_eq!(daemon.drifts()[1], (BRIDGE.to_owned(), "changed".to_owned()));
}

#[tokio::test]
async fn what_cannot_be_put_back_is_tried_again() {
    let daemon = with_bridge().await;
    daemon.lab.world().links.get_mut(NAME).unwrap().up = false;
    daemon.lab.world().fail = Some(("set_up", 0));
    daemon.lab.tell_change(NAME, Change::Up(false));
    until("it was tried", async || daemon.lab.world().fail.is_none()).await;
    assert!(daemon.drifts().is_empty() && !daemon.lab.world().links[NAME].up);
    daemon.node.mend().await;
    assert!(daemon.lab.world().links[NAME].up);
}
