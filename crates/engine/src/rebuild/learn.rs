//! What makes later uploads small, noted again of what a rebuilt index knows.

use firn_chunk::{Chunk, Chunker, Input};
use firn_index::{CacheName, NarRow};

use super::PAGE;
use crate::engine::Engine;
use crate::lineage::Lineage;
use crate::{Error, Result};

/// Bytes restored at a time.
const PIECE_BYTES: usize = 1 << 20;

impl Engine {
    /// Notes, of all NARs of all caches, what those who may read the cache can know: the chunk index forgot it. With
    /// `lineage` it restores all of them as well, to note which files later ones may be like. What is damaged is left out.
    /// What is lost of either costs bytes and nothing else.
    ///
    /// # Errors
    /// Those of storage and index.
    pub fn learn(&self, lineage: bool) -> Result<()> {
        for (cache, _) in self.meta().caches()? {
            let mut after = None;
            loop {
                let page = self.meta().nars(&cache, after, PAGE)?;
                for (_, row) in &page {
                    self.learn_nar(&cache, row, lineage)?;
                }
                match page.last() {
                    Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                    _ => break,
                }
            }
        }
        self.shared.packs.chunks.flush()?;
        Ok(())
    }

    fn learn_nar(&self, cache: &CacheName, row: &NarRow, lineage: bool) -> Result<()> {
        self.shared.note_committed(cache, None, &row.recipe, None);
        if !lineage {
            return Ok(());
        }
        match places(self, row) {
            Ok(places) => self.shared.note_lineage(&row.recipe, &places),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Returns the places in a NAR under which its chunks may be found.
fn places(engine: &Engine, row: &NarRow) -> Result<Vec<(firn_index::LineageKey, u32)>> {
    let (mut chunker, mut lineage) = (Chunker::new(Input::Nar), Lineage::default());
    let mut restore = engine.restore(&row.recipe, &row.slots, 0..u64::MAX)?;
    let mut pass = |chunk: Chunk<'_>| lineage.pass(chunk.origin, chunk.data.len() as u64);
    while let Some(piece) = restore.next(PIECE_BYTES)? {
        chunker.push(&piece, &mut pass).map_err(Error::from)?;
    }
    chunker.finish(&mut pass).map_err(Error::from)?;
    Ok(lineage.finish())
}
