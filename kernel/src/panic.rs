//! When the kernel cannot go on.

use core::{
    fmt::{self, Write as _},
    panic::PanicInfo,
    sync::atomic::{AtomicUsize, Ordering},
};

use hal::{Arch as _, PowerAction, TrapFrame as _, VirtAddr};

use crate::{
    arch::{Arch, TrapFrame},
    console, image,
    mm::kernel_space,
    smp,
    task::scheduler,
};

/// The exit status of a kernel panic under a virtual machine.
const PANIC_STATUS: u8 = 101;
/// The exit status when the machine lacks something the kernel needs.
const STOP_STATUS: u8 = 1;

/// A writer without a heap.
struct Emergency;

impl fmt::Write for Emergency {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        console::write_emergency(text);
        Ok(())
    }
}

/// Says in one line why the machine cannot run and leaves it.
pub fn stop(why: &str) -> ! {
    let mut out = Emergency;
    // Emergency never fails.
    let _ = writeln!(out, "piton: {why}");
    smp::stop_others();
    Arch::power(PowerAction::Off(STOP_STATUS));
    Arch::halt()
}

/// A bug in the kernel: says what is known and leaves the machine. One CPU speaks, the others stop.
pub fn fatal(what: fmt::Arguments<'_>, frame: Option<&TrapFrame>) -> ! {
    /// The CPU that speaks, plus one.
    static PANICKING: AtomicUsize = AtomicUsize::new(0);
    Arch::mask_interrupts();
    let own = scheduler::cpu_number() + 1;
    let speaks = PANICKING.compare_exchange(0, own, Ordering::SeqCst, Ordering::SeqCst);
    if speaks.is_err_and(|other| other != own) {
        smp::stop_requested();
    }
    // Where this CPU speaks already, the report itself went wrong.
    if speaks.is_ok() {
        smp::stop_others();
        let mut out = Emergency;
        // Emergency never fails.
        let _ = writeln!(out, "\npiton: kernel panic: {what}\non CPU {}", own - 1);
        if let Some(frame) = frame {
            let _ = frame.dump(&mut out);
        }
        let _ = writeln!(out, "backtrace:");
        let mut print = |address: usize| {
            let _ = match image::symbol(address.wrapping_sub(1)) {
                Some((name, offset)) => writeln!(out, "  {:x} {name} + {:#x}", VirtAddr::new(address), offset + 1),
                None => writeln!(out, "  {:x}", VirtAddr::new(address)),
            };
            kernel_space::is_kernel_text(address)
        };
        let start = frame.map(|frame| {
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
    fatal(format_args!("{info}"), None)
}
