//! When the kernel cannot go on.

use core::{
    fmt::Write as _,
    panic::PanicInfo,
    sync::atomic::{AtomicBool, Ordering},
};

use hal::{Arch as _, PowerAction, VirtAddr};

use crate::{
    arch::{Arch, TrapFrame},
    console, image,
    mm::kernel_space,
};

/// The exit status of a kernel panic under a virtual machine.
const PANIC_STATUS: u8 = 101;
/// The exit status when the machine lacks something the kernel needs.
const STOP_STATUS: u8 = 1;

/// A writer without a heap.
struct Emergency;

impl core::fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        console::write_emergency(text);
        Ok(())
    }
}

/// Says in one line why the machine cannot run and leaves it.
pub fn stop(why: &str) -> ! {
    let mut out = Emergency;
    // Emergency never fails.
    let _ = writeln!(out, "piton: {why}");
    Arch::power(PowerAction::Off(STOP_STATUS));
    Arch::halt()
}

/// A bug in the kernel: says what is known and leaves the machine.
pub fn fatal(what: &str, frame: Option<&TrapFrame>) -> ! {
    static PANICKING: AtomicBool = AtomicBool::new(false);
    Arch::mask_interrupts();
    if !PANICKING.swap(true, Ordering::SeqCst) {
        let mut out = Emergency;
        // Emergency never fails.
        let _ = writeln!(out, "\npiton: kernel panic: {}", what.trim_end());
        let _ = writeln!(out, "backtrace:");
        let mut print = |address: usize| {
            let _ = match image::symbol(address.wrapping_sub(1)) {
                Some((name, offset)) => writeln!(out, "  {:x} {name} + {:#x}", VirtAddr::new(address), offset + 1),
                None => writeln!(out, "  {:x}", VirtAddr::new(address)),
            };
            kernel_space::is_kernel_text(address)
        };
        let start = frame.map(|frame| {
            use hal::TrapFrame as _;
            print(frame.pc().get() as usize + 1);
            frame.frame_pointer()
        });
        Arch::backtrace(start, &mut print);
    }
    Arch::power(PowerAction::Off(PANIC_STATUS));
    Arch::halt()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    struct Line([u8; 512], usize);
    impl core::fmt::Write for Line {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            let room = &mut self.0[self.1..];
            let len = text.len().min(room.len());
            room[..len].copy_from_slice(&text.as_bytes()[..len]);
            self.1 += len;
            Ok(())
        }
    }
    let mut line = Line([0; 512], 0);
    // Line never fails; what does not fit is cut off.
    let _ = write!(line, "{info}");
    let text = line.0.get(..line.1).and_then(|bytes| core::str::from_utf8(bytes).ok());
    fatal(text.unwrap_or("panic message is not text"), None)
}
