//! AF_NETLINK sockets (netlink(7)), for NETLINK_ROUTE (rtnetlink(7)): programs ask for interfaces, addresses and routes,
//! as getifaddrs(3), if_nameindex(3) and getaddrinfo(3) do.
//!
//! A question is answered at once into the asking socket's queue; a program with CAP_NET_ADMIN changes addresses and
//! routes of interfaces with a wire. What the messages say is in [`messages`]. Groups may be joined, but news of what
//! changes by itself (DHCP, router advertisements) is not sent to them.

mod messages;

pub use messages::{SCOPE_HOST, SCOPE_LINK, SCOPE_SITE, address_flags, address_scope};

use alloc::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    vec::Vec,
};

use abi::{Errno, Result, ioctl, net, netlink};
use hal::UserAddr;

use super::address::family_of;
use crate::{
    fs::{
        PollEvents, PollTable,
        socket::{Incoming, Outgoing, Patience, SocketOps, SocketType, option_int},
    },
    mm::user,
    sync::IrqLock,
    task::{scheduler, wait::WaitQueue},
};

/// Bytes of `struct sockaddr_nl` and of `struct nlmsghdr`.
const ADDRESS: usize = 12;
const HEADER: usize = 16;
/// The most that waits to be received, in bytes, and the most of one send.
const MAX_QUEUE: usize = 212_992;
const MAX_SEND: usize = 65536;
/// Messages begin at multiples of this.
const ALIGNMENT: usize = 4;
/// Which port numbers are taken.
static PORTS: IrqLock<BTreeMap<u32, ()>> = IrqLock::new(BTreeMap::new());

struct State {
    /// 0 until it has one.
    port: u32,
    groups: u32,
    peer: u32,
    inbox: VecDeque<Vec<u8>>,
    queued: usize,
    /// Options that are switches, bit n for option n.
    switches: u32,
    overrun: bool,
}

/// A socket of the family.
pub struct NetlinkSocket {
    events: Arc<WaitQueue>,
    state: IrqLock<State>,
}

/// `struct sockaddr_nl`.
fn address(port: u32, groups: u32) -> Vec<u8> {
    [&(net::AF_NETLINK as u16).to_ne_bytes()[..], &[0; 2], &port.to_ne_bytes(), &groups.to_ne_bytes()].concat()
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_ne_bytes(*word))
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |half| u16::from_ne_bytes(*half))
}

/// Port and groups of a `struct sockaddr_nl`. EINVAL where it is none.
fn parse(bytes: &[u8]) -> Result<(u32, u32)> {
    if bytes.len() < ADDRESS || family_of(bytes)? != net::AF_NETLINK {
        return Err(Errno::EINVAL);
    }
    Ok((word(bytes, 4), word(bytes, 8)))
}

impl NetlinkSocket {
    /// socket(2).
    pub fn open(kind: SocketType, protocol: u32) -> Result<Arc<dyn SocketOps>> {
        if !matches!(kind, SocketType::Raw | SocketType::Datagram) {
            return Err(Errno::ESOCKTNOSUPPORT);
        }
        if protocol != netlink::NETLINK_ROUTE {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let state =
            State { port: 0, groups: 0, peer: 0, inbox: VecDeque::new(), queued: 0, switches: 0, overrun: false };
        Ok(Arc::new(Self { events: Arc::new(WaitQueue::new()), state: IrqLock::new(state) }))
    }

    /// Takes a port number: the process's own where that is free.
    fn bind_itself(&self) {
        let mut state = self.state.lock();
        if state.port != 0 {
            return;
        }
        let mut ports = PORTS.lock();
        let own = scheduler::current().process().pid() as u32;
        // Others are above any process number, from the top down.
        let mut others = (0..=u32::MAX - (1 << 31)).map(|step| u32::MAX - step);
        let port = if ports.contains_key(&own) { others.find(|port| !ports.contains_key(port)) } else { Some(own) };
        if let Some(port) = port {
            ports.insert(port, ());
            state.port = port;
        }
    }

    fn take(&self, peek: bool) -> Result<Option<Vec<u8>>> {
        let mut state = self.state.lock();
        if core::mem::take(&mut state.overrun) {
            return Err(Errno::ENOBUFS);
        }
        if peek {
            return Ok(state.inbox.front().cloned());
        }
        let taken = state.inbox.pop_front();
        state.queued -= taken.as_ref().map_or(0, Vec::len);
        Ok(taken)
    }
}

impl Drop for NetlinkSocket {
    fn drop(&mut self) {
        let port = self.state.lock().port;
        if port != 0 {
            PORTS.lock().remove(&port);
        }
    }
}

impl SocketOps for NetlinkSocket {
    fn bind(&self, bytes: &[u8]) -> Result<()> {
        let (port, groups) = parse(bytes)?;
        {
            let mut state = self.state.lock();
            if state.port != 0 && port != state.port && port != 0 {
                return Err(Errno::EINVAL);
            }
            state.groups = groups;
            if state.port == 0 && port != 0 {
                let mut ports = PORTS.lock();
                if ports.contains_key(&port) {
                    return Err(Errno::EADDRINUSE);
                }
                ports.insert(port, ());
                state.port = port;
            }
        }
        self.bind_itself();
        Ok(())
    }

    fn connect(&self, bytes: &[u8], _patience: Patience) -> Result<()> {
        if family_of(bytes)? == net::AF_UNSPEC {
            self.state.lock().peer = 0;
            return Ok(());
        }
        let (port, _) = parse(bytes)?;
        self.bind_itself();
        self.state.lock().peer = port;
        Ok(())
    }

    fn local_address(&self) -> Vec<u8> {
        let state = self.state.lock();
        address(state.port, state.groups)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        Ok(address(self.state.lock().peer, 0))
    }

    fn shutdown(&self, _read: bool, _write: bool) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let to = match message.address {
            Some(bytes) => parse(bytes)?.0,
            None => self.state.lock().peer,
        };
        self.bind_itself();
        let len = message.data.remaining();
        if len > MAX_SEND {
            return Err(Errno::EMSGSIZE);
        }
        let mut bytes = alloc::vec![0; len];
        if message.data.take(&mut bytes)? < len {
            return Err(Errno::EFAULT);
        }
        // Only the kernel listens.
        if to != 0 {
            return Err(Errno::ECONNREFUSED);
        }
        let port = self.state.lock().port;
        let mut rest = bytes.as_slice();
        while rest.len() >= HEADER {
            let size = word(rest, 0) as usize;
            let Some(one) = rest.get(..size).filter(|one| one.len() >= HEADER) else { break };
            let answers = messages::answer(one, port);
            let mut state = self.state.lock();
            for answer in answers {
                if state.queued + answer.len() > MAX_QUEUE {
                    state.overrun = true;
                    break;
                }
                state.queued += answer.len();
                state.inbox.push_back(answer);
            }
            drop(state);
            rest = rest.get(size.next_multiple_of(ALIGNMENT)..).unwrap_or_default();
        }
        self.events.wake_all();
        Ok(len)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        if message.flags & net::MSG_OOB != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let peek = message.flags & net::MSG_PEEK != 0;
        let bytes = loop {
            if let Some(bytes) = self.take(peek)? {
                break bytes;
            }
            message.patience.wait(&[&self.events], || {
                let state = self.state.lock();
                (!state.inbox.is_empty() || state.overrun).then_some(())
            })?;
        };
        message.address = address(0, 0);
        let room = message.data.remaining();
        let copied = if room > 0 && !bytes.is_empty() { message.data.put(&bytes)? } else { 0 };
        if bytes.len() > room {
            message.result_flags |= net::MSG_TRUNC;
        }
        Ok(if message.flags & net::MSG_TRUNC != 0 { bytes.len() } else { copied })
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.events);
        let state = self.state.lock();
        PollEvents::IN.when(!state.inbox.is_empty()) | PollEvents::ERR.when(state.overrun) | PollEvents::OUT_BAND
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        let state = self.state.lock();
        let number = match (level, name) {
            (net::SOL_SOCKET, net::SO_ERROR | net::SO_ACCEPTCONN) => 0,
            (net::SOL_SOCKET, net::SO_SNDBUF | net::SO_RCVBUF) => MAX_QUEUE as i32,
            (net::SOL_NETLINK, 1..32) => i32::from(state.switches >> name & 1 != 0),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        let number = option_int(value)?;
        let mut state = self.state.lock();
        match (level, name) {
            (net::SOL_SOCKET, net::SO_SNDBUF | net::SO_RCVBUF | net::SO_SNDBUFFORCE | net::SO_RCVBUFFORCE) => {}
            (net::SOL_NETLINK, netlink::NETLINK_ADD_MEMBERSHIP | netlink::NETLINK_DROP_MEMBERSHIP) => {
                let group = u32::try_from(number).ok().filter(|group| (1..=32).contains(group)).ok_or(Errno::EINVAL)?;
                let bit = 1 << (group - 1);
                let on = name == netlink::NETLINK_ADD_MEMBERSHIP;
                state.groups = if on { state.groups | bit } else { state.groups & !bit };
            }
            (
                net::SOL_NETLINK,
                netlink::NETLINK_PKTINFO
                | netlink::NETLINK_BROADCAST_ERROR
                | netlink::NETLINK_NO_ENOBUFS
                | netlink::NETLINK_CAP_ACK
                | netlink::NETLINK_EXT_ACK
                | netlink::NETLINK_GET_STRICT_CHK,
            ) => state.switches = state.switches & !(1 << name) | u32::from(number != 0) << name,
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        match command {
            ioctl::FIONREAD => {
                let len = self.state.lock().inbox.front().map_or(0, Vec::len);
                user::copy_out(argument, &(len as i32))?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }
}
