//! The rtnetlink connection itself: opening it in the right namespace and running its task.
//!
//! What can be asked through it is in `link`, `address` and `route`. A connection stays in the namespace in which its
//! socket was made, whatever threads use it later.

use super::{HostError, Netns};
use std::io;

/// A handle to one rtnetlink connection. Clones share the connection; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Netlink {
    pub(super) handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens a connection in the network namespace of the current thread. To be called within a tokio runtime, which
    /// runs the connection from then on.
    ///
    /// # Errors
    /// [`HostError::System`] outside a runtime or where the kernel gives no socket.
    pub fn open() -> Result<Self, HostError> {
        let runtime = runtime()?;
        let (connection, handle) = connect()?;
        runtime.spawn(connection);
        Ok(Self { handle })
    }

    /// Opens a connection in `netns`, run by the current tokio runtime like one of [`Netlink::open`]. Blocks for the
    /// time of starting a thread.
    ///
    /// # Errors
    /// As [`Netlink::open`], and [`HostError::Denied`] where the namespace may not be entered.
    pub fn open_in(netns: &Netns) -> Result<Self, HostError> {
        let runtime = runtime()?;
        let (connection, handle) = netns.run_in(|| {
            let _guard = runtime.enter();
            connect()
        })??;
        runtime.spawn(connection);
        Ok(Self { handle })
    }
}

type Connection = rtnetlink::proto::Connection<rtnetlink::packet_route::RouteNetlinkMessage>;

const OPEN: &str = "open a netlink socket";

fn connect() -> Result<(Connection, rtnetlink::Handle), HostError> {
    // Dropping the stream of unsolicited messages is what lets the connection end with its handles.
    let (connection, handle, _) = rtnetlink::new_connection().map_err(|error| HostError::io(OPEN, error))?;
    Ok((connection, handle))
}

fn runtime() -> Result<tokio::runtime::Handle, HostError> {
    tokio::runtime::Handle::try_current()
        .map_err(|error| HostError::System { what: OPEN.into(), source: io::Error::other(error) })
}
