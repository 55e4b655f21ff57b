//! The queue of a datagram socket, and how a datagram reaches the program.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use abi::{Errno, Result, net};

use super::{
    address::SocketAddress,
    ip_options::Arrival,
    memory::{self, Charge},
    shared::Shared,
};
use crate::{
    fs::{PollEvents, socket::Incoming},
    sync::IrqLock,
    time,
};

/// What a queued datagram counts beside its bytes, about as on Linux.
const OVERHEAD: usize = 768;

/// A datagram in a queue.
#[derive(Clone)]
pub struct Datagram {
    /// Its bytes.
    pub bytes: Arc<Vec<u8>>,
    /// Who sent it.
    pub source: SocketAddress,
    /// What else is told of it.
    pub arrival: Arrival,
    /// When it came, in nanoseconds of the wall clock.
    pub time_ns: u64,
}

#[derive(Default)]
struct Queue {
    /// Each with how many did not fit before it.
    datagrams: VecDeque<(Datagram, u32)>,
    charge: Charge,
    dropped: u32,
    /// Reported once.
    error: Option<Errno>,
    receive_shut: bool,
    send_shut: bool,
}

/// The queue of one socket. Its lock comes behind the socket's own.
pub struct Inbox(IrqLock<Queue>);

impl Inbox {
    /// An empty queue.
    pub fn new() -> Self {
        Self(IrqLock::new(Queue::default()))
    }

    /// Takes a datagram; drops it where the queue is full, and says so.
    pub fn deliver(&self, shared: &Shared, datagram: Datagram) -> bool {
        {
            let mut queue = self.0.lock();
            let full = queue.charge.get() > shared.receive_buffer();
            if full || memory::is_high() && !queue.datagrams.is_empty() {
                queue.dropped = queue.dropped.wrapping_add(1);
                return false;
            }
            queue.charge.add(datagram.bytes.len() + OVERHEAD);
            let dropped = queue.dropped;
            queue.datagrams.push_back((datagram, dropped));
        }
        shared.events.wake_all();
        true
    }

    /// Something went wrong with a datagram that the socket sent.
    pub fn fail(&self, shared: &Shared, error: Errno) {
        self.0.lock().error = Some(error);
        shared.events.wake_all();
    }

    /// Takes the pending error.
    pub fn take_error(&self) -> Option<Errno> {
        self.0.lock().error.take()
    }

    /// The pending error, or EPIPE where sending was shut down.
    pub fn check_sending(&self) -> Result<()> {
        let mut queue = self.0.lock();
        match queue.error.take() {
            Some(error) => Err(error),
            None if queue.send_shut => Err(Errno::EPIPE),
            None => Ok(()),
        }
    }

    /// shutdown(2).
    pub fn shut(&self, shared: &Shared, read: bool, write: bool) {
        {
            let mut queue = self.0.lock();
            queue.receive_shut |= read;
            queue.send_shut |= write;
        }
        shared.events.wake_all();
    }

    /// poll(2), as Linux's datagram_poll answers for a socket that can always send.
    pub fn poll(&self) -> PollEvents {
        let queue = self.0.lock();
        PollEvents::ERR.when(queue.error.is_some())
            | (PollEvents::RDHUP | PollEvents::IN).when(queue.receive_shut)
            | PollEvents::HUP.when(queue.receive_shut && queue.send_shut)
            | PollEvents::IN.when(!queue.datagrams.is_empty())
            | PollEvents::OUT_BAND
    }

    /// Bytes of the first datagram; 0 where there is none.
    pub fn first_len(&self) -> usize {
        self.0.lock().datagrams.front().map_or(0, |(first, _)| first.bytes.len())
    }

    /// What the queue counts, in bytes, and how many datagrams did not fit.
    pub fn usage(&self) -> (usize, u32) {
        let queue = self.0.lock();
        (queue.charge.get(), queue.dropped)
    }

    /// Throws everything away.
    pub fn clear(&self) {
        let queue = core::mem::take(&mut *self.0.lock());
        drop(queue);
    }

    /// The first datagram, removed unless `peek`.
    fn take(&self, peek: bool) -> Result<Option<(Datagram, u32)>> {
        let mut queue = self.0.lock();
        if let Some(error) = queue.error.take() {
            return Err(error);
        }
        if peek {
            return Ok(queue.datagrams.front().cloned());
        }
        let taken = queue.datagrams.pop_front();
        if let Some((datagram, _)) = &taken {
            queue.charge.sub(datagram.bytes.len() + OVERHEAD);
        }
        Ok(taken)
    }

    /// recv(2) and its relatives.
    pub fn receive(&self, shared: &Shared, message: &mut Incoming<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_ERRQUEUE != 0 {
            return Err(Errno::EAGAIN);
        }
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = message.flags & net::MSG_PEEK != 0;
        let (datagram, dropped) = loop {
            if let Some(taken) = self.take(peek)? {
                break taken;
            }
            let ended = message.patience.wait(&[&shared.events], || {
                let queue = self.0.lock();
                let some = !queue.datagrams.is_empty() || queue.error.is_some();
                (some || queue.receive_shut).then_some(!some)
            })?;
            if ended {
                return Ok(0);
            }
        };
        message.address = datagram.source.to_bytes(shared.family);
        message.control.others = ancillary(shared, &datagram, dropped);
        let room = message.data.remaining();
        let len = datagram.bytes.len();
        let copied = if room > 0 && len > 0 { message.data.put(&datagram.bytes)? } else { 0 };
        if len > room {
            message.result_flags |= net::MSG_TRUNC;
            if message.flags & net::MSG_TRUNC != 0 {
                return Ok(len);
            }
        }
        Ok(copied)
    }
}

/// What the program asked to be told of a datagram.
fn ancillary(shared: &Shared, datagram: &Datagram, dropped: u32) -> Vec<(u32, u32, Vec<u8>)> {
    let mut parts = Vec::new();
    let (seconds, rest) = (datagram.time_ns / time::SECOND, datagram.time_ns % time::SECOND);
    let stamp = |rest: u64| [seconds.to_ne_bytes(), rest.to_ne_bytes()].concat();
    for (option, part) in [
        (net::SO_TIMESTAMP_OLD, rest / 1000),
        (net::SO_TIMESTAMP_NEW, rest / 1000),
        (net::SO_TIMESTAMPNS_OLD, rest),
        (net::SO_TIMESTAMPNS_NEW, rest),
    ] {
        if shared.common.is_on(option) {
            // The message has its option's number.
            parts.push((net::SOL_SOCKET, option, stamp(part)));
        }
    }
    if shared.common.is_on(net::SO_RXQ_OVFL) && dropped > 0 {
        parts.push((net::SOL_SOCKET, net::SO_RXQ_OVFL, dropped.to_ne_bytes().to_vec()));
    }
    parts.extend(shared.ip.lock().ancillary(shared.family, &datagram.arrival));
    parts
}
