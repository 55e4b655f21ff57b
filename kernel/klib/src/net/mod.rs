//! The packet stack: what becomes of a received frame, and how a packet gets its frame.
//!
//! [`stack::Stack`] is one interface's. It takes frames apart, checks them, puts fragments together, answers what the
//! machine itself is asked (ARP, neighbour solicitations, echo requests, packets for nobody) and hands the rest to its
//! [`stack::Host`], the kernel's sockets. On the way out it finds the next hop, its Ethernet address, and cuts what is
//! too long. TCP ([`tcp`]) is smoltcp's; each connection is a set of its own there, so that a packet costs the same with
//! one connection as with a thousand. The rest is ours, because sockets of a Unix want more of it than smoltcp tells or
//! keeps: neighbours ([`neighbours`]), fragments ([`fragments`]), errors ([`icmp`]), groups ([`groups`]), addresses by
//! router ([`autoconfiguration`]) and by server ([`dhcp`]).
//!
//! There is no lock, clock or device in here, so all of it runs on the host against made-up frames. Nothing that comes in
//! can make it panic or grow beyond the limits that each table states.

pub mod autoconfiguration;
pub mod boot_config;
pub mod counts;
pub mod dhcp;
pub mod fragments;
pub mod groups;
pub mod icmp;
pub mod neighbours;
pub mod packet;
pub mod routes;
pub mod stack;
pub mod tcp;

pub use smoltcp::time::{Duration, Instant};

/// An Ethernet address.
pub type Mac = [u8; 6];
