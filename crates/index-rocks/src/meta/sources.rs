//! Sources: settings, and what is remembered of each.

use firn_index::{Result, SourceName, SourceRow, SourceStateRow, Sources};

use super::RocksMeta;
use super::reads::{listed, text};
use crate::errors::corrupt_key;
use crate::keys::{self, Family, SourcePart};
use crate::staged::Staged;

impl Sources for RocksMeta {
    fn put_source(&self, name: &SourceName, row: &SourceRow) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        staged.put(Family::Source, &keys::source(SourcePart::Row, name), row);
        staged.write()
    }

    fn source(&self, name: &SourceName) -> Result<Option<SourceRow>> {
        self.row(Family::Source, &keys::source(SourcePart::Row, name), format_args!("source '{name}'"))
    }

    fn sources(&self) -> Result<Vec<(SourceName, SourceRow)>> {
        let (from, to) = keys::source_rows();
        self.page(Family::Source, &from, Some(to), usize::MAX, |key, value| {
            let name = key.get(1..).unwrap_or_default();
            let name = text(name, Family::Source)?.parse::<SourceName>();
            let name = name.map_err(|_| corrupt_key(Family::Source.name(), key))?;
            let row = listed(value, format_args!("source '{name}'"))?;
            Ok((name, row))
        })
    }

    fn remove_source(&self, name: &SourceName) -> Result<bool> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        let there = self.source(name)?.is_some();
        for part in SourcePart::ALL {
            staged.delete(Family::Source, &keys::source(part, name));
        }
        staged.write()?;
        Ok(there)
    }

    fn put_source_state(&self, name: &SourceName, row: &SourceStateRow, seen: Option<&[u8]>) -> Result<bool> {
        let _writer = self.lock();
        if self.source(name)?.is_none() {
            return Ok(false);
        }
        let mut staged = Staged::new(self);
        staged.put(Family::Source, &keys::source(SourcePart::State, name), row);
        if let Some(seen) = seen {
            staged.put_bytes(Family::Source, &keys::source(SourcePart::Seen, name), seen);
        }
        staged.write()?;
        Ok(true)
    }

    fn source_state(&self, name: &SourceName) -> Result<SourceStateRow> {
        let key = keys::source(SourcePart::State, name);
        Ok(self.row(Family::Source, &key, format_args!("source '{name}'"))?.unwrap_or_default())
    }

    fn source_seen(&self, name: &SourceName) -> Result<Vec<u8>> {
        let key = keys::source(SourcePart::Seen, name);
        let bytes = self.bytes(Family::Source, &key, format_args!("the names seen of source '{name}'"))?;
        Ok(bytes.map(|bytes| bytes.to_vec()).unwrap_or_default())
    }
}
