//! What every socket of the internet families has, whatever its protocol: its event queue, its buffers' sizes and the
//! options of socket(7), ip(7) and ipv6(7).

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use abi::{Errno, Result, linux, net};

use super::{address::IpAddress, interface, ip_options::IpOptions};
use crate::{
    fs::{
        socket::{CommonOptions, option_int},
        virtual_files::next_inode,
    },
    sync::IrqLock,
    task::{identity, scheduler, wait::WaitQueue},
};

/// A datagram socket's buffers in bytes (/proc/sys/net/core/wmem_default and rmem_default).
pub const DEFAULT_BUFFER: usize = 212_992;
/// The most SO_SNDBUF and SO_RCVBUF take before they are doubled (wmem_max and rmem_max there).
pub const MAX_BUFFER: usize = 4 << 20;
/// The least they give.
const MIN_SEND_BUFFER: usize = 4608;
const MIN_RECEIVE_BUFFER: usize = 2304;
/// SO_ATTACH_FILTER and its kind are refused: there are no programs in the kernel.
const NOT_OFFERED: [u32; 6] = [
    net::SO_ATTACH_FILTER,
    net::SO_ATTACH_BPF,
    net::SO_ATTACH_REUSEPORT_CBPF,
    net::SO_ATTACH_REUSEPORT_EBPF,
    net::SO_TXTIME,
    net::SO_ZEROCOPY,
];

/// What a socket and whoever sends to it share.
pub struct Shared {
    /// AF_INET or AF_INET6.
    pub family: u32,
    /// IPPROTO_*.
    pub protocol: u32,
    /// `st_ino` of the socket.
    pub inode: u64,
    /// Whose it is.
    pub uid: u32,
    /// Woken by every change.
    pub events: Arc<WaitQueue>,
    /// Options of every family.
    pub common: Arc<CommonOptions>,
    /// SO_SNDBUF and SO_RCVBUF in bytes, as getsockopt(2) tells them.
    pub send_buffer: AtomicUsize,
    /// See [`send_buffer`](Self::send_buffer).
    pub receive_buffer: AtomicUsize,
    /// SO_BUF_LOCK: bit 0 where the program has set the send buffer, so that it does not grow by itself; bit 1 for the
    /// other.
    buffers_set: AtomicU32,
    /// SO_BINDTODEVICE, by number; 0 for none.
    pub device: AtomicU32,
    /// Options of the protocol below.
    pub ip: IrqLock<IpOptions>,
    only_v6: AtomicU32,
    mark: AtomicU32,
    cookie: AtomicU64,
}

impl Shared {
    /// Those of a new socket.
    pub fn new(family: u32, protocol: u32, send_buffer: usize, receive_buffer: usize) -> Arc<Self> {
        Arc::new(Self {
            family,
            protocol,
            inode: next_inode(),
            uid: scheduler::current().identity.acting().user.file,
            events: Arc::new(WaitQueue::new()),
            common: CommonOptions::new(),
            send_buffer: AtomicUsize::new(send_buffer),
            receive_buffer: AtomicUsize::new(receive_buffer),
            buffers_set: AtomicU32::new(0),
            device: AtomicU32::new(0),
            ip: IrqLock::new(IpOptions::new()),
            only_v6: AtomicU32::new(0),
            mark: AtomicU32::new(0),
            cookie: AtomicU64::new(0),
        })
    }

    /// Those of a connection that a listener with these took.
    pub fn inherited(&self) -> Arc<Self> {
        let copy = |value: &AtomicU32| AtomicU32::new(value.load(Ordering::Relaxed));
        Arc::new(Self {
            family: self.family,
            protocol: self.protocol,
            inode: next_inode(),
            uid: self.uid,
            events: Arc::new(WaitQueue::new()),
            common: self.common.copied(),
            send_buffer: AtomicUsize::new(self.send_buffer()),
            receive_buffer: AtomicUsize::new(self.receive_buffer()),
            buffers_set: copy(&self.buffers_set),
            device: copy(&self.device),
            ip: IrqLock::new(self.ip.lock().inherited()),
            only_v6: copy(&self.only_v6),
            mark: copy(&self.mark),
            cookie: AtomicU64::new(0),
        })
    }

    /// SO_SNDBUF, in bytes.
    pub fn send_buffer(&self) -> usize {
        self.send_buffer.load(Ordering::Relaxed)
    }

    /// SO_RCVBUF, in bytes.
    pub fn receive_buffer(&self) -> usize {
        self.receive_buffer.load(Ordering::Relaxed)
    }

    /// Lets the send buffer grow to `bytes` unless the program has set it.
    pub fn grow_send_buffer(&self, bytes: usize) {
        if self.buffers_set.load(Ordering::Relaxed) & 1 == 0 {
            self.send_buffer.fetch_max(bytes, Ordering::Relaxed);
        }
    }

    /// The interface the socket is bound to; 0 for none.
    pub fn device(&self) -> u32 {
        self.device.load(Ordering::Relaxed)
    }

    /// IPV6_V6ONLY.
    pub fn is_only_v6(&self) -> bool {
        self.only_v6.load(Ordering::Relaxed) != 0
    }

    /// Sets IPV6_V6ONLY.
    pub fn set_only_v6(&self, only: bool) {
        self.only_v6.store(only.into(), Ordering::Relaxed);
    }

    /// The unspecified address of its family.
    pub fn any(&self) -> IpAddress {
        if self.family == net::AF_INET { IpAddress::ANY_V4 } else { IpAddress::ANY_V6 }
    }

    /// getsockopt(2) for options of SOL_SOCKET; ENOPROTOOPT for those of no socket of these families.
    pub fn socket_option(&self, name: u32) -> Result<Vec<u8>> {
        let number = match name {
            net::SO_SNDBUF => self.send_buffer() as i32,
            net::SO_RCVBUF => self.receive_buffer() as i32,
            net::SO_ACCEPTCONN | net::SO_BUSY_POLL | net::SO_INCOMING_NAPI_ID | net::SO_LOCK_FILTER => 0,
            net::SO_PASSCRED => 0,
            net::SO_BINDTOIFINDEX => self.device() as i32,
            net::SO_MARK => self.mark.load(Ordering::Relaxed) as i32,
            net::SO_INCOMING_CPU => -1,
            net::SO_BUF_LOCK => self.buffers_set.load(Ordering::Relaxed) as i32,
            net::SO_BINDTODEVICE => {
                let mut bytes = interface::by_index(self.device()).map_or(Vec::new(), |found| found.name.into());
                if !bytes.is_empty() {
                    bytes.push(0);
                }
                return Ok(bytes);
            }
            net::SO_COOKIE => return Ok(self.cookie().to_ne_bytes().to_vec()),
            net::SO_PEERCRED => {
                // Nobody's process, user -1 and group -1 (unix(7) has it for local sockets alone).
                return Ok([0i32, -1, -1].iter().flat_map(|word| word.to_ne_bytes()).collect());
            }
            net::SO_PEERPIDFD => return Err(Errno::ENODATA),
            _ => return Err(Errno::ENOPROTOOPT),
        };
        Ok(number.to_ne_bytes().to_vec())
    }

    /// A number of its own for each socket, from 1.
    fn cookie(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        match self.cookie.load(Ordering::Relaxed) {
            0 => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                self.cookie
                    .compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed)
                    .map_or_else(|old| old, |_| new)
            }
            known => known,
        }
    }

    /// setsockopt(2) for options of SOL_SOCKET.
    pub fn set_socket_option(&self, name: u32, value: &[u8]) -> Result<()> {
        if name == net::SO_BINDTODEVICE {
            let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len()).min(interface::NAME_SIZE - 1);
            let wanted = value.get(..end).unwrap_or_default();
            let index = match wanted {
                b"" => 0,
                wanted => interface::by_name(wanted).ok_or(Errno::ENODEV)?.index,
            };
            self.device.store(index, Ordering::Relaxed);
            return Ok(());
        }
        if NOT_OFFERED.contains(&name) {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = option_int(value)?;
        // Linux doubles what is asked for, up to a limit, to have room for its own structures (socket(7)).
        let doubled = |most: usize, least: usize| (number as u32 as usize).min(most).saturating_mul(2).max(least);
        const FORCED: usize = i32::MAX as usize / 2;
        let forced = |least: usize| (number.max(0) as usize).min(FORCED).saturating_mul(2).max(least);
        match name {
            net::SO_SNDBUF => self.set_send_buffer(doubled(MAX_BUFFER, MIN_SEND_BUFFER)),
            net::SO_SNDBUFFORCE | net::SO_RCVBUFFORCE | net::SO_MARK => {
                identity::require(linux::CAP_NET_ADMIN)?;
                match name {
                    net::SO_SNDBUFFORCE => self.set_send_buffer(forced(MIN_SEND_BUFFER)),
                    net::SO_RCVBUFFORCE => self.set_receive_buffer(forced(MIN_RECEIVE_BUFFER)),
                    _ => self.mark.store(number as u32, Ordering::Relaxed),
                }
            }
            net::SO_RCVBUF => self.set_receive_buffer(doubled(MAX_BUFFER, MIN_RECEIVE_BUFFER)),
            net::SO_BINDTOIFINDEX => match number {
                0 => self.device.store(0, Ordering::Relaxed),
                _ if interface::by_index(number as u32).is_some() => {
                    self.device.store(number as u32, Ordering::Relaxed)
                }
                _ => return Err(Errno::ENODEV),
            },
            // How fast, by which CPU and in which packets makes no difference to what the program sees.
            net::SO_BUSY_POLL | net::SO_INCOMING_CPU | net::SO_MAX_PACING_RATE | net::SO_PREFER_BUSY_POLL => {}
            net::SO_DETACH_FILTER => return Err(Errno::ENOENT),
            _ => return Err(Errno::ENOPROTOOPT),
        }
        Ok(())
    }

    fn set_send_buffer(&self, bytes: usize) {
        self.buffers_set.fetch_or(1, Ordering::Relaxed);
        self.send_buffer.store(bytes, Ordering::Relaxed);
        self.events.wake_all();
    }

    fn set_receive_buffer(&self, bytes: usize) {
        self.buffers_set.fetch_or(2, Ordering::Relaxed);
        self.receive_buffer.store(bytes, Ordering::Relaxed);
    }
}
