//! One node: its place in the tree and its properties.

use alloc::{string::String, vec::Vec};
use core::fmt;

use crate::{
    Tree,
    parse::word_at,
    tree::{Nodes, Record},
};

/// A node of a [`Tree`]. Small and `Copy`.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    pub(crate) tree: &'a Tree<'a>,
    pub(crate) index: u32,
}

impl PartialEq for Node<'_> {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self.tree, other.tree) && self.index == other.index
    }
}

impl Eq for Node<'_> {}

impl fmt::Debug for Node<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path())
    }
}

impl<'a> Node<'a> {
    pub(crate) fn record(&self) -> &'a Record<'a> {
        // Every `Node` is made from an index below the length of the list, which never shrinks.
        &self.tree.records[self.index as usize]
    }

    /// The tree this node belongs to.
    pub fn tree(&self) -> &'a Tree<'a> {
        self.tree
    }

    /// The node's place in [`Tree::nodes`]; the root is 0.
    pub fn index(&self) -> usize {
        self.index as usize
    }

    /// Name with unit address, such as `pl011@9000000`; empty for the root.
    pub fn name(&self) -> &'a str {
        self.record().name
    }

    /// Full path, such as `/soc/serial@7e201000`.
    pub fn path(&self) -> String {
        let mut names = Vec::new();
        let mut node = *self;
        while let Some(parent) = node.parent() {
            names.push(node.name());
            node = parent;
        }
        if names.is_empty() {
            return String::from("/");
        }
        let mut path = String::with_capacity(names.iter().map(|name| name.len() + 1).sum());
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// The parent; `None` for the root.
    pub fn parent(&self) -> Option<Node<'a>> {
        (self.index != 0).then(|| Node { tree: self.tree, index: self.record().parent })
    }

    /// The children, in the blob's order.
    pub fn children(&self) -> Children<'a> {
        Children { tree: self.tree, next: self.index + 1, end: self.record().end }
    }

    /// The nodes below this one, each before its children.
    pub fn descendants(&self) -> Nodes<'a> {
        Nodes { tree: self.tree, next: self.index + 1, end: self.record().end }
    }

    /// The child of this name. Without a unit address, the child of exactly this name or else the first with any.
    pub fn child(&self, name: &str) -> Option<Node<'a>> {
        let has_base = |child: &Node<'_>| child.name().split_once('@').is_some_and(|(base, _unit)| base == name);
        self.children().find(|child| child.name() == name).or_else(|| self.children().find(has_base))
    }

    /// Follows a relative path; empty components are skipped.
    pub(crate) fn descend(self, path: &str) -> Option<Node<'a>> {
        path.split('/').filter(|name| !name.is_empty()).try_fold(self, |node, name| node.child(name))
    }

    /// All properties, in the blob's order.
    pub fn properties(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        let range = &self.record().properties;
        self.tree.properties.get(range.start as usize..range.end as usize).unwrap_or_default().iter().copied()
    }

    /// The raw value of a property; empty for one without a value.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        self.properties().find(|&(other, _)| other == name).map(|(_, value)| value)
    }

    /// A property of exactly one 32-bit cell.
    pub fn property_u32(&self, name: &str) -> Option<u32> {
        let value = self.property(name)?;
        if value.len() == 4 { word_at(value, 0) } else { None }
    }

    /// A number of one or two cells.
    pub fn property_u64(&self, name: &str) -> Option<u64> {
        match self.property(name)? {
            value @ [_, _, _, _] => word_at(value, 0).map(u64::from),
            value => Some(u64::from_be_bytes(value.try_into().ok()?)),
        }
    }

    /// A property of one NUL-terminated string.
    pub fn property_str(&self, name: &str) -> Option<&'a str> {
        let value = self.property(name)?.strip_suffix(&[0])?;
        core::str::from_utf8(value).ok().filter(|text| !text.contains('\0'))
    }

    /// The strings of a list property; stops at the first that is malformed.
    pub fn property_strings(&self, name: &str) -> Strings<'a> {
        Strings { rest: self.property(name).unwrap_or_default() }
    }

    /// The `compatible` strings, most specific first.
    pub fn compatible(&self) -> Strings<'a> {
        self.property_strings("compatible")
    }

    /// Whether `compatible` lists this string.
    pub fn is_compatible(&self, compatible: &str) -> bool {
        self.compatible().any(|other| other == compatible)
    }

    /// Whether the device is to be used: `status` is absent, `okay` or `ok` (DTSpec 2.3.4).
    pub fn status_okay(&self) -> bool {
        self.property("status").is_none_or(|status| matches!(status, b"okay\0" | b"ok\0"))
    }

    /// The node's own phandle.
    pub fn phandle(&self) -> Option<u32> {
        let phandle = self.record().phandle;
        (phandle != 0).then_some(phandle)
    }

    /// Whether the device's DMA is coherent with the CPU caches: the nearest `dma-coherent` or `dma-noncoherent` of
    /// this node and those above it; without either, not.
    pub fn dma_coherent(&self) -> bool {
        let mut node = Some(*self);
        while let Some(this) = node {
            if this.property("dma-coherent").is_some() {
                return true;
            }
            if this.property("dma-noncoherent").is_some() {
                return false;
            }
            node = this.parent();
        }
        false
    }
}

/// See [`Node::children`].
#[derive(Clone)]
pub struct Children<'a> {
    tree: &'a Tree<'a>,
    next: u32,
    end: u32,
}

impl<'a> Iterator for Children<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        if self.next >= self.end {
            return None;
        }
        let child = Node { tree: self.tree, index: self.next };
        self.next = child.record().end;
        Some(child)
    }
}

/// See [`Node::property_strings`].
#[derive(Clone)]
pub struct Strings<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let len = self.rest.iter().position(|&byte| byte == 0)?;
        let (text, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest.get(1..)?;
        core::str::from_utf8(text).ok()
    }
}
