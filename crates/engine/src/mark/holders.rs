//! Who holds recipes, and the names by which they are grouped.

use std::collections::HashMap;

use firn_index::{CacheName, UnixSeconds};
use firn_nix::StoreHash;

/// What kind of row holds a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HolderKind {
    /// A path.
    Path,
    /// A NAR that no path of its cache names, kept by its lease.
    Nar,
    /// A log or another document that is not in its row.
    Document,
}

/// A row that holds a recipe: a path, mostly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// What kind of row.
    pub kind: HolderKind,
    /// The store hash of a path; zero for the others.
    pub hash: StoreHash,
    /// Number of its cache in [`Names::caches`].
    pub cache: u16,
    /// Number of its builder in [`Names::builders`].
    pub builder: u32,
    /// Number of its package in [`Names::packages`].
    pub package: u32,
    /// Its length.
    pub bytes: u64,
    /// When it became visible, or was uploaded.
    pub at: UnixSeconds,
    /// Until when a NAR without a path is kept; 0 for the others.
    pub lease_until: UnixSeconds,
    pub(super) recipe: u32,
}

/// A recipe that the pass did not find.
pub(super) const NO_RECIPE: u32 = u32::MAX;

impl Holder {
    /// Returns the number of its recipe, if the pass found that.
    pub(crate) fn recipe(&self) -> Option<usize> {
        (self.recipe != NO_RECIPE).then_some(self.recipe as usize)
    }
}

/// The names that [`Holder`]s refer to by number.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Caches, in their order.
    pub caches: Vec<CacheName>,
    /// Builders: who uploaded. The first stands for what nobody is known of.
    pub builders: Vec<String>,
    /// Packages: names of paths without versions. The first stands for what is no path.
    pub packages: Vec<String>,
}

impl Names {
    /// Returns a cache's number.
    pub fn cache_number(&self, cache: &CacheName) -> Option<u16> {
        self.caches.binary_search(cache).ok().and_then(|number| u16::try_from(number).ok())
    }
}

/// Gives names numbers, in the order in which they come.
#[derive(Default)]
pub(super) struct Numbering {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Numbering {
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
        self.names.push(name.to_owned());
        self.numbers.insert(name.to_owned(), number);
        number
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }
}
