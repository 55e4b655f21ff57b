//! Sockets: making, naming, connecting and their options. Messages are in [`message`].

mod message;

use alloc::{sync::Arc, vec::Vec};

use abi::{Errno, Result, linux, net};
use hal::UserAddr;

pub use message::{sys_recvfrom, sys_recvmmsg, sys_recvmsg, sys_sendmmsg, sys_sendmsg, sys_sendto};

use super::{Call, poll::install_pair};
use crate::{
    fs::{
        OpenFile, OpenFlags,
        socket::{self, Socket},
    },
    mm::user,
};

/// The longest address a program may give: `struct sockaddr_storage`.
const MAX_ADDRESS: usize = net::_K_SS_MAXSIZE as usize;
/// The longest option value taken.
const MAX_OPTION: usize = 4096;
/// The part of socket(2)'s `type` that is one.
const TYPE_MASK: u32 = 0xf;
/// SOCK_CLOEXEC and SOCK_NONBLOCK have the values of these flags of open(2).
const TYPE_FLAGS: u32 = linux::O_CLOEXEC | linux::O_NONBLOCK;

/// The socket behind `file`; ENOTSOCK where it is something else.
fn socket_of(file: &OpenFile) -> Result<&Socket> {
    file.downcast().ok_or(Errno::ENOTSOCK)
}

/// The address of `len` bytes at `address`; empty for a null pointer. EINVAL for an impossible length.
fn read_address(address: UserAddr, len: i32) -> Result<Vec<u8>> {
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_ADDRESS).ok_or(Errno::EINVAL)?;
    let mut bytes = alloc::vec![0; if address.is_null() { 0 } else { len }];
    if !bytes.is_empty() {
        user::copy_in_bytes(address, &mut bytes)?;
    }
    Ok(bytes)
}

/// Stores as much of `address` as the `int` at `len_at` says there is room for, and its length there.
fn write_address(address: &[u8], at: UserAddr, len_at: UserAddr) -> Result<()> {
    let room: i32 = user::copy_in(len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    user::copy_out_bytes(at, address.get(..room).unwrap_or(address))?;
    user::copy_out(len_at, &(address.len() as i32))
}

/// The flags of a new socket's file, and whether execve closes it.
fn file_flags(kind: u32) -> Result<(OpenFlags, bool)> {
    if kind & !(TYPE_MASK | TYPE_FLAGS) != 0 {
        return Err(Errno::EINVAL);
    }
    Ok((OpenFlags::from_bits(linux::O_RDWR | kind & linux::O_NONBLOCK), kind & linux::O_CLOEXEC != 0))
}

fn install(call: &Call<'_>, file: Arc<OpenFile>, close_on_exec: bool) -> Result<u64> {
    Ok(call.process().files().install(file, close_on_exec)? as u64)
}

/// [socket(2)](https://man7.org/linux/man-pages/man2/socket.2.html). Lacks: families other than AF_UNIX,
/// AF_INET, AF_INET6 and AF_NETLINK (EAFNOSUPPORT).
pub fn sys_socket(call: &mut Call<'_>) -> Result<u64> {
    let (family, kind, protocol) = (call.uint(0), call.uint(1), call.uint(2));
    let (flags, close_on_exec) = file_flags(kind)?;
    let file = socket::open(family, kind & TYPE_MASK, protocol, flags)?;
    install(call, file, close_on_exec)
}

/// [socketpair(2)](https://man7.org/linux/man-pages/man2/socketpair.2.html).
pub fn sys_socketpair(call: &mut Call<'_>) -> Result<u64> {
    let (family, kind, protocol) = (call.uint(0), call.uint(1), call.uint(2));
    let (flags, close_on_exec) = file_flags(kind)?;
    let (first, second) = socket::open_pair(family, kind & TYPE_MASK, protocol, flags)?;
    install_pair(call, first, second, close_on_exec, call.address(3))
}

/// [bind(2)](https://man7.org/linux/man-pages/man2/bind.2.html).
pub fn sys_bind(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let address = read_address(call.address(1), call.int(2))?;
    socket.ops().bind(&address)?;
    Ok(0)
}

/// [listen(2)](https://man7.org/linux/man-pages/man2/listen.2.html).
pub fn sys_listen(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    socket_of(&file)?.ops().listen(call.int(1))?;
    Ok(0)
}

fn accept(call: &Call<'_>, flags: u32) -> Result<u64> {
    let (flags, close_on_exec) = if flags & !TYPE_FLAGS == 0 { file_flags(flags)? } else { return Err(Errno::EINVAL) };
    let file = call.file(0)?;
    let (accepted, address) = socket_of(&file)?.accept(&file, flags)?;
    if let Some(at) = call.optional_address(1) {
        write_address(&address, at, call.address(2))?;
    }
    install(call, accepted, close_on_exec)
}

/// [accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html).
pub fn sys_accept(call: &mut Call<'_>) -> Result<u64> {
    accept(call, 0)
}

/// [accept4(2)](https://man7.org/linux/man-pages/man2/accept4.2.html).
pub fn sys_accept4(call: &mut Call<'_>) -> Result<u64> {
    let flags = call.uint(3);
    accept(call, flags)
}

/// [connect(2)](https://man7.org/linux/man-pages/man2/connect.2.html).
pub fn sys_connect(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let address = read_address(call.address(1), call.int(2))?;
    socket.ops().connect(&address, socket.send_patience(&file, 0))?;
    Ok(0)
}

/// [getsockname(2)](https://man7.org/linux/man-pages/man2/getsockname.2.html).
pub fn sys_getsockname(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let address = socket_of(&file)?.ops().local_address();
    write_address(&address, call.address(1), call.address(2))?;
    Ok(0)
}

/// [getpeername(2)](https://man7.org/linux/man-pages/man2/getpeername.2.html).
pub fn sys_getpeername(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let address = socket_of(&file)?.ops().peer_address()?;
    write_address(&address, call.address(1), call.address(2))?;
    Ok(0)
}

/// [shutdown(2)](https://man7.org/linux/man-pages/man2/shutdown.2.html).
pub fn sys_shutdown(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let (read, write) = match call.uint(1) {
        net::SHUT_RD => (true, false),
        net::SHUT_WR => (false, true),
        net::SHUT_RDWR => (true, true),
        _ => return Err(Errno::EINVAL),
    };
    socket_of(&file)?.ops().shutdown(read, write)?;
    Ok(0)
}

/// [setsockopt(2)](https://man7.org/linux/man-pages/man2/setsockopt.2.html). Lacks: socket filters, IP options; an effect
/// of TCP_CORK, TCP_DEFER_ACCEPT, TCP_QUICKACK and their kind.
pub fn sys_setsockopt(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let (level, name) = (call.uint(1), call.uint(2));
    let len = usize::try_from(call.int(4)).map_err(|_| Errno::EINVAL)?;
    let mut value = alloc::vec![0; len.min(MAX_OPTION)];
    user::copy_in_bytes(call.address(3), &mut value)?;
    socket.set_option(level, name, &value)?;
    Ok(0)
}

/// [getsockopt(2)](https://man7.org/linux/man-pages/man2/getsockopt.2.html).
pub fn sys_getsockopt(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let socket = socket_of(&file)?;
    let (level, name, len_at) = (call.uint(1), call.uint(2), call.address(4));
    let room: i32 = user::copy_in(len_at)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = socket.option(level, name)?;
    let value = value.get(..room).unwrap_or(&value);
    user::copy_out_bytes(call.address(3), value)?;
    user::copy_out(len_at, &(value.len() as i32))?;
    Ok(0)
}
