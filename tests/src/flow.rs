//! Traffic that goes on while something is changed: two TCP connections, one for each direction, every byte checked.

use crate::party::Party;
use crate::wait::{PATIENCE, StopOnDrop, until};
use ginnel_control::lab::traffic::End;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

/// The stream repeats after so many bytes: a prime, so that no exchange of segments goes unnoticed.
const PERIOD: usize = 65_521;

/// Bytes of progress, in each direction, that count as "it goes on": more than was on the way before.
const PROGRESS_BYTES: u64 = 4_000_000;

/// Traffic at work, as seen by who makes changes under it.
pub struct Flow {
    block: Vec<u8>,
    stop: AtomicBool,
    /// Bytes that arrived, there and back.
    arrived: [AtomicU64; 2],
}

/// Runs `work` while traffic flows between two parties.
///
/// # Panics
/// Where `work` does, or a byte is missing or wrong, or the traffic stands still.
#[track_caller]
pub fn under_traffic(near: &Party, far: &Party, v6: bool, work: impl FnOnce(&Flow)) {
    let ends = [near.inner(v6), far.inner(v6)];
    let flow = Flow {
        block: (0..2 * PERIOD).map(|place| ((place % PERIOD * 0x9e37) >> 7) as u8).collect(),
        stop: AtomicBool::new(false),
        arrived: [const { AtomicU64::new(0) }; 2],
    };
    let streams = [connect(&ends[0], &ends[1]), connect(&ends[1], &ends[0])];
    thread::scope(|scope| {
        let threads: Vec<_> = (streams.iter().zip(&flow.arrived))
            .map(|((from, to), arrived)| (scope.spawn(|| flow.write(from)), scope.spawn(|| flow.read(to, arrived))))
            .collect();
        {
            let _stop = StopOnDrop(&flow.stop);
            flow.wait_progress();
            work(&flow);
            flow.wait_progress();
        }
        for (writer, reader) in threads {
            let sent = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let received = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            assert_eq!(sent, received, "bytes are missing");
        }
    });
}

impl Flow {
    /// Waits until the traffic has moved on in both directions.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn wait_progress(&self) {
        for arrived in &self.arrived {
            let goal = arrived.load(Ordering::Relaxed) + PROGRESS_BYTES;
            until("traffic goes on", || arrived.load(Ordering::Relaxed) >= goal);
        }
    }

    /// Sends until told to stop. Returns how much.
    fn write(&self, mut socket: &TcpStream) -> u64 {
        let mut sent = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let at = (sent % PERIOD as u64) as usize;
            sent += socket.write(&self.block[at..at + PERIOD]).expect("the stream takes bytes") as u64;
        }
        socket.shutdown(Shutdown::Write).expect("the stream ends");
        sent
    }

    /// Receives and compares to the end. Returns how much.
    fn read(&self, mut socket: &TcpStream, arrived: &AtomicU64) -> u64 {
        let mut piece = vec![0; PERIOD];
        let mut received = 0;
        loop {
            let len = socket.read(&mut piece).expect("the stream gives bytes");
            if len == 0 {
                return received;
            }
            let at = (received % PERIOD as u64) as usize;
            assert!(piece[..len] == self.block[at..at + len], "a wrong byte after {received} good ones");
            received += len as u64;
            arrived.store(received, Ordering::Relaxed);
        }
    }
}

fn connect(from: &End, to: &End) -> (TcpStream, TcpStream) {
    let bind = || TcpListener::bind(SocketAddr::new(to.ip, 0));
    let listener = to.netns.run_in(bind).expect("the namespace can be entered").expect("the address is there");
    let address = listener.local_addr().expect("it is bound");
    let dial = || TcpStream::connect_timeout(&address, PATIENCE);
    let near = from.netns.run_in(dial).expect("the namespace can be entered").expect("a connection");
    let (far, _) = listener.accept().expect("a connection");
    near.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
    far.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
    (near, far)
}
