//! Answers about single paths. Everything blocks.

use std::collections::{HashMap, HashSet, VecDeque};

use firn_api::usage::{
    ConflictDescription, ConflictNote, Difference, DiskUse, EntryKind, FileChange, FileDifference, PathDescription,
    PushDescription, Sharing,
};
use firn_engine::{Engine, Holder, HolderKind, Mark, Usage as Sums};
use firn_index::{CacheName, DifferenceRow, Meta, NarRow, PathRow, PushOutcome, UnixSeconds};
use firn_nix::{Sha256, StoreHash};

use super::Usage;

/// Rows read at a time to find out who refers to a path: some milliseconds' work.
const PAGE: usize = 250;

/// Paths of a closure that are followed at most.
const MAX_CLOSURE: usize = 200_000;

/// Paths that share most with others that are named.
const SHARINGS: usize = 20;

/// Files of a conflict that a report names.
const NOTED_FILES: usize = 5;

/// Files of a difference that are told.
const MAX_FILES: usize = 10_000;

type Result<T> = firn_engine::Result<T>;

/// Returns the sums of pins with the closures of what they pin, named `CACHE/PIN`.
///
/// # Errors
/// Errors of the index.
pub fn pins(mark: &Mark, meta: &dyn Meta, since: UnixSeconds) -> firn_index::Result<Vec<(String, Sums)>> {
    let (mut names, mut groups) = (Vec::new(), Vec::new());
    let mut places: HashMap<(u16, StoreHash), u32> = HashMap::new();
    for (cache, number) in mark.names().caches.iter().zip(0u16..) {
        for (name, row) in meta.pins(cache)? {
            if places.is_empty() {
                let paths = mark.holders().iter().take(mark.paths()).zip(0u32..);
                places = paths.map(|(holder, place)| ((holder.cache, holder.hash), place)).collect();
            }
            let kept = closure(meta, cache, &[row.path.hash()])?;
            let mut group: Vec<u32> = kept.iter().filter_map(|hash| places.get(&(number, *hash)).copied()).collect();
            group.sort_by_key(|place| mark.holders()[*place as usize].at);
            names.push(format!("{cache}/{name}"));
            groups.push(group);
        }
    }
    let slices: Vec<&[u32]> = groups.iter().map(Vec::as_slice).collect();
    let sums = if slices.is_empty() { Vec::new() } else { mark.usage_of(&slices, since) };
    Ok(names.into_iter().zip(sums).collect())
}

/// Returns the hashes of paths and of all that they refer to, as far as the cache has it.
///
/// # Errors
/// Errors of the index.
pub fn closure(meta: &dyn Meta, cache: &CacheName, roots: &[StoreHash]) -> firn_index::Result<Vec<StoreHash>> {
    let mut seen: HashSet<StoreHash> = roots.iter().copied().collect();
    let mut ahead: VecDeque<StoreHash> = roots.iter().copied().collect();
    let mut found = Vec::new();
    while let Some(hash) = ahead.pop_front().filter(|_| found.len() < MAX_CLOSURE) {
        let Some(row) = meta.path(cache, &hash)? else { continue };
        found.push(hash);
        ahead.extend(row.references.iter().map(firn_nix::StorePath::hash).filter(|hash| seen.insert(*hash)));
    }
    Ok(found)
}

/// Returns what some paths of a cache take together, and who shares it; `may_name` says whose paths may be named.
///
/// # Errors
/// Errors of engine and index; [`firn_engine::Error::NotFound`] for a path that is not there.
pub fn disk_use(
    usage: &Usage,
    engine: &Engine,
    cache: &CacheName,
    paths: &[StoreHash],
    with_closure: bool,
    now: UnixSeconds,
    may_name: &dyn Fn(&CacheName) -> bool,
) -> Result<DiskUse> {
    for hash in paths {
        if engine.meta().path(cache, hash)?.is_none() {
            return Err(firn_engine::Error::NotFound { what: format!("the path {hash} in cache '{cache}'") });
        }
    }
    let all = if with_closure { closure(engine.meta(), cache, paths)? } else { paths.to_vec() };
    // A path that was pushed since the kept pass began is not in it.
    let mut mark = usage.recent_mark(engine, now)?;
    if all.iter().any(|hash| mark.path(cache, hash).is_none()) {
        mark = usage.mark(engine, now)?;
    }
    disk_use_in(&mark, engine, cache, &all, may_name)
}

/// Does as [`disk_use`] with a pass at hand; paths that it did not see count for nothing.
///
/// # Errors
/// Errors of the index.
pub fn disk_use_in(
    mark: &Mark,
    engine: &Engine,
    cache: &CacheName,
    paths: &[StoreHash],
    may_name: &dyn Fn(&CacheName) -> bool,
) -> Result<DiskUse> {
    let chosen: HashSet<StoreHash> = paths.iter().copied().collect();
    let number = mark.names().cache_number(cache);
    let is_chosen = |holder: &Holder| {
        holder.kind == HolderKind::Path && Some(holder.cache) == number && chosen.contains(&holder.hash)
    };
    let order: Vec<u32> = (0..).zip(mark.holders()).filter(|(_, holder)| is_chosen(holder)).map(|(at, _)| at).collect();
    let sums = mark.usage_of(&[&order], 0).pop().unwrap_or_default();
    let freed = mark.freed_by(is_chosen);
    let chunks = mark.chunks_of(order.iter().map(|at| &mark.holders()[*at as usize]));
    let mut sharing: Vec<(u64, &Holder)> = mark
        .holders()
        .iter()
        .filter(|holder| holder.kind == HolderKind::Path && !is_chosen(holder))
        .filter(|holder| mark.names().caches.get(usize::from(holder.cache)).is_some_and(may_name))
        .map(|holder| (mark.shared_bytes(&chunks, holder), holder))
        .filter(|(bytes, _)| *bytes > 0)
        .collect();
    sharing.sort_by_key(|(bytes, holder)| (std::cmp::Reverse(*bytes), holder.cache, holder.hash));
    sharing.truncate(SHARINGS);
    let mut shares_with = Vec::new();
    for (stored_bytes, holder) in sharing {
        let Some(cache) = mark.names().caches.get(usize::from(holder.cache)) else { continue };
        if let Some(row) = engine.meta().path(cache, &holder.hash)? {
            shares_with.push(Sharing { path: row.path.base_name(), cache: cache.to_string(), stored_bytes });
        }
    }
    Ok(DiskUse {
        at: mark.at,
        paths: sums.paths,
        logical_bytes: sums.logical_bytes,
        unique_bytes: sums.unique_bytes,
        stored_bytes: sums.stored_bytes,
        exclusive_bytes: freed.stored_bytes,
        shares_with,
    })
}

fn nar_of(engine: &Engine, cache: &CacheName, hash: &StoreHash) -> Result<(PathRow, NarRow)> {
    let absent = || firn_engine::Error::NotFound { what: format!("the path {hash} in cache '{cache}'") };
    let row = engine.meta().path(cache, hash)?.ok_or_else(absent)?;
    let nar = engine.meta().nar(cache, &row.nar_hash)?.ok_or_else(absent)?;
    Ok((row, nar))
}

/// Returns what changed from one path of a cache to another.
///
/// # Errors
/// Errors of engine and index; [`firn_engine::Error::NotFound`].
pub fn difference(engine: &Engine, cache: &CacheName, from: &StoreHash, to: &StoreHash) -> Result<Difference> {
    let (from, to) = (nar_of(engine, cache, from)?.1, nar_of(engine, cache, to)?.1);
    difference_of(engine, &from, &to)
}

fn difference_of(engine: &Engine, from: &NarRow, to: &NarRow) -> Result<Difference> {
    let found = engine.difference(from, to)?;
    let mut files: Vec<FileDifference> = found.files.iter().map(file).collect();
    files.sort_by(|a, b| (b.new_bytes, &a.path).cmp(&(a.new_bytes, &b.path)));
    files.truncate(MAX_FILES);
    Ok(Difference {
        from_bytes: from.nar_size,
        to_bytes: to.nar_size,
        new_bytes: found.new_bytes,
        files,
        is_partial: found.is_partial,
    })
}

/// Returns what differs between a path's NAR and another one that was offered: what was recorded or, while both are held,
/// what is found now if they `may_compare`, which takes a while and is done once; `None` if neither can be had.
fn offered_difference(
    engine: &Engine,
    cache: &CacheName,
    row: &PathRow,
    offered: &Sha256,
    may_compare: &mut bool,
) -> Result<Option<DifferenceRow>> {
    let hash = row.path.hash();
    // What can't be read says nothing of the path itself.
    let unreadable = |error: firn_engine::Error| {
        let error = crate::error_chain(&error);
        tracing::warn!(%cache, path = %row.path, error, "what differs between two NARs of a path can't be read");
    };
    match engine.recorded_difference(cache, &hash, &row.nar_hash, offered) {
        Ok(None) => {}
        Ok(found) => return Ok(found),
        Err(error) => unreadable(error),
    }
    let (first, other) = (engine.meta().nar(cache, &row.nar_hash)?, engine.meta().nar(cache, offered)?);
    let Some((first, other)) = first.zip(other).filter(|_| std::mem::take(may_compare)) else { return Ok(None) };
    let found = engine.difference(&first, &other).map_err(unreadable).ok();
    Ok(found.map(|found| DifferenceRow::new(row.nar_hash, found.new_bytes, found.files, found.is_partial)))
}

/// Returns what the newest offer of another NAR for a path was, with some files that differ.
///
/// # Errors
/// Errors of the index.
pub fn newest_conflict(engine: &Engine, cache: &CacheName, row: &PathRow) -> Result<Option<ConflictNote>> {
    let Some(other) = row.conflicts.iter().max_by_key(|other| other.at) else { return Ok(None) };
    // The first report after an upgrade need not compare a hundred NARs: what is recorded is enough.
    let recorded = engine.recorded_difference(cache, &row.path.hash(), &row.nar_hash, &other.nar_hash);
    let found = recorded.ok().flatten();
    let names = found.iter().flat_map(|found| &found.files).take(NOTED_FILES);
    Ok(Some(ConflictNote {
        at: other.at,
        path: row.path.base_name(),
        cache: cache.to_string(),
        builder: row.uploader.builder.clone(),
        other_builder: other.uploader.builder.clone(),
        files: names.map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect(),
        files_total: found.as_ref().map(|found| found.total),
        is_partial: found.is_some_and(|found| found.is_partial),
    }))
}

fn file(found: &firn_index::FileDifference) -> FileDifference {
    let kind = |facts: firn_index::EntryFacts| match facts.kind {
        firn_index::EntryKind::Directory => EntryKind::Directory,
        firn_index::EntryKind::Symlink => EntryKind::Symlink,
        firn_index::EntryKind::File => EntryKind::File,
        firn_index::EntryKind::Executable => EntryKind::Executable,
    };
    let length = |facts: firn_index::EntryFacts| facts.bytes;
    FileDifference {
        path: String::from_utf8_lossy(&found.path).into_owned(),
        change: match (found.from, found.to) {
            (None, _) => FileChange::Added,
            (Some(_), None) => FileChange::Removed,
            (Some(_), Some(_)) => FileChange::Changed,
        },
        from_bytes: found.from.map(length),
        to_bytes: found.to.map(length),
        from_kind: found.from.map(kind),
        to_kind: found.to.map(kind),
        new_bytes: found.new_bytes,
    }
}

fn hash_text(hash: &Sha256) -> String {
    format!("sha256:{}", hash.to_nix32())
}

/// Describes a path; who pushed it, and what was offered instead, only `with_pushes`.
///
/// # Errors
/// Errors of engine and index; [`firn_engine::Error::NotFound`].
pub fn path(engine: &Engine, cache: &CacheName, hash: &StoreHash, with_pushes: bool) -> Result<PathDescription> {
    let (row, _) = nar_of(engine, cache, hash)?;
    let (mut conflicts, mut may_compare) = (Vec::new(), true);
    for conflict in row.conflicts.iter().filter(|_| with_pushes) {
        let found = if conflict.nar_hash == row.nar_hash {
            None
        } else {
            offered_difference(engine, cache, &row, &conflict.nar_hash, &mut may_compare)?
        };
        conflicts.push(ConflictDescription {
            at: conflict.at,
            builder: conflict.uploader.builder.clone(),
            nar_hash: hash_text(&conflict.nar_hash),
            nar_bytes: conflict.nar_size,
            files_total: found.as_ref().map(|found| found.total),
            is_partial: found.as_ref().is_some_and(|found| found.is_partial),
            files: found.map(|found| found.files.iter().map(file).collect()),
        });
    }
    let provenance = if with_pushes { engine.meta().provenance(cache, hash)? } else { None };
    let pushes = provenance.unwrap_or_default().pushes.into_iter().map(|push| PushDescription {
        at: push.at,
        builder: push.uploader.builder,
        token: push.uploader.token.map(|token| token.to_string()),
        address: push.address,
        nar_hash: hash_text(&push.nar_hash),
        signed_by: push.signed_by,
        outcome: match push.outcome {
            PushOutcome::Created => "created".to_owned(),
            PushOutcome::Merged => "merged".to_owned(),
            PushOutcome::Conflict => "conflict".to_owned(),
        },
    });
    Ok(PathDescription {
        path: row.path.base_name(),
        cache: cache.to_string(),
        nar_hash: hash_text(&row.nar_hash),
        nar_bytes: row.nar_size,
        references: row.references.iter().map(firn_nix::StorePath::base_name).collect(),
        deriver: row.deriver.as_ref().map(firn_nix::StorePath::base_name),
        ca: row.ca,
        signatures: row.signatures,
        committed_at: row.committed_at,
        builder: if with_pushes { row.uploader.builder } else { String::new() },
        pushes: pushes.collect(),
        conflicts,
    })
}

/// Returns the paths of a cache that refer to one, at most `most`, and whether these are all: it is looked through while there
/// is time, which is asked after each 250 rows.
///
/// # Errors
/// Errors of the index.
pub fn referrers(
    meta: &dyn Meta,
    cache: &CacheName,
    hash: &StoreHash,
    most: usize,
    has_time: &dyn Fn() -> bool,
) -> firn_index::Result<(Vec<PathRow>, bool)> {
    let (mut found, mut after) = (Vec::new(), None);
    let refers = |row: &PathRow| row.path.hash() != *hash && row.references.iter().any(|to| to.hash() == *hash);
    loop {
        let page = meta.paths(cache, after, PAGE)?;
        let is_last = page.len() < PAGE;
        after = page.last().map(|(hash, _)| *hash);
        found.extend(page.into_iter().map(|(_, row)| row).filter(refers));
        if is_last || found.len() > most || !has_time() {
            let is_whole = is_last && found.len() <= most;
            found.truncate(most);
            return Ok((found, is_whole));
        }
    }
}
