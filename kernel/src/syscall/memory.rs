//! Memory: mmap and its relatives.

use abi::{Errno, Result, linux};
use hal::{Arch as _, FaultAccess, PAGE_SIZE};

use super::{Call, memory_lock};
use crate::{
    arch::Arch,
    fs::FileKind,
    mm::{
        address_space::{AddressSpace, KNOWN_PROTECTION, MapRequest, Move},
        frames,
        mapping::{Mapping, OnFork, Protection, Purpose, SharedMemory, Source},
        page_up, user,
    },
};

const PAGE: u64 = PAGE_SIZE as u64;

fn memory(call: &Call<'_>) -> Result<alloc::sync::Arc<AddressSpace>> {
    call.process().memory().ok_or(Errno::ESRCH)
}

/// A page-aligned address and a length as a range of whole pages. EINVAL unaligned, ENOMEM beyond the address space.
fn page_range(address: u64, len: u64) -> Result<core::ops::Range<u64>> {
    if !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let end = page_up(len).and_then(|len| address.checked_add(len)).filter(|end| *end <= Arch::USER_END);
    Ok(address..end.ok_or(Errno::ENOMEM)?)
}

/// The flags of mmap(2) that are older than MAP_SHARED_VALIDATE, and so are ignored where they are not known
/// (linux/mman.h, LEGACY_MAP_MASK).
const OLD_FLAGS: u32 = linux::MAP_SHARED
    | linux::MAP_PRIVATE
    | linux::MAP_FIXED
    | linux::MAP_ANONYMOUS
    | linux::MAP_DENYWRITE
    | linux::MAP_EXECUTABLE
    | linux::MAP_GROWSDOWN
    | linux::MAP_LOCKED
    | linux::MAP_NORESERVE
    | linux::MAP_POPULATE
    | linux::MAP_NONBLOCK
    | linux::MAP_STACK
    | linux::MAP_UNINITIALIZED
    | linux::MAP_HUGETLB
    | linux::MAP_HUGE_2MB
    | linux::MAP_HUGE_1GB;

/// [mmap(2)](https://man7.org/linux/man-pages/man2/mmap.2.html). Lacks: MAP_HUGETLB and MAP_GROWSDOWN, which change
/// nothing; private memory beyond what could be had now (ENOMEM).
pub fn sys_mmap(call: &mut Call<'_>) -> Result<u64> {
    let (address, len, protection, flags, offset) = (call.raw(0), call.raw(1), call.uint(2), call.uint(3), call.raw(5));
    if len == 0 || !offset.is_multiple_of(PAGE) || protection & !(KNOWN_PROTECTION | linux::PROT_GROWSDOWN) != 0 {
        return Err(Errno::EINVAL);
    }
    let fixed = flags & (linux::MAP_FIXED | linux::MAP_FIXED_NOREPLACE) != 0;
    if fixed && !address.is_multiple_of(PAGE) {
        return Err(Errno::EINVAL);
    }
    let shared = match flags & linux::MAP_TYPE {
        linux::MAP_PRIVATE => false,
        linux::MAP_SHARED | linux::MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::EINVAL),
    };
    let protection = Protection::from_bits(protection);
    let mut may_write = true;
    let mut on_fork = OnFork::Copy;
    let source = if flags & linux::MAP_ANONYMOUS != 0 {
        if flags & linux::MAP_TYPE == linux::MAP_SHARED_VALIDATE {
            return Err(Errno::EINVAL);
        }
        if !shared && flags & linux::MAP_NORESERVE == 0 && protection.write {
            refuse_hopeless(len)?;
        }
        if shared {
            let object = SharedMemory::new(page_up(len).ok_or(Errno::ENOMEM)?);
            Source::Object { object, offset: 0, path: None, _grant: None }
        } else {
            Source::Anonymous
        }
    } else {
        let file = call.file(4)?;
        if file.flags().contains(linux::O_PATH) {
            return Err(Errno::EBADF);
        }
        if protection.execute && file.path().is_some_and(|path| path.mount().has(linux::MS_NOEXEC)) {
            return Err(Errno::EPERM);
        }
        if flags & linux::MAP_TYPE == linux::MAP_SHARED_VALIDATE && flags & !OLD_FLAGS != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let (readable, writable) = (file.flags().readable(), file.flags().writable());
        if !readable || shared && protection.write && !writable {
            return Err(Errno::EACCES);
        }
        offset.checked_add(page_up(len).ok_or(Errno::ENOMEM)?).ok_or(Errno::EOVERFLOW)?;
        let inode = file.inode();
        if inode.is_some_and(|inode| inode.metadata().kind == FileKind::Directory) {
            return Err(Errno::ENODEV);
        }
        let object = file.ops().vm_object().or_else(|| inode.and_then(|inode| inode.vm_object()));
        let object = object.ok_or(Errno::ENODEV)?;
        // Hardware is nobody's copy, and no code.
        if object.is_hardware() {
            if !shared || protection.execute {
                return Err(Errno::EACCES);
            }
            on_fork = OnFork::Leave;
        }
        let mut grant = None;
        if shared {
            if writable {
                match object.clone().grant_writes() {
                    Ok(new) => grant = Some(alloc::sync::Arc::new(new)),
                    Err(error) if protection.write => return Err(error),
                    Err(_) => {}
                }
            }
            may_write = grant.is_some();
        }
        Source::Object { object, offset, path: file.path().cloned(), _grant: grant }
    };
    let memory = memory(call)?;
    let locked = flags & linux::MAP_LOCKED != 0;
    if locked {
        memory_lock::check_may_lock(call)?;
    }
    let result = memory.map(MapRequest {
        address,
        len,
        fixed,
        no_replace: flags & linux::MAP_FIXED_NOREPLACE != 0,
        mapping: Mapping { protection, shared, may_write, purpose: Purpose::General, on_fork, locked, source },
    })?;
    if locked || memory.locks_new_mappings() {
        // What cannot be had now is had when it is touched.
        let _ = memory.populate_locked(result..result + page_up(len).unwrap_or(0));
    }
    if flags & linux::MAP_POPULATE != 0 {
        // As far as it works: the mapping is there in any case.
        let access = if protection.write { FaultAccess::Write } else { FaultAccess::Read };
        let _ = memory.populate(result..result + page_up(len).unwrap_or(0), access);
    }
    Ok(result)
}

/// Refuses what could not be had now. Linux promises more than there is, but a small machine without swap does better
/// to say so at once: Python then raises MemoryError, where a broken promise ends the process.
fn refuse_hopeless(len: u64) -> Result<()> {
    let pages = (len / PAGE) as usize;
    if pages > frames::available(pages) { Err(Errno::ENOMEM) } else { Ok(()) }
}

/// [munmap(2)](https://man7.org/linux/man-pages/man2/munmap.2.html).
pub fn sys_munmap(call: &mut Call<'_>) -> Result<u64> {
    let range = page_range(call.mapped_address(0), call.raw(1)).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() {
        return Err(Errno::EINVAL);
    }
    memory(call)?.unmap(range)?;
    Ok(0)
}

/// [mprotect(2)](https://man7.org/linux/man-pages/man2/mprotect.2.html). Lacks: PROT_GROWSDOWN; PROT_BTI and PROT_MTE on
/// CPUs that have them (EINVAL).
pub fn sys_mprotect(call: &mut Call<'_>) -> Result<u64> {
    let range = page_range(call.mapped_address(0), call.raw(1))?;
    let bits = call.uint(2);
    // Branch target identification and memory tagging are hints that may be refused.
    if bits & !KNOWN_PROTECTION != 0 {
        return Err(Errno::EINVAL);
    }
    if !range.is_empty() {
        memory(call)?.protect(range, Protection::from_bits(bits))?;
    }
    Ok(0)
}

/// [brk(2)](https://man7.org/linux/man-pages/man2/brk.2.html).
pub fn sys_brk(call: &mut Call<'_>) -> Result<u64> {
    let memory = memory(call)?;
    let (end, old) = (call.raw(0), memory.brk(0));
    if end > old && refuse_hopeless(end - old).is_err() {
        return Ok(old);
    }
    Ok(memory.brk(end))
}

/// [mremap(2)](https://man7.org/linux/man-pages/man2/mremap.2.html).
pub fn sys_mremap(call: &mut Call<'_>) -> Result<u64> {
    let (address, old_len, new_len) = (call.mapped_address(0), call.raw(1), call.raw(2));
    let (flags, target) = (call.uint(3), call.raw(4));
    let may_move = flags & linux::MREMAP_MAYMOVE != 0;
    let fixed = flags & linux::MREMAP_FIXED != 0;
    let keep = flags & linux::MREMAP_DONTUNMAP != 0;
    if flags & !(linux::MREMAP_MAYMOVE | linux::MREMAP_FIXED | linux::MREMAP_DONTUNMAP) != 0
        || fixed && (!may_move || !target.is_multiple_of(PAGE))
        || keep && (!may_move || old_len != new_len || !target.is_multiple_of(PAGE))
        || (keep || fixed) && target < address.saturating_add(old_len) && address < target.saturating_add(new_len)
        || new_len == 0
    {
        return Err(Errno::EINVAL);
    }
    let old = page_range(address, old_len)?;
    if page_up(new_len).is_none_or(|len| len > Arch::USER_END) {
        return Err(Errno::EINVAL);
    }
    if new_len > old_len {
        refuse_hopeless(new_len - old_len)?;
    }
    memory(call)?.remap(old, new_len, Move { allowed: may_move, keeps_mapping: keep, to: fixed.then_some(target) })
}

/// [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html). Advice about speed is taken and ignored. Lacks:
/// huge pages and the merging of equal pages, which change nothing; MADV_COLLAPSE and MADV_HWPOISON (EINVAL).
pub fn sys_madvise(call: &mut Call<'_>) -> Result<u64> {
    advise(&*memory(call)?, call.mapped_address(0), call.raw(1), call.uint(2))?;
    Ok(0)
}

/// madvise(2) on an address space.
pub fn advise(memory: &AddressSpace, address: u64, len: u64, advice: u32) -> Result<()> {
    let known = matches!(
        advice,
        linux::MADV_NORMAL..=linux::MADV_DONTNEED
            | linux::MADV_FREE..=linux::MADV_DOFORK
            | linux::MADV_MERGEABLE..=linux::MADV_DONTNEED_LOCKED
    );
    if !known {
        return Err(Errno::EINVAL);
    }
    let range = page_range(address, len).map_err(|_| Errno::EINVAL)?;
    if range.is_empty() {
        return Ok(());
    }
    match advice {
        linux::MADV_DONTNEED | linux::MADV_FREE if memory.has_locked(range.clone()) => return Err(Errno::EINVAL),
        linux::MADV_DONTNEED | linux::MADV_DONTNEED_LOCKED => memory.discard(range, false)?,
        linux::MADV_FREE => memory.discard(range, true)?,
        linux::MADV_REMOVE => memory.punch(range)?,
        linux::MADV_DONTFORK => memory.set_on_fork(range, OnFork::Leave)?,
        linux::MADV_DOFORK | linux::MADV_KEEPONFORK => memory.set_on_fork(range, OnFork::Copy)?,
        linux::MADV_WIPEONFORK => memory.set_on_fork(range, OnFork::Wipe)?,
        linux::MADV_POPULATE_READ => memory.populate(range, FaultAccess::Read)?,
        linux::MADV_POPULATE_WRITE => memory.populate(range, FaultAccess::Write)?,
        _ if memory.is_mapped(range) => {}
        _ => return Err(Errno::ENOMEM),
    }
    Ok(())
}

/// [msync(2)](https://man7.org/linux/man-pages/man2/msync.2.html). Pages are the file's own, so there is nothing to
/// write back.
pub fn sys_msync(call: &mut Call<'_>) -> Result<u64> {
    let range = page_range(call.mapped_address(0), call.raw(1))?;
    let flags = call.uint(2);
    if flags & !(linux::MS_ASYNC | linux::MS_SYNC | linux::MS_INVALIDATE) != 0
        || flags & linux::MS_ASYNC != 0 && flags & linux::MS_SYNC != 0
    {
        return Err(Errno::EINVAL);
    }
    let memory = memory(call)?;
    if flags & linux::MS_INVALIDATE != 0 && memory.has_locked(range.clone()) {
        return Err(Errno::EBUSY);
    }
    if range.is_empty() || memory.is_mapped(range) { Ok(0) } else { Err(Errno::ENOMEM) }
}

/// [mincore(2)](https://man7.org/linux/man-pages/man2/mincore.2.html).
pub fn sys_mincore(call: &mut Call<'_>) -> Result<u64> {
    /// Pages asked for at a time.
    const STEP: usize = 512;
    let range = page_range(call.mapped_address(0), call.raw(1))?;
    let memory = memory(call)?;
    let mut pages = [0; STEP];
    for start in range.clone().step_by(STEP * PAGE_SIZE) {
        let count = ((range.end - start) / PAGE).min(STEP as u64) as usize;
        memory.residency(start, &mut pages[..count])?;
        let done = (start - range.start) / PAGE;
        user::copy_out_bytes(call.address(2).checked_add(done).ok_or(Errno::EFAULT)?, &pages[..count])?;
    }
    Ok(0)
}
