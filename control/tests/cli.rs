//! The command line as a program: on a terminal of its own, and before a real daemon.

mod common;

use common::{GINNEL, on_own_ground, until};
use ginnel_control::lab::process::Keeper;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

const GINNELD: &str = env!("CARGO_BIN_EXE_ginneld");

/// Begin and end of the other screen of a terminal (xterm, "Alt screen").
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// `ginnel top` on a terminal.
struct Shown {
    child: Running,
    terminal: File,
    /// The end that the program has.
    near: OwnedFd,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Shown {
    fn start(columns: u16, rows: u16) -> (Self, Termios) {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(Some(&size), None).expect("a terminal");
        let before = tcgetattr(&ends.slave).expect("a terminal");
        let near = || Stdio::from(ends.slave.try_clone().expect("a descriptor"));
        let mut command = Command::new(GINNEL);
        command.args(["top", "--socket", "/nonexistent/s"]).env("TERM", "xterm");
        let child = Running(command.stdin(near()).stdout(near()).stderr(near()).spawn().expect("it starts"));
        let terminal = File::from(ends.master);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (mut reader, to) = (terminal.try_clone().expect("a descriptor"), seen.clone());
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count) = reader.read(&mut piece) {
                to.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        (Self { child, terminal, near: ends.slave, seen }, before)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap()).into_owned()
    }

    /// Waits for the end, and sees that the terminal is as it was.
    #[track_caller]
    fn end(mut self, before: &Termios) {
        let mut status = None;
        until("the program ends", || {
            status = self.child.0.try_wait().expect("a child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", self.text());
        until("the other screen is left", || self.text().contains(LEAVE));
        assert!(self.text().rfind(LEAVE) > self.text().rfind(ENTER));
        assert_eq!(&tcgetattr(&self.near).expect("a terminal"), before);
    }
}

#[test]
fn top_leaves_the_terminal_as_it_was() {
    for (columns, rows, end) in [(100, 30, Some(Signal::SIGTERM)), (100, 30, None), (1, 1, Some(Signal::SIGHUP))] {
        let (mut shown, before) = Shown::start(columns, rows);
        until("the other screen is entered", || shown.text().contains(ENTER));
        if columns > 1 {
            until("it says what is wrong", || shown.text().contains("no daemon answers"));
        }
        assert_ne!(tcgetattr(&shown.near).expect("a terminal"), before);
        match end {
            Some(signal) => kill(Pid::from_raw(shown.child.0.id().cast_signed()), signal).expect("it runs"),
            None => shown.terminal.write_all(b"sp\x1b[Bq").expect("it reads"),
        }
        shown.end(&before);
    }
}

#[test]
fn top_needs_a_terminal() {
    let output = Command::new(GINNEL).arg("top").stdin(Stdio::null()).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("needs a terminal"));
}

/// A program that does not outlive its test.
struct Running(Child);

impl Running {
    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

/// What `ginnel doctor` says, and its exit status.
fn doctor(directory: &Path) -> (Value, Option<i32>) {
    let mut command = Command::new(GINNEL);
    command.args(["doctor", "--json", "--config"]).arg(directory.join("ginneld.toml"));
    let output = command.arg("--data-dir").arg(directory.join("data")).output().expect("the program starts");
    (serde_json::from_slice(&output.stdout).expect("JSON"), output.status.code())
}

fn codes(told: &Value) -> Vec<&str> {
    told["findings"].as_array().expect("a list").iter().filter_map(|finding| finding["code"].as_str()).collect()
}

#[test]
fn a_real_daemon_is_examined_and_tells_its_metrics() {
    on_own_ground(&[], || {
        let keeper = Keeper::default();
        let directory = keeper.scratch().expect("a directory");
        let path = directory.path();
        let metrics = path.join("metrics.sock");
        let config = format!("[metrics]\nlisten = \"unix:{}\"\n", metrics.display());
        std::fs::write(path.join("ginneld.toml"), config).expect("a file");
        let (told, status) = doctor(path);
        assert!(codes(&told).contains(&"G010"), "{told}");
        assert_eq!((status, &told["ok"]), (Some(1), &Value::Bool(false)));
        let mut command = Command::new(GINNELD);
        command.arg("--config").arg(path.join("ginneld.toml")).arg("--data-dir").arg(path.join("data"));
        let mut daemon = Running(command.env_remove("RUST_LOG").stderr(Stdio::null()).spawn().expect("it starts"));
        until("it answers", || UnixStream::connect(&metrics).is_ok() && !codes(&doctor(path).0).contains(&"G010"));
        let (told, _) = doctor(path);
        for code in ["G011", "G012", "G013", "G014", "G015", "G022", "G030", "G031", "G032", "G033", "G060"] {
            assert!(!codes(&told).contains(&code), "{told}");
        }
        let mut stream = UnixStream::connect(&metrics).expect("metrics are served");
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("it answers");
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\n# EOF\n"), "{page}");
        assert!(page.contains("\nginnel_requests_total{op=\"status\",outcome=\"ok\"} "), "{page}");
        // Killed, it leaves its socket, and nobody behind it.
        daemon.end();
        let (told, status) = doctor(path);
        assert!(codes(&told).contains(&"G011"), "{told}");
        assert_eq!(status, Some(1));
    });
}
