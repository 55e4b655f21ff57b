//! Running a program: ELF files, their interpreter, `#!` scripts, and the first stack (execve(2), getauxval(3)).

use alloc::{sync::Arc, vec, vec::Vec};

use core::sync::atomic::Ordering;

use abi::{Errno, Result, auxvec, linux};
use hal::{Arch as _, PAGE_SIZE, UserAddr};
use klib::{
    credentials::Credentials,
    elf::{ElfError, ElfImage, ElfKind, ReadAt},
};

use super::{
    futex, futex_pi,
    process::{FsContext, Process},
    scheduler,
    signal::AltStack,
    thread::Thread,
    vdso, wait,
};
use crate::{
    arch::{Arch, TrapFrame},
    fs::{
        FileKind, Inode, ReadBuffer,
        path::{self, Path},
        permission,
        write_access::Running,
    },
    mm::{
        address_space::{AddressSpace, Layout, MapRequest},
        mapping::{Mapping, OnFork, Protection, Purpose, Source},
        page_up,
    },
    rng,
};

/// How far the main thread's stack grows by default (RLIMIT_STACK).
pub const STACK_LEN: u64 = 8 << 20;
/// Of that, what is mapped from the start, beside what execve(2) puts there.
const STACK_START: u64 = 128 << 10;
/// The address range kept free for the stack: at least this, at most five sixths of all.
const MIN_STACK_ROOM: u64 = 128 << 20;
const MAX_STACK_ROOM: u64 = Arch::USER_END / 6 * 5;
/// The stack ends below this, less a random distance.
const STACK_TOP: u64 = Arch::USER_END - (1 << 20);
/// Unmapped between the stack and the highest mapping.
const STACK_GAP: u64 = 1 << 20;
/// Where position-independent programs go, plus a random distance (ELF_ET_DYN_BASE: two thirds of the space).
const PROGRAM_BASE: u64 = Arch::USER_END / 3 * 2;
/// The most bytes of one string of command line and environment, and what all of them may have in any case.
const MAX_STRING: usize = 128 << 10;
/// `#!` lines followed.
const MAX_SCRIPTS: usize = 4;

/// A program and what it is told.
pub struct Program {
    /// The path as given.
    pub name: Vec<u8>,
    /// What the thread is called, where that is not the end of `name`.
    pub title: Option<Vec<u8>>,
    /// The path leads through a descriptor that will be closed: an interpreter would not find the file.
    pub closes: bool,
    /// argv.
    pub arguments: Vec<Vec<u8>>,
    /// envp.
    pub environment: Vec<Vec<u8>>,
}

/// The most bytes that all strings of command line and environment may have with their pointers: a quarter of the
/// stack, at most three quarters of the default one (execve(2)).
pub fn string_limit() -> usize {
    let (stack, _) = scheduler::current().process().rlimit(linux::RLIMIT_STACK);
    usize::try_from((stack / 4).min(STACK_LEN / 4 * 3)).unwrap_or(usize::MAX).max(MAX_STRING)
}

/// The address range kept free for a stack that may grow to `limit` bytes.
fn stack_room(limit: u64) -> u64 {
    limit.saturating_add(STACK_GAP).clamp(MIN_STACK_ROOM, MAX_STACK_ROOM)
}

impl Program {
    /// Bytes on the stack, at most: the strings with their pointers, and what the kernel adds.
    fn stack_len(&self) -> u64 {
        const KERNEL: usize = 4096;
        let strings = self.arguments.iter().chain(&self.environment).map(|string| string.len() + 1 + size_of::<u64>());
        (strings.sum::<usize>() + self.name.len() + KERNEL) as u64
    }

    /// E2BIG when the strings are too many or too long.
    pub fn check(&self) -> Result<()> {
        let strings = || self.arguments.iter().chain(&self.environment);
        let total: usize = strings().map(|string| string.len() + 1 + size_of::<u64>()).sum();
        if total > string_limit() || strings().any(|string| string.len() >= MAX_STRING) {
            return Err(Errno::E2BIG);
        }
        Ok(())
    }
}

/// Who runs a program, as it was before and as the program's file makes it.
struct Runner {
    credentials: Credentials,
    /// AT_SECURE.
    secure: bool,
    /// Whether its file can be read by who runs it: else nobody may look into the process.
    readable: bool,
}

impl Runner {
    /// Whose set-id bits count is the file in memory in the end, not a script's.
    fn of(path: &Path) -> Self {
        let inode = &**path.inode();
        let mut metadata = inode.metadata();
        if path.mount().has(linux::MS_NOSUID) {
            metadata.permissions &= !(linux::S_ISUID | linux::S_ISGID);
        }
        let set_user = (metadata.permissions & linux::S_ISUID != 0).then_some(metadata.uid);
        // Set-group-id without the group's right to run means something else (inode(7)).
        let set_group = metadata.permissions & (linux::S_ISGID | linux::S_IXGRP) == linux::S_ISGID | linux::S_IXGRP;
        let before = permission::acting();
        let (credentials, secure) = before.for_program(set_user, set_group.then_some(metadata.gid));
        Self { credentials, secure, readable: permission::check(inode, permission::READ).is_ok() }
    }
}

/// A program in memory, ready to run.
pub struct Loaded {
    /// Who the program runs as.
    pub credentials: Credentials,
    /// AT_SECURE.
    pub secure: bool,
    /// Its address space.
    pub memory: Arc<AddressSpace>,
    /// Its first registers.
    pub frame: TrapFrame,
    /// The file.
    pub executable: Executable,
}

/// The file that a process runs: nobody writes to it meanwhile.
#[derive(Clone)]
pub struct Executable {
    /// Where it is.
    pub path: Path,
    _running: Arc<Running>,
}

struct ElfFile(Arc<dyn Inode>);

impl ReadAt for ElfFile {
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> core::result::Result<(), ElfError> {
        match self.0.read_at(offset, &mut ReadBuffer::kernel(out)) {
            Ok(len) if len == out.len() => Ok(()),
            _ => Err(ElfError::Truncated),
        }
    }
    fn len(&self) -> u64 {
        self.0.metadata().size
    }
}

/// Loads a program into a fresh address space. ENOENT, EACCES, ENOEXEC, ENOMEM and the errors of path resolution.
pub fn load(fs: &FsContext, file: Path, mut program: Program) -> Result<Loaded> {
    program.check()?;
    let mut executable = file;
    for _ in 0..=MAX_SCRIPTS {
        let inode = executable.inode().clone();
        check_executable(&executable)?;
        let running = Running::start(&inode)?;
        let mut head = [0; 256];
        let len = inode.read_at(0, &mut ReadBuffer::kernel(&mut head))?;
        if let Some((interpreter, argument)) = klib::elf::interpreter_line(&head[..len]) {
            if program.closes {
                return Err(Errno::ENOENT);
            }
            let mut arguments = vec![interpreter.to_vec()];
            arguments.extend(argument.map(<[u8]>::to_vec));
            arguments.push(program.name.clone());
            arguments.extend(program.arguments.drain(..).skip(1));
            program.arguments = arguments;
            program.name = interpreter.to_vec();
            program.check()?;
            executable = path::resolve(&fs.cwd, &fs.root, interpreter, true)?;
            continue;
        }
        let executable = Executable { path: executable, _running: Arc::new(running) };
        return load_elf(fs, executable, inode, &program);
    }
    Err(Errno::ELOOP)
}

/// EACCES unless it is a regular file that the running thread may execute.
fn check_executable(path: &Path) -> Result<()> {
    if path.kind() != FileKind::Regular || path.mount().has(linux::MS_NOEXEC) {
        return Err(Errno::EACCES);
    }
    permission::check(&**path.inode(), permission::EXECUTE)
}

fn parse(inode: &Arc<dyn Inode>) -> Result<ElfImage> {
    ElfImage::parse(&ElfFile(inode.clone()), Arch::ELF_MACHINE).map_err(|error| {
        log::debug!("not run: {error}");
        Errno::ENOEXEC
    })
}

fn load_elf(fs: &FsContext, executable: Executable, inode: Arc<dyn Inode>, program: &Program) -> Result<Loaded> {
    let image = parse(&inode)?;
    let runner = Runner::of(&executable.path);
    let memory = AddressSpace::new()?;
    let ids = (runner.credentials.user, runner.credentials.group);
    memory.set_dumpable(runner.readable && ids.0.real == ids.0.effective && ids.1.real == ids.1.effective);
    let stack_top = STACK_TOP - random_pages(1 << 14);
    let (stack_limit, _) = scheduler::current().process().rlimit(linux::RLIMIT_STACK);
    let room = stack_room(stack_limit);
    memory.set_top(stack_top - room - random_pages(1 << 16));
    for (address, mapping) in vdso::mappings()? {
        map_fixed(&memory, address, PAGE_SIZE as u64, mapping)?;
    }
    let used = page_up(program.stack_len()).ok_or(Errno::E2BIG)?;
    let stack_len = (used + STACK_START).min(stack_limit & !(PAGE_SIZE as u64 - 1)).max(used);
    map_fixed(&memory, stack_top - stack_len, stack_len, stack_mapping())?;

    let bias = match image.kind {
        ElfKind::Exec => 0,
        ElfKind::Dyn => {
            let align = image.max_align.max(PAGE_SIZE as u64);
            let base = PROGRAM_BASE + random_pages(1 << 20);
            (base & !(align - 1)).wrapping_sub(image.load_span.start)
        }
    };
    map_image(&memory, &image, &inode, &executable.path, bias)?;
    let mut entry = image.entry.wrapping_add(bias);
    let mut interpreter_base = 0;
    if let Some((offset, len)) = image.interp {
        let mut name = vec![0; len as usize];
        ElfFile(inode.clone()).read_exact_at(offset, &mut name).map_err(|_| Errno::ENOEXEC)?;
        if name.pop() != Some(0) {
            return Err(Errno::ENOEXEC);
        }
        let path = path::resolve(&fs.cwd, &fs.root, &name, true)?;
        let inode = path.inode().clone();
        check_executable(&path)?;
        let interpreter = parse(&inode)?;
        let span = interpreter.load_span.end - interpreter.load_span.start;
        let place = reserve(&memory, span)?;
        interpreter_base = place.wrapping_sub(interpreter.load_span.start);
        map_image(&memory, &interpreter, &inode, &path, interpreter_base)?;
        entry = interpreter.entry.wrapping_add(interpreter_base);
    }
    let phdr = if image.phdr_vaddr == 0 { 0 } else { image.phdr_vaddr.wrapping_add(bias) };
    let auxiliary = [
        (auxvec::AT_HWCAP, Arch::hwcap().0),
        (auxvec::AT_HWCAP2, Arch::hwcap().1),
        (auxvec::AT_PAGESZ, PAGE_SIZE as u64),
        (auxvec::AT_CLKTCK, 100),
        (auxvec::AT_PHDR, phdr),
        (auxvec::AT_PHENT, u64::from(image.phentsize)),
        (auxvec::AT_PHNUM, u64::from(image.phnum)),
        (auxvec::AT_BASE, interpreter_base),
        (auxvec::AT_FLAGS, 0),
        (auxvec::AT_ENTRY, image.entry.wrapping_add(bias)),
        (auxvec::AT_UID, u64::from(ids.0.real)),
        (auxvec::AT_EUID, u64::from(ids.0.effective)),
        (auxvec::AT_GID, u64::from(ids.1.real)),
        (auxvec::AT_EGID, u64::from(ids.1.effective)),
        (auxvec::AT_SECURE, u64::from(runner.secure)),
        (auxvec::AT_SYSINFO_EHDR, vdso::ADDRESS),
        (auxvec::AT_MINSIGSTKSZ, Arch::SIGNAL_FRAME_SIZE as u64),
    ];
    let (sp, layout) = build_stack(&memory, stack_top, program, &auxiliary)?;
    let program_end = image.load_span.end.wrapping_add(bias);
    let brk = page_up(program_end).ok_or(Errno::ENOEXEC)? + random_pages(1 << 13);
    let top = stack_top - room - random_pages(1 << 10);
    memory.set_layout(layout, top, brk);
    let frame = hal::TrapFrame::new_user(UserAddr::new(entry), UserAddr::new(sp));
    Ok(Loaded { credentials: runner.credentials, secure: runner.secure, memory, frame, executable })
}

/// Up to `limit` pages, in bytes; 0 while there is no entropy.
fn random_pages(limit: u64) -> u64 {
    /// personality(2), which is in none of the headers that `abi` has.
    const ADDR_NO_RANDOMIZE: u32 = 0x004_0000;
    if scheduler::current().identity.personality() & ADDR_NO_RANDOMIZE != 0 {
        return 0;
    }
    let mut bytes = [0; 8];
    match rng::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes) % limit * PAGE_SIZE as u64,
        Err(_) => 0,
    }
}

fn map_fixed(memory: &AddressSpace, address: u64, len: u64, mapping: Mapping) -> Result<u64> {
    memory.map(MapRequest { address, len, fixed: true, no_replace: true, mapping })
}

/// Finds room for an image whose segments are then mapped one by one.
fn reserve(memory: &AddressSpace, len: u64) -> Result<u64> {
    let mapping = Mapping {
        protection: Protection::from_bits(0),
        shared: false,
        may_write: true,
        purpose: Purpose::General,
        on_fork: OnFork::Copy,
        locked: false,
        source: Source::Anonymous,
    };
    let address = memory.map(MapRequest { address: 0, len, fixed: false, no_replace: false, mapping })?;
    memory.unmap(address..address + page_up(len).ok_or(Errno::ENOMEM)?)?;
    Ok(address)
}

fn stack_mapping() -> Mapping {
    Mapping {
        protection: Protection { read: true, write: true, execute: false },
        shared: false,
        may_write: true,
        purpose: Purpose::Stack,
        on_fork: OnFork::Copy,
        locked: false,
        source: Source::Anonymous,
    }
}

/// Maps the segments: file pages in place, the rest of the last page and what follows zero.
fn map_image(memory: &AddressSpace, image: &ElfImage, inode: &Arc<dyn Inode>, path: &Path, bias: u64) -> Result<()> {
    let object = inode.vm_object().ok_or(Errno::ENOEXEC)?;
    let page = PAGE_SIZE as u64;
    for segment in &image.segments {
        if segment.memsz == 0 {
            continue;
        }
        let protection = Protection { read: segment.read, write: segment.write, execute: segment.execute };
        let start = segment.vaddr.wrapping_add(bias);
        let first = start & !(page - 1);
        let file_end = start + segment.filesz;
        let file_pages_end = page_up(file_end).ok_or(Errno::ENOEXEC)?;
        let end = page_up(start + segment.memsz).ok_or(Errno::ENOEXEC)?;
        let mut zero_from = first;
        if segment.filesz > 0 {
            let source = Source::Object {
                object: object.clone(),
                offset: segment.offset & !(page - 1),
                path: Some(path.clone()),
                _grant: None,
            };
            let mapping = Mapping {
                protection,
                shared: false,
                may_write: true,
                purpose: Purpose::General,
                on_fork: OnFork::Copy,
                locked: false,
                source,
            };
            map_fixed(memory, first, file_pages_end - first, mapping)?;
            zero_from = file_pages_end;
            if segment.memsz > segment.filesz && file_end < file_pages_end && segment.write {
                static ZEROES: [u8; PAGE_SIZE] = [0; PAGE_SIZE];
                let len = (file_pages_end - file_end) as usize;
                memory.write(UserAddr::new(file_end), &ZEROES[..len])?;
            }
        }
        if end > zero_from {
            let mapping = Mapping {
                protection,
                shared: false,
                may_write: true,
                purpose: Purpose::General,
                on_fork: OnFork::Copy,
                locked: false,
                source: Source::Anonymous,
            };
            map_fixed(memory, zero_from, end - zero_from, mapping)?;
        }
    }
    Ok(())
}

/// Puts strings, auxiliary vector, environment and arguments on the stack as the ABI asks; returns the stack pointer.
fn build_stack(memory: &AddressSpace, top: u64, program: &Program, auxiliary: &[(u32, u64)]) -> Result<(u64, Layout)> {
    let mut at = top;
    let mut push = |bytes: &[u8]| -> Result<u64> {
        at -= bytes.len() as u64;
        memory.write(UserAddr::new(at), bytes)?;
        Ok(at)
    };
    push(&[0; 8])?;
    let with_nul = |string: &[u8]| [string, &[0]].concat();
    let name = push(&with_nul(&program.name))?;
    let environment_end = name;
    let mut environment: Vec<u64> = Vec::new();
    for string in program.environment.iter().rev() {
        environment.push(push(&with_nul(string))?);
    }
    environment.reverse();
    let environment_start = environment.first().copied().unwrap_or(environment_end);
    let mut arguments: Vec<u64> = Vec::new();
    for string in program.arguments.iter().rev() {
        arguments.push(push(&with_nul(string))?);
    }
    arguments.reverse();
    let arguments_start = arguments.first().copied().unwrap_or(environment_start);
    let platform = push(&with_nul(Arch::MACHINE.as_bytes()))?;
    let mut random = [0; 16];
    // glibc needs AT_RANDOM. It only guards against mistakes (stack canary), so bytes without entropy will do.
    rng::fill_insecure(&mut random);
    let random = push(&random)?;

    let mut words: Vec<u64> = vec![program.arguments.len() as u64];
    words.extend(&arguments);
    words.push(0);
    words.extend(&environment);
    words.push(0);
    let auxiliary_at = words.len();
    for (tag, value) in auxiliary {
        words.extend([u64::from(*tag), *value]);
    }
    words.extend([u64::from(auxvec::AT_PLATFORM), platform, u64::from(auxvec::AT_EXECFN), name]);
    words.extend([u64::from(auxvec::AT_RANDOM), random]);
    words.extend([0, 0]);
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let sp = (at - bytes.len() as u64) & !15;
    memory.write(UserAddr::new(sp), &bytes)?;
    let layout = Layout {
        arguments: arguments_start..environment_start,
        environment: environment_start..environment_end,
        auxv: bytes[auxiliary_at * 8..].to_vec(),
    };
    Ok((sp, layout))
}

/// execve(2): replaces the running process's program.
pub fn replace(thread: &Arc<Thread>, frame: &mut TrapFrame, file: Path, program: Program) -> Result<()> {
    thread.check_task_limit()?;
    let process: &Arc<Process> = thread.process();
    thread.measure_kernel_time();
    let fs = thread.fs().lock().clone();
    let name = match &program.title {
        Some(title) => title.clone(),
        None => program.name.rsplit(|byte| *byte == b'/').next().unwrap_or(&[]).to_vec(),
    };
    let loaded = load(&fs, file, program)?;
    drop(fs);
    if !end_other_threads(thread) {
        // The process is to end meanwhile; the way out of the kernel does that.
        return Err(Errno::EINTR);
    }

    // A table shared with other processes (CLONE_FILES) is not theirs any more.
    let files = process.own_files()?;

    // From here on there is no way back.
    super::posix_timer::delete_all(process);
    if let Some(memory) = process.memory() {
        process.keep_peak(&memory);
    }
    leave_old_image(thread);
    let old = {
        let mut state = process.state.lock();
        let old_executable = state.executable.replace(loaded.executable);
        let old_files = core::mem::replace(&mut state.files, files.clone());
        (state.memory.replace(loaded.memory.clone()), old_executable, old_files)
    };
    scheduler::use_memory(Some(loaded.memory));
    // Without the lock: the end of a file may take time, and other locks.
    if let Some(memory) = &old.0 {
        scheduler::release_memory(memory);
    }
    drop(old);
    files.close_on_exec();
    process.actions.lock().reset_handlers();
    {
        let mut signals = thread.signals.lock();
        signals.alt_stack = AltStack::default();
    }
    thread.attributes.tagged_addresses.store(false, Ordering::Relaxed);
    if loaded.secure {
        // What a program that gains rights must not be run with (PER_CLEAR_ON_SETID).
        thread.identity.set_personality(0);
    }
    thread.set_credentials(loaded.credentials);
    thread.set_name(&name);
    // SAFETY: this is the running thread, and nobody else refers to its context.
    let context = unsafe { thread.own_context() };
    Arch::reset_user_state(context);
    Arch::load_user_state(context);
    *frame = loaded.frame;
    process.has_executed.store(true, Ordering::Relaxed);
    {
        let mut state = process.state.lock();
        state.vfork_done = true;
        // Whoever made it with another signal is told of its end as of any program's.
        state.exit_signal = linux::SIGCHLD;
    }
    process.changed.wake_all();
    Ok(())
}

/// What the thread had asked for at its end happens while its memory is there.
fn leave_old_image(thread: &Arc<Thread>) {
    let addresses = core::mem::take(&mut *thread.addresses.lock());
    if let Some(head) = addresses.robust_list {
        futex::release_robust_list(head, thread.tid());
    }
    futex_pi::release(thread, false);
    if let Some(address) = addresses.clear_child_tid {
        futex::clear_and_wake(address);
    }
}

/// Ends all threads of the process but the running one, which takes the process's number. `false` when the whole
/// process is to end, or another of its threads was first to do this.
fn end_other_threads(thread: &Arc<Thread>) -> bool {
    let process = thread.process();
    if process.threads().len() > 1 {
        let others = {
            let state = process.state.lock();
            if !process.set_exiting() {
                // Whoever was first has told or will tell all threads, this one too.
                return false;
            }
            // No thread is added any more.
            state.threads.clone()
        };
        for other in others.iter().filter(|other| !Arc::ptr_eq(other, thread)) {
            other.notify();
        }
        drop(others);
        wait::wait_uninterrupted(&process.changed, || process.state.lock().threads.len() == 1);
        let must_end = {
            let state = process.state.lock();
            if state.requested.is_none() {
                process.clear_exiting();
            }
            state.requested.is_some()
        };
        if must_end {
            thread.notify();
            return false;
        }
    }
    if thread.tid() != process.pid() {
        super::process::remove_thread(thread);
        thread.set_tid(process.pid());
        process.identity.drop_charge();
        super::process::add_thread(thread.clone());
    }
    true
}
