//! What is wrong, in one place: conditions are raised and cleared by whoever notices, shown in `health` and `status`, and
//! told as events when they change.

use super::events::EventHub;
use super::wire::{Condition, Event, Health, Severity};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Conditions at once. A node has a handful; per-object ones could be many, and the first are the ones that matter.
const CONDITIONS_MAX: usize = 256;

/// The codes there are. A code never changes its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConditionCode {
    /// The configuration file could not be loaded again; the settings before are in force.
    ConfigInvalid,
    /// The configuration file was changed in what only a start reads.
    RestartNeeded,
    /// New connections are turned away because too many are open.
    ConnectionsFull,
    /// The firewall refused what it was to bring about.
    FirewallFailed,
    /// Something of the host stands in the way of the firewall; the subject says what.
    FirewallHindered,
    /// New connections are turned away because the process has no descriptor left.
    DescriptorsExhausted,
    /// Metrics are not served, because the address they are to be served at cannot be had.
    MetricsFailed,
    /// Names are not answered at the address of the subject.
    DnsNotServed,
    /// Names outside the overlay are not answered.
    DnsUpstream,
}

impl ConditionCode {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::ConfigInvalid,
        Self::RestartNeeded,
        Self::ConnectionsFull,
        Self::FirewallFailed,
        Self::FirewallHindered,
        Self::DescriptorsExhausted,
        Self::MetricsFailed,
        Self::DnsNotServed,
        Self::DnsUpstream,
    ];

    /// Its word on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigInvalid => "config_invalid",
            Self::RestartNeeded => "restart_needed",
            Self::ConnectionsFull => "connections_full",
            Self::FirewallFailed => "firewall_failed",
            Self::FirewallHindered => "firewall_hindered",
            Self::DescriptorsExhausted => "descriptors_exhausted",
            Self::MetricsFailed => "metrics_failed",
            Self::DnsNotServed => "dns_not_served",
            Self::DnsUpstream => "dns_upstream",
        }
    }
}

type Key = (ConditionCode, Option<String>);

/// The conditions that hold. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct HealthBoard {
    conditions: Arc<Mutex<BTreeMap<Key, Condition>>>,
    hub: EventHub,
}

impl HealthBoard {
    /// A board that tells changes to `hub`.
    #[must_use]
    pub fn new(hub: EventHub) -> Self {
        Self { conditions: Arc::default(), hub }
    }

    /// Says that a condition holds. To say it again changes nothing, with another severity or text it is told anew.
    pub fn raise(
        &self,
        code: ConditionCode,
        subject: Option<&str>,
        severity: Severity,
        text: &str,
        hint: Option<&str>,
    ) {
        let key = (code, subject.map(str::to_owned));
        let condition = {
            let mut conditions = self.conditions();
            let earlier = conditions.get(&key);
            if earlier.is_none() && conditions.len() >= CONDITIONS_MAX {
                return;
            }
            let condition = Condition {
                code: code.name().to_owned(),
                subject: key.1.clone(),
                severity,
                text: text.to_owned(),
                hint: hint.map(str::to_owned),
                since_unix_secs: earlier.map_or_else(now, |condition| condition.since_unix_secs),
            };
            if earlier == Some(&condition) {
                return;
            }
            conditions.insert(key, condition.clone());
            condition
        };
        self.hub.publish(Event::HealthChanged { condition, active: true });
    }

    /// Says that it does not hold any more, if it did.
    pub fn clear(&self, code: ConditionCode, subject: Option<&str>) {
        let gone = self.conditions().remove(&(code, subject.map(str::to_owned)));
        if let Some(condition) = gone {
            self.hub.publish(Event::HealthChanged { condition, active: false });
        }
    }

    /// Clears the conditions of a code whose subjects `holds` says no to.
    pub fn retain(&self, code: ConditionCode, holds: impl Fn(Option<&str>) -> bool) {
        let of_code: Vec<_> = self.conditions().keys().filter(|key| key.0 == code).map(|key| key.1.clone()).collect();
        of_code
            .iter()
            .map(Option::as_deref)
            .filter(|subject| !holds(*subject))
            .for_each(|subject| self.clear(code, subject));
    }

    /// All that hold, the worst first.
    #[must_use]
    pub fn health(&self) -> Health {
        let mut conditions: Vec<_> = self.conditions().values().cloned().collect();
        conditions.sort_by_key(|condition| std::cmp::Reverse(condition.severity));
        Health { ok: conditions.iter().all(|condition| condition.severity < Severity::Error), conditions }
    }

    fn conditions(&self) -> MutexGuard<'_, BTreeMap<Key, Condition>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::wire::Subscribe;

    #[test]
    fn conditions_are_told_once_per_change_and_sorted_by_weight() {
        let hub = EventHub::default();
        let board = HealthBoard::new(hub.clone());
        let (mut heard, _) = hub.subscribe(&Subscribe::default());
        let raise = |code, subject, severity, text| board.raise(code, subject, severity, text, None);
        raise(ConditionCode::RestartNeeded, None, Severity::Info, "a");
        raise(ConditionCode::RestartNeeded, None, Severity::Info, "a");
        assert!(board.health().ok);
        raise(ConditionCode::ConfigInvalid, Some("x"), Severity::Error, "b");
        raise(ConditionCode::ConfigInvalid, Some("x"), Severity::Error, "c");
        let health = board.health();
        assert!(!health.ok);
        let texts: Vec<_> = health.conditions.iter().map(|condition| condition.text.as_str()).collect();
        assert_eq!(texts, ["c", "a"]);
        board.clear(ConditionCode::ConfigInvalid, None);
        board.clear(ConditionCode::ConfigInvalid, Some("x"));
        board.clear(ConditionCode::ConfigInvalid, Some("x"));
        let mut told = Vec::new();
        while let Some(record) = heard.poll() {
            match record.event {
                Event::HealthChanged { condition, active } => told.push((condition.text, active)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(told, [("a", true), ("b", true), ("c", true), ("c", false)].map(|(t, a)| (t.to_owned(), a)));
    }

    #[test]
    fn there_is_a_bound() {
        let board = HealthBoard::default();
        for number in 0..2 * CONDITIONS_MAX {
            board.raise(ConditionCode::ConfigInvalid, Some(&number.to_string()), Severity::Info, "t", None);
        }
        assert_eq!(board.health().conditions.len(), CONDITIONS_MAX);
    }
}
