//! Reading what is left of an index that does not open.

use std::path::Path;
use std::sync::Mutex;

use firn_index::{Result, Sessions};

use super::{FORMAT_VERSION, RocksMeta};
use crate::database;
use crate::keys::Family;
use crate::options::{self, MetaOptions};

impl RocksMeta {
    /// Opens a database in `folder`/`meta` that [`RocksMeta::open`] calls corrupt, to read what is left of it; changes nothing there.
    ///
    /// Single rows are as they were written, but the newest changes may be missing, and others from among those before.
    /// Whatever writes fails.
    ///
    /// # Errors
    /// [`firn_index::Error::TooNew`] as when it is opened, any other if too much of it is damaged. The caller sees to it that no other process has it
    /// open.
    pub fn open_damaged(folder: &Path, options: &MetaOptions) -> Result<Self> {
        let cache = options::block_cache(options.cache_bytes);
        let names = Family::ALL.map(Family::name);
        let (database, family) = (options::meta_database(), options::meta_family(&cache));
        let db = database::open_damaged(&folder.join("meta"), FORMAT_VERSION, &database, &names, &family)?;
        Ok(Self { db, cache, writer: Mutex::new(()), sessions: Sessions::default() })
    }
}
