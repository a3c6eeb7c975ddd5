//! As much of HTTP/1.1 as a scrape takes: one request for one page on one connection, which is closed then. What a client
//! sends is bounded in length and time, and no bytes of it are more than looked at.

use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// A head longer than this is none. Browsers and scrapers send some hundred bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// For the whole head to come, for the answer to be taken, and for what else the client sends before it hangs up.
const HEAD_TIME: Duration = Duration::from_secs(2);
const ANSWER_TIME: Duration = Duration::from_secs(20);
const REST_TIME: Duration = Duration::from_secs(1);
const REST_BYTES_MAX: u64 = 64 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// The page.
    Page,
    /// What would be said of it.
    Head,
}

/// Why there is no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No HTTP.
    Malformed,
    /// Nothing is there.
    NotFound,
    /// The method is none of GET and HEAD.
    Method,
    /// The head did not come in time.
    Slow,
    /// The head is too long.
    Long,
    /// Another version of HTTP.
    Version,
    /// The daemon cannot say anything just now.
    Unavailable,
}

impl Refusal {
    fn line(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::Method => "405 Method Not Allowed",
            Self::Slow => "408 Request Timeout",
            Self::Long => "431 Request Header Fields Too Large",
            Self::Version => "505 HTTP Version Not Supported",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

/// Reads a request.
///
/// # Errors
/// The refusal to answer it with; `None` where the client hung up.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Wish, Option<Refusal>> {
    let mut head = Vec::with_capacity(1024);
    let whole = async {
        loop {
            let room = (HEAD_BYTES_MAX - head.len()).min(1024) as u64;
            match (&mut *stream).take(room).read_buf(&mut head).await {
                Ok(0) | Err(_) if head.len() < HEAD_BYTES_MAX => return Err(None),
                Ok(0) | Err(_) => return Err(Some(Refusal::Long)),
                Ok(_) if ends(&head) => return Ok(()),
                Ok(_) => {}
            }
        }
    };
    timeout(HEAD_TIME, whole).await.unwrap_or(Err(Some(Refusal::Slow)))?;
    parse(&head).map_err(Some)
}

/// Whether the empty line behind the fields is there.
fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|bytes| bytes == b"\r\n\r\n") || head.windows(2).any(|bytes| bytes == b"\n\n")
}

/// Looks at the first line; the fields do not matter to one who has one page and always closes.
fn parse(head: &[u8]) -> Result<Wish, Refusal> {
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| Refusal::Malformed)?;
    let words: Vec<_> = line.strip_suffix('\r').unwrap_or(line).split(' ').collect();
    let [method, target, version] = words[..] else { return Err(Refusal::Malformed) };
    match version.strip_prefix("HTTP/").ok_or(Refusal::Malformed)? {
        "1.1" | "1.0" => {}
        _ => return Err(Refusal::Version),
    }
    let wish = match method {
        "GET" => Wish::Page,
        "HEAD" => Wish::Head,
        _ => return Err(Refusal::Method),
    };
    // A scraper may add a query of its own.
    match target.split('?').next() {
        Some("/metrics") => Ok(wish),
        Some(path) if path.starts_with('/') => Err(Refusal::NotFound),
        _ => Err(Refusal::Malformed),
    }
}

/// Answers with a page, and ends the conversation.
pub(super) async fn answer(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), wish: Wish, kind: &str, page: &str) {
    let body = if wish == Wish::Page { page } else { "" };
    send(stream, format!("{}{body}", head("200 OK", kind, page.len(), ""))).await;
}

/// Says why there is none, and ends the conversation.
pub(super) async fn refuse(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), refusal: Refusal) {
    let body = match refusal {
        Refusal::NotFound => "the metrics are at /metrics\n".to_owned(),
        other => format!("{}\n", other.line()),
    };
    let allow = if refusal == Refusal::Method { "Allow: GET, HEAD\r\n" } else { "" };
    send(stream, format!("{}{body}", head(refusal.line(), "text/plain; charset=utf-8", body.len(), allow))).await;
}

fn head(line: &str, kind: &str, bytes: usize, more: &str) -> String {
    format!("HTTP/1.1 {line}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\nConnection: close\r\n{more}\r\n")
}

/// Whoever does not take the answer goes without.
async fn send(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), text: String) {
    let sent = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = timeout(ANSWER_TIME, sent).await {
        // Closing over unread bytes would take the answer back from a client that still sends.
        let mut rest = stream.take(REST_BYTES_MAX);
        let _ = timeout(REST_TIME, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::duplex;

    #[test]
    fn first_lines() {
        for (head, expected) in [
            ("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", Ok(Wish::Page)),
            ("GET /metrics?x=/y HTTP/1.0\n\n", Ok(Wish::Page)),
            ("HEAD /metrics HTTP/1.1\r\n\r\n", Ok(Wish::Head)),
            ("POST /metrics HTTP/1.1\r\n\r\n", Err(Refusal::Method)),
            ("get /metrics HTTP/1.1\r\n\r\n", Err(Refusal::Method)),
            ("GET / HTTP/1.1\r\n\r\n", Err(Refusal::NotFound)),
            ("GET /metrics/ HTTP/1.1\r\n\r\n", Err(Refusal::NotFound)),
            ("GET http://h/metrics HTTP/1.1\r\n\r\n", Err(Refusal::Malformed)),
            ("PRI * HTTP/2.0\r\n\r\n", Err(Refusal::Version)),
            ("GET /metrics\r\n\r\n", Err(Refusal::Malformed)),
            ("GET  /metrics HTTP/1.1\r\n\r\n", Err(Refusal::Malformed)),
            ("\r\n\r\n", Err(Refusal::Malformed)),
            ("", Err(Refusal::Malformed)),
        ] {
            assert_eq!(parse(head.as_bytes()), expected, "{head:?}");
        }
        assert_eq!(parse(b"GET /\xff HTTP/1.1\r\n\r\n"), Err(Refusal::Malformed));
    }

    /// What comes back for bytes that are sent in pieces, the last being followed by an end or not.
    async fn converse(pieces: &[&[u8]], hang_up: bool) -> String {
        let (mut client, mut server) = duplex(64 * 1024);
        let serving = tokio::spawn(async move {
            match read(&mut server).await {
                Ok(wish) => answer(&mut server, wish, "k", "page\n").await,
                Err(Some(refusal)) => refuse(&mut server, refusal).await,
                Err(None) => {}
            }
        });
        for piece in pieces {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        if hang_up {
            client.shutdown().await.unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        drop(client);
        serving.await.unwrap();
        answer
    }

    #[tokio::test]
    async fn a_scrape_gets_its_page_and_everything_else_an_end() {
        let page = "HTTP/1.1 200 OK\r\nContent-Type: k\r\nContent-Length: 5\r\nConnection: close\r\n\r\npage\n";
        assert_eq!(converse(&[b"GET /met", b"rics HTTP/1.1\r\n", b"\r\n"], false).await, page);
        let head = converse(&[b"HEAD /metrics HTTP/1.1\r\n\r\n"], false).await;
        assert_eq!(head, page.strip_suffix("page\n").unwrap());
        let refused = converse(&[b"PUT /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"], false).await;
        assert!(refused.starts_with("HTTP/1.1 405 ") && refused.contains("\r\nAllow: GET, HEAD\r\n"), "{refused}");
        assert!(converse(&[b"GET /metrics HTTP/1.1\r\nX: "], false).await.starts_with("HTTP/1.1 408 "));
        assert_eq!(converse(&[b"GET /metrics HTTP/1.1\r\nX: "], true).await, "");
        let long = vec![b'x'; HEAD_BYTES_MAX + 10];
        assert!(converse(&[&long], false).await.starts_with("HTTP/1.1 431 "));
        let just = [b"GET /metrics HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; HEAD_BYTES_MAX - 30], b"\r\n\r\n"].concat();
        assert_eq!(just.len(), HEAD_BYTES_MAX);
        assert_eq!(converse(&[&just], false).await, page);
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let asked = parse(&bytes);
            prop_assert!(asked.is_err() || bytes.starts_with(b"GET ") || bytes.starts_with(b"HEAD "));
            let _ = ends(&bytes);
        }
    }
}
