//! Terminals: the device between a line, or the master of a pseudo-terminal, and the programs of a session.
//!
//! A [`Tty`] joins the pure [`LineDiscipline`] of `klib` to a [`Device`], puts readers and writers to sleep, and applies
//! job control. Its device files are in [`inode`], its ioctls in [`ioctl`] and [`settings`], who may use it in [`job`];
//! pseudo-terminals (pty(7)) are in [`pty`], their directory in [`devpts`].
//!
//! Received bytes arrive through [`Tty::receive`], from an interrupt handler or from the master. Output is collected in
//! a ring under the terminal's lock. For a serial port whoever finds nobody sending sends it, outside the lock: bytes
//! keep their order, an interrupt that echoes while a program writes only appends, and interrupts are masked for one
//! short chunk at a time. For a pseudo-terminal it stays there until the master reads it.

pub mod devpts;
mod inode;
mod ioctl;
mod job;
mod pty;
mod settings;
mod write_turn;

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::ops::ControlFlow;

use abi::{Errno, Result, linux};
use hal::Uart;
use klib::line_discipline::{LineDiscipline, MAX_CANON, ReadState, Termios, TtySignal, TtySink, cflag};

pub use inode::TtyInode;
pub use job::{Claim, controlling_terminal, leave_session};

use pty::{Master, Pseudo};
use write_turn::{Turn, WriteTurn};

use super::{OpenFile, PollEvents, PollTable, ReadBuffer, WriteBuffer};
use crate::{
    console,
    sync::IrqLock,
    task::{
        signal,
        wait::{WaitQueue, wait_until},
    },
    time,
};

/// What is at the other end of a terminal.
enum Device {
    /// A serial port.
    Serial(Arc<dyn Uart>),
    /// The master of a pseudo-terminal.
    Pseudo(Pseudo),
}

/// A line discipline with the settings of a serial port.
fn serial_line() -> LineDiscipline {
    let mut line = LineDiscipline::new();
    let settings = Termios { cflag: B115200 | cflag::CS8 | cflag::CREAD | cflag::HUPCL, ..*line.termios() };
    line.set_termios(settings, false);
    line
}

/// Bytes handed to the backend at once: what bounds the time that one call masks interrupts.
const TRANSMIT_CHUNK: usize = 128;
/// Bytes of a program's write processed under one lock.
const WRITE_CHUNK: usize = 512;
/// A tenth of a second, the unit of VTIME.
const TENTH_NS: u64 = 100_000_000;
/// Speed of a serial console: 115200 baud (termios(3), `B115200`).
const B115200: u32 = 0o10002;
/// The same in baud.
const B115200_BAUD: u32 = 115_200;

/// A terminal.
pub struct Tty {
    device: Device,
    /// As stat(2) tells it of its device file.
    number: u64,
    state: IrqLock<State>,
    readers: Arc<WaitQueue>,
    writers: Arc<WaitQueue>,
}

/// How much output a terminal keeps that was not sent yet.
#[derive(Clone, Copy)]
struct OutputLimits {
    /// Writers wait while there is more.
    writes: usize,
    /// Echo is dropped while there is more: nobody reads the screen any more.
    echo: usize,
    /// A flush leaves so much, which counts as read already.
    flush_leaves: usize,
}

impl OutputLimits {
    const SERIAL: Self = Self { writes: 16 * 1024, echo: 64 * 1024, flush_leaves: 0 };
}

/// What the lock of a terminal guards.
struct State {
    line: LineDiscipline,
    /// Output that was processed and not yet sent or read.
    output: VecDeque<u8>,
    limits: OutputLimits,
    /// Somebody is sending `output`.
    transmitting: bool,
    /// Whose write(2) is going on.
    turn: Turn,
    /// The session whose controlling terminal this is; 0 for none.
    session: i32,
    /// The foreground process group; 0 for none.
    foreground: i32,
    /// Goes up whenever the terminal gets or loses a session, so that a [`Claim`] from before is void.
    tenure: u64,
    /// Goes up at each hang-up; files opened before are dead.
    generation: u32,
    /// ioctl_tty(2) `TIOCEXCL`.
    exclusive: bool,
    /// Files open on it.
    open_files: u32,
    input_speed: u32,
    /// What of the settings cannot be changed (TIOCSLCKTRMIOS).
    locked: Termios,
    output_speed: u32,
    /// The master's side; at rest where the other end is a serial port.
    master: Master,
}

/// What is to be done after input, once the lock is free.
struct AfterInput {
    signals: Signals,
    foreground: i32,
    readable: bool,
    /// Flow control or a signal key let writers go on.
    unblocked: bool,
}

/// The line discipline's way out: output into the ring, signals into a list for after the lock.
struct Sink<'a> {
    output: &'a mut VecDeque<u8>,
    limits: OutputLimits,
    flushed: bool,
    paces_input: bool,
    signals: Signals,
}

/// The signals that keys raised while the lock was held, each at most once.
#[derive(Clone, Copy, Default)]
struct Signals {
    interrupt: bool,
    quit: bool,
    suspend: bool,
}

impl Signals {
    fn merge(&mut self, other: Self) {
        self.interrupt |= other.interrupt;
        self.quit |= other.quit;
        self.suspend |= other.suspend;
    }

    fn send(self, group: i32) {
        if group <= 0 {
            return;
        }
        for (raised, number) in
            [(self.interrupt, linux::SIGINT), (self.quit, linux::SIGQUIT), (self.suspend, linux::SIGTSTP)]
        {
            if raised {
                signal::send_to_group(group, number);
            }
        }
    }
}

impl TtySink for Sink<'_> {
    fn output(&mut self, bytes: &[u8]) {
        if self.output.len() < self.limits.echo {
            self.output.extend(bytes);
        }
    }

    fn pace_input(&mut self, character: u8) {
        if self.paces_input {
            self.output(&[character]);
        }
    }

    fn signal(&mut self, signal: TtySignal) {
        match signal {
            TtySignal::Interrupt => self.signals.interrupt = true,
            TtySignal::Quit => self.signals.quit = true,
            TtySignal::Suspend => self.signals.suspend = true,
        }
    }

    fn flush_output(&mut self) {
        self.output.truncate(self.limits.flush_leaves);
        self.flushed = true;
    }
}

impl State {
    /// Runs `action` on the line discipline; answers its result and the signals it raised. A master in packet mode
    /// hears of output that stopped or went on, and of flushes.
    fn with_line<T>(&mut self, action: impl FnOnce(&mut LineDiscipline, &mut dyn TtySink) -> T) -> (T, Signals) {
        let was_stopped = self.line.output_stopped();
        let mut sink = Sink {
            limits: self.limits,
            flushed: false,
            // Linux's pseudo-terminals do not act on IXOFF: the master waits for room instead.
            paces_input: !self.master.is_there(),
            output: &mut self.output,
            signals: Signals::default(),
        };
        let result = action(&mut self.line, &mut sink);
        let (signals, flushed) = (sink.signals, sink.flushed);
        self.master.note_flow(was_stopped, self.line.output_stopped());
        if flushed {
            self.master.note(linux::TIOCPKT_FLUSHREAD | linux::TIOCPKT_FLUSHWRITE);
        }
        (result, signals)
    }

    /// What input led to that raised `signals`; `was_blocked`: writers had to wait before it.
    fn after_input(&self, signals: Signals, was_blocked: bool) -> AfterInput {
        // Who waits for the end of output (tcdrain) may have got it by a flush.
        let unblocked = was_blocked && !self.output_blocked() || self.output.is_empty();
        AfterInput { signals, foreground: self.foreground, readable: self.has_input(), unblocked }
    }

    /// Whether a write has to wait before it adds to the output.
    fn output_blocked(&self) -> bool {
        self.line.output_stopped() || self.output.len() >= self.limits.writes
    }

    /// Drops what was typed and not read.
    fn flush_input(&mut self) {
        self.line.flush_input();
        self.master.drop_arriving();
        self.master.note(linux::TIOCPKT_FLUSHREAD);
    }

    /// Drops what was written and not sent.
    fn flush_output(&mut self) {
        self.output.truncate(self.limits.flush_leaves);
        self.master.note(linux::TIOCPKT_FLUSHWRITE);
    }

    fn has_input(&self) -> bool {
        self.line.readable() || self.line.available() > 0
    }
}

impl Tty {
    /// The terminal on a serial port with the device number `number`, at 115200 baud.
    pub fn serial(uart: Arc<dyn Uart>, number: u64) -> Arc<Self> {
        Arc::new(Self::new(Device::Serial(uart), number, serial_line(), B115200_BAUD, OutputLimits::SERIAL))
    }

    fn new(device: Device, number: u64, line: LineDiscipline, speed: u32, limits: OutputLimits) -> Self {
        let master = match &device {
            Device::Serial(_) => Master::default(),
            Device::Pseudo(_) => Master::fresh(),
        };
        Self {
            device,
            number,
            state: IrqLock::new(State {
                line,
                output: VecDeque::new(),
                limits,
                transmitting: false,
                turn: Turn::default(),
                session: 0,
                foreground: 0,
                tenure: 0,
                generation: 0,
                exclusive: false,
                open_files: 0,
                input_speed: speed,
                locked: Termios::NOTHING,
                output_speed: speed,
                master,
            }),
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
        }
    }

    /// The device number of its file, as stat(2) tells it: in /proc/PID/stat and for `TIOCGDEV`.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Goes back to the settings it started with and drops what was typed; the window keeps its size. For a session
    /// after one that ended without tidying up.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        let size = state.line.winsize();
        state.line = serial_line();
        state.line.set_winsize(size);
        state.exclusive = false;
    }

    /// Takes bytes that the device received. For the interrupt handler: quick, and echo goes out from here.
    pub fn receive(&self, bytes: &[u8]) {
        let mut signals = Signals::default();
        let after = {
            let mut state = self.state.lock();
            let was_blocked = state.output_blocked();
            for &byte in bytes {
                let ((), raised) = state.with_line(|line, sink| line.input(byte, sink));
                signals.merge(raised);
            }
            state.after_input(signals, was_blocked)
        };
        self.react(after);
    }

    /// Does what input led to: signals, its echo, and waking readers and writers.
    fn react(&self, after: AfterInput) {
        after.signals.send(after.foreground);
        self.send_output();
        if after.readable {
            self.readers.wake_all();
        }
        if after.unblocked {
            self.writers.wake_all();
        }
    }

    /// How many bytes [`Tty::receive`] takes before it has to drop some.
    pub fn room(&self) -> usize {
        self.state.lock().line.room()
    }

    /// Sees to the output in the ring: sends it, unless somebody does already, or tells the master of it.
    fn send_output(&self) {
        match &self.device {
            Device::Serial(uart) => self.transmit(&**uart),
            Device::Pseudo(pseudo) => {
                // Only for news: epoll's edges are what wakes.
                if self.state.lock().master_has_input() {
                    pseudo.readers.wake_all();
                }
            }
        }
    }

    fn transmit(&self, uart: &dyn Uart) {
        let mut chunk = [0; TRANSMIT_CHUNK];
        let mut sent = false;
        loop {
            let len = {
                let mut state = self.state.lock();
                if !sent && state.transmitting {
                    return;
                }
                let len = state.output.len().min(TRANSMIT_CHUNK);
                state.transmitting = len > 0;
                for (place, byte) in chunk.iter_mut().zip(state.output.drain(..len)) {
                    *place = byte;
                }
                len
            };
            let Some(bytes) = chunk.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
            console::send(uart, bytes);
            sent = true;
        }
        if sent {
            self.writers.wake_all();
        }
    }

    /// There may be room for input again: takes what the other end holds back.
    fn input_wanted(&self) {
        match &self.device {
            Device::Serial(uart) => console::resume_input(&**uart),
            Device::Pseudo(_) => self.take_arriving(),
        }
    }

    /// Bytes written and not sent (ioctl_tty(2), `TIOCOUTQ`). What a master has not read counts as sent, as on Linux.
    fn unsent(&self) -> usize {
        match self.device {
            Device::Serial(_) => self.state.lock().output.len(),
            Device::Pseudo(_) => 0,
        }
    }

    /// Waits until all output was sent (tcdrain(3)).
    fn wait_for_output(&self) -> Result<()> {
        if matches!(self.device, Device::Pseudo(_)) {
            return Ok(());
        }
        let sent = || {
            let state = self.state.lock();
            (state.output.is_empty() && !state.transmitting).then_some(())
        };
        self.send_output();
        Ok(wait_until(&[&self.writers], None, sent)?)
    }

    /// read(2). `generation` is the one the file was opened in.
    fn read(&self, generation: u32, file: &OpenFile, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        self.check_background_read()?;
        let mut small = [0; 64];
        let mut large = Vec::new();
        let room = if buffer.remaining() <= small.len() {
            &mut small[..buffer.remaining()]
        } else {
            large.resize(buffer.remaining().min(MAX_CANON), 0);
            &mut large[..]
        };
        let count = self.read_into(generation, file, room)?;
        self.input_wanted();
        match room.get(..count) {
            Some(bytes) if count > 0 => buffer.put(bytes),
            _ => Ok(0),
        }
    }

    /// Fills `room` as the settings say (termios(3), "Canonical and noncanonical mode").
    fn read_into(&self, generation: u32, file: &OpenFile, room: &mut [u8]) -> Result<usize> {
        let mut count = 0;
        let mut deadline_ns = None;
        loop {
            match self.read_step(generation, room, &mut count, &mut deadline_ns) {
                ControlFlow::Break(()) => return Ok(count),
                ControlFlow::Continue(()) if file.is_nonblocking() => {
                    return if count > 0 { Ok(count) } else { Err(Errno::EAGAIN) };
                }
                ControlFlow::Continue(()) => {}
            }
            let ready = || {
                let state = self.state.lock();
                (state.has_input() || state.generation != generation).then_some(())
            };
            match wait_until(&[&self.readers], deadline_ns, ready) {
                Ok(()) if self.state.lock().master_went(generation) => return Err(Errno::EIO),
                Ok(()) => self.check_background_read()?,
                Err(crate::task::wait::WaitError::TimedOut) => return Ok(count),
                Err(_) if count > 0 => return Ok(count),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes what is there. `Break`: the read is complete. Sets the deadline that VTIME asks for.
    fn read_step(
        &self,
        generation: u32,
        room: &mut [u8],
        count: &mut usize,
        deadline_ns: &mut Option<u64>,
    ) -> ControlFlow<()> {
        let mut state = self.state.lock();
        if state.generation != generation {
            return ControlFlow::Break(());
        }
        let rest = room.get_mut(*count..).unwrap_or_default();
        let (outcome, _) = state.with_line(|line, sink| {
            let outcome = line.read(rest);
            line.unthrottle(sink);
            outcome
        });
        let canonical = state.line.canonical();
        let (min, tenths) = (state.line.min(), u64::from(state.line.time_tenths()));
        let output_waits = !state.output.is_empty();
        drop(state);
        if output_waits {
            self.send_output();
        }
        let got = match outcome {
            ReadState::Eof => return ControlFlow::Break(()),
            ReadState::Data(bytes) => bytes,
            ReadState::WouldBlock => 0,
        };
        *count += got;
        if canonical {
            return if got > 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) };
        }
        if *count >= min.clamp(1, room.len().max(1)) || (min == 0 && tenths == 0) {
            return ControlFlow::Break(());
        }
        // With VMIN the time runs from the last byte, without it from the start of the read.
        let restart_timer = if min > 0 { got > 0 } else { deadline_ns.is_none() };
        if tenths > 0 && restart_timer {
            *deadline_ns = Some(time::monotonic_ns().saturating_add(tenths * TENTH_NS));
        }
        ControlFlow::Continue(())
    }

    /// write(2). `generation` is the one the file was opened in.
    fn write(&self, generation: u32, file: &OpenFile, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let mut written = 0;
        let mut chunk = [0; WRITE_CHUNK];
        if self.stops_background_output() {
            self.check_background_change()?;
        }
        let _turn = WriteTurn::take(self, file, |state| &mut state.turn, &self.writers)?;
        while buffer.remaining() > 0 {
            let taken = match buffer.take(&mut chunk) {
                Ok(taken) => taken,
                Err(error) => return if written > 0 { Ok(written) } else { Err(error) },
            };
            let bytes = chunk.get(..taken).unwrap_or_default();
            match self.write_chunk(generation, file, bytes) {
                Ok(()) => written += taken,
                Err(error) => return if written > 0 { Ok(written) } else { Err(error) },
            }
        }
        Ok(written)
    }

    /// Writes all of `bytes`, waiting while output is stopped or too much of it is unsent.
    fn write_chunk(&self, generation: u32, file: &OpenFile, bytes: &[u8]) -> Result<()> {
        loop {
            {
                let mut state = self.state.lock();
                if state.generation != generation {
                    return Err(Errno::EIO);
                }
                if !state.output_blocked() {
                    let (taken, _) = state.with_line(|line, sink| line.write(bytes, sink));
                    if taken == bytes.len() {
                        drop(state);
                        self.send_output();
                        return Ok(());
                    }
                }
            }
            self.send_output();
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let room = || {
                let state = self.state.lock();
                (!state.output_blocked() || state.generation != generation).then_some(())
            };
            wait_until(&[&self.writers], None, room)?;
        }
    }

    /// poll(2). `generation` is the one the file was opened in.
    fn poll(&self, generation: u32, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.readers);
        table.add(&self.writers);
        let state = self.state.lock();
        if state.generation != generation {
            return PollEvents::IN | PollEvents::OUT | PollEvents::ERR | PollEvents::HUP;
        }
        PollEvents::IN.when(state.line.readable()) | PollEvents::OUT.when(!state.output_blocked())
    }
}
