//! What /proc/net, /proc/sys/net and /sys/class/net say (proc_pid_net(5), tcp(7), udp(7)).

use alloc::{
    format,
    string::{String, ToString as _},
    sync::Arc,
    vec::Vec,
};
use core::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use abi::{Errno, Result, net};
use klib::net::routes::Route;

use super::{
    address::{IpAddress, SocketAddress},
    device_ioctl::QUEUE_LENGTH,
    interface, memory,
    netlink::{SCOPE_HOST, SCOPE_LINK, SCOPE_SITE, address_flags, address_scope},
    ports, shared, tcp, udp, wire,
};
use crate::{
    fs::{
        self,
        virtual_files::{Listing, VirtualDirectory, VirtualFs},
    },
    mm::PAGE_SIZE,
    time,
};

/// States in /proc/net/tcp.
const TIME_WAIT: u8 = 6;
/// A tick of /proc's times, in nanoseconds.
const TICK_NS: u64 = 10_000_000;

/// /proc/net.
pub fn directory(fs: VirtualFs) -> Arc<VirtualDirectory> {
    let directory = VirtualDirectory::new(fs);
    directory.add_text("arp", arp);
    directory.add_text("dev", devices);
    directory.add_text("if_inet6", addresses_v6);
    directory.add_directory("ipconfig").add_text("ntp_servers", time_servers);
    directory.add_text("ipv6_route", routes_v6);
    directory.add_text("netstat", wire::netstat);
    directory.add_text("pnp", name_servers);
    directory.add_text("route", routes_v4);
    directory.add_text("snmp", wire::snmp);
    directory.add_text("sockstat", statistics);
    directory.add_listing("tcp", |text| tcp_sockets(text, net::AF_INET));
    directory.add_listing("tcp6", |text| tcp_sockets(text, net::AF_INET6));
    directory.add_listing("unix", fs::unix_socket::list);
    directory.add_listing("udp", |text| udp_sockets(text, net::AF_INET, net::IPPROTO_UDP as u32));
    directory.add_listing("udp6", |text| udp_sockets(text, net::AF_INET6, net::IPPROTO_UDP as u32));
    directory.add_listing("udplite", |text| udp_sockets(text, net::AF_INET, net::IPPROTO_UDPLITE as u32));
    directory.add_listing("udplite6", |text| udp_sockets(text, net::AF_INET6, net::IPPROTO_UDPLITE as u32));
    directory
}

fn devices() -> Vec<u8> {
    let mut text = String::from(concat!(
        "Inter-|   Receive                                                |  Transmit\n",
        " face |bytes    packets errs drop fifo frame compressed multicast|",
        "bytes    packets errs drop fifo colls carrier compressed\n",
    ));
    for found in interface::all() {
        let interface::Traffic { received, sent } = found.traffic();
        let _ = writeln!(
            text,
            "{:>6}: {:>7} {:>7} {:>4} {:>4} {:>4} {:>5} {:>10} {:>9} {:>8} {:>7} {:>4} {:>4} {:>4} {:>5} {:>7} {:>10}",
            found.name,
            received.bytes,
            received.packets,
            received.errors,
            received.dropped,
            0,
            0,
            0,
            0,
            sent.bytes,
            sent.packets,
            sent.errors,
            sent.dropped,
            0,
            0,
            0,
            0
        );
    }
    text.into_bytes()
}

/// Sixteen bytes as /proc/net writes them.
fn hex_v6(ip: IpAddr) -> String {
    let mut text = String::new();
    for byte in IpAddress::from(ip).v6_bytes() {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn addresses_v6() -> Vec<u8> {
    /// IPV6_ADDR_LOOPBACK, IPV6_ADDR_LINKLOCAL and IPV6_ADDR_SITELOCAL of the kernel's kinds; 0 is global.
    const LOOPBACK: u8 = 0x10;
    const LINK_LOCAL: u8 = 0x20;
    const SITE_LOCAL: u8 = 0x40;
    let mut text = String::new();
    for found in interface::all() {
        for own in found.addresses().iter().filter(|own| own.ip.is_ipv6()) {
            let scope = match address_scope(own) {
                SCOPE_HOST => LOOPBACK,
                SCOPE_LINK => LINK_LOCAL,
                SCOPE_SITE => SITE_LOCAL,
                _ => 0,
            };
            let (index, prefix, name, flags) = (found.index, own.prefix, found.name, address_flags(own) as u8);
            let _ = writeln!(text, "{} {index:02x} {prefix:02x} {scope:02x} {flags:02x} {name:>8}", hex_v6(own.ip));
        }
    }
    text.into_bytes()
}

fn arp() -> Vec<u8> {
    /// ATF_COM: the address is known.
    const COMPLETE: u8 = 2;
    let mut text = String::from("IP address       HW type     Flags       HW address            Mask     Device\n");
    for found in interface::ethernets() {
        let neighbours = found.ethernet().map_or_else(Vec::new, |ethernet| ethernet.neighbours());
        for neighbour in neighbours.iter().filter(|neighbour| neighbour.ip.is_ipv4()) {
            let flags = if neighbour.mac.is_some() { COMPLETE } else { 0 };
            let mac = hardware_address(neighbour.mac.unwrap_or([0; 6]));
            let (ip, name) = (neighbour.ip.to_string(), found.name);
            let _ = writeln!(text, "{ip:<16} 0x{:<10x}0x{flags:<10x}{mac}     *        {name}", found.hardware_type);
        }
    }
    text.into_bytes()
}

fn hardware_address(mac: [u8; 6]) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// RTF_UP, RTF_GATEWAY, RTF_HOST of a route.
fn route_flags(route: &Route) -> u32 {
    let whole = if route.destination.is_ipv4() { 32 } else { 128 };
    1 | if route.gateway.is_some() { 2 } else { 0 } | if route.prefix == whole { 4 } else { 0 }
}

fn routes_v4() -> Vec<u8> {
    let heading = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT";
    let mut text = format!("{heading:<127}\n");
    // As a number of this machine whose bytes in memory are the address.
    let number = |ip: IpAddr| u32::from_ne_bytes(IpAddress::from(ip).v4_bytes());
    for found in interface::ethernets() {
        let mut routes = found.routes();
        routes.retain(|route| route.destination.is_ipv4());
        routes.sort_by_key(|route| route.prefix);
        for route in &routes {
            let mask = u32::MAX.checked_shl(32u32.saturating_sub(route.prefix.into())).unwrap_or(0).to_be();
            let line = format!(
                "{}\t{:08X}\t{:08X}\t{:04X}\t0\t0\t{}\t{mask:08X}\t0\t0\t0",
                found.name,
                number(route.destination),
                route.gateway.map_or(0, number),
                route_flags(route),
                route.metric
            );
            let _ = writeln!(text, "{line:<127}");
        }
    }
    text.into_bytes()
}

fn routes_v6() -> Vec<u8> {
    const NOBODY: IpAddr = IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED);
    /// RTF_LOCAL.
    const LOCAL: u32 = 0x8000_0000;
    let mut text = String::new();
    let mut line = |destination: IpAddr, prefix: u8, gateway: IpAddr, metric: u32, flags: u32, name: &str| {
        let (destination, gateway, nobody) = (hex_v6(destination), hex_v6(gateway), hex_v6(NOBODY));
        let _ = writeln!(
            text,
            "{destination} {prefix:02x} {nobody} 00 {gateway} {metric:08x} 00000001 00000000 {flags:08x} {name:>8}"
        );
    };
    for found in interface::ethernets() {
        for route in found.routes().iter().filter(|route| route.destination.is_ipv6()) {
            let gateway = route.gateway.unwrap_or(NOBODY);
            line(route.destination, route.prefix, gateway, route.metric, route_flags(route), found.name);
        }
    }
    for found in interface::all() {
        for own in found.addresses().iter().filter(|own| own.ip.is_ipv6()) {
            line(own.ip, 128, NOBODY, 0, LOCAL | 1, found.name);
        }
    }
    text.into_bytes()
}

/// The time servers that DHCP told of, one a line.
fn time_servers() -> Vec<u8> {
    let mut text = String::new();
    for server in interface::ethernets().flat_map(interface::Interface::time_servers) {
        let _ = writeln!(text, "{server}");
    }
    text.into_bytes()
}

/// What resolv.conf(5) should say (Linux's Documentation/admin-guide/nfs/nfsroot.rst).
fn name_servers() -> Vec<u8> {
    let mut text = String::new();
    for found in interface::ethernets() {
        let (servers, domain) = found.resolver();
        if !domain.is_empty() {
            let _ = writeln!(text, "search {domain}");
        }
        for server in servers {
            // One that is on a wire needs its name.
            let scope = if IpAddress::from(server).is_link_local() { found.name } else { "" };
            let separator = if scope.is_empty() { "" } else { "%" };
            let _ = writeln!(text, "nameserver {server}{separator}{scope}");
        }
    }
    text.into_bytes()
}

fn place(address: SocketAddress, family: u32) -> String {
    format!("{}:{:04X}", address.ip.hex(family), address.port)
}

fn tcp_sockets(text: &mut Listing, family: u32) -> fmt::Result {
    let width = if family == net::AF_INET { 149 } else { 0 };
    let heading = if family == net::AF_INET {
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"
    } else {
        concat!(
            "  sl  local_address                         remote_address                        st tx_queue rx_queue ",
            "tr tm->when retrnsmt   uid  timeout inode"
        )
    };
    writeln!(text, "{heading:<width$}")?;
    let mut number = 0;
    let mut add = |line: String| {
        let numbered = format!("{number:4}: {line}");
        number += 1;
        writeln!(text, "{numbered:<width$}")
    };
    for socket in tcp::PORTS.owners() {
        let Ok(socket) = socket.downcast::<tcp::Endpoint>().map(|socket| socket.summary()) else { continue };
        if socket.family == family && socket.is_open() {
            let (local, remote) = (place(socket.local, family), place(socket.remote, family));
            add(format!(
                "{local} {remote} {:02X} {:08X}:{:08X} 00:00000000 00000000 {:5}        0 {} 1 0000000000000000 100 0 0 10 0",
                socket.number, socket.send_queue, socket.receive_queue, socket.uid, socket.inode
            ))?;
        }
    }
    for ports::Waiting { local, remote, left_ns } in tcp::PORTS.waiting() {
        // A connection of IPv4 shows as one, whatever the sockets were.
        if local.0.is_v4() == (family == net::AF_INET) {
            let show = |(ip, port): (IpAddress, u16)| place(SocketAddress::new(ip, port), family);
            add(format!(
                "{} {} {TIME_WAIT:02X} 00000000:00000000 03:{:08X} 00000000     0        0 0 3 0000000000000000",
                show(local),
                show(remote),
                left_ns / TICK_NS
            ))?;
        }
    }
    Ok(())
}

fn udp_sockets(text: &mut Listing, family: u32, protocol: u32) -> fmt::Result {
    /// States of tcp(7) as /proc/net/udp uses them: connected or not.
    const CONNECTED: u8 = 1;
    const UNCONNECTED: u8 = 7;
    let heading = if family == net::AF_INET {
        "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
    } else {
        concat!(
            "  sl  local_address                         remote_address                        st tx_queue rx_queue ",
            "tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
        )
    };
    let width = if family == net::AF_INET { 127 } else { 0 };
    writeln!(text, "{heading:<width$}")?;
    for socket in udp::ports(protocol).owners() {
        let Ok(socket) = socket.downcast::<udp::Endpoint>().map(|socket| socket.summary()) else { continue };
        if socket.family != family {
            continue;
        }
        let any = if family == net::AF_INET { IpAddress::ANY_V4 } else { IpAddress::ANY_V6 };
        let remote = socket.remote.unwrap_or(SocketAddress::new(any, 0));
        let state = if socket.remote.is_some() { CONNECTED } else { UNCONNECTED };
        let line = format!(
            "{:5}: {} {} {state:02X} 00000000:{:08X} 00:00000000 00000000 {:5}        0 {} 2 0000000000000000 {}",
            socket.local.port,
            place(socket.local, family),
            place(remote, family),
            socket.queued,
            socket.uid,
            socket.inode,
            socket.dropped
        );
        writeln!(text, "{line:<width$}")?;
    }
    Ok(())
}

fn statistics() -> Vec<u8> {
    let streams = tcp::PORTS.owners().len();
    let waiting = tcp::PORTS.waiting().len();
    let count = |protocol| udp::ports(protocol).owners().len();
    let datagrams = count(net::IPPROTO_UDP as u32);
    let lite = count(net::IPPROTO_UDPLITE as u32);
    let pages = memory::used().div_ceil(PAGE_SIZE);
    let mut text = format!("sockets: used {}\n", streams + datagrams + lite);
    let _ = writeln!(text, "TCP: inuse {streams} orphan 0 tw {waiting} alloc {streams} mem {pages}");
    let _ = writeln!(text, "UDP: inuse {datagrams} mem 0\nUDPLITE: inuse {lite}\nRAW: inuse 0\nFRAG: inuse 0 memory 0");
    text.into_bytes()
}

/// /proc/sys/net.
pub fn add_settings(directory: &VirtualDirectory) {
    let line = |directory: &VirtualDirectory, name: &str, value: &dyn fmt::Display| {
        let text = format!("{value}\n").into_bytes();
        directory.add_text(name, move || text.clone());
    };
    let core = directory.add_directory("core");
    for (name, value) in [
        ("rmem_default", shared::DEFAULT_BUFFER),
        ("rmem_max", shared::MAX_BUFFER),
        ("wmem_default", shared::DEFAULT_BUFFER),
        ("wmem_max", shared::MAX_BUFFER),
    ] {
        line(&core, name, &value);
    }
    line(&core, "optmem_max", &131_072);
    core.add_control(
        "somaxconn",
        || format!("{}\n", tcp::max_backlog()).into_bytes(),
        |bytes| {
            let [limit] = numbers(bytes)?;
            tcp::set_max_backlog(limit);
            Ok(())
        },
    );
    let v4 = directory.add_directory("ipv4");
    let range = || {
        let (low, high) = ports::local_range();
        format!("{low}\t{high}\n").into_bytes()
    };
    v4.add_control("ip_local_port_range", range, |bytes| {
        let [low, high] = numbers(bytes)?;
        let port = |number: u32| u16::try_from(number).map_err(|_| Errno::EINVAL);
        ports::set_local_range(port(low)?, port(high)?)
    });
    let pages = memory::limit() / PAGE_SIZE;
    line(&v4, "tcp_mem", &format!("{}\t{}\t{pages}", pages / 2, pages / 4 * 3));
    line(&v4, "udp_mem", &format!("{}\t{}\t{pages}", pages / 2, pages / 4 * 3));
    line(&v4, "tcp_rmem", &format!("4096\t{}\t6291456", tcp::RECEIVE_BUFFER));
    line(&v4, "tcp_wmem", &format!("4096\t{}\t4194304", tcp::SEND_BUFFER));
    line(&v4, "tcp_congestion_control", &"cubic");
    line(&v4, "tcp_available_congestion_control", &"reno cubic");
    line(&v4, "tcp_allowed_congestion_control", &"reno cubic");
    for (name, value) in [
        ("ip_default_ttl", net::IPDEFTTL),
        ("ip_forward", 0),
        ("ip_nonlocal_bind", 0),
        ("ip_unprivileged_port_start", ports::UNPRIVILEGED.into()),
        ("igmp_max_memberships", 20),
        ("igmp_max_msf", 10),
        ("tcp_fastopen", 1),
        ("tcp_fin_timeout", 60),
        ("tcp_keepalive_intvl", 75),
        ("tcp_keepalive_probes", 9),
        ("tcp_keepalive_time", 7200),
        ("tcp_max_syn_backlog", 128),
        ("tcp_syn_retries", 6),
        ("tcp_tw_reuse", 2),
    ] {
        line(&v4, name, &value);
    }
    let v6 = directory.add_directory("ipv6");
    line(&v6, "bindv6only", &0);
    for name in ["all", "default"].into_iter().chain(interface::all().map(|found| found.name)) {
        line(&v6.add_directory("conf").add_directory(name), "disable_ipv6", &0);
    }
    line(&directory.add_directory("unix"), "max_dgram_qlen", &10);
}

/// Numbers with blanks between them, as written to a file of /proc/sys. EINVAL for anything else.
fn numbers<const N: usize>(bytes: &[u8]) -> Result<[u32; N]> {
    let text = core::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)?;
    let all: Option<Vec<u32>> = text.split_whitespace().map(|word| word.parse().ok()).collect();
    all.and_then(|all| all.try_into().ok()).ok_or(Errno::EINVAL)
}

/// /sys/class/net. The interfaces are made after it, so they are added when they are.
pub fn add_to_sysfs(class: &VirtualDirectory) {
    add_interface_to(&class.add_directory("net"), &interface::LOOPBACK);
}

/// Shows an interface in /sys/class/net and /proc/sys/net.
pub fn add_interface(found: &'static interface::Interface) {
    add_interface_to(&fs::sysfs::directory().add_directory("class").add_directory("net"), found);
}

fn add_interface_to(network: &VirtualDirectory, found: &'static interface::Interface) {
    let directory = network.add_directory(found.name);
    let add = |name: &str, text: String| {
        let text = format!("{text}\n").into_bytes();
        directory.add_text(name, move || text.clone());
    };
    let broadcast = if found.is_loopback() { [0; 6] } else { [0xff; 6] };
    add("address", hardware_address(found.mac));
    add("addr_len", String::from("6"));
    add("broadcast", hardware_address(broadcast));
    add("dev_id", String::from("0x0"));
    add("ifindex", found.index.to_string());
    add("iflink", found.index.to_string());
    add("tx_queue_len", QUEUE_LENGTH.to_string());
    add("type", found.hardware_type.to_string());
    directory.add_text("carrier", move || format!("{}\n", u8::from(found.has_link())).into_bytes());
    directory.add_text("mtu", move || format!("{}\n", found.mtu()).into_bytes());
    directory.add_text("flags", move || {
        format!("{:#x}\n", found.flags() & !(net::net_device_flags::IFF_RUNNING as u32)).into_bytes()
    });
    directory.add_text("operstate", move || match (found.is_loopback(), found.has_link()) {
        (true, _) => b"unknown\n".to_vec(),
        (false, true) => b"up\n".to_vec(),
        (false, false) => b"down\n".to_vec(),
    });
    let statistics = directory.add_directory("statistics");
    for (name, pick) in STATISTICS {
        statistics.add_text(name, move || format!("{}\n", pick(&found.traffic())).into_bytes());
    }
}

type Pick = fn(&interface::Traffic) -> u64;

/// The counts of /sys/class/net/NAME/statistics that can be other than 0.
const STATISTICS: [(&str, Pick); 8] = [
    ("rx_bytes", |traffic| traffic.received.bytes),
    ("rx_packets", |traffic| traffic.received.packets),
    ("rx_errors", |traffic| traffic.received.errors),
    ("rx_dropped", |traffic| traffic.received.dropped),
    ("tx_bytes", |traffic| traffic.sent.bytes),
    ("tx_packets", |traffic| traffic.sent.packets),
    ("tx_errors", |traffic| traffic.sent.errors),
    ("tx_dropped", |traffic| traffic.sent.dropped),
];

const _: () = assert!(TICK_NS * 100 == time::SECOND);
