//! What is told of collections, paths and pins; times are seconds since 1970, `--json` prints the fields as they are called.

use firn_engine::{CacheFates, Explanation, Fate, GcReport, PackSum, StuckPack};
use firn_index::{PinName, PinRow, StuckRow, UnixSeconds};
use serde::{Deserialize, Serialize};

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PacksView {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub stored_bytes: u64,
}

impl From<PackSum> for PacksView {
    fn from(sum: PackSum) -> Self {
        Self { packs: sum.packs, stored_bytes: sum.stored_bytes }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcView {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// When it began.
    pub started_at: UnixSeconds,
    /// When it ended.
    pub ended_at: UnixSeconds,
    /// What became of the paths of each cache.
    pub caches: Vec<CacheFatesView>,
    /// NARs removed.
    pub nars: u64,
    /// Uploaders' names of NARs removed.
    pub aliases: u64,
    /// Logs, realisations and the like removed.
    pub documents: u64,
    /// Recipes removed.
    pub recipes: u64,
    /// Packs that are no longer offered; of a dry run, packs that nobody would need.
    pub condemned: PacksView,
    /// Packs that were needed after all.
    pub revived: PacksView,
    /// Packs that wait for their grace to end from now on.
    pub doomed: PacksView,
    /// Packs deleted: these bytes are free.
    pub deleted: PacksView,
    /// Packs that could not be read or deleted.
    pub failed: PacksView,
    /// Records copied out of packs that go.
    pub carried_records: u64,
    /// Packs that wait for uploads to end.
    pub backlog_condemned: PacksView,
    /// Packs that wait for their grace to end.
    pub backlog_doomed: PacksView,
    /// Frames of records that could not be read and went with their pack.
    pub lost_record_frames: u64,
    /// Packs of which so little is needed that they are repacked.
    pub sparse: PacksView,
    /// What nothing needs of them.
    pub sparse_dead_bytes: u64,
    /// What repacking did.
    pub repack: RepackView,
    /// Packs that can't be emptied, read or deleted, with the reason; at most 100.
    pub stuck: Vec<StuckPackView>,
    /// Bytes that nothing needs in packs that are not sparse enough to be repacked.
    pub spared_bytes: u64,
    /// Bytes that come back, with the backlog and all sparse packs.
    pub reclaimable_bytes: u64,
    /// Bytes of records beside these: what still counts of them is written again.
    pub record_bytes: u64,
}

/// What repacking did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepackView {
    /// Packs that were looked at.
    pub packs: u64,
    /// Packs that nothing needs any more.
    pub emptied: PacksView,
    /// Bytes that were read.
    pub read_bytes: u64,
    /// Bytes that were written.
    pub written_bytes: u64,
    /// Recipes that were moved.
    pub recipes: u64,
    /// Frames that could not be read.
    pub unreadable_frames: u64,
    /// Why nothing or not all was done.
    pub problem: Option<String>,
}

/// A pack that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckPackView {
    /// Its id.
    pub pack: String,
    /// Its bytes.
    pub stored_bytes: u64,
    /// Why.
    pub why: String,
}

impl From<GcReport> for GcView {
    fn from(report: GcReport) -> Self {
        Self {
            dry_run: report.dry_run,
            started_at: report.started_at,
            ended_at: report.ended_at,
            caches: report.caches.into_iter().map(Into::into).collect(),
            nars: report.nars,
            aliases: report.aliases,
            documents: report.documents,
            recipes: report.recipes,
            condemned: report.condemned.into(),
            revived: report.revived.into(),
            doomed: report.doomed.into(),
            deleted: report.deleted.into(),
            failed: report.failed.into(),
            carried_records: report.carried_records,
            backlog_condemned: report.backlog.condemned.into(),
            backlog_doomed: report.backlog.doomed.into(),
            lost_record_frames: report.lost_record_frames,
            sparse: PacksView {
                packs: report.sparse.len() as u64,
                stored_bytes: report.sparse.iter().map(|pack| pack.stored_bytes).sum(),
            },
            sparse_dead_bytes: report.sparse.iter().map(|pack| pack.dead_bytes).sum(),
            repack: RepackView {
                packs: report.repacked.done_packs,
                emptied: PacksView {
                    packs: report.repacked.emptied_packs,
                    stored_bytes: report.repacked.emptied_bytes,
                },
                read_bytes: report.repacked.read_bytes,
                written_bytes: report.repacked.written_bytes,
                recipes: report.repacked.recipes,
                unreadable_frames: report.repacked.unreadable_frames,
                problem: report.repack_problem,
            },
            stuck: report.stuck.into_iter().map(Into::into).collect(),
            spared_bytes: report.spared_bytes,
            reclaimable_bytes: report.reclaimable_bytes,
            record_bytes: report.record_bytes,
        }
    }
}

impl From<StuckRow> for StuckPackView {
    fn from(StuckRow { pack, stored_bytes, why }: StuckRow) -> Self {
        Self { pack, stored_bytes, why }
    }
}

impl From<StuckPackView> for StuckRow {
    fn from(StuckPackView { pack, stored_bytes, why }: StuckPackView) -> Self {
        Self { pack, stored_bytes, why }
    }
}

impl From<StuckPack> for StuckPackView {
    fn from(stuck: StuckPack) -> Self {
        Self { pack: stuck.pack.to_string(), stored_bytes: stuck.stored_bytes, why: stuck.why }
    }
}

/// What became of the paths of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheFatesView {
    /// Which cache.
    pub cache: String,
    /// Paths that stay.
    pub kept_paths: u64,
    /// Paths that go.
    pub removed_paths: u64,
    /// NAR bytes of those.
    pub removed_logical_bytes: u64,
    /// Paths that were asked for at the last moment.
    pub rescued_paths: u64,
    /// Stored bytes that what stays needs, whoever else needs them too; only with a quota.
    pub kept_stored_bytes: Option<u64>,
    /// The largest that go.
    pub largest_removed: Vec<FateView>,
    /// The largest that stay; only of a dry run.
    pub largest_kept: Vec<FateView>,
}

impl From<CacheFates> for CacheFatesView {
    fn from(fates: CacheFates) -> Self {
        Self {
            cache: fates.cache.to_string(),
            kept_paths: fates.kept_paths,
            removed_paths: fates.removed_paths,
            removed_logical_bytes: fates.removed_logical_bytes,
            rescued_paths: fates.rescued_paths,
            kept_stored_bytes: fates.kept_stored_bytes,
            largest_removed: fates.largest_removed.into_iter().map(Into::into).collect(),
            largest_kept: fates.largest_kept.into_iter().map(Into::into).collect(),
        }
    }
}

/// What becomes of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FateView {
    /// The path, without its folder.
    pub path: String,
    /// Its NAR's bytes.
    pub nar_size: u64,
    /// Stored bytes that nothing else in the store needs; only of a dry run.
    pub alone_bytes: Option<u64>,
    /// When it became visible.
    pub committed_at: UnixSeconds,
    /// When it, or what refers to it, was last used.
    pub used_at: UnixSeconds,
    /// Whether it stays.
    pub stays: bool,
    /// Why.
    pub why: String,
}

impl From<Fate> for FateView {
    fn from(fate: Fate) -> Self {
        Self {
            path: fate.path.base_name(),
            nar_size: fate.nar_size,
            alone_bytes: fate.alone_bytes,
            committed_at: fate.committed_at,
            used_at: fate.used_at,
            stays: fate.stays,
            why: fate.why,
        }
    }
}

/// Why a path is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// The cache.
    pub cache: String,
    /// What becomes of it.
    pub fate: FateView,
    /// Who uploaded it first: the builder's name.
    pub builder: String,
    /// That builder's token; the operator has none.
    pub token: Option<String>,
    /// The hash of its NAR.
    pub nar_hash: String,
    /// The derivation that made it.
    pub deriver: Option<String>,
    /// Whether its NAR is there and not known to be damaged.
    pub restorable: bool,
    /// When it was last asked for or pushed again itself, since it came.
    pub asked_at: Option<UnixSeconds>,
    /// How many paths refer to it.
    pub referrer_count: u64,
    /// Some of those, the one used last first.
    pub referrers: Vec<String>,
    /// How many paths it refers to.
    pub references: u64,
    /// Pins that keep it.
    pub pins: Vec<String>,
}

impl ExplainView {
    /// Puts an explanation into words.
    pub fn new(cache: &str, found: Explanation) -> Self {
        Self {
            cache: cache.to_owned(),
            fate: found.fate.into(),
            builder: found.row.uploader.builder,
            token: found.row.uploader.token.map(|token| token.to_string()),
            nar_hash: format!("sha256:{}", found.row.nar_hash.to_nix32()),
            deriver: found.row.deriver.map(|path| path.base_name()),
            restorable: found.restorable,
            asked_at: found.asked_at,
            referrer_count: found.referrer_count,
            referrers: found.referrers.iter().map(firn_nix::StorePath::base_name).collect(),
            references: found.row.references.len() as u64,
            pins: found.pins,
        }
    }
}

/// A pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinView {
    /// Its name.
    pub name: String,
    /// The path that it keeps, with what that refers to; without its folder.
    pub path: String,
    /// When it was pinned.
    pub pinned_at: UnixSeconds,
    /// When the pin stops to count.
    pub expires_at: Option<UnixSeconds>,
    /// Who pinned it.
    pub by: String,
}

impl PinView {
    /// Shows a pin.
    pub fn new(name: &PinName, row: &PinRow) -> Self {
        Self {
            name: name.to_string(),
            path: row.path.base_name(),
            pinned_at: row.pinned_at,
            expires_at: row.expires_at,
            by: row.by.builder.clone(),
        }
    }
}
