//! The ground a test stands on: a network namespace, mounts and a `/var/run` of its own, gone with the test.

use crate::make::Make;
use ginnel_control::lab::user_ns;
use std::thread;

/// Runs `test` on a thread whose network and `/var/run` are its own; the threads and programs it starts inherit both.
/// Prints why where that cannot be done, or where a program of `makes` is missing.
///
/// # Panics
/// Where `test` does.
pub fn on_own_ground(makes: &[Make], test: impl FnOnce() + Send) {
    if let Some(reason) = makes.iter().find_map(|make| make.missing()) {
        return println!("skipped: {reason}");
    }
    let outcome = thread::scope(|scope| {
        let work = || user_ns::check_tun().and_then(|()| user_ns::enter()).map(|_| test());
        scope.spawn(work).join()
    });
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(reason)) => println!("skipped: {reason}"),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}
