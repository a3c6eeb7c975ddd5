//! Events over a socket: to subscribers only, in order, and never at the cost of others.

use super::*;
use crate::ipc::frame::{encode, read_body, read_length};
use crate::ipc::wire::{Event, EventKind, EventRecord, Frame, Subscribe, Subscribed, decode};

async fn start_with(hub: &EventHub) -> (TempDir, PathBuf) {
    let dir = TempDir::new();
    let path = dir.join("s");
    let socket = BoundSocket::bind(&path, None).unwrap();
    let policy = Policy { admin: vec![Principal::User(nix::unistd::geteuid().as_raw())], ..Policy::default() };
    let settings = Live::new(ServerSettings { limits: QUICK, policy });
    let handler = Arc::new(Actor::default());
    let server = Server::new(handler, settings, hub.clone(), HealthBoard::default(), Stop::default());
    tokio::spawn(async move { server.serve(&socket).await });
    (dir, path)
}

/// A client that looks at every frame.
struct Raw(UnixStream);

impl Raw {
    async fn connect(path: &Path) -> Self {
        Self(UnixStream::connect(path).await.unwrap())
    }

    async fn send(&mut self, id: u64, request: Request) {
        self.0.write_all(&encode(&Frame::Request { id, request }).unwrap()).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        let read = async {
            let length = read_length(&mut self.0).await.unwrap().unwrap();
            decode(&read_body(&mut self.0, length).await.unwrap()).unwrap()
        };
        timeout(Duration::from_secs(20), read).await.unwrap()
    }

    async fn event(&mut self) -> EventRecord {
        match self.frame().await {
            Frame::Event(record) => record,
            other => panic!("{other:?}"),
        }
    }

    async fn answer(&mut self) -> Response {
        match self.frame().await {
            Frame::Response { response, .. } => response,
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe(&mut self, kinds: &[EventKind], after: Option<String>) -> Subscribed {
        self.send(1, Request::Subscribe(Subscribe { kinds: kinds.to_vec(), after })).await;
        match self.answer().await {
            Response::Subscribed(subscribed) => subscribed,
            other => panic!("{other:?}"),
        }
    }
}

fn healthy(number: u64) -> Event {
    Event::PeerHealthChanged { pubkey: number.to_string(), healthy: true }
}

fn moved() -> Event {
    Event::NatEndpointChanged { pubkey: "k".into(), endpoint: "192.0.2.1:1".into() }
}

#[tokio::test]
async fn events_come_to_subscribers_of_their_kind_and_to_nobody_else() {
    let hub = EventHub::default();
    let (_dir, path) = start_with(&hub).await;
    let (mut all, mut some, mut none) =
        (Raw::connect(&path).await, Raw::connect(&path).await, Raw::connect(&path).await);
    all.subscribe(&[], None).await;
    some.subscribe(&[EventKind::NatEndpointChanged], None).await;
    hub.publish(healthy(1));
    hub.publish(moved());
    assert_eq!([all.event().await.event, all.event().await.event], [healthy(1), moved()]);
    assert_eq!(some.event().await.event, moved());
    // An answer is the first that comes to who did not subscribe, and to who did no longer.
    none.send(5, Request::Status).await;
    assert!(matches!(none.answer().await, Response::Status(_)));
    some.send(6, Request::Unsubscribe).await;
    assert_eq!(some.answer().await, Response::Ok);
    hub.publish(moved());
    some.send(7, Request::Status).await;
    assert!(matches!(some.answer().await, Response::Status(_)));
}

#[tokio::test]
async fn events_come_while_a_request_is_carried_out_and_between_answers() {
    let hub = EventHub::default();
    let (_dir, path) = start_with(&hub).await;
    let mut client = Raw::connect(&path).await;
    client.subscribe(&[], None).await;
    client.send(2, named("slow")).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    hub.publish(healthy(1));
    assert_eq!(client.event().await.event, healthy(1));
    assert_eq!(client.answer().await, Response::Ok);
    // The published client has a reader that skips events while it waits.
    let mut published = Client::connect(&path).await.unwrap();
    published.call(Request::Subscribe(Subscribe::default())).await.unwrap();
    for number in 0..100 {
        hub.publish(healthy(number));
    }
    assert!(matches!(published.call(Request::Status).await.unwrap(), Response::Status(_)));
}

#[tokio::test]
async fn a_subscription_goes_on_from_a_cursor_and_another_takes_its_place() {
    let hub = EventHub::default();
    let (_dir, path) = start_with(&hub).await;
    let mut first = Raw::connect(&path).await;
    let begun = first.subscribe(&[], None).await;
    hub.publish(healthy(1));
    hub.publish(healthy(2));
    let seen = first.event().await;
    drop(first);
    let mut again = Raw::connect(&path).await;
    let subscribed = again.subscribe(&[], seen.cursor.clone()).await;
    assert_eq!((subscribed.complete, subscribed.lost, Some(subscribed.cursor)), (true, 0, seen.cursor));
    assert_eq!(again.event().await.event, healthy(2));
    let repeated = again.subscribe(&[], Some(begun.cursor)).await;
    assert!(repeated.complete);
    assert_eq!([again.event().await.event, again.event().await.event], [healthy(1), healthy(2)]);
}

#[tokio::test]
async fn who_does_not_read_loses_events_with_a_count_and_holds_up_nobody() {
    let hub = EventHub::new(64);
    let (_dir, path) = start_with(&hub).await;
    let mut deaf = Raw::connect(&path).await;
    deaf.subscribe(&[], None).await;
    let mut watcher = Raw::connect(&path).await;
    watcher.subscribe(&[], None).await;
    // More than the ring and the buffers of a socket hold together, longer than a frame may take.
    let published = 6_000;
    for number in 0..published {
        hub.publish(healthy(number));
        if number % 16 == 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if number % 1_000 == 0 {
            works(&path).await;
        }
    }
    tokio::time::sleep(2 * QUICK.frame_time).await;
    for reader in [&mut deaf, &mut watcher] {
        let (mut heard, mut lost) = (0, 0);
        while heard + lost < published {
            match reader.event().await.event {
                Event::EventsLost { count } => lost += count,
                event => {
                    assert_eq!(event, healthy(heard + lost));
                    heard += 1;
                }
            }
        }
        assert!(lost > 0 && heard > 0, "{heard} heard, {lost} lost");
    }
}
