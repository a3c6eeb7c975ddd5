//! What fuzz targets need of the control side and nobody else: a connection to a whole node over doubles, and the pen of the
//! state journal. Behind the feature `fuzzing`, which adds this module and what it shows, and changes nothing.

use crate::ipc::server::serve_one;
use crate::ipc::wire::{ACCEPTED, EXAMPLES};
use crate::node::fake::Lab;
use crate::node::{Node, NodeOptions};
use crate::state::Tables;
use crate::state::journal::{checksum, write_snapshot};
use crate::temp_dir::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// Every frame that the contract shows as an example.
#[must_use]
pub fn examples() -> Vec<&'static str> {
    EXAMPLES.iter().chain(ACCEPTED).copied().collect()
}

/// What came of a connection.
#[derive(Debug)]
pub struct Conversation {
    /// Every byte the daemon sent.
    pub answers: Vec<u8>,
    /// The state journal afterwards.
    pub journal: Vec<u8>,
}

/// Opens a node with an empty state directory over doubles of device and host, sends `bytes` over one connection whose peer
/// may do everything, closes its writing half, and reads to the end.
///
/// # Panics
/// Where the machine has no descriptor, thread or temporary directory left, or the node cannot be opened.
#[must_use]
pub fn converse(bytes: &[u8]) -> Conversation {
    let dir = TempDir::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let answers = runtime.block_on(async {
        let lab = Lab::default();
        let options = NodeOptions { marker_dir: Some(dir.path().to_owned()), ..NodeOptions::new(&dir.join("state")) };
        let node = Node::open(lab.clone(), lab, options).await.expect("a node without state opens");
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        let (mut reader, mut writer) = ours.into_split();
        let send = async move {
            // A daemon that has heard enough closes; what is left unsent is of no interest then.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let mut answers = Vec::new();
        let receive = async {
            // A close with bytes unread is a reset.
            let _ = reader.read_to_end(&mut answers).await;
        };
        tokio::join!(serve_one(theirs, node), send, receive);
        answers
    });
    drop(runtime);
    let journal = std::fs::read(dir.join("state").join("journal")).unwrap_or_default();
    Conversation { answers, journal }
}

/// A journal with these lines behind right checksums.
#[must_use]
pub fn seal_lines<'a>(lines: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut text = Vec::new();
    for line in lines {
        text.extend_from_slice(checksum(line).as_bytes());
        text.push(b' ');
        text.extend_from_slice(line);
        text.push(b'\n');
    }
    text
}

/// A journal that says what `tables` do.
#[must_use]
pub fn journal_of(tables: &Tables) -> Vec<u8> {
    let mut text = Vec::new();
    write_snapshot(&mut text, "fuzz", tables);
    text
}
