//! A store that is written down instead of uploaded: packs, rows and recipes of so many paths of 50 chunks.
//!
//! It is as if 50 versions of so many packages had come one after the other. The first version of a package brings 50 chunks,
//! each later one replaces ten of them: a recipe names five runs of ten chunks, in its own pack and in those of the four
//! versions before. A pack holds what came together, up to 1000 chunks: their frames, recipes and records.

use std::collections::BTreeSet;
use std::path::Path;

use firn_chunk::{ChunkId, ChunkRef, ChunkerId, Input, Patches, Recipe, RecipeId};
use firn_engine::{Clock, GcOptions, SystemClock};
use firn_index::{
    AliasRow, CacheName, CacheRow, Commit, Meta, NarRow, Op, PathRow, PushOutcome, PushRecord, RecipeRow, Row, Totals,
    Uploader,
};
use firn_index_rocks::{MetaOptions, RocksMeta};
use firn_nix::{Sha256, StoreHash, StorePath};
use firn_pack::{Codec, FrameEncoder, FrameEntry, FrameKind, FrameLoc, Item, PackBuilder, PackId, item_id};
use firn_storage::{Disk, ObjectWriter, Storage};

pub(super) const CACHE: &str = "bench";

const VERSIONS: u64 = 50;
/// Chunks of a path, those of them that a version replaces, and in how many steps it is through.
const CHUNKS: u64 = 50;
const NEW: u64 = 10;
const STEPS: u64 = CHUNKS / NEW;
const CHUNK_BYTES: u32 = 64 << 10;
/// Chunks of a pack: 32 MiB at half of their bytes.
const PACK_CHUNKS: usize = 1000;
/// Paths that are committed at once.
const BATCH: usize = 5000;
/// Other paths that a path refers to, at most.
const REFERENCES: u64 = 6;
/// Seconds from one path to the next.
const PACE: u64 = 60;

/// How large a store is, and what is at which place.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub(super) paths: u64,
    packages: u64,
    /// When the first path came.
    since: u64,
}

impl Shape {
    /// Describes a store of so many paths, rounded up to whole versions of all packages.
    pub(super) fn new(paths: u64) -> Self {
        let packages = paths.div_ceil(VERSIONS);
        // Always the same: passes are processes of their own.
        Self { paths: packages * VERSIONS, packages, since: 1_700_000_000 }
    }

    /// Returns how many paths are a tenth.
    pub(super) fn tenth(&self) -> u64 {
        self.paths / 10
    }

    pub(super) fn references(&self) -> u64 {
        self.paths * CHUNKS
    }

    /// Returns when a path came.
    pub(super) fn time(&self, path: u64) -> u64 {
        self.since + path * PACE
    }

    pub(super) fn hash(&self, path: u64) -> StoreHash {
        StoreHash(*id(4, path).first_chunk().expect("20 of 32"))
    }

    fn store_path(&self, path: u64) -> StorePath {
        let name = format!("package{}-1.{}", path % self.packages, path / self.packages);
        StorePath::new(self.hash(path), &name).expect("it is a name")
    }

    /// Returns the path that brought the chunks of a step of a path.
    fn origin(&self, path: u64, step: u64) -> u64 {
        let version = path / self.packages;
        let age = (version + STEPS - step) % STEPS;
        path - age.min(version) * self.packages
    }

    /// Returns the steps whose chunks a path brings.
    fn new_steps(&self, path: u64) -> Vec<u64> {
        (0..STEPS).filter(|step| self.origin(path, *step) == path).collect()
    }

    /// Returns paths of the same version that came before.
    fn references_of(&self, path: u64) -> Vec<StorePath> {
        let earlier = path % self.packages;
        let numbers: BTreeSet<u64> =
            (0..REFERENCES).filter(|_| earlier > 0).map(|n| path - 1 - word(path * REFERENCES + n) % earlier).collect();
        let mut references: Vec<StorePath> = numbers.into_iter().map(|path| self.store_path(path)).collect();
        references.sort_unstable();
        references
    }
}

/// Returns a number that depends on another as if drawn at random.
pub(super) fn word(n: u64) -> u64 {
    let mut mixed = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn id(kind: u64, n: u64) -> [u8; 32] {
    let mut id = [0; 32];
    for (part, eight) in (0..4u64).zip(id.chunks_mut(8)) {
        eight.copy_from_slice(&word(kind << 56 ^ n << 2 ^ part).to_le_bytes());
    }
    id
}

fn chunk_id(path: u64, step: u64, n: u64) -> [u8; 32] {
    id(2, (path * STEPS + step) * NEW + n)
}

pub(super) fn cache() -> CacheName {
    CACHE.parse().expect("it is a name")
}

/// The configuration of a server on such a store: nothing happens unasked, and nothing is repacked, as its frames of chunks
/// hold no bytes that could be read.
pub(super) const SERVER_CONFIG: &str = r#"
[gc]
interval = "0 s"
grace = "0 s"
repack-percent = 0
[scrub]
every = "0 s"
[usage]
report-interval = "0 s"
[log]
level = "warn"
"#;

/// Everything at once, and no grace; repacking apart.
pub(super) fn gc_options() -> GcOptions {
    GcOptions { dry_run: false, grace_seconds: 0, repack: None }
}

/// Writes the store.
pub(super) fn make(shape: &Shape, data: &Path) -> anyhow::Result<()> {
    let storage = Disk::open(data.join("store"))?;
    let meta = RocksMeta::open(&data.join("index"), &MetaOptions::default())?;
    let now = SystemClock.now();
    anyhow::ensure!(shape.time(shape.paths) < now, "so many paths would come in the future");
    meta.put_cache(&cache(), &CacheRow { public: true, ..CacheRow::new(1) })?;
    meta.set_uses_since(1)?;
    let mut maker =
        Maker { shape, storage, meta, frames: Vec::new(), ops: Vec::new(), encoder: FrameEncoder::new()?, packs: 0 };
    let mut next = 0;
    while next < shape.paths {
        next = maker.pack(next)?;
        if maker.ops.len() >= BATCH * 6 {
            maker.commit()?;
        }
    }
    maker.commit()?;
    maker.meta.flush()?;
    Ok(())
}

struct Maker<'a> {
    shape: &'a Shape,
    storage: Disk,
    meta: RocksMeta,
    /// Where the chunks lie that a path brought, and in how many items.
    frames: Vec<FrameLoc>,
    ops: Vec<Op>,
    encoder: FrameEncoder,
    packs: u64,
}

/// A pack that is being written.
struct OpenPack {
    builder: PackBuilder,
    writer: Box<dyn ObjectWriter>,
}

impl OpenPack {
    fn push(&mut self, entry: &FrameEntry, bytes: &[u8]) -> anyhow::Result<FrameLoc> {
        let loc = self.builder.push(entry);
        self.writer.append(&[bytes])?;
        Ok(loc)
    }
}

impl Maker<'_> {
    /// Writes a pack with the paths from `first` on; returns the path that comes next.
    fn pack(&mut self, first: u64) -> anyhow::Result<u64> {
        let pack = PackId(*id(1, self.packs).first_chunk().expect("16 of 32"));
        self.packs += 1;
        let at = self.shape.time(first);
        let (builder, header) = PackBuilder::new(pack);
        self.meta.reserve_pack(pack, at)?;
        let hex = pack.to_string();
        let mut open = OpenPack { builder, writer: self.storage.create(&format!("packs/{}/{hex}", &hex[..2]))? };
        open.writer.append(&[&header])?;
        let (mut chunks, mut next) = (0, first);
        while next < self.shape.paths && chunks < PACK_CHUNKS {
            chunks += self.path(&mut open, next)?;
            next += 1;
        }
        let unique = open.builder.unique_bytes();
        open.writer.append(&[&open.builder.finish()])?;
        open.writer.sync()?;
        self.meta.seal_pack(pack, open.writer.len(), unique)?;
        Ok(next)
    }

    /// Writes a path's new chunks, its recipe and its records; returns how many chunks are new.
    fn path(&mut self, open: &mut OpenPack, path: u64) -> anyhow::Result<usize> {
        let steps = self.shape.new_steps(path);
        let items: Vec<Item> = steps
            .iter()
            .flat_map(|step| (0..NEW).map(|n| Item { id: chunk_id(path, *step, n), len: CHUNK_BYTES }))
            .collect();
        let chunks = items.len();
        let zeros = vec![0; 300 + 4 * chunks];
        let raw_len = CHUNK_BYTES * u32::try_from(chunks)?;
        let len = u32::try_from(zeros.len())?;
        let entry = FrameEntry { kind: FrameKind::Chunks, codec: Codec::Zstd, len, raw_len, items, bases: Vec::new() };
        let loc = open.push(&entry, &zeros)?;
        self.frames.push(loc);
        let (recipe, placement, edges) = self.recipe(path);
        let encoded = recipe.encode();
        let frame = encode(&mut self.encoder, FrameKind::Recipe, &[&encoded, &placement], 9)?;
        let record = open.push(&frame.entry, &frame.bytes)?;
        let recipe_id = RecipeId::of(&encoded);
        let row = RecipeRow { record, length: recipe.length, chunks: CHUNKS, edges, damaged_at: None };
        self.ops.push(Op::Recipe(recipe_id, row));
        let records = self.rows(path, recipe_id, recipe.length);
        let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
        let frame = encode(&mut self.encoder, FrameKind::Record, &records, 9)?;
        open.push(&frame.entry, &frame.bytes)?;
        Ok(chunks)
    }

    /// Returns a path's recipe, and where its chunks lie, as `docs/FORMAT.md` says.
    fn recipe(&self, path: u64) -> (Recipe, Vec<u8>, Vec<PackId>) {
        let (mut chunks, mut runs) = (Vec::new(), Vec::new());
        for step in 0..STEPS {
            let origin = self.shape.origin(path, step);
            let ids = (0..NEW).map(|n| ChunkRef { id: ChunkId(chunk_id(origin, step, n)), len: CHUNK_BYTES });
            chunks.extend(ids);
            let place = self.shape.new_steps(origin).iter().position(|new| *new == step).expect("it brought them");
            runs.push((self.frames[origin as usize], place as u64 * NEW));
        }
        let packs: BTreeSet<PackId> =
            runs.iter().map(|(frame, _)| frame.pack).chain([self.frames[path as usize].pack]).collect();
        let edges: Vec<PackId> = packs.into_iter().collect();
        let packs: Vec<PackId> =
            runs.iter().map(|(frame, _)| frame.pack).collect::<BTreeSet<_>>().into_iter().collect();
        let mut placement = b"FPLC\x01".to_vec();
        put(&mut placement, packs.len() as u64);
        for pack in &packs {
            placement.extend(pack.0);
        }
        put(&mut placement, runs.len() as u64);
        for (frame, first) in runs {
            let pack = packs.binary_search(&frame.pack).expect("listed above");
            for field in [pack as u64, frame.offset, u64::from(frame.len), first, NEW] {
                put(&mut placement, field);
            }
        }
        let length = u64::from(CHUNK_BYTES) * CHUNKS;
        let recipe =
            Recipe { input: Input::Nar, chunker: ChunkerId::CURRENT, length, chunks, patches: Patches::default() };
        (recipe, placement, edges)
    }

    /// Adds a path's rows; returns the records of them.
    fn rows(&mut self, path: u64, recipe: RecipeId, nar_size: u64) -> Vec<Vec<u8>> {
        let (hash, at) = (self.shape.hash(path), self.shape.time(path));
        let nar_hash = Sha256(id(3, path));
        let uploader = Uploader { token: None, builder: format!("builder-{}", path % 20) };
        let nar = NarRow { recipe, slots: vec![hash], nar_size, uploaded_at: at, lease_until: at + 86_400 };
        let row = PathRow {
            path: self.shape.store_path(path),
            nar_hash,
            nar_size,
            references: self.shape.references_of(path),
            deriver: None,
            ca: None,
            signatures: vec![format!("bench-1:{}==", "A".repeat(86))],
            committed_at: at,
            uploader: uploader.clone(),
            conflicts: Vec::new(),
        };
        let order = [&[5, 0, 0, 0, 1][..], &(path + 1).to_le_bytes()].concat();
        let mut records = vec![order, record(1, &nar_hash.0, &nar.encode()), record(3, &[], &row.encode())];
        // Every second one came from a stock Nix.
        if path % 2 == 1 {
            let name = format!("{}.nar.xz", Sha256(id(5, path)).to_nix32());
            let alias = AliasRow { nar_hash, compression: "xz".to_owned(), file_size: nar_size / 4 };
            records.push(record(2, name.as_bytes(), &alias.encode()));
            self.ops.push(Op::Alias(cache(), name, alias));
        }
        let pushed = PushRecord {
            at,
            uploader,
            address: Some("192.0.2.1".to_owned()),
            nar_hash,
            signed_by: vec!["bench-1".to_owned()],
            outcome: PushOutcome::Created,
        };
        self.ops.push(Op::Nar(cache(), nar_hash, nar));
        self.ops.push(Op::Path(cache(), hash, row));
        self.ops.push(Op::Pushed(cache(), hash, pushed));
        self.ops.push(Op::RecordOrder(path + 1));
        self.ops.push(Op::Count(Totals { paths: 1, logical_bytes: nar_size, ..Totals::default() }));
        records
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let ops = std::mem::take(&mut self.ops);
        let uses: Vec<(StoreHash, u64)> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Path(_, hash, row) => Some((*hash, row.committed_at)),
                _ => None,
            })
            .collect();
        let outcome = self.meta.commit(1, &[Commit { session: None, packs: Vec::new(), ops }])?;
        anyhow::ensure!(outcome == [Ok(())], "the rows were refused: {outcome:?}");
        self.meta.note_uses(&cache(), &uses)?;
        Ok(())
    }
}

fn encode(
    encoder: &mut FrameEncoder,
    kind: FrameKind,
    items: &[&[u8]],
    level: i32,
) -> anyhow::Result<firn_pack::Frame> {
    let lens = items.iter().map(|item| u32::try_from(item.len())).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<[u8; 32]> = items.iter().map(|item| item_id(item)).collect();
    Ok(encoder.encode(kind, &items.concat(), &lens, &ids, level)?)
}

/// Returns a record of the cache, as `docs/FORMAT.md` says.
fn record(kind: u8, key: &[u8], row: &[u8]) -> Vec<u8> {
    let (name, key_len) = (CACHE.len() as u8, key.len() as u16);
    [&[kind, name], CACHE.as_bytes(), &key_len.to_le_bytes(), key, row].concat()
}

fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
