//! The threads behind a control socket: one that accepts, and one for each client.
//!
//! Plain threads with blocking reads, so that the same server works within an async runtime and without one, and a
//! client can never hold up anything but its own thread. Bounds: [`CLIENTS_MAX`] clients at once, [`REQUEST_TIME_MAX`]
//! for each request and [`ANSWER_TIME_MAX`] for each answer, however slowly the bytes trickle.
//!
//! ```text
//! UapiServer ──stop flag, wake──► accepting thread ──owns──► clients: (stream, thread)
//!                                        ▲───wake when done───┘
//! ```
//!
//! The accepting thread alone owns the list of clients; a byte in the wake channel makes it look at the stop flag and
//! at clients that are done. It also looks for its socket file once a second. A bare device whose control socket was
//! removed can no longer be found by anyone, and ends (wireguard-go does the same); the device of an overlay is led by
//! others and has its socket made again.

use super::Configurable;
use super::limits::{ANSWER_TIME_MAX, CLIENTS_MAX, REQUEST_TIME_MAX, SOCKET_FILE_CHECK_INTERVAL};
use super::lines::Lines;
use super::session::{Next, Service};
use super::socket::{UapiError, listen_at};
use crate::socket_file::SocketFile;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A control socket that is being served. Dropping it closes all connections, waits for the change that is being
/// applied, if any, and removes the socket file. It must not be dropped by the `on_lost` it was started with.
#[derive(Debug)]
pub struct UapiServer {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    wake: Arc<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl UapiServer {
    /// Serves `device` at `<directory>/<interface>.sock` until dropped.
    ///
    /// `on_lost` is called, on a thread of the server, where the socket file is removed or replaced by somebody else.
    /// New clients are not served after that; those connected are.
    ///
    /// # Errors
    /// [`UapiError`]; no file is left behind then.
    pub fn start(
        directory: &Path,
        interface: &str,
        device: impl Configurable,
        on_lost: impl FnOnce() + Send + 'static,
    ) -> Result<Self, UapiError> {
        Self::serve(directory, interface, device, OnLoss::Report(Some(Box::new(on_lost))))
    }

    /// Serves `device` at `<directory>/<interface>.sock` until dropped. A socket file that is removed is made again, as
    /// long as nobody else listens in its place.
    ///
    /// # Errors
    /// [`UapiError`]; no file is left behind then.
    pub fn start_restoring(directory: &Path, interface: &str, device: impl Configurable) -> Result<Self, UapiError> {
        let on_loss = OnLoss::Restore { directory: directory.to_owned(), interface: interface.to_owned() };
        Self::serve(directory, interface, device, on_loss)
    }

    fn serve(directory: &Path, interface: &str, device: impl Configurable, on_loss: OnLoss) -> Result<Self, UapiError> {
        let (listener, file) = listen_at(directory, interface)?;
        let path = file.path().to_owned();
        let failed = |source| UapiError::System { action: "serve", path: path.clone(), source };
        let (wake, woken) = wake_channel().map_err(failed)?;
        let stopping = Arc::new(AtomicBool::new(false));
        let acceptor = Acceptor {
            file,
            listener,
            service: Arc::new(Service::new(device)),
            stopping: stopping.clone(),
            wake: wake.clone(),
            woken,
            clients: Vec::new(),
            on_loss,
        };
        let thread =
            thread::Builder::new().name(format!("uapi {interface}")).spawn(move || acceptor.run()).map_err(failed)?;
        Ok(Self { path, stopping, wake, thread: Some(thread) })
    }

    /// The socket file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UapiServer {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        ring(&self.wake);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been printed; there is nothing to add to it here.
            let _ = thread.join();
        }
    }
}

struct Acceptor<C> {
    /// Before the listener, so that it is dropped while the listener still keeps its inode.
    file: SocketFile,
    listener: UnixListener,
    service: Arc<Service<C>>,
    stopping: Arc<AtomicBool>,
    wake: Arc<UnixStream>,
    woken: UnixStream,
    clients: Vec<Client>,
    on_loss: OnLoss,
}

/// What to do once the socket file is gone.
enum OnLoss {
    /// Tell the one who started the server, and serve no new clients.
    Report(Option<Box<dyn FnOnce() + Send>>),
    /// Make it again.
    Restore { directory: PathBuf, interface: String },
}

struct Client {
    stream: Arc<UnixStream>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl<C: Configurable> Acceptor<C> {
    fn run(mut self) {
        let mut serving = true;
        let mut checked = Instant::now();
        while !self.stopping.load(Ordering::SeqCst) {
            let (accept, pause) = match self.wait(serving && self.clients.len() < CLIENTS_MAX) {
                Ok(ready) => (ready, None),
                Err(error) => (false, Some(error)),
            };
            self.reap();
            let pause = pause.or_else(|| if accept { self.accept().err() } else { None });
            if let Some(error) = pause {
                // Out of descriptors, memory or threads. The client waits in the backlog; trying again at once would
                // only spin.
                tracing::warn!(%error, "the WireGuard control socket takes no clients for a moment");
                thread::sleep(Duration::from_millis(100));
            }
            if serving && checked.elapsed() >= SOCKET_FILE_CHECK_INTERVAL {
                checked = Instant::now();
                serving = self.file.is_ours() || self.file_is_lost();
            }
        }
        for client in &self.clients {
            let _ = client.stream.shutdown(Shutdown::Both);
        }
        for client in self.clients.drain(..) {
            let _ = client.thread.join();
        }
    }

    /// Does what is to be done about a lost socket file. Returns whether clients can still come.
    fn file_is_lost(&mut self) -> bool {
        let path = self.file.path().display();
        match &mut self.on_loss {
            OnLoss::Report(report) => {
                tracing::debug!(%path, "the WireGuard control socket was removed");
                report.take().into_iter().for_each(|report| report());
                false
            }
            OnLoss::Restore { directory, interface } => match listen_at(directory, interface) {
                Ok((listener, file)) => {
                    tracing::warn!(%path, "the WireGuard control socket was removed by somebody; made it again");
                    // In this order: the old listener keeps the inode by which the old file is known not to be the new.
                    self.file = file;
                    self.listener = listener;
                    true
                }
                Err(error) => {
                    tracing::warn!(%path, %error, "the WireGuard control socket was removed and cannot be made again: wg(8) does not find this interface until it is set up anew");
                    false
                }
            },
        }
    }

    /// Waits for a wake byte, for a client where `accepting`, and at most for the next look at the socket file. True
    /// where a client waits.
    fn wait(&mut self, accepting: bool) -> io::Result<bool> {
        let timeout = PollTimeout::try_from(SOCKET_FILE_CHECK_INTERVAL).unwrap_or(PollTimeout::ZERO);
        let mut waits =
            [PollFd::new(self.woken.as_fd(), PollFlags::POLLIN), PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        let watched = if accepting { 2 } else { 1 };
        match poll(&mut waits[..watched], timeout) {
            Err(nix::errno::Errno::EINTR) => return Ok(false),
            other => other?,
        };
        let client_waits = accepting && waits[1].any().unwrap_or(false);
        if waits[0].any().unwrap_or(false) {
            let _ = (&self.woken).read(&mut [0; 64]);
        }
        Ok(client_waits)
    }

    fn reap(&mut self) {
        for client in self.clients.extract_if(.., |client| client.done.load(Ordering::SeqCst)) {
            let _ = client.thread.join();
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        let stream = match self.listener.accept() {
            Ok((stream, _)) => Arc::new(stream),
            Err(error) => {
                // Gone again before we came to it, or a signal: no reason to pause.
                let passing = [io::ErrorKind::WouldBlock, io::ErrorKind::ConnectionAborted, io::ErrorKind::Interrupted];
                return if passing.contains(&error.kind()) { Ok(()) } else { Err(error) };
            }
        };
        let done = Arc::new(AtomicBool::new(false));
        let bell = Bell { done: done.clone(), wake: self.wake.clone() };
        let (service, client) = (self.service.clone(), stream.clone());
        let thread = thread::Builder::new().name("uapi client".to_owned()).spawn(move || {
            let _bell = bell;
            serve(&client, &service);
        })?;
        self.clients.push(Client { stream, done, thread });
        Ok(())
    }
}

/// Tells the accepting thread that a client is done, however its thread ends.
struct Bell {
    done: Arc<AtomicBool>,
    wake: Arc<UnixStream>,
}

impl Drop for Bell {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        ring(&self.wake);
    }
}

fn wake_channel() -> io::Result<(Arc<UnixStream>, UnixStream)> {
    let (wake, woken) = UnixStream::pair()?;
    wake.set_nonblocking(true)?;
    woken.set_nonblocking(true)?;
    Ok((Arc::new(wake), woken))
}

/// A full channel is rung already, and a closed one has nobody to wake.
fn ring(mut wake: &UnixStream) {
    let _ = wake.write(&[0]);
}

/// Answers requests until the client leaves, is too slow, or cannot be understood.
fn serve<C: Configurable>(stream: &UnixStream, service: &Service<C>) {
    let mut lines = Lines::new(Timed::new(stream, REQUEST_TIME_MAX));
    loop {
        lines.source_mut().restart();
        match service.answer(&mut lines, &mut Timed::new(stream, ANSWER_TIME_MAX)) {
            Ok(Next::Request) => {}
            Ok(Next::Close) => break,
            Err(error) => {
                tracing::debug!(%error, "a client of the WireGuard control socket was dropped");
                break;
            }
        }
    }
    // The accepting thread still holds the stream; the client is to see the end at once.
    let _ = stream.shutdown(Shutdown::Both);
}

/// A stream on which a whole request or answer, not only each piece of it, has a time limit.
struct Timed<'a> {
    stream: &'a UnixStream,
    limit: Duration,
    /// Set by the first read or write.
    deadline: Option<Instant>,
}

impl<'a> Timed<'a> {
    fn new(stream: &'a UnixStream, limit: Duration) -> Self {
        Self { stream, limit, deadline: None }
    }

    fn restart(&mut self) {
        self.deadline = None;
    }

    fn left(&mut self) -> io::Result<Option<Duration>> {
        let now = Instant::now();
        let left = self.deadline.get_or_insert(now + self.limit).saturating_duration_since(now);
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(into)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
