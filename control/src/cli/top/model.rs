//! What is shown: the last two looks at the daemon, and what whoever watches has chosen. Knows neither terminal nor clock.

use crate::cli::json::key;
use crate::ipc::wire::{AttachmentItem, PeerStatus, StatusSnapshot};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Duration;

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) status: StatusSnapshot,
    pub(super) attachments: Vec<AttachmentItem>,
    /// Since the program began.
    pub(super) at: Duration,
    /// Unix seconds.
    pub(super) now: i64,
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Press {
    Quit,
    Sort,
    Reverse,
    Pause,
    /// So many peers on.
    Scroll(isize),
    /// Nothing but that the screen has to be drawn again.
    Other,
}

/// What peers are ordered by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// Most received and sent per second first.
    #[default]
    Rate,
    /// Longest silent first.
    Handshake,
    /// Most received and sent in all first.
    Bytes,
    Key,
}

impl Order {
    const ALL: [Self; 4] = [Self::Rate, Self::Handshake, Self::Bytes, Self::Key];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Handshake => "handshake",
            Self::Bytes => "bytes",
            Self::Key => "key",
        }
    }

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|order| *order == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Model {
    latest: Option<Sample>,
    earlier: Option<Sample>,
    failure: Option<String>,
    order: Order,
    reversed: bool,
    paused: bool,
    skipped: usize,
}

/// A peer with what it does just now, in bytes per second; `None` before there are two looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerRow<'a> {
    pub(super) peer: &'a PeerStatus,
    pub(super) received: Option<f64>,
    pub(super) sent: Option<f64>,
}

impl Model {
    /// Takes in a look, or why there was none: the last one stays then.
    pub(super) fn take(&mut self, looked: Result<Sample, String>) {
        match looked {
            Ok(sample) => {
                self.failure = None;
                self.earlier = self.latest.replace(sample);
            }
            Err(failure) => self.failure = Some(failure),
        }
    }

    pub(super) fn press(&mut self, press: Press) {
        match press {
            Press::Sort => self.order = self.order.next(),
            Press::Reverse => self.reversed = !self.reversed,
            Press::Pause => self.paused = !self.paused,
            Press::Scroll(by) => {
                let last = self.latest.as_ref().map_or(0, |sample| sample.status.peers.len().saturating_sub(1));
                self.skipped = self.skipped.saturating_add_signed(by).min(last);
            }
            Press::Quit | Press::Other => {}
        }
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    pub(super) fn latest(&self) -> Option<&Sample> {
        self.latest.as_ref()
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    pub(super) fn skipped(&self) -> usize {
        self.skipped
    }

    /// The peers, in the order that is wished.
    pub(super) fn peers(&self) -> Vec<PeerRow<'_>> {
        let Some(latest) = &self.latest else { return Vec::new() };
        let earlier = self.earlier.iter().flat_map(|sample| &sample.status.peers);
        let earlier: HashMap<_, _> = earlier.map(|peer| (peer.public_key.as_str(), peer)).collect();
        let row = |peer| {
            let before = earlier.get(peer_key(peer)).copied();
            let rate = |count: fn(&PeerStatus) -> Option<u64>| self.per_second(before.and_then(count)?, count(peer)?);
            PeerRow { peer, received: rate(|peer| peer.rx_bytes), sent: rate(|peer| peer.tx_bytes) }
        };
        let mut rows: Vec<_> = latest.status.peers.iter().map(row).collect();
        match self.order {
            // Counts of bytes per second have no fraction that would matter.
            Order::Rate => {
                rows.sort_by_key(|row| Reverse((row.received.unwrap_or(0.0) + row.sent.unwrap_or(0.0)) as u64))
            }
            Order::Handshake => rows.sort_by_key(|row| row.peer.last_handshake_unix_secs),
            Order::Bytes => rows.sort_by_key(|row| {
                Reverse(row.peer.rx_bytes.unwrap_or(0).saturating_add(row.peer.tx_bytes.unwrap_or(0)))
            }),
            Order::Key => rows.sort_by_cached_key(|row| key(&row.peer.public_key)),
        }
        if self.reversed {
            rows.reverse();
        }
        rows
    }

    /// All peers together: received and sent.
    pub(super) fn traffic(&self) -> (Option<f64>, Option<f64>) {
        let rows = self.peers();
        let sum = |rate: fn(&PeerRow<'_>) -> Option<f64>| rows.iter().filter_map(rate).reduce(|a, b| a + b);
        (sum(|row| row.received), sum(|row| row.sent))
    }

    /// A counter of the device, or of drops, per second.
    pub(super) fn rate(&self, count: impl Fn(&StatusSnapshot) -> Option<u64>) -> Option<f64> {
        self.per_second(count(&self.earlier.as_ref()?.status)?, count(&self.latest.as_ref()?.status)?)
    }

    /// `None` also where a count went down: the device was made anew in between.
    fn per_second(&self, before: u64, after: u64) -> Option<f64> {
        let secs = self.latest.as_ref()?.at.checked_sub(self.earlier.as_ref()?.at)?.as_secs_f64();
        (secs > 0.0).then_some(after.checked_sub(before)? as f64 / secs)
    }
}

fn peer_key(peer: &PeerStatus) -> &str {
    &peer.public_key
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cli::table::tests::snapshot;

    /// The node of the tests of `status`, some seconds on.
    pub(in super::super) fn sample(secs: u64, received: u64) -> Sample {
        let mut status = snapshot();
        status.peers[0].rx_bytes = Some(received);
        status.drops.insert("outbound_unrouted".into(), 4 + 10 * secs);
        Sample { status, attachments: Vec::new(), at: Duration::from_secs(secs), now: 1_700_000_065 }
    }

    fn keys(model: &Model) -> Vec<&str> {
        model.peers().iter().map(|row| row.peer.public_key.as_str()).collect()
    }

    #[test]
    fn two_looks_make_rates() {
        let mut model = Model::default();
        assert!(model.peers().is_empty() && model.traffic() == (None, None));
        model.take(Ok(sample(1, 1_000)));
        assert_eq!(model.peers()[0].received, None);
        model.take(Ok(sample(3, 6_000)));
        assert_eq!(model.traffic(), (Some(2_500.0), Some(0.0)));
        assert_eq!(model.rate(|status| status.drops.get("outbound_unrouted").copied()), Some(10.0));
        // A device that was made anew counts from nothing.
        model.take(Ok(sample(4, 10)));
        assert_eq!(model.peers()[0].received, None);
        // Two looks at the same moment say nothing.
        model.take(Ok(sample(4, 20)));
        assert_eq!(model.peers()[0].received, None);
    }

    #[test]
    fn a_failure_leaves_what_was_seen_and_goes_with_the_next_look() {
        let mut model = Model::default();
        model.take(Ok(sample(1, 1)));
        model.take(Err("gone".into()));
        assert_eq!((model.failure(), model.peers().len()), (Some("gone"), 2));
        model.take(Ok(sample(2, 1)));
        assert_eq!(model.failure(), None);
    }

    #[test]
    fn peers_come_in_the_order_that_is_wished() {
        let mut model = Model::default();
        model.take(Ok(sample(1, 0)));
        model.take(Ok(sample(2, 500)));
        let (busy, odd) = ("09".repeat(32), "odd".to_owned());
        assert_eq!(keys(&model), [&busy, &odd]);
        model.press(Press::Sort);
        assert_eq!((model.order(), keys(&model)), (Order::Handshake, vec![odd.as_str(), busy.as_str()]));
        model.press(Press::Reverse);
        assert_eq!(keys(&model), [&busy, &odd]);
        for order in [Order::Bytes, Order::Key, Order::Rate] {
            model.press(Press::Sort);
            assert_eq!(model.order(), order);
        }
        model.press(Press::Scroll(100));
        assert_eq!(model.skipped(), 1);
        model.press(Press::Scroll(isize::MIN));
        assert_eq!(model.skipped(), 0);
        model.press(Press::Pause);
        assert!(model.is_paused());
    }
}
