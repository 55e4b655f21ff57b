//! ioctl(2) calls that ask about network interfaces (netdevice(7)). Any socket takes them.

use alloc::vec::Vec;

use abi::{Errno, Result, ioctl, net};
use hal::UserAddr;

use super::{
    address::{IpAddress, SocketAddress},
    interface::{self, Interface, NAME_SIZE},
};
use crate::mm::user;

/// Bytes of `struct ifreq` as programs have it: the name, and as much as `struct ifmap` takes. (The kernel's own headers
/// make a `struct sockaddr` larger.)
const REQUEST: usize = NAME_SIZE + size_of::<net::ifmap>();
const _: () = assert!(REQUEST == 40);
/// `struct ifconf`: a length, and behind padding a pointer.
const LIST_POINTER_AT: u64 = 8;
/// The length of a loopback's queue, as Linux tells it.
pub const QUEUE_LENGTH: i32 = 1000;

/// What ethtool(8) asks (linux/sockios.h).
const SIOCETHTOOL: u32 = 0x8946;

/// The calls that change an interface. Programs use netlink for that; here only what is so already can be asked for.
const CHANGES: [u32; 8] = [
    ioctl::SIOCSIFFLAGS,
    ioctl::SIOCSIFADDR,
    ioctl::SIOCSIFNETMASK,
    ioctl::SIOCSIFBRDADDR,
    ioctl::SIOCSIFDSTADDR,
    ioctl::SIOCSIFMTU,
    ioctl::SIOCSIFHWADDR,
    ioctl::SIOCSIFNAME,
];

/// Whether a call is one of these.
pub fn is_one(command: u32) -> bool {
    const QUESTIONS: [u32; 14] = [
        ioctl::SIOCGIFNAME,
        ioctl::SIOCGIFCONF,
        ioctl::SIOCGIFFLAGS,
        ioctl::SIOCGIFADDR,
        ioctl::SIOCGIFDSTADDR,
        ioctl::SIOCGIFBRDADDR,
        ioctl::SIOCGIFNETMASK,
        ioctl::SIOCGIFMETRIC,
        ioctl::SIOCGIFMTU,
        ioctl::SIOCGIFHWADDR,
        ioctl::SIOCGIFMAP,
        ioctl::SIOCGIFINDEX,
        ioctl::SIOCGIFTXQLEN,
        SIOCETHTOOL,
    ];
    QUESTIONS.contains(&command) || CHANGES.contains(&command)
}

/// Does it. ENODEV where there is no such interface.
pub fn run(command: u32, argument: UserAddr) -> Result<u64> {
    if command == ioctl::SIOCGIFCONF {
        return list(argument);
    }
    let mut request = [0; REQUEST];
    user::copy_in_bytes(argument, &mut request)?;
    let (name, rest) = request.split_at_mut(NAME_SIZE);
    if command == ioctl::SIOCGIFNAME {
        let index = rest.first_chunk().map_or(0, |index| u32::from_ne_bytes(*index));
        let found = interface::by_index(index).ok_or(Errno::ENODEV)?;
        name.fill(0);
        put(name, found.name.as_bytes());
        user::copy_out_bytes(argument, &request)?;
        return Ok(0);
    }
    if command == SIOCETHTOOL {
        let question = rest.first_chunk().map_or(0, |address| u64::from_ne_bytes(*address));
        let _: u32 = user::copy_in(UserAddr::new(question))?;
    }
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE - 1);
    let found = interface::by_name(name.get(..end).unwrap_or_default()).ok_or(Errno::ENODEV)?;
    if command == SIOCETHTOOL {
        // No interface has anything that it could ask for.
        return Err(Errno::EOPNOTSUPP);
    }
    if CHANGES.contains(&command) {
        let flags = rest.first_chunk().map_or(0, |flags| u16::from_ne_bytes(*flags));
        let up = flags & net::net_device_flags::IFF_UP as u16 != 0;
        return if command == ioctl::SIOCSIFFLAGS && up { Ok(0) } else { Err(Errno::EOPNOTSUPP) };
    }
    rest.fill(0);
    put(rest, &answer(command, found)?);
    user::copy_out_bytes(argument, &request)?;
    Ok(0)
}

fn put(room: &mut [u8], bytes: &[u8]) {
    let len = bytes.len().min(room.len());
    room[..len].copy_from_slice(&bytes[..len]);
}

/// The first IPv4 address of an interface. EADDRNOTAVAIL where it has none.
fn first_v4(found: &Interface) -> Result<(IpAddress, u8)> {
    let addresses = found.addresses();
    let first = addresses.iter().find(|address| address.ip.is_ipv4());
    first.map(|address| (address.ip.into(), address.prefix)).ok_or(Errno::EADDRNOTAVAIL)
}

/// The netmask of a prefix.
fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32u32.saturating_sub(prefix.into())).unwrap_or(0)
}

fn sockaddr(ip: IpAddress) -> Vec<u8> {
    SocketAddress::new(ip, 0).to_bytes(net::AF_INET)
}

fn answer(command: u32, found: &Interface) -> Result<Vec<u8>> {
    Ok(match command {
        ioctl::SIOCGIFFLAGS => (found.flags() as u16).to_ne_bytes().to_vec(),
        ioctl::SIOCGIFADDR | ioctl::SIOCGIFDSTADDR => sockaddr(first_v4(found)?.0),
        // A loopback has none.
        ioctl::SIOCGIFBRDADDR if found.is_loopback() => sockaddr(IpAddress::ANY_V4),
        ioctl::SIOCGIFBRDADDR => {
            let (ip, prefix) = first_v4(found)?;
            sockaddr(IpAddress::v4(ip.as_v4().unwrap_or(0) | !mask(prefix)))
        }
        ioctl::SIOCGIFNETMASK => sockaddr(IpAddress::v4(mask(first_v4(found)?.1))),
        ioctl::SIOCGIFMTU => (found.mtu() as i32).to_ne_bytes().to_vec(),
        ioctl::SIOCGIFINDEX => found.index.to_ne_bytes().to_vec(),
        ioctl::SIOCGIFTXQLEN => QUEUE_LENGTH.to_ne_bytes().to_vec(),
        ioctl::SIOCGIFHWADDR => [&found.hardware_type.to_ne_bytes()[..], &found.mac].concat(),
        // SIOCGIFMETRIC and SIOCGIFMAP: zeroes.
        _ => Vec::new(),
    })
}

/// SIOCGIFCONF: the interfaces with an IPv4 address, as many as there is room for; or how much room they take.
fn list(argument: UserAddr) -> Result<u64> {
    let room: i32 = user::copy_in(argument)?;
    let at: u64 = user::copy_in(UserAddr::new(argument.get().wrapping_add(LIST_POINTER_AT)))?;
    let mut bytes = Vec::new();
    for found in interface::all() {
        for address in found.addresses().iter().filter(|address| address.ip.is_ipv4()) {
            let start = bytes.len();
            bytes.extend(found.name.as_bytes());
            bytes.resize(start + NAME_SIZE, 0);
            bytes.extend(sockaddr(address.ip.into()));
            bytes.resize(start + REQUEST, 0);
        }
    }
    if at != 0 {
        let room = usize::try_from(room).unwrap_or(0) / REQUEST * REQUEST;
        bytes.truncate(room);
        user::copy_out_bytes(UserAddr::new(at), &bytes)?;
    }
    user::copy_out(argument, &(bytes.len() as i32))?;
    Ok(0)
}
