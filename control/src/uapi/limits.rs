//! Every bound of the control socket, with its reason.

use std::time::Duration;

/// Longest line. The longest that means anything is an IPv6 endpoint with an interface name, below 100 bytes.
pub const LINE_BYTES_MAX: usize = 1_024;

/// Longest `set`, in bytes. 10,000 peers with every key set and 100,000 allowed IPs take 8 MB; four times that leaves
/// room. What is parsed from it takes at most four times its length, which happens with `allowed_ip=::/0` in a growing
/// vector.
pub const REQUEST_BYTES_MAX: usize = 32 << 20;

/// Room for text read and not yet parsed, and for text rendered and not yet sent: one socket buffer's worth.
pub const BUFFER_BYTES: usize = 64 << 10;

/// Clients served at once; more wait in the backlog. Together with [`REQUEST_BYTES_MAX`] this bounds the memory that
/// clients can claim.
pub const CLIENTS_MAX: usize = 8;

/// Connections waiting to be accepted.
pub const BACKLOG: i32 = 64;

/// Time from the end of one answer to the last byte of the next request. A client that keeps its connection open
/// without a word loses it after this, so that idle clients cannot hold all [`CLIENTS_MAX`] places.
pub const REQUEST_TIME_MAX: Duration = Duration::from_secs(10);

/// Time for a client to read the whole of an answer. The answer for 10,000 peers is some 8 MB.
pub const ANSWER_TIME_MAX: Duration = Duration::from_secs(10);

/// How often the server looks whether its socket file is still there.
pub const SOCKET_FILE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

const _: () = assert!(LINE_BYTES_MAX < BUFFER_BYTES, "a line fits into the buffer");
