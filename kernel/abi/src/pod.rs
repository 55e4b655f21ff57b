//! Which types may be copied to and from programs byte by byte.

use linux_raw_sys::general as linux;

/// A type of which every bit pattern is a value.
///
/// # Safety
/// Any initialised bytes of the right size form a valid value. A value that goes out to a program must start from
/// [`zeroed`], so that padding holds no kernel memory.
pub unsafe trait Pod: Copy + 'static {}

macro_rules! pod {
    ($($type:ty)*) => { $(
        // SAFETY: integers, or a `repr(C)` struct of integers, arrays of them and raw addresses.
        unsafe impl Pod for $type {}
    )* };
}

pod! {
    u8 u16 u32 u64 i8 i16 i32 i64 usize isize
    linux::stat linux::statx linux::statfs64 linux::__kernel_timespec linux::__kernel_old_timeval linux::iovec
    crate::timex::Timex linux::futex_waitv
    linux::pollfd linux::rlimit64 linux::rusage linux::epoll_event linux::clone_args linux::open_how
    linux::__kernel_old_itimerval linux::__kernel_itimerspec linux::flock linux::winsize
    linux::termios linux::termios2 linux::termio linux::robust_list_head
    linux_raw_sys::system::new_utsname
}

// SAFETY: an array of such values.
unsafe impl<T: Pod, const N: usize> Pod for [T; N] {}

/// All bytes zero.
pub fn zeroed<T: Pod>() -> T {
    // SAFETY: `Pod`: zero bytes are a value.
    unsafe { core::mem::zeroed() }
}

/// The bytes of a value that was built from [`zeroed`].
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` values that go out were zeroed first, so padding is initialised too.
    unsafe { core::slice::from_raw_parts((value as *const T).cast(), size_of::<T>()) }
}

/// The bytes of a value, to be overwritten.
pub fn bytes_of_mut<T: Pod>(value: &mut T) -> &mut [u8] {
    // SAFETY: `Pod`: any bytes written form a value.
    unsafe { core::slice::from_raw_parts_mut((value as *mut T).cast(), size_of::<T>()) }
}

/// The sizes that programs of every 64-bit architecture count on.
const _: () = {
    assert!(size_of::<linux::__kernel_timespec>() == 16);
    assert!(size_of::<linux::__kernel_old_timeval>() == 16);
    assert!(size_of::<linux::iovec>() == 16);
    assert!(size_of::<linux::pollfd>() == 8);
    assert!(size_of::<linux::rlimit64>() == 16);
    assert!(size_of::<linux::rusage>() == 144);
    assert!(size_of::<linux::statx>() == 256);
    assert!(size_of::<linux::statfs64>() == 120);
    assert!(size_of::<linux::clone_args>() == 88);
    assert!(size_of::<linux::flock>() == 32);
    assert!(size_of::<linux::winsize>() == 8);
    assert!(size_of::<linux::robust_list_head>() == 24);
    assert!(size_of::<linux_raw_sys::system::new_utsname>() == 390);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroed_value_has_zero_bytes() {
        let time: linux::__kernel_timespec = zeroed();
        assert_eq!(bytes_of(&time), [0; 16]);
    }

    #[test]
    fn bytes_written_are_the_value() {
        let mut pair: [u32; 2] = zeroed();
        bytes_of_mut(&mut pair)[4..].copy_from_slice(&7u32.to_ne_bytes());
        assert_eq!(pair, [0, 7]);
    }
}
