//! What packs hold beside chunks, so that a store can be rebuilt from its packs alone.

use firn_index::{AliasRow, CacheName, DocumentKey, DocumentRow, NarRow, PathRow, Row};
use firn_nix::Sha256;
use firn_pack::{Frame, FrameEncoder, FrameKind};

use crate::placement::Placement;
use crate::{Error, Result};

/// The zstd level of records: they are few and small.
const LEVEL: i32 = 9;

/// One item of a record frame. `docs/FORMAT.md` lists the encodings.
pub(crate) enum Record<'a> {
    Nar(&'a CacheName, &'a Sha256, &'a NarRow),
    Alias(&'a CacheName, &'a str, &'a AliasRow),
    Path(&'a CacheName, &'a PathRow),
    Document(&'a CacheName, &'a DocumentKey, &'a DocumentRow),
}

impl Record<'_> {
    /// Returns the record's bytes: kind, cache, key, then the row as the index encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let (kind, cache, key, row) = match self {
            Self::Nar(cache, hash, row) => (1, cache, hash.0.to_vec(), row.encode()),
            Self::Alias(cache, name, row) => (2, cache, name.as_bytes().to_vec(), row.encode()),
            Self::Path(cache, row) => (3, cache, Vec::new(), row.encode()),
            Self::Document(cache, key, row) => {
                let name = [&[key.kind as u8], key.name.as_bytes()].concat();
                (4, cache, name, row.encode())
            }
        };
        let cache = cache.as_str().as_bytes();
        let mut out = Vec::with_capacity(4 + cache.len() + key.len() + row.len());
        out.push(kind);
        out.push(u8::try_from(cache.len()).expect("a cache's name has at most 64 bytes"));
        out.extend_from_slice(cache);
        out.extend_from_slice(&u16::try_from(key.len()).expect("a key has at most a few hundred bytes").to_le_bytes());
        out.extend_from_slice(&key);
        out.extend_from_slice(&row);
        out
    }
}

/// Makes the frames of records and recipes.
pub(crate) struct RecordEncoder(FrameEncoder);

impl RecordEncoder {
    pub(crate) fn new() -> Result<Self> {
        FrameEncoder::new().map(Self).map_err(|error| Error::Internal(error.to_string()))
    }

    /// Returns the frame of a recipe: the recipe itself, then its placement.
    pub(crate) fn recipe(&mut self, encoded: &[u8], placement: &Placement) -> Result<Frame> {
        self.frame(FrameKind::Recipe, &[encoded, &placement.encode()])
    }

    /// Returns one frame with all the records.
    pub(crate) fn records(&mut self, records: &[Vec<u8>]) -> Result<Frame> {
        let items: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        self.frame(FrameKind::Record, &items)
    }

    fn frame(&mut self, kind: FrameKind, items: &[&[u8]]) -> Result<Frame> {
        let data = items.concat();
        let lens: Vec<u32> = items.iter().map(|item| u32::try_from(item.len()).unwrap_or(u32::MAX)).collect();
        let ids: Vec<[u8; 32]> = items.iter().map(|item| firn_pack::item_id(item)).collect();
        self.0.encode(kind, &data, &lens, &ids, LEVEL).map_err(|error| Error::Internal(error.to_string()))
    }
}
