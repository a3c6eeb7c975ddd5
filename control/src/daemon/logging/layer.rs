//! From tracing to the queue: an event that may be written becomes a record there.

use super::limit::Limiter;
use super::record::{Fields, Record};
use super::writer::Queue;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

pub(super) struct LogLayer {
    limiter: Arc<Limiter>,
    queue: Queue,
}

impl LogLayer {
    pub(super) fn new(limiter: Arc<Limiter>, queue: Queue) -> Self {
        Self { limiter, queue }
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let place = event.metadata();
        let Some(suppressed) = self.limiter.admit(place, Instant::now()) else { return };
        let mut fields = Fields::default();
        event.record(&mut fields);
        if suppressed > 0 {
            fields.fields.push(("suppressed", suppressed.into()));
        }
        let Fields { message, fields } = fields;
        let (time, level, target) = (SystemTime::now(), *place.level(), place.target());
        self.queue.put(Record { time, level, target, message, fields });
    }
}

#[cfg(test)]
mod tests {
    use super::super::writer::tests::collect;
    use super::*;
    use tracing_subscriber::Registry;
    use tracing_subscriber::layer::SubscriberExt;

    #[test]
    fn events_become_records_and_too_many_a_number() {
        let (queue, records) = collect();
        let limiter = Arc::new(Limiter::default());
        let subscriber = Registry::default().with(LogLayer::new(limiter.clone(), queue));
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(op = "x", uid = Some(7), none = None::<u32>, error = %"text", "said {}", 1);
            for number in 0..100 {
                tracing::info!(number, "again");
                tracing::debug!(number, "and again");
            }
        });
        let records = records();
        let first = &records[0];
        assert_eq!((first.message.as_str(), first.level), ("said 1", tracing::Level::WARN));
        let fields = [("op", "x".into()), ("uid", 7.into()), ("error", "text".into())];
        assert_eq!(first.fields, fields);
        let said = |message: &str| records.iter().filter(|record| record.message == message).count();
        assert_eq!((said("again"), said("and again")), (60, 100));
        assert!(limiter.remainders(Instant::now()).is_empty(), "the window is not over");
        let later = limiter.remainders(Instant::now() + std::time::Duration::from_secs(11));
        assert_eq!((later.len(), later[0].lines), (1, 40));
    }
}
