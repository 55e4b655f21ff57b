//! Multicast groups: who is a member of which (ip(7), IP_ADD_MEMBERSHIP; ipv6(7), IPV6_JOIN_GROUP).
//!
//! A socket's [`Memberships`] say which groups it joined, on which interface, and from whom it takes datagrams there.
//! The machine takes a group's datagrams while any socket is a member.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use abi::{Errno, Result, net};

use super::{
    address::{IpAddress, SocketAddress, family_of},
    interface::{self, LOOPBACK},
    wire::Ethernet,
};
use crate::{
    sync::IrqLock,
    task::deferred::{self, Deferred},
};

/// The most groups of one socket (/proc/sys/net/ipv4/igmp_max_memberships).
const MAX_GROUPS: usize = 20;
/// The most sources of one group (/proc/sys/net/ipv4/igmp_max_msf).
const MAX_SOURCES: usize = 10;
/// Offsets in `struct group_req` and `group_source_req`: the group's address, and the source's.
const GROUP_AT: usize = 8;
const SOURCE_AT: usize = GROUP_AT + net::_K_SS_MAXSIZE as usize;

/// How often each group was joined on each interface.
static GROUPS: IrqLock<BTreeMap<(u32, IpAddress), usize>> = IrqLock::new(BTreeMap::new());

/// Whether the machine takes datagrams to a group that come by an interface: a socket is a member there, or it is the
/// group of all hosts.
pub fn is_taken(group: IpAddress, interface: u32) -> bool {
    /// 224.0.0.1, ff01::1 and ff02::1.
    const ALL_HOSTS: [IpAddress; 3] = [
        IpAddress::v4(0xe000_0001),
        IpAddress::from_v6_bytes([0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        IpAddress::from_v6_bytes([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    ALL_HOSTS.contains(&group) || GROUPS.lock().contains_key(&(interface, group))
}

/// One group.
struct Membership {
    group: IpAddress,
    interface: u32,
    /// Whether only the sources are listened to; else all but those.
    include: bool,
    sources: Vec<IpAddress>,
}

/// The groups of a socket.
pub struct Memberships(Vec<Membership>);

/// A change of the sources of a group.
#[derive(Clone, Copy)]
struct SourceChange {
    group: IpAddress,
    interface: u32,
    source: IpAddress,
    include: bool,
    add: bool,
}

fn word<const N: usize>(value: &[u8], at: usize) -> Option<[u8; N]> {
    value.get(at..).and_then(<[u8]>::first_chunk).copied()
}

/// The interface that an address of it names, or that leads to the group; `index` where that is not 0. ENODEV.
fn find_interface(index: u32, address: IpAddress, group: IpAddress) -> Result<u32> {
    match index {
        0 if address.is_loopback() => Ok(LOOPBACK.index),
        // Without either the route to the group tells.
        0 if address.is_unspecified() => {
            interface::route(address, group, 0).map(|route| route.interface.index).map_err(|_| Errno::ENODEV)
        }
        0 => interface::with_address(address).map(|found| found.index).ok_or(Errno::ENODEV),
        index => interface::by_index(index).map(|found| found.index).ok_or(Errno::ENODEV),
    }
}

/// The address in a `struct sockaddr_storage`.
fn stored(value: &[u8], at: usize, v6: bool) -> Result<IpAddress> {
    let bytes = value.get(at..).unwrap_or_default();
    let family = if v6 { net::AF_INET6 } else { net::AF_INET };
    if family_of(bytes)? != family {
        return Err(Errno::EADDRNOTAVAIL);
    }
    Ok(SocketAddress::parse(family, bytes)?.ip)
}

impl Memberships {
    /// None.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Whether a datagram from `source` to `group` is wanted; `None` where the socket is no member.
    pub fn wants(&self, group: IpAddress, source: IpAddress, interface: u32) -> Option<bool> {
        let membership = self.0.get(self.position(group, interface)?)?;
        Some(membership.sources.contains(&source) == membership.include)
    }

    fn position(&self, group: IpAddress, interface: u32) -> Option<usize> {
        self.0.iter().position(|membership| membership.group == group && membership.interface == interface)
    }

    fn join(&mut self, group: IpAddress, interface: u32, include: bool) -> Result<()> {
        if !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if self.position(group, interface).is_some() {
            return Err(Errno::EADDRINUSE);
        }
        if self.0.len() >= MAX_GROUPS {
            return Err(Errno::ENOBUFS);
        }
        remember(group, interface);
        self.0.push(Membership { group, interface, include, sources: Vec::new() });
        Ok(())
    }

    fn leave(&mut self, group: IpAddress, interface: u32) -> Result<()> {
        let place = match interface {
            0 => self.0.iter().position(|membership| membership.group == group),
            interface => self.position(group, interface),
        };
        let place = place.ok_or(Errno::EADDRNOTAVAIL)?;
        let gone = self.0.swap_remove(place);
        forget(gone.group, gone.interface);
        Ok(())
    }

    fn change_source(&mut self, change: SourceChange) -> Result<()> {
        if !change.group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if change.include && change.add && self.position(change.group, change.interface).is_none() {
            self.join(change.group, change.interface, true)?;
        }
        let place = self.position(change.group, change.interface).ok_or(Errno::EINVAL)?;
        let Some(membership) = self.0.get_mut(place) else { return Err(Errno::EINVAL) };
        if membership.include != change.include {
            if !membership.sources.is_empty() || membership.include {
                return Err(Errno::EINVAL);
            }
            membership.include = change.include;
        }
        let known = membership.sources.iter().position(|source| *source == change.source);
        match (known, change.add) {
            (Some(_), true) | (None, false) => return Err(Errno::EADDRNOTAVAIL),
            (None, true) if membership.sources.len() >= MAX_SOURCES => return Err(Errno::ENOBUFS),
            (None, true) => membership.sources.push(change.source),
            (Some(known), false) => {
                membership.sources.swap_remove(known);
                if membership.sources.is_empty() && membership.include {
                    return self.leave(change.group, change.interface);
                }
            }
        }
        Ok(())
    }

    /// setsockopt(2) with SOL_IP. `None` where `name` is no option of groups.
    pub fn set_v4(&mut self, name: u32, value: &[u8], stream: bool) -> Result<Option<()>> {
        match name {
            net::IP_ADD_MEMBERSHIP | net::IP_DROP_MEMBERSHIP => {
                if stream {
                    return Err(Errno::EPROTO);
                }
                let group = IpAddress::from_v4_bytes(word(value, 0).ok_or(Errno::EINVAL)?);
                let address = IpAddress::from_v4_bytes(word(value, 4).ok_or(Errno::EINVAL)?);
                let index = word(value, 8).map_or(0, u32::from_ne_bytes);
                if name == net::IP_ADD_MEMBERSHIP {
                    if !group.is_multicast() {
                        return Err(Errno::EINVAL);
                    }
                    self.join(group, find_interface(index, address, group)?, false)?;
                } else {
                    let named = index != 0 || !address.is_unspecified();
                    self.leave(group, if named { find_interface(index, address, group)? } else { 0 })?;
                }
            }
            net::IP_ADD_SOURCE_MEMBERSHIP
            | net::IP_DROP_SOURCE_MEMBERSHIP
            | net::IP_BLOCK_SOURCE
            | net::IP_UNBLOCK_SOURCE => {
                let field =
                    |at| -> Result<IpAddress> { Ok(IpAddress::from_v4_bytes(word(value, at).ok_or(Errno::EINVAL)?)) };
                let (group, address, source) = (field(0)?, field(4)?, field(8)?);
                let change = SourceChange {
                    group,
                    interface: find_interface(0, address, group)?,
                    source,
                    include: matches!(name, net::IP_ADD_SOURCE_MEMBERSHIP | net::IP_DROP_SOURCE_MEMBERSHIP),
                    add: matches!(name, net::IP_ADD_SOURCE_MEMBERSHIP | net::IP_BLOCK_SOURCE),
                };
                self.change_source(change)?;
            }
            _ => return self.set_request(name, value, stream, false),
        }
        Ok(Some(()))
    }

    /// setsockopt(2) with SOL_IPV6. `None` where `name` is no option of groups.
    pub fn set_v6(&mut self, name: u32, value: &[u8], stream: bool) -> Result<Option<()>> {
        if !matches!(name, net::IPV6_ADD_MEMBERSHIP | net::IPV6_DROP_MEMBERSHIP) {
            return self.set_request(name, value, stream, true);
        }
        let group = IpAddress::from_v6_bytes(word(value, 0).ok_or(Errno::EINVAL)?);
        let index = u32::from_ne_bytes(word(value, 16).ok_or(Errno::EINVAL)?);
        if stream {
            return Err(Errno::EPROTO);
        }
        if group.is_v4() || !group.is_multicast() {
            return Err(Errno::EINVAL);
        }
        if name == net::IPV6_ADD_MEMBERSHIP {
            self.join(group, find_interface(index, IpAddress::ANY_V6, group)?, false)?;
        } else {
            self.leave(group, index)?;
        }
        Ok(Some(()))
    }

    /// The options that are the same for both families (RFC 3678).
    fn set_request(&mut self, name: u32, value: &[u8], stream: bool, v6: bool) -> Result<Option<()>> {
        let with_source = match name {
            net::MCAST_JOIN_GROUP | net::MCAST_LEAVE_GROUP => false,
            net::MCAST_JOIN_SOURCE_GROUP
            | net::MCAST_LEAVE_SOURCE_GROUP
            | net::MCAST_BLOCK_SOURCE
            | net::MCAST_UNBLOCK_SOURCE => true,
            _ => return Ok(None),
        };
        if stream {
            return Err(Errno::EPROTO);
        }
        let size = if with_source { SOURCE_AT + net::_K_SS_MAXSIZE as usize } else { SOURCE_AT };
        if value.len() < size {
            return Err(Errno::EINVAL);
        }
        let index = word(value, 0).map_or(0, u32::from_ne_bytes);
        let group = stored(value, GROUP_AT, v6)?;
        if !with_source {
            if name == net::MCAST_LEAVE_GROUP {
                self.leave(group, index)?;
            } else if group.is_multicast() {
                self.join(group, find_interface(index, group.any_of_family(), group)?, false)?;
            } else {
                return Err(Errno::EINVAL);
            }
            return Ok(Some(()));
        }
        self.change_source(SourceChange {
            group,
            interface: find_interface(index, group.any_of_family(), group)?,
            source: stored(value, SOURCE_AT, v6)?,
            include: matches!(name, net::MCAST_JOIN_SOURCE_GROUP | net::MCAST_LEAVE_SOURCE_GROUP),
            add: matches!(name, net::MCAST_JOIN_SOURCE_GROUP | net::MCAST_BLOCK_SOURCE),
        })?;
        Ok(Some(()))
    }
}

/// A change of what the routers on a wire are to be told. It is done when the call that made it ends, without a lock.
struct Change {
    ethernet: &'static Ethernet,
    group: IpAddress,
    join: bool,
}

impl Deferred for Change {
    fn run(&self) {
        self.ethernet.set_group(self.group, self.join);
    }
}

fn tell(group: IpAddress, interface: u32, join: bool) {
    if let Some(ethernet) = interface::by_index(interface).and_then(interface::Interface::ethernet) {
        deferred::add(Arc::new(Change { ethernet, group, join }));
    }
}

/// One member more.
fn remember(group: IpAddress, interface: u32) {
    let first = {
        let mut groups = GROUPS.lock();
        let count = groups.entry((interface, group)).or_default();
        *count += 1;
        *count == 1
    };
    if first {
        tell(group, interface, true);
    }
}

/// One member less.
fn forget(group: IpAddress, interface: u32) {
    let last = {
        let mut groups = GROUPS.lock();
        let Some(count) = groups.get_mut(&(interface, group)) else { return };
        *count -= 1;
        let last = *count == 0;
        if last {
            groups.remove(&(interface, group));
        }
        last
    };
    if last {
        tell(group, interface, false);
    }
}

impl Drop for Memberships {
    fn drop(&mut self) {
        for membership in self.0.drain(..) {
            forget(membership.group, membership.interface);
        }
    }
}
