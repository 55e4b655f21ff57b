//! What the tree says of the machine as a whole: memory, reservations, boot parameters, CPUs, firmware.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{Node, Tree};

/// `/chosen`: what the boot loader hands over (DTSpec 3.6). Everything is absent where malformed.
#[derive(Clone, Debug, Default)]
pub struct Chosen<'a> {
    /// The kernel command line.
    pub bootargs: Option<&'a str>,
    /// The console, from `stdout-path` without the options after `:`, or `linux,stdout-path`.
    pub stdout_path: Option<Node<'a>>,
    /// Physical addresses of the initial RAM disk.
    pub initrd: Option<Range<u64>>,
    /// Entropy from the boot loader.
    pub rng_seed: Option<&'a [u8]>,
}

/// A CPU (DTSpec 3.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cpu<'a> {
    /// Its hardware number; on Arm the affinity fields of MPIDR_EL1.
    pub reg: u64,
    /// How it is started: `psci`, `spin-table`, ...
    pub enable_method: Option<&'a str>,
    /// Where a spin-table CPU polls for its entry address (physical).
    pub release_addr: Option<u64>,
}

/// How PSCI firmware is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PsciMethod {
    /// By `hvc`.
    Hvc,
    /// By `smc`.
    Smc,
}

/// PSCI firmware of version 0.2 or later, whose function numbers are fixed (Arm DEN0022).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Psci {
    /// The conduit.
    pub method: PsciMethod,
}

impl<'a> Tree<'a> {
    /// The machine's name.
    pub fn model(&self) -> Option<&str> {
        self.root().property_str("model")
    }

    /// The machine's `compatible` strings, most specific first.
    pub fn compatible(&self) -> crate::Strings<'_> {
        self.root().compatible()
    }

    /// What the boot loader hands over.
    pub fn chosen(&self) -> Chosen<'_> {
        let Some(node) = self.root().child("chosen") else {
            return Chosen::default();
        };
        let stdout = node.property_str("stdout-path").or_else(|| node.property_str("linux,stdout-path"));
        let initrd = node.property_u64("linux,initrd-start").zip(node.property_u64("linux,initrd-end"));
        Chosen {
            bootargs: node.property_str("bootargs"),
            stdout_path: stdout.and_then(|path| self.node(path.split_once(':').map_or(path, |(path, _)| path))),
            initrd: initrd.map(|(start, end)| start..end).filter(|range| range.start < range.end),
            rng_seed: node.property("rng-seed").filter(|seed| !seed.is_empty()),
        }
    }

    /// Physical RAM, in the tree's order; neither sorted nor freed of overlaps. Malformed entries are left out.
    pub fn memory(&self) -> Vec<Range<u64>> {
        let is_memory = |node: &Node<'_>| {
            node.property_str("device_type") == Some("memory") || node.name().split('@').next() == Some("memory")
        };
        self.root()
            .children()
            .filter(|node| is_memory(node) && node.status_okay())
            .flat_map(|node| node.reg())
            .filter_map(Result::ok)
            .filter_map(to_range)
            .collect()
    }

    /// RAM that must not be used: the memory reservation block and every child of `/reserved-memory` with a `reg`
    /// (DTSpec 5.3 and 3.5).
    pub fn reserved(&self) -> Vec<Range<u64>> {
        let mut reserved = self.memory_reservations.clone();
        reserved.retain(|range| !range.is_empty());
        if let Some(parent) = self.root().child("reserved-memory") {
            for node in parent.children().filter(Node::status_okay) {
                // A missing `ranges` is a common mistake here; reserving is the safe reading.
                let entries = node.reg().zip(node.reg_untranslated());
                reserved.extend(entries.filter_map(|(reg, raw)| reg.or(raw).ok()).filter_map(to_range));
            }
        }
        reserved
    }

    /// The CPUs that may be used, in the tree's order. One with a malformed `reg` is left out.
    pub fn cpus(&self) -> Vec<Cpu<'_>> {
        let Some(parent) = self.root().child("cpus") else {
            return Vec::new();
        };
        parent
            .children()
            .filter(|node| {
                node.property_str("device_type") == Some("cpu") || node.name().split('@').next() == Some("cpu")
            })
            .filter(Node::status_okay)
            .filter_map(|node| {
                Some(Cpu {
                    reg: node.reg_untranslated().next()?.ok()?.0,
                    enable_method: node.property_strings("enable-method").next(),
                    release_addr: node.property_u64("cpu-release-addr"),
                })
            })
            .collect()
    }

    /// The PSCI firmware, where there is any.
    pub fn psci(&self) -> Option<Psci> {
        let is_psci = |node: &Node<'_>| node.is_compatible("arm,psci-0.2") || node.is_compatible("arm,psci-1.0");
        let nodes = self.root().child("psci").into_iter().chain(self.nodes());
        let node = nodes.filter(Node::status_okay).find(is_psci)?;
        let method = match node.property_str("method")? {
            "hvc" => PsciMethod::Hvc,
            "smc" => PsciMethod::Smc,
            _ => return None,
        };
        Some(Psci { method })
    }
}

fn to_range((start, size): (u64, u64)) -> Option<Range<u64>> {
    let end = start.saturating_add(size);
    (start < end).then_some(start..end)
}
