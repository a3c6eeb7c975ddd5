//! The renewal of sessions after two minutes (WireGuard paper, section 6.1: `REKEY_AFTER_TIME`), with every make and from
//! either side. In real time, since others cannot be given another clock, so only where `GINNEL_TEST_SLOW=1` asks for it.

use ginnel_control::lab::traffic::wait_reachable;
use ginnel_tests::field::{Field, introduce, transfer, wait_connected};
use ginnel_tests::ground::on_own_ground;
use ginnel_tests::make::Make;
use ginnel_tests::wait::PATIENCE;
use std::thread;
use std::time::{Duration, Instant};

const REKEY_AFTER: Duration = Duration::from_secs(120);

/// The initiator renews when it next sends, so soon after; and once more should a message be lost.
const REKEY_BEFORE: Duration = Duration::from_secs(150);

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(200);

/// The old session serves until the new one does, so no probe waits for a handshake, which would be repeated every 5 s.
const GAP_MAX: Duration = Duration::from_secs(5);

#[test]
fn sessions_are_renewed_without_a_gap() {
    if std::env::var_os("GINNEL_TEST_SLOW").is_none_or(|value| value != "1") {
        return println!("not run: it takes more than two minutes; GINNEL_TEST_SLOW=1 runs it");
    }
    let pairs = [Make::Ginnel, Make::WireguardGo, Make::BoringtunCli].map(|make| [(make, true), (make, false)]);
    // All at once: they wait most of the time.
    thread::scope(|scope| {
        for (make, we_begin) in pairs.into_iter().flatten() {
            scope.spawn(move || on_own_ground(&[make], || session_is_renewed(make, we_begin)));
        }
    });
}

fn session_is_renewed(make: Make, we_begin: bool) {
    let field = Field::of(&[Make::Ginnel.into(), make.into()]);
    let [ours, theirs] = field.pair();
    let (near, far) = if we_begin { (ours, theirs) } else { (theirs, ours) };
    let start = Instant::now();
    introduce(near, far, false);
    wait_connected(near, far);
    let handshake = || ours.peer(theirs.key.public()).handshake.expect("they have met");
    // Nothing else makes a new session a minute later.
    let renewed = handshake() + REKEY_AFTER / 2;
    while handshake() < renewed {
        let gap = wait_reachable(&near.inner(false), &far.inner(false), PATIENCE).expect("the tunnel stays");
        assert!(gap < GAP_MAX, "{make:?}, we begin: {we_begin}: no way for {gap:?}");
        assert!(start.elapsed() < REKEY_BEFORE, "{make:?}, we begin: {we_begin}: no new session");
        thread::sleep(PAUSE);
    }
    assert!(start.elapsed() > REKEY_AFTER - Duration::from_secs(1), "{make:?}, we begin: {we_begin}: too early");
    transfer(ours, theirs, false, 10_000_000);
    transfer(theirs, ours, true, 10_000_000);
}
