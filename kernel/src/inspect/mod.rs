//! The kernel's own state as files, beyond what Linux shows in /proc: `piton.kernel` and `piton.cpu` read them.

pub mod histogram;
pub mod memory_device;
pub mod trace;

use alloc::vec::Vec;
use core::fmt::Write as _;

use hal::Arch as _;

use crate::{arch::Arch, fs::sysfs, irq, syscall::table, task::process, time};

/// More than any processor's registers that are shown.
const MOST_REGISTERS: usize = 96;

/// Adds the files to /sys/kernel/piton, and /dev/mem.
pub fn add_files() {
    let directory = sysfs::piton_directory();
    // The registers of the CPU that the reader runs on: a line `NAME VALUE` for each, in hexadecimal.
    directory.add_private_listing("cpu", |out| {
        // All of one CPU: no switch in between, and so no memory taken either.
        let mut values = Vec::with_capacity(MOST_REGISTERS);
        let state = Arch::mask_interrupts();
        Arch::visit_registers(&mut |name, value| {
            if values.len() < MOST_REGISTERS {
                values.push((name, value));
            }
        });
        Arch::restore_interrupts(state);
        values.iter().try_for_each(|(name, value)| writeln!(out, "{name} {value:#x}"))
    });
    // A line `PID ROOT` for each process: the physical address of its root page table.
    directory.add_private_listing("address_spaces", |out| {
        let roots = process::all().into_iter().filter_map(|process| Some((process.pid(), process.memory()?.root())));
        roots.into_iter().try_for_each(|(pid, root)| writeln!(out, "{pid} {root}"))
    });
    // A line `NUMBER COUNT...` for each interrupt: how long its handler took (`histogram`).
    directory
        .add_listing("interrupt_times", |out| irq::visit_times(&mut |number, times| writeln!(out, "{number}{times}")));
    // How much later than asked timers went off.
    directory.add_listing("timer_lateness", |out| writeln!(out, "{}", time::lateness()));
    // A line `NUMBER NAME` for each system call.
    directory.add_listing("system_calls", |out| {
        table::names().try_for_each(|(number, name)| writeln!(out, "{number} {name}"))
    });
    trace::add_file(&directory);
    memory_device::add();
}
