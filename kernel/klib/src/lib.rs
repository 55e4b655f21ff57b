//! Pure kernel logic, tested on the host.
//!
//! What is here decides and computes; it touches no hardware, takes no lock and starts no thread. The
//! kernel supplies memory, clocks and locks around it. That split is what lets every module be tested,
//! fuzzed and measured as an ordinary host program before the board sees it.
//!
//! - [`credentials`]: user and group ids, capabilities, and what they allow.
//! - [`elf`]: the checked reader of ELF programs.
//! - [`erofs`]: the read-only root file system, read in place.
//! - [`range_map`]: the ordered map of address ranges behind a process's memory map.
//! - [`frames`]: the allocator of physical page frames.
//! - [`slab`]: the size classes and slabs of the kernel heap.
//! - [`page_table`]: the four-level page tables of AArch64 and x86-64.
//! - [`run_queue`]: the fair order of threads that are ready to run.
//! - [`cpu_set`]: sets of CPUs, and which one a thread goes to.
//! - [`address_space_ids`]: the numbers by which a TLB tells address spaces apart.
//! - [`calendar`]: dates of the Gregorian calendar.
//! - [`symbols`]: the names of the kernel's functions, for backtraces.
//! - [`clock_discipline`]: how adjtimex(2) steers the clocks.
//! - [`json`]: strings in JSON.
//! - [`load_average`]: the load averages of the last minutes.
//! - [`line_discipline`]: the terminal line discipline of termios(3).
//! - [`net`]: the packet stack of a network interface.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod address_space_ids;
pub mod calendar;
pub mod clock_discipline;
pub mod cpu_set;
pub mod credentials;
pub mod elf;
pub mod erofs;
pub mod frames;
pub mod json;
pub mod line_discipline;
pub mod load_average;
pub mod net;
pub mod page_table;
pub mod range_map;
pub mod run_queue;
pub mod slab;
pub mod symbols;

#[cfg(test)]
mod test_random;
