//! One end of AF_UNIX communication: its inbox, its peer, and how it ends.
//!
//! An [`Endpoint`] receives into its own inbox and sends into the inbox of its peer; every change that concerns an
//! endpoint wakes its one event queue, so that whoever registered there hears of it, whoever the peer is by then: room in
//! a datagram's receiver wakes the queues of all that are connected to it. No two endpoints are locked at once. Peers
//! refer to each other strongly; [`Endpoint::close`] breaks the circle.

use alloc::{
    collections::VecDeque,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::Errno;

use super::{
    in_flight::{self, InFlight},
    name::{self, Name},
};
use crate::{
    fs::socket::{Credentials, SocketType},
    sync::IrqLock,
    task::{
        process::Process,
        scheduler,
        wait::{Registration, WaitQueue, Wake},
    },
};

/// The default of SO_SNDBUF and SO_RCVBUF, in bytes (/proc/sys/net/core/wmem_default).
pub(super) const DEFAULT_BUFFER: usize = 212_992;
/// What a queued message counts beside its bytes.
pub(super) const MESSAGE_OVERHEAD: usize = 256;

/// A message in an inbox. For streams: bytes sent with the same ancillary data.
pub(super) struct Message {
    pub(super) data: Arc<Vec<u8>>,
    /// Bytes read already.
    pub(super) start: usize,
    pub(super) source: Option<Arc<Name>>,
    pub(super) files: InFlight,
    pub(super) credentials: Credentials,
}

impl Message {
    pub(super) fn len(&self) -> usize {
        self.data.len().saturating_sub(self.start)
    }

    /// What it counts against the sender's buffer.
    pub(super) fn charge(&self) -> usize {
        self.len() + MESSAGE_OVERHEAD
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.data.get(self.start..).unwrap_or_default()
    }
}

/// Whether an endpoint is part of a connection.
pub(super) enum Phase {
    Unconnected,
    Listening { backlog: usize, pending: VecDeque<Arc<Endpoint>> },
    Connected,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) peer: Option<Arc<Endpoint>>,
    /// With the peer of a datagram socket: its room is news here.
    peer_room: Option<Registration>,
    pub(super) name: Option<Arc<Name>>,
    pub(super) inbox: VecDeque<Message>,
    /// The sum of the messages' charges.
    pub(super) charge: usize,
    /// Nothing more will be received: shut down here, or by the peer for sending, or the peer is gone.
    pub(super) receive_shut: bool,
    /// Nothing more can be sent.
    pub(super) send_shut: bool,
    pub(super) closed: bool,
    /// Reported once, by the next call or SO_ERROR.
    pub(super) error: Option<Errno>,
    pub(super) pass_credentials: bool,
    /// Ours as of listen(2), for who connects.
    pub(super) identity: Option<Identity>,
    /// SO_PEERCRED and SO_PEERPIDFD.
    pub(super) peer_identity: Option<Identity>,
    pub(super) receive_buffer: usize,
}

/// One end.
pub(super) struct Endpoint {
    pub(super) kind: SocketType,
    pub(super) state: IrqLock<State>,
    pub(super) events: Arc<WaitQueue>,
    /// Woken when a datagram left the inbox or none is taken any more, for who is connected to this endpoint.
    room: Arc<WaitQueue>,
    /// SO_SNDBUF; outside the lock because the receiving side looks at it.
    pub(super) send_buffer: AtomicUsize,
}

/// A process as the peer of a connection sees it (SO_PEERCRED, SO_PEERPIDFD): by its effective ids.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) credentials: Credentials,
    pub(super) process: Weak<Process>,
}

impl Identity {
    /// The running process's.
    pub(super) fn own() -> Self {
        let thread = scheduler::current();
        let (who, process) = (thread.identity.own(), thread.process());
        let credentials = Credentials { pid: process.pid(), uid: who.user.effective, gid: who.group.effective };
        Self { credentials, process: Arc::downgrade(process) }
    }
}

/// The running process as the receiver of a message sees it (SCM_CREDENTIALS): by its real ids.
pub(super) fn sender_credentials() -> Credentials {
    let thread = scheduler::current();
    let who = thread.identity.own();
    Credentials { pid: thread.process().pid(), uid: who.user.real, gid: who.group.real }
}

/// Passes a wake on.
struct PassOn(Arc<WaitQueue>);

impl Wake for PassOn {
    fn wake(&self) {
        self.0.wake_all();
    }
}

impl Endpoint {
    pub(super) fn new(kind: SocketType) -> Arc<Self> {
        Arc::new(Self {
            kind,
            state: IrqLock::new(State {
                phase: Phase::Unconnected,
                peer: None,
                peer_room: None,
                name: None,
                inbox: VecDeque::new(),
                charge: 0,
                receive_shut: false,
                send_shut: false,
                closed: false,
                error: None,
                pass_credentials: false,
                identity: None,
                peer_identity: None,
                receive_buffer: DEFAULT_BUFFER,
            }),
            events: Arc::new(WaitQueue::new()),
            room: Arc::new(WaitQueue::new()),
            send_buffer: AtomicUsize::new(DEFAULT_BUFFER),
        })
    }

    /// Makes a connection of two endpoints that nobody else knows yet, or of one that nobody knows and another.
    pub(super) fn join(self: &Arc<Self>, peer: &Arc<Self>, peer_identity: Option<Identity>) {
        if !self.is_connection_oriented() {
            self.set_peer(Some(peer.clone()));
        }
        let mut state = self.state.lock();
        state.peer_identity = peer_identity;
        if self.is_connection_oriented() {
            state.peer = Some(peer.clone());
            state.phase = Phase::Connected;
        }
    }

    /// Whether its type has connections with an end: all but datagrams.
    pub(super) fn is_connection_oriented(&self) -> bool {
        self.kind != SocketType::Datagram
    }

    pub(super) fn peer(&self) -> Option<Arc<Self>> {
        self.state.lock().peer.clone()
    }

    /// Gives a datagram socket another peer, or none.
    pub(super) fn set_peer(&self, peer: Option<Arc<Self>>) {
        let room = peer.as_ref().map(|peer| Registration::new(&peer.room, Arc::new(PassOn(self.events.clone()))));
        let old = {
            let mut state = self.state.lock();
            (core::mem::replace(&mut state.peer, peer), core::mem::replace(&mut state.peer_room, room))
        };
        drop(old);
        self.events.wake_all();
    }

    /// Something about what this endpoint receives has changed: tells its owner, and who sends to it.
    pub(super) fn changed(&self) {
        self.events.wake_all();
        self.room.wake_all();
    }

    pub(super) fn send_limit(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// Takes the pending error.
    pub(super) fn take_error(&self) -> Option<Errno> {
        self.state.lock().error.take()
    }

    /// Appends to the inbox. The caller has checked that there is room.
    pub(super) fn deliver(state: &mut State, message: Message) {
        state.charge += message.charge();
        state.inbox.push_back(message);
    }

    /// The owner closed its last descriptor.
    pub(super) fn close(&self) {
        let (peer, inbox, name, pending) = {
            let mut state = self.state.lock();
            state.closed = true;
            (state.receive_shut, state.send_shut) = (true, true);
            state.charge = 0;
            let pending = match core::mem::replace(&mut state.phase, Phase::Unconnected) {
                Phase::Listening { pending, .. } => pending,
                _ => VecDeque::new(),
            };
            let peer = (state.peer.take(), state.peer_room.take());
            (peer, core::mem::take(&mut state.inbox), state.name.clone(), pending)
        };
        let (peer, peer_room) = peer;
        drop(peer_room);
        if let Some(name) = name {
            name::release(&name, self);
        }
        if let Some(peer) = peer {
            if self.is_connection_oriented() {
                peer.lost_peer(!inbox.is_empty());
            }
            peer.events.wake_all();
        }
        for embryo in pending {
            // Who connected and was never accepted sees a reset.
            if let Some(client) = embryo.peer() {
                client.lost_peer(true);
            }
            embryo.close();
        }
        self.changed();
        drop(inbox);
        in_flight::collect();
    }

    /// The peer is gone; `unread` where it left bytes of ours.
    fn lost_peer(&self, unread: bool) {
        {
            let mut state = self.state.lock();
            (state.receive_shut, state.send_shut) = (true, true);
            if unread {
                state.error = Some(Errno::ECONNRESET);
            }
        }
        self.events.wake_all();
    }
}
