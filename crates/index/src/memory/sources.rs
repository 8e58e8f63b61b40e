use super::MemoryMeta;
use crate::{Result, SourceName, SourceRow, SourceStateRow, Sources};

/// A source, with all that is remembered of it.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    row: SourceRow,
    state: SourceStateRow,
    seen: Vec<u8>,
}

impl Sources for MemoryMeta {
    fn put_source(&self, name: &SourceName, row: &SourceRow) -> Result<()> {
        let fresh = || Kept { row: row.clone(), state: SourceStateRow::default(), seen: Vec::new() };
        self.lock().sources.entry(name.clone()).or_insert_with(fresh).row = row.clone();
        Ok(())
    }

    fn source(&self, name: &SourceName) -> Result<Option<SourceRow>> {
        Ok(self.lock().sources.get(name).map(|kept| kept.row.clone()))
    }

    fn sources(&self) -> Result<Vec<(SourceName, SourceRow)>> {
        Ok(self.lock().sources.iter().map(|(name, kept)| (name.clone(), kept.row.clone())).collect())
    }

    fn remove_source(&self, name: &SourceName) -> Result<bool> {
        Ok(self.lock().sources.remove(name).is_some())
    }

    fn put_source_state(&self, name: &SourceName, row: &SourceStateRow, seen: Option<&[u8]>) -> Result<bool> {
        let mut state = self.lock();
        let Some(kept) = state.sources.get_mut(name) else { return Ok(false) };
        kept.state = row.clone();
        if let Some(seen) = seen {
            kept.seen = seen.to_vec();
        }
        Ok(true)
    }

    fn source_state(&self, name: &SourceName) -> Result<SourceStateRow> {
        Ok(self.lock().sources.get(name).map(|kept| kept.state.clone()).unwrap_or_default())
    }

    fn source_seen(&self, name: &SourceName) -> Result<Vec<u8>> {
        Ok(self.lock().sources.get(name).map(|kept| kept.seen.clone()).unwrap_or_default())
    }
}
