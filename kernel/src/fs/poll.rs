//! Readiness: the events of poll(2) and how an open file lets a waiter register.

use alloc::{sync::Arc, vec::Vec};
use core::ops::{BitAnd, BitOr, BitOrAssign};

use crate::task::wait::{Registration, WaitQueue, Wake};

/// A set of poll(2) events, in poll's and epoll's common numbering.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PollEvents(u32);

impl PollEvents {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// POLLIN and POLLRDNORM.
    pub const IN: Self = Self(0x0041);
    /// POLLPRI.
    pub const PRI: Self = Self(0x0002);
    /// POLLOUT and POLLWRNORM.
    pub const OUT: Self = Self(0x0104);
    /// POLLOUT, POLLWRNORM and POLLWRBAND: what a datagram socket with room reports.
    pub const OUT_BAND: Self = Self(0x0304);
    /// POLLERR.
    pub const ERR: Self = Self(0x0008);
    /// POLLHUP.
    pub const HUP: Self = Self(0x0010);
    /// POLLNVAL.
    pub const NVAL: Self = Self(0x0020);
    /// POLLRDHUP.
    pub const RDHUP: Self = Self(0x2000);
    /// Always reported, asked for or not.
    pub const ALWAYS: Self = Self(0x0018);

    /// From a program's bits.
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }
    /// To a program's bits.
    pub const fn bits(self) -> u32 {
        self.0
    }
    /// Whether the set is empty.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
    /// Whether the two have an event in common.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    /// `self` where `condition`, else nothing.
    pub const fn when(self, condition: bool) -> Self {
        if condition { self } else { Self::NONE }
    }
}

impl BitOr for PollEvents {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
impl BitOrAssign for PollEvents {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
impl BitAnd for PollEvents {
    type Output = Self;
    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// Collects registrations while files are asked what is ready.
pub struct PollTable<'a> {
    collect: Option<(&'a mut Vec<Registration>, Arc<dyn Wake>)>,
}

impl<'a> PollTable<'a> {
    /// Only looks.
    pub const fn look() -> Self {
        Self { collect: None }
    }

    /// Registers `waker` and keeps the registrations in `list`.
    pub fn register(list: &'a mut Vec<Registration>, waker: Arc<dyn Wake>) -> Self {
        Self { collect: Some((list, waker)) }
    }

    /// Called by a file for every queue that wakes when its readiness changes, before it looks.
    pub fn add(&mut self, queue: &Arc<WaitQueue>) {
        if let Some((list, waker)) = &mut self.collect {
            list.push(Registration::new(queue, waker.clone()));
        }
    }
}
