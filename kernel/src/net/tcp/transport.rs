//! What carries a connection: a link within the machine, or a wire.

use alloc::sync::Arc;

use abi::{Errno, Result};

use super::{
    Link, Phase, Side, Wire,
    flow::{Chunk, Flow},
    link::{Bytes, Received, Remains, Sent},
    options,
};
use crate::{fs::PollEvents, net::ports::Binding};

/// A connection's carrier. The methods say what those of [`Link`] and [`Wire`] say.
#[derive(Clone)]
pub(super) enum Transport {
    /// Both ends are in this machine; this is one of them.
    Local(Arc<Link>, Side),
    /// The other end is elsewhere.
    Wire(Arc<Wire>),
}

/// One method for both.
macro_rules! either {
    ($self:ident, $method:ident ( $($argument:expr),* )) => {
        match $self {
            Self::Local(link, side) => link.$method(*side $(, $argument)*),
            Self::Wire(wire) => wire.$method($($argument),*),
        }
    };
}

impl Transport {
    pub(super) fn phase(&self) -> Phase {
        either!(self, phase())
    }

    /// The number of its state in /proc/net/tcp.
    pub(super) fn number(&self) -> u8 {
        match self {
            Self::Local(link, side) => options::number(link.phase(*side)),
            Self::Wire(wire) => wire.number(),
        }
    }

    pub(super) fn take_error(&self) -> Option<Errno> {
        either!(self, take_error())
    }

    pub(super) fn prepare(&self, len: usize) -> Result<Option<Chunk>> {
        either!(self, prepare(len))
    }

    pub(super) fn may_send(&self) -> bool {
        either!(self, may_send())
    }

    pub(super) fn can_send(&self) -> bool {
        either!(self, can_send())
    }

    /// Sends bytes. Over a wire urgent ones go like others.
    pub(super) fn send<'a>(&self, bytes: Bytes<'a>, urgent: bool) -> Result<Sent<'a>> {
        match self {
            Self::Local(link, side) => link.send(*side, bytes, urgent),
            Self::Wire(wire) => wire.send(bytes),
        }
    }

    pub(super) fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        either!(self, shutdown(read, write))
    }

    /// The socket is closed; `binding` is its place in the table of ports.
    pub(super) fn close(&self, abort: bool, binding: Option<Binding>) {
        match self {
            Self::Local(link, side) => match (link.close(*side, abort), binding) {
                (Remains::Address, Some(binding)) => link.keep_address(*side, binding.into_time_wait()),
                (_, binding) => drop(binding),
            },
            Self::Wire(wire) => wire.close(abort, binding),
        }
    }

    pub(super) fn receive(&self, position: Option<u64>, limit: usize, has_some: bool) -> Received {
        either!(self, receive(position, limit, has_some))
    }

    pub(super) fn with_inbox<T>(&self, act: impl FnOnce(&mut Flow) -> T) -> T {
        either!(self, with_inbox(act))
    }

    pub(super) fn is_receivable(&self, position: Option<u64>, target: usize) -> bool {
        either!(self, is_receivable(position, target))
    }

    pub(super) fn take_urgent(&self, peek: bool) -> Result<Option<u8>> {
        match self {
            Self::Local(link, side) => link.take_urgent(*side, peek),
            Self::Wire(wire) => wire.take_urgent(),
        }
    }

    pub(super) fn poll(&self) -> PollEvents {
        either!(self, poll())
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        either!(self, totals())
    }

    pub(super) fn queued(&self) -> (usize, usize) {
        either!(self, queued())
    }
}
