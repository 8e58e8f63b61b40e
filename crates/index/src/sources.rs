use crate::{Result, SourceName, SourceRow, SourceStateRow};

/// What is known of sources; a part of [`crate::Meta`]. Every write is durable when it returns, and all-or-nothing.
pub trait Sources {
    /// Writes a source's settings.
    fn put_source(&self, name: &SourceName, row: &SourceRow) -> Result<()>;
    /// Returns a source's settings.
    fn source(&self, name: &SourceName) -> Result<Option<SourceRow>>;
    /// Returns all sources in order of their names.
    fn sources(&self) -> Result<Vec<(SourceName, SourceRow)>>;
    /// Removes a source with all that is remembered of it; returns whether there was one.
    fn remove_source(&self, name: &SourceName) -> Result<bool>;
    /// Writes what is remembered of a source that exists, and the names that were seen, if there are any to write; returns
    /// whether it exists.
    fn put_source_state(&self, name: &SourceName, row: &SourceStateRow, seen: Option<&[u8]>) -> Result<bool>;
    /// Returns what is remembered of a source: nothing, if it was never written.
    fn source_state(&self, name: &SourceName) -> Result<SourceStateRow>;
    /// Returns the names that were seen, as they were written last; empty if none were.
    fn source_seen(&self, name: &SourceName) -> Result<Vec<u8>>;
}
