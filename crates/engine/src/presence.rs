//! Whether the packs' storage is there, and is this store's.
//!
//! A file system that is not mounted looks like one without files. So the storage holds an object that names its store,
//! and packs count as gone only while that is there: what merely can't be seen must not be taken for damage, which would
//! be noted, and its paths answer as missing until they are uploaded again.

use std::io;
use std::sync::atomic::Ordering;

use firn_index::{PackState, StoreInfo};
use firn_pack::{Footer, PackId};
use firn_storage::Error as Fault;

use crate::packs::{PACKS, Packs, object_name};
use crate::{Error, Result};

/// The object that names the store to which a storage belongs: its id in 32 hexadecimal digits and a line feed.
const NAME: &str = "store";

/// Rows read at a time.
const PAGE: usize = 256;

impl Packs {
    /// Returns the length of a pack's object, or `None` if it has none and the storage is there.
    ///
    /// # Errors
    /// Those of the storage, also when it is not there as a whole.
    pub(crate) fn len_of(&self, pack: PackId) -> Result<Option<u64>> {
        match self.storage.len(&object_name(pack)) {
            Ok(len) => Ok(Some(len)),
            Err(Fault::NotFound { .. }) if self.is_there() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns a pack's footer, or `None` if it has no object.
    ///
    /// # Errors
    /// [`Error::Damaged`] when there is no footer or it does not decode; [`Error::Storage`] when it can't be read.
    pub(crate) fn footer(&self, pack: PackId) -> Result<Option<Footer>> {
        let Some(len) = self.len_of(pack)? else { return Ok(None) };
        let name = object_name(pack);
        let read = |offset, len| self.storage.read(&name, offset, len).map_err(io::Error::other);
        match Footer::open(read, len) {
            Ok(footer) => Ok(Some(footer)),
            Err(firn_pack::Error::Read { source, .. }) => match source.downcast::<Fault>() {
                // It was deleted since its length was asked for.
                Ok(Fault::NotFound { .. }) if self.is_there() => Ok(None),
                Ok(fault) => Err(self.fault(format!("the footer of pack {pack}"), fault)),
                Err(error) => Err(Error::Internal(format!("read the footer of pack {pack}: {error}"))),
            },
            Err(error) => Err(Error::damaged(format!("the footer of pack {pack}"), error)),
        }
    }

    /// Checks that the storage is there. One that could not be named for want of room is taken to be.
    ///
    /// # Errors
    /// Those of the storage when it is not.
    pub(crate) fn check_there(&self) -> Result<()> {
        match self.storage.len(NAME) {
            Err(error) if self.is_named.load(Ordering::SeqCst) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns what it means that bytes of a pack were not read: damage if they are gone from a storage that is there.
    pub(crate) fn fault(&self, what: impl ToString, error: Fault) -> Error {
        match error {
            Fault::NotFound { .. } if !self.is_there() => error.into(),
            Fault::NotFound { .. } | Fault::Short { .. } => Error::damaged(what, error),
            other => other.into(),
        }
    }

    fn is_there(&self) -> bool {
        self.check_there().is_ok()
    }

    /// Checks that the storage is that of the index, and names it if it is not named yet, as those of firn 0.1 are not.
    ///
    /// # Errors
    /// [`Error::Unusable`] if it is another store's, or has none of the packs that the index knows.
    pub(crate) fn check_storage(&self, info: &StoreInfo) -> Result<()> {
        match self.storage_id()? {
            Some(id) if id == info.store_id => {}
            Some(id) => {
                return Err(Error::Unusable(format!(
                    "its packs are those of store {id:032x}, and its index is that of store {:032x}: put back what \
                     belongs together, or have the index made from the packs (`firnd rebuild-index --without-old`)",
                    info.store_id
                )));
            }
            None => {
                self.check_some_pack()?;
                return self.name_storage(info.store_id);
            }
        }
        self.is_named.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Writes to the storage which store's it is. One without room stays unnamed until it is opened again.
    pub(crate) fn name_storage(&self, id: u128) -> Result<()> {
        match self.storage.put(NAME, format!("{id:032x}\n").as_bytes()) {
            Ok(()) | Err(Fault::AlreadyExists { .. }) => self.is_named.store(true, Ordering::SeqCst),
            Err(Fault::Full { .. }) => tracing::warn!("no room to note in the storage which store it belongs to"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Returns the id of the store to which the storage belongs, if it is named.
    ///
    /// # Errors
    /// [`Error::Unusable`] if the name is none.
    pub(crate) fn storage_id(&self) -> Result<Option<u128>> {
        let bytes = match self.storage.read(NAME, 0, 33) {
            Ok(bytes) => bytes,
            Err(Fault::NotFound { .. }) => return Ok(None),
            Err(Fault::Short { .. }) => return Err(Self::bad_name()),
            Err(error) => return Err(error.into()),
        };
        let hex = std::str::from_utf8(&bytes).ok().and_then(|text| text.strip_suffix('\n'));
        let id = hex.and_then(|hex| u128::from_str_radix(hex, 16).ok());
        id.map(Some).ok_or_else(Self::bad_name)
    }

    fn bad_name() -> Error {
        Error::Unusable(format!(
            "the object '{NAME}' beside its packs, which names the store, is damaged: delete it, and the next start \
             writes it again"
        ))
    }

    /// Returns whether the storage has an object where packs lie.
    pub(crate) fn has_objects(&self) -> Result<bool> {
        Ok(!self.storage.list(PACKS, None, 1)?.is_empty())
    }

    /// Checks that of the packs that the index knows at least one is there, if it knows any.
    fn check_some_pack(&self) -> Result<()> {
        let (mut after, mut gone) = (None, 0u64);
        loop {
            let page = self.meta.packs(after, PAGE)?;
            for (pack, row) in &page {
                if row.durable_bytes == 0 && row.state == PackState::Writing {
                    continue;
                }
                match self.storage.len(&object_name(*pack)) {
                    Ok(_) => return Ok(()),
                    Err(Fault::NotFound { .. }) => gone += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ if gone == 0 => return Ok(()),
                _ => {
                    return Err(Error::Unusable(format!(
                        "none of the {gone} packs that its index knows is there: is the file system mounted that holds \
                         them? If they are lost, `firnd rebuild-index --without-old` makes the index of what is left"
                    )));
                }
            }
        }
    }
}
