//! The operations that are the daemon's own, over a socket; and who may ask for what.

use super::*;
use crate::ipc::wire::{BeginSync, FEATURES, Gc, SyncEnded};

fn register(name: &str) -> Request {
    Request::RegisterDns { name: name.into(), ip: "10.0.0.1".parse().unwrap() }
}

fn begin(epoch: u64) -> Request {
    Request::BeginSync(BeginSync { epoch, kinds: vec![ObjectKind::Dns] })
}

fn dns(after: Option<&str>, limit: u32) -> Request {
    let after = after.map(str::to_owned);
    Request::List(ListQuery { kind: ObjectKind::Dns, after, limit: Some(limit) })
}

async fn names(client: &mut Client) -> Vec<String> {
    match client.call(dns(None, 1000)).await.unwrap() {
        Response::List(ListPage { objects: Objects::Dns(items), next: None }) => {
            items.into_iter().map(|item| item.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn gone(names: &[&str]) -> Vec<ObjectName> {
    names.iter().map(|name| ObjectName { kind: ObjectKind::Dns, key: (*name).into() }).collect()
}

async fn fault(client: &mut Client, request: Request) -> Fault {
    match client.ask(request).await.unwrap() {
        Response::Err(fault) => fault,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hello_tells_what_there_is() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    for _ in 0..2 {
        let Response::Hello(hello) = client.call(Request::Hello { client: Some("test/1".into()) }).await.unwrap()
        else {
            panic!("no hello")
        };
        assert_eq!((hello.protocol, hello.boot_id.as_str()), (1, "boot"));
        assert_eq!(
            (hello.features, hello.roles),
            (FEATURES.iter().map(ToString::to_string).collect(), Role::ALL.into())
        );
    }
}

#[tokio::test]
async fn a_sync_removes_what_nobody_named_and_survives_its_connection() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    for name in ["a", "b", "c"] {
        client.call(register(name)).await.unwrap();
    }
    client.call(begin(5)).await.unwrap();
    client.call(register("b")).await.unwrap();
    drop(client);
    let mut again = Client::connect(&path).await.unwrap();
    let mut other = Client::connect(&path).await.unwrap();
    assert_eq!(again.call(begin(5)).await.unwrap(), Response::SyncBegun { epoch: 5 });
    other.call(register("d")).await.unwrap();
    assert_eq!(names(&mut other).await, ["a", "b", "c", "d"], "removed before the end");
    let ended = Response::SyncEnded(SyncEnded { epoch: 5, removed: gone(&["a", "c"]).into() });
    // The answer may be lost and asked for again; what came in between stays.
    assert_eq!(again.call(Request::EndSync { epoch: 5 }).await.unwrap(), ended);
    other.call(register("e")).await.unwrap();
    assert_eq!(again.call(Request::EndSync { epoch: 5 }).await.unwrap(), ended);
    assert_eq!(names(&mut other).await, ["b", "d", "e"]);
    let Response::Status(status) = other.call(Request::Status).await.unwrap() else { panic!("no status") };
    assert_eq!(status.epoch, Some(5));
}

#[tokio::test]
async fn an_abandoned_sync_changes_nothing() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    client.call(register("a")).await.unwrap();
    client.call(begin(1)).await.unwrap();
    client.call(begin(2)).await.unwrap();
    assert_eq!(fault(&mut client, Request::EndSync { epoch: 1 }).await.code, Some(ErrorCode::Conflict));
    assert_eq!(fault(&mut client, Request::EndSync { epoch: 9 }).await.code, Some(ErrorCode::Conflict));
    assert_eq!(names(&mut client).await, ["a"]);
}

#[tokio::test]
async fn gc_keeps_what_is_listed() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    for name in ["a", "b"] {
        client.call(register(name)).await.unwrap();
    }
    let gc = |keep: &[&str]| {
        Request::Gc(Gc { keep: [(ObjectKind::Dns, keep.iter().map(ToString::to_string).collect())].into() })
    };
    assert_eq!(client.call(gc(&["b", "not there"])).await.unwrap(), Response::Collected(gone(&["a"]).into()));
    assert_eq!(client.call(gc(&["b"])).await.unwrap(), Response::Collected(Vec::new().into()));
    assert_eq!(names(&mut client).await, ["b"]);
    let nothing = Request::Gc(Gc { keep: [(ObjectKind::Peers, Vec::new())].into() });
    client.call(nothing).await.unwrap();
    assert_eq!(names(&mut client).await, ["b"], "a kind that was not mentioned was touched");
    let wrong = Request::Gc(Gc { keep: [(ObjectKind::Offloads, Vec::new())].into() });
    assert_eq!(fault(&mut client, wrong).await.code, Some(ErrorCode::InvalidArgument));
}

#[tokio::test]
async fn lists_come_in_pages() {
    let (_dir, path, _task) = start(QUICK).await;
    let mut client = Client::connect(&path).await.unwrap();
    for number in 0..25 {
        client.call(register(&format!("{number:02}"))).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let Response::List(page) = client.call(dns(after.as_deref(), 10)).await.unwrap() else { panic!("no page") };
        let Objects::Dns(items) = page.objects else { panic!("of another kind") };
        seen.extend(items.into_iter().map(|item| item.name));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..25).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    let leases = ListQuery { kind: ObjectKind::Leases, after: Some("x".into()), limit: None };
    assert_eq!(fault(&mut client, Request::List(leases)).await.code, Some(ErrorCode::InvalidArgument));
}

#[tokio::test]
async fn roles_decide_and_change_for_open_connections() {
    let dir = TempDir::new();
    let path = dir.join("s");
    let socket = BoundSocket::bind(&path, None).unwrap();
    let me = vec![Principal::User(nix::unistd::geteuid().as_raw())];
    let settings = Live::new(ServerSettings { limits: QUICK, policy: Policy::default() });
    let (hub, board) = (EventHub::default(), HealthBoard::default());
    let server = Server::new(Arc::new(Actor::default()), settings.clone(), hub, board, Stop::default());
    tokio::spawn(async move { server.serve(&socket).await });
    let mut client = Client::connect(&path).await.unwrap();
    let [read, attach, admin] = [Request::Status, register("a"), begin(1)];
    let policies = [
        (Policy::default(), 0),
        (Policy { read: me.clone(), ..Policy::default() }, 1),
        (Policy { attach: me.clone(), ..Policy::default() }, 2),
        (Policy { admin: me, ..Policy::default() }, 3),
    ];
    for (policy, allowed) in policies {
        settings.store(ServerSettings { limits: QUICK, policy });
        for (at, request) in [&read, &attach, &admin].into_iter().enumerate() {
            let answer = client.ask(request.clone()).await.unwrap();
            let forbidden = matches!(&answer, Response::Err(fault) if fault.code == Some(ErrorCode::Forbidden));
            assert_eq!(forbidden, at >= allowed, "{} with {allowed} roles: {answer:?}", request.op());
        }
        let Response::Hello(hello) = client.call(Request::Hello { client: None }).await.unwrap() else {
            panic!("no hello")
        };
        assert_eq!(hello.roles, Role::ALL[..allowed]);
    }
}

#[tokio::test]
async fn the_server_shows_that_it_turns() {
    let dir = TempDir::new();
    let socket = BoundSocket::bind(&dir.join("s"), None).unwrap();
    let (hub, board) = (EventHub::default(), HealthBoard::default());
    let server = Server::new(Arc::new(Actor::default()), Live::default(), hub, board, Stop::default());
    let probe = server.probe();
    assert!(timeout(Duration::from_millis(50), probe.turned()).await.is_err(), "it does not run yet");
    tokio::spawn(async move { server.serve(&socket).await });
    for _ in 0..3 {
        timeout(Duration::from_secs(20), probe.turned()).await.unwrap();
    }
}
