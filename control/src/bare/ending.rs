//! What ends a bare device: signals, the loss of its interface, the loss of its control socket. Whichever comes first.
//!
//! Signals are taken by handlers, not by a mask, so it does not matter which threads the program already has.

use super::BareError;
use ginnel_engine::event::Event;
use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use tokio::signal::unix::{SignalKind, signal};

/// Why a device ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// SIGTERM or SIGINT.
    Signal,
    /// The interface was deleted, or its UDP socket failed for good.
    InterfaceGone,
    /// The socket file was removed.
    SocketRemoved,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Signal => "asked to by a signal",
            Self::InterfaceGone => "the interface is gone",
            Self::SocketRemoved => "the control socket was removed",
        })
    }
}

/// Collects the reasons to end.
pub struct Ending {
    sender: EndSender,
    ends: Receiver<End>,
}

/// Reports a reason to end.
#[derive(Clone)]
pub struct EndSender(SyncSender<End>);

impl EndSender {
    /// Never blocks: one reason is enough.
    pub fn send(&self, end: End) {
        let _ = self.0.try_send(end);
    }
}

impl Ending {
    /// Takes over SIGTERM and SIGINT.
    pub fn new() -> Result<Self, BareError> {
        let failed = |source: io::Error| BareError::System { action: "taking over signals", source };
        let (sender, ends) = sync_channel(1);
        let sender = EndSender(sender);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (mut terminate, mut interrupt) = {
            let _context = runtime.enter();
            (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?)
        };
        let reporter = sender.clone();
        spawn("signals", move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            reporter.send(End::Signal);
        })?;
        Ok(Self { sender, ends })
    }

    /// For other sources of reasons.
    pub fn sender(&self) -> EndSender {
        self.sender.clone()
    }

    /// Reads `events` until one of them, or their end, tells that the device stopped.
    pub fn follow_events(&self, events: Receiver<Event>) -> Result<(), BareError> {
        let reporter = self.sender();
        spawn("events", move || {
            for event in events {
                // A datagram for nobody is not worth a line each; the others are rare.
                match event {
                    Event::Diverted { .. } => {}
                    Event::PortClosed { errno } => {
                        tracing::debug!(errno, "a port of the device closed");
                        break;
                    }
                    event => tracing::debug!(?event, "device event"),
                }
            }
            reporter.send(End::InterfaceGone);
        })
    }

    /// Waits for the first reason.
    pub fn wait(self) -> End {
        // `self.sender` lives as long as the wait, so the channel cannot be closed.
        self.ends.recv().unwrap_or(End::Signal)
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<(), BareError> {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map(drop)
        .map_err(|source| BareError::System { action: "starting a thread", source })
}
