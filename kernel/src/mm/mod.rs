//! Memory: physical frames, the kernel's own address space and heap, programs' address spaces.
//!
//! Physical memory is known by [`frames::FrameRef`], an owned reference to one page. All of it is mapped at
//! `Arch::LINEAR_BASE`, so a frame's bytes are always at hand. [`kernel_space`] maps everything else the kernel needs
//! (stacks, registers, heap); [`address_space`] is a program's view; [`user`] copies to and from it.

pub mod access;
pub mod address_space;
pub mod fault;
pub mod frames;
pub mod heap;
pub mod kernel_space;
pub mod limits;
pub mod mapping;
pub mod object;
pub mod reclaim;
pub mod stack;
pub mod survey;
pub mod user;

pub use hal::PAGE_SIZE;

/// `bytes` rounded up to whole pages, in bytes; `None` on overflow.
pub fn page_up(bytes: u64) -> Option<u64> {
    bytes.checked_next_multiple_of(PAGE_SIZE as u64)
}
