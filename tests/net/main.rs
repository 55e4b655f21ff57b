//! The machine on the wire: against real programs of the host, and through wires that lose, repeat and reorder.
//!
//! In `make test` each runs for short; `make robustness` runs some long. `PITON_FRAMES` says how many frames of noise come,
//! `PITON_COUNT` how many connections, `PITON_SEED` where the noise starts.

mod bad_wire;
mod cable;
mod lease;
mod noise;
mod packages;
mod peers;
mod servers;
mod station;
