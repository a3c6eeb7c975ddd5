//! Sockets between processes of one machine: what they carry beside bytes, and what the kernel tells of the other end.
//!
//! The calls themselves are in `sys`; nothing here waits.

pub use super::sys::{DESCRIPTORS_MAX, Received, peer_groups, receive, take_inherited};

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::fs::File;
    use std::io::{IoSlice, Read, Seek, Write};
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;

    fn send(socket: &UnixStream, bytes: &[u8], files: &[File]) {
        let numbers: Vec<_> = files.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], &rights, MsgFlags::empty(), None).unwrap();
    }

    fn files(count: usize) -> Vec<File> {
        (0..count).map(|_| File::open("/proc/self/status").unwrap()).collect()
    }

    #[test]
    fn descriptors_come_with_the_bytes_they_were_sent_with() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (mut buffer, mut descriptors) = ([0; 16], Vec::new());
        near.write_all(b"ab").unwrap();
        let received = receive(far.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!((received, descriptors.len()), (Received { bytes: 2, descriptors_lost: false }, 0));
        let mut sent = files(1);
        send(&near, b"cd", &sent);
        sent[0].seek(std::io::SeekFrom::Start(0)).unwrap();
        let received = receive(far.as_fd(), &mut buffer, &mut descriptors).unwrap();
        assert_eq!((received.bytes, &buffer[..2]), (2, b"cd".as_slice()));
        let mut text = String::new();
        File::from(descriptors.pop().unwrap()).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("Name:"), "{text}");
    }

    #[test]
    fn more_descriptors_than_are_taken_are_told_and_closed() {
        let (near, far) = UnixStream::pair().unwrap();
        let mut descriptors: Vec<OwnedFd> = Vec::new();
        send(&near, b"x", &files(DESCRIPTORS_MAX + 1));
        let received = receive(far.as_fd(), &mut [0; 4], &mut descriptors).unwrap();
        assert_eq!((received.descriptors_lost, descriptors.len()), (true, DESCRIPTORS_MAX));
    }

    #[test]
    fn the_groups_of_the_other_end_are_those_of_its_process() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut told = peer_groups(near.as_fd()).unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        told.sort_unstable();
        own.sort_unstable();
        assert_eq!(told, own);
    }
}
