//! The console: which serial port it is, the kernel's own output on it, and its terminal.

use alloc::{string::String, sync::Arc};
use core::sync::atomic::{AtomicBool, Ordering, fence};

use hal::{Arch as _, Uart};

use crate::{
    arch::Arch,
    fs::{self, OpenFile, OpenFlags, path::Path, tty::Tty, virtual_files::device_number},
    log_buffer,
    sync::{IrqLock, Once},
    task::process::Process,
};

/// The numbers of PL011 ports on Linux: ttyAMA0 is 204:64.
const AMBA_MAJOR: u32 = 204;
const AMBA_FIRST_MINOR: u32 = 64;

struct Port {
    uart: Arc<dyn Uart>,
    /// It is the one `/chosen/stdout-path` names.
    chosen: bool,
}

static PORT: IrqLock<Option<Port>> = IrqLock::new(None);
static CHOSEN: IrqLock<Option<String>> = IrqLock::new(None);
/// Held while received bytes go from the port to the terminal.
static RECEIVING: IrqLock<()> = IrqLock::new(());
/// The port has input that the terminal had no room for.
static HELD_BACK: AtomicBool = AtomicBool::new(false);
static TERMINAL: Once<Arc<Tty>> = Once::new();

/// Remembers which node `/chosen/stdout-path` names.
pub fn choose(path: Option<String>) {
    *CHOSEN.lock() = path;
}

/// A serial port came up. The chosen one is the console, else the first.
pub fn add_uart(path: &str, uart: Arc<dyn Uart>) {
    let chosen = CHOSEN.lock().as_deref() == Some(path);
    {
        let mut port = PORT.lock();
        if port.as_ref().is_some_and(|port| port.chosen || !chosen) {
            return;
        }
        *port = Some(Port { uart, chosen });
    }
    log_buffer::show_unseen();
}

fn uart() -> Option<Arc<dyn Uart>> {
    PORT.lock().as_ref().map(|port| port.uart.clone())
}

/// Sends to a serial port in bursts with interrupts masked, so that an echo from its interrupt does not find the port
/// busy.
pub fn send(uart: &dyn Uart, bytes: &[u8]) {
    for burst in bytes.chunks(16) {
        let state = Arch::mask_interrupts();
        uart.write(burst);
        Arch::restore_interrupts(state);
    }
}

/// Writes as is; `false` when there is no console yet.
pub fn write(bytes: &[u8]) -> bool {
    match uart() {
        Some(uart) => {
            send(&*uart, bytes);
            true
        }
        None => false,
    }
}

/// Writes a last message where it can still be seen: the console, or a debugger's.
pub fn write_emergency(text: &str) {
    match PORT.try_lock().and_then(|port| port.as_ref().map(|port| port.uart.clone())) {
        Some(uart) => {
            for line in text.split_inclusive('\n') {
                match line.strip_suffix('\n') {
                    Some(line) => {
                        uart.write(line.as_bytes());
                        uart.write(b"\r\n");
                    }
                    None => uart.write(line.as_bytes()),
                }
            }
        }
        None => Arch::debug_write(text),
    }
}

/// A serial port interrupted: what it received goes to the terminal. What the terminal has no room for stays in the
/// port, so that a sender that can wait does, until somebody reads.
pub fn uart_interrupt(uart: &dyn Uart) {
    uart.acknowledge_interrupt();
    let Some(terminal) = TERMINAL.get() else { return };
    // One CPU at a time, or bytes would change places.
    let _turn = RECEIVING.lock();
    let mut bytes = [0; 64];
    loop {
        let mut room = terminal.room().min(bytes.len());
        if room == 0 {
            uart.disable_receive_interrupt();
            HELD_BACK.store(true, Ordering::SeqCst);
            // A reader that made room before it could see the mark leaves the rest to this.
            fence(Ordering::SeqCst);
            room = terminal.room().min(bytes.len());
            if room == 0 || !HELD_BACK.swap(false, Ordering::SeqCst) {
                return;
            }
            uart.enable_receive_interrupt();
        }
        let mut len = 0;
        while len < room
            && let Some(byte) = uart.read_byte()
        {
            bytes[len] = byte;
            len += 1;
        }
        if len == 0 {
            return;
        }
        terminal.receive(&bytes[..len]);
    }
}

/// The terminal may have room again: takes what the port held back.
pub fn resume_input(uart: &dyn Uart) {
    fence(Ordering::SeqCst);
    if HELD_BACK.load(Ordering::Relaxed) && HELD_BACK.swap(false, Ordering::SeqCst) {
        let state = Arch::mask_interrupts();
        uart.enable_receive_interrupt();
        uart_interrupt(uart);
        Arch::restore_interrupts(state);
    }
}

/// Makes the console a terminal with its device files. `false` without a console.
pub fn init_terminal() -> bool {
    let Some(uart) = uart() else { return false };
    let tty = TERMINAL.call_once(|| Tty::serial(uart.clone(), device_number(AMBA_MAJOR, AMBA_FIRST_MINOR)));
    let devices = fs::devfs::file_system();
    fs::devfs::add_device("console", fs::tty::TtyInode::console(devices, tty));
    fs::devfs::add_device("ttyAMA0", fs::tty::TtyInode::serial(devices, tty));
    fs::devfs::add_device("tty", fs::tty::TtyInode::alias(devices));
    uart.enable_receive_interrupt();
    // What was typed before now.
    uart_interrupt(&*uart);
    true
}

/// Opens /dev/console.
pub fn open(root: &Path, flags: OpenFlags) -> abi::Result<Arc<OpenFile>> {
    let path = fs::path::resolve(root, root, b"/dev/console", true)?;
    let ops = path.inode().open(flags)?.ok_or(abi::Errno::ENXIO)?;
    Ok(OpenFile::new(ops, path, flags))
}

/// Gives the terminal its first settings again, after a session that may have left it in any state.
pub fn reset_terminal() {
    if let Some(terminal) = TERMINAL.get() {
        terminal.reset();
    }
}

/// Makes the console the controlling terminal of the session that `leader` leads.
pub fn make_controlling_terminal(leader: &Process) {
    if let Some(terminal) = TERMINAL.get() {
        terminal.give_to(leader, true);
    }
}
