//! Namespaces: unshare, setns.

use alloc::sync::Arc;

use abi::{Errno, Result, linux};

use super::Call;
use crate::{
    fs::{mount::Mount, path::Path, pidfd::PidFd, procfs::NamespaceFile},
    task::{
        namespace::{self, Kind, Namespace},
        thread::Thread,
    },
};

/// EPERM, or EINVAL as from a Linux without such namespaces, for the CLONE_NEW* `flags` of which no new namespace can
/// be made.
pub fn check_new(thread: &Thread, flags: u64) -> Result<()> {
    let wanted = flags as u32 & namespace::ALL_FLAGS;
    if wanted & linux::CLONE_NEWUSER != 0 {
        return Err(Errno::EINVAL);
    }
    if wanted != 0 {
        thread.require(linux::CAP_SYS_ADMIN)?;
    }
    if wanted & !linux::CLONE_NEWUTS != 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

/// [unshare(2)](https://man7.org/linux/man-pages/man2/unshare.2.html). Lacks: namespaces other than UTS (EINVAL);
/// descriptors for one thread of several.
pub fn sys_unshare(call: &mut Call<'_>) -> Result<u64> {
    const NOTHING_TO_DO: u64 = linux::CLONE_SYSVSEM as u64;
    const MEMORY: u64 = (linux::CLONE_THREAD | linux::CLONE_SIGHAND | linux::CLONE_VM) as u64;
    const FS: u64 = linux::CLONE_FS as u64;
    const FILES: u64 = linux::CLONE_FILES as u64;
    let flags = call.raw(0);
    if flags & !(NOTHING_TO_DO | MEMORY | FS | FILES | u64::from(namespace::ALL_FLAGS)) != 0 {
        return Err(Errno::EINVAL);
    }
    // What several threads have in common cannot be had alone by one of them.
    if flags & MEMORY != 0 && call.process().threads().len() > 1 {
        return Err(Errno::EINVAL);
    }
    check_new(call.thread, flags)?;
    if flags & FILES != 0 {
        call.process().unshare_files()?;
    }
    if flags & FS != 0 {
        call.thread.unshare_fs();
    }
    if flags & u64::from(linux::CLONE_NEWUTS) != 0 {
        call.thread.set_uts(call.thread.uts().copy());
    }
    Ok(0)
}

/// Whether another thread has its place in the file system in common with this one.
fn shares_place(thread: &Thread) -> bool {
    // The thread or its process, and this function, hold it.
    thread.moves_with_process() && thread.process().threads().len() > 1 || Arc::strong_count(&thread.fs()) > 2
}

/// EPERM, EINVAL or EUSERS where the caller cannot enter a namespace of this kind.
fn check_enter(call: &Call<'_>, kind: Kind) -> Result<()> {
    match kind {
        // One cannot enter the user namespace that one is in.
        Kind::User => return Err(Errno::EINVAL),
        Kind::Time if call.process().threads().len() > 1 => return Err(Errno::EUSERS),
        Kind::Mount => call.thread.require(linux::CAP_SYS_CHROOT)?,
        _ => {}
    }
    call.thread.require(linux::CAP_SYS_ADMIN)?;
    if kind == Kind::Mount && shares_place(call.thread) { Err(Errno::EINVAL) } else { Ok(()) }
}

fn enter(call: &Call<'_>, namespace: Namespace) {
    match namespace {
        Namespace::Uts(uts) => call.thread.set_uts(uts),
        // Begins at its root again.
        Namespace::Only(Kind::Mount) => {
            let Some(top) = Mount::all().first().map(Path::root_of) else { return };
            let fs = call.thread.fs();
            let old = {
                let mut fs = fs.lock();
                let root = core::mem::replace(&mut fs.root, top.clone());
                (root, core::mem::replace(&mut fs.cwd, top))
            };
            drop(old);
        }
        Namespace::Only(_) => {}
    }
}

/// [setns(2)](https://man7.org/linux/man-pages/man2/setns.2.html): with a file of /proc/PID/ns or a descriptor of a
/// process.
pub fn sys_setns(call: &mut Call<'_>) -> Result<u64> {
    let file = call.file(0)?;
    let flags = call.uint(1);
    if let Some(of_file) = file.downcast::<NamespaceFile>() {
        let namespace = of_file.namespace();
        if flags != 0 && flags != namespace.kind().flag() {
            return Err(Errno::EINVAL);
        }
        check_enter(call, namespace.kind())?;
        enter(call, namespace.clone());
        return Ok(0);
    }
    let target = file.downcast::<PidFd>().ok_or(Errno::EINVAL)?;
    if flags == 0 || flags & !namespace::ALL_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let thread = target.thread()?;
    thread.process().check_inspection(call.thread)?;
    let kinds = || Kind::ALL.into_iter().filter(|kind| flags & kind.flag() != 0);
    kinds().try_for_each(|kind| check_enter(call, kind))?;
    kinds().for_each(|kind| enter(call, thread.namespace(kind)));
    Ok(0)
}
