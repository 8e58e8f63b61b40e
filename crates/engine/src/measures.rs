//! What the engine tells of itself while it works: its memories, the queue of commits, packs by state.

use std::sync::atomic::{AtomicU64, Ordering};

use firn_index::PackState;
use quick_cache::sync::Cache;

use crate::{Engine, Result};

/// Rows of packs that are read at a time.
const PAGE: usize = 1024;

/// What a memory of the most used things holds, and how it served since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// What is in it: `frames`, `recipes`, `listings` or `transport-sizes`.
    pub name: &'static str,
    /// How many.
    pub entries: u64,
    /// Their bytes; `None` where entries are counted instead.
    pub bytes: Option<u64>,
    /// How many bytes, or entries, it holds at most.
    pub limit: u64,
    /// Questions that it answered.
    pub hits: u64,
    /// Questions that it did not.
    pub misses: u64,
}

impl MemoryUse {
    /// Returns what a memory tells of itself; its weights are bytes if it `has_bytes`.
    pub fn of<K, V, W, B, L>(name: &'static str, memory: &Cache<K, V, W, B, L>, has_bytes: bool) -> Self
    where
        K: Eq + std::hash::Hash,
        V: Clone,
        W: quick_cache::Weighter<K, V> + Clone,
        B: std::hash::BuildHasher + Clone,
        L: quick_cache::Lifecycle<K, V> + Clone,
    {
        Self {
            name,
            entries: memory.len() as u64,
            bytes: has_bytes.then(|| memory.weight()),
            limit: memory.capacity(),
            hits: memory.hits(),
            misses: memory.misses(),
        }
    }
}

/// What the committing thread does.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    waiting: AtomicU64,
    groups: AtomicU64,
    changes: AtomicU64,
}

impl Commits {
    /// Notes that so many changes wait.
    pub(crate) fn begin(&self, changes: u64) {
        self.waiting.fetch_add(changes, Ordering::Relaxed);
    }

    /// Notes that so many changes wait no more.
    pub(crate) fn end(&self, changes: u64) {
        self.waiting.fetch_sub(changes, Ordering::Relaxed);
    }

    /// Notes that a group was committed, or failed.
    pub(crate) fn group(&self, changes: u64) {
        self.groups.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(changes, Ordering::Relaxed);
    }
}

/// The queue of commits, since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitQueue {
    /// Changes that somebody waits for now.
    pub waiting: u64,
    /// Groups that were committed, each with one wait for the disk.
    pub groups: u64,
    /// Changes in these.
    pub changes: u64,
}

/// How many packs are in one state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacksOfState {
    /// The state.
    pub state: PackState,
    /// How many.
    pub packs: u64,
    /// Their bytes; of packs that are being written, what is durable.
    pub stored_bytes: u64,
}

impl Engine {
    /// Returns what the engine's memories hold.
    pub fn memories(&self) -> [MemoryUse; 4] {
        let shared = &self.shared;
        [
            shared.frames.memory_use(),
            shared.recipes.memory_use(),
            shared.listings_use(),
            shared.transport_sizes.memory_use(),
        ]
    }

    /// Returns how the queue of commits is.
    pub fn commit_queue(&self) -> CommitQueue {
        let commits = &self.shared.commits;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CommitQueue { waiting: of(&commits.waiting), groups: of(&commits.groups), changes: of(&commits.changes) }
    }

    /// Counts packs by state; reads all their rows.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn packs_by_state(&self) -> Result<[PacksOfState; 4]> {
        let of = |state| PacksOfState { state, packs: 0, stored_bytes: 0 };
        let mut found = [PackState::Writing, PackState::Live, PackState::Condemned, PackState::Doomed].map(of);
        let mut after = None;
        loop {
            let page = self.meta().packs(after, PAGE)?;
            for (_, row) in &page {
                if let Some(sum) = found.iter_mut().find(|sum| sum.state == row.state) {
                    sum.packs += 1;
                    sum.stored_bytes += row.stored_bytes.max(row.durable_bytes);
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => return Ok(found),
            }
        }
    }
}
