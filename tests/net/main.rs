//! The machine on the wire: against real programs of the host, and through wires that lose, repeat and reorder.

mod bad_wire;
mod packages;
mod peers;
mod servers;
