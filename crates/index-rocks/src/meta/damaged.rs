//! Reading what is left of an index that is damaged.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_index::{Error, Result, Sessions};
use rocksdb::{IteratorMode, ReadOptions};

use super::{FORMAT_VERSION, RocksMeta};
use crate::database;
use crate::errors::failed;
use crate::keys::Family;
use crate::options::{self, MetaOptions};

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
        for family in Family::ALL {
            let mut options = ReadOptions::default();
            options.fill_cache(false);
            for entry in self.db.iterator_cf_opt(self.family(family), options, IteratorMode::Start) {
                entry.map_err(failed(format_args!("read {}", family.holds())))?;
            }
        }
        Ok(())
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
