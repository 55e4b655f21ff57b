//! Making connections: listen(2), connect(2), accept(2).
//!
//! As on Linux's loopback a connection is there when connect(2) returns, before anybody accepts it, as long as the
//! listener's queue has room. Else the client waits in line, as long as it would send SYNs; each accept(2) lets one in.
//!
//! No two sockets are locked at once: a client that found its listener puts the other end, a socket nobody knows yet,
//! into the listener's queue under the listener's lock and then turns to its own.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
};

use abi::{Errno, Result, net};

use super::{CONNECTED_SEND_BUFFER, Endpoint, Link, PORTS, Phase, Role, Side, State, max_backlog};
use crate::{
    fs::socket::Patience,
    net::{
        address::{SocketAddress, family_of},
        interface::{self, Kind},
    },
    sync::IrqLock,
    time::{self, TimerAction, TimerCallback},
};

/// What came of an attempt.
enum Attempt {
    Connected(Arc<Link>, Side),
    /// In line.
    Waiting,
    Refused,
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
        state.role = Role::Listening { backlog: wanted, pending: VecDeque::new(), waiting: VecDeque::new() };
        drop(state);
        self.shared.events.wake_all();
        Ok(())
    }

    /// accept(2).
    pub(super) fn accept(&self, patience: Patience) -> Result<Arc<Self>> {
        let (child, next) = patience.wait(&[&self.shared.events], || match &mut self.state.lock().role {
            Role::Listening { pending, waiting, .. } => {
                pending.pop_front().map(|child| Ok((child, pop_living(waiting))))
            }
            _ => Some(Err(Errno::EINVAL)),
        })??;
        if let Some(next) = next {
            next.attempt();
        }
        Ok(child)
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
        self.start(address)?;
        self.attempt();
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
                Role::Connected(link, side) if state.outcome_open => {
                    let over = link.phase(*side) == Phase::Closed;
                    let error = link.take_error(*side);
                    state.outcome_open = false;
                    return match error {
                        _ if !over => Ok(false),
                        error => Err(error.unwrap_or(Errno::ECONNABORTED)),
                    };
                }
                Role::Connected(..) => return Err(Errno::EISCONN),
                Role::Connecting => true,
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
                Role::Connecting => None,
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

    /// Checks the address, takes a port and says to whom it connects.
    fn start(&self, address: &[u8]) -> Result<()> {
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
        if route.kind != Kind::Local {
            return Err(Errno::ENETUNREACH);
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
        state.role = Role::Connecting;
        Ok(())
    }

    /// Tries to get into the listener's queue.
    fn attempt(&self) {
        let (remote, local) = {
            let state = self.state.lock();
            let (Role::Connecting, Some(remote), Some(binding)) = (&state.role, state.remote, &state.binding) else {
                return;
            };
            (remote, SocketAddress::new(state.local, binding.port()))
        };
        let listener = PORTS.listener(remote.ip, remote.port, interface::LOOPBACK.index);
        let attempt = match listener.and_then(|found| found.downcast::<Self>().ok()) {
            Some(listener) => listener.admit(self, local, remote),
            None if (local.ip, local.port) == (remote.ip, remote.port) => {
                Attempt::Connected(Link::looped(&self.shared), Side::CLIENT)
            }
            None => Attempt::Refused,
        };
        match attempt {
            Attempt::Connected(link, side) => self.establish(link, side),
            Attempt::Refused => self.fail(Errno::ECONNREFUSED),
            Attempt::Waiting => self.limit_wait(),
        }
    }

    /// Called by a client: makes its other end and queues it.
    fn admit(&self, client: &Self, client_address: SocketAddress, own_address: SocketAddress) -> Attempt {
        let shared = self.shared.inherited();
        // An address of IPv6 with a scope is shown with it at both ends.
        let remote = SocketAddress { scope: own_address.scope, ..client_address };
        let link = Link::new(client.shared.clone(), shared.clone());
        {
            let mut state = self.state.lock();
            let State { role, binding, options, .. } = &mut *state;
            let (Role::Listening { backlog, pending, waiting }, Some(binding)) = (role, binding.as_ref()) else {
                return Attempt::Refused;
            };
            if pending.len() > *backlog {
                waiting.push_back(client.this.clone());
                return Attempt::Waiting;
            }
            shared.grow_send_buffer(CONNECTED_SEND_BUFFER);
            let child = Arc::new_cyclic(|this: &Weak<Self>| Self {
                shared,
                state: IrqLock::new(State {
                    role: Role::Connected(link.clone(), Side::SERVER),
                    binding: None,
                    keeps_address: true,
                    keeps_port: true,
                    local: own_address.ip,
                    remote: Some(remote),
                    error: None,
                    outcome_open: false,
                    options: options.inherited(),
                    timer: None,
                }),
                this: this.clone(),
            });
            let place = child.place(own_address.ip);
            // Nobody else knows the child yet, so its lock cannot be held.
            child.state.lock().binding = Some(binding.child(place, (client_address.ip, client_address.port)));
            pending.push_back(child);
        }
        self.shared.events.wake_all();
        Attempt::Connected(link, Side::CLIENT)
    }

    /// The connection is there; it is reset where the socket has turned to something else.
    fn establish(&self, link: Arc<Link>, side: Side) {
        self.shared.grow_send_buffer(CONNECTED_SEND_BUFFER);
        let (link, timer) = {
            let mut state = self.state.lock();
            match state.role {
                Role::Connecting => {
                    state.role = Role::Connected(link, side);
                    (None, state.timer.take())
                }
                _ => (Some(link), None),
            }
        };
        drop(timer);
        if let Some(link) = link {
            link.close(side, true);
        }
        self.shared.events.wake_all();
    }

    /// The attempt to connect is over.
    pub(super) fn fail(&self, error: Errno) {
        let (binding, timer) = {
            let mut state = self.state.lock();
            if !matches!(state.role, Role::Connecting) {
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
    fn limit_wait(&self) {
        let Some(this) = self.this.upgrade() else { return };
        let limit_ns = {
            let state = self.state.lock();
            if !matches!(state.role, Role::Connecting) || state.timer.is_some() {
                return;
            }
            state.options.connect_limit_ns()
        };
        let timer = time::set_timer(time::monotonic_ns().saturating_add(limit_ns), TimerAction::Call(this));
        let unused = {
            let mut state = self.state.lock();
            match state.role {
                Role::Connecting if state.timer.is_none() => {
                    state.timer = Some(timer);
                    None
                }
                _ => Some(timer),
            }
        };
        drop(unused);
    }
}

impl TimerCallback for Endpoint {
    fn expired(&self) {
        self.fail(Errno::ETIMEDOUT);
    }
}

/// The first in line that still is.
fn pop_living(waiting: &mut VecDeque<Weak<Endpoint>>) -> Option<Arc<Endpoint>> {
    while let Some(next) = waiting.pop_front() {
        if let Some(client) = next.upgrade() {
            return Some(client);
        }
    }
    None
}
