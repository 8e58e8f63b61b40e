//! What packs hold beside chunks, so that a store can be rebuilt from its packs alone.

use firn_chunk::BareRecipe;
use firn_index::{AliasRow, CacheName, DocumentKey, DocumentKind, DocumentRow, NarRow, PathRow, Row, RowError};
use firn_nix::{Sha256, StoreHash};
use firn_pack::{Chain, DecodedFrame, Frame, FrameEncoder, FrameKind};

use crate::placement::{self, Placement};
use crate::{Error, Result};

/// The zstd level of records: they are few and small.
const LEVEL: i32 = 9;

/// One item of a record frame. `docs/FORMAT.md` lists the encodings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record {
    Nar(CacheName, Sha256, NarRow),
    Alias(CacheName, String, AliasRow),
    Path(CacheName, PathRow),
    Document(CacheName, DocumentKey, DocumentRow),
    /// The number of the records behind it, up to the next one: among records of one key, that with the greatest number
    /// counts, and among those of one number the last. Every frame begins with one; in older ones the number is 0.
    Order(u64),
    PathGone(CacheName, StoreHash),
    NarGone(CacheName, Sha256),
    DocumentGone(CacheName, DocumentKey),
    /// Everything of the cache that was written before is gone.
    CacheGone(CacheName),
}

/// The version of the rows of records that have none in the index.
const ROW_VERSION: u8 = 1;

/// Begins an item that holds several records, each behind its length: kind 10, no cache, no key, version 1.
const GROUP: [u8; 5] = [10, 0, 0, 0, ROW_VERSION];

/// A record as it was read.
pub(crate) struct Numbered {
    /// The number of its frame, or that which an [order](Record::Order) before it gave.
    pub(crate) order: u64,
    /// Its length in bytes.
    pub(crate) bytes: usize,
    pub(crate) record: Record,
}

/// Returns all records of a frame but for the orders.
///
/// # Errors
/// What is wrong with the first one that does not decode.
pub(crate) fn records_of(frame: &DecodedFrame) -> std::result::Result<Vec<Numbered>, String> {
    let (mut order, mut records) = (0, Vec::new());
    let mut add = |item: &[u8]| -> std::result::Result<(), String> {
        match Record::decode(item)? {
            Record::Order(number) => order = number,
            record => records.push(Numbered { order, bytes: item.len(), record }),
        }
        Ok(())
    };
    for item in frame.items() {
        match item.strip_prefix(&GROUP) {
            Some(group) => members(group)?.into_iter().try_for_each(&mut add)?,
            None => add(item)?,
        }
    }
    Ok(records)
}

fn members(mut group: &[u8]) -> std::result::Result<Vec<&[u8]>, String> {
    let mut members = Vec::new();
    while !group.is_empty() {
        let len = placement::take(&mut group).and_then(|len| usize::try_from(len).ok());
        let member = len.and_then(|len| group.split_at_checked(len));
        let (member, rest) = member.ok_or_else(|| "a group of records ends early".to_owned())?;
        members.push(member);
        group = rest;
    }
    Ok(members)
}

impl Record {
    /// Returns the cache that it is about.
    pub(crate) fn cache(&self) -> Option<&CacheName> {
        match self {
            Self::Nar(cache, ..)
            | Self::Alias(cache, ..)
            | Self::Path(cache, _)
            | Self::Document(cache, ..)
            | Self::PathGone(cache, _)
            | Self::NarGone(cache, _)
            | Self::DocumentGone(cache, _)
            | Self::CacheGone(cache) => Some(cache),
            Self::Order(_) => None,
        }
    }

    /// Returns the record's bytes: kind, cache, key, then the row as the index encodes it.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let empty = vec![ROW_VERSION];
        let (kind, cache, key, row) = match self {
            Self::Nar(cache, hash, row) => (1, cache.as_str(), hash.0.to_vec(), row.encode()),
            Self::Alias(cache, name, row) => (2, cache.as_str(), name.as_bytes().to_vec(), row.encode()),
            Self::Path(cache, row) => (3, cache.as_str(), Vec::new(), row.encode()),
            Self::Document(cache, key, row) => (4, cache.as_str(), document_key(key), row.encode()),
            Self::Order(number) => (5, "", Vec::new(), [&empty[..], &number.to_le_bytes()].concat()),
            Self::PathGone(cache, hash) => (6, cache.as_str(), hash.0.to_vec(), empty),
            Self::NarGone(cache, hash) => (7, cache.as_str(), hash.0.to_vec(), empty),
            Self::DocumentGone(cache, key) => (8, cache.as_str(), document_key(key), empty),
            Self::CacheGone(cache) => (9, cache.as_str(), Vec::new(), empty),
        };
        let mut out = Vec::with_capacity(4 + cache.len() + key.len() + row.len());
        out.push(kind);
        out.push(u8::try_from(cache.len()).expect("a cache's name has at most 64 bytes"));
        out.extend_from_slice(cache.as_bytes());
        out.extend_from_slice(&u16::try_from(key.len()).expect("a key has at most a few hundred bytes").to_le_bytes());
        out.extend_from_slice(&key);
        out.extend_from_slice(&row);
        out
    }

    /// Reads a record; the error says what is wrong with it.
    pub(crate) fn decode(bytes: &[u8]) -> std::result::Result<Self, String> {
        let cut = || "it ends early".to_owned();
        let (&[kind, cache_len], rest) = bytes.split_first_chunk::<2>().ok_or_else(cut)?;
        let (cache, rest) = rest.split_at_checked(cache_len.into()).ok_or_else(cut)?;
        let (key_len, rest) = rest.split_first_chunk::<2>().ok_or_else(cut)?;
        let (key, row) = rest.split_at_checked(u16::from_le_bytes(*key_len).into()).ok_or_else(cut)?;
        if kind == 5 {
            let number = row.strip_prefix(&[ROW_VERSION]).and_then(|number| number.try_into().ok());
            let number = number.filter(|_| cache.is_empty() && key.is_empty());
            return number.map(u64::from_le_bytes).map(Self::Order).ok_or_else(|| "its number is none".to_owned());
        }
        let cache: CacheName = text(cache)?.parse()?;
        let bad_key = |_| format!("its key has {} bytes", key.len());
        let told = |error: RowError| error.to_string();
        let gone = |record: Self| {
            if row == [ROW_VERSION] { Ok(record) } else { Err("it has a row, and should have none".to_owned()) }
        };
        match kind {
            1 => Ok(Self::Nar(cache, Sha256(key.try_into().map_err(bad_key)?), NarRow::decode(row).map_err(told)?)),
            2 => Ok(Self::Alias(cache, text(key)?.to_owned(), AliasRow::decode(row).map_err(told)?)),
            3 if key.is_empty() => Ok(Self::Path(cache, PathRow::decode(row).map_err(told)?)),
            4 => Ok(Self::Document(cache, document_of(key)?, DocumentRow::decode(row).map_err(told)?)),
            6 => gone(Self::PathGone(cache, StoreHash(key.try_into().map_err(bad_key)?))),
            7 => gone(Self::NarGone(cache, Sha256(key.try_into().map_err(bad_key)?))),
            8 => gone(Self::DocumentGone(cache, document_of(key)?)),
            9 if key.is_empty() => gone(Self::CacheGone(cache)),
            3 | 9 => Err("it has a key, and should have none".to_owned()),
            _ => Err(format!("its kind {kind} is unknown: a newer firn may have written it")),
        }
    }
}

fn text(bytes: &[u8]) -> std::result::Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "a name in it is no text".to_owned())
}

fn document_key(key: &DocumentKey) -> Vec<u8> {
    [&[key.kind as u8], key.name.as_bytes()].concat()
}

fn document_of(bytes: &[u8]) -> std::result::Result<DocumentKey, String> {
    const KINDS: [DocumentKind; 5] = [
        DocumentKind::Log,
        DocumentKind::Realisation,
        DocumentKind::BuildTrace,
        DocumentKind::DebugInfo,
        DocumentKind::Difference,
    ];
    let (kind, name) = bytes.split_first().ok_or_else(|| "its key is empty".to_owned())?;
    let kind = KINDS.into_iter().find(|known| *known as u8 == *kind);
    let kind = kind.ok_or_else(|| "its document is of an unknown kind".to_owned())?;
    Ok(DocumentKey { kind, name: text(name)?.to_owned() })
}

/// Makes the frames of records and recipes.
pub(crate) struct RecordEncoder(FrameEncoder);

impl RecordEncoder {
    pub(crate) fn new() -> Result<Self> {
        FrameEncoder::new().map(Self).map_err(|error| Error::Internal(error.to_string()))
    }

    /// Returns the frame of a recipe: the recipe without the ids of its chunks, which are where the placement says, then
    /// the placement.
    pub(crate) fn recipe(&mut self, encoded: &[u8], placement: &Placement) -> Result<Frame> {
        let (bare, placement) = (BareRecipe::encode(encoded)?, placement.encode());
        let data = [&bare[..], &placement].concat();
        let (lens, ids) = ([len(&bare), len(&placement)], [&bare, &placement].map(|item| firn_pack::item_id(item)));
        self.0.encode(FrameKind::Recipe, &data, &lens, &ids, LEVEL).map_err(internal)
    }

    /// Returns the frame of a [group](group) of records, which goes behind those that the chain has seen.
    pub(crate) fn records(&mut self, group: &[u8], chain: &Chain) -> Result<Frame> {
        let id = firn_pack::item_id(group);
        self.0.encode_linked(group, &[len(group)], &[id], chain, LEVEL).map_err(internal)
    }
}

/// Returns one item with all the records, of which the first is a [`Record::Order`].
///
/// One item, because each takes an id in the pack's footer, and nobody looks for a record by an id.
pub(crate) fn group<'a>(records: impl Iterator<Item = &'a Vec<u8>>) -> Vec<u8> {
    let mut group = GROUP.to_vec();
    for record in records {
        placement::put(&mut group, record.len() as u64);
        group.extend_from_slice(record);
    }
    group
}

fn len(item: &[u8]) -> u32 {
    u32::try_from(item.len()).unwrap_or(u32::MAX)
}

fn internal(error: firn_pack::Error) -> Error {
    Error::Internal(error.to_string())
}

#[cfg(test)]
mod tests {
    use firn_index::conformance::samples::{
        alias_row, cache, document_row, log, nar_hash, nar_row, path_row, store_hash,
    };

    use super::*;

    fn all() -> Vec<Record> {
        let a = || cache("a");
        vec![
            Record::Nar(a(), nar_hash(1), nar_row(1)),
            Record::Alias(a(), "x.nar.xz".to_owned(), alias_row(1)),
            Record::Path(a(), path_row(1, 10)),
            Record::Document(a(), log("drv"), document_row(1)),
            Record::Order(300),
            Record::PathGone(a(), store_hash(1)),
            Record::NarGone(a(), nar_hash(1)),
            Record::DocumentGone(a(), log("drv")),
            Record::CacheGone(a()),
        ]
    }

    #[test]
    fn every_record_is_strict() {
        for record in all() {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes).as_ref(), Ok(&record));
            for end in 0..bytes.len() {
                assert!(Record::decode(&bytes[..end]).is_err(), "{record:?} cut at {end}");
            }
            assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err(), "{record:?} with a byte too many");
        }
        let unknown = [&[11_u8, 1, b'a', 0, 0][..], &[1]].concat();
        assert!(Record::decode(&unknown).expect_err("kind 11").contains("newer firn"));
    }

    fn decoded(items: &[Vec<u8>]) -> DecodedFrame {
        let ends = items.iter().scan(0, |end, item| {
            *end += len(item);
            Some(*end)
        });
        DecodedFrame { kind: FrameKind::Record, data: items.concat(), ends: ends.collect(), bases: Vec::new() }
    }

    #[test]
    fn a_frame_gives_its_records_in_groups_or_not() {
        let all: Vec<Vec<u8>> = all().iter().map(Record::encode).collect();
        let orders = |frame: &DecodedFrame| -> Vec<u64> {
            records_of(frame).unwrap().iter().map(|numbered| numbered.order).collect()
        };
        let expected = [0, 0, 0, 0, 300, 300, 300, 300];
        assert_eq!(orders(&decoded(&all)), expected, "as it was written before there were groups");
        assert_eq!(orders(&decoded(&[group(all.iter())])), expected);
        assert_eq!(orders(&decoded(&[group(all[..5].iter()), group(all[5..].iter())])), expected);
        let whole = group(all.iter());
        for end in 0..whole.len() {
            let records = records_of(&decoded(&[whole[..end].to_vec()]));
            assert!(records.is_err() || records.is_ok_and(|records| records.len() < all.len() - 1), "cut at {end}");
        }
    }

    #[test]
    fn groups_stay() {
        let order = Record::Order(1).encode();
        assert_eq!(group(std::iter::once(&order)), [&[10, 0, 0, 0, 1, 13][..], &order].concat());
    }

    /// What was written stays readable.
    #[test]
    fn encodings_stay() {
        assert_eq!(Record::Order(0x0102).encode(), [5, 0, 0, 0, 1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Record::CacheGone(cache("ab")).encode(), [9, 2, b'a', b'b', 0, 0, 1]);
        let gone = Record::PathGone(cache("a"), store_hash(7)).encode();
        assert_eq!(gone, [&[6, 1, b'a', 20, 0][..], &[7; 20], &[1]].concat());
        let gone = Record::DocumentGone(cache("a"), log("d")).encode();
        assert_eq!(gone, [8, 1, b'a', 2, 0, 0, b'd', 1]);
        let path = Record::Path(cache("a"), path_row(1, 10)).encode();
        assert_eq!(path, [&[3, 1, b'a', 0, 0][..], &path_row(1, 10).encode()].concat());
    }
}
