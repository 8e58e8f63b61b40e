//! Reading what is left of an index that is damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_index::{Error, Result, Sessions};
use rocksdb::{IteratorMode, ReadOptions};

use super::{FORMAT_VERSION, RocksMeta};
use crate::errors::failed;
use crate::keys::Family;
use crate::options::{self, MetaOptions};
use crate::{database, log_files};

/// What could not be read of a damaged index, by the name of the family.
#[derive(Default)]
pub(super) struct Losses(Mutex<BTreeMap<&'static str, Loss>>);

struct Loss {
    what: &'static str,
    /// The first key behind all damage, once it was looked for, if there is one.
    behind: Option<Option<Vec<u8>>>,
}

impl Losses {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Loss>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RocksMeta {
    /// Opens a database in `folder`/`meta` in which [`RocksMeta::open`] or [`RocksMeta::check`] found damage, to read what is left
    /// of it; changes nothing there.
    ///
    /// Single rows are as they were written, but the newest changes may be missing, and others from among those before.
    /// What can't be read is left out, and [`RocksMeta::losses`] tells of it. Whatever writes fails.
    ///
    /// # Errors
    /// [`Error::TooNew`] as when it is opened, any other if too much of it is damaged. The caller sees to it that no other
    /// process has it open.
    pub fn open_damaged(folder: &Path, options: &MetaOptions) -> Result<Self> {
        let cache = options::block_cache(options.cache_bytes);
        let names = Family::ALL.map(Family::name);
        let (database, family) = (options::meta_database(), options::meta_family(&cache));
        let db = database::open_damaged(&folder.join("meta"), FORMAT_VERSION, &database, &names, &family)?;
        let (writer, sessions) = (Mutex::new(()), Sessions::default());
        Ok(Self { db, cache, writer, sessions, losses: Some(Losses::default()) })
    }

    /// Reads everything once: opening does not tell of every damage.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if something is damaged.
    pub fn check(&self) -> Result<()> {
        Family::ALL.into_iter().try_for_each(|family| self.check_family(family))
    }

    fn check_family(&self, family: Family) -> Result<()> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        for entry in self.db.iterator_cf_opt(self.family(family), options, IteratorMode::Start) {
            entry.map_err(failed(format_args!("read {}", family.holds())))?;
        }
        Ok(())
    }

    /// Makes usage counters and reports begin anew in a database in `folder`/`meta` that does not open, if nothing else is damaged;
    /// returns whether it did. They are not worth a store that can't be used.
    ///
    /// # Errors
    /// If the database can't be written.
    pub fn renew_usage(folder: &Path, options: &MetaOptions) -> Result<bool> {
        if log_files::check(&folder.join("meta")).is_err() {
            return Ok(false);
        }
        let Ok(left) = Self::open_damaged(folder, options) else { return Ok(false) };
        let is_damaged = |family: &Family| left.check_family(*family).is_err();
        let damaged: Vec<Family> = Family::ALL.into_iter().filter(is_damaged).collect();
        let has_version = left.db.iterator(IteratorMode::Start).all(|entry| entry.is_ok());
        drop(left);
        if damaged != [Family::Usage] || !has_version {
            return Ok(false);
        }
        let family = options::meta_family(&options::block_cache(options.cache_bytes));
        let names = Family::ALL.map(Family::name);
        let (database, name) = (options::meta_database(), Family::Usage.name());
        database::drop_family(&folder.join("meta"), &database, &names, &family, name)?;
        Ok(true)
    }

    /// Returns what could not be read so far of a damaged index, whole or in part, in words.
    pub fn losses(&self) -> Vec<&'static str> {
        let mut losses: Vec<_> = self
            .losses
            .iter()
            .flat_map(|losses| losses.lock().values().map(|loss| loss.what).collect::<Vec<_>>())
            .collect();
        losses.sort_unstable();
        losses.dedup();
        losses
    }

    /// Returns what was read; of a damaged index `None` for what can't be read, which is noted.
    pub(super) fn unless_lost<T>(&self, family: Family, found: Result<T>) -> Result<Option<T>> {
        match (found, &self.losses) {
            (Err(error @ (Error::Corrupt { .. } | Error::Engine { .. })), Some(losses)) => {
                let what = family.holds();
                losses.lock().entry(family.name()).or_insert_with(|| {
                    tracing::warn!(%error, what, "the index is damaged, and this can't be read as a whole");
                    Loss { what, behind: None }
                });
                Ok(None)
            }
            (found, _) => found.map(Some),
        }
    }

    /// Returns the first key of a family behind all damage, if something was found damaged and there is one.
    pub(super) fn behind_damage(&self, family: Family) -> Option<Vec<u8>> {
        let mut losses = self.losses.as_ref()?.lock();
        let loss = losses.get_mut(family.name())?;
        let found = loss.behind.get_or_insert_with(|| {
            let from_the_end = self.db.iterator_cf(self.family(family), IteratorMode::End);
            from_the_end.map_while(std::result::Result::ok).last().map(|(key, _)| key.into_vec())
        });
        found.clone()
    }
}
