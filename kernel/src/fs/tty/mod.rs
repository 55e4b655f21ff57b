//! Terminals: the device between a serial line and the programs of a session.
//!
//! A [`Tty`] joins the pure [`LineDiscipline`] of `klib` to a [`TtyBackend`] (a UART today; the master side of a
//! pseudo-terminal fits the same trait), puts readers and writers to sleep, and applies job control. Its inodes are in
//! [`inode`], its ioctls in [`ioctl`], and who may use it in [`job`].
//!
//! Received bytes arrive through [`Tty::receive`] from the interrupt handler. Output is collected in a ring under the
//! terminal's lock and sent by whoever finds nobody sending, outside the lock: bytes keep their order, an interrupt
//! that echoes while a program writes only appends, and interrupts are masked for one short chunk at a time.

mod inode;
mod ioctl;
mod job;

use alloc::{boxed::Box, collections::VecDeque, sync::Arc, vec::Vec};
use core::ops::ControlFlow;

use abi::{Errno, Result, linux};
use hal::Uart;
use klib::line_discipline::{LineDiscipline, MAX_CANON, ReadState, Termios, TtySignal, TtySink, cflag};

pub use inode::{TtyAlias, TtyInode};
pub use job::{controlling_terminal_of, leave_session};

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

/// Where a terminal's output goes.
pub trait TtyBackend: Send + Sync {
    /// Sends every byte, in order. May be called from an interrupt handler.
    fn transmit(&self, bytes: &[u8]);

    /// There may be room for input again ([`Tty::room`]).
    fn input_wanted(&self) {}
}

/// A serial port as the other end of a terminal.
struct UartBackend(Arc<dyn Uart>);

impl TtyBackend for UartBackend {
    fn transmit(&self, bytes: &[u8]) {
        console::send(&*self.0, bytes);
    }
    fn input_wanted(&self) {
        console::resume_input(&*self.0);
    }
}

/// A line discipline with the settings of a serial port.
fn fresh_line() -> LineDiscipline {
    let mut line = LineDiscipline::new();
    let settings = Termios { cflag: B115200 | cflag::CS8 | cflag::CREAD | cflag::HUPCL, ..*line.termios() };
    line.set_termios(settings, false);
    line
}

/// Bytes handed to the backend at once: what bounds the time that one call masks interrupts.
const TRANSMIT_CHUNK: usize = 128;
/// Bytes of a program's write processed under one lock.
const WRITE_CHUNK: usize = 512;
/// Writers wait while more output than this is unsent.
const OUTPUT_HIGH: usize = 16 * 1024;
/// Echo is dropped while more output than this is unsent: nobody reads the screen any more.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// A tenth of a second, the unit of VTIME.
const TENTH_NS: u64 = 100_000_000;
/// Speed of a serial console: 115200 baud (termios(3), `B115200`).
const B115200: u32 = 0o10002;

/// A terminal.
pub struct Tty {
    backend: Box<dyn TtyBackend>,
    state: IrqLock<State>,
    readers: Arc<WaitQueue>,
    writers: Arc<WaitQueue>,
}

/// What the lock of a terminal guards.
struct State {
    line: LineDiscipline,
    /// Output that was processed and not yet sent.
    output: VecDeque<u8>,
    /// Somebody is sending `output`.
    transmitting: bool,
    /// The session whose controlling terminal this is; 0 for none.
    session: i32,
    /// The foreground process group; 0 for none.
    foreground: i32,
    /// Goes up at each hang-up; files opened before are dead.
    generation: u32,
    /// ioctl_tty(2) `TIOCEXCL`.
    exclusive: bool,
    /// Files open on it.
    open_files: u32,
    input_speed: u32,
    output_speed: u32,
}

/// The line discipline's way out: output into the ring, signals into a list for after the lock.
struct Sink<'a> {
    output: &'a mut VecDeque<u8>,
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
        if self.output.len() < OUTPUT_LIMIT {
            self.output.extend(bytes);
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
        self.output.clear();
    }
}

impl State {
    /// Runs `action` on the line discipline; answers its result and the signals it raised.
    fn with_line<T>(&mut self, action: impl FnOnce(&mut LineDiscipline, &mut dyn TtySink) -> T) -> (T, Signals) {
        let mut sink = Sink { output: &mut self.output, signals: Signals::default() };
        let result = action(&mut self.line, &mut sink);
        (result, sink.signals)
    }

    fn has_input(&self) -> bool {
        self.line.readable() || self.line.available() > 0
    }
}

impl Tty {
    /// The terminal on a serial port.
    pub fn console(uart: Arc<dyn Uart>) -> Arc<Self> {
        Self::new(Box::new(UartBackend(uart)))
    }

    /// A terminal on any backend, 8 bits at 115200 baud, and known to [`controlling_terminal_of`].
    pub fn new(backend: Box<dyn TtyBackend>) -> Arc<Self> {
        let line = fresh_line();
        let tty = Arc::new(Self {
            backend,
            state: IrqLock::new(State {
                line,
                output: VecDeque::new(),
                transmitting: false,
                session: 0,
                foreground: 0,
                generation: 0,
                exclusive: false,
                open_files: 0,
                input_speed: 115_200,
                output_speed: 115_200,
            }),
            readers: Arc::new(WaitQueue::new()),
            writers: Arc::new(WaitQueue::new()),
        });
        job::register(&tty);
        tty
    }

    /// Goes back to the settings it started with and drops what was typed; the window keeps its size. For a session
    /// after one that ended without tidying up.
    pub fn reset(&self) {
        let mut state = self.state.lock();
        let size = state.line.winsize();
        state.line = fresh_line();
        state.line.set_winsize(size);
        state.exclusive = false;
    }

    /// Takes bytes that the device received. For the interrupt handler: quick, and echo goes out from here.
    pub fn receive(&self, bytes: &[u8]) {
        let mut signals = Signals::default();
        let (group, readable) = {
            let mut state = self.state.lock();
            for &byte in bytes {
                let ((), raised) = state.with_line(|line, sink| line.input(byte, sink));
                signals.merge(raised);
            }
            (state.foreground, state.has_input())
        };
        signals.send(group);
        self.drain_output();
        if readable {
            self.readers.wake_all();
        }
        // Flow control may have let writers go on, or a signal key emptied the ring.
        self.writers.wake_all();
    }

    /// How many bytes [`Tty::receive`] takes before it has to drop some.
    pub fn room(&self) -> usize {
        self.state.lock().line.room()
    }

    /// Sends what is in the ring, unless somebody does already.
    fn drain_output(&self) {
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
            self.backend.transmit(bytes);
            sent = true;
        }
        if sent {
            self.writers.wake_all();
        }
    }

    /// Waits until all output was sent (tcdrain(3)).
    fn wait_for_output(&self) -> Result<()> {
        let sent = || {
            let state = self.state.lock();
            (state.output.is_empty() && !state.transmitting).then_some(())
        };
        self.drain_output();
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
        self.backend.input_wanted();
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
            self.drain_output();
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
                if state.output.len() < OUTPUT_HIGH {
                    let (taken, _) = state.with_line(|line, sink| line.write(bytes, sink));
                    if taken == bytes.len() {
                        drop(state);
                        self.drain_output();
                        return Ok(());
                    }
                }
            }
            self.drain_output();
            if file.is_nonblocking() {
                return Err(Errno::EAGAIN);
            }
            let room = || {
                let state = self.state.lock();
                let open = !state.line.output_stopped() && state.output.len() < OUTPUT_HIGH;
                (open || state.generation != generation).then_some(())
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
        let room = !state.line.output_stopped() && state.output.len() < OUTPUT_HIGH;
        PollEvents::IN.when(state.line.readable()) | PollEvents::OUT.when(room)
    }
}
