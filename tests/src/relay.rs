//! A middlebox: forwards datagrams between one client and one server, as a NAT does, and notes what they look like.
//!
//! ```text
//! client ◄──► front │ relay │ back ◄──► server
//! ```
//! Congestion marks are forwarded as they come, or as told. The port behind which the client hides can be changed at any
//! time, as when a NAT forgets a mapping.

use crate::datagram::{open, receive, set_ecn};
use ginnel_control::lab::traffic::End;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How soon the relay notices that it is told something.
const TICK: Duration = Duration::from_millis(20);

/// Stands for "as it came" among the marks.
const AS_IT_CAME: u8 = 0xff;

/// What a forwarded datagram looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// From the client to the server.
    pub to_server: bool,
    /// Bytes of UDP payload.
    pub bytes: usize,
    /// The first byte, which is the type of a WireGuard message.
    pub kind: u8,
    /// The congestion bits it came with.
    pub ecn: u8,
}

/// A relay at work. Dropping it ends it.
pub struct Relay {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    end: End,
}

struct Shared {
    stop: AtomicBool,
    mark: AtomicU8,
    server: SocketAddr,
    client: Mutex<Option<SocketAddr>>,
    front: UdpSocket,
    back: Mutex<Arc<UdpSocket>>,
    notes: Mutex<Vec<Note>>,
}

impl Relay {
    /// Starts a relay at `end` to `server`.
    ///
    /// # Panics
    /// Where no socket can be opened.
    #[must_use]
    pub fn start(end: &End, server: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            mark: AtomicU8::new(AS_IT_CAME),
            server,
            client: Mutex::new(None),
            front: socket(end),
            back: Mutex::new(Arc::new(socket(end))),
            notes: Mutex::new(Vec::new()),
        });
        let directions: [fn(&Shared); 2] = [Shared::forward_to_server, Shared::forward_to_client];
        let threads = directions
            .into_iter()
            .map(|direction| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    while !shared.stop.load(Ordering::Relaxed) {
                        direction(&shared);
                    }
                })
            })
            .collect();
        Self { shared, threads, end: end.clone() }
    }

    /// Where clients find it.
    ///
    /// # Panics
    /// Never: the socket is bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.shared.front.local_addr().expect("it is bound")
    }

    /// Where the server sees the client.
    ///
    /// # Panics
    /// Never: the socket is bound.
    #[must_use]
    pub fn outer_address(&self) -> SocketAddr {
        lock(&self.shared.back).local_addr().expect("it is bound")
    }

    /// Hides the client behind another port. What the server sends to the old one is lost.
    pub fn rebind(&self) {
        *lock(&self.shared.back) = Arc::new(socket(&self.end));
    }

    /// Marks every datagram from now on, or forwards marks as they come.
    pub fn mark(&self, ecn: Option<u8>) {
        self.shared.mark.store(ecn.unwrap_or(AS_IT_CAME), Ordering::Relaxed);
    }

    /// What was forwarded since the last call.
    #[must_use]
    pub fn take_notes(&self) -> Vec<Note> {
        std::mem::take(&mut lock(&self.shared.notes))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn forward_to_server(&self) {
        let Ok(arrival) = receive(&self.front) else { return };
        *lock(&self.client) = Some(arrival.from);
        let back = Arc::clone(&lock(&self.back));
        self.forward(&arrival.payload, arrival.ecn, &back, self.server);
    }

    fn forward_to_client(&self) {
        let back = Arc::clone(&lock(&self.back));
        let Ok(arrival) = receive(&back) else { return };
        let client = *lock(&self.client);
        if let Some(client) = client {
            self.forward(&arrival.payload, arrival.ecn, &self.front, client);
        }
    }

    fn forward(&self, payload: &[u8], ecn: u8, by: &UdpSocket, to: SocketAddr) {
        let note = Note {
            to_server: to == self.server,
            bytes: payload.len(),
            kind: payload.first().copied().unwrap_or(0),
            ecn,
        };
        lock(&self.notes).push(note);
        let mark = self.mark.load(Ordering::Relaxed);
        set_ecn(by, if mark == AS_IT_CAME { ecn } else { mark });
        // A full buffer loses datagrams on any path.
        let _ = by.send_to(payload, to);
    }
}

fn socket(end: &End) -> UdpSocket {
    let socket = open(end);
    socket.set_read_timeout(Some(TICK)).expect("a timeout can be set");
    socket
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
