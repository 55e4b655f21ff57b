//! What a stack counts, as /proc/net/snmp and its kind name it (RFC 4293, RFC 4022, RFC 4113).

/// Counts of packets.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Counts {
    /// IPv4 and IPv6 packets that came, that went to a protocol, and that were sent.
    pub ip_in: u64,
    /// See [`ip_in`](Self::ip_in).
    pub ip_delivered: u64,
    /// See [`ip_in`](Self::ip_in).
    pub ip_out: u64,
    /// With a header that makes no sense, or for somebody else.
    pub ip_bad_header: u64,
    /// See [`ip_bad_header`](Self::ip_bad_header).
    pub ip_bad_address: u64,
    /// For a protocol that is not spoken.
    pub ip_unknown_protocol: u64,
    /// Sent nowhere: no route, no neighbour, no room.
    pub ip_no_route: u64,
    /// See [`ip_no_route`](Self::ip_no_route).
    pub ip_out_dropped: u64,
    /// Packets cut, and parts made of them.
    pub fragmented: u64,
    /// See [`fragmented`](Self::fragmented).
    pub fragments_made: u64,
    /// Packets too long for the wire that must not be cut.
    pub fragment_failed: u64,
    /// Parts that came.
    pub fragments_in: u64,
    /// ICMP messages that came, that were bad, and that were sent.
    pub icmp_in: u64,
    /// See [`icmp_in`](Self::icmp_in).
    pub icmp_bad: u64,
    /// See [`icmp_in`](Self::icmp_in).
    pub icmp_out: u64,
    /// ICMP messages not sent because there were too many.
    pub icmp_limited: u64,
    /// Datagrams for a socket, and datagrams sent.
    pub udp_in: u64,
    /// See [`udp_in`](Self::udp_in).
    pub udp_out: u64,
    /// Datagrams for no socket, bad ones, and those with a wrong checksum.
    pub udp_no_port: u64,
    /// See [`udp_no_port`](Self::udp_no_port).
    pub udp_bad: u64,
    /// See [`udp_no_port`](Self::udp_no_port).
    pub udp_bad_checksum: u64,
    /// TCP segments that came, and that were sent.
    pub tcp_in: u64,
    /// See [`tcp_in`](Self::tcp_in).
    pub tcp_out: u64,
    /// Bad TCP segments, and those with a wrong checksum.
    pub tcp_bad: u64,
    /// See [`tcp_bad`](Self::tcp_bad).
    pub tcp_bad_checksum: u64,
    /// Resets sent.
    pub tcp_resets_out: u64,
    /// Frames of no known type, or too short for theirs.
    pub frames_unknown: u64,
    /// DHCP messages that were not taken.
    pub dhcp_dropped: u64,
}

impl Counts {
    /// Adds those of another stack.
    pub fn add(&mut self, other: &Self) {
        self.ip_in += other.ip_in;
        self.ip_delivered += other.ip_delivered;
        self.ip_out += other.ip_out;
        self.ip_bad_header += other.ip_bad_header;
        self.ip_bad_address += other.ip_bad_address;
        self.ip_unknown_protocol += other.ip_unknown_protocol;
        self.ip_no_route += other.ip_no_route;
        self.ip_out_dropped += other.ip_out_dropped;
        self.fragmented += other.fragmented;
        self.fragments_made += other.fragments_made;
        self.fragments_in += other.fragments_in;
        self.icmp_in += other.icmp_in;
        self.icmp_bad += other.icmp_bad;
        self.icmp_out += other.icmp_out;
        self.icmp_limited += other.icmp_limited;
        self.udp_in += other.udp_in;
        self.udp_out += other.udp_out;
        self.fragment_failed += other.fragment_failed;
        self.udp_no_port += other.udp_no_port;
        self.udp_bad += other.udp_bad;
        self.udp_bad_checksum += other.udp_bad_checksum;
        self.tcp_in += other.tcp_in;
        self.tcp_out += other.tcp_out;
        self.tcp_bad += other.tcp_bad;
        self.tcp_bad_checksum += other.tcp_bad_checksum;
        self.tcp_resets_out += other.tcp_resets_out;
        self.frames_unknown += other.frames_unknown;
        self.dhcp_dropped += other.dhcp_dropped;
    }
}
