//! Making connections: listen(2), connect(2), accept(2).
//!
//! As on Linux's loopback a connection is there when connect(2) returns, before anybody accepts it, as long as the
//! listener's queue has room. Else the client waits in line, as long as it would send SYNs; each accept(2) lets one in.
//!
//! Over a wire the packet stack makes the connection: a client hands it its numbers and hears what came of it; a listener
//! is asked for room when the first segment comes ([`Endpoint::knock`]) and gets what is complete
//! ([`Endpoint::enqueue`]).
//!
//! No two sockets are locked at once: a client that found its listener puts the other end, a socket nobody knows yet,
//! into the listener's queue under the listener's lock and then turns to its own.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use abi::{Errno, Result, net};

use super::{
    Admission, CONNECTED_SEND_BUFFER, Endpoint, Link, PORTS, Phase, Role, Side, State, Transport, Wire, max_backlog,
    options::TcpOptions,
};
use crate::{
    fs::socket::Patience,
    net::{
        address::{IpAddress, SocketAddress, family_of},
        interface::{self, Kind},
        ports::Binding,
        shared::Shared,
        wire::Begin,
    },
    sync::IrqLock,
    time::{self, TimerAction, TimerCallback},
};

/// A line this long is looked through for clients that are gone, and again whenever it has doubled.
const FIRST_SWEEP: usize = 64;

/// Why a listener has no room.
pub(in crate::net) enum Crowd {
    /// Its queue is full of connections that nobody has accepted.
    Queue,
    /// Connections that are not complete take what is left of the queue.
    HalfOpen,
}

/// What came of knocking at a listener of this machine.
enum Answer {
    Connected(Arc<Link>, Side),
    /// In line.
    Waiting,
    Refused,
}

/// One attempt of a socket to connect, as others know it. Nothing comes of it once the socket has given it up.
#[derive(Clone)]
pub(in crate::net) struct Attempt {
    client: Weak<Endpoint>,
    number: u32,
}

impl Attempt {
    /// It is over.
    pub(in crate::net) fn fail(&self, error: Errno) {
        if let Some(client) = self.client.upgrade() {
            client.fail(self.number, error);
        }
    }

    /// The connection over a wire that it began is complete: whether the socket still wants it.
    pub(in crate::net) fn connected(&self, wire: &Arc<Wire>) -> bool {
        self.client.upgrade().is_some_and(|client| client.connected(self.number, wire))
    }
}

impl TimerCallback for Attempt {
    fn expired(&self) {
        self.fail(Errno::ETIMEDOUT);
    }
}

impl Endpoint {
    /// listen(2).
    pub(super) fn listen(&self, backlog: i32) -> Result<()> {
        // A negative backlog is a very large one on Linux.
        let wanted = usize::try_from(backlog).unwrap_or(usize::MAX).min(max_backlog());
        let mut state = self.state.lock();
        let outcome_open = state.outcome_open;
        match &mut state.role {
            Role::Listening { backlog, .. } => {
                *backlog = wanted;
                return Ok(());
            }
            Role::Idle if !outcome_open => {}
            _ => return Err(Errno::EINVAL),
        }
        if state.binding.is_none() {
            state.binding = Some(PORTS.bind(self.place(state.local), 0)?);
        }
        if let Some(binding) = &state.binding {
            binding.listen()?;
        }
        state.error = None;
        state.role =
            Role::Listening { backlog: wanted, pending: VecDeque::new(), waiting: VecDeque::new(), half_open: 0 };
        drop(state);
        self.shared.events.wake_all();
        Ok(())
    }

    /// accept(2).
    pub(super) fn accept(&self, patience: Patience) -> Result<Arc<Self>> {
        let child = patience.wait(&[&self.shared.events], || match &mut self.state.lock().role {
            Role::Listening { pending, .. } => pending.pop_front().map(Ok),
            _ => Some(Err(Errno::EINVAL)),
        })??;
        // One that has given up takes no place, so the one behind it gets it.
        while let Some((next, number)) = self.next_in_line() {
            next.attempt(number);
        }
        Ok(child)
    }

    /// The first in line for a place in the queue, where there is one.
    fn next_in_line(&self) -> Option<(Arc<Self>, u32)> {
        match &mut self.state.lock().role {
            Role::Listening { backlog, pending, waiting, .. } if pending.len() <= *backlog => pop_living(waiting),
            _ => None,
        }
    }

    /// connect(2).
    pub(super) fn connect(&self, address: &[u8], patience: Patience) -> Result<()> {
        if family_of(address)? == net::AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        if !self.goes_on(patience)? {
            return Ok(());
        }
        let number = self.start(address)?;
        self.attempt(number);
        if patience.nonblocking {
            self.state.lock().outcome_open = true;
            return Err(Errno::EINPROGRESS);
        }
        self.wait_for_outcome(patience)
    }

    /// What an earlier connect means for this one: whether it is to be made at all.
    fn goes_on(&self, patience: Patience) -> Result<bool> {
        let connecting = {
            let mut state = self.state.lock();
            match &state.role {
                Role::Listening { .. } => return Err(Errno::EISCONN),
                Role::Connected(transport) if state.outcome_open => {
                    let over = transport.phase() == Phase::Closed;
                    let error = transport.take_error();
                    state.outcome_open = false;
                    return match error {
                        _ if !over => Ok(false),
                        error => Err(error.unwrap_or(Errno::ECONNABORTED)),
                    };
                }
                Role::Connected(..) => return Err(Errno::EISCONN),
                Role::Connecting(_) => true,
                Role::Idle if state.outcome_open => {
                    state.outcome_open = false;
                    return Err(state.error.take().unwrap_or(Errno::ECONNABORTED));
                }
                Role::Idle => false,
            }
        };
        if !connecting {
            return Ok(true);
        }
        if patience.nonblocking {
            return Err(Errno::EALREADY);
        }
        self.wait_for_outcome(patience)?;
        Ok(false)
    }

    fn wait_for_outcome(&self, patience: Patience) -> Result<()> {
        let waited = patience.wait(&[&self.shared.events], || {
            let mut state = self.state.lock();
            match &state.role {
                Role::Connecting(_) => None,
                Role::Connected(..) => Some(Ok(())),
                _ => Some(Err(state.error.take().unwrap_or(Errno::ECONNABORTED))),
            }
        });
        let mut state = self.state.lock();
        match waited {
            Ok(outcome) => {
                state.outcome_open = false;
                outcome
            }
            Err(error) => {
                state.outcome_open = true;
                Err(if error == Errno::EAGAIN { Errno::EINPROGRESS } else { error })
            }
        }
    }

    /// Checks the address, takes a port and says to whom it connects. Answers the number of the attempt.
    fn start(&self, address: &[u8]) -> Result<u32> {
        let shared = &self.shared;
        let target = SocketAddress::parse(shared.family, address)?;
        if target.ip.is_v4() && shared.is_only_v6() {
            return Err(Errno::ENETUNREACH);
        }
        let mut state = self.state.lock();
        if !matches!(state.role, Role::Idle) {
            return Err(Errno::EALREADY);
        }
        let device = if target.scope != 0 { target.scope } else { shared.device() };
        if target.ip.is_link_local() && !target.ip.is_multicast() && device == 0 {
            return Err(Errno::EINVAL);
        }
        let route = interface::route(state.local, target.ip, device)?;
        if !matches!(route.kind, Kind::Local | Kind::Elsewhere) {
            return Err(Errno::ENETUNREACH);
        }
        if target.port == 0 && route.kind == Kind::Elsewhere {
            // Nobody can be there.
            return Err(Errno::ECONNREFUSED);
        }
        let local = if state.local.is_unspecified() { route.source } else { state.local };
        let remote = SocketAddress { ip: route.destination, ..target };
        match &state.binding {
            Some(binding) => binding.connect(local, (remote.ip, remote.port))?,
            None => state.binding = Some(PORTS.connect(self.place(local), (remote.ip, remote.port))?),
        }
        state.local = local;
        state.remote = Some(remote);
        state.error = None;
        state.role = Role::Connecting(None);
        state.by_wire = (route.kind == Kind::Elsewhere).then_some(route.interface.index);
        state.attempt = state.attempt.wrapping_add(1);
        Ok(state.attempt)
    }

    /// Tries to get into the listener's queue.
    fn attempt(&self, number: u32) {
        let (remote, local, by_wire) = {
            let state = self.state.lock();
            let (true, Some(remote), Some(binding)) = (state.is_connecting(number), state.remote, &state.binding)
            else {
                return;
            };
            (remote, SocketAddress::new(state.local, binding.port()), state.by_wire)
        };
        if let Some(index) = by_wire {
            self.knock_outside(number, index, local, remote);
            return;
        }
        let listener = PORTS.listener(remote.ip, remote.port, interface::LOOPBACK.index);
        let answer = match listener.and_then(|found| found.downcast::<Self>().ok()) {
            Some(listener) => listener.admit(self, number, local, remote),
            None if (local.ip, local.port) == (remote.ip, remote.port) => {
                Answer::Connected(Link::looped(&self.shared, remote.ip), Side::CLIENT)
            }
            None => Answer::Refused,
        };
        match answer {
            Answer::Connected(link, side) => {
                self.establish(number, Transport::Local(link, side));
            }
            Answer::Refused => self.fail(number, Errno::ECONNREFUSED),
            Answer::Waiting => self.limit_wait(number),
        }
    }

    fn known_as(&self, number: u32) -> Attempt {
        Attempt { client: self.this.clone(), number }
    }

    /// Called by a client: makes its other end and queues it.
    fn admit(&self, client: &Self, number: u32, client_address: SocketAddress, own_address: SocketAddress) -> Answer {
        let shared = self.shared.inherited();
        // An address of IPv6 with a scope is shown with it at both ends.
        let remote = SocketAddress { scope: own_address.scope, ..client_address };
        let link = Link::new(client.shared.clone(), shared.clone(), remote.ip);
        {
            let mut state = self.state.lock();
            let State { role, binding, options, .. } = &mut *state;
            let (Role::Listening { backlog, pending, waiting, .. }, Some(binding)) = (role, binding.as_ref()) else {
                return Answer::Refused;
            };
            if pending.len() > *backlog {
                // Those that have given up stay in line until somebody looks.
                if waiting.len() >= FIRST_SWEEP && waiting.len().is_power_of_two() {
                    waiting.retain(|attempt| attempt.client.strong_count() > 0);
                }
                waiting.push_back(client.known_as(number));
                return Answer::Waiting;
            }
            shared.grow_send_buffer(CONNECTED_SEND_BUFFER);
            let transport = Transport::Local(link.clone(), Side::SERVER);
            let child = Self::child(shared, transport, own_address.ip, remote, options.inherited(), binding);
            pending.push_back(child);
        }
        self.shared.events.wake_all();
        Answer::Connected(link, Side::CLIENT)
    }

    /// The socket that accept(2) gives for a connection.
    fn child(
        shared: Arc<Shared>,
        transport: Transport,
        local: IpAddress,
        remote: SocketAddress,
        options: TcpOptions,
        binding: &Binding,
    ) -> Arc<Self> {
        let child = Arc::new_cyclic(|this: &Weak<Self>| Self {
            shared,
            state: IrqLock::new(State {
                role: Role::Connected(transport),
                binding: None,
                keeps_address: true,
                keeps_port: true,
                local,
                remote: Some(remote),
                error: None,
                outcome_open: false,
                attempt: 0,
                by_wire: None,
                options,
                timer: None,
            }),
            this: this.clone(),
        });
        let place = child.place(local);
        // Nobody else knows the child yet, so its lock cannot be held.
        child.state.lock().binding = Some(binding.child(place, (remote.ip, remote.port)));
        child
    }

    /// The connection is there; it is reset where the socket has turned to something else.
    fn establish(&self, number: u32, transport: Transport) {
        self.shared.grow_send_buffer(CONNECTED_SEND_BUFFER);
        let (transport, timer) = {
            let mut state = self.state.lock();
            if state.is_connecting(number) {
                state.role = Role::Connected(transport);
                (None, state.timer.take())
            } else {
                (Some(transport), None)
            }
        };
        drop(timer);
        if let Some(transport) = transport {
            transport.close(true, None);
        }
        self.shared.events.wake_all();
    }

    /// Begins a connection over a wire.
    fn knock_outside(&self, number: u32, index: u32, local: SocketAddress, remote: SocketAddress) {
        let ethernet = interface::by_index(index).and_then(interface::Interface::ethernet);
        let begin = Begin {
            attempt: self.known_as(number),
            key: (local.ip, local.port, remote.ip, remote.port),
            admission: Admission { shared: self.shared.clone(), timing: self.state.lock().options.timing() },
        };
        let Some(wire) = ethernet.and_then(|ethernet| ethernet.begin(begin)) else {
            self.fail(number, Errno::ENOBUFS);
            return;
        };
        // It may be over already, or complete, or the socket has given it up.
        let mut state = self.state.lock();
        let wanted = state.attempt == number;
        match &mut state.role {
            Role::Connecting(known) if wanted => *known = Some(wire),
            Role::Connected(_) if wanted => {}
            _ => {
                drop(state);
                Transport::Wire(wire).close(true, None);
            }
        }
    }

    fn connected(&self, number: u32, wire: &Arc<Wire>) -> bool {
        let wanted = {
            let mut state = self.state.lock();
            let wanted = state.is_connecting(number);
            if wanted {
                state.role = Role::Connected(Transport::Wire(wire.clone()));
            }
            wanted
        };
        self.shared.events.wake_all();
        wanted
    }

    /// Somebody outside begins a connection with this listener: what it gets of it, where there is room.
    pub(in crate::net) fn knock(&self) -> core::result::Result<Admission, Crowd> {
        let mut state = self.state.lock();
        let timing = state.options.timing();
        let Role::Listening { backlog, pending, half_open, .. } = &mut state.role else { return Err(Crowd::Queue) };
        if pending.len() > *backlog {
            return Err(Crowd::Queue);
        }
        if pending.len() + *half_open > *backlog {
            return Err(Crowd::HalfOpen);
        }
        *half_open += 1;
        Ok(Admission { shared: self.shared.inherited(), timing })
    }

    /// A connection that [`knock`](Self::knock) let in will not be complete.
    pub(in crate::net) fn left(&self) {
        if let Role::Listening { half_open, .. } = &mut self.state.lock().role {
            *half_open = half_open.saturating_sub(1);
        }
    }

    /// A connection that [`knock`](Self::knock) let in is complete: whether somebody still listens.
    pub(in crate::net) fn enqueue(&self, wire: &Arc<Wire>) -> bool {
        let (own, port, remote, remote_port) = wire.key;
        let scope = if remote.is_link_local() { wire.interface_index() } else { 0 };
        let remote = SocketAddress { scope, ..SocketAddress::new(remote, remote_port) };
        let listens = {
            let mut state = self.state.lock();
            let State { role, binding, options, .. } = &mut *state;
            match (role, binding.as_ref()) {
                (Role::Listening { pending, half_open, .. }, Some(binding)) if binding.port() == port => {
                    *half_open = half_open.saturating_sub(1);
                    let transport = Transport::Wire(wire.clone());
                    pending.push_back(Self::child(
                        wire.shared.clone(),
                        transport,
                        own,
                        remote,
                        options.inherited(),
                        binding,
                    ));
                    true
                }
                _ => false,
            }
        };
        self.shared.events.wake_all();
        listens
    }

    /// An attempt to connect is over.
    fn fail(&self, number: u32, error: Errno) {
        let (binding, timer) = {
            let mut state = self.state.lock();
            if !state.is_connecting(number) {
                return;
            }
            state.role = Role::Idle;
            state.error = Some(error);
            state.remote = None;
            if !state.keeps_address {
                state.local = self.shared.any();
            }
            let local = state.local;
            let binding = if state.keeps_port { None } else { state.binding.take() };
            if let Some(kept) = &state.binding {
                kept.set_addresses(local, None);
            }
            (binding, state.timer.take())
        };
        drop((binding, timer));
        self.shared.events.wake_all();
    }

    /// Starts the clock on a wait in line, unless it runs.
    fn limit_wait(&self, number: u32) {
        let limit_ns = {
            let state = self.state.lock();
            if !state.is_connecting(number) || state.timer.is_some() {
                return;
            }
            state.options.connect_limit_ns()
        };
        let action = TimerAction::Call(Arc::new(self.known_as(number)));
        let timer = time::set_timer(time::monotonic_ns().saturating_add(limit_ns), action);
        let unused = {
            let mut state = self.state.lock();
            if state.is_connecting(number) && state.timer.is_none() { state.timer.replace(timer) } else { Some(timer) }
        };
        drop(unused);
    }
}

impl State {
    /// Whether the attempt to connect with this number is under way.
    fn is_connecting(&self, number: u32) -> bool {
        matches!(self.role, Role::Connecting(_)) && self.attempt == number
    }
}

/// The first in line that still is.
fn pop_living(waiting: &mut VecDeque<Attempt>) -> Option<(Arc<Endpoint>, u32)> {
    while let Some(next) = waiting.pop_front() {
        if let Some(client) = next.client.upgrade() {
            return Some((client, next.number));
        }
    }
    None
}
