//! Services: what setup and teardown bring about in each mode, what is undone when something fails.

use super::*;
use crate::ipc::wire::{OverlayMode, ServiceOverlayInfo};
use crate::state::{Bridge, Identity, Kind, Lease, Marker, Service, Tables};

fn set_up(service: &str, mode: &str) -> Request {
    ask(&format!(r#""op":"setup_service_overlay","service":"{service}","mode":"{mode}""#))
}

fn tear_down(service: &str) -> Request {
    ask(&format!(r#""op":"teardown_service_overlay","service":"{service}""#))
}

async fn up(client: &mut Client, service: &str, mode: &str) -> ServiceOverlayInfo {
    match client.call(set_up(service, mode)).await.unwrap() {
        Response::ServiceOverlay(info) => info,
        other => panic!("{other:?}"),
    }
}

fn in_service(request: &str, service: &str) -> Request {
    ask(&format!(r#"{request},"scope":{{"scope":"service","service":"{service}"}}"#))
}

fn bridges(daemon: &Daemon) -> Vec<(String, String)> {
    let world = daemon.lab.world();
    world.bridges.iter().map(|(name, (gateway, mtu))| (name.clone(), format!("{gateway} {mtu}"))).collect()
}

fn bridge(name: &str, gateway: &str) -> (String, String) {
    (name.to_owned(), format!("{gateway} 1420"))
}

#[tokio::test]
async fn each_mode_has_its_bridge_and_a_dedicated_one_its_device() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    for _ in 0..2 {
        assert_eq!(up(&mut client, "web", "auto").await.name, "zl-prod-0-web-b");
        let fenced = up(&mut client, "job", "isolated").await;
        assert_eq!((fenced.name.as_str(), fenced.mode), ("zl-prod-0-job-b", OverlayMode::Auto));
        for shared in ["cache", "queue"] {
            assert_eq!(up(&mut client, shared, "shared").await.name, "zl-2cd15931d-sh");
        }
        let pay = up(&mut client, "pay", "dedicated").await;
        assert_eq!((pay.name.as_str(), pay.wg_port), ("zl-prod-0-pay-b", Some(51421)));
        assert_eq!((pay.overlay_ip, pay.subnet.as_deref()), ("10.200.141.129".parse().ok(), Some("10.200.141.128/26")));
        let status = status(&mut client).await;
        assert_eq!(status.service_count, 5);
        let [dedicated] = &status.dedicated_services[..] else { panic!("{status:?}") };
        assert_eq!((dedicated.service.as_str(), dedicated.interface.as_str()), ("pay", "zl-prod-0-pay-d"));
        assert_eq!((dedicated.listen_port, Some(&dedicated.public_key)), (51421, pay.wg_public_key.as_ref()));
        assert_eq!(dedicated.overlay_ip, pay.overlay_ip.unwrap());
    }
    assert_eq!(
        bridges(&daemon),
        [
            bridge("zl-2cd15931d-sh", "10.200.90.65/26"),
            bridge("zl-prod-0-job-b", "10.200.186.193/26"),
            bridge("zl-prod-0-pay-b", "10.200.141.129/26"),
            bridge("zl-prod-0-web-b", "10.200.187.129/26"),
        ]
    );
    {
        let world = daemon.lab.world();
        let device = &world.links["zl-prod-0-pay-d"];
        // The subnet is on the bridge: had the device the same, the host could not reach its own workloads.
        assert_eq!(device.addresses, ["10.200.141.129/32".parse().unwrap()]);
        assert_eq!((device.port, device.up, device.mtu, world.made), (51421, true, 1420, 2));
    }
    for service in ["web", "job", "cache", "pay", "nobody", "web"] {
        ok(&mut client, tear_down(service)).await;
    }
    assert_eq!(bridges(&daemon), [bridge("zl-2cd15931d-sh", "10.200.90.65/26")], "another service is on it");
    ok(&mut client, tear_down("queue")).await;
    assert_eq!(bridges(&daemon), []);
    assert_eq!(daemon.lab.world().links.len(), 1);
    assert_eq!(status(&mut client).await.service_count, 0);
}

#[tokio::test]
async fn peers_of_a_service_are_in_its_device_and_routed_to_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let peer = format!(
        r#""op":"add_peer","public_key":"{}","endpoint":"192.0.2.7:51421","allowed_ips":"10.200.7.0/26,10.200.141.128/26,0.0.0.0/0","persistent_keepalive_secs":25"#,
        key(7)
    );
    bring_up(&mut client, usual()).await;
    let missing = refused(&mut client, in_service(&peer, "pay")).await;
    assert_eq!(missing, "no dedicated overlay for service pay");
    up(&mut client, "pay", "dedicated").await;
    ok(&mut client, in_service(&peer, "pay")).await;
    // What the main daemon does with every peer of a dedicated service.
    let allow = format!(r#""op":"add_allowed_ip","pubkey":"{}","cidr":"10.200.8.0/26""#, key(7));
    ok(&mut client, in_service(&allow, "pay")).await;
    let routes = || -> Vec<String> {
        let world = daemon.lab.world();
        world.links["zl-prod-0-pay-d"].routes.iter().map(|(prefix, source)| format!("{prefix} {source}")).collect()
    };
    assert_eq!(routes(), ["10.200.7.0/26 10.200.141.129", "10.200.8.0/26 10.200.141.129"]);
    let seen = status(&mut client).await;
    assert_eq!((seen.peer_count, seen.dedicated_services[0].peer_count), (0, 1));

    // A device that refuses leaves the routes as they were, a route that cannot be, the device.
    daemon.lab.world().fail = Some(("add_route", 0));
    let more = format!(r#""op":"add_allowed_ip","pubkey":"{}","cidr":"10.200.9.0/26""#, key(7));
    assert!(refused(&mut client, in_service(&more, "pay")).await.contains("told to fail"));
    assert_eq!(routes().len(), 2);
    let peers = |daemon: &Daemon| daemon.lab.world().links["zl-prod-0-pay-d"].peers[0].allowed_ips.len();
    assert_eq!(peers(&daemon), 4);

    let take = format!(r#""op":"remove_allowed_ip","pubkey":"{}","cidr":"10.200.8.0/26""#, key(7));
    ok(&mut client, in_service(&take, "pay")).await;
    assert_eq!(routes(), ["10.200.7.0/26 10.200.141.129"]);
    let remove = format!(r#""op":"remove_peer","pubkey":"{}""#, key(7));
    ok(&mut client, in_service(&remove, "pay")).await;
    assert_eq!(routes(), Vec::<String>::new());
    ok(&mut client, tear_down("pay")).await;
    assert_eq!(refused(&mut client, in_service(&remove, "pay")).await, missing);
}

#[tokio::test]
async fn ports_are_the_lowest_that_are_free_and_come_back() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    // Of another program, and of the global overlay itself.
    daemon.lab.world().taken_ports = vec![51421, 51423];
    bring_up(&mut client, setup(CLUSTER, "10.200.5.0/28", 51422)).await;
    let ports = async |client: &mut Client, service: &str| up(client, service, "dedicated").await.wg_port.unwrap();
    assert_eq!(ports(&mut client, "a").await, 51424);
    assert_eq!(ports(&mut client, "b").await, 51425);
    ok(&mut client, tear_down("a")).await;
    daemon.lab.world().taken_ports.clear();
    assert_eq!(ports(&mut client, "c").await, 51421);
    assert_eq!(ports(&mut client, "d").await, 51423);
    daemon.lab.world().taken_ports = (51421..=51676).collect();
    let message = refused(&mut client, set_up("e", "dedicated")).await;
    assert!(message.starts_with("dedicated-overlay port band exhausted (51421..=51676, 256 ports)"), "{message}");
    daemon.lab.world().taken_ports.clear();
    assert_eq!(ports(&mut client, "e").await, 51424, "the one that failed kept none");
}

#[tokio::test]
async fn a_setup_that_fails_leaves_nothing() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let stored = || {
        let objects =
            |tables: &Tables| tables.iter().filter(|object| object.key().kind != Kind::Seal).cloned().collect();
        daemon.node.kit.store.read::<Vec<_>>(objects)
    };
    let before = (stored(), status(&mut client).await);
    for (mode, fail, text) in [
        ("auto", "ensure_bridge", "overlay engine error: create_bridge(zl-prod-0-pay-b) failed: "),
        ("shared", "ensure_bridge", "overlay engine error: create_bridge(zl-2cd15931d-sh) failed: "),
        ("dedicated", "ensure_bridge", "overlay engine error: create_bridge(zl-prod-0-pay-b) failed: "),
        ("dedicated", "add_address", "overlay engine error: Failed to configure dedicated overlay for pay: "),
        ("dedicated", "set_up", "overlay engine error: Failed to configure dedicated overlay for pay: "),
    ] {
        daemon.lab.world().fail = Some((fail, 0));
        let message = refused(&mut client, set_up("pay", mode)).await;
        assert!(message.starts_with(text), "{message}");
        assert_eq!(bridges(&daemon), []);
        assert_eq!(daemon.lab.world().links.len(), 1, "{mode} {fail}");
        assert_eq!((stored(), status(&mut client).await), before);
    }
    daemon.lab.world().fail_made = 1;
    let message = refused(&mut client, set_up("pay", "dedicated")).await;
    assert!(message.starts_with("overlay engine error: Failed to create dedicated overlay for pay: "), "{message}");
    for (service, text) in [("", "empty"), ("a/b", "'/'"), ("a b", "blanks"), ("__zlayer_shared_bridge__", "itself")] {
        assert!(refused(&mut client, set_up(service, "auto")).await.contains(text), "{service}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_too_small_has_no_services() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, setup("10.200.5.0/26", "10.200.5.0/28", 51420)).await;
    let message = refused(&mut client, set_up("web", "auto")).await;
    assert!(message.contains("too small") && message.contains("/26"), "{message}");
}

#[tokio::test]
async fn a_mode_changes_and_takes_what_the_old_one_made_with_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let key = up(&mut client, "pay", "dedicated").await.wg_public_key;
    assert_eq!(up(&mut client, "pay", "shared").await.name, "zl-2cd15931d-sh");
    assert_eq!(bridges(&daemon), [bridge("zl-2cd15931d-sh", "10.200.90.65/26")]);
    assert_eq!(daemon.lab.world().links.len(), 1);
    up(&mut client, "pay", "auto").await;
    assert_eq!(bridges(&daemon), [bridge("zl-prod-0-pay-b", "10.200.141.129/26")]);
    assert_eq!(up(&mut client, "pay", "dedicated").await.wg_public_key, key, "who it was is remembered");
    ok(&mut client, tear_down("pay")).await;
    assert_ne!(up(&mut client, "pay", "dedicated").await.wg_public_key, key, "until it is torn down");
}

#[tokio::test]
async fn addresses_of_a_service_go_with_it_and_rest() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    up(&mut client, "web", "auto").await;
    let allocate = || ask(r#""op":"allocate_ip","service":"web","join_global":false"#);
    let mut given = Vec::new();
    for _ in 0..3 {
        given.push(client.call(allocate()).await.unwrap());
    }
    ok(&mut client, tear_down("web")).await;
    let leases = daemon.node.kit.store.all::<Lease>();
    assert!(leases.len() == 3 && leases.iter().all(|lease| lease.released_ms.is_some()), "{leases:?}");
    up(&mut client, "web", "auto").await;
    let next = client.call(allocate()).await.unwrap();
    assert!(next == Response::Ip { ip: "10.200.187.133".parse().unwrap() } && !given.contains(&next));
}

#[tokio::test]
async fn a_teardown_of_the_global_overlay_takes_the_services_down_and_the_next_setup_makes_them_really() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    up(&mut client, "web", "auto").await;
    let pay = up(&mut client, "pay", "dedicated").await;
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    assert_eq!(bridges(&daemon), []);
    assert!(daemon.lab.world().links.is_empty());
    let seen = status(&mut client).await;
    assert_eq!(
        (seen.service_count, seen.dedicated_services.len(), seen.overlay_cidr.as_deref()),
        (0, 0, Some(CLUSTER))
    );
    bring_up(&mut client, usual()).await;
    up(&mut client, "web", "auto").await;
    assert_eq!(bridges(&daemon), [bridge("zl-prod-0-web-b", "10.200.187.129/26")]);
    assert_eq!(up(&mut client, "pay", "dedicated").await, pay, "the same key, port and subnet");
}

#[tokio::test]
async fn the_replaced_daemons_record_is_taken_over_and_kept() {
    let dir = Arc::new(TempDir::new());
    let secret = "wDKGH4PVlvRmmWTzQ8ddqJw1wUmwDyVb5Q0ePlkTL2E=";
    let public = ginnel_engine::key::PrivateKey::from_base64(secret).unwrap().public().to_base64();
    let entry = format!(
        r#"{{"owner":"service:pay","kind":"wg-dedicated","name":"zl-prod-0-pay-d","id":"{public}","subnet":"10.200.141.128/26","wg_port":51500,"wg_private_key":"{secret}","wg_public_key":"{public}","interface":"zl-prod-0-pay-d"}}"#
    );
    std::fs::write(dir.join("agent_network.json"), format!(r#"{{"version":1,"networks":[{entry}]}}"#)).unwrap();
    let daemon = Daemon::start_in(dir.clone()).await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    let pay = up(&mut client, "pay", "dedicated").await;
    assert_eq!((pay.wg_public_key, pay.wg_port), (Some(public.clone()), Some(51500)));
    up(&mut client, "job", "dedicated").await;
    let recorded = || {
        let found = Marker::new(dir.path()).load().unwrap();
        found.into_iter().map(|identity| (identity.service, identity.port)).collect::<Vec<_>>()
    };
    assert_eq!(recorded(), [("job".to_owned(), 51421), ("pay".to_owned(), 51500)]);
    ok(&mut client, tear_down("job")).await;
    assert_eq!(recorded(), [("pay".to_owned(), 51500)]);
    // Also when it is not up in this process.
    let again = daemon.kill_and_restart().await;
    let mut client = again.client().await;
    ok(&mut client, Request::TeardownGlobalOverlay).await;
    ok(&mut client, tear_down("pay")).await;
    assert_eq!(recorded(), []);
    assert_eq!(again.node.kit.store.all::<Identity>(), []);
    assert_eq!(again.node.kit.store.all::<Service>(), []);
}

#[tokio::test]
async fn two_hundred_setups_in_progress_hold_up_nobody_else() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, setup("10.0.0.0/8", "10.200.5.0/28", 51420)).await;
    daemon.lab.close_gate();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let node = daemon.node.clone();
        tasks.spawn(async move { node.set_up_service(&format!("s{number}"), OverlayMode::Dedicated).await });
    }
    until("all wait for the kernel", async || daemon.lab.world().made == 201).await;
    // Looking, changes of other objects, and services of another kind: none waits.
    for number in 0..20 {
        let quick = async {
            assert!(status(&mut client).await.interface.is_some());
            ok(&mut client, add(9, "192.0.2.9:9", &format!("10.9.{number}.0/24"))).await;
            client.call(ask(r#""op":"allocate_ip","service":"x","join_global":false"#)).await.map(drop)
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), quick).await.unwrap();
    }
    up(&mut client, "web", "auto").await;
    assert_eq!(tasks.len(), 200);
    assert!(tasks.try_join_next().is_none());
    daemon.lab.open_gate();
    let infos = tasks.join_all().await;
    let mut ports: Vec<_> = infos.into_iter().map(|info| info.unwrap().wg_port.unwrap()).collect();
    ports.sort_unstable();
    assert_eq!(ports, (51421..51621).collect::<Vec<_>>());
    assert_eq!(status(&mut client).await.service_count, 201);
}

#[tokio::test]
async fn changes_of_one_service_keep_their_order() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    bring_up(&mut client, usual()).await;
    daemon.lab.close_gate();
    let node = daemon.node.clone();
    let first = tokio::spawn(async move { node.set_up_service("pay", OverlayMode::Dedicated).await });
    until("it waits for the kernel", async || daemon.lab.world().made == 2).await;
    let node = daemon.node.clone();
    let second = tokio::spawn(async move { node.tear_down_service("pay").await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!second.is_finished());
    daemon.lab.open_gate();
    assert!(first.await.unwrap().is_ok());
    second.await.unwrap().unwrap();
    assert_eq!((bridges(&daemon), daemon.lab.world().links.len()), (vec![], 1));
}

#[tokio::test]
async fn services_of_before_the_first_setup_stay_and_later_ones_follow_the_cluster() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    assert_eq!(up(&mut client, "pre", "auto").await.name, "zl---pre-b");
    let early = bridges(&daemon);
    assert!(early[0].1.starts_with("10.200."), "{early:?}");
    bring_up(&mut client, setup("10.50.0.0/16", "10.50.5.0/28", 51420)).await;
    up(&mut client, "web", "auto").await;
    assert!(bridges(&daemon).iter().any(|(name, gateway)| name == "zl-prod-0-web-b" && gateway.starts_with("10.50.")));
    assert_eq!(up(&mut client, "pre", "auto").await.name, "zl---pre-b");
    // A node is not set onto a service.
    let subnet = daemon.node.kit.store.find::<Bridge>("zl-prod-0-web-b").unwrap().subnet;
    let message = refused(&mut client, setup("10.50.0.0/16", &format!("{}/28", subnet.network()), 51420)).await;
    assert!(message.contains("subnet of a service"), "{message}");
    assert_eq!(status(&mut client).await.slice_cidr.as_deref(), Some("10.50.5.0/28"));
}

/// Whoever adds a peer while its service goes has it added before, or is refused.
#[tokio::test]
async fn a_service_that_is_forgotten_leaves_no_peer_behind() {
    let daemon = Daemon::start().await;
    let (mut client, mut other) = (daemon.client().await, daemon.client().await);
    bring_up(&mut client, usual()).await;
    for byte in 1..30 {
        client.call(ask(r#""op":"setup_service_overlay","service":"pay","mode":"dedicated""#)).await.unwrap();
        let peer = format!(
            r#""op":"add_peer","public_key":"{}","endpoint":"192.0.2.1:1","allowed_ips":"","persistent_keepalive_secs":0,"scope":{{"scope":"service","service":"pay"}}"#,
            key(byte)
        );
        let tear_down = ask(r#""op":"teardown_service_overlay","service":"pay""#);
        let (_, torn_down) = tokio::join!(other.call(ask(&peer)), client.call(tear_down));
        torn_down.unwrap();
        assert!(daemon.node.kit.store.all::<crate::state::Peer>().is_empty(), "{byte}");
    }
}
