//! Noise: junk on the WireGuard ports and frames that are none, at a low rate. Nobody may take notice.

use super::node::Node;
use super::scene::{PORT, Scene};
use super::{Broken, Deed, Run};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Time between datagrams, and between frames.
const DATAGRAM_EVERY: Duration = Duration::from_millis(50);
const FRAMES_EVERY: u32 = 8;

/// Lengths of WireGuard's messages: initiation, response, cookie, keepalive.
const LENGTHS: [usize; 4] = [148, 92, 64, 32];

/// Makes noise for both nodes until no more changes are to be begun.
pub fn make(run: &Run, scene: &Scene, seed: u64) -> Result<(), Broken> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut round = 0_u32;
    let failed = |error: std::io::Error| Broken(format!("open a UDP socket: {error}"));
    let open = |node: &Node| node.netns.run_in(|| UdpSocket::bind("0.0.0.0:0"))?.map_err(failed);
    let sockets = [open(&scene.sides[0].node)?, open(&scene.sides[1].node)?];
    while let Some(_change) = run.change() {
        for (side, socket) in sockets.iter().enumerate() {
            let far = &scene.sides[1 - side];
            let port = if rng.random_bool(0.5) { PORT } else { far.pay_port() };
            // Lost where there is no way.
            let _ = socket.send_to(&datagram(&mut rng), (far.node.underlay(), port));
            run.did(Deed::Junk, 1);
            if round.is_multiple_of(FRAMES_EVERY) {
                frames(&mut rng, &far.node);
                run.did(Deed::Junk, 1);
            }
        }
        round = round.wrapping_add(1);
        drop(_change);
        run.rest(DATAGRAM_EVERY);
    }
    Ok(())
}

/// Random bytes, of which most look like the beginning of one of WireGuard's messages.
fn datagram(rng: &mut StdRng) -> Vec<u8> {
    let which = rng.random_range(0..LENGTHS.len());
    let len = if rng.random_bool(0.7) { LENGTHS[which] } else { rng.random_range(0..1_500) };
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    if rng.random_bool(0.8)
        && let Some(head) = bytes.first_chunk_mut()
    {
        *head = [u8::try_from(which + 1).unwrap_or(1), 0, 0, 0];
    }
    bytes
}

/// A connection that says something that is no request, and leaves.
fn frames(rng: &mut StdRng, node: &Node) {
    // It is away at the moment.
    let Ok(mut stream) = UnixStream::connect(node.file("sock")) else { return };
    let frame = |body: &[u8]| [&u32::try_from(body.len()).unwrap_or_default().to_le_bytes(), body].concat();
    let mut bytes = vec![0; rng.random_range(0..600)];
    rng.fill_bytes(&mut bytes);
    let bytes = match rng.random_range(0..6) {
        0 => bytes,
        1 => frame(&bytes),
        // More than is allowed, and more than comes.
        2 => u32::MAX.to_le_bytes().to_vec(),
        3 => [&1_000_u32.to_le_bytes()[..], b"{\"frame\":\"request\""].concat(),
        4 => frame(br#"{"frame":"request","id":1,"request":{"op":"attach_container","handle":7}}"#),
        _ => frame(br#"{"frame":"request","id":18446744073709551615,"request":{"op":"no_such_thing"}}"#),
    };
    // It may be hung up on at any time.
    let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
    let _ = stream.write_all(&bytes).and_then(|()| stream.read(&mut [0; 512]));
}
