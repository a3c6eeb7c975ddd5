//! The thread that writes: takes records from a queue and gives each to where the log goes.

use super::file::LogFiles;
use super::journal::Journal;
use super::limit::Limiter;
use super::record::Record;
use std::io::{Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};
use tracing::Level;

/// Records that wait to be written: a burst, in about a megabyte.
const QUEUE_RECORDS: usize = 4_096;

/// How often withheld lines are told where no other line does.
const REMAINDER_INTERVAL: Duration = Duration::from_secs(10);

/// How long the end of the process waits for the rest to be written.
const FLUSH_TIME: Duration = Duration::from_secs(1);

/// Where the lines for people go.
pub(super) enum Console {
    Text { colours: bool },
    Json,
    Journal(Journal),
}

enum Message {
    Record(Box<Record>),
    Flush(SyncSender<()>),
}

/// The way in. Clones share it.
#[derive(Clone)]
pub(super) struct Queue {
    sender: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// Puts a record in; counts it as lost where there is no room.
    pub(super) fn put(&self, record: Record) {
        if let Err(TrySendError::Full(_)) = self.sender.try_send(Message::Record(Box::new(record))) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The running thread. Dropping it waits a moment for what is in the queue.
pub(super) struct Writer(Queue);

impl Writer {
    /// Starts the thread; where the system has none left, nothing is written.
    pub(super) fn start(console: Console, files: Option<LogFiles>, limiter: Arc<Limiter>) -> Self {
        let (sender, receiver) = sync_channel(QUEUE_RECORDS);
        let queue = Queue { sender, lost: Arc::default() };
        let sinks = Sinks { console, files, limiter, lost: queue.lost.clone(), next_remainder: Instant::now() };
        let started = thread::Builder::new().name("ginnel-log".to_owned()).spawn(move || sinks.run(&receiver));
        if let Err(error) = started {
            // There is no log to tell.
            let _ = writeln!(stderr(), "no thread for the log: {error}");
        }
        Self(queue)
    }

    pub(super) fn queue(&self) -> Queue {
        self.0.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let (done, wait) = sync_channel(1);
        let deadline = Instant::now() + FLUSH_TIME;
        let mut message = Message::Flush(done);
        while let Err(TrySendError::Full(again)) = self.0.sender.try_send(message) {
            if Instant::now() >= deadline {
                return;
            }
            message = again;
            thread::sleep(Duration::from_millis(5));
        }
        // Whoever does not write in time is not waited for.
        let _ = wait.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

struct Sinks {
    console: Console,
    files: Option<LogFiles>,
    limiter: Arc<Limiter>,
    lost: Arc<AtomicU64>,
    next_remainder: Instant,
}

impl Sinks {
    fn run(mut self, messages: &Receiver<Message>) {
        if let Some(Err(complaint)) = self.files.as_mut().map(|files| files.open(SystemTime::now())) {
            self.files = None;
            self.write(&Record::own(Level::WARN, complaint));
        }
        loop {
            match messages.recv_timeout(REMAINDER_INTERVAL) {
                Ok(Message::Record(record)) => self.write(&record),
                Ok(Message::Flush(done)) => {
                    self.tell_losses();
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= self.next_remainder {
                self.tell_losses();
            }
        }
    }

    fn tell_losses(&mut self) {
        let now = Instant::now();
        self.next_remainder = now + REMAINDER_INTERVAL;
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            self.write(&Record::own(
                Level::WARN,
                format!("lost {lost} lines: they came faster than they can be written"),
            ));
        }
        for withheld in self.limiter.remainders(now) {
            let place = withheld.place;
            let (file, line) = (place.file().unwrap_or("?"), place.line().unwrap_or(0));
            let message = format!("suppressed {} lines like those before", withheld.lines);
            let mut record = Record::own(*place.level(), message);
            record.target = place.target();
            record.fields = vec![("at", format!("{file}:{line}").into())];
            self.write(&record);
        }
    }

    /// Where standard error or the disk is gone there is nobody left to tell.
    fn write(&mut self, record: &Record) {
        match &mut self.console {
            Console::Text { colours } => drop(stderr().write_all(record.text(*colours).as_bytes())),
            Console::Json => drop(stderr().write_all(record.json().as_bytes())),
            Console::Journal(journal) => {
                if journal.send(record).is_err() {
                    let _ = stderr().write_all(record.text(false).as_bytes());
                }
            }
        }
        if let Some(files) = &mut self.files {
            files.write(record);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A queue, and what is in it.
    pub(in super::super) fn collect() -> (Queue, impl FnOnce() -> Vec<Record>) {
        let (sender, receiver) = sync_channel(QUEUE_RECORDS);
        let records = move || {
            let record = |message| match message {
                Message::Record(record) => Some(*record),
                Message::Flush(_) => None,
            };
            receiver.try_iter().filter_map(record).collect()
        };
        (Queue { sender, lost: Arc::default() }, records)
    }

    #[test]
    fn whoever_logs_does_not_wait_for_who_writes() {
        let (queue, records) = collect();
        for _ in 0..QUEUE_RECORDS + 7 {
            queue.put(Record::own(Level::INFO, "x"));
        }
        assert_eq!((queue.lost.load(Ordering::Relaxed), records().len()), (7, QUEUE_RECORDS));
    }
}
