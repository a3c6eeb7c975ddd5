//! What the node lists, and what goes at the end of a sync.

use super::*;
use crate::ipc::wire::{BeginSync, ListPage, ListQuery, ObjectKind, ObjectName, Objects, SyncEnded};

async fn listed(client: &mut Client, kind: ObjectKind) -> Objects {
    match client.call(Request::List(ListQuery { kind, after: None, limit: None })).await.unwrap() {
        Response::List(ListPage { objects, next: None }) => objects,
        other => panic!("{other:?}"),
    }
}

async fn keys(client: &mut Client) -> Vec<String> {
    match listed(client, ObjectKind::Peers).await {
        Objects::Peers(items) => items.into_iter().map(|item| item.public_key).collect(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_kind_is_listed() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    ok(&mut client, add(9, "192.0.2.50:51420", "10.200.9.0/28,fd00:9::/64")).await;
    let Objects::Peers(peers) = listed(&mut client, ObjectKind::Peers).await else { panic!("of another kind") };
    assert_eq!(
        (peers[0].public_key.as_str(), peers[0].endpoint.as_deref()),
        (key(9).to_base64().as_str(), Some("192.0.2.50:51420"))
    );
    assert_eq!(peers[0].allowed_ips, ["10.200.9.0/28", "fd00:9::/64"]);
    for kind in ObjectKind::ALL {
        let objects = listed(&mut client, kind).await;
        assert_eq!(serde_json::to_value(&objects).unwrap()["kind"], kind.name());
    }
}

#[tokio::test]
async fn peers_nobody_named_go_at_the_end_of_a_sync() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    for number in 1..=4 {
        ok(&mut client, add(number, "192.0.2.50:51420", "")).await;
    }
    let begin = Request::BeginSync(BeginSync { epoch: 3, kinds: vec![ObjectKind::Peers] });
    client.call(begin).await.unwrap();
    ok(&mut client, add(2, "192.0.2.50:51420", "")).await;
    ok(&mut client, allow("add_allowed_ip", 4, "10.200.77.0/24")).await;
    let gone = [1, 3].map(|number| ObjectName { kind: ObjectKind::Peers, key: key(number).to_base64() });
    let mut gone = gone.to_vec();
    gone.sort();
    for _ in 0..2 {
        let Response::SyncEnded(SyncEnded { epoch: 3, mut removed }) =
            client.call(Request::EndSync { epoch: 3 }).await.unwrap()
        else {
            panic!("it did not end")
        };
        removed.removed.sort();
        assert_eq!(removed, gone.clone().into());
    }
    let mut stay = [2, 4].map(|number| key(number).to_base64()).to_vec();
    stay.sort();
    assert_eq!(keys(&mut client).await, stay);
    assert_eq!(peers(&daemon).len(), 2);
}
