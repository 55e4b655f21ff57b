//! /proc/net/unix: the sockets that processes have open (proc_pid_net(5)).

use alloc::{collections::BTreeSet, sync::Arc, vec::Vec};
use core::fmt::{self, Write as _};

use super::{UnixSocket, endpoint::Phase};
use crate::{
    fs::{OpenFile, socket::Socket, virtual_files::Listing},
    task::process,
};

/// SO_ACCEPTCON as the kernel's own flag, and the states SS_UNCONNECTED and SS_CONNECTED (linux/net.h).
const LISTENS: u32 = 1 << 16;
const UNCONNECTED: u32 = 1;
const CONNECTED: u32 = 3;

/// A line for each socket, once however many processes have it.
pub fn list(text: &mut Listing) -> fmt::Result {
    text.write_str("Num       RefCount Protocol Flags    Type St Inode Path\n")?;
    let mut seen = BTreeSet::new();
    for process in process::all() {
        let files = process.files();
        let mut from = 0;
        while let Some(fd) = files.next(from) {
            from = fd as usize + 1;
            let Ok(file) = files.get(fd) else { continue };
            if let Some(socket) = file.downcast::<Socket>()
                && let Some(family) = socket.family_ops::<UnixSocket>()
                && seen.insert(socket.inode())
            {
                line(text, &file, socket.inode(), family)?;
            }
        }
    }
    Ok(())
}

fn line(text: &mut Listing, file: &Arc<OpenFile>, inode: u64, socket: &UnixSocket) -> fmt::Result {
    let endpoint = &socket.endpoint;
    let (flags, number, name) = {
        let state = endpoint.state.lock();
        let (flags, number) = match state.phase {
            Phase::Listening { .. } => (LISTENS, UNCONNECTED),
            Phase::Connected => (0, CONNECTED),
            Phase::Unconnected => (0, if state.peer.is_some() { CONNECTED } else { UNCONNECTED }),
        };
        (flags, number, state.name.clone())
    };
    let (references, kind) = (Arc::strong_count(file), endpoint.kind.number());
    write!(text, "0000000000000000: {references:08X} 00000000 {flags:08X} {kind:04X} {number:02X} {inode:5}")?;
    if let Some(name) = name {
        // Behind the family; a name in no file system begins with a zero, and has no other at its end.
        let bytes = name.address().get(2..).unwrap_or_default();
        let bytes = if bytes.first() == Some(&0) { bytes } else { bytes.strip_suffix(b"\0").unwrap_or(bytes) };
        let shown: Vec<u8> = bytes.iter().map(|byte| if *byte == 0 { b'@' } else { *byte }).collect();
        write!(text, " {}", alloc::string::String::from_utf8_lossy(&shown))?;
    }
    text.write_str("\n")
}
