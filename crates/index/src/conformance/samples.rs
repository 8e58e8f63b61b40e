//! Small rows and ids, each told from the others by a number.

use firn_chunk::{ChunkId, RecipeId};
use firn_nix::{Sha256, StoreHash, StorePath};
use firn_pack::{ChunkLoc, FrameLoc, PackId};

use crate::{
    AliasRow, CacheName, CacheRow, CollectionFailure, CollectionPass, CollectionRow, Commit, Conflict, ConflictPolicy,
    Content, DocumentKey, DocumentKind, DocumentRow, Grant, IssuedRow, NarRow, Op, PathRow, PinName, PinRow,
    PushOutcome, PushRecord, RecipeRow, ReferencePolicy, RetentionRow, SourceCounts, SourceCursor, SourceFilter,
    SourceName, SourceProblem, SourceRow, SourceStateRow, SourceTrust, StoreInfo, StuckRow, TokenId, TokenOrigin,
    TokenRow, Transport, Uploader, UpstreamMode, UpstreamRow, UpstreamsRow, Verb,
};

/// Returns a pack's id; ordered as `n`.
pub fn pack(n: u8) -> PackId {
    PackId([n; 16])
}

/// Returns a recipe's id; ordered as `n`.
pub fn recipe(n: u8) -> RecipeId {
    RecipeId([n; 32])
}

/// Returns a store hash; ordered as `n`.
pub fn store_hash(n: u8) -> StoreHash {
    StoreHash([n; 20])
}

/// Returns a NAR's hash; ordered as `n`.
pub fn nar_hash(n: u8) -> Sha256 {
    Sha256([n; 32])
}

/// Returns a cache's name.
///
/// # Panics
/// If `name` can't be one.
pub fn cache(name: &str) -> CacheName {
    name.parse().expect("the suites use good names")
}

/// Returns a chunk's id; ordered as `n`.
pub fn chunk(n: u64) -> ChunkId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&n.to_be_bytes());
    id[24..].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ChunkId(id)
}

/// Returns a chunk's location; another for every `n`.
pub fn location(n: u64) -> ChunkLoc {
    let [low, high, ..] = n.to_le_bytes();
    let frame = FrameLoc { pack: PackId([low; 16]), offset: n, len: 100 + u32::from(high) };
    ChunkLoc { frame, index: u16::from(low) }
}

/// Returns a store path.
///
/// # Panics
/// Never: the name is a good one.
pub fn store_path(n: u8) -> StorePath {
    let digits = format!("{n:03}").repeat(11);
    StorePath::from_base_name(&format!("{}-package-{n}", &digits[..32])).expect("a good base name")
}

/// Returns the row of a recipe that needs `edges`.
pub fn recipe_row(edges: &[u8]) -> RecipeRow {
    let record = FrameLoc { pack: pack(edges.first().copied().unwrap_or(0)), offset: 4096, len: 300 };
    RecipeRow { record, length: 1 << 33, chunks: 7, edges: edges.iter().copied().map(pack).collect(), damaged_at: None }
}

/// Returns a NAR's row.
pub fn nar_row(n: u8) -> NarRow {
    NarRow {
        recipe: recipe(n),
        slots: vec![store_hash(n), store_hash(n.wrapping_add(1))],
        nar_size: 1000 + u64::from(n),
        uploaded_at: 20,
        lease_until: 3600,
    }
}

/// Returns the row of an uploader's file name.
pub fn alias_row(n: u8) -> AliasRow {
    AliasRow { nar_hash: nar_hash(n), compression: "xz".to_owned(), file_size: 500 }
}

/// Returns a path's row with a NAR of `nar_size` bytes.
pub fn path_row(n: u8, nar_size: u64) -> PathRow {
    let uploader = Uploader { token: Some(TokenId(u64::from(n))), builder: "builder".to_owned() };
    let conflict = Conflict {
        nar_hash: nar_hash(n.wrapping_add(1)),
        nar_size: 5,
        uploader: Uploader { token: None, builder: String::new() },
        at: 9,
    };
    PathRow {
        path: store_path(n),
        nar_hash: nar_hash(n),
        nar_size,
        references: vec![store_path(n), store_path(n.wrapping_add(1))],
        deriver: Some(store_path(n.wrapping_add(2))),
        ca: None,
        signatures: vec!["key-1:c2lnbmF0dXJl".to_owned()],
        committed_at: 10,
        uploader,
        conflicts: vec![conflict],
    }
}

/// Returns the key of a log.
pub fn log(name: &str) -> DocumentKey {
    DocumentKey { kind: DocumentKind::Log, name: name.to_owned() }
}

/// Returns a document's row.
pub fn document_row(n: u8) -> DocumentRow {
    let content = if n.is_multiple_of(2) {
        Content::Inline(vec![n; 20])
    } else {
        Content::Recipe { recipe: recipe(n), slots: vec![store_hash(n)], length: 10_000 }
    };
    let uploader = Uploader { token: None, builder: "operator".to_owned() };
    DocumentRow { content, written_at: 11, uploader }
}

/// Returns a cache's row.
pub fn cache_row(priority: u32) -> CacheRow {
    CacheRow {
        public: true,
        priority,
        store_dir: "/nix/store".to_owned(),
        transport: Transport::Zstd,
        on_conflict: ConflictPolicy::Reject,
        references: ReferencePolicy::Present,
        trusted_keys: vec!["a:key".to_owned()],
        upstream_keys: vec!["u:key".to_owned()],
        signing_keys: vec!["b:secret".to_owned()],
        at_root: false,
        host: Some("cache.example".to_owned()),
        created_at: 1,
    }
}

/// Returns a push of a path; its NAR's hash depends on `n`.
pub fn push_record(n: u8) -> PushRecord {
    PushRecord {
        at: 10 + u64::from(n),
        uploader: Uploader { token: Some(TokenId(7)), builder: "builder".to_owned() },
        address: Some("192.0.2.1".to_owned()),
        nar_hash: nar_hash(n),
        signed_by: vec!["key-1".to_owned()],
        outcome: PushOutcome::Created,
    }
}

/// Returns a token's row.
pub fn token_row(n: u8) -> TokenRow {
    let grant = Grant { cache: "team-*".to_owned(), verbs: vec![Verb::Pull, Verb::Push] };
    TokenRow {
        secret_hash: [n; 32],
        builder: "ci".to_owned(),
        grants: vec![grant],
        created_at: 3,
        expires_at: Some(4),
        revoked_at: None,
    }
}

/// Returns a pin's name; ordered as `n`.
///
/// # Panics
/// Never: the name is a good one.
pub fn pin_name(n: u8) -> PinName {
    format!("pin-{n:03}").parse().expect("a good name")
}

/// Returns a pin.
pub fn pin_row(n: u8) -> PinRow {
    let by = Uploader { token: None, builder: "operator".to_owned() };
    PinRow { path: store_path(n), pinned_at: 12, expires_at: n.is_multiple_of(2).then_some(300), by }
}

/// Returns how collections went, the last of which failed.
pub fn collection_row(n: u8) -> CollectionRow {
    let stuck = StuckRow { pack: pack(n).to_string(), stored_bytes: 5, why: "it is damaged".to_owned() };
    let last =
        CollectionPass { ended_at: n.into(), removed_paths: 300, stuck: vec![stuck], ..CollectionPass::default() };
    let failure = CollectionFailure { at: 1 << 40, problem: "the disk is full".to_owned() };
    CollectionRow { last: Some(last), failure: Some(failure) }
}

/// Returns what a cache keeps; with 0, everything.
pub fn retention_row(last: u32) -> RetentionRow {
    RetentionRow { keep_last: (last > 0).then_some(last), ..RetentionRow::default() }
}

/// Returns a cache's upstreams; with 0, none.
pub fn upstreams_row(n: u8) -> UpstreamsRow {
    let upstream = |n: u8| UpstreamRow {
        url: format!("https://{n}.example"),
        mode: if n.is_multiple_of(2) { UpstreamMode::Refer } else { UpstreamMode::Proxy },
        keys: vec!["u:key".to_owned()],
        priority: n.into(),
        connect_timeout_ms: 5000,
        first_byte_timeout_ms: 15_000,
        idle_timeout_ms: 30_000,
        token_file: Some("/run/token".to_owned()),
        added_at: 13,
    };
    UpstreamsRow { upstreams: (0..n).map(upstream).collect() }
}

/// Returns a token that was made for an identity.
pub fn issued_row(n: u8) -> IssuedRow {
    let origin = TokenOrigin {
        rule: "ci".to_owned(),
        issuer: "https://issuer.example".to_owned(),
        subject: "project_path:a/b".to_owned(),
    };
    IssuedRow { token: token_row(n), origin }
}

/// Returns a store's identity.
pub fn store_info(n: u8) -> StoreInfo {
    StoreInfo {
        format_version: 1,
        chunker: "nar-fastcdc-v2020/16384-65536-262144/1".to_owned(),
        created_at: 1,
        store_id: u128::from(n),
    }
}

/// Returns a commit outside any session.
pub fn commit(packs: &[u8], ops: Vec<Op>) -> Commit {
    Commit { session: None, packs: packs.iter().copied().map(pack).collect(), ops }
}

/// Returns a source's name; ordered as `n`.
///
/// # Panics
/// Never.
pub fn source_name(n: u8) -> SourceName {
    format!("source-{n:03}").parse().expect("it is a name")
}

/// Returns a source's settings.
pub fn source_row(n: u8) -> SourceRow {
    SourceRow {
        url: format!("ssh-ng://host-{n}"),
        cache: cache("a"),
        builder: "b".to_owned(),
        trust: if n.is_multiple_of(2) { SourceTrust::Builder } else { SourceTrust::Keys(vec!["k:1".to_owned()]) },
        filter: SourceFilter {
            skip_upstream: true,
            include: vec!["*".to_owned()],
            exclude: vec![],
            max_nar_bytes: Some(1 << 40),
            derivations: false,
            sources: true,
        },
        every_seconds: u64::from(n),
        parallel: 2,
        bytes_per_second: None,
        ssh_key: Some("/key".to_owned()),
        host_key: None,
        use_firn: true,
        new_only: false,
        paused: n == 7,
        created_at: 5,
    }
}

/// Returns what is remembered of a source.
pub fn source_state(n: u8) -> SourceStateRow {
    SourceStateRow {
        cursor: Some(SourceCursor::Row { database: [n; 32], id: i64::from(n) }),
        started_at: Some(1),
        failures: 2,
        error: Some("no route".to_owned()),
        last: SourceCounts { paths: 3, ..SourceCounts::default() },
        problems: vec![SourceProblem {
            path: StorePath::new(store_hash(n), "x").expect("a name"),
            why: "unsigned".to_owned(),
            tries: 1,
        }],
        ..SourceStateRow::default()
    }
}
