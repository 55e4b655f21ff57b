//! The memory of other processes: process_vm_readv, process_vm_writev and process_madvise.

use alloc::vec::Vec;

use abi::{Errno, Result, linux};
use hal::UserAddr;

use super::{Call, file_io, memory};
use crate::{
    fs::{ReadBuffer, WriteBuffer, io_buffer::UserSlice, pidfd::PidFd},
    mm::{PAGE_SIZE, address_space::AddressSpace},
    task::process,
};

/// Bytes copied at a time.
const STEP: usize = PAGE_SIZE;

/// Goes over the other process's pieces as long as the caller's have bytes left: `copy` moves up to so many bytes at an
/// address and answers how many it did. Answers their sum; EFAULT where that is nothing.
fn for_pieces(pieces: &[UserSlice], len: usize, mut copy: impl FnMut(UserAddr, usize) -> usize) -> Result<u64> {
    let mut done = 0;
    for piece in pieces {
        let mut within = 0;
        while within < piece.len && done < len {
            let Some(at) = piece.address.checked_add(within as u64) else { break };
            let step = (STEP - at.page_offset()).min(piece.len - within).min(len - done);
            let copied = copy(at, step);
            done += copied;
            within += copied;
            if copied < step {
                return if done == 0 { Err(Errno::EFAULT) } else { Ok(done as u64) };
            }
        }
    }
    Ok(done as u64)
}

/// The pieces of both sides, and the other process's memory; `None` where nothing is to be moved.
type Sides = (Vec<UserSlice>, Vec<UserSlice>, alloc::sync::Arc<AddressSpace>);

fn sides(call: &Call<'_>) -> Result<Option<Sides>> {
    if call.raw(5) != 0 {
        return Err(Errno::EINVAL);
    }
    let mut own = file_io::pieces(call.address(1), call.size(2))?;
    ReadBuffer::user_vector(&mut own).check()?;
    if own.iter().all(|piece| piece.len == 0) {
        return Ok(None);
    }
    let others = file_io::pieces(call.address(3), call.size(4))?;
    if others.iter().all(|piece| piece.len == 0) {
        return Ok(None);
    }
    let process = process::find(call.int(0)).ok_or(Errno::ESRCH)?;
    let memory = process.memory().ok_or(Errno::ESRCH)?;
    process.check_attachment(call.thread)?;
    Ok(Some((own, others, memory)))
}

/// [process_vm_readv(2)](https://man7.org/linux/man-pages/man2/process_vm_readv.2.html).
pub fn sys_process_vm_readv(call: &mut Call<'_>) -> Result<u64> {
    let Some((mut own, others, memory)) = sides(call)? else { return Ok(0) };
    let mut to = ReadBuffer::user_vector(&mut own);
    let len = to.remaining();
    let mut bytes = alloc::vec![0; STEP];
    for_pieces(&others, len, |at, step| {
        let read = memory.read(at, &mut bytes[..step]);
        to.put(&bytes[..read]).unwrap_or(0)
    })
}

/// [process_vm_writev(2)](https://man7.org/linux/man-pages/man2/process_vm_readv.2.html).
pub fn sys_process_vm_writev(call: &mut Call<'_>) -> Result<u64> {
    let Some((mut own, others, memory)) = sides(call)? else { return Ok(0) };
    let mut from = WriteBuffer::user_vector(&mut own);
    let len = from.remaining();
    let mut bytes = alloc::vec![0; STEP];
    for_pieces(&others, len, |at, step| {
        let taken = from.take(&mut bytes[..step]).unwrap_or(0);
        if memory.write(at, &bytes[..taken]).is_ok() { taken } else { 0 }
    })
}

/// [process_madvise(2)](https://man7.org/linux/man-pages/man2/process_madvise.2.html).
pub fn sys_process_madvise(call: &mut Call<'_>) -> Result<u64> {
    let (advice, flags) = (call.uint(3), call.uint(4));
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let pieces = file_io::pieces(call.address(1), call.size(2))?;
    let file = call.file(0)?;
    let process = file.downcast::<PidFd>().ok_or(Errno::EBADF)?.thread()?.process().clone();
    let memory = process.memory().ok_or(Errno::ESRCH)?;
    process.check_inspection(call.thread)?;
    let is_own = call.process().memory().is_some_and(|own| alloc::sync::Arc::ptr_eq(&own, &memory));
    if !is_own {
        // What changes the meaning of another's memory is not for others.
        let for_others = [linux::MADV_COLD, linux::MADV_PAGEOUT, linux::MADV_WILLNEED, linux::MADV_COLLAPSE];
        if !for_others.contains(&advice) {
            return Err(Errno::EINVAL);
        }
        call.thread.require(linux::CAP_SYS_NICE)?;
    }
    let mut done = 0;
    for piece in pieces {
        match memory::advise(&memory, piece.address.get(), piece.len as u64, advice) {
            Ok(()) => done += piece.len as u64,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}
