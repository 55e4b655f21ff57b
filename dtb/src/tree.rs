//! The index over a blob: nodes in depth-first order, their properties, and the phandles.
//!
//! Flattened trees can only be read from front to back, so every question about a parent, a phandle or an inherited
//! property would be another pass; with the index each is a step or a binary search, and making the list of all
//! devices is linear.

use alloc::vec::Vec;
use core::ops::Range;

use crate::{
    DtbError, Node,
    parse::{Blob, Visitor, word_at},
};

/// Index of the root node.
const ROOT: u32 = 0;

/// What the index keeps of a node. `u32` is enough for every count and index: a blob has at most 2 MiB.
pub(crate) struct Record<'a> {
    pub name: &'a str,
    /// The root is its own parent.
    pub parent: u32,
    /// One past the last descendant.
    pub end: u32,
    /// The node's own properties in [`Tree::properties`].
    pub properties: Range<u32>,
    /// 0 where there is none.
    pub phandle: u32,
    /// `#address-cells` and `#size-cells` for the children; 2 and 1 by default (DTSpec 2.3.5).
    pub address_cells: u32,
    pub size_cells: u32,
    /// `#interrupt-cells`, of controllers and nexus nodes.
    pub interrupt_cells: Option<u32>,
    /// `interrupt-parent`, not inherited.
    pub interrupt_parent: Option<u32>,
}

/// A device tree: the index over a blob that has been checked from end to end.
pub struct Tree<'a> {
    bytes: &'a [u8],
    pub(crate) records: Vec<Record<'a>>,
    pub(crate) properties: Vec<(&'a str, &'a [u8])>,
    /// Phandle and node index, sorted by phandle.
    phandles: Vec<(u32, u32)>,
    pub(crate) memory_reservations: Vec<Range<u64>>,
}

#[derive(Default)]
struct Builder<'a> {
    records: Vec<Record<'a>>,
    properties: Vec<(&'a str, &'a [u8])>,
    phandles: Vec<(u32, u32)>,
    /// Indices of the open nodes.
    open: Vec<u32>,
}

impl<'a> Visitor<'a> for Builder<'a> {
    fn begin_node(&mut self, name: &'a str) {
        let index = self.records.len() as u32;
        let first_property = self.properties.len() as u32;
        self.records.push(Record {
            name,
            parent: self.open.last().copied().unwrap_or(ROOT),
            end: index + 1,
            properties: first_property..first_property,
            phandle: 0,
            address_cells: 2,
            size_cells: 1,
            interrupt_cells: None,
            interrupt_parent: None,
        });
        self.open.push(index);
    }

    fn property(&mut self, name: &'a str, value: &'a [u8]) {
        self.properties.push((name, value));
        let Some(&index) = self.open.last() else {
            return;
        };
        let Some(record) = self.records.get_mut(index as usize) else {
            return;
        };
        record.properties.end = self.properties.len() as u32;
        // A malformed cell leaves the default; what depends on it then fails to parse.
        let Some(cell) = (value.len() == 4).then(|| word_at(value, 0)).flatten() else {
            return;
        };
        match name {
            "phandle" | "linux,phandle" if record.phandle == 0 && cell != 0 && cell != u32::MAX => {
                record.phandle = cell;
                self.phandles.push((cell, index));
            }
            "#address-cells" => record.address_cells = cell,
            "#size-cells" => record.size_cells = cell,
            "#interrupt-cells" => record.interrupt_cells = Some(cell),
            "interrupt-parent" => record.interrupt_parent = Some(cell),
            _ => {}
        }
    }

    fn end_node(&mut self) {
        let end = self.records.len() as u32;
        if let Some(record) = self.open.pop().and_then(|index| self.records.get_mut(index as usize)) {
            record.end = end;
        }
    }
}

impl<'a> Tree<'a> {
    /// Checks the whole blob and builds the index. Bytes past the size in the header are ignored.
    pub fn new(bytes: &'a [u8]) -> Result<Self, DtbError> {
        let blob = Blob::new(bytes)?;
        let memory_reservations = blob.reservations()?;
        let mut builder = Builder::default();
        blob.walk(&mut builder)?;
        // Stable, so that the first of two equal phandles wins.
        builder.phandles.sort_by_key(|&(phandle, _)| phandle);
        Ok(Self {
            bytes,
            records: builder.records,
            properties: builder.properties,
            phandles: builder.phandles,
            memory_reservations,
        })
    }

    /// The blob.
    pub fn blob(&self) -> &'a [u8] {
        self.bytes
    }

    /// The node `/`.
    pub fn root(&self) -> Node<'_> {
        Node { tree: self, index: ROOT }
    }

    /// All nodes, each before its children, the root first.
    pub fn nodes(&self) -> Nodes<'_> {
        Nodes { tree: self, next: ROOT, end: self.records.len() as u32 }
    }

    /// The node with this phandle.
    pub fn by_phandle(&self, phandle: u32) -> Option<Node<'_>> {
        let first = self.phandles.partition_point(|&(other, _)| other < phandle);
        let &(found, index) = self.phandles.get(first)?;
        (found == phandle).then_some(Node { tree: self, index })
    }

    /// The node at a path.
    ///
    /// A path that does not begin with `/` begins with a name from `/aliases` (DTSpec 3.3). A component without a
    /// unit address finds the first child of that name, with any unit address.
    pub fn node(&self, path: &str) -> Option<Node<'_>> {
        if let Some(absolute) = path.strip_prefix('/') {
            return self.root().descend(absolute);
        }
        let (alias, rest) = path.split_once('/').unwrap_or((path, ""));
        let target = self.root().child("aliases")?.property_str(alias)?;
        self.root().descend(target.strip_prefix('/')?)?.descend(rest)
    }
}

/// Nodes in depth-first order; see [`Tree::nodes`] and [`Node::descendants`].
#[derive(Clone)]
pub struct Nodes<'a> {
    pub(crate) tree: &'a Tree<'a>,
    pub(crate) next: u32,
    pub(crate) end: u32,
}

impl<'a> Iterator for Nodes<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        if self.next >= self.end {
            return None;
        }
        let node = Node { tree: self.tree, index: self.next };
        self.next += 1;
        Some(node)
    }
}
