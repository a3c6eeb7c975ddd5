//! What the tests of the programs share: ground of their own, patience, and the programs.

#![allow(dead_code, reason = "not every test needs all of it")]

pub mod machine;
pub mod wire;

use ginnel_control::host::Netns;
use ginnel_control::lab::user_ns;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

/// For anything that takes a second at most on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The operator's command line.
pub const GINNEL: &str = env!("CARGO_BIN_EXE_ginnel");

/// Runs `test` on a thread whose network and `/var/run` are its own; the programs it starts inherit both. Prints why where
/// that cannot be done, or where a program of `needs` is missing.
pub fn on_own_ground(needs: &[&str], test: impl FnOnce() + Send) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&&str| std::env::split_paths(&path).any(|directory| directory.join(name).is_file());
    if let Some(name) = needs.iter().find(|name| !there(name)) {
        return println!("skipped: {name} is not installed");
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

/// Waits until `condition` holds.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a program to its end in a namespace.
#[track_caller]
pub fn run(netns: &Netns, command: &mut Command) -> Output {
    netns.run_in(|| command.output()).expect("the namespace can be entered").expect("the program starts")
}

/// Runs a program that is to succeed, and returns its output.
#[track_caller]
pub fn run_well(netns: &Netns, command: &mut Command) -> String {
    let output = run(netns, command);
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).expect("programs speak UTF-8")
}

/// Whether there is a link of this name.
#[must_use]
pub fn has_link(netns: &Netns, name: &str) -> bool {
    let found = netns.configure(async |netlink| netlink.find_link(name).await);
    found.expect("links can be listed").is_some()
}

/// Whether a process with this number runs: it may have ended without anybody having asked for its status.
#[must_use]
pub fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X'])))
}
