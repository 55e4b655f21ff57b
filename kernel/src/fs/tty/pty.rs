//! Pseudo-terminals (pty(7)): terminals whose other end is a program that holds the master.
//!
//! Both sides share one [`Tty`]. What the terminal's programs write is processed by its line discipline and waits in
//! its output ring until the master reads it; what the master writes waits in [`Master::arriving`] until the line
//! discipline has room. Neither side loses anything: who finds a queue full waits. [`Master`] is what the terminal's
//! lock guards for the master, [`MasterFile`] what an open /dev/ptmx does.
//!
//! The sizes and the order of events follow Linux, where each side has a read buffer and a queue in front of it:
//! programs rely on how much can be written before anybody reads.

use alloc::{collections::VecDeque, sync::Arc};

use abi::{Errno, Result, ioctl as request, linux};
use hal::UserAddr;
use klib::line_discipline::{
    LineDiscipline, Termios, cc,
    cflag::{B38400, CREAD, CS8},
    iflag::IXON,
    lflag::EXTPROC,
};

use super::{
    AfterInput, Device, OutputLimits, Signals, State, Tty, devpts,
    inode::OpenTty,
    ioctl::{Flow, answer_count, answer_int, check_faking, queues},
    write_turn::{Turn, WriteTurn},
};
use crate::{
    fs::{
        FileOps, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer, path,
        virtual_files::device_number,
    },
    mm::user,
    task::{
        identity, scheduler, signal,
        wait::{WaitQueue, wait_until},
    },
};

/// What the master's line discipline holds on Linux (`N_TTY_BUF_SIZE` less one). A flush by the terminal does not reach
/// it.
const READ_BUFFER: usize = 4095;
/// Bytes in front of a read buffer (`tty_buffer_set_limit` in Linux's pty.c).
const QUEUE: usize = 8192;
/// Bytes of a master's write processed under one lock.
const CHUNK: usize = 512;
/// The major number of pseudo-terminals (Documentation/admin-guide/devices.txt).
const SLAVE_MAJOR: u32 = 136;
/// Speed of a terminal that nobody set.
const SPEED: u32 = 38_400;

impl OutputLimits {
    const PSEUDO: Self = Self { writes: READ_BUFFER + QUEUE, echo: READ_BUFFER + 2 * QUEUE, flush_leaves: READ_BUFFER };
}

/// A pseudo-terminal as a device: its number and who waits for its terminal.
pub(super) struct Pseudo {
    pub index: u32,
    /// Woken when the master can read.
    pub readers: Arc<WaitQueue>,
    /// Woken when the master can write.
    pub writers: Arc<WaitQueue>,
}

impl Pseudo {
    /// Wakes the master for whatever it waits.
    pub(super) fn wake_all(&self) {
        self.readers.wake_all();
        self.writers.wake_all();
    }
}

impl Drop for Pseudo {
    fn drop(&mut self) {
        devpts::release(self.index);
    }
}

/// The master's side of a terminal.
#[derive(Default)]
pub(super) struct Master {
    /// There is one, and it is open.
    open: bool,
    /// There was one.
    was_closed: bool,
    /// The terminal cannot be opened (unlockpt(3)).
    locked: bool,
    /// The terminal was open and no file is any more.
    terminal_closed: bool,
    /// Written by the master, and not yet taken by the line discipline.
    arriving: VecDeque<u8>,
    /// ioctl_tty(2) `TIOCPKT`.
    packets: bool,
    /// What packet mode has to tell: TIOCPKT_ bits.
    news: u8,
    /// tcflow(3) on the master holds its writes back.
    stopped: bool,
    /// Whose write(2) is going on.
    turn: Turn,
    /// The master itself was hung up (`TIOCVHANGUP`).
    hung_up: bool,
    /// `TIOCEXCL` on the master.
    exclusive: bool,
}

impl Master {
    /// Of a new pseudo-terminal.
    pub(super) fn fresh() -> Self {
        Self { open: true, locked: true, ..Self::default() }
    }

    /// Whether a program is at the other end.
    pub(super) fn is_there(&self) -> bool {
        self.open
    }

    /// Notes TIOCPKT_ bits for packet mode.
    pub(super) fn note(&mut self, bits: u32) {
        if self.packets {
            self.news |= bits as u8;
        }
    }

    /// Notes that one state of two began, which ends the other.
    fn note_instead(&mut self, bit: u32, other: u32) {
        if self.packets {
            self.news = self.news & !(other as u8) | bit as u8;
        }
    }

    /// Notes that output stopped or went on, if it did.
    pub(super) fn note_flow(&mut self, was_stopped: bool, is_stopped: bool) {
        match (was_stopped, is_stopped) {
            (false, true) => self.note_instead(linux::TIOCPKT_STOP, linux::TIOCPKT_START),
            (true, false) => self.note_instead(linux::TIOCPKT_START, linux::TIOCPKT_STOP),
            _ => {}
        }
    }

    /// Notes a change of settings: whether the master may handle Ctrl-S and Ctrl-Q itself, and any with EXTPROC.
    pub(super) fn note_settings(&mut self, before: &Termios, after: &Termios) {
        let plain_flow =
            |settings: &Termios| settings.input(IXON) && settings.is(cc::VSTOP, 0x13) && settings.is(cc::VSTART, 0x11);
        match (plain_flow(before), plain_flow(after)) {
            (false, true) => self.note_instead(linux::TIOCPKT_DOSTOP, linux::TIOCPKT_NOSTOP),
            (true, false) => self.note_instead(linux::TIOCPKT_NOSTOP, linux::TIOCPKT_DOSTOP),
            _ => {}
        }
        if before.local(EXTPROC) || after.local(EXTPROC) {
            self.note(linux::TIOCPKT_IOCTL);
        }
    }

    /// Drops what the line discipline has not taken.
    pub(super) fn drop_arriving(&mut self) {
        self.arriving.clear();
    }

    /// Room for more from the master; 0 while it may not write.
    fn room(&self) -> usize {
        if self.stopped { 0 } else { QUEUE.saturating_sub(self.arriving.len()) }
    }
}

/// The line discipline of a new pseudo-terminal.
fn fresh_line() -> LineDiscipline {
    let mut line = LineDiscipline::new();
    line.set_termios(Termios { cflag: B38400 | CS8 | CREAD, ..*line.termios() }, false);
    line
}

impl State {
    /// Back to first settings, with the window's size kept.
    pub(super) fn reset_pseudo(&mut self) {
        let size = self.line.winsize();
        self.line = fresh_line();
        self.line.set_winsize(size);
        (self.input_speed, self.output_speed) = (SPEED, SPEED);
    }

    /// Notes that the terminal is open. EIO where the master is closed or has not been unlocked.
    pub(super) fn open_towards_master(&mut self) -> Result<()> {
        if !self.master.open || self.master.locked {
            return Err(Errno::EIO);
        }
        self.master.terminal_closed = false;
        Ok(())
    }

    /// Notes that the last file on the terminal was closed.
    pub(super) fn closed_towards_master(&mut self) {
        self.master.terminal_closed = true;
    }

    /// Hands the line discipline what the master wrote, as far as there is room.
    fn feed(&mut self) -> AfterInput {
        let mut signals = Signals::default();
        let was_blocked = self.output_blocked();
        while self.line.room() > 0 && !self.master.arriving.is_empty() {
            let mut arriving = core::mem::take(&mut self.master.arriving);
            let ((), raised) = self.with_line(|line, sink| line.input_all(&mut arriving, sink));
            self.master.arriving = arriving;
            signals.merge(raised);
        }
        self.after_input(signals, was_blocked)
    }

    /// Whether a read by the master has something to give.
    pub(super) fn master_has_input(&self) -> bool {
        !self.output.is_empty() || self.master.news != 0
    }

    /// Whether files of `generation` are dead because the master was closed. Who was reading then gets EIO, where a
    /// later read finds the end of the file.
    pub(super) fn master_went(&self, generation: u32) -> bool {
        self.generation != generation && self.master.was_closed
    }
}

impl Tty {
    /// A new pseudo-terminal, locked, with its master open.
    pub(super) fn pseudo(index: u32) -> Arc<Self> {
        let device = Pseudo { index, readers: Arc::new(WaitQueue::new()), writers: Arc::new(WaitQueue::new()) };
        let number = device_number(SLAVE_MAJOR, index);
        Arc::new(Self::new(Device::Pseudo(device), number, fresh_line(), SPEED, OutputLimits::PSEUDO))
    }

    /// Takes what the master wrote and the line discipline had no room for.
    pub(super) fn take_arriving(&self) {
        let (after, room_again) = {
            let mut state = self.state.lock();
            if state.master.arriving.is_empty() {
                return;
            }
            let had_room = state.master.room() > 0;
            let after = state.feed();
            (after, !had_room && state.master.room() > 0)
        };
        self.react(after);
        if let Device::Pseudo(pseudo) = &self.device
            && room_again
        {
            pseudo.writers.wake_all();
        }
    }
}

/// An open master.
pub(super) struct MasterFile {
    tty: Arc<Tty>,
    index: u32,
    readers: Arc<WaitQueue>,
    writers: Arc<WaitQueue>,
}

impl MasterFile {
    /// The open master of `tty`, which is `pseudo`.
    pub(super) fn open(tty: Arc<Tty>, pseudo: &Pseudo) -> Arc<dyn FileOps> {
        let (readers, writers) = (pseudo.readers.clone(), pseudo.writers.clone());
        Arc::new(Self { tty, index: pseudo.index, readers, writers })
    }

    /// Takes up to `room.len()` bytes for the master. `None`: nothing there yet. EIO where nobody has the terminal open
    /// any more.
    fn take(&self, room: &mut [u8]) -> Option<Result<usize>> {
        let mut state = self.tty.state.lock();
        if state.master.hung_up {
            return Some(Ok(0));
        }
        let (first, rest) = room.split_first_mut()?;
        let packets = state.master.packets;
        if state.master.news != 0 {
            *first = core::mem::take(&mut state.master.news);
            return Some(Ok(1));
        }
        if state.output.is_empty() {
            return state.master.terminal_closed.then_some(Err(Errno::EIO));
        }
        let rest = if packets {
            *first = linux::TIOCPKT_DATA as u8;
            rest
        } else {
            room
        };
        let was_blocked = state.output_blocked();
        let count = rest.len().min(state.output.len());
        for (place, byte) in rest.iter_mut().zip(state.output.drain(..count)) {
            *place = byte;
        }
        let unblocked = was_blocked && !state.output_blocked();
        drop(state);
        if unblocked {
            self.tty.writers.wake_all();
        }
        Some(Ok(count + usize::from(packets)))
    }

    /// Hands over as many of `bytes` as there is room for. EIO once the master is hung up.
    fn give(&self, bytes: &[u8]) -> Result<usize> {
        let (count, after) = {
            let mut state = self.tty.state.lock();
            if state.master.hung_up {
                return Err(Errno::EIO);
            }
            let count = bytes.len().min(state.master.room());
            state.master.arriving.extend(bytes.iter().take(count));
            (count, state.feed())
        };
        if count > 0 {
            self.tty.react(after);
        }
        Ok(count)
    }

    fn write_chunk(&self, file: &OpenFile, bytes: &[u8]) -> Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            done += self.give(rest)?;
            if done == bytes.len() {
                break;
            }
            if file.is_nonblocking() {
                return if done > 0 { Ok(done) } else { Err(Errno::EAGAIN) };
            }
            let room = || {
                let state = self.tty.state.lock();
                (state.master.room() > 0 || state.master.hung_up).then_some(())
            };
            match wait_until(&[&self.writers], None, room) {
                Ok(()) => {}
                Err(_) if done > 0 => return Ok(done),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// `TIOCGPTPEER`: the terminal, opened without its name.
    fn open_peer(&self, flags: u32) -> Result<u64> {
        let root = path::tree_root().ok_or(Errno::ENOENT)?;
        let name = alloc::format!("/dev/pts/{}", self.index);
        let place = path::resolve(&root, &root, name.as_bytes(), true)?;
        let flags = OpenFlags::from_bits(flags);
        let ops = OpenTty::open(&self.tty, flags)?;
        let file = OpenFile::new(ops, place, flags);
        let fd = scheduler::current().process().files().install(file, flags.contains(linux::O_CLOEXEC))?;
        Ok(fd as u64)
    }

    /// `TIOCSIG`: a signal for the foreground group, one that a key could raise.
    fn send_signal(&self, number: u64) -> Result<u64> {
        let number = u32::try_from(number).map_err(|_| Errno::EINVAL)?;
        if !matches!(number, linux::SIGINT | linux::SIGQUIT | linux::SIGTSTP) {
            return Err(Errno::EINVAL);
        }
        let group = self.tty.foreground();
        if group > 0 {
            signal::send_to_group(group, number);
        }
        Ok(0)
    }

    /// tcflush(3) on the master: its input is the terminal's output.
    fn flush(&self, which: u64) -> Result<u64> {
        let (input, output) = queues(which)?;
        {
            let mut state = self.tty.state.lock();
            if input {
                state.output.clear();
            }
            if output {
                state.master.arriving.clear();
            }
        }
        self.tty.writers.wake_all();
        self.writers.wake_all();
        Ok(0)
    }

    /// tcflow(3) on the master.
    fn flow(&self, action: u64) -> Result<u64> {
        match Flow::from_argument(action)? {
            Flow::Stop => self.tty.state.lock().master.stopped = true,
            Flow::Start => {
                self.tty.state.lock().master.stopped = false;
                self.writers.wake_all();
            }
            // The master's own control characters are the usual ones.
            Flow::Send(index) => {
                if let Some(&character) = Termios::default().cc.get(index) {
                    self.give(&[character])?;
                }
            }
        }
        Ok(0)
    }

    /// Reads an `int` and sets what it switches on or off.
    fn switch(&self, argument: UserAddr, set: impl FnOnce(&mut Master, bool)) -> Result<u64> {
        let on = user::copy_in::<i32>(argument)? != 0;
        set(&mut self.tty.state.lock().master, on);
        Ok(0)
    }

    /// Answers whether something is on.
    fn answer_switch(&self, argument: UserAddr, get: impl FnOnce(&Master) -> bool) -> Result<u64> {
        let on = get(&self.tty.state.lock().master);
        answer_int(argument, i32::from(on))
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        {
            let mut state = self.tty.state.lock();
            state.master.open = false;
            state.master.was_closed = true;
            state.master.packets = false;
            state.master.news = 0;
        }
        devpts::remove(self.index);
        self.tty.hang_up(false);
    }
}

impl FileOps for MasterFile {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        let mut chunk = alloc::vec![0; buffer.remaining().min(READ_BUFFER)];
        let count = if file.is_nonblocking() {
            self.take(&mut chunk).ok_or(Errno::EAGAIN)??
        } else {
            wait_until(&[&self.readers], None, || self.take(&mut chunk))??
        };
        match chunk.get(..count) {
            Some(bytes) if count > 0 => buffer.put(bytes),
            _ => Ok(0),
        }
    }

    fn write(&self, file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let _turn = WriteTurn::take(&self.tty, file, |state| &mut state.master.turn, &self.writers)?;
        let mut written = 0;
        let mut chunk = [0; CHUNK];
        while buffer.remaining() > 0 {
            let step = buffer.take(&mut chunk).and_then(|taken| {
                let done = self.write_chunk(file, chunk.get(..taken).unwrap_or_default())?;
                Ok((done, done < taken))
            });
            match step {
                Ok((done, partly)) => {
                    written += done;
                    if partly {
                        break;
                    }
                }
                Err(error) => return if written > 0 { Ok(written) } else { Err(error) },
            }
        }
        Ok(written)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.readers);
        table.add(&self.writers);
        let state = self.tty.state.lock();
        let master = &state.master;
        if master.hung_up {
            return PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP;
        }
        let news = master.news != 0;
        PollEvents::IN.when(state.master_has_input())
            | PollEvents::PRI.when(news)
            | PollEvents::HUP.when(master.terminal_closed)
            | PollEvents::OUT.when(master.room() > 0)
    }

    fn ioctl(&self, file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if self.tty.state.lock().master.hung_up {
            return Err(if command == request::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        if let Some(result) = self.tty.shared_ioctl(file, command, argument) {
            return result;
        }
        match command {
            request::TIOCGPTN => answer_int(argument, self.index as i32),
            request::TIOCSPTLCK => self.switch(argument, |master, on| master.locked = on),
            request::TIOCGPTLCK => self.answer_switch(argument, |master| master.locked),
            request::TIOCPKT => self.switch(argument, |master, on| {
                if on != master.packets {
                    master.news = 0;
                }
                master.packets = on;
            }),
            request::TIOCGPKT => self.answer_switch(argument, |master| master.packets),
            request::TIOCGPTPEER => self.open_peer(argument.get() as u32),
            request::TIOCSIG => self.send_signal(argument.get()),
            // Unlike on the terminal, anybody may ask.
            request::TIOCGPGRP => answer_int(argument, self.tty.foreground()),
            request::TIOCGSID => match self.tty.session() {
                0 => Err(Errno::ENOTTY),
                session => answer_int(argument, session),
            },
            request::TCFLSH => self.flush(argument.get()),
            request::TCXONC => self.flow(argument.get()),
            request::TCSBRK | request::TCSBRKP | request::TIOCSBRK | request::TIOCCBRK => Ok(0),
            request::TIOCSTI => {
                check_faking()?;
                let byte: u8 = user::copy_in(argument)?;
                {
                    // As an echo: what nobody reads is not kept without end.
                    let mut state = self.tty.state.lock();
                    if state.output.len() < state.limits.echo {
                        state.output.push_back(byte);
                    }
                }
                self.readers.wake_all();
                Ok(0)
            }
            request::FIONREAD => {
                let unread = self.tty.state.lock().output.len().min(READ_BUFFER);
                answer_count(argument, unread)
            }
            // What the terminal has not read counts as sent.
            request::TIOCOUTQ => answer_int(argument, 0),
            request::TIOCEXCL | request::TIOCNXCL => {
                self.tty.state.lock().master.exclusive = command == request::TIOCEXCL;
                Ok(0)
            }
            request::TIOCGEXCL => self.answer_switch(argument, |master| master.exclusive),
            request::TIOCVHANGUP => {
                identity::require(linux::CAP_SYS_ADMIN)?;
                self.tty.state.lock().master.hung_up = true;
                self.readers.wake_all();
                self.writers.wake_all();
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
