//! What upstreams answered, for as long as they said. Bounded: where it is full, the oldest goes.

use super::answer::Asked;
use super::config::{CACHED_BYTES_MAX, CACHED_FAILURE_SECS, CACHED_MAX, CACHED_NEGATIVE_SECS_MAX, CACHED_SECS_MAX};
use super::name::NameKey;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What makes two questions one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey {
    name: Arc<[u8]>,
    kind: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl CacheKey {
    pub(super) fn of(asked: &Asked) -> Self {
        Self {
            name: Arc::from(&*NameKey::of(asked.query.name())),
            kind: asked.query.query_type().into(),
            dnssec_ok: asked.dnssec_ok,
            checking_disabled: asked.header.checking_disabled,
        }
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }
}

/// What an upstream answered.
pub(super) struct Answer {
    code: ResponseCode,
    authentic: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    came: Instant,
    lasts: Duration,
    bytes: usize,
}

impl Answer {
    /// Out of a message of `bytes` bytes.
    pub(super) fn of(message: Message, bytes: usize, came: Instant) -> Self {
        let lasts = Duration::from_secs(lifetime(&message).into());
        let code = message.metadata.response_code;
        let authentic = message.metadata.authentic_data;
        let Message { answers, authorities, additionals, .. } = message;
        Self { code, authentic, answers, authorities, additionals, came, lasts, bytes }
    }

    /// That there was none.
    pub(super) fn failure(came: Instant) -> Self {
        let message = Message::error_msg(0, hickory_proto::op::OpCode::Query, ResponseCode::ServFail);
        Self { lasts: Duration::from_secs(CACHED_FAILURE_SECS.into()), ..Self::of(message, 0, came) }
    }

    pub(super) fn is_failure(&self) -> bool {
        self.code == ResponseCode::ServFail
    }

    /// For somebody who asks at `now`: what is left of the times.
    pub(super) fn message(&self, asked: &Asked, now: Instant) -> Message {
        let age = now.saturating_duration_since(self.came).as_secs().try_into().unwrap_or(u32::MAX);
        let aged = |records: &[Record]| -> Vec<Record> {
            let mut records = records.to_vec();
            records.iter_mut().for_each(|record| record.ttl = record.ttl.saturating_sub(age));
            records
        };
        let mut message = asked.begin(self.code);
        // RFC 6840, section 5.8: only for those who know what it means.
        message.metadata.authentic_data = self.authentic && (asked.dnssec_ok || asked.header.authentic_data);
        message.answers = aged(&self.answers);
        message.authorities = aged(&self.authorities);
        message.additionals = aged(&self.additionals);
        message
    }

    fn lives(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.came) < self.lasts
    }
}

/// Seconds a message may be remembered: the least of its answers, or for a negative one what the zone says (RFC 2308,
/// section 5). Without a word of the zone, not at all.
fn lifetime(message: &Message) -> u32 {
    let negative = message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain;
    match message.metadata.response_code {
        ResponseCode::NoError | ResponseCode::NXDomain if negative => {
            let says = message.authorities.iter().find_map(|record| match &record.data {
                RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                _ => None,
            });
            says.unwrap_or(0).min(CACHED_NEGATIVE_SECS_MAX)
        }
        ResponseCode::NoError => {
            message.answers.iter().map(|record| record.ttl).min().unwrap_or(0).min(CACHED_SECS_MAX)
        }
        _ => 0,
    }
}

#[derive(Default)]
pub(super) struct Cache {
    answers: HashMap<CacheKey, Arc<Answer>>,
    /// In the order in which they came. One that was replaced is in it twice, and skipped the first time.
    order: VecDeque<(CacheKey, Instant)>,
}

impl Cache {
    pub(super) fn find(&mut self, key: &CacheKey, now: Instant) -> Option<Arc<Answer>> {
        let answer = self.answers.get(key)?;
        if answer.lives(now) {
            return Some(answer.clone());
        }
        self.answers.remove(key);
        None
    }

    pub(super) fn put(&mut self, key: CacheKey, answer: Arc<Answer>) {
        if answer.lasts.is_zero() || answer.bytes > CACHED_BYTES_MAX {
            return;
        }
        while self.order.len() >= CACHED_MAX {
            let Some((oldest, came)) = self.order.pop_front() else { break };
            if self.answers.get(&oldest).is_some_and(|answer| answer.came == came) {
                self.answers.remove(&oldest);
            }
        }
        self.order.push_back((key.clone(), answer.came));
        self.answers.insert(key, answer);
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::Name;
    use hickory_proto::rr::rdata::{A, SOA};

    fn key(number: usize) -> CacheKey {
        let name = Arc::from(number.to_string().as_bytes());
        CacheKey { name, kind: 1, dnssec_ok: false, checking_disabled: false }
    }

    fn message(ttls: &[u32], soa: Option<(u32, u32)>, code: ResponseCode) -> Message {
        let mut message = Message::error_msg(0, OpCode::Query, code);
        let record = |ttl: &u32| Record::from_rdata(Name::root(), *ttl, RData::A(A::new(10, 0, 0, 1)));
        message.answers = ttls.iter().map(record).collect();
        message.authorities.extend(soa.map(|(ttl, minimum)| {
            let soa = SOA::new(Name::root(), Name::root(), 1, 1, 1, 1, minimum);
            Record::from_rdata(Name::root(), ttl, RData::SOA(soa))
        }));
        message
    }

    #[test]
    fn the_shortest_time_counts_and_the_zone_says_how_long_there_is_nothing() {
        use ResponseCode::{NXDomain, NoError, Refused};
        for (ttls, soa, code, secs) in [
            (&[60, 5, 70][..], None, NoError, 5),
            (&[100_000], None, NoError, CACHED_SECS_MAX),
            (&[0], None, NoError, 0),
            (&[], Some((60, 20)), NXDomain, 20),
            (&[], Some((10, 20)), NoError, 10),
            (&[], Some((9_000, 9_000)), NoError, CACHED_NEGATIVE_SECS_MAX),
            (&[], None, NXDomain, 0),
            (&[5], None, Refused, 0),
        ] {
            assert_eq!(lifetime(&message(ttls, soa, code)), secs, "{ttls:?} {soa:?} {code}");
        }
    }

    #[test]
    fn it_forgets_what_is_over_and_what_is_too_much() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let answer = |bytes| Arc::new(Answer::of(message(&[10], None, ResponseCode::NoError), bytes, start));
        cache.put(key(0), answer(CACHED_BYTES_MAX + 1));
        assert_eq!(cache.len(), 0);
        for number in 0..CACHED_MAX + 10 {
            cache.put(key(number), answer(50));
        }
        assert_eq!(cache.len(), CACHED_MAX);
        assert!(cache.find(&key(9), start).is_none() && cache.find(&key(10), start).is_some());
        assert!(cache.find(&key(10), start + Duration::from_secs(10)).is_none());
        for _ in 0..3 * CACHED_MAX {
            cache.put(key(1), answer(50));
        }
        assert!(cache.order.len() <= CACHED_MAX && cache.find(&key(1), start).is_some());
    }
}
