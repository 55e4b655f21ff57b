//! TCP sockets (tcp(7)): connections, listeners and their options.
//!
//! An [`Endpoint`] is what a socket is, whatever it is doing: its addresses, its place in the table of ports, its options
//! and its [`State`]. [`handshake`] makes connections; [`transport`] is what carries one, [`link`] within the machine and
//! [`wire`] over a wire; [`flow`] is the bytes in one direction, [`transfer`] sends and receives, [`options`] has the
//! options of tcp(7).

mod flow;
mod handshake;
mod link;
mod options;
mod transfer;
mod transport;
mod wire;

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, Result, ioctl, net};
use hal::UserAddr;

use super::{
    address::{IpAddress, SocketAddress},
    interface::{self, Kind},
    ip_options::Context,
    ports::{Binding, Place, PortTable, Rules},
    shared::Shared,
};
use crate::{
    fs::{
        PollEvents, PollTable,
        socket::{CommonOptions, Incoming, Outgoing, Patience, SocketOps},
    },
    mm::user,
    sync::IrqLock,
    task::wait::wait_until,
    time::{self, TimerHandle},
};
pub(super) use handshake::{Attempt, Crowd};
use link::{Link, Phase, Side};
use options::TcpOptions;
use transport::Transport;
pub(super) use wire::{Admission, Origin, Wire, WireState};

/// The table of TCP's ports.
pub(super) static PORTS: PortTable = PortTable::new(Rules::Stream);

/// The longest queue of connections not yet accepted (/proc/sys/net/core/somaxconn).
static MAX_BACKLOG: AtomicUsize = AtomicUsize::new(4096);

/// The most that listen(2) gives.
pub(super) fn max_backlog() -> usize {
    MAX_BACKLOG.load(Ordering::Relaxed)
}

/// Sets [`max_backlog`].
pub(super) fn set_max_backlog(limit: u32) {
    MAX_BACKLOG.store(limit as usize, Ordering::Relaxed);
}

/// Bytes of a new socket's buffers (tcp(7), `tcp_wmem` and `tcp_rmem`).
pub const SEND_BUFFER: usize = 16384;
/// See [`SEND_BUFFER`].
pub const RECEIVE_BUFFER: usize = 131_072;
/// What the send buffer grows to with a connection, as it does on Linux's loopback with its long packets.
const CONNECTED_SEND_BUFFER: usize = 2_626_560;

/// A TCP socket, open or on its way through a listener's queue.
pub(super) struct Endpoint {
    shared: Arc<Shared>,
    state: IrqLock<State>,
    this: Weak<Self>,
}

struct State {
    role: Role,
    binding: Option<Binding>,
    /// bind(2) named the address, or the port: they stay when a connection goes.
    keeps_address: bool,
    keeps_port: bool,
    local: IpAddress,
    remote: Option<SocketAddress>,
    /// Of an attempt to connect; an established connection has its own.
    error: Option<Errno>,
    /// A connect(2) that did not wait is under way, or has ended without being asked about.
    outcome_open: bool,
    /// Numbers the attempts to connect, so that what is left of an old one (its timer, its place in line, a connection
    /// that comes to be late) does nothing to a new one.
    attempt: u32,
    /// The interface that the connection is made by, if it leaves the machine.
    by_wire: Option<u32>,
    options: TcpOptions,
    /// Ends an attempt to connect that takes too long.
    timer: Option<TimerHandle>,
}

/// What a socket is doing.
enum Role {
    Idle,
    /// Waits for a place in a listener's queue, or for an answer from the wire.
    Connecting(Option<Arc<Wire>>),
    Listening {
        backlog: usize,
        pending: VecDeque<Arc<Endpoint>>,
        /// Who connects while the queue is full.
        waiting: VecDeque<Attempt>,
        /// Connections over a wire that are not complete.
        half_open: usize,
    },
    Connected(Transport),
}

impl Endpoint {
    fn new(shared: Arc<Shared>) -> Arc<Self> {
        let local = shared.any();
        Arc::new_cyclic(|this| Self {
            shared,
            state: IrqLock::new(State {
                role: Role::Idle,
                binding: None,
                keeps_address: false,
                keeps_port: false,
                local,
                remote: None,
                error: None,
                outcome_open: false,
                attempt: 0,
                by_wire: None,
                options: TcpOptions::new(),
                timer: None,
            }),
            this: this.clone(),
        })
    }

    fn place(&self, local: IpAddress) -> Place {
        Place {
            local,
            only_v6: self.shared.is_only_v6(),
            device: self.shared.device(),
            options: self.shared.common.clone(),
            uid: self.shared.uid,
            owner: self.this.clone(),
        }
    }

    /// The connection, if there is one.
    fn transport(&self) -> Option<Transport> {
        match &self.state.lock().role {
            Role::Connected(transport) => Some(transport.clone()),
            _ => None,
        }
    }

    /// Stops whatever it does and gives up its address, by a reset where `abort`.
    fn end(&self, abort: bool) {
        let (role, binding, timer) = {
            let mut state = self.state.lock();
            state.remote = None;
            (core::mem::replace(&mut state.role, Role::Idle), state.binding.take(), state.timer.take())
        };
        drop(timer);
        match role {
            Role::Idle | Role::Connecting(None) => drop(binding),
            Role::Connecting(Some(wire)) => Transport::Wire(wire).close(true, binding),
            Role::Listening { pending, waiting, .. } => {
                // First of all nobody finds it any more.
                drop(binding);
                refuse(pending, waiting);
            }
            Role::Connected(transport) => transport.close(abort, binding),
        }
        self.shared.events.wake_all();
    }

    /// As [`end`](Self::end) for a socket that lives on: an address and port that bind(2) named stay.
    fn disconnect(&self) {
        let (role, binding, timer) = {
            let mut state = self.state.lock();
            if matches!(state.role, Role::Connecting(_)) {
                state.error = Some(Errno::ECONNRESET);
            }
            if let Role::Connected(transport) = &state.role
                && transport.phase() != Phase::Closed
            {
                state.error = Some(Errno::ECONNRESET);
            }
            state.remote = None;
            state.outcome_open = false;
            if !state.keeps_address {
                state.local = self.shared.any();
            }
            let local = state.local;
            let binding = if state.keeps_port { None } else { state.binding.take() };
            if let Some(kept) = &state.binding {
                kept.unlisten();
                kept.set_addresses(local, None);
            }
            (core::mem::replace(&mut state.role, Role::Idle), binding, state.timer.take())
        };
        drop((binding, timer));
        match role {
            Role::Idle | Role::Connecting(None) => {}
            Role::Connecting(Some(wire)) => Transport::Wire(wire).close(true, None),
            Role::Listening { pending, waiting, .. } => refuse(pending, waiting),
            Role::Connected(transport) => transport.close(true, None),
        }
        self.shared.events.wake_all();
    }

    /// What it shows in /proc/net/tcp: state as a number of tcp(7), addresses, queues.
    pub(super) fn summary(&self) -> Summary {
        let state = self.state.lock();
        let port = state.binding.as_ref().map_or(0, Binding::port);
        let (number, queued, transport) = match &state.role {
            Role::Idle => (options::CLOSE, (0, 0), None),
            Role::Connecting(_) => (options::SYN_SENT, (0, 0), None),
            Role::Listening { pending, .. } => (options::LISTEN, (pending.len(), 0), None),
            Role::Connected(transport) => (options::ESTABLISHED, (0, 0), Some(transport.clone())),
        };
        let local = SocketAddress::new(state.local, port);
        let remote = state.remote.unwrap_or(SocketAddress::new(self.shared.any(), 0));
        drop(state);
        let (number, (receive_queue, send_queue)) = match transport {
            Some(transport) => (transport.number(), transport.queued()),
            None => (number, queued),
        };
        let Shared { family, inode, uid, .. } = *self.shared;
        Summary { family, inode, uid, number, local, remote, receive_queue, send_queue }
    }

    fn context(&self) -> Context {
        let state = self.state.lock();
        Context {
            family: self.shared.family,
            protocol: self.shared.protocol,
            raw: false,
            stream: true,
            mtu: match &state.role {
                Role::Connected(Transport::Wire(wire)) => wire.mtu() as u32,
                Role::Connected(Transport::Local(..)) => interface::LOOPBACK.mtu(),
                _ => 0,
            },
        }
    }
}

/// Tells everybody in a listener's queues that nobody listens any more.
fn refuse(pending: VecDeque<Arc<Endpoint>>, waiting: VecDeque<Attempt>) {
    for child in pending {
        child.end(true);
    }
    for client in waiting {
        client.fail(Errno::ECONNREFUSED);
    }
}

/// A socket as /proc/net/tcp shows it.
pub(super) struct Summary {
    pub(super) family: u32,
    pub(super) inode: u64,
    pub(super) uid: u32,
    pub(super) number: u8,
    pub(super) local: SocketAddress,
    pub(super) remote: SocketAddress,
    pub(super) receive_queue: usize,
    pub(super) send_queue: usize,
}

impl Summary {
    /// Whether it listens or is connected. /proc/net/tcp shows no others: who waits for a server looks there.
    pub(super) fn is_open(&self) -> bool {
        self.number != options::CLOSE
    }
}

/// What a program's TCP socket refers to.
pub(super) struct TcpSocket {
    endpoint: Arc<Endpoint>,
}

impl TcpSocket {
    /// socket(2).
    pub(super) fn open(family: u32) -> Arc<dyn SocketOps> {
        let shared = Shared::new(family, net::IPPROTO_TCP as u32, SEND_BUFFER, RECEIVE_BUFFER);
        Self::on(Endpoint::new(shared))
    }

    fn on(endpoint: Arc<Endpoint>) -> Arc<dyn SocketOps> {
        Arc::new(Self { endpoint })
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        let linger = self.endpoint.shared.common.linger();
        let transport = self.endpoint.transport();
        self.endpoint.end(linger == Some(0));
        if let (Some(Transport::Wire(wire)), Some(seconds @ 1..)) = (transport, linger) {
            // close(2) waits until what was sent has arrived (socket(7), SO_LINGER).
            let deadline_ns = time::monotonic_ns().saturating_add(seconds as u64 * time::SECOND);
            let _ = wait_until(&[&wire.shared.events], Some(deadline_ns), || wire.is_drained().then_some(()));
        }
    }
}

/// Checks an address that a socket is to be bound to (ip(7), ipv6(7)) and reads it.
pub(super) fn address_to_bind(shared: &Shared, bytes: &[u8], stream: bool) -> Result<SocketAddress> {
    let address = super::parse_to_bind(shared.family, bytes)?;
    let ip = address.ip;
    if shared.family == net::AF_INET6 {
        if ip.is_v4() && shared.is_only_v6() || stream && ip.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if ip.is_link_local() && address.scope == 0 && shared.device() == 0 {
            return Err(Errno::EINVAL);
        }
        if ip.is_link_local() && address.scope != 0 && interface::by_index(address.scope).is_none() {
            return Err(Errno::ENODEV);
        }
    }
    let anywhere = shared.ip.lock().binds_anywhere();
    match interface::kind(ip) {
        Kind::Elsewhere if !anywhere => Err(Errno::EADDRNOTAVAIL),
        Kind::Multicast | Kind::Broadcast if ip.is_v4() && shared.family == net::AF_INET6 && !anywhere => {
            Err(Errno::EADDRNOTAVAIL)
        }
        _ => Ok(address),
    }
}

impl SocketOps for TcpSocket {
    fn identity(&self) -> Option<(Arc<CommonOptions>, u64)> {
        Some((self.endpoint.shared.common.clone(), self.endpoint.shared.inode))
    }

    fn bind(&self, address: &[u8]) -> Result<()> {
        let endpoint = &self.endpoint;
        let address = address_to_bind(&endpoint.shared, address, true)?;
        let mut state = endpoint.state.lock();
        if state.binding.is_some() || !matches!(state.role, Role::Idle) {
            return Err(Errno::EINVAL);
        }
        let binding = PORTS.bind(endpoint.place(address.ip), address.port)?;
        state.binding = Some(binding);
        state.local = address.ip;
        state.keeps_address = !address.ip.is_unspecified();
        state.keeps_port = address.port != 0;
        Ok(())
    }

    fn listen(&self, backlog: i32) -> Result<()> {
        self.endpoint.listen(backlog)
    }

    fn accept(&self, patience: Patience) -> Result<(Arc<dyn SocketOps>, Vec<u8>)> {
        let child = self.endpoint.accept(patience)?;
        let remote = child.state.lock().remote;
        let address = remote.map_or_else(Vec::new, |remote| remote.to_bytes(child.shared.family));
        Ok((Self::on(child), address))
    }

    fn connect(&self, address: &[u8], patience: Patience) -> Result<()> {
        self.endpoint.connect(address, patience)
    }

    fn local_address(&self) -> Vec<u8> {
        self.endpoint.summary().local.to_bytes(self.endpoint.shared.family)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        let state = self.endpoint.state.lock();
        let remote = match (&state.role, state.remote) {
            (Role::Connected(transport), Some(remote)) if transport.phase() != Phase::Closed => remote,
            _ => return Err(Errno::ENOTCONN),
        };
        Ok(remote.to_bytes(self.endpoint.shared.family))
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let endpoint = &self.endpoint;
        if let Some(transport) = endpoint.transport() {
            return transport.shutdown(read, write);
        }
        let idle = matches!(endpoint.state.lock().role, Role::Idle);
        let connecting = matches!(endpoint.state.lock().role, Role::Connecting(_));
        if idle {
            return Err(Errno::ENOTCONN);
        }
        if read || connecting {
            endpoint.disconnect();
        }
        Ok(())
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        self.endpoint.send(message)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        self.endpoint.receive(message)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.endpoint.shared.events);
        let state = self.endpoint.state.lock();
        let failed = PollEvents::ERR.when(state.error.is_some());
        match &state.role {
            // An attempt that failed leaves both streams ended until it was asked about.
            Role::Idle => {
                let ended = PollEvents::IN | PollEvents::RDHUP;
                PollEvents::HUP | PollEvents::OUT | ended.when(state.outcome_open) | failed
            }
            Role::Connecting(_) => failed,
            Role::Listening { pending, .. } => PollEvents::IN.when(!pending.is_empty()),
            Role::Connected(transport) => {
                let transport = transport.clone();
                drop(state);
                transport.poll() | failed
            }
        }
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        self.endpoint.option(level, name)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        self.endpoint.set_option(level, name, value)
    }

    fn low_water_changed(&self) {
        self.endpoint.shared.events.wake_all();
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        let transport = self.endpoint.transport();
        let listening = matches!(self.endpoint.state.lock().role, Role::Listening { .. });
        let queued = |pick: fn((usize, usize)) -> usize| {
            if listening {
                return Err(Errno::EINVAL);
            }
            Ok(transport.as_ref().map_or(0, |transport| pick(transport.queued())))
        };
        let number = match command {
            ioctl::FIONREAD => queued(|(receive, _)| receive)?,
            ioctl::TIOCOUTQ => queued(|(_, send)| send)?,
            ioctl::SIOCATMARK => {
                let at_mark = |transport: &Transport| transport.with_inbox(|inbox| inbox.is_at_mark());
                usize::from(transport.as_ref().is_some_and(at_mark))
            }
            _ => return Err(Errno::ENOTTY),
        };
        user::copy_out(argument, &i32::try_from(number).unwrap_or(i32::MAX))?;
        Ok(0)
    }
}
