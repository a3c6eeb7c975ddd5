//! Queries over TCP (RFC 7766): messages behind their lengths, many on one connection, their answers in any order. A
//! connection that says or takes nothing for a while is closed; there are so many at once, and so many of each client.

use super::Core;
use super::answer::{Outcome, Way};
use super::config::{CONNECTIONS_MAX, CONNECTIONS_OF_CLIENT_MAX, IDLE_TIME, PIPELINED_MAX};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// How long to wait where no connection can be taken: descriptors come back with connections that end.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Takes connections for as long as it runs.
pub(super) async fn serve(core: Arc<Core>, listener: TcpListener, server: IpAddr) {
    loop {
        let (stream, client) = match listener.accept().await {
            Ok((stream, client)) => (stream, client.ip().to_canonical()),
            Err(error) => {
                tracing::debug!(%error, "no connection could be taken");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // Whom we do not answer learns so at once. A query of theirs has not been read, so there is none to refuse.
        if !core.clients.allow(client) {
            core.counters.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let Some(place) = Place::take(&core.places, client) else {
            core.counters.crowded.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let way = Way { client, server, stream: true };
        tokio::spawn(converse(core.clone(), stream, way, place));
    }
}

/// One connection from its first query to its end.
async fn converse(core: Arc<Core>, stream: TcpStream, way: Way, _place: Place) {
    // Answers are written whole; to hold the last packet back would only delay it.
    let _ = stream.set_nodelay(true);
    let (reader, writer) = stream.into_split();
    let (answers, waiting) = mpsc::channel(PIPELINED_MAX);
    let (reading, writing) = (read(&core, reader, way, answers), write(writer, waiting));
    // The writer ends when all answers are written or nobody takes them, and then there is nobody to read from either.
    tokio::pin!(reading, writing);
    tokio::select! {
        _ = &mut reading => drop(writing.await),
        _ = &mut writing => {}
    }
}

async fn read(core: &Arc<Core>, mut reader: OwnedReadHalf, way: Way, answers: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(PIPELINED_MAX));
    loop {
        let mut query = {
            let length = timeout(IDLE_TIME, reader.read_u16()).await??;
            vec![0; length.into()]
        };
        timeout(IDLE_TIME, reader.read_exact(&mut query)).await??;
        let mut out = Vec::new();
        match core.answer(&query, way, &mut out) {
            // No DNS: whoever says such things is better off elsewhere.
            Outcome::Silence => return Ok(()),
            Outcome::Answer => answers.send(out).await.map_err(io::Error::other)?,
            Outcome::Forward(asked) => {
                let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
                let (core, answers) = (core.clone(), answers.clone());
                tokio::spawn(async move {
                    let _place = place;
                    core.forward(&asked, &mut out).await;
                    // Whoever hung up does not want it.
                    let _ = answers.send(out).await;
                });
            }
        }
    }
}

async fn write(mut writer: OwnedWriteHalf, mut answers: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(answer) = answers.recv().await {
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let message = [&length.to_be_bytes(), answer.as_slice()].concat();
        timeout(IDLE_TIME, writer.write_all(&message)).await??;
    }
    Ok(())
}

/// How many connections there are, by client.
pub(super) type Places = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// The right to one of them.
struct Place {
    places: Places,
    client: IpAddr,
}

impl Place {
    fn take(places: &Places, client: IpAddr) -> Option<Self> {
        let mut taken = lock(places);
        let free = taken.values().sum::<usize>() < CONNECTIONS_MAX
            && taken.get(&client).is_none_or(|of_client| *of_client < CONNECTIONS_OF_CLIENT_MAX);
        free.then(|| {
            *taken.entry(client).or_default() += 1;
            Self { places: places.clone(), client }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.places);
        if let Some(of_client) = taken.get_mut(&self.client) {
            *of_client -= 1;
            if *of_client == 0 {
                taken.remove(&self.client);
            }
        }
    }
}

fn lock(places: &Places) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_and_so_many_of_each() {
        let places = Places::default();
        let client = |number: usize| IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
        let take = |number| Place::take(&places, client(number));
        let mut held: Vec<_> = (0..CONNECTIONS_OF_CLIENT_MAX).map(|_| take(1).unwrap()).collect();
        assert!(take(1).is_none());
        held.extend((CONNECTIONS_OF_CLIENT_MAX..CONNECTIONS_MAX).map(|number| take(2 + number % 200).unwrap()));
        assert!(take(250).is_none());
        held.truncate(1);
        assert!(take(1).is_some() && take(250).is_some());
        held.clear();
        assert!(lock(&places).is_empty());
    }
}
