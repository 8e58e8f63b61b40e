//! Rows and pages of rows, read and checked.

use std::fmt::Display;

use firn_index::{CacheName, Error, Result, Row};
use rocksdb::{DBPinnableSlice, Direction, IteratorMode, ReadOptions};

use super::RocksMeta;
use crate::errors::{corrupt_key, failed};
use crate::keys::{self, Family};

impl RocksMeta {
    /// Returns a value's bytes; `what` says which in errors.
    pub(crate) fn bytes(&self, family: Family, key: &[u8], what: impl Display) -> Result<Option<DBPinnableSlice<'_>>> {
        let found = self.db.get_pinned_cf(self.family(family), key).map_err(failed(format_args!("read {what}")));
        Ok(self.unless_lost(family, found)?.flatten())
    }

    /// Returns a row; `what` says of what in errors.
    pub(crate) fn row<R: Row>(&self, family: Family, key: &[u8], what: impl Display) -> Result<Option<R>> {
        let Some(bytes) = self.bytes(family, key, &what)? else { return Ok(None) };
        self.unless_lost(family, R::decode(&bytes).map_err(|error| Error::corrupt_row(what, &error)))
    }

    /// Calls `visit` with the entries from key `from` up to before key `to`, until it returns `false`. Of a damaged index, those
    /// behind the damage come too, as far as they can be read.
    pub(crate) fn scan(
        &self,
        family: Family,
        from: &[u8],
        to: Option<Vec<u8>>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut from = from.to_vec();
        loop {
            let mut options = ReadOptions::default();
            if let Some(to) = &to {
                options.set_iterate_upper_bound(to.clone());
            }
            let mode = IteratorMode::From(&from, Direction::Forward);
            let (mut last, mut is_lost) = (None, false);
            for entry in self.db.iterator_cf_opt(self.family(family), options, mode) {
                let entry = entry.map_err(failed(format_args!("list '{}'", family.name())));
                let Some((key, value)) = self.unless_lost(family, entry)? else {
                    is_lost = true;
                    break;
                };
                if !visit(&key, &value)? {
                    return Ok(());
                }
                last = Some(key);
            }
            let reached = last.map_or(from, |key| keys::after(&key));
            match self.behind_damage(family) {
                Some(key) if is_lost && key > reached => from = key,
                _ => return Ok(()),
            }
        }
    }

    /// Returns up to `limit` entries from key `from` up to before key `to`, each as `read` makes it.
    pub(super) fn page<T>(
        &self,
        family: Family,
        from: &[u8],
        to: Option<Vec<u8>>,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut page = Vec::new();
        if limit > 0 {
            self.scan(family, from, to, |key, value| {
                page.extend(self.unless_lost(family, read(key, value))?);
                Ok(page.len() < limit)
            })?;
        }
        Ok(page)
    }

    /// Returns a number; `what` says which in errors.
    pub(super) fn number(&self, family: Family, key: &[u8], what: impl Display) -> Result<Option<u64>> {
        let Some(bytes) = self.bytes(family, key, &what)? else { return Ok(None) };
        self.unless_lost(family, number(&bytes, what))
    }

    /// Returns up to `limit` rows of a cache from behind `after`, each as `read` makes it of what follows the cache in
    /// its key and of its value.
    pub(super) fn page_of_cache<T>(
        &self,
        family: Family,
        cache: &CacheName,
        after: Option<&[u8]>,
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Result<T>,
    ) -> Result<Vec<T>> {
        let (first, to) = keys::cache_range(cache);
        let from = after.map_or(first, |after| keys::after(&keys::of_cache(cache, after)));
        self.page(family, &from, Some(to), limit, |key, value| {
            read(keys::in_cache(cache, key).unwrap_or_default(), value)
        })
    }
}

/// Reads a row of a page.
pub(super) fn listed<R: Row>(bytes: &[u8], what: impl Display) -> Result<R> {
    R::decode(bytes).map_err(|error| Error::corrupt_row(what, &error))
}

/// Reads an id from a key or a value of a family.
pub(super) fn id<const N: usize>(bytes: &[u8], family: Family) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| corrupt_key(family.name(), bytes))
}

/// Reads a number; `what` says which in errors.
pub(super) fn number(bytes: &[u8], what: impl Display) -> Result<u64> {
    let corrupt = |_| Error::Corrupt { what: what.to_string(), detail: "it has not 8 bytes".to_owned() };
    bytes.try_into().map(u64::from_le_bytes).map_err(corrupt)
}

/// Reads a text from a key of a family.
pub(super) fn text(bytes: &[u8], family: Family) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| corrupt_key(family.name(), bytes))
}
