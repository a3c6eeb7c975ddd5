//! Where a peer is, from the text of a request: an address, a name to look up, or nothing yet.

use super::error::NodeError;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a name may take. Resolvers give up after 5 s per server by default; one full try is enough for a request
/// somebody waits for.
const LOOKUP_TIME: Duration = Duration::from_secs(5);

/// Longest host name (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

/// Turns `ip:port`, `[ip6]:port` or `name:port` into an address, looking the name up. `0.0.0.0:0` and `[::]:0` mean that
/// the endpoint is not known yet: `None`.
///
/// # Errors
/// [`NodeError::Endpoint`].
pub(super) async fn resolve(text: &str) -> Result<Option<SocketAddr>, NodeError> {
    let bad = |reason: String| NodeError::Endpoint { endpoint: text.to_owned(), reason };
    let address = match parse(text).map_err(|reason| bad(reason.into()))? {
        Parsed::Address(address) => address,
        // The resolver's order is the host's preference of families (RFC 6724).
        Parsed::Name(name, port) => lookup(name, port).await.map_err(bad)?[0],
    };
    match (address.ip().is_unspecified(), address.port()) {
        (true, 0) => Ok(None),
        (true, _) => {
            Err(bad("an unspecified address cannot be sent to; 0.0.0.0:0 stands for \"not known yet\"".into()))
        }
        (false, 0) => Err(bad("port 0 cannot be sent to".into())),
        (false, _) => Ok(Some(address)),
    }
}

enum Parsed<'a> {
    Address(SocketAddr),
    Name(&'a str, u16),
}

fn parse(text: &str) -> Result<Parsed<'_>, &'static str> {
    const SYNTAX: &str = "invalid socket address syntax (ip:port, [ip6]:port or name:port is wanted)";
    if let Ok(address) = text.parse() {
        return Ok(Parsed::Address(address));
    }
    let (name, port) = text.rsplit_once(':').ok_or(SYNTAX)?;
    let port = port.parse().map_err(|_| SYNTAX)?;
    let label_fits = |label: &str| {
        !label.is_empty() && label.len() <= 63 && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    // Digits and dots that are no address are a mistyped address, not a name to ask a resolver for.
    let wordy = name.bytes().any(|b| b.is_ascii_alphabetic());
    let labels = name.strip_suffix('.').unwrap_or(name).split('.');
    if name.len() <= NAME_BYTES_MAX && wordy && labels.into_iter().all(label_fits) {
        Ok(Parsed::Name(name, port))
    } else {
        Err(SYNTAX)
    }
}

/// All addresses that an endpoint which was accepted once leads to now; none where that cannot be told.
pub(super) async fn places(text: &str) -> Vec<SocketAddr> {
    match parse(text) {
        Ok(Parsed::Address(address)) => vec![address],
        Ok(Parsed::Name(name, port)) => {
            lookup(name, port).await.inspect_err(|reason| tracing::debug!(name, reason)).unwrap_or_default()
        }
        Err(_) => Vec::new(),
    }
}

/// The addresses of a name, at least one.
async fn lookup(name: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::time::timeout(LOOKUP_TIME, tokio::net::lookup_host((name, port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => return Err(format!("the name cannot be resolved: {error}")),
        Err(_) => return Err(format!("the name was not resolved within {} s", LOOKUP_TIME.as_secs())),
    };
    if addresses.is_empty() { Err("the name has no address".to_owned()) } else { Ok(addresses) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_names_and_the_unset_sentinel() {
        assert_eq!(resolve("192.0.2.50:51420").await.unwrap(), Some("192.0.2.50:51420".parse().unwrap()));
        assert_eq!(resolve("[2001:db8::1]:1").await.unwrap(), Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!(resolve("0.0.0.0:0").await.unwrap(), None);
        assert_eq!(resolve("[::]:0").await.unwrap(), None);
        let local = resolve("localhost:51420").await.unwrap().unwrap();
        assert!(local.ip().is_loopback() && local.port() == 51420);
    }

    #[tokio::test]
    async fn places_of_what_was_accepted() {
        assert_eq!(places("192.0.2.50:7").await, ["192.0.2.50:7".parse().unwrap()]);
        let local = places("localhost:7").await;
        assert!(!local.is_empty() && local.iter().all(|place| place.ip().is_loopback() && place.port() == 7));
        assert!(places("no-such-name.invalid:7").await.is_empty());
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        for text in [
            "",
            ":",
            "host",
            "host:",
            ":1",
            "host:port",
            "host:65536",
            "1.2.3:4",
            "1.2.3.4",
            "::1:5",
            "a b:1",
            "a/b:1",
            "[::1:1",
            "a..b:1",
        ] {
            let error = resolve(text).await.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("invalid peer endpoint {text}: invalid socket address syntax")),
                "{error}"
            );
        }
        assert!(resolve(&format!("{}:1", "a".repeat(300))).await.is_err());
        assert!(resolve("192.0.2.1:0").await.unwrap_err().to_string().contains("port 0"));
        assert!(resolve("0.0.0.0:51820").await.unwrap_err().to_string().contains("not known yet"));
    }
}
