//! The order of start-up, from the architecture's entry to process 1.

use alloc::{
    format,
    string::{String, ToString as _},
    vec::Vec,
};

use dtb::Tree;
use hal::{Arch as _, PhysAddr};

use crate::{
    arch::{Arch, BootInfo},
    command_line, console, device, fs, image, inspect, log_buffer,
    mm::{frames, kernel_space},
    net, panic, power, rng, smp,
    sync::Once,
    task::{deferred, init, process::Process, scheduler, thread::Thread, trap},
    time,
};

/// The device tree, checked.
static TREE: Once<Tree<'static>> = Once::new();

/// What CPython needs to reach its prompt, beside kernel and root image: 10 MiB, in pages.
const LEAST_FREE_PAGES: usize = 2560;

/// The kernel's first function; the architecture has set up its page tables and a stack.
#[unsafe(no_mangle)]
fn kernel_main(info: BootInfo) -> ! {
    scheduler::set_cpu(0);
    trap::init();
    if let Err(error) = kernel_space::init(info.image) {
        panic::stop(&format!("no kernel heap: {error}"));
    }
    log_buffer::init();
    match start(&info) {
        Ok(()) => scheduler::idle_loop(),
        Err(why) => panic::stop(&why),
    }
}

fn start(info: &BootInfo) -> Result<(), String> {
    let (tree, tree_range) = read_tree(info)?;
    let chosen = tree.chosen();
    command_line::set(chosen.bootargs.unwrap_or(""));
    log_buffer::configure(command_line::get());
    console::choose(chosen.stdout_path.map(|node| node.path()));

    let (root_phys, root_len) = match &chosen.initrd {
        Some(range) => (PhysAddr::new(range.start), range.end.saturating_sub(range.start)),
        None => image::root().unwrap_or((PhysAddr::new(0), 0)),
    };
    let constant = [tree_range, image::appended(), root_phys.get()..root_phys.get().saturating_add(root_len)];
    let memory = tree.memory();
    let constant: Vec<_> = constant.into_iter().filter(|range| range.start < range.end).collect();
    // Memory comes before the console, which needs it; a failure here is told through whatever can be reached.
    kernel_space::init_memory(&memory, &tree.reserved(), &constant)?;
    device::probe_all(tree);
    if let Some(seed) = chosen.rng_seed {
        rng::add_seed(seed);
    }
    if !time::is_running() {
        return Err("the device tree names no timer with a driver".to_string());
    }
    if !console::init_terminal() {
        return Err("the device tree names no serial port with a driver".to_string());
    }
    if root_len == 0 {
        return Err("no root image: neither appended to the kernel image nor named by linux,initrd-start".to_string());
    }
    if !memory.iter().any(|ram| ram.start <= root_phys.get() && root_phys.get() + root_len <= ram.end) {
        return Err(format!("the root image at {root_phys}, {root_len} bytes, is not in memory: too little of it?"));
    }
    let stats = frames::stats();
    if stats.free < LEAST_FREE_PAGES {
        return Err(format!(
            "not enough memory: {} KiB free beside kernel and root image, {} KiB needed",
            stats.free * 4,
            LEAST_FREE_PAGES * 4
        ));
    }
    // SAFETY: in RAM, mapped read-only with all of memory, kept from the allocator, never written.
    let root_image = unsafe { core::slice::from_raw_parts(frames::linear(root_phys), root_len as usize) };
    let root = fs::init::init(root_image, root_phys).map_err(|error| format!("root image: {error}"))?;
    fs::sysfs::add_device_tree(tree);
    device::add_to_sysfs();
    device::add_files();
    add_control_files();

    let kernel = init::kernel_process(root);
    scheduler::prepare_cpu(0, Thread::idle(kernel.clone()));
    scheduler::enter_idle();
    net::wire::start(&kernel);
    smp::start_all(tree, &kernel);
    fs::sysfs::add_cpus();
    start_supervisor(kernel)?;
    log::info!(
        "{}: entered at EL{}, {} of {} CPUs, {} MiB free of {} MiB",
        tree.model().unwrap_or("unnamed board"),
        info.exception_level,
        smp::online().len(),
        tree.cpus().len(),
        stats.free >> 8,
        memory.iter().map(|range| range.end - range.start).sum::<u64>() >> 20,
    );
    Arch::enable_interrupts();
    Ok(())
}

fn start_supervisor(kernel: alloc::sync::Arc<Process>) -> Result<(), String> {
    let thread = |name, entry| {
        Thread::kernel(kernel.clone(), name, entry, 0)
            .map_err(|error| format!("the first threads could not be made: {error}"))
    };
    scheduler::start(thread("deferred", deferred::serve)?);
    scheduler::start(thread("supervisor", init::supervisor)?);
    Ok(())
}

/// Finds and checks the device tree the loader left.
fn read_tree(info: &BootInfo) -> Result<(&'static Tree<'static>, core::ops::Range<u64>), String> {
    /// Bytes of the header that tell the size.
    const HEADER: u64 = 40;
    let start = info.device_tree;
    if start == 0 {
        return Err("no device tree: the loader passed 0 in place of its address".to_string());
    }
    let header = kernel_space::map_tree(start, HEADER)
        .ok_or_else(|| format!("no device tree: {start:#x} is not an address in memory"))?;
    let len = dtb::check_header(header).map_err(|error| error.to_string())?;
    let blob = kernel_space::map_tree(start, len as u64).ok_or_else(|| "device tree: too large".to_string())?;
    let tree = Tree::new(blob).map_err(|error| error.to_string())?;
    Ok((TREE.call_once(|| tree), start..start + len as u64))
}

/// The kernel's own files in /sys/kernel/piton.
fn add_control_files() {
    inspect::add_files();
    let directory = fs::sysfs::piton_directory();
    directory.add_text("log", log_buffer::text);
    directory.add_control("power", Vec::new, power::command);
    directory.add_control(
        "at_end",
        || if init::powers_off_at_end() { b"off\n".to_vec() } else { b"restart\n".to_vec() },
        |text| match text.trim_ascii() {
            b"off" => {
                init::set_power_off_at_end(true);
                Ok(())
            }
            b"restart" => {
                init::set_power_off_at_end(false);
                Ok(())
            }
            _ => Err(abi::Errno::EINVAL),
        },
    );
}
