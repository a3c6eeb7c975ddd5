//! A sign of life for the service manager, given only while orders are really taken: the loop that accepts connections has
//! come round, and the node has answered. Nothing of that needs a descriptor, so a daemon that is short of them lives.

use super::notify::Notifier;
use crate::ipc::access::Caller;
use crate::ipc::server::{Handler, Order, Probe};
use crate::ipc::wire::Request;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Pings while the daemon lives, as often as the service manager asked for; where it did not, waits for ever.
pub(super) async fn watch<H: Handler>(notifier: &Notifier, probe: Probe, handler: Arc<H>) -> Infallible {
    match limit(|name| std::env::var(name).ok(), std::process::id()) {
        Some(limit) => watch_within(limit, || notifier.watchdog(), probe, handler).await,
        None => std::future::pending().await,
    }
}

/// What the manager allows between two pings (sd_watchdog_enabled(3)).
fn limit(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let meant = variable("WATCHDOG_PID").is_none_or(|told| told.parse() == Ok(pid));
    let micros = variable("WATCHDOG_USEC")?.parse().ok().filter(|micros| *micros > 0 && meant)?;
    Some(Duration::from_micros(micros))
}

async fn watch_within<H: Handler>(limit: Duration, ping: impl Fn(), probe: Probe, handler: Arc<H>) -> Infallible {
    // Three tries before the limit.
    let pace = limit / 3;
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let lives = async {
            probe.turned().await;
            let order = Order { caller: Caller::default(), request: Request::Status, descriptors: Vec::new() };
            let handler = handler.clone();
            // In a task of its own, as a request is.
            tokio::spawn(async move { handler.handle(order).await }).await.is_ok()
        };
        match timeout(pace, lives).await {
            Ok(true) => ping(),
            Ok(false) => tracing::error!("the node failed to answer the watchdog"),
            Err(_) => tracing::warn!(secs = pace.as_secs_f32(), "no sign of life within the pace of the watchdog"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::events::EventHub;
    use crate::ipc::health::HealthBoard;
    use crate::ipc::live::Live;
    use crate::ipc::server::Server;
    use crate::ipc::socket::BoundSocket;
    use crate::ipc::stop::Stop;
    use crate::ipc::sync::Keep;
    use crate::ipc::wire::{Fault, ListPage, ListQuery, ObjectName, Objects, Response};
    use crate::temp_dir::TempDir;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::time::Instant;

    /// Answers, until told not to.
    #[derive(Default)]
    struct Mood(AtomicBool);

    impl Handler for Mood {
        async fn handle(&self, _: Order) -> Response {
            if self.0.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            Response::Ok
        }

        async fn list(&self, _: &ListQuery) -> Result<ListPage, Fault> {
            Ok(ListPage { objects: Objects::Dns(Vec::new()), next: None })
        }

        async fn retain(&self, _: &Keep) -> Result<Vec<ObjectName>, Fault> {
            Ok(Vec::new())
        }

        fn boot_id(&self) -> String {
            String::new()
        }
    }

    async fn more_pings(pings: &AtomicU32, than: u32) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while pings.load(Ordering::Relaxed) <= than {
            assert!(Instant::now() < deadline, "no ping");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn pings_come_while_orders_are_taken_and_not_otherwise() {
        let dir = TempDir::new();
        let socket = BoundSocket::bind(&dir.join("s"), None).unwrap();
        let (mood, pings) = (Arc::new(Mood::default()), Arc::new(AtomicU32::new(0)));
        let server =
            Server::new(mood.clone(), Live::default(), EventHub::default(), HealthBoard::default(), Stop::default());
        let (probe, counter, node) = (server.probe(), pings.clone(), mood.clone());
        let pace = Duration::from_millis(60);
        tokio::spawn(async move {
            let ping = || {
                counter.fetch_add(1, Ordering::Relaxed);
            };
            watch_within(pace, ping, probe, node).await;
        });
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(pings.load(Ordering::Relaxed), 0, "the server does not run yet");
        let serving = tokio::spawn(async move { server.serve(&socket).await });
        more_pings(&pings, 2).await;
        // A node that does not answer, then one that does, then a server that is gone.
        mood.0.store(true, Ordering::Relaxed);
        tokio::time::sleep(pace).await;
        let before = pings.load(Ordering::Relaxed);
        tokio::time::sleep(4 * pace).await;
        assert_eq!(pings.load(Ordering::Relaxed), before);
        mood.0.store(false, Ordering::Relaxed);
        more_pings(&pings, before).await;
        serving.abort();
        tokio::time::sleep(pace).await;
        let before = pings.load(Ordering::Relaxed);
        tokio::time::sleep(4 * pace).await;
        assert_eq!(pings.load(Ordering::Relaxed), before);
    }

    #[test]
    fn the_limit_is_that_of_this_process() {
        let of = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
            limit(|name| pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.clone()), 7)
        };
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_secs(3)));
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "7")]), Some(Duration::from_secs(3)));
        assert_eq!(of(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "8")]), None);
        for bad in ["0", "x", "-1", ""] {
            assert_eq!(of(&[("WATCHDOG_USEC", bad)]), None, "{bad:?}");
        }
        assert_eq!(of(&[]), None);
    }
}
