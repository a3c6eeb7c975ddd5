//! Lines out of a byte stream, within bounds: a fixed buffer, however long the stream or its lines.
//!
//! Linear by construction: `searched` remembers how far the buffer has been searched for a line end, so that no byte is
//! looked at twice however small the pieces in which it arrives, and the unread rest (shorter than a line) is moved to
//! the front once per refill. The buffer is zeroed at the end, for private keys pass through it.

use super::limits::{BUFFER_BYTES, LINE_BYTES_MAX};
use std::io::{self, Read};
use zeroize::Zeroizing;

/// What the stream holds next.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its line end.
    Text(&'a [u8]),
    /// A line of more than [`LINE_BYTES_MAX`] bytes. It has been skipped.
    TooLong,
    /// The stream ended. Bytes after the last line end are no line and are not delivered.
    End,
}

/// A reader of lines.
pub struct Lines<R> {
    source: R,
    buffer: Zeroizing<Vec<u8>>,
    /// First byte not delivered.
    start: usize,
    /// First byte not yet searched for a line end.
    searched: usize,
    /// End of what was read.
    end: usize,
    /// The start of the present line was thrown away because it is too long.
    skipping: bool,
}

impl<R: Read> Lines<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source, buffer: Zeroizing::new(vec![0; BUFFER_BYTES]), start: 0, searched: 0, end: 0, skipping: false }
    }

    /// What the lines come from.
    pub fn source_mut(&mut self) -> &mut R {
        &mut self.source
    }

    /// The next line.
    ///
    /// # Errors
    /// What the source says, [`io::ErrorKind::Interrupted`] excepted.
    pub fn next_line(&mut self) -> io::Result<Line<'_>> {
        let length = loop {
            if let Some(found) = self.buffer[self.searched..self.end].iter().position(|&byte| byte == b'\n') {
                break self.searched + found - self.start;
            }
            self.searched = self.end;
            if self.end - self.start > LINE_BYTES_MAX {
                self.skipping = true;
                self.start = self.end;
            }
            if !self.refill()? {
                return Ok(Line::End);
            }
        };
        let line = self.start..self.start + length;
        self.start = line.end + 1;
        self.searched = self.start;
        if std::mem::take(&mut self.skipping) || length > LINE_BYTES_MAX {
            return Ok(Line::TooLong);
        }
        Ok(Line::Text(&self.buffer[line]))
    }

    /// Reads once. False at the end of the stream.
    fn refill(&mut self) -> io::Result<bool> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.searched -= self.start;
        self.start = 0;
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(bytes) => {
                    self.end += bytes;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Delivers `text` in pieces of at most `piece` bytes.
    struct Pieces<'a> {
        text: &'a [u8],
        piece: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            // So little is moved to the front, and so much is read, that refills cost no more than the reading itself.
            assert!(into.len() >= BUFFER_BYTES - LINE_BYTES_MAX, "a refill has room for almost a buffer");
            let (now, later) = self.text.split_at(self.piece.min(into.len()).min(self.text.len()));
            into[..now.len()].copy_from_slice(now);
            self.text = later;
            Ok(now.len())
        }
    }

    /// All lines; `None` for one that is too long.
    fn collect(text: &[u8], piece: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(Pieces { text, piece });
        let mut all = Vec::new();
        loop {
            match lines.next_line().expect("memory does not fail") {
                Line::Text(text) => all.push(Some(text.to_vec())),
                Line::TooLong => all.push(None),
                Line::End => return all,
            }
        }
    }

    #[test]
    fn lines_are_cut_at_line_ends_only() {
        assert_eq!(collect(b"", 1), []);
        assert_eq!(collect(b"half", 1), []);
        assert_eq!(collect(b"a\n\nb\r\nrest", 3), [Some(b"a".to_vec()), Some(b"".to_vec()), Some(b"b\r".to_vec())]);
    }

    #[test]
    fn a_line_of_any_length_is_skipped_whole() {
        for (length, fits) in [(LINE_BYTES_MAX, true), (LINE_BYTES_MAX + 1, false), (3 * BUFFER_BYTES, false)] {
            for piece in [1_000, BUFFER_BYTES] {
                let mut text = vec![b'x'; length];
                text.extend_from_slice(b"\nnext\n");
                let long = fits.then(|| vec![b'x'; length]);
                assert_eq!(collect(&text, piece), [long, Some(b"next".to_vec())], "{length} bytes by {piece}");
            }
        }
    }

    #[test]
    fn the_number_of_reads_follows_the_length() {
        struct Counting {
            text: io::Cursor<Vec<u8>>,
            reads: usize,
        }
        impl Read for Counting {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                self.reads += 1;
                self.text.read(into)
            }
        }
        // Up to the length of a request for 10,000 peers and 100,000 allowed IPs.
        for count in [0, 1_000, 220_000] {
            let text = b"allowed_ip=fd00:1234:5678:9abc::/64\n".repeat(count);
            let reads_max = text.len() / (BUFFER_BYTES - LINE_BYTES_MAX) + 2;
            let mut lines = Lines::new(Counting { text: io::Cursor::new(text), reads: 0 });
            let found = std::iter::from_fn(|| Some(lines.next_line().unwrap() != Line::End)).take_while(|&line| line);
            assert_eq!(found.count(), count);
            assert!(lines.source.reads <= reads_max, "{} reads for {count} lines", lines.source.reads);
        }
    }

    #[test]
    fn a_failing_source_is_reported() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::ErrorKind::TimedOut.into())
            }
        }
        assert_eq!(Lines::new(Failing).next_line().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_size_of_pieces_does_not_matter(
            parts in proptest::collection::vec((0_usize..2 * LINE_BYTES_MAX, any::<u8>()), 0..200),
            piece in 1_usize..5_000,
        ) {
            let text: Vec<u8> = parts.iter().flat_map(|&(length, byte)| {
                std::iter::repeat_n(byte, length).chain([b'\n'])
            }).collect();
            let naive: Vec<Option<Vec<u8>>> = text
                .split_inclusive(|&byte| byte == b'\n')
                .map(|line| &line[..line.len() - 1])
                .map(|line| (line.len() <= LINE_BYTES_MAX).then(|| line.to_vec()))
                .collect();
            prop_assert_eq!(collect(&text, piece), naive);
        }
    }
}
