//! The paths of a cache and what they refer to, as numbers: about 120 bytes a path and 4 a reference.

use std::collections::HashMap;

use firn_index::{CacheName, Meta, PathRow, UnixSeconds};
use firn_nix::{Sha256, StoreHash};

use crate::Result;

/// Rows read at a time.
const PAGE: usize = 1000;

/// A path's number in a [`Graph`].
pub(crate) type Node = u32;

/// Names a NAR or a recipe in memory: half of its hash. Two of one name would both be kept.
pub(crate) type ShortId = [u8; 16];

/// Returns the short name of a hash.
pub(crate) fn short(hash: &[u8]) -> ShortId {
    let mut short = [0; 16];
    short.iter_mut().zip(hash).for_each(|(to, from)| *to = *from);
    short
}

/// The paths of one cache.
///
/// A node is a path of the cache, or one that a path refers to and that the cache lacks.
#[derive(Default)]
pub(crate) struct Graph {
    hashes: Vec<StoreHash>,
    nodes: HashMap<StoreHash, Node>,
    /// Of each node that the cache has; zeros and an empty range of others.
    facts: Vec<Facts>,
    references: Vec<Node>,
    /// Nodes such that what refers comes before what is referred to.
    order: Vec<Node>,
}

/// What is known of a path.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Facts {
    pub(crate) is_there: bool,
    pub(crate) nar: ShortId,
    pub(crate) nar_size: u64,
    pub(crate) committed_at: UnixSeconds,
    /// The last use of it or of anything that refers to it.
    pub(crate) used_at: UnixSeconds,
    /// A hash of its name [without its version](unversioned).
    pub(crate) unversioned: u64,
    first: u32,
    end: u32,
}

impl Graph {
    /// Reads all paths of a cache. What was never recorded as used counts as used at `since`, and when it was committed.
    pub(crate) fn load(meta: &dyn Meta, cache: &CacheName, since: UnixSeconds) -> Result<Self> {
        let mut graph = Self::default();
        let mut after = None;
        loop {
            let page = meta.paths(cache, after, PAGE)?;
            for (hash, row) in &page {
                graph.add(*hash, row, since);
            }
            match page.last() {
                Some((last, _)) => after = Some(*last),
                None => break,
            }
        }
        graph.load_uses(meta, cache)?;
        graph.sort();
        graph.spread_uses();
        Ok(graph)
    }

    fn load_uses(&mut self, meta: &dyn Meta, cache: &CacheName) -> Result<()> {
        let mut of_nars: HashMap<ShortId, UnixSeconds> = HashMap::new();
        let mut after = None;
        loop {
            let page = meta.uses(cache, after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (hash, at) in page {
                let node = self.node(&hash).filter(|node| self.facts(*node).is_there);
                match node.and_then(|node| self.facts.get_mut(node as usize)) {
                    Some(facts) => facts.used_at = facts.used_at.max(at),
                    // The use of a NAR, or of a path that is gone.
                    None => _ = of_nars.insert(short(&hash.0), at),
                }
            }
        }
        if !of_nars.is_empty() {
            for facts in &mut self.facts {
                let at = of_nars.get(&facts.nar).filter(|_| facts.is_there);
                facts.used_at = facts.used_at.max(at.copied().unwrap_or(0));
            }
        }
        Ok(())
    }

    fn add(&mut self, hash: StoreHash, row: &PathRow, since: UnixSeconds) {
        let node = self.enter(hash);
        let first = self.references.len();
        for reference in &row.references {
            let to = self.enter(reference.hash());
            // A path may refer to itself, which says nothing.
            if to != node {
                self.references.push(to);
            }
        }
        self.facts[node as usize] = Facts {
            is_there: true,
            nar: short(&row.nar_hash.0),
            nar_size: row.nar_size,
            committed_at: row.committed_at,
            used_at: row.committed_at.max(since),
            unversioned: hash_of(&unversioned(row.path.name())),
            first: number(first),
            end: number(self.references.len()),
        };
    }

    fn enter(&mut self, hash: StoreHash) -> Node {
        let next = number(self.hashes.len());
        let node = *self.nodes.entry(hash).or_insert(next);
        if node == next {
            self.hashes.push(hash);
            self.facts.push(Facts::default());
        }
        node
    }

    /// Orders the nodes. Where references make a circle, which no real store has, its nodes come last, in any order.
    fn sort(&mut self) {
        let mut referrers = vec![0_u32; self.hashes.len()];
        for to in &self.references {
            referrers[*to as usize] += 1;
        }
        let mut order: Vec<Node> = self.all().filter(|node| referrers[*node as usize] == 0).collect();
        let mut next = 0;
        while let Some(node) = order.get(next).copied() {
            next += 1;
            for to in self.references(node) {
                referrers[*to as usize] -= 1;
                if referrers[*to as usize] == 0 {
                    order.push(*to);
                }
            }
        }
        order.extend(self.all().filter(|node| referrers[*node as usize] > 0));
        self.order = order;
    }

    fn spread_uses(&mut self) {
        for at in 0..self.order.len() {
            let node = self.order[at];
            let used_at = self.facts[node as usize].used_at;
            for edge in self.facts[node as usize].range() {
                let to = self.references[edge] as usize;
                self.facts[to].used_at = self.facts[to].used_at.max(used_at);
            }
        }
    }

    fn all(&self) -> impl Iterator<Item = Node> + use<> {
        0..number(self.hashes.len())
    }

    /// Returns the number of nodes.
    pub(crate) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Returns the node of a path, if the cache has it or refers to it.
    pub(crate) fn node(&self, hash: &StoreHash) -> Option<Node> {
        self.nodes.get(hash).copied()
    }

    /// Returns a node's path.
    pub(crate) fn hash(&self, node: Node) -> StoreHash {
        self.hashes[node as usize]
    }

    /// Returns what is known of a node.
    pub(crate) fn facts(&self, node: Node) -> &Facts {
        &self.facts[node as usize]
    }

    /// Returns what a node refers to, but for itself.
    pub(crate) fn references(&self, node: Node) -> &[Node] {
        &self.references[self.facts[node as usize].range()]
    }

    /// Returns the paths that the cache has; those that refer come before those that are referred to.
    pub(crate) fn paths(&self) -> impl Iterator<Item = Node> + '_ {
        self.order.iter().copied().filter(|node| self.facts(*node).is_there)
    }

    /// Returns the paths of the cache that refer to a node. Looks at every reference.
    pub(crate) fn referrers(&self, of: Node) -> impl Iterator<Item = Node> + '_ {
        self.paths().filter(move |node| self.references(*node).contains(&of))
    }

    /// Calls `visit` for a node and everything that it refers to, directly or not, once each, until `visit` says that it
    /// has been there.
    pub(crate) fn visit_closure(&self, root: Node, mut visit: impl FnMut(Node) -> bool) {
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            if visit(node) {
                stack.extend(self.references(node));
            }
        }
    }
}

impl Facts {
    fn range(&self) -> std::ops::Range<usize> {
        self.first as usize..self.end as usize
    }
}

fn number(n: usize) -> u32 {
    u32::try_from(n).expect("a cache has fewer than 2^32 paths and references")
}

/// Returns a NAR's short name.
pub(crate) fn short_nar(hash: &Sha256) -> ShortId {
    short(&hash.0)
}

fn hash_of(text: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// Returns a path's name without its version, but with what follows that: `openssl-3.0.1-dev` gives `openssl-dev`. Reports by
/// package take all outputs together ([`firn_nix::StorePath::package`]); here each counts for itself, so that a rule keeps some of each.
///
/// A version begins at the first dash that a digit follows and ends before the next dash that a letter follows.
pub(crate) fn unversioned(name: &str) -> String {
    let dash_before = |from: usize, is_next: fn(&u8) -> bool| {
        let bytes = name.as_bytes();
        (from..bytes.len()).find(|at| bytes[*at] == b'-' && bytes.get(at + 1).is_some_and(is_next))
    };
    let Some(start) = dash_before(0, u8::is_ascii_digit) else { return name.to_owned() };
    let end = dash_before(start + 1, u8::is_ascii_alphabetic).unwrap_or(name.len());
    [&name[..start], &name[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_version_only() {
        let cases = [
            ("openssl-3.0.1", "openssl"),
            ("openssl-3.0.1-dev", "openssl-dev"),
            ("gcc-wrapper-12.3.0", "gcc-wrapper"),
            ("nixos-system-host-24.05.20240101.abcdef", "nixos-system-host"),
            ("source", "source"),
            ("a-", "a-"),
            ("7zip", "7zip"),
            ("x-1-2-3", "x"),
            ("python3.11-numpy-1.26.0", "python3.11-numpy"),
        ];
        for (name, expected) in cases {
            assert_eq!(unversioned(name), expected, "{name}");
        }
    }
}
