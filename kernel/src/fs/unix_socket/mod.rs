//! AF_UNIX sockets (unix(7)): streams, datagrams and sequenced packets within the machine.
//!
//! [`UnixSocket`] is the family's [`SocketOps`]: connections and options. An [`endpoint`] is one end of a
//! conversation, [`transfer`] moves messages, [`name`] knows who is bound where, [`in_flight`] keeps account of the open
//! files that messages carry.

mod endpoint;
mod in_flight;
mod listing;
mod name;
mod transfer;

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};
use core::sync::atomic::Ordering;

use abi::{Errno, Result, ioctl, net};
use hal::UserAddr;

use endpoint::{DEFAULT_BUFFER, Endpoint, Identity, Phase};
pub use listing::list;

use super::{
    PollEvents, PollTable,
    pidfd::PidFd,
    socket::{Credentials, Incoming, Outgoing, Patience, SocketOps, SocketType, option_int},
};
use crate::{mm::user, task::scheduler};

/// The longest queue of connections not yet accepted (/proc/sys/net/core/somaxconn).
const MAX_BACKLOG: usize = 4096;
/// The least that SO_SNDBUF and SO_RCVBUF set.
const MIN_SEND_BUFFER: usize = 4608;
const MIN_RECEIVE_BUFFER: usize = 2304;

/// A socket of the family.
pub struct UnixSocket {
    endpoint: Arc<Endpoint>,
}

impl UnixSocket {
    fn checked_kind(kind: SocketType, protocol: u32) -> Result<SocketType> {
        // PF_UNIX itself counts as its one protocol.
        if protocol != 0 && protocol != net::AF_UNIX {
            return Err(Errno::EPROTONOSUPPORT);
        }
        // Linux takes a raw socket for a datagram one.
        Ok(if kind == SocketType::Raw { SocketType::Datagram } else { kind })
    }

    fn on(endpoint: Arc<Endpoint>) -> Arc<dyn SocketOps> {
        Arc::new(Self { endpoint })
    }

    /// socket(2).
    pub fn open(kind: SocketType, protocol: u32) -> Result<Arc<dyn SocketOps>> {
        let kind = Self::checked_kind(kind, protocol)?;
        Ok(Self::on(Endpoint::new(kind)))
    }

    /// socketpair(2).
    pub fn pair(kind: SocketType, protocol: u32) -> Result<(Arc<dyn SocketOps>, Arc<dyn SocketOps>)> {
        let kind = Self::checked_kind(kind, protocol)?;
        let (first, second) = (Endpoint::new(kind), Endpoint::new(kind));
        let identity = Some(Identity::own());
        first.join(&second, identity.clone());
        second.join(&first, identity);
        Ok((Self::on(first), Self::on(second)))
    }

    fn connect_stream(&self, address: &[u8], patience: Patience) -> Result<()> {
        self.check_connectable()?;
        self.name_if_credentials_are_passed()?;
        let client = &self.endpoint;
        let listener = loop {
            let listener = name::find(address)?;
            if listener.kind != client.kind {
                return Err(Errno::EPROTOTYPE);
            }
            match self.try_connect(&listener) {
                Err(Errno::EAGAIN) => {}
                Ok(()) => break listener,
                Err(error) => return Err(error),
            }
            patience.wait(&[&listener.events], || {
                let state = listener.state.lock();
                let full = match &state.phase {
                    Phase::Listening { backlog, pending } => pending.len() > *backlog,
                    _ => false,
                };
                (!full || state.receive_shut).then_some(())
            })?;
        };
        listener.events.wake_all();
        Ok(())
    }

    fn check_connectable(&self) -> Result<()> {
        let state = self.endpoint.state.lock();
        match state.phase {
            Phase::Unconnected if state.peer.is_none() => Ok(()),
            Phase::Listening { .. } => Err(Errno::EINVAL),
            _ => Err(Errno::EISCONN),
        }
    }

    /// Puts the other end of the new connection into the listener's queue; EAGAIN where that is full.
    fn try_connect(&self, listener: &Arc<Endpoint>) -> Result<()> {
        let client = &self.endpoint;
        let embryo = Endpoint::new(client.kind);
        embryo.join(client, Some(Identity::own()));
        let outcome = {
            let mut state = listener.state.lock();
            let (name, identity, shut) = (state.name.clone(), state.identity.clone(), state.receive_shut);
            match &mut state.phase {
                Phase::Listening { .. } if shut => Err(Errno::ECONNREFUSED),
                Phase::Listening { backlog, pending } if pending.len() > *backlog => Err(Errno::EAGAIN),
                Phase::Listening { pending, .. } => {
                    // Nobody else knows the embryo yet, so its lock cannot be held.
                    embryo.state.lock().name = name;
                    pending.push_back(embryo.clone());
                    Ok(identity)
                }
                _ => Err(Errno::ECONNREFUSED),
            }
        };
        match outcome {
            Ok(identity) => {
                client.join(&embryo, identity);
                Ok(())
            }
            Err(error) => {
                // The embryo refers to the client, not the other way round: this only lets it go.
                embryo.state.lock().peer = None;
                Err(error)
            }
        }
    }

    fn connect_datagram(&self, address: &[u8]) -> Result<()> {
        let endpoint = &self.endpoint;
        if name::is_unspecified(address) {
            endpoint.set_peer(None);
            return Ok(());
        }
        self.name_if_credentials_are_passed()?;
        let peer = name::find(address)?;
        if peer.kind != endpoint.kind {
            return Err(Errno::EPROTOTYPE);
        }
        let others = peer.state.lock().peer.as_ref().is_some_and(|other| !Arc::ptr_eq(other, endpoint));
        if others {
            return Err(Errno::EPERM);
        }
        endpoint.set_peer(Some(peer));
        Ok(())
    }

    /// Who asks for credentials gets a name, so that the receiver can answer (unix(7), SO_PASSCRED).
    fn name_if_credentials_are_passed(&self) -> Result<()> {
        let wanted = {
            let state = self.endpoint.state.lock();
            state.pass_credentials && state.name.is_none()
        };
        if wanted {
            let name = name::autobind(&self.endpoint)?;
            self.endpoint.state.lock().name = Some(name);
        }
        Ok(())
    }

    /// Bytes that can be received: of a stream all, else of the first message.
    fn available(&self) -> Result<usize> {
        let state = self.endpoint.state.lock();
        match (&state.phase, self.endpoint.kind) {
            (Phase::Listening { .. }, _) => Err(Errno::EINVAL),
            (_, SocketType::Stream) => Ok(state.inbox.iter().map(endpoint::Message::len).sum()),
            _ => Ok(state.inbox.front().map_or(0, endpoint::Message::len)),
        }
    }

    /// Bytes sent that the peer has not received.
    fn unreceived(&self) -> usize {
        self.endpoint.peer().map_or(0, |peer| peer.state.lock().charge)
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

impl SocketOps for UnixSocket {
    fn as_any(&self) -> Option<&dyn core::any::Any> {
        Some(self)
    }
    fn bind(&self, address: &[u8]) -> Result<()> {
        if self.endpoint.state.lock().name.is_some() {
            return Err(Errno::EINVAL);
        }
        let name = name::bind(address, &self.endpoint)?;
        self.endpoint.state.lock().name = Some(name);
        Ok(())
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        let endpoint = &self.endpoint;
        if !endpoint.is_connection_oriented() {
            return Err(Errno::EOPNOTSUPP);
        }
        // A negative backlog is a very large one on Linux.
        let wanted = usize::try_from(backlog).unwrap_or(MAX_BACKLOG).min(MAX_BACKLOG);
        let identity = Some(Identity::own());
        {
            let mut state = endpoint.state.lock();
            if state.name.is_none() {
                return Err(Errno::EINVAL);
            }
            match &mut state.phase {
                Phase::Listening { backlog, .. } => *backlog = wanted,
                Phase::Connected => return Err(Errno::EINVAL),
                phase @ Phase::Unconnected => {
                    *phase = Phase::Listening { backlog: wanted, pending: VecDeque::new() };
                }
            }
            state.identity = identity.clone();
            // What SO_PEERCRED of the listener itself tells.
            state.peer_identity = identity;
        }
        endpoint.events.wake_all();
        Ok(())
    }

    fn accept(&self, patience: Patience) -> Result<(Arc<dyn SocketOps>, Vec<u8>)> {
        let endpoint = &self.endpoint;
        if !endpoint.is_connection_oriented() {
            return Err(Errno::EOPNOTSUPP);
        }
        let accepted = patience.wait(&[&endpoint.events], || {
            let mut state = endpoint.state.lock();
            let shut = state.receive_shut;
            match &mut state.phase {
                Phase::Listening { pending, .. } => match pending.pop_front() {
                    None if shut => Some(Err(Errno::EINVAL)),
                    next => next.map(Ok),
                },
                _ => Some(Err(Errno::EINVAL)),
            }
        })??;
        // Clients may wait for a place in the queue.
        endpoint.events.wake_all();
        let pass_credentials = endpoint.state.lock().pass_credentials;
        accepted.state.lock().pass_credentials = pass_credentials;
        let ops = Self::on(accepted);
        let address = ops.peer_address().unwrap_or_default();
        Ok((ops, address))
    }

    fn connect(&self, address: &[u8], patience: Patience) -> Result<()> {
        if self.endpoint.is_connection_oriented() {
            self.connect_stream(address, patience)
        } else {
            self.connect_datagram(address)
        }
    }

    fn local_address(&self) -> Vec<u8> {
        let name = self.endpoint.state.lock().name.clone();
        name.map_or_else(name::unnamed, |name| name.address().to_vec())
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        let peer = self.endpoint.peer().ok_or(Errno::ENOTCONN)?;
        let name = peer.state.lock().name.clone();
        Ok(name.map_or_else(name::unnamed, |name| name.address().to_vec()))
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let endpoint = &self.endpoint;
        let peer = {
            let mut state = endpoint.state.lock();
            state.receive_shut |= read;
            state.send_shut |= write;
            state.peer.clone()
        };
        if let Some(peer) = peer.filter(|_| endpoint.is_connection_oriented()) {
            {
                let mut state = peer.state.lock();
                state.receive_shut |= write;
                state.send_shut |= read;
            }
            peer.events.wake_all();
        }
        endpoint.changed();
        Ok(())
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        if self.endpoint.kind != SocketType::Stream {
            return self.endpoint.send_packet(message);
        }
        if message.address.is_some() {
            let connected = matches!(self.endpoint.state.lock().phase, Phase::Connected);
            return Err(if connected { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        self.endpoint.send_stream(message)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let received = if self.endpoint.kind == SocketType::Stream {
            if message.wants_address
                && let Some(name) = self.endpoint.peer().and_then(|peer| peer.state.lock().name.clone())
            {
                message.address = name.address().to_vec();
            }
            self.endpoint.receive_stream(message)
        } else {
            self.endpoint.receive_packet(message)
        };
        if !self.endpoint.state.lock().pass_credentials {
            message.control.credentials = None;
        }
        received
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        let endpoint = &self.endpoint;
        table.add(&endpoint.events);
        let (mut events, may_send) = {
            let state = endpoint.state.lock();
            let mut events = PollEvents::ERR.when(state.error.is_some())
                | PollEvents::HUP.when(state.receive_shut && state.send_shut)
                | (PollEvents::RDHUP | PollEvents::IN).when(state.receive_shut)
                | PollEvents::IN.when(!state.inbox.is_empty());
            let may_send = match &state.phase {
                Phase::Listening { pending, .. } => {
                    events |= PollEvents::IN.when(!pending.is_empty());
                    false
                }
                Phase::Unconnected => {
                    events |= PollEvents::HUP.when(endpoint.is_connection_oriented());
                    true
                }
                Phase::Connected => true,
            };
            (events, may_send)
        };
        events |= PollEvents::OUT.when(may_send && endpoint.can_send());
        events
    }

    fn held_bytes(&self) -> usize {
        self.endpoint.state.lock().charge
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if level != net::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let mut state = self.endpoint.state.lock();
        let number = match name {
            net::SO_ERROR => state.error.take().map_or(0, |error| i32::from(error.number())),
            net::SO_SNDBUF => self.endpoint.send_limit() as i32,
            net::SO_RCVBUF => state.receive_buffer as i32,
            net::SO_PASSCRED => i32::from(state.pass_credentials),
            net::SO_ACCEPTCONN => i32::from(matches!(state.phase, Phase::Listening { .. })),
            net::SO_PEERPIDFD => {
                let process = state.peer_identity.as_ref().map(|peer| peer.process.clone());
                drop(state);
                let process = process.ok_or(Errno::ENODATA)?.upgrade().ok_or(Errno::ESRCH)?;
                let file = PidFd::open(process, None, 0);
                file.downcast::<PidFd>().ok_or(Errno::ESRCH)?.process()?;
                scheduler::current().process().files().install(file, true)?
            }
            net::SO_PEERCRED => {
                let none = Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX };
                let peer = state.peer_identity.as_ref().map_or(none, |peer| peer.credentials);
                return Ok([peer.pid.to_ne_bytes(), peer.uid.to_ne_bytes(), peer.gid.to_ne_bytes()].concat());
            }
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level != net::SOL_SOCKET {
            return Err(Errno::EOPNOTSUPP);
        }
        let number = option_int(value)?;
        // Linux doubles what is asked for, up to a limit, to have room for its own structures (socket(7)).
        let doubled = |least: usize| {
            usize::try_from(number).unwrap_or(DEFAULT_BUFFER).min(DEFAULT_BUFFER).saturating_mul(2).max(least)
        };
        match name {
            net::SO_SNDBUF | net::SO_SNDBUFFORCE => {
                self.endpoint.send_buffer.store(doubled(MIN_SEND_BUFFER), Ordering::Relaxed);
                self.endpoint.events.wake_all();
            }
            net::SO_RCVBUF | net::SO_RCVBUFFORCE => {
                self.endpoint.state.lock().receive_buffer = doubled(MIN_RECEIVE_BUFFER);
            }
            net::SO_PASSCRED => self.endpoint.state.lock().pass_credentials = number != 0,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        let number = match command {
            ioctl::FIONREAD => self.available()?,
            ioctl::TIOCOUTQ => self.unreceived(),
            ioctl::SIOCATMARK => 0,
            _ => return Err(Errno::ENOTTY),
        };
        user::copy_out(argument, &i32::try_from(number).unwrap_or(i32::MAX))?;
        Ok(0)
    }
}
