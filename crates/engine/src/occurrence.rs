//! What of a path's claimed references stands in its NAR.

use std::collections::HashSet;

use aho_corasick::AhoCorasick;
use firn_index::{CacheName, ReferencePolicy};
use firn_nix::{StoreHash, StorePath};

use crate::commit::PathUpload;
use crate::engine::Engine;
use crate::restore::Restore;
use crate::{Error, Result};

/// How much of a NAR is searched at a time.
const SCAN_BYTES: usize = 1 << 20;

/// How many references are looked for in one pass: what looks for them takes some KiB for each.
const AT_ONCE: usize = 2000;

impl Engine {
    /// Checks that every claimed reference occurs in the NAR, if the cache has it, where the cache demands that.
    pub(crate) fn check_content(&self, cache: &CacheName, upload: &mut PathUpload) -> Result<()> {
        upload.named = Vec::new();
        if upload.references_policy != ReferencePolicy::Strict {
            return Ok(());
        }
        let Some(nar) = self.meta().nar(cache, &upload.nar_hash)? else { return Ok(()) };
        let restore = || self.restore(&nar.recipe, &nar.slots, 0..u64::MAX);
        self.check_restored(cache, upload, &nar.slots, restore)
    }

    /// Checks that every claimed reference occurs in a NAR; notes which of those that the path lacks so far are named there.
    pub(crate) fn check_restored(
        &self,
        cache: &CacheName,
        upload: &mut PathUpload,
        slots: &[StoreHash],
        restore: impl Fn() -> Result<Restore>,
    ) -> Result<()> {
        let hashes = upload.references.iter().filter(|reference| !slots.contains(&reference.hash()));
        let hashes = hashes.map(|reference| (reference, reference.hash().to_ascii().to_vec())).collect();
        let absent = absent(hashes, &restore)?;
        if !absent.is_empty() {
            return Err(Error::ForeignReferences(absent.into_iter().cloned().collect()));
        }
        let existing = self.meta().path(cache, &upload.path.hash())?;
        let mut added = existing.map(|row| upload.adds_to(&row)).unwrap_or_default();
        let names = added.iter().map(|reference| (reference, reference.base_name().into_bytes())).collect();
        let unnamed: HashSet<StorePath> = self::absent(names, &restore)?.into_iter().cloned().collect();
        added.retain(|reference| !unnamed.contains(reference));
        upload.named = added;
        Ok(())
    }
}

/// Returns those of some paths whose bytes occur nowhere in a NAR, which is read only if there are any: once for each [`AT_ONCE`].
fn absent(wanted: Vec<(&StorePath, Vec<u8>)>, restore: impl Fn() -> Result<Restore>) -> Result<Vec<&StorePath>> {
    let mut absent = Vec::new();
    for some in wanted.chunks(AT_ONCE) {
        let is_found = find(some.iter().map(|(_, bytes)| bytes.as_slice()), restore()?)?;
        absent.extend(some.iter().zip(is_found).filter(|(_, is_found)| !is_found).map(|((path, _), _)| *path));
    }
    Ok(absent)
}

/// Returns of each pattern whether it occurs in a NAR, which is read until all were found. Its cost hardly depends on how many
/// they are (Aho and Corasick, Efficient string matching, 1975).
fn find<'a>(patterns: impl Iterator<Item = &'a [u8]> + Clone, mut restore: Restore) -> Result<Vec<bool>> {
    let mut is_found: Vec<bool> = patterns.clone().map(|_| false).collect();
    let mut left = is_found.len();
    let longest = patterns.clone().map(<[u8]>::len).max().unwrap_or(0);
    let searcher =
        AhoCorasick::new(patterns).map_err(|error| Error::Internal(format!("look for references: {error}")))?;
    let mut window: Vec<u8> = Vec::new();
    while left > 0
        && let Some(piece) = restore.next(SCAN_BYTES)?
    {
        // What is wanted may lie across two pieces.
        window.drain(..window.len().saturating_sub(longest.saturating_sub(1)));
        window.extend_from_slice(&piece);
        for found in searcher.find_overlapping_iter(&window) {
            left -= usize::from(!std::mem::replace(&mut is_found[found.pattern()], true));
        }
    }
    Ok(is_found)
}
