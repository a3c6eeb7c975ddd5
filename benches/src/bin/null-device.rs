//! `null-device IFACE`: a bare device of ours without a cipher, for `versus`. Configured like any other through its
//! control socket; ends when its socket file or its parent goes.

use ginnel_backends::device::{Device, DeviceOptions};
use ginnel_backends::linux::Linux;
use ginnel_benches::null::Null;
use ginnel_control::uapi::{DIRECTORY, UapiServer};
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;

fn main() -> Result<(), Box<dyn Error>> {
    let name = std::env::args().nth(1).ok_or("usage: null-device IFACE")?;
    let options = DeviceOptions::new(&name);
    let device = Arc::new(Device::open_on::<Null, _>(Linux, &options)?);
    let (lost, wait) = channel();
    let server = UapiServer::start(Path::new(DIRECTORY), &name, Arc::clone(&device), move || {
        // Nobody waits any more: the process is ending.
        let _ = lost.send(());
    })?;
    let ended = wait.recv();
    drop(server);
    ended.map_err(Into::into)
}
