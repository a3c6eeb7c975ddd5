//! Workloads of every kind, and troubles at every step of their way in: what fails leaves nothing behind, says why, and
//! succeeds when it is asked for again.

use super::image::{check_leases, check_names_and_guests, disk, kernel, wanted};
use super::*;
use crate::attach::HostEnd;
use crate::ipc::server::{Handler, Order};
use crate::ipc::wire::{Fault, PeerScope};
use crate::node::fake::Trouble;
use crate::state::{Attachment, GlobalOverlay, Lease, Peer, Transaction};
use std::process::{Child, Command, Stdio};

/// A process that stands for a container.
struct Sleeper(Child);

impl Sleeper {
    fn start() -> Self {
        let child = Command::new("sleep").arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap())
    }

    fn handle(&self) -> String {
        format!(r#"{{"platform":"linux_pid","pid":{}}}"#, self.0.id())
    }

    fn end(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const GUEST: &str = r#"{"platform":"guest_managed","id":"vm"}"#;
const SHARED: &str = r#"{"platform":"host_shared","id":"agent"}"#;

fn attach(handle: &str, service: &str, more: &str) -> Request {
    ask(&format!(r#""op":"attach_container","handle":{handle},"service":"{service}","join_global":true{more}"#))
}

fn detach(handle: &str) -> Request {
    ask(&format!(r#""op":"detach_container","handle":{handle}"#))
}

impl Daemon {
    async fn told(&self, request: Request) -> Result<Response, Fault> {
        let order = Order { caller: Default::default(), request, descriptors: Vec::new() };
        match self.node.handle(order).await {
            Response::Err(fault) => Err(fault),
            other => Ok(other),
        }
    }

    async fn with_services() -> Self {
        let daemon = Self::start().await;
        daemon.told(usual()).await.unwrap();
        for (service, mode) in [("web", "auto"), ("job", "isolated"), ("pay", "dedicated")] {
            let set_up = format!(r#""op":"setup_service_overlay","service":"{service}","mode":"{mode}""#);
            daemon.told(ask(&set_up)).await.unwrap();
        }
        daemon
    }

    /// Disk and kernel agree, and so do leases, names and guests.
    fn check(&self) {
        let wanted = self.node.kit.store.read(|tables| wanted(tables, self.node.overlay().public_key()));
        assert_eq!(kernel(&self.lab), wanted);
        check_leases(&self.node);
        check_names_and_guests(&self.node);
    }
}

/// Every kind of workload, with all that can be asked for it.
fn kinds(container: &Sleeper) -> Vec<(&'static str, String, &'static str, &'static str)> {
    let here = r#"{"platform":"linux_netns","id":"here"}"#.to_owned();
    let all =
        r#","dns_server":null,"dns_domain":"lab","publish":[{"host_port":8080,"container_port":80}],"owner":null"#;
    let resolving = r#","resolv_conf":true,"dns_server":"10.9.9.9","dns_domain":"lab""#;
    let fenced = r#","isolation_network":"red""#;
    vec![
        ("a container", container.handle(), "web", all),
        ("a container whose resolver is set", container.handle(), "web", resolving),
        ("a fenced container", container.handle(), "job", fenced),
        ("a container of a dedicated service", container.handle(), "pay", all),
        ("a namespace", here, "web", r#","netns":"/proc/self/ns/net""#),
        ("a guest", GUEST.to_owned(), "web", fenced),
        ("a guest of a dedicated service", GUEST.to_owned(), "pay", ""),
        ("a program of the host", SHARED.to_owned(), "web", fenced),
    ]
}

#[tokio::test]
async fn whatever_fails_on_the_way_leaves_nothing_behind_and_a_repeat_succeeds() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    for (what, handle, service, more) in kinds(&container) {
        let request = || attach(&handle, service, more);
        // What is seen to once, with the first of all, is not one of the steps.
        daemon.told(request()).await.unwrap();
        daemon.told(detach(&handle)).await.unwrap();
        let before = (disk(&daemon.node), kernel(&daemon.lab));
        daemon.lab.world().calls.clear();
        daemon.told(request()).await.unwrap();
        let calls = daemon.lab.world().calls.clone();
        daemon.check();
        daemon.told(detach(&handle)).await.unwrap();
        assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), before, "{what}");
        assert!(calls.len() >= 2, "{what}: {calls:?}");
        for (step, call) in calls.iter().enumerate() {
            for trouble in [Trouble::Refused, Trouble::DoneAndRefused] {
                daemon.lab.world().troubles.insert(step, trouble);
                let fault = daemon.told(request()).await.expect_err(what);
                let text = &fault.message;
                let reasons = ["told to fail", "others change the ruleset", "CAP_NET_ADMIN"];
                assert!(reasons.iter().any(|reason| text.contains(reason)), "{what}, {call}: {text}");
                assert!(text.starts_with("overlay engine error: "), "{what}, {call}: {text}");
                assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), before, "{what}: {trouble:?} at {step}, {call}");
                daemon.check();
                // Nothing is in the way of the next.
                daemon.told(request()).await.unwrap();
                daemon.check();
                // What stands is not touched by a repeat that fails.
                let stands = (disk(&daemon.node), kernel(&daemon.lab));
                daemon.lab.world().troubles.insert(step, trouble);
                let _ = daemon.told(request()).await;
                daemon.lab.world().troubles.clear();
                assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), stands, "{what}: repeat, {trouble:?} at {call}");
                daemon.told(detach(&handle)).await.unwrap();
                assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), before, "{what}");
            }
        }
    }
}

/// The kernel drops routes whose source is an address that went, and takes none from an address that is not there.
#[tokio::test]
async fn a_container_on_the_global_overlay_keeps_its_link_while_that_is_down_and_has_its_route_when_it_is_back() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    daemon.told(attach(&container.handle(), "web", "")).await.unwrap();
    let sources = |daemon: &Daemon| -> Vec<_> {
        let world = daemon.lab.world();
        let routes = world.veths.values().filter_map(|(_, link)| match &link.host {
            HostEnd::Routed { routes } => Some(routes.iter().map(|route| route.source.is_some())),
            HostEnd::Port { .. } => None,
        });
        routes.flatten().collect()
    };
    assert_eq!(sources(&daemon), [true]);
    // As a teardown leaves it that was killed before it came to the services.
    let record = daemon.node.kit.store.find::<GlobalOverlay>("").unwrap();
    daemon.node.kit.commit(Transaction::new().put(GlobalOverlay { up: false, ..record })).await.unwrap();
    let daemon = daemon.kill_and_restart().await;
    daemon.check();
    assert_eq!(sources(&daemon), [false]);
    daemon.told(usual()).await.unwrap();
    daemon.check();
    assert_eq!(sources(&daemon), [true]);
    // One that comes back by itself brings the route with it.
    daemon.lab.world().calls.clear();
    daemon.lab.delete_link(NAME);
    until("it is wired again", async || daemon.lab.world().calls.iter().any(|call| call.starts_with("attach"))).await;
    assert_eq!(sources(&daemon), [true]);
    // The setup told of it, and so does this.
    let is_up = |event: &Event| matches!(event, Event::OverlayUp { scope: PeerScope::Global, .. });
    assert_eq!(daemon.heard().iter().filter(|event| is_up(event)).count(), 2);
}

#[tokio::test]
async fn a_name_that_others_have_is_an_error_and_stays_theirs() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    let veth = format!("veth-{}-s", container.0.id());
    let before = (disk(&daemon.node), kernel(&daemon.lab));
    daemon.lab.world().foreign.insert(veth.clone());
    let fault = daemon.told(attach(&container.handle(), "web", "")).await.unwrap_err();
    assert!(fault.message.contains(&veth) && fault.message.contains("left alone"), "{fault:?}");
    assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), before);
    assert!(daemon.lab.world().foreign.remove(&veth));
    daemon.told(attach(&container.handle(), "web", "")).await.unwrap();
    daemon.check();
}

#[tokio::test]
async fn a_port_of_the_host_leads_to_one_workload() {
    let daemon = Daemon::with_services().await;
    let [one, other] = [Sleeper::start(), Sleeper::start()];
    let port = r#","publish":[{"host_port":8080,"container_port":80}]"#;
    daemon.told(attach(&one.handle(), "web", port)).await.unwrap();
    let standing = (disk(&daemon.node), kernel(&daemon.lab));
    for handle in [&other.handle(), GUEST, SHARED] {
        let fault = daemon.told(attach(handle, "web", port)).await.unwrap_err();
        assert!(fault.message.contains("8080") && fault.message.contains("linux_pid"), "{fault:?}");
        assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), standing, "the port stays with who has it");
    }
    // Both at once: one of them.
    daemon.told(detach(&one.handle())).await.unwrap();
    let (first, second) = tokio::join!(
        daemon.told(attach(&one.handle(), "web", port)),
        daemon.told(attach(&other.handle(), "web", port))
    );
    assert!(first.is_ok() ^ second.is_ok(), "{first:?} {second:?}");
    daemon.check();
}

#[tokio::test]
async fn a_detach_succeeds_whatever_the_kernel_refuses_and_what_is_left_goes_later() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    tokio::time::pause();
    for (what, handle, service, more) in kinds(&container) {
        let before = (disk(&daemon.node), kernel(&daemon.lab));
        for step in 0..2 {
            daemon.told(attach(&handle, service, more)).await.unwrap();
            daemon.lab.world().troubles.insert(step, Trouble::Refused);
            daemon.told(detach(&handle)).await.unwrap();
            daemon.lab.world().troubles.clear();
            assert_eq!(disk(&daemon.node), before.0, "{what}");
            tokio::time::sleep(Duration::from_secs(40)).await;
            assert_eq!(kernel(&daemon.lab), before.1, "{what}, {step}");
        }
    }
}

#[tokio::test]
async fn a_guest_that_leaves_while_its_overlay_is_down_is_no_peer_of_the_next() {
    let daemon = Daemon::with_services().await;
    daemon.told(attach(GUEST, "vms", "")).await.unwrap();
    daemon.told(attach(SHARED, "agents", "")).await.unwrap();
    daemon.told(Request::TeardownGlobalOverlay).await.unwrap();
    daemon.check();
    daemon.told(usual()).await.unwrap();
    daemon.check();
    assert_eq!(daemon.node.kit.store.all::<Peer>().len(), 1, "it is a peer still");
    daemon.told(Request::TeardownGlobalOverlay).await.unwrap();
    daemon.told(detach(GUEST)).await.unwrap();
    daemon.told(usual()).await.unwrap();
    daemon.check();
    assert_eq!(daemon.node.kit.store.all::<Peer>(), []);
    // One that belongs to a service goes with it, peer and all.
    daemon.told(ask(r#""op":"setup_service_overlay","service":"web","mode":"auto""#)).await.unwrap();
    daemon.told(attach(GUEST, "web", "")).await.unwrap();
    daemon.told(Request::TeardownGlobalOverlay).await.unwrap();
    assert_eq!(daemon.node.kit.store.all::<Peer>(), []);
}

#[tokio::test]
async fn the_address_of_a_program_of_the_host_comes_back_with_the_interface() {
    let daemon = Daemon::with_services().await;
    daemon.told(attach(SHARED, "agents", "")).await.unwrap();
    daemon.lab.delete_link(NAME);
    until("it is back", async || daemon.node.overlay().live().is_some() && daemon.lab.world().links.contains_key(NAME))
        .await;
    until("its addresses are", async || kernel(&daemon.lab).len() > 1 && addresses(&daemon).len() == 2).await;
    daemon.check();
}

#[tokio::test]
async fn a_resolver_is_set_on_request_only_and_where_there_is_one() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    let handle = container.handle();
    let text = || daemon.lab.world().resolv_confs.get(&container.0.id()).cloned();
    daemon.told(attach(&handle, "web", r#","dns_server":"10.9.9.9","dns_domain":"lab""#)).await.unwrap();
    assert_eq!(text(), None);
    // A repeat that asks for it is enough.
    let asking = r#","resolv_conf":true,"dns_server":"10.9.9.9","dns_domain":"lab""#;
    daemon.told(attach(&handle, "web", asking)).await.unwrap();
    let written = text().unwrap();
    assert!(written.ends_with("\nnameserver 10.9.9.9\nsearch lab\n"), "{written}");
    daemon.told(detach(&handle)).await.unwrap();
    let refusals = [
        // This node has no name server.
        (handle.as_str(), r#","resolv_conf":true"#, "name one as dns_server"),
        (GUEST, asking, "attach it by linux_pid"),
        (&handle, r#","resolv_conf":true,"dns_server":"10.9.9.9","dns_domain":"lab\noptions x""#, "one word"),
    ];
    let before = (disk(&daemon.node), kernel(&daemon.lab));
    for (handle, more, why) in refusals {
        let fault = daemon.told(attach(handle, "web", more)).await.unwrap_err();
        assert!(fault.message.contains(why), "{}", fault.message);
        assert_eq!((disk(&daemon.node), kernel(&daemon.lab)), before);
    }
}

#[tokio::test]
async fn who_tells_everything_need_not_tell_what_belongs_to_workloads() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    daemon.told(attach(&container.handle(), "web", r#","dns_domain":"lab""#)).await.unwrap();
    daemon.told(attach(GUEST, "web", "")).await.unwrap();
    daemon.told(ask(r#""op":"register_dns","name":"web.lab","ip":"10.9.9.9""#)).await.unwrap();
    let gc = crate::ipc::wire::Gc {
        keep: [crate::ipc::wire::ObjectKind::Peers, crate::ipc::wire::ObjectKind::Dns]
            .into_iter()
            .map(|kind| (kind, Vec::new()))
            .collect(),
    };
    daemon.node.retain(&crate::ipc::sync::Keep::listed(gc).unwrap()).await.unwrap();
    daemon.check();
    let names = daemon.node.kit.store.all::<crate::state::Name>();
    assert_eq!(names[0].addresses.len(), 1, "what somebody registered beside is gone: {names:?}");
}

#[tokio::test]
async fn an_owner_that_asks_twice_at_once_has_one_address() {
    let daemon = Daemon::with_services().await;
    let request = || ask(r#""op":"allocate_ip","service":"web","join_global":false,"owner":"x""#);
    let answers = tokio::join!(daemon.told(request()), daemon.told(request()), daemon.told(request()));
    assert_eq!((&answers.0, &answers.1), (&answers.1, &answers.2));
    assert_eq!(daemon.node.kit.store.all::<Lease>().len(), 1);
}

#[tokio::test]
async fn what_could_not_be_brought_up_at_start_is_tried_again() {
    let daemon = Daemon::with_services().await;
    let container = Sleeper::start();
    daemon.told(attach(&container.handle(), "web", "")).await.unwrap();
    daemon.told(attach(SHARED, "agents", "")).await.unwrap();
    daemon.told(attach(GUEST, "web", "")).await.unwrap();
    daemon.lab.world().bridges.clear();
    daemon.lab.world().veths.clear();
    // Everything of the next start fails.
    daemon.lab.world().troubles.extend((0..200).map(|call| (call, Trouble::Refused)));
    let daemon = daemon.kill_and_restart().await;
    daemon.lab.world().troubles.clear();
    assert!(daemon.lab.world().bridges.is_empty() && daemon.lab.world().veths.is_empty());
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(100)).await;
    daemon.check();
    assert_eq!(daemon.lab.world().veths.len(), 2);
}

#[tokio::test]
async fn a_container_that_ended_while_nobody_watched_takes_its_service_with_it_if_it_was_the_last() {
    let daemon = Daemon::with_services().await;
    let mut container = Sleeper::start();
    daemon.told(attach(&container.handle(), "web", r#","ephemeral":true"#)).await.unwrap();
    let lab = daemon.lab.clone();
    container.end();
    let daemon = daemon.kill_and_restart().await;
    assert_eq!(daemon.node.kit.store.all::<Attachment>(), []);
    assert!(daemon.node.kit.store.find::<crate::state::Service>("web").is_none());
    assert!(lab.world().veths.is_empty());
    daemon.check();
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_goes_does_not_come_back_with_a_device_that_was_removed_meanwhile() {
    for (step, service) in [(0, "pay"), (1, "pay"), (0, "web"), (1, "web")] {
        let daemon = Daemon::with_services().await;
        daemon.told(attach(GUEST, service, "")).await.unwrap();
        daemon.lab.world().troubles.insert(step, Trouble::Removed);
        daemon.told(detach(GUEST)).await.unwrap();
        daemon.lab.world().troubles.clear();
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(70)).await;
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(daemon.node.kit.store.all::<Peer>(), [], "{service}, {step}");
        daemon.check();
    }
}
