//! UDP and UDP-Lite sockets (udp(7), udplite(7)): datagrams.
//!
//! A [`UdpSocket`] receives into its own queue; [`send`] finds who a datagram is for and puts it there. As on Linux's
//! loopback it has arrived, or was dropped or refused, when the sender's call returns.

mod arrive;
mod options;
mod send;

use alloc::{
    sync::{Arc, Weak},
    vec::Vec,
};

use abi::{Errno, Result, ioctl, net};
use hal::UserAddr;

use super::{
    address::{IpAddress, SocketAddress, family_of},
    inbox::Inbox,
    interface::{self, Kind},
    ip_options::Context,
    ports::{Binding, Place, PortTable, Rules},
    shared::{DEFAULT_BUFFER, Shared},
    tcp::address_to_bind,
};
use crate::{
    fs::{
        PollEvents, PollTable,
        socket::{CommonOptions, Incoming, Outgoing, Patience, SocketOps},
    },
    mm::user,
    sync::IrqLock,
};
pub(super) use arrive::{arrived, errno, failed};
use options::UdpOptions;
pub(super) use send::take;

/// The tables of ports of UDP and UDP-Lite.
static UDP_PORTS: PortTable = PortTable::new(Rules::Datagram);
static UDPLITE_PORTS: PortTable = PortTable::new(Rules::Datagram);

/// The table of a protocol's ports.
pub(super) fn ports(protocol: u32) -> &'static PortTable {
    if protocol == net::IPPROTO_UDPLITE as u32 { &UDPLITE_PORTS } else { &UDP_PORTS }
}

/// A socket.
pub(super) struct Endpoint {
    shared: Arc<Shared>,
    inbox: Inbox,
    state: IrqLock<State>,
    this: Weak<Self>,
}

struct State {
    binding: Option<Binding>,
    keeps_address: bool,
    keeps_port: bool,
    local: IpAddress,
    remote: Option<SocketAddress>,
    options: UdpOptions,
    /// What MSG_MORE and UDP_CORK hold back.
    corked: Option<send::Corked>,
}

impl Endpoint {
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

    /// Takes a port where it has none. EAGAIN where all are taken.
    fn bind_itself(&self) -> Result<()> {
        let mut state = self.state.lock();
        if state.binding.is_none() {
            let binding = ports(self.shared.protocol).bind(self.place(state.local), 0);
            state.binding = Some(binding.map_err(|_| Errno::EAGAIN)?);
        }
        Ok(())
    }

    fn connect(&self, bytes: &[u8]) -> Result<()> {
        let shared = &self.shared;
        if family_of(bytes)? == net::AF_UNSPEC {
            self.disconnect();
            return Ok(());
        }
        let target = self.parse_destination(bytes)?;
        self.bind_itself()?;
        let mut state = self.state.lock();
        let device = if target.scope != 0 { target.scope } else { shared.device() };
        if target.ip.is_link_local() && device == 0 {
            return Err(Errno::EINVAL);
        }
        let local = if state.keeps_address { state.local } else { target.ip.any_of_family() };
        let multicast_device = shared.ip.lock().multicast_interface(target.ip.is_v4()).0;
        let device = if target.ip.is_multicast() && device == 0 { multicast_device } else { device };
        let route = interface::route(local, target.ip, device)?;
        if route.kind == Kind::Broadcast && !shared.common.is_on(net::SO_BROADCAST) {
            return Err(Errno::EACCES);
        }
        let local = if local.is_unspecified() { route.source } else { local };
        let remote = SocketAddress { ip: route.destination, ..target };
        state.local = local;
        state.remote = Some(remote);
        if let Some(binding) = &state.binding {
            binding.set_addresses(local, Some((remote.ip, remote.port)));
        }
        Ok(())
    }

    fn disconnect(&self) {
        let binding = {
            let mut state = self.state.lock();
            state.remote = None;
            if !state.keeps_address {
                state.local = self.shared.any();
            }
            let local = state.local;
            let binding = if state.keeps_port { None } else { state.binding.take() };
            if let Some(kept) = &state.binding {
                kept.set_addresses(local, None);
            }
            binding
        };
        drop(binding);
    }

    /// Reads an address that something is to be sent to. An IPv6 socket takes those of IPv4 too.
    fn parse_destination(&self, bytes: &[u8]) -> Result<SocketAddress> {
        let shared = &self.shared;
        let target = match (shared.family, family_of(bytes)?) {
            (net::AF_INET, net::AF_INET | net::AF_UNSPEC) => SocketAddress::parse_v4(bytes)?,
            (net::AF_INET6, net::AF_INET) if shared.is_only_v6() => return Err(Errno::ENETUNREACH),
            (net::AF_INET6, net::AF_INET) => SocketAddress::parse_v4(bytes)?,
            (family, _) => SocketAddress::parse(family, bytes)?,
        };
        if target.ip.is_v4() && shared.is_only_v6() {
            return Err(Errno::ENETUNREACH);
        }
        // An IPv6 socket with an address of its own sends from that, which has no way to IPv4.
        let state = self.state.lock();
        if target.ip.is_v4() && state.keeps_address && !state.local.is_v4() {
            return Err(Errno::ENETUNREACH);
        }
        Ok(target)
    }

    fn context(&self) -> Context {
        let state = self.state.lock();
        Context {
            family: self.shared.family,
            protocol: self.shared.protocol,
            raw: false,
            stream: false,
            mtu: state.remote.map_or(0, |remote| mtu_to(state.local, remote)),
        }
    }

    /// What it shows in /proc/net/udp: family, addresses, whether it is connected, bytes queued, datagrams dropped.
    pub(super) fn summary(&self) -> Summary {
        let (queued, dropped) = self.inbox.usage();
        let state = self.state.lock();
        let port = state.binding.as_ref().map_or(0, Binding::port);
        Summary {
            family: self.shared.family,
            inode: self.shared.inode,
            uid: self.shared.uid,
            local: SocketAddress::new(state.local, port),
            remote: state.remote,
            queued,
            dropped,
        }
    }
}

/// A socket as /proc/net/udp shows it.
pub(super) struct Summary {
    pub(super) family: u32,
    pub(super) inode: u64,
    pub(super) uid: u32,
    pub(super) local: SocketAddress,
    pub(super) remote: Option<SocketAddress>,
    pub(super) queued: usize,
    pub(super) dropped: u32,
}

/// The longest packet to a peer, in bytes.
pub(super) fn mtu_to(local: IpAddress, remote: SocketAddress) -> u32 {
    interface::route(local, remote.ip, remote.scope).map_or(interface::LOOPBACK.mtu(), |route| route.interface.mtu())
}

/// What a program's socket refers to.
pub(super) struct UdpSocket {
    endpoint: Arc<Endpoint>,
}

impl UdpSocket {
    /// socket(2).
    pub(super) fn open(family: u32, protocol: u32) -> Arc<dyn SocketOps> {
        let shared = Shared::new(family, protocol, DEFAULT_BUFFER, DEFAULT_BUFFER);
        let local = shared.any();
        let endpoint = Arc::new_cyclic(|this| Endpoint {
            shared,
            inbox: Inbox::new(),
            state: IrqLock::new(State {
                binding: None,
                keeps_address: false,
                keeps_port: false,
                local,
                remote: None,
                options: UdpOptions::default(),
                corked: None,
            }),
            this: this.clone(),
        });
        Arc::new(Self { endpoint })
    }
}

impl Drop for UdpSocket {
    fn drop(&mut self) {
        let binding = self.endpoint.state.lock().binding.take();
        drop(binding);
        self.endpoint.inbox.clear();
    }
}

impl SocketOps for UdpSocket {
    fn identity(&self) -> Option<(Arc<CommonOptions>, u64)> {
        Some((self.endpoint.shared.common.clone(), self.endpoint.shared.inode))
    }

    fn bind(&self, address: &[u8]) -> Result<()> {
        let endpoint = &self.endpoint;
        let address = address_to_bind(&endpoint.shared, address, false)?;
        let mut state = endpoint.state.lock();
        if state.binding.is_some() {
            return Err(Errno::EINVAL);
        }
        let binding = ports(endpoint.shared.protocol).bind(endpoint.place(address.ip), address.port)?;
        state.binding = Some(binding);
        state.local = address.ip;
        state.keeps_address = !address.ip.is_unspecified();
        state.keeps_port = address.port != 0;
        Ok(())
    }

    fn connect(&self, address: &[u8], _patience: Patience) -> Result<()> {
        self.endpoint.connect(address)
    }

    fn local_address(&self) -> Vec<u8> {
        self.endpoint.summary().local.to_bytes(self.endpoint.shared.family)
    }

    fn peer_address(&self) -> Result<Vec<u8>> {
        let remote = self.endpoint.state.lock().remote;
        // One to port 0 shows as none.
        let remote = remote.filter(|remote| remote.port != 0).ok_or(Errno::ENOTCONN)?;
        Ok(remote.to_bytes(self.endpoint.shared.family))
    }

    fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        let connected = self.endpoint.state.lock().remote.is_some();
        self.endpoint.inbox.shut(&self.endpoint.shared, read, write);
        if connected { Ok(()) } else { Err(Errno::ENOTCONN) }
    }

    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        self.endpoint.send(message)
    }

    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize> {
        self.endpoint.inbox.receive(&self.endpoint.shared, message)
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        table.add(&self.endpoint.shared.events);
        self.endpoint.inbox.poll()
    }

    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        self.endpoint.option(level, name)
    }

    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        self.endpoint.set_option(level, name, value)
    }

    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64> {
        let number = match command {
            ioctl::FIONREAD => self.endpoint.inbox.first_len(),
            ioctl::TIOCOUTQ => 0,
            _ => return Err(Errno::ENOTTY),
        };
        user::copy_out(argument, &i32::try_from(number).unwrap_or(i32::MAX))?;
        Ok(0)
    }
}
