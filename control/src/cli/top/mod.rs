//! `ginnel top`: the node as it is from second to second, on a terminal.
//!
//! ```text
//! daemon ─► Sample ─► Model (two samples make rates) ─► view ─► terminal
//!                        ▲ keys
//! ```
//!
//! One thread does it all: it asks, draws, and waits for a key until it is time to ask again. However it ends, by a key, a
//! signal or a panic, the terminal is as it was.

mod model;
mod view;

use super::client::{Daemon, Failure, Target};
use super::show::now;
use crate::ipc::wire::{ListPage, ListQuery, ObjectKind, Objects, Request, Response};
use model::{Model, Press, Sample};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long the daemon is waited for, and with it a key.
const CALL_TIME: Duration = Duration::from_secs(2);

/// How soon a signal is noticed.
const SIGNAL_PAUSE: Duration = Duration::from_millis(100);

/// Attachments that are asked for. A screen has fewer lines.
const ATTACHMENTS_MAX: u32 = 100;

/// Flags of `ginnel top`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct TopArgs {
    #[command(flatten)]
    target: Target,
    /// Seconds from one look to the next
    #[arg(long, short, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=60))]
    interval: u8,
}

/// Shows until somebody has seen enough.
pub(super) fn run(args: &TopArgs) -> ExitCode {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let what = "top needs a terminal; ginnel status --json is for programs";
        return Failure::Own(what.to_owned()).report();
    }
    let shown = Screen::open().and_then(|mut screen| show(args, &mut screen));
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => Failure::Own(format!("the terminal cannot be used: {error}")).report(),
    }
}

/// The terminal while it is ours, and the signals that would take it from us. Dropping it puts the terminal back; a panic
/// does so before it speaks.
struct Screen {
    terminal: DefaultTerminal,
    signals: SignalFd,
}

impl Screen {
    fn open() -> io::Result<Self> {
        let mut ends = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
            ends.add(signal);
        }
        ends.thread_block()?;
        let signals = SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let terminal = ratatui::try_init().inspect_err(|_| ratatui::restore())?;
        Ok(Self { terminal, signals })
    }

    /// Waits for a key until `deadline`; `None` where there is none. [`Press::Quit`] is also what a signal says.
    fn press(&self, deadline: Instant) -> io::Result<Option<Press>> {
        loop {
            if self.signals.read_signal()?.is_some() {
                return Ok(Some(Press::Quit));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if event::poll(left.min(SIGNAL_PAUSE))? {
                match event::read()? {
                    Event::Key(key) => {
                        if let Some(press) = press_of(key) {
                            return Ok(Some(press));
                        }
                    }
                    // To be drawn anew in another size.
                    Event::Resize(..) => return Ok(Some(Press::Other)),
                    _ => {}
                }
            } else if left.is_zero() {
                return Ok(None);
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn show(args: &TopArgs, screen: &mut Screen) -> io::Result<()> {
    let interval = Duration::from_secs(args.interval.into());
    let (mut model, mut connection, start) = (Model::default(), None, Instant::now());
    loop {
        let next = Instant::now() + interval;
        if !model.is_paused() {
            model.take(sample(&mut connection, &args.target, start).map_err(|failure| failure.words()));
        }
        loop {
            screen.terminal.draw(|frame| view::draw(frame, &model))?;
            match screen.press(next)? {
                Some(Press::Quit) => return Ok(()),
                Some(press) => model.press(press),
                None => break,
            }
        }
    }
}

/// What the daemon says. A connection that failed is made anew the next time.
fn sample(connection: &mut Option<Daemon>, target: &Target, start: Instant) -> Result<Sample, Failure> {
    let mut daemon = match connection.take() {
        Some(daemon) => daemon,
        None => Daemon::connect_to(&target.path(), CALL_TIME)?,
    };
    let status = daemon.status()?;
    let query = ListQuery { kind: ObjectKind::Attachments, after: None, limit: Some(ATTACHMENTS_MAX) };
    let attachments = match daemon.ask(Request::List(query)) {
        Ok(Response::List(ListPage { objects: Objects::Attachments(items), .. })) => items,
        // The daemon that is replaced has no lists.
        _ => Vec::new(),
    };
    *connection = Some(daemon);
    Ok(Sample { status, attachments, at: start.elapsed(), now: now() })
}

/// What a key means.
fn press_of(key: KeyEvent) -> Option<Press> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Press::Quit),
        KeyCode::Char('q') | KeyCode::Esc => Some(Press::Quit),
        KeyCode::Char('s') => Some(Press::Sort),
        KeyCode::Char('r') => Some(Press::Reverse),
        KeyCode::Char('p' | ' ') => Some(Press::Pause),
        KeyCode::Down | KeyCode::Char('j') => Some(Press::Scroll(1)),
        KeyCode::Up | KeyCode::Char('k') => Some(Press::Scroll(-1)),
        KeyCode::PageDown => Some(Press::Scroll(10)),
        KeyCode::PageUp => Some(Press::Scroll(-10)),
        KeyCode::Home => Some(Press::Scroll(isize::MIN)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::{Winsize, openpty};
    use nix::sys::termios::tcgetattr;
    use std::fs::File;
    use std::io::Read;
    use std::process::{Command, Stdio};

    const PANICS: &str = "GINNEL_TEST_TOP_PANICS";

    /// The program of the next test; by itself it has nothing to do.
    #[test]
    fn being_a_program_that_panics() {
        if std::env::var_os(PANICS).is_some() {
            let mut screen = Screen::open().unwrap();
            screen.terminal.draw(|_| panic!("on purpose")).unwrap();
        }
    }

    #[test]
    fn a_panic_leaves_the_terminal_as_it_was() {
        let size = Winsize { ws_col: 80, ws_row: 24, ws_xpixel: 0, ws_ypixel: 0 };
        let ends = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&ends.slave).unwrap();
        let near = || Stdio::from(ends.slave.try_clone().unwrap());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "cli::top::tests::being_a_program_that_panics", "--nocapture"]).env(PANICS, "1");
        let mut child = command.stdin(near()).stdout(near()).stderr(near()).spawn().unwrap();
        drop(command);
        let mut terminal = File::from(ends.master);
        let reading = std::thread::spawn(move || {
            let (mut seen, mut piece) = (Vec::new(), [0; 4096]);
            // The last end of the other side closes with an error.
            while let Ok(count) = terminal.read(&mut piece) {
                seen.extend_from_slice(&piece[..count]);
            }
            String::from_utf8_lossy(&seen).into_owned()
        });
        assert!(!child.wait().unwrap().success());
        assert_eq!(tcgetattr(&ends.slave).unwrap(), before);
        drop(ends.slave);
        let seen = reading.join().unwrap();
        let at = |what: &str| seen.find(what).unwrap_or_else(|| panic!("no {what:?} in {seen:?}"));
        assert!(at("\x1b[?1049h") < at("\x1b[?1049l"), "{seen:?}");
        // Where it can be read.
        assert!(at("\x1b[?1049l") < at("on purpose"), "{seen:?}");
    }

    #[test]
    fn keys() {
        let press = |code, modifiers| press_of(KeyEvent::new(code, modifiers));
        let none = KeyModifiers::NONE;
        for (code, expected) in [
            (KeyCode::Char('q'), Some(Press::Quit)),
            (KeyCode::Esc, Some(Press::Quit)),
            (KeyCode::Char('s'), Some(Press::Sort)),
            (KeyCode::Char('p'), Some(Press::Pause)),
            (KeyCode::PageUp, Some(Press::Scroll(-10))),
            (KeyCode::Char('c'), None),
            (KeyCode::F(1), None),
        ] {
            assert_eq!(press(code, none), expected, "{code:?}");
        }
        assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Press::Quit));
        let release = KeyEvent::new_with_kind(KeyCode::Char('q'), none, KeyEventKind::Release);
        assert_eq!(press_of(release), None);
    }
}
