//! Sockets as files, whatever their family.
//!
//! A [`Socket`] is what a descriptor refers to: it knows family, type and protocol, keeps the options that mean the
//! same everywhere, and turns read(2) and write(2) into messages. What a family does itself is behind [`SocketOps`];
//! AF_UNIX is in [`unix_socket`](super::unix_socket), the internet families and AF_NETLINK are in [`net`](crate::net);
//! another joins by implementing the trait and being named in [`open`].

use alloc::{format, string::String, sync::Arc, vec::Vec};

use abi::{Errno, Result, net};
use hal::UserAddr;

use super::{
    FileKind, FileOps, Metadata, OpenFile, OpenFlags, PollEvents, PollTable, ReadBuffer, WriteBuffer, pipe,
    unix_socket::UnixSocket, virtual_files::next_inode,
};
use crate::{
    net::{device_ioctl, netlink::NetlinkSocket},
    sync::IrqLock,
    task::wait::{WaitError, WaitQueue, wait_until},
    time,
};

/// `st_dev` of sockets, an anonymous device number.
const SOCKET_DEVICE: u64 = 8;

/// The type of a socket (socket(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketType {
    /// SOCK_STREAM.
    Stream,
    /// SOCK_DGRAM.
    Datagram,
    /// SOCK_RAW.
    Raw,
    /// SOCK_SEQPACKET.
    SequencedPacket,
}

impl SocketType {
    /// From its number; EINVAL beyond Linux's range, ESOCKTNOSUPPORT for types nobody offers.
    pub fn from_number(number: u32) -> Result<Self> {
        match number {
            net::SOCK_STREAM => Ok(Self::Stream),
            net::SOCK_DGRAM => Ok(Self::Datagram),
            net::SOCK_RAW => Ok(Self::Raw),
            net::SOCK_SEQPACKET => Ok(Self::SequencedPacket),
            0..=10 => Err(Errno::ESOCKTNOSUPPORT),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Stream => net::SOCK_STREAM,
            Self::Datagram => net::SOCK_DGRAM,
            Self::Raw => net::SOCK_RAW,
            Self::SequencedPacket => net::SOCK_SEQPACKET,
        }
    }
}

/// Who sent something: `struct ucred` of unix(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// Process.
    pub pid: i32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// How long a call may wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Not at all.
    pub nonblocking: bool,
    /// When the socket's time limit is up, in monotonic nanoseconds; `None`: never.
    pub deadline_ns: Option<u64>,
}

impl Patience {
    fn new(file: &OpenFile, flags: u32, timeout_ns: Option<u64>) -> Self {
        Self {
            nonblocking: file.is_nonblocking() || flags & net::MSG_DONTWAIT != 0,
            deadline_ns: timeout_ns.map(|timeout| time::monotonic_ns().saturating_add(timeout)),
        }
    }

    /// Waits on `queues` for `condition`. EAGAIN where the call must not wait or its time is up; interrupted, it is
    /// restarted unless there was a time limit (socket(7), SO_RCVTIMEO).
    pub fn wait<T, const N: usize>(
        self,
        queues: &[&Arc<WaitQueue>; N],
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        if self.nonblocking {
            return condition().ok_or(Errno::EAGAIN);
        }
        wait_until(queues, self.deadline_ns, condition).map_err(|error| match error {
            WaitError::TimedOut => Errno::EAGAIN,
            WaitError::Interrupted if self.deadline_ns.is_some() => Errno::EINTR,
            WaitError::Interrupted => Errno::RESTART,
        })
    }
}

/// What goes beside the bytes of a message (unix(7), "Ancillary messages").
#[derive(Default)]
pub struct Control {
    /// SCM_RIGHTS.
    pub files: Vec<Arc<OpenFile>>,
    /// SCM_CREDENTIALS.
    pub credentials: Option<Credentials>,
    /// What a protocol alone knows: level, type and bytes of each part.
    pub others: Vec<(u32, u32, Vec<u8>)>,
}

/// A message to be sent.
pub struct Outgoing<'a, 'b> {
    /// Its bytes.
    pub data: &'a mut WriteBuffer<'b>,
    /// Where to, if not to the connected peer: a `struct sockaddr`.
    pub address: Option<&'a [u8]>,
    /// What goes with it.
    pub control: Control,
    /// MSG_*.
    pub flags: u32,
    /// How long sending may wait.
    pub patience: Patience,
}

/// Room for a message, and what was received besides its bytes.
pub struct Incoming<'a, 'b> {
    /// Takes the bytes.
    pub data: &'a mut ReadBuffer<'b>,
    /// MSG_* asked for.
    pub flags: u32,
    /// How long receiving may wait.
    pub patience: Patience,
    /// Whether the caller asks from whom it came.
    pub wants_address: bool,
    /// From whom: a `struct sockaddr`; empty where the family tells none.
    pub address: Vec<u8>,
    /// What came with it.
    pub control: Control,
    /// MSG_* to be reported.
    pub result_flags: u32,
}

impl<'a, 'b> Incoming<'a, 'b> {
    /// Room for a message.
    pub fn new(data: &'a mut ReadBuffer<'b>, flags: u32, patience: Patience) -> Self {
        Self {
            data,
            flags,
            patience,
            wants_address: false,
            address: Vec::new(),
            control: Control::default(),
            result_flags: 0,
        }
    }
}

/// What a socket of one family does. Addresses are `struct sockaddr`s as programs give and get them.
pub trait SocketOps: Send + Sync {
    /// For who needs the family's own type.
    fn as_any(&self) -> Option<&dyn core::any::Any> {
        None
    }
    /// bind(2).
    fn bind(&self, address: &[u8]) -> Result<()>;
    /// listen(2). EOPNOTSUPP where there are no connections.
    fn listen(&self, _backlog: i32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// The common options where the family looks at them itself, and the inode number it shows.
    fn identity(&self) -> Option<(Arc<CommonOptions>, u64)> {
        None
    }
    /// accept(2): the socket of the next connection, and the peer's address. EOPNOTSUPP as above.
    fn accept(&self, _patience: Patience) -> Result<(Arc<dyn SocketOps>, Vec<u8>)> {
        Err(Errno::EOPNOTSUPP)
    }
    /// connect(2).
    fn connect(&self, address: &[u8], patience: Patience) -> Result<()>;
    /// getsockname(2).
    fn local_address(&self) -> Vec<u8>;
    /// getpeername(2).
    fn peer_address(&self) -> Result<Vec<u8>>;
    /// shutdown(2).
    fn shutdown(&self, read: bool, write: bool) -> Result<()>;
    /// send(2) and its relatives: how many bytes were sent. EPIPE of a stream raises SIGPIPE in [`Socket::send`].
    fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize>;
    /// recv(2) and its relatives: what the call answers.
    fn receive(&self, message: &mut Incoming<'_, '_>) -> Result<usize>;
    /// poll(2).
    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents;
    /// Bytes of memory that what waits to be received takes; not of families whose sockets get no more than a part of
    /// memory together.
    fn held_bytes(&self) -> usize {
        0
    }
    /// getsockopt(2), for what [`Socket`] does not answer itself.
    fn option(&self, level: u32, name: u32) -> Result<Vec<u8>>;
    /// setsockopt(2), for what [`Socket`] does not do itself.
    fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()>;
    /// SO_RCVLOWAT was set: who waits for bytes must look again.
    fn low_water_changed(&self) {}
    /// ioctl(2).
    fn ioctl(&self, command: u32, argument: UserAddr) -> Result<u64>;
}

/// Options of socket(7) that are the same in every family. The family shares them with its [`Socket`].
pub struct CommonOptions(IrqLock<Options>);

#[derive(Clone)]
struct Options {
    receive_timeout_ns: Option<u64>,
    send_timeout_ns: Option<u64>,
    /// `struct linger`.
    linger: [i32; 2],
    /// The switches that are on, bit n for option n.
    switches: u128,
    priority: i32,
    low_water: i32,
}

impl CommonOptions {
    /// Those of a new socket.
    pub fn new() -> Arc<Self> {
        let options = Options {
            receive_timeout_ns: None,
            send_timeout_ns: None,
            linger: [0; 2],
            switches: 0,
            priority: 0,
            low_water: 1,
        };
        Arc::new(Self(IrqLock::new(options)))
    }

    /// Others of the same values: those of an accepted connection.
    pub fn copied(&self) -> Arc<Self> {
        Arc::new(Self(IrqLock::new(self.0.lock().clone())))
    }

    /// Whether a switch is on.
    pub fn is_on(&self, name: u32) -> bool {
        self.0.lock().switches >> name & 1 != 0
    }

    /// Seconds of SO_LINGER; `None` where it is off.
    pub fn linger(&self) -> Option<i32> {
        let [on, seconds] = self.0.lock().linger;
        (on != 0).then_some(seconds)
    }

    /// SO_RCVLOWAT, in bytes.
    pub fn low_water(&self) -> usize {
        self.0.lock().low_water.max(1) as usize
    }
}

impl Socket {
    /// Its family's own type, where it is this one.
    pub fn family_ops<T: 'static>(&self) -> Option<&T> {
        self.ops.as_any()?.downcast_ref()
    }
}

/// Options that are a switch the family need not be told of.
const SWITCHES: [u32; 13] = [
    net::SO_DEBUG,
    net::SO_REUSEADDR,
    net::SO_DONTROUTE,
    net::SO_BROADCAST,
    net::SO_KEEPALIVE,
    net::SO_NO_CHECK,
    net::SO_OOBINLINE,
    net::SO_REUSEPORT,
    net::SO_TIMESTAMP_OLD,
    net::SO_TIMESTAMPNS_OLD,
    net::SO_TIMESTAMP_NEW,
    net::SO_TIMESTAMPNS_NEW,
    net::SO_RXQ_OVFL,
];
/// Of these at most one is on.
const TIMESTAMPS: [u32; 4] =
    [net::SO_TIMESTAMP_OLD, net::SO_TIMESTAMPNS_OLD, net::SO_TIMESTAMP_NEW, net::SO_TIMESTAMPNS_NEW];

/// A socket.
pub struct Socket {
    family: u32,
    kind: SocketType,
    protocol: u32,
    ops: Arc<dyn SocketOps>,
    inode: u64,
    options: Arc<CommonOptions>,
}

/// socket(2). EAFNOSUPPORT for a family that is not there.
pub fn open(family: u32, kind: u32, protocol: u32, flags: OpenFlags) -> Result<Arc<OpenFile>> {
    let kind = SocketType::from_number(kind)?;
    match family {
        net::AF_UNIX => Ok(Socket::open(family, kind, protocol, UnixSocket::open(kind, protocol)?, flags)),
        net::AF_INET | net::AF_INET6 => {
            let (ops, protocol) = crate::net::open(family, kind, protocol)?;
            Ok(Socket::open(family, kind, protocol, ops, flags))
        }
        net::AF_NETLINK => Ok(Socket::open(family, kind, protocol, NetlinkSocket::open(kind, protocol)?, flags)),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// socketpair(2). EOPNOTSUPP for a family without pairs, EAFNOSUPPORT for one that is not there.
pub fn open_pair(family: u32, kind: u32, protocol: u32, flags: OpenFlags) -> Result<(Arc<OpenFile>, Arc<OpenFile>)> {
    let kind = SocketType::from_number(kind)?;
    match family {
        net::AF_UNIX => {
            let (first, second) = UnixSocket::pair(kind, protocol)?;
            let open = |ops| Socket::open(family, kind, protocol, ops, flags);
            Ok((open(first), open(second)))
        }
        net::AF_INET | net::AF_INET6 => {
            crate::net::open(family, kind, protocol)?;
            Err(Errno::EOPNOTSUPP)
        }
        net::AF_NETLINK => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EAFNOSUPPORT),
    }
}

/// The `int` that an option's value starts with.
pub fn option_int(value: &[u8]) -> Result<i32> {
    let bytes = value.first_chunk().ok_or(Errno::EINVAL)?;
    Ok(i32::from_ne_bytes(*bytes))
}

fn timeout_from_timeval(value: &[u8]) -> Result<Option<u64>> {
    let seconds = i64::from_ne_bytes(*value.first_chunk().ok_or(Errno::EINVAL)?);
    let rest = value.get(8..).and_then(<[u8]>::first_chunk).ok_or(Errno::EINVAL)?;
    let microseconds = u64::try_from(i64::from_ne_bytes(*rest)).ok().filter(|rest| *rest < 1_000_000);
    let microseconds = microseconds.ok_or(Errno::EDOM)?;
    // A negative time limit is one that is up at once (socket(7) leaves it open; Linux does this).
    let nanoseconds = match u64::try_from(seconds) {
        Ok(seconds) => seconds.saturating_mul(1_000_000_000).saturating_add(microseconds * 1000),
        Err(_) => return Ok(Some(0)),
    };
    Ok(Some(nanoseconds).filter(|time| *time != 0))
}

fn timeval_from_timeout(timeout_ns: Option<u64>) -> Vec<u8> {
    let timeout = timeout_ns.unwrap_or(0);
    let mut value = ((timeout / 1_000_000_000) as i64).to_ne_bytes().to_vec();
    value.extend(((timeout % 1_000_000_000 / 1000) as i64).to_ne_bytes());
    value
}

impl Socket {
    /// An open file for a socket that its family has made.
    pub fn open(
        family: u32,
        kind: SocketType,
        protocol: u32,
        ops: Arc<dyn SocketOps>,
        flags: OpenFlags,
    ) -> Arc<OpenFile> {
        let (options, inode) = ops.identity().unwrap_or_else(|| (CommonOptions::new(), next_inode()));
        let socket = Self { family, kind, protocol, ops, inode, options };
        OpenFile::anonymous(Arc::new(socket), flags)
    }

    /// The number it is known by in /proc.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// The family's part.
    pub fn ops(&self) -> &dyn SocketOps {
        &*self.ops
    }

    /// How long a receiving (or accepting) call on `file` may wait.
    pub fn receive_patience(&self, file: &OpenFile, flags: u32) -> Patience {
        let timeout_ns = self.options.0.lock().receive_timeout_ns;
        Patience::new(file, flags, timeout_ns)
    }

    /// How long a sending (or connecting) call on `file` may wait.
    pub fn send_patience(&self, file: &OpenFile, flags: u32) -> Patience {
        let timeout_ns = self.options.0.lock().send_timeout_ns;
        Patience::new(file, flags, timeout_ns)
    }

    /// Sends, with SIGPIPE where a stream is broken and MSG_NOSIGNAL does not forbid it.
    pub fn send(&self, message: &mut Outgoing<'_, '_>) -> Result<usize> {
        let flags = message.flags;
        self.ops.send(message).map_err(|error| {
            if error == Errno::EPIPE && self.kind == SocketType::Stream && flags & net::MSG_NOSIGNAL == 0 {
                pipe::broken_pipe()
            } else {
                error
            }
        })
    }

    /// accept(2).
    pub fn accept(&self, file: &OpenFile, flags: OpenFlags) -> Result<(Arc<OpenFile>, Vec<u8>)> {
        let (accepted, address) = self.ops.accept(self.receive_patience(file, 0))?;
        Ok((Self::open(self.family, self.kind, self.protocol, accepted, flags), address))
    }

    /// getsockopt(2).
    pub fn option(&self, level: u32, name: u32) -> Result<Vec<u8>> {
        if level != net::SOL_SOCKET {
            return self.ops.option(level, name);
        }
        let options = self.options.0.lock();
        let number = match name {
            net::SO_TYPE => self.kind.number() as i32,
            net::SO_DOMAIN => self.family as i32,
            net::SO_PROTOCOL => self.protocol as i32,
            net::SO_PRIORITY => options.priority,
            net::SO_RCVLOWAT => options.low_water,
            net::SO_SNDLOWAT => 1,
            net::SO_RCVTIMEO_OLD | net::SO_RCVTIMEO_NEW => {
                return Ok(timeval_from_timeout(options.receive_timeout_ns));
            }
            net::SO_SNDTIMEO_OLD | net::SO_SNDTIMEO_NEW => return Ok(timeval_from_timeout(options.send_timeout_ns)),
            net::SO_LINGER => return Ok(options.linger.iter().flat_map(|part| part.to_ne_bytes()).collect()),
            _ if SWITCHES.contains(&name) => i32::from(options.switches >> name & 1 != 0),
            _ => {
                drop(options);
                return self.ops.option(level, name);
            }
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// setsockopt(2).
    pub fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level != net::SOL_SOCKET {
            return self.ops.set_option(level, name, value);
        }
        let mut options = self.options.0.lock();
        match name {
            net::SO_TYPE | net::SO_DOMAIN | net::SO_PROTOCOL | net::SO_ERROR | net::SO_SNDLOWAT => {
                return Err(Errno::ENOPROTOOPT);
            }
            net::SO_PRIORITY => options.priority = option_int(value)?,
            net::SO_RCVLOWAT => {
                options.low_water = match option_int(value)? {
                    // Linux: a negative one is without end, none at all is one byte.
                    negative if negative < 0 => i32::MAX,
                    bytes => bytes.max(1),
                };
                drop(options);
                self.ops.low_water_changed();
            }
            net::SO_RCVTIMEO_OLD | net::SO_RCVTIMEO_NEW => {
                options.receive_timeout_ns = timeout_from_timeval(value)?;
            }
            net::SO_SNDTIMEO_OLD | net::SO_SNDTIMEO_NEW => options.send_timeout_ns = timeout_from_timeval(value)?,
            net::SO_LINGER => {
                let seconds = option_int(value.get(4..).unwrap_or_default())?;
                options.linger = [i32::from(option_int(value)? != 0), seconds];
            }
            _ if SWITCHES.contains(&name) => {
                let on = u128::from(option_int(value)? != 0);
                let others = TIMESTAMPS.iter().filter(|_| TIMESTAMPS.contains(&name));
                let replaced = others.fold(1 << name, |mask: u128, other| mask | 1 << other);
                options.switches = options.switches & !replaced | on << name;
            }
            _ => {
                drop(options);
                return self.ops.set_option(level, name, value);
            }
        }
        Ok(())
    }
}

impl FileOps for Socket {
    fn read(&self, file: &OpenFile, _position: &mut u64, buffer: &mut ReadBuffer<'_>) -> Result<usize> {
        if buffer.remaining() == 0 {
            return Ok(0);
        }
        self.ops.receive(&mut Incoming::new(buffer, 0, self.receive_patience(file, 0)))
    }

    fn write(&self, file: &OpenFile, _position: &mut u64, buffer: &mut WriteBuffer<'_>) -> Result<usize> {
        let patience = self.send_patience(file, 0);
        self.send(&mut Outgoing { data: buffer, address: None, control: Control::default(), flags: 0, patience })
    }

    fn poll(&self, table: &mut PollTable<'_>) -> PollEvents {
        self.ops.poll(table)
    }

    fn ioctl(&self, _file: &OpenFile, command: u32, argument: UserAddr) -> Result<u64> {
        if device_ioctl::is_one(command) {
            return device_ioctl::run(command, argument);
        }
        self.ops.ioctl(command, argument)
    }

    fn metadata(&self) -> Option<Metadata> {
        Some(Metadata::new(SOCKET_DEVICE, self.inode, FileKind::Socket, 0o777))
    }

    fn description(&self) -> String {
        format!("socket:[{}]", self.inode)
    }

    fn held_bytes(&self) -> usize {
        self.ops.held_bytes()
    }

    fn as_any(&self) -> &dyn core::any::Any {
        self
    }
}
