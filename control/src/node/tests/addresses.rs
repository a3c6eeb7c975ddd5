//! Addresses on request: given once, kept over restarts, taken back from whoever has them.

use super::*;
use crate::ipam::Place;
use crate::state::Lease;
use std::net::IpAddr;

fn allocate(service: &str) -> Request {
    ask(&format!(r#""op":"allocate_ip","service":"{service}","join_global":true"#))
}

fn release(ip: &str) -> Request {
    ask(&format!(r#""op":"release_ip","ip":"{ip}""#))
}

async fn given(client: &mut Client, service: &str) -> String {
    match client.call(allocate(service)).await.unwrap() {
        Response::Ip { ip } => ip.to_string(),
        other => panic!("{other:?}"),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn addresses_come_from_the_slice_and_last_over_setups_and_restarts() {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    assert_eq!(given(&mut client, "web").await, "10.200.0.2", "before anybody set anything up");
    bring_up(&mut client, usual()).await;
    assert_eq!(given(&mut client, "web").await, "10.200.5.2");
    bring_up(&mut client, usual()).await;
    assert_eq!(given(&mut client, "web").await, "10.200.5.3");
    for _ in 0..3 {
        daemon = daemon.kill_and_restart().await;
        client = daemon.client().await;
        bring_up(&mut client, usual()).await;
    }
    assert_eq!(given(&mut client, "web").await, "10.200.5.4");
    // Given back, an address rests; the slice has others.
    ok(&mut client, release("10.200.5.3")).await;
    daemon = daemon.kill_and_restart().await;
    client = daemon.client().await;
    assert_eq!(given(&mut client, "web").await, "10.200.5.5");
    let mut rest = Vec::new();
    while let Ok(Response::Ip { ip }) = client.call(allocate("web")).await {
        rest.push(ip.to_string());
    }
    assert_eq!(rest.len(), 14 - 1 - 3 - 1 + 1, "node and three in use; the one that rests comes last");
    assert_eq!(rest.last().unwrap(), "10.200.5.3");
    let message = refused(&mut client, allocate("web")).await;
    assert!(message.starts_with("overlay engine error: subnet 10.200.5.0/28 exhausted"), "{message}");
}

#[tokio::test]
async fn what_nobody_has_is_free_already_and_what_a_workload_has_is_not_given_back() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    for ip in ["8.8.8.8", "10.200.5.1", "10.200.5.7", "10.200.187.130", "fd00::1"] {
        ok(&mut client, release(ip)).await;
    }
    assert_eq!(given(&mut client, "web").await, "10.200.5.2");
    let held = daemon.node.lease(Place::Node, "attachment pid 4242".into()).await.unwrap();
    let message = refused(&mut client, release(&held.to_string())).await;
    assert!(message.contains("attachment pid 4242") && message.contains("detach"), "{message}");
    ok(&mut client, release("10.200.5.2")).await;
    ok(&mut client, release("10.200.5.2")).await;
    let mut seen = Vec::new();
    while let Ok(Response::Ip { ip }) = client.call(allocate("web")).await {
        assert!(!seen.contains(&ip) && ip != held);
        seen.push(ip);
    }
    assert_eq!(seen.len(), 12);
}

#[tokio::test]
async fn a_late_release_does_not_take_from_the_next_owner() {
    let daemon = Daemon::start().await;
    let node = &daemon.node;
    let first = node.lease(Place::Node, "a".into()).await.unwrap();
    let lease = node.addresses().lease(first).cloned().unwrap();
    node.release(first, "a", lease.generation).await.unwrap();
    let book = |ip| node.addresses().lease(ip).cloned();
    assert_eq!(book(first), None);
    // A book without a past counts from the time.
    tokio::time::sleep(Duration::from_millis(5)).await;
    *node.addresses() = crate::ipam::AddressBook::new(CLUSTER.parse().unwrap(), None, 0);
    assert_eq!(node.lease(Place::Node, "a".into()).await.unwrap(), first);
    let error = node.release(first, "a", lease.generation).await.unwrap_err();
    assert!(error.to_string().contains("in use by a"), "{error}");
    assert!(book(first).is_some());
}

#[tokio::test]
async fn many_at_once_get_different_addresses_and_the_disk_has_them_all() {
    let daemon = Daemon::start().await;
    bring_up(&mut daemon.client().await, setup(CLUSTER, "10.200.4.0/22", 51420)).await;
    let mut tasks = tokio::task::JoinSet::new();
    for round in 0..200 {
        let node = daemon.node.clone();
        tasks.spawn(async move {
            let ip = node.allocate_ip("web", None).await.unwrap();
            if round % 3 == 0 {
                // Twice at once: one of the two does it.
                let (a, b) = tokio::join!(node.release_ip(ip, None), node.release_ip(ip, None));
                a.unwrap();
                b.unwrap();
                return None;
            }
            Some(ip)
        });
    }
    let mut held: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    held.sort();
    held.dedup();
    assert_eq!(held.len(), 133);
    let on_disk = |daemon: &Daemon| -> Vec<IpAddr> {
        let leases = daemon.node.kit.store.all::<Lease>().into_iter();
        let mut ips: Vec<_> = leases.filter(|lease| lease.released_ms.is_none()).map(|lease| lease.ip).collect();
        ips.sort();
        ips
    };
    assert_eq!(on_disk(&daemon), held);
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(on_disk(&daemon), held);
    let mut in_book: Vec<_> = daemon.node.addresses().leases().map(|(ip, _)| ip).collect();
    in_book.sort();
    assert_eq!(in_book, held);
}

#[tokio::test]
async fn addresses_that_have_rested_are_forgotten() {
    let daemon = Daemon::start().await;
    let node = &daemon.node;
    let records = || node.kit.store.all::<Lease>().len();
    let first = node.allocate_ip("web", None).await.unwrap();
    let second = node.allocate_ip("web", None).await.unwrap();
    node.release_ip(first, None).await.unwrap();
    node.tidy_addresses().await;
    assert_eq!(records(), 2, "it rests");
    let old = Lease { released_ms: Some(1), ..node.kit.store.find::<Lease>(&first.to_string()).unwrap() };
    node.kit.commit(crate::state::Transaction::new().put(old)).await.unwrap();
    node.tidy_addresses().await;
    assert_eq!(node.kit.store.all::<Lease>().iter().map(|lease| lease.ip).collect::<Vec<_>>(), [second]);
    assert_eq!((first, second), (ip("10.200.0.2"), ip("10.200.0.3")));
}

#[tokio::test]
async fn names_are_stored_and_checked() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let register = |name: &str, ip: &str| ask(&format!(r#""op":"register_dns","name":"{name}","ip":"{ip}""#));
    ok(&mut client, register("Web.prod.local.", "10.200.5.2")).await;
    ok(&mut client, register("web.prod.local", "fd00::2")).await;
    ok(&mut client, register("web.prod.local", "10.200.5.2")).await;
    assert!(refused(&mut client, register("a b", "10.0.0.1")).await.starts_with("invalid DNS name"));
    let daemon = daemon.kill_and_restart().await;
    let names = daemon.node.kit.store.all::<crate::state::Name>();
    assert_eq!(names.len(), 1);
    assert_eq!(
        (names[0].name.as_str(), &names[0].addresses[..]),
        ("web.prod.local", &[ip("10.200.5.2"), ip("fd00::2")][..])
    );
    let mut client = daemon.client().await;
    for _ in 0..2 {
        ok(&mut client, ask(r#""op":"unregister_dns","name":"WEB.prod.local""#)).await;
    }
    assert!(daemon.node.kit.store.all::<crate::state::Name>().is_empty());
}

#[tokio::test]
async fn addresses_of_a_service_that_goes_leave_the_shared_bridge_with_it() {
    let daemon = Daemon::start().await;
    bring_up(&mut daemon.client().await, usual()).await;
    let node = &daemon.node;
    for service in ["job", "web"] {
        node.set_up_service(service, crate::ipc::wire::OverlayMode::Shared).await.unwrap();
    }
    node.allocate_ip("job", None).await.unwrap();
    let of_web = node.allocate_ip("web", None).await.unwrap();
    node.tear_down_service("job").await.unwrap();
    let left: Vec<_> = node.addresses().leases().map(|(ip, _)| ip).collect();
    assert_eq!(left, [of_web]);
    super::image::check_leases(node);
}
