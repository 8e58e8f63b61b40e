//! How keys and the chunk index's values are written; `docs/FORMAT.md` lists them.
//!
//! Keys sort as the trait's pages do: integers are big endian, and what belongs to a cache begins with the cache's
//! name and a zero byte, which no name holds.

use firn_chunk::RecipeId;
use firn_index::{CacheName, Day, DocumentKey, DocumentKind, SeenId, SourceName, UsageKey};
use firn_pack::{ChunkLoc, FrameLoc, PackId};

/// A column family of `Meta`'s database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    /// Pack id (16) → pack row.
    Pack,
    /// Recipe id (32) → recipe row.
    Recipe,
    /// Pack id (16), recipe id (32) → nothing.
    Edge,
    /// Pack id (16) → effort (1).
    Effort,
    /// Sequence number (8) → pack id (16).
    Seq,
    /// Cache, NAR hash (32) → NAR row.
    Nar,
    /// Cache, file name → alias row.
    Alias,
    /// Cache, store hash (20) → path row.
    Path,
    /// Cache, kind (1), name → document row.
    Document,
    /// Cache → cache row.
    Cache,
    /// Token id (8) → token row.
    Token,
    /// Cache, store hash (20) → provenance row.
    Provenance,
    /// 1, day (4), cache, builder → counters; 2, day (4) → sums; 3 → the newest report.
    Usage,
    /// Pack id (16) → when it was condemned or doomed, 8 bytes, little endian.
    Since,
    /// Cache, store hash (20) → when the path was last used, 8 bytes, little endian.
    Use,
    /// Cache, pin's name → pin.
    Pin,
    /// Cache, nothing → what the cache keeps.
    Retention,
    /// A [`SourcePart`], name → settings, state, or names that were seen.
    Source,
    /// Cache, nothing → the cache's upstreams.
    Upstream,
    /// Token id (8) → token that was made for an identity.
    Issued,
    /// A [`Single`]'s name → its row.
    Meta,
}

impl Family {
    /// All of them.
    pub(crate) const ALL: [Self; 21] = [
        Self::Pack,
        Self::Recipe,
        Self::Edge,
        Self::Effort,
        Self::Seq,
        Self::Nar,
        Self::Alias,
        Self::Path,
        Self::Document,
        Self::Cache,
        Self::Token,
        Self::Provenance,
        Self::Usage,
        Self::Since,
        Self::Use,
        Self::Pin,
        Self::Retention,
        Self::Source,
        Self::Upstream,
        Self::Issued,
        Self::Meta,
    ];

    /// What belongs to a cache and goes with it.
    pub(crate) const OF_A_CACHE: [Self; 9] = [
        Self::Nar,
        Self::Alias,
        Self::Path,
        Self::Document,
        Self::Provenance,
        Self::Use,
        Self::Pin,
        Self::Retention,
        Self::Upstream,
    ];

    /// Returns the family's name in the database.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Recipe => "recipe",
            Self::Edge => "edge",
            Self::Effort => "effort",
            Self::Seq => "seq",
            Self::Nar => "nar",
            Self::Alias => "alias",
            Self::Path => "path",
            Self::Document => "document",
            Self::Cache => "cache",
            Self::Token => "token",
            Self::Provenance => "provenance",
            Self::Usage => "usage",
            Self::Since => "since",
            Self::Use => "use",
            Self::Pin => "pin",
            Self::Retention => "retention",
            Self::Source => "source",
            Self::Upstream => "upstream",
            Self::Issued => "issued",
            Self::Meta => "meta",
        }
    }

    /// Returns what the family holds, in words.
    pub(crate) const fn holds(self) -> &'static str {
        match self {
            Self::Pack | Self::Edge | Self::Effort | Self::Seq | Self::Since => "packs",
            Self::Recipe => "recipes",
            Self::Nar | Self::Alias => "NARs",
            Self::Path => "paths",
            Self::Document => "logs and other documents",
            Self::Cache => "settings and signing keys of caches",
            Self::Token => "tokens",
            Self::Provenance => "who pushed what",
            Self::Usage => "usage counters and reports",
            Self::Use => "last uses of paths",
            Self::Pin => "pins",
            Self::Retention => "retention and quotas",
            Self::Source => "sources",
            Self::Upstream => "upstreams",
            Self::Issued => "tokens that were made for identities",
            Self::Meta => "the state of the store, of scrubs and of collections",
        }
    }
}

/// Rows of which there is one.
pub(crate) mod single {
    /// The store's identity.
    pub(crate) const STORE: &[u8] = b"store";
    /// The store's totals.
    pub(crate) const TOTALS: &[u8] = b"totals";
    /// What re-reading the packs has found.
    pub(crate) const SCRUB: &[u8] = b"scrub";
    /// How the last collections of garbage went.
    pub(crate) const COLLECTION: &[u8] = b"collection";
    /// The last sequence number that was given to a pack: 8 bytes, little endian.
    pub(crate) const LAST_SEQ: &[u8] = b"last-seq";
    /// The number of the last record frame: 8 bytes, little endian.
    pub(crate) const RECORD_ORDER: &[u8] = b"record-order";
    /// Since when uses of paths are recorded: 8 bytes, little endian.
    pub(crate) const USES_SINCE: &[u8] = b"uses-since";
    /// What the keys begin with that end in the stem of signing keys' names: the greatest number, 8 bytes, little endian.
    pub(crate) const KEY_NUMBER: &[u8] = b"key-number:";
    /// What the keys begin with that end in the name of a deleted cache.
    pub(crate) const DELETED_CACHE: &[u8] = b"deleted-cache/";
    /// What the names of leases begin with.
    pub(crate) const LEASE: &[u8] = b"lease/";
}

/// What is kept of a source: the first byte of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SourcePart {
    /// Its settings.
    Row = 1,
    /// What is remembered between two syncs.
    State = 2,
    /// The names that were seen.
    Seen = 3,
}

impl SourcePart {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Row, Self::State, Self::Seen];
}

/// Returns the key of a part of a source.
pub(crate) fn source(part: SourcePart, name: &SourceName) -> Vec<u8> {
    [&[part as u8][..], name.as_str().as_bytes()].concat()
}

/// Returns the first key of sources' settings, and the first one behind them.
pub(crate) fn source_rows() -> (Vec<u8>, Vec<u8>) {
    (vec![SourcePart::Row as u8], vec![SourcePart::State as u8])
}

/// The newest report.
pub(crate) const REPORT: &[u8] = &[3];

/// Returns the first key of a day's counters.
pub(crate) fn counters_from(day: Day) -> Vec<u8> {
    [&[1][..], &day.to_be_bytes()].concat()
}

/// Returns the key of counters.
pub(crate) fn counters(key: &UsageKey) -> Vec<u8> {
    [&counters_from(key.day)[..], &of_cache(&key.cache, key.builder.as_bytes())].concat()
}

/// Returns whose counters a key is of.
pub(crate) fn read_counters(key: &[u8]) -> Option<UsageKey> {
    let (day, rest) = key.strip_prefix(&[1])?.split_first_chunk()?;
    let zero = rest.iter().position(|byte| *byte == 0)?;
    let cache = std::str::from_utf8(&rest[..zero]).ok()?.parse().ok()?;
    let builder = std::str::from_utf8(&rest[zero + 1..]).ok()?.to_owned();
    Some(UsageKey { day: Day::from_be_bytes(*day), cache, builder })
}

/// Returns the key of a day's sums.
pub(crate) fn summary(day: Day) -> Vec<u8> {
    [&[2][..], &day.to_be_bytes()].concat()
}

/// Returns the day of the sums under a key.
pub(crate) fn read_summary(key: &[u8]) -> Option<Day> {
    Some(Day::from_be_bytes(key.strip_prefix(&[2])?.try_into().ok()?))
}

/// Returns the key of an edge.
pub(crate) fn edge(pack: PackId, recipe: RecipeId) -> [u8; 48] {
    let mut key = [0; 48];
    key[..16].copy_from_slice(&pack.0);
    key[16..].copy_from_slice(&recipe.0);
    key
}

/// Returns the recipe of an edge's key.
pub(crate) fn recipe_of_edge(key: &[u8]) -> Option<RecipeId> {
    key.get(16..).and_then(|id| id.try_into().ok()).map(RecipeId)
}

/// Returns the key of something that belongs to a cache.
pub(crate) fn of_cache(cache: &CacheName, rest: &[u8]) -> Vec<u8> {
    [cache.as_str().as_bytes(), &[0], rest].concat()
}

/// Returns what follows the cache in a key.
pub(crate) fn in_cache<'a>(cache: &CacheName, key: &'a [u8]) -> Option<&'a [u8]> {
    key.strip_prefix(cache.as_str().as_bytes())?.strip_prefix(&[0])
}

/// Returns the first key of a cache and the first after all of its keys.
pub(crate) fn cache_range(cache: &CacheName) -> (Vec<u8>, Vec<u8>) {
    let name = cache.as_str().as_bytes();
    ([name, &[0]].concat(), [name, &[1]].concat())
}

/// Returns the key of a document.
pub(crate) fn document(cache: &CacheName, key: &DocumentKey) -> Vec<u8> {
    let kind = match key.kind {
        DocumentKind::Log => 1,
        DocumentKind::Realisation => 2,
        DocumentKind::BuildTrace => 3,
        DocumentKind::DebugInfo => 4,
        DocumentKind::Difference => 5,
    };
    of_cache(cache, &[&[kind], key.name.as_bytes()].concat())
}

/// Returns the document of a key, given what follows the cache in it.
pub(crate) fn document_of(key: &[u8]) -> Option<DocumentKey> {
    let (kind, name) = key.split_first()?;
    let kind = match kind {
        1 => DocumentKind::Log,
        2 => DocumentKind::Realisation,
        3 => DocumentKind::BuildTrace,
        4 => DocumentKind::DebugInfo,
        5 => DocumentKind::Difference,
        _ => return None,
    };
    Some(DocumentKey { kind, name: std::str::from_utf8(name).ok()?.to_owned() })
}

/// Returns the first key after `key`.
pub(crate) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// Returns the key of what a cache has seen: the length of the cache's name, the name, the id.
pub(crate) fn seen_key(cache: &CacheName, id: &SeenId) -> Vec<u8> {
    [&seen_prefix(cache)[..], &id.0].concat()
}

/// Returns the first key of what a cache has seen, and one after all of them and before any other's.
pub(crate) fn seen_range(cache: &CacheName) -> (Vec<u8>, Vec<u8>) {
    let prefix = seen_prefix(cache);
    // Longer than any key of the prefix, and so after the greatest.
    let end = [&prefix[..], &[0xff; 17]].concat();
    (prefix, end)
}

fn seen_prefix(cache: &CacheName) -> Vec<u8> {
    let name = cache.as_str().as_bytes();
    let len = u8::try_from(name.len()).expect("a cache's name has at most 64 bytes");
    [&[len], name].concat()
}

/// Returns a location as the chunk index keeps it: the pack's id, then offset, length and index as varints (postcard's).
pub(crate) fn encode_location(location: &ChunkLoc) -> Vec<u8> {
    let frame = location.frame;
    let fields = (frame.pack.0, frame.offset, frame.len, location.index);
    postcard::to_extend(&fields, Vec::with_capacity(30)).expect("postcard writes any integers to a Vec")
}

/// Returns the location that [`encode_location`] wrote.
pub(crate) fn decode_location(bytes: &[u8]) -> Option<ChunkLoc> {
    let ((pack, offset, len, index), rest) = postcard::take_from_bytes(bytes).ok()?;
    let frame = FrameLoc { pack: PackId(pack), offset, len };
    rest.is_empty().then_some(ChunkLoc { frame, index })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document_of_cache(key: &[u8]) -> Option<DocumentKey> {
        document_of(in_cache(&name("a"), key)?)
    }

    fn name(name: &str) -> CacheName {
        name.parse().expect("a good name")
    }

    #[test]
    fn keys_of_a_cache_stay_within_its_range() {
        let names = ["a", "a-", "a.b", "aa", "b", "0"].map(name);
        for cache in &names {
            let (first, end) = cache_range(cache);
            for other in &names {
                for rest in [&[][..], &[0], &[0xff; 20]] {
                    let key = of_cache(other, rest);
                    assert_eq!((first <= key && key < end), cache == other, "{cache} {other}");
                    assert_eq!(in_cache(cache, &key), (cache == other).then_some(rest));
                }
            }
        }
    }

    #[test]
    fn what_a_cache_has_seen_stays_within_its_range() {
        let names = ["a", "a-", "a.b", "aa", "b", "0"].map(name);
        for cache in &names {
            let (first, end) = seen_range(cache);
            for other in &names {
                for id in [[0; 16], [0x61; 16], [0xff; 16]] {
                    let key = seen_key(other, &SeenId(id));
                    assert_eq!((first <= key && key < end), cache == other, "{cache} {other}");
                }
            }
        }
        assert_eq!(seen_key(&name("main"), &SeenId([7; 16])), [&b"\x04main"[..], &[7; 16]].concat());
    }

    #[test]
    fn documents_of_two_kinds_have_two_keys() {
        let key = |kind| document(&name("a"), &DocumentKey { kind, name: "x".to_owned() });
        assert_eq!(key(DocumentKind::Log), b"a\0\x01x");
        assert_eq!(key(DocumentKind::Realisation), b"a\0\x02x");
        assert_eq!(key(DocumentKind::BuildTrace), b"a\0\x03x");
        assert_eq!(key(DocumentKind::DebugInfo), b"a\0\x04x");
        assert_eq!(key(DocumentKind::Difference), b"a\0\x05x");
        for kind in [
            DocumentKind::Log,
            DocumentKind::Realisation,
            DocumentKind::BuildTrace,
            DocumentKind::DebugInfo,
            DocumentKind::Difference,
        ] {
            let read = document_of_cache(&key(kind));
            assert_eq!(read, Some(DocumentKey { kind, name: "x".to_owned() }));
        }
        assert_eq!(document_of_cache(b"a\0\x06x"), None);
        assert_eq!(document_of_cache(b"a\0"), None);
    }

    #[test]
    fn locations() {
        let frame = FrameLoc { pack: PackId([7; 16]), offset: 300, len: 65_536 };
        let location = ChunkLoc { frame, index: 129 };
        let bytes = encode_location(&location);
        // The format: packs 16 bytes, then three varints.
        assert_eq!(bytes, [&[7; 16][..], &[0xac, 0x02, 0x80, 0x80, 0x04, 0x81, 0x01]].concat());
        assert_eq!(decode_location(&bytes), Some(location));
        for end in 0..bytes.len() {
            assert_eq!(decode_location(&bytes[..end]), None);
        }
        assert_eq!(decode_location(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode_location(&[&bytes[..21], &[0xff, 0xff, 0x7f]].concat()), None, "more than 16 bits");
    }

    #[test]
    fn counters_and_sums() {
        let key = |day, cache, builder: &str| UsageKey { day, cache: name(cache), builder: builder.to_owned() };
        let keys = [key(1, "b", "z"), key(300, "a", ""), key(300, "a", "x"), key(300, "a-", "x"), key(300, "b", "a\0")];
        for pair in keys.windows(2) {
            assert!(counters(&pair[0]) < counters(&pair[1]), "{pair:?}");
        }
        for key in keys {
            assert_eq!(read_counters(&counters(&key)), Some(key));
        }
        assert_eq!(read_summary(&summary(70_000)), Some(70_000));
        for bad in [&[][..], &[1], &[1, 0, 0, 0, 1], &[1, 0, 0, 0, 1, b'a'], &[2, 0, 0, 0, 1]] {
            assert_eq!(read_counters(bad), None, "{bad:?}");
        }
        assert_eq!((read_summary(&[2, 0]), read_summary(REPORT)), (None, None));
    }

    #[test]
    fn edges() {
        let key = edge(PackId([1; 16]), RecipeId([2; 32]));
        assert_eq!(recipe_of_edge(&key), Some(RecipeId([2; 32])));
        assert_eq!(recipe_of_edge(&key[..47]), None);
        assert_eq!(recipe_of_edge(&[]), None);
    }
}
