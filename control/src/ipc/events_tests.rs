use super::*;
use crate::ipc::wire::ObjectKind;
use proptest::prelude::*;

fn event(number: u64, healthy: bool) -> Event {
    if healthy {
        Event::PeerHealthChanged { pubkey: number.to_string(), healthy }
    } else {
        Event::NatEndpointChanged { pubkey: number.to_string(), endpoint: "e".into() }
    }
}

fn pubkey(event: &Event) -> u64 {
    match event {
        Event::PeerHealthChanged { pubkey, .. } | Event::NatEndpointChanged { pubkey, .. } => pubkey.parse().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn wanted(kinds: &[EventKind], after: Option<&str>) -> Subscribe {
    Subscribe { kinds: kinds.to_vec(), after: after.map(str::to_owned) }
}

#[test]
fn kinds_are_numbered_in_their_order() {
    for (at, kind) in EventKind::ALL.into_iter().enumerate() {
        assert_eq!(number(kind), at);
        assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
    }
}

#[tokio::test]
async fn a_subscriber_hears_its_kinds_from_here_on_and_wakes_for_them() {
    let hub = EventHub::default();
    hub.publish(event(1, true));
    let (mut some, subscribed) = hub.subscribe(&wanted(&[EventKind::PeerHealthChanged], None));
    assert_eq!((subscribed.complete, subscribed.lost), (true, 0));
    assert!(some.poll().is_none());
    let waiting = tokio::spawn(async move { some.next().await });
    tokio::task::yield_now().await;
    hub.publish(event(2, false));
    hub.publish(event(3, true));
    assert_eq!(pubkey(&waiting.await.unwrap().event), 3);
}

#[test]
fn a_cursor_goes_on_where_it_was_and_tells_when_it_cannot() {
    let hub = EventHub::new(3);
    let (mut first, _) = hub.subscribe(&wanted(&[], None));
    hub.publish(event(1, true));
    hub.publish(event(2, true));
    let seen = first.poll().unwrap();
    let (mut again, subscribed) = hub.subscribe(&wanted(&[], seen.cursor.as_deref()));
    assert!(subscribed.complete && subscribed.cursor == seen.cursor.clone().unwrap());
    assert_eq!(pubkey(&again.poll().unwrap().event), 2);
    (3..=5).for_each(|at| hub.publish(event(at, true)));
    // 1 and 2 are forgotten, and 2 was behind the cursor.
    let (mut late, subscribed) = hub.subscribe(&wanted(&[], seen.cursor.as_deref()));
    assert_eq!((subscribed.complete, subscribed.lost), (false, 1));
    assert_eq!(pubkey(&late.poll().unwrap().event), 3);
    for foreign in ["00000000-1", "", "x", "-", "00000000-99999999999999999999"] {
        let (mut all, subscribed) = hub.subscribe(&wanted(&[], Some(foreign)));
        assert_eq!((subscribed.complete, subscribed.lost), (false, 0), "{foreign:?}");
        assert_eq!(pubkey(&all.poll().unwrap().event), 3);
    }
    // A cursor of this ring that lies ahead of it is none of its own.
    let ahead = format!("{}-{}", seen.cursor.unwrap().split_once('-').unwrap().0, u64::MAX);
    assert!(!hub.subscribe(&wanted(&[], Some(&ahead))).1.complete);
}

#[test]
fn pages_of_events_follow_their_cursors() {
    let hub = EventHub::new(10);
    (1..=15).for_each(|at| hub.publish(event(at, true)));
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (records, next) = hub.page(&ListQuery { kind: ObjectKind::Events, after, limit: Some(4) });
        seen.extend(records.iter().map(|record| pubkey(&record.event)));
        after = next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (6..=15).collect::<Vec<_>>());
}

#[test]
fn what_is_no_event_of_a_kind_is_not_published() {
    let hub = EventHub::default();
    let (mut all, _) = hub.subscribe(&wanted(&[], None));
    hub.publish(Event::EventsLost { count: 1 });
    assert!(all.poll().is_none());
}

proptest! {
    /// Against a subscriber that remembers everything: what arrives is in order, of the right kinds, and together with what
    /// is told to be lost it is all there was.
    #[test]
    fn nothing_is_lost_untold(
        kept in 1_usize..6,
        steps in proptest::collection::vec((any::<bool>(), 0_usize..4), 0..80),
        both in any::<bool>(),
    ) {
        let hub = EventHub::new(kept);
        let kinds: &[EventKind] = if both { &[] } else { &[EventKind::PeerHealthChanged] };
        let (mut subscription, _) = hub.subscribe(&wanted(kinds, None));
        let (mut expected, mut seen, mut lost, mut published) = (Vec::new(), Vec::new(), 0, 0);
        let mut take = |subscription: &mut Subscription, most: usize| {
            for _ in 0..most {
                match subscription.poll().map(|record| record.event) {
                    None => break,
                    Some(Event::EventsLost { count }) => lost += count,
                    Some(event) => seen.push(pubkey(&event)),
                }
            }
        };
        for (healthy, reads) in steps {
            published += 1;
            hub.publish(event(published, healthy));
            if both || healthy {
                expected.push(published);
            }
            take(&mut subscription, reads);
        }
        take(&mut subscription, usize::MAX);
        prop_assert!(seen.is_sorted());
        prop_assert!(seen.iter().all(|number| expected.contains(number)));
        prop_assert_eq!(seen.len() as u64 + lost, expected.len() as u64);
    }
}
