//! Sending and receiving messages: addresses, pieces and ancillary data between the program and a socket.

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux, net};
use hal::UserAddr;
use klib::credentials::Ids;

use super::{
    super::{Call, file_io},
    read_address, socket_of, write_address,
};
use crate::{
    fs::{
        OpenFile, ReadBuffer, WriteBuffer,
        socket::{Control, Credentials, Incoming, Outgoing, Socket},
    },
    mm::user,
    task::process,
    time,
};

/// The most one call transfers.
const MAX_TRANSFER: usize = 0x7fff_f000;
/// The most pieces a message may have (UIO_MAXIOV).
const MAX_PIECES: usize = 1024;
/// The most messages of one sendmmsg or recvmmsg.
const MAX_MESSAGES: usize = 1024;
/// The most ancillary data of one message (/proc/sys/net/core/optmem_max).
const MAX_CONTROL: usize = 128 * 1024;
/// The most files of one message (unix(7), SCM_RIGHTS).
const MAX_FILES: usize = 253;
/// MSG_WAITFORONE of recvmmsg(2), which the headers keep to the C library.
const MSG_WAITFORONE: u32 = 0x10000;
/// Bytes of `struct cmsghdr`, and what ancillary data is aligned to.
const HEADER: usize = size_of::<net::cmsghdr>();
const ALIGNMENT: usize = size_of::<usize>();
/// Bytes of `struct mmsghdr`, and where its `msg_len` is.
const VECTOR_ENTRY: u64 = size_of::<net::mmsghdr>() as u64;
const VECTOR_LEN: u64 = core::mem::offset_of!(net::mmsghdr, msg_len) as u64;

const fn offset(base: UserAddr, bytes: u64) -> UserAddr {
    UserAddr::new(base.get().wrapping_add(bytes))
}

/// `struct msghdr` as a program gave it.
struct Header {
    at: UserAddr,
    name: UserAddr,
    name_len: i32,
    pieces: UserAddr,
    nr_pieces: usize,
    control: UserAddr,
    control_len: usize,
}

impl Header {
    fn read(at: UserAddr) -> Result<Self> {
        let field = |bytes: usize| user::copy_in::<u64>(offset(at, bytes as u64));
        let header = Self {
            at,
            name: UserAddr::new(field(core::mem::offset_of!(net::msghdr, msg_name))?),
            name_len: user::copy_in(offset(at, core::mem::offset_of!(net::msghdr, msg_namelen) as u64))?,
            pieces: UserAddr::new(field(core::mem::offset_of!(net::msghdr, msg_iov))?),
            nr_pieces: field(core::mem::offset_of!(net::msghdr, msg_iovlen))? as usize,
            control: UserAddr::new(field(core::mem::offset_of!(net::msghdr, msg_control))?),
            control_len: field(core::mem::offset_of!(net::msghdr, msg_controllen))? as usize,
        };
        if header.nr_pieces > MAX_PIECES {
            return Err(Errno::EMSGSIZE);
        }
        if header.name_len < 0 {
            return Err(Errno::EINVAL);
        }
        Ok(header)
    }

    /// Where the length of the address is.
    fn name_len_at(&self) -> UserAddr {
        offset(self.at, core::mem::offset_of!(net::msghdr, msg_namelen) as u64)
    }

    /// Tells the program what it got: the flags and the length of ancillary data.
    fn finish(&self, flags: u32, control_len: usize) -> Result<()> {
        user::copy_out(offset(self.at, core::mem::offset_of!(net::msghdr, msg_flags) as u64), &flags)?;
        let at = offset(self.at, core::mem::offset_of!(net::msghdr, msg_controllen) as u64);
        user::copy_out(at, &(control_len as u64))
    }
}

/// The parts of ancillary data: level, type and bytes of each. EINVAL where one is too short or goes beyond the end.
fn control_parts(bytes: &[u8]) -> Result<Vec<(u32, u32, &[u8])>> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let len = rest.first_chunk().map_or(0, |len| usize::from_ne_bytes(*len));
        let part = rest.get(..len).filter(|part| part.len() >= HEADER).ok_or(Errno::EINVAL)?;
        let word = |at: usize| part.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_ne_bytes(*word));
        let level = word(core::mem::offset_of!(net::cmsghdr, cmsg_level));
        let kind = word(core::mem::offset_of!(net::cmsghdr, cmsg_type));
        parts.push((level, kind, part.get(HEADER..).unwrap_or_default()));
        rest = rest.get(len.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
    }
    Ok(parts)
}

/// Whether the sender may say that it is this (unix(7), SCM_CREDENTIALS): EPERM; EINVAL for no ids.
fn check_claim(call: &Call<'_>, pid: i32, uid: u32, gid: u32) -> Result<()> {
    if uid == u32::MAX || gid == u32::MAX {
        return Err(Errno::EINVAL);
    }
    let who = call.thread.identity.own();
    let is_one_of = |ids: &Ids, id| [ids.real, ids.effective, ids.saved].contains(&id);
    if (pid == call.process().pid() || who.has(linux::CAP_SYS_ADMIN))
        && (is_one_of(&who.user, uid) || who.has(linux::CAP_SETUID))
        && (is_one_of(&who.group, gid) || who.has(linux::CAP_SETGID))
    {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Takes ancillary data from the program.
fn read_control(call: &Call<'_>, at: UserAddr, len: usize) -> Result<Control> {
    let mut control = Control::default();
    if at.is_null() || len == 0 {
        return Ok(control);
    }
    if len > MAX_CONTROL {
        return Err(Errno::ENOBUFS);
    }
    let mut bytes = alloc::vec![0; len];
    user::copy_in_bytes(at, &mut bytes)?;
    for (level, kind, data) in control_parts(&bytes)? {
        match (level, kind) {
            (net::SOL_SOCKET, net::SCM_RIGHTS) => {
                let files = call.process().files();
                for fd in data.as_chunks().0 {
                    control.files.push(files.get(i32::from_ne_bytes(*fd))?);
                }
                if control.files.len() > MAX_FILES {
                    return Err(Errno::EINVAL);
                }
            }
            (net::SOL_SOCKET, net::SCM_CREDENTIALS) => {
                let words = data.as_chunks::<4>().0;
                let &[pid, uid, gid] = words else { return Err(Errno::EINVAL) };
                let pid = i32::from_ne_bytes(pid);
                let (uid, gid) = (u32::from_ne_bytes(uid), u32::from_ne_bytes(gid));
                check_claim(call, pid, uid, gid)?;
                if process::find(pid).is_none() {
                    return Err(Errno::ESRCH);
                }
                control.credentials = Some(Credentials { pid, uid, gid });
            }
            (net::SOL_SOCKET, _) => return Err(Errno::EINVAL),
            // Ancillary data of other levels is for protocols that look at it.
            _ => control.others.push((level, kind, data.to_vec())),
        }
    }
    Ok(control)
}

/// Where ancillary data goes, and how much of the room is taken.
struct ControlRoom {
    at: UserAddr,
    room: usize,
    used: usize,
}

impl ControlRoom {
    /// Hands over one part, cut to the room there is; `false` where it did not fit whole.
    fn put(&mut self, level: u32, kind: u32, data: &[u8]) -> Result<bool> {
        let left = self.room.saturating_sub(self.used);
        if left < HEADER {
            return Ok(false);
        }
        let len = (HEADER + data.len()).min(left);
        let part = [&len.to_ne_bytes(), &level.to_ne_bytes()[..], &kind.to_ne_bytes(), data].concat();
        user::copy_out_bytes(offset(self.at, self.used as u64), part.get(..len).unwrap_or(&part))?;
        self.used = (self.used + len.next_multiple_of(ALIGNMENT)).min(self.room);
        Ok(len == HEADER + data.len())
    }
}

/// Hands ancillary data to the program as far as there is room; answers how much of the room it took. Files become
/// descriptors; those without room are closed.
fn write_control(
    call: &Call<'_>,
    control: Control,
    (at, room): (UserAddr, usize),
    flags: u32,
    result_flags: &mut u32,
) -> Result<usize> {
    let mut out = ControlRoom { at, room, used: 0 };
    let mut whole = true;
    for (level, kind, data) in &control.others {
        whole &= out.put(*level, *kind, data)?;
    }
    if let Some(sender) = control.credentials {
        let data = [sender.pid.to_ne_bytes(), sender.uid.to_ne_bytes(), sender.gid.to_ne_bytes()].concat();
        whole &= out.put(net::SOL_SOCKET, net::SCM_CREDENTIALS, &data)?;
    }
    if !control.files.is_empty() {
        let fits = room.saturating_sub(out.used).saturating_sub(HEADER) / size_of::<i32>();
        let mut data = Vec::new();
        for file in control.files.iter().take(fits) {
            match call.process().files().install(file.clone(), flags & net::MSG_CMSG_CLOEXEC != 0) {
                Ok(fd) => data.extend(fd.to_ne_bytes()),
                Err(_) => break,
            }
        }
        whole &= data.len() / size_of::<i32>() == control.files.len();
        if !data.is_empty() {
            whole &= out.put(net::SOL_SOCKET, net::SCM_RIGHTS, &data)?;
        }
    }
    if !whole {
        *result_flags |= net::MSG_CTRUNC;
    }
    Ok(out.used)
}

/// [sendto(2)](https://man7.org/linux/man-pages/man2/sendto.2.html).
pub fn sys_sendto(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let flags = call.uint(3);
    let address = read_address(call.address(4), if call.raw(4) == 0 { 0 } else { call.int(5) })?;
    let mut data = WriteBuffer::user(call.address(1), call.size(2).min(MAX_TRANSFER));
    let sent = socket.send(&mut Outgoing {
        data: &mut data,
        address: Some(&*address).filter(|address| !address.is_empty()),
        control: Control::default(),
        flags,
        patience: socket.send_patience(&file, flags),
    })?;
    Ok(sent as u64)
}

/// [recvfrom(2)](https://man7.org/linux/man-pages/man2/recvfrom.2.html).
pub fn sys_recvfrom(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let flags = call.uint(3);
    let mut data = ReadBuffer::user(call.address(1), call.size(2).min(MAX_TRANSFER));
    let mut message = Incoming::new(&mut data, flags, socket.receive_patience(&file, flags));
    let address_at = call.optional_address(4);
    message.wants_address = address_at.is_some();
    let received = socket.ops().receive(&mut message)?;
    if let Some(at) = address_at {
        write_address(&message.address, at, call.address(5))?;
    }
    Ok(received as u64)
}

fn send_message(call: &Call<'_>, file: &OpenFile, at: UserAddr, flags: u32) -> Result<usize> {
    let socket = socket_of(file)?;
    let header = Header::read(at)?;
    // Linux cuts an over-long address here, where sendto refuses it.
    let name_len = header.name_len.min(net::_K_SS_MAXSIZE as i32);
    let address = read_address(header.name, name_len)?;
    let mut pieces = file_io::pieces(header.pieces, header.nr_pieces)?;
    let control = read_control(call, header.control, header.control_len)?;
    socket.send(&mut Outgoing {
        data: &mut WriteBuffer::user_vector(&mut pieces),
        address: Some(&*address).filter(|address| !address.is_empty()),
        control,
        flags,
        patience: socket.send_patience(file, flags),
    })
}

/// [sendmsg(2)](https://man7.org/linux/man-pages/man2/sendmsg.2.html).
pub fn sys_sendmsg(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    Ok(send_message(call, &file, call.address(1), call.uint(2))? as u64)
}

/// [sendmmsg(2)](https://man7.org/linux/man-pages/man2/sendmmsg.2.html).
pub fn sys_sendmmsg(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let (vector, flags) = (call.address(1), call.uint(3));
    let count = (call.uint(2) as usize).min(MAX_MESSAGES);
    let mut sent = 0;
    while sent < count as u64 {
        let at = offset(vector, sent * VECTOR_ENTRY);
        let result =
            send_message(call, &file, at, flags).and_then(|len| user::copy_out(offset(at, VECTOR_LEN), &(len as u32)));
        match result {
            Ok(()) => sent += 1,
            Err(_) if sent > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

fn receive_message(call: &Call<'_>, file: &Arc<OpenFile>, at: UserAddr, flags: u32) -> Result<usize> {
    let socket: &Socket = socket_of(file)?;
    let header = Header::read(at)?;
    let mut pieces = file_io::pieces(header.pieces, header.nr_pieces)?;
    let mut data = ReadBuffer::user_vector(&mut pieces);
    let mut message = Incoming::new(&mut data, flags, socket.receive_patience(file, flags));
    message.wants_address = !header.name.is_null();
    let received = socket.ops().receive(&mut message)?;
    let mut result_flags = message.result_flags | flags & net::MSG_CMSG_CLOEXEC;
    let room = if header.control.is_null() { 0 } else { header.control_len };
    let control = core::mem::take(&mut message.control);
    let used = write_control(call, control, (header.control, room), flags, &mut result_flags)?;
    if !header.name.is_null() {
        write_address(&message.address, header.name, header.name_len_at())?;
    }
    header.finish(result_flags, used)?;
    Ok(received)
}

/// [recvmsg(2)](https://man7.org/linux/man-pages/man2/recvmsg.2.html).
pub fn sys_recvmsg(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    Ok(receive_message(call, &file, call.address(1), call.uint(2))? as u64)
}

/// [recvmmsg(2)](https://man7.org/linux/man-pages/man2/recvmmsg.2.html). The time limit is looked at between messages,
/// as on Linux.
pub fn sys_recvmmsg(call: &mut Call<'_>) -> Result<u64> {
    const SECOND_NS: u64 = 1_000_000_000;
    let file = call.file(0)?;
    let (vector, mut flags) = (call.address(1), call.uint(3));
    let count = (call.uint(2) as usize).min(MAX_MESSAGES);
    let deadline_ns = match call.optional_address(4) {
        None => None,
        Some(at) => {
            let limit: linux::__kernel_timespec = user::copy_in(at)?;
            let seconds = u64::try_from(limit.tv_sec).map_err(|_| Errno::EINVAL)?;
            let rest = u64::try_from(limit.tv_nsec).ok().filter(|rest| *rest < SECOND_NS).ok_or(Errno::EINVAL)?;
            let limit = seconds.saturating_mul(SECOND_NS).saturating_add(rest);
            Some(time::monotonic_ns().saturating_add(limit))
        }
    };
    let mut received = 0;
    while received < count as u64 {
        let at = offset(vector, received * VECTOR_ENTRY);
        let result = receive_message(call, &file, at, flags & !MSG_WAITFORONE)
            .and_then(|len| user::copy_out(offset(at, VECTOR_LEN), &(len as u32)));
        match result {
            Ok(()) => received += 1,
            Err(_) if received > 0 => break,
            Err(error) => return Err(error),
        }
        if flags & MSG_WAITFORONE != 0 {
            flags |= net::MSG_DONTWAIT;
        }
        if deadline_ns.is_some_and(|deadline| time::monotonic_ns() >= deadline) {
            break;
        }
    }
    Ok(received)
}
