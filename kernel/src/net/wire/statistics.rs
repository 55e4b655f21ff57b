//! What the stacks counted, as /proc/net/snmp and /proc/net/netstat show it (proc_pid_net(5)).

use alloc::{string::String, vec::Vec};
use core::fmt::Write as _;

use klib::net::{counts::Counts, fragments::Fragments};

use super::connections::ConnectionCounts;
use crate::net::interface;

/// Everything counted, of all interfaces.
#[derive(Default)]
struct Sums {
    counts: Counts,
    connections: ConnectionCounts,
    established: usize,
    reassembled: u64,
    reassembly_failed: u64,
    waiting_dropped: u64,
    dropped_in: u64,
    dropped_out: u64,
}

impl Sums {
    fn add_fragments(&mut self, fragments: &Fragments) {
        self.reassembled += fragments.complete;
        self.reassembly_failed += fragments.failed;
    }
}

fn sums() -> Sums {
    let mut sums = Sums::default();
    for ethernet in interface::ethernets().filter_map(interface::Interface::ethernet) {
        ethernet.with(|inner, _| {
            sums.counts.add(inner.stack.counts());
            sums.connections.add(&inner.connections.counts);
            sums.established += inner.connections.len().0;
            sums.add_fragments(inner.stack.fragments());
            sums.waiting_dropped += inner.stack.neighbours().dropped;
        });
        let traffic = ethernet.interface.traffic();
        sums.dropped_in += traffic.received.dropped;
        sums.dropped_out += traffic.sent.dropped;
    }
    sums
}

/// Names and numbers of one protocol, on a line each.
fn table(text: &mut String, name: &str, values: &[(&str, u64)]) {
    let _ = write!(text, "{name}:");
    for (key, _) in values {
        let _ = write!(text, " {key}");
    }
    let _ = write!(text, "\n{name}:");
    for (_, value) in values {
        let _ = write!(text, " {value}");
    }
    text.push('\n');
}

/// /proc/net/snmp.
pub fn snmp() -> Vec<u8> {
    let sums = sums();
    let (all, made) = (&sums.counts, &sums.connections);
    let mut text = String::new();
    table(
        &mut text,
        "Ip",
        &[
            ("Forwarding", 2),
            ("DefaultTTL", 64),
            ("InReceives", all.ip_in),
            ("InHdrErrors", all.ip_bad_header),
            ("InAddrErrors", all.ip_bad_address),
            ("ForwDatagrams", 0),
            ("InUnknownProtos", all.ip_unknown_protocol),
            ("InDiscards", sums.dropped_in),
            ("InDelivers", all.ip_delivered),
            ("OutRequests", all.ip_out),
            ("OutDiscards", all.ip_out_dropped + sums.waiting_dropped),
            ("OutNoRoutes", all.ip_no_route),
            ("ReasmTimeout", 30),
            ("ReasmReqds", all.fragments_in),
            ("ReasmOKs", sums.reassembled),
            ("ReasmFails", sums.reassembly_failed),
            ("FragOKs", all.fragmented),
            ("FragFails", all.fragment_failed),
            ("FragCreates", all.fragments_made),
        ],
    );
    table(
        &mut text,
        "Icmp",
        &[
            ("InMsgs", all.icmp_in),
            ("InErrors", all.icmp_bad),
            ("OutMsgs", all.icmp_out),
            ("OutErrors", all.icmp_limited),
        ],
    );
    table(
        &mut text,
        "Tcp",
        &[
            ("RtoAlgorithm", 1),
            ("RtoMin", 200),
            ("RtoMax", 120_000),
            ("MaxConn", u64::MAX),
            ("ActiveOpens", made.active),
            ("PassiveOpens", made.passive),
            ("AttemptFails", made.failed),
            ("EstabResets", made.resets),
            ("CurrEstab", sums.established as u64),
            ("InSegs", all.tcp_in),
            ("OutSegs", all.tcp_out),
            ("InErrs", all.tcp_bad + all.tcp_bad_checksum),
            ("OutRsts", all.tcp_resets_out),
            ("InCsumErrors", all.tcp_bad_checksum),
        ],
    );
    table(
        &mut text,
        "Udp",
        &[
            ("InDatagrams", all.udp_in),
            ("NoPorts", all.udp_no_port),
            ("InErrors", all.udp_bad + all.udp_bad_checksum),
            ("OutDatagrams", all.udp_out),
            ("RcvbufErrors", sums.dropped_in),
            ("SndbufErrors", sums.dropped_out),
            ("InCsumErrors", all.udp_bad_checksum),
        ],
    );
    // -1 stands for no limit.
    text.replace("18446744073709551615", "-1").into_bytes()
}

/// /proc/net/netstat.
pub fn netstat() -> Vec<u8> {
    let sums = sums();
    let made = &sums.connections;
    let mut text = String::new();
    table(
        &mut text,
        "TcpExt",
        &[
            ("ListenOverflows", made.overflows),
            ("ListenDrops", made.overflows + made.no_memory),
            ("TCPReqQFullDrop", made.evicted),
            ("TCPAbortOnTimeout", made.timeouts),
            ("TCPAbortOnMemory", made.no_memory),
        ],
    );
    let of_stack = [("InUnknownFrames", sums.counts.frames_unknown), ("InUnknownDhcp", sums.counts.dhcp_dropped)];
    table(&mut text, "IpExt", &of_stack);
    text.into_bytes()
}
