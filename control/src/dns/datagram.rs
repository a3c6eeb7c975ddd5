//! Queries over UDP: a loop per socket that takes what has come, answers what it can on the spot, and leaves what takes
//! others to a task of its own. It never waits to send: a client that gets no answer asks again.

use super::Core;
use super::answer::{Outcome, Way};
use super::config::{BURST, FORWARDED_MAX, QUERY_BYTES_MAX};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

/// Answers for as long as it runs.
pub(super) async fn serve(core: Arc<Core>, socket: UdpSocket, server: IpAddr) {
    let socket = Arc::new(socket);
    let waiting = Arc::new(Semaphore::new(FORWARDED_MAX));
    let mut buffer = [0; QUERY_BYTES_MAX];
    let mut out = Vec::with_capacity(QUERY_BYTES_MAX);
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..BURST {
            match socket.try_recv_from(&mut buffer) {
                Ok((length, client)) => {
                    let way = Way { client: client.ip().to_canonical(), server, stream: false };
                    match core.answer(&buffer[..length], way, &mut out) {
                        Outcome::Silence => {}
                        Outcome::Answer => core.send(&socket, &out, client),
                        Outcome::Forward(asked) => {
                            let Ok(place) = waiting.clone().try_acquire_owned() else {
                                core.counters.crowded.fetch_add(1, Ordering::Relaxed);
                                continue;
                            };
                            let (core, socket) = (core.clone(), socket.clone());
                            tokio::spawn(async move {
                                let _place = place;
                                let mut out = Vec::new();
                                core.forward(&asked, &mut out).await;
                                core.send(&socket, &out, client);
                            });
                        }
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Of an earlier answer that did not arrive: the client is gone.
                Err(_) => {}
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Core {
    fn send(&self, socket: &UdpSocket, answer: &[u8], client: std::net::SocketAddr) {
        if socket.try_send_to(answer, client).is_err() {
            self.counters.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
