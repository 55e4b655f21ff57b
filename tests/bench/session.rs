//! From the start of QEMU to a session of a client on the host.
//!
//! QEMU's user network takes a client's connection at once, and gives it up where the guest does not want it yet. So the
//! host knocks again and again, and the first connection on which a prompt comes counts.

use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Between two attempts.
const KNOCK: Duration = Duration::from_millis(40);
/// Between two looks at what came.
const LOOK: Duration = Duration::from_millis(1);
const PROMPT: &[u8] = b">>> ";

/// Waits until a session on this port of the host's prompts; `None` when none does within `limit`.
pub fn wait(port: u16, limit: Duration) -> Option<Duration> {
    let begun = Instant::now();
    let mut clients: Vec<(TcpStream, Vec<u8>)> = Vec::new();
    let mut next = begun;
    while begun.elapsed() < limit {
        if Instant::now() >= next {
            next += KNOCK;
            // QEMU may not listen yet.
            if let Ok(client) = TcpStream::connect(("127.0.0.1", port))
                && client.set_nonblocking(true).is_ok()
            {
                clients.push((client, Vec::new()));
            }
        }
        clients.retain_mut(|(client, came)| is_open(client, came));
        if clients.iter().any(|(_, came)| came.ends_with(PROMPT)) {
            return Some(begun.elapsed());
        }
        thread::sleep(LOOK);
    }
    None
}

/// Takes what came; whether more may come.
fn is_open(client: &mut TcpStream, came: &mut Vec<u8>) -> bool {
    let mut bytes = [0; 4096];
    loop {
        match client.read(&mut bytes) {
            Ok(0) => return false,
            Ok(len) => came.extend_from_slice(&bytes[..len]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}
