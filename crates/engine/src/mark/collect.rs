//! The pass itself: rows, then packs, then recipes.

use firn_chunk::{ChunkId, RecipeId};
use firn_index::{CacheName, Content, Meta, NarRow, PackState, UnixSeconds};
use firn_nix::{Sha256, StoreHash};
use firn_pack::{DecodedFrame, Footer, FrameKind, FrameLoc, PackId};

use super::chunks::BaseIds;
use super::holders::{Holder, HolderKind, NO_RECIPE, Names, Numbering};
use super::{ChunkTable, MAX_CONFLICTS, Mark, MarkedConflict, MarkedRecipe, Span};
use crate::engine::Shared;
use crate::gc::short;
use crate::placement::Placement;
use crate::recipes::recipe_of;
use crate::{Result, spans};

/// Rows read at a time.
const PAGE: usize = 1024;

/// Recipes between two questions whether to stop.
const STOP_EVERY: usize = 256;

/// What packages and builders are called that nothing is known of.
const UNKNOWN: &str = "";

/// A recipe's row, as far as it is needed.
struct Row {
    id: RecipeId,
    record: FrameLoc,
    length: u64,
    is_damaged: bool,
}

/// Runs a pass; `None` when `stop` said so. See [`Mark`] for what is consistent with what.
pub(crate) fn collect(shared: &Shared, stop: &dyn Fn() -> bool) -> Result<Option<Mark>> {
    let _span = tracing::info_span!(target: spans::TARGET, "mark").entered();
    let at = shared.packs.clock.now();
    let meta = shared.packs.meta.as_ref();
    let recipes = recipe_rows(meta)?;
    let Some(rows) = Rows::read(meta, &recipes, stop)? else { return Ok(None) };
    let Some((table, missing_bases)) = read_packs(shared, stop)? else { return Ok(None) };
    let is_held = rows.held(recipes.len());
    let mut spans = Spans { table: &table, shared, missing: missing_bases, missing_recipes: 0, scratch: Vec::new() };
    let Some((recipes, spans_of)) = spans.read_all(recipes, &is_held, stop)? else { return Ok(None) };
    Ok(Some(Mark {
        at,
        missing_chunks: spans.missing,
        missing_recipes: spans.missing_recipes,
        distinct_nar_bytes: rows.distinct_nar_bytes,
        names: rows.names,
        holders: rows.holders,
        conflicts: rows.conflicts,
        recipes,
        spans: spans_of,
        table,
    }))
}

fn recipe_rows(meta: &dyn Meta) -> Result<Vec<Row>> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = meta.recipes(after, PAGE)?;
        rows.extend(page.iter().map(|(id, row)| Row {
            id: *id,
            record: row.record,
            length: row.length,
            is_damaged: row.damaged_at.is_some(),
        }));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(rows),
        }
    }
}

/// What the caches hold.
struct Rows {
    names: Names,
    holders: Vec<Holder>,
    conflicts: Vec<MarkedConflict>,
    distinct_nar_bytes: u64,
}

/// Paths as they are read, and the names met meanwhile.
#[derive(Default)]
struct Paths {
    paths: Vec<Holder>,
    conflicts: Vec<MarkedConflict>,
    builders: Numbering,
    packages: Numbering,
}

/// A NAR of a cache: its hash, the number of its recipe, and what a holder needs to know should no path name it.
struct MarkedNar {
    hash: Sha256,
    recipe: u32,
    bytes: u64,
    uploaded_at: UnixSeconds,
    lease_until: UnixSeconds,
    is_named: bool,
}

impl Rows {
    fn read(meta: &dyn Meta, recipes: &[Row], stop: &dyn Fn() -> bool) -> Result<Option<Self>> {
        let caches: Vec<CacheName> = meta.caches()?.into_iter().map(|(name, _)| name).collect();
        let mut found = Paths::default();
        found.builders.number(UNKNOWN);
        found.packages.number(UNKNOWN);
        let (mut others, mut nars_of_all) = (Vec::new(), Vec::new());
        for (cache, number) in caches.iter().zip(0..) {
            if stop() {
                return Ok(None);
            }
            let mut nars = nars(meta, cache, recipes)?;
            found.read(meta, cache, number, &mut nars)?;
            nars_of_all.extend(nars.iter().map(|nar| (*nar.hash.0.first_chunk::<16>().expect("16 of 32"), nar.bytes)));
            others.extend(nars.iter().filter(|nar| !nar.is_named).map(|nar| Holder {
                kind: HolderKind::Nar,
                hash: StoreHash([0; 20]),
                cache: number,
                builder: 0,
                package: 0,
                bytes: nar.bytes,
                at: nar.uploaded_at,
                lease_until: nar.lease_until,
                recipe: nar.recipe,
            }));
            read_documents(meta, cache, number, recipes, &mut others, &mut found.builders)?;
        }
        others.sort_by_key(|holder| holder.kind);
        let Paths { mut paths, conflicts, builders, packages } = found;
        paths.append(&mut others);
        nars_of_all.sort_unstable();
        nars_of_all.dedup_by_key(|(hash, _)| *hash);
        Ok(Some(Self {
            names: Names { caches, builders: builders.into_names(), packages: packages.into_names() },
            holders: paths,
            conflicts,
            distinct_nar_bytes: nars_of_all.iter().map(|(_, bytes)| bytes).sum(),
        }))
    }

    /// Returns, for each of so many recipes, whether somebody holds it.
    fn held(&self, recipes: usize) -> Vec<bool> {
        let mut held = vec![false; recipes];
        for recipe in self.holders.iter().filter_map(Holder::recipe) {
            held[recipe] = true;
        }
        held
    }
}

fn number_of(recipes: &[Row], id: &RecipeId) -> u32 {
    let at = recipes.binary_search_by_key(id, |row| row.id).ok();
    at.and_then(|at| u32::try_from(at).ok()).unwrap_or(NO_RECIPE)
}

fn nars(meta: &dyn Meta, cache: &CacheName, recipes: &[Row]) -> Result<Vec<MarkedNar>> {
    let (mut nars, mut after) = (Vec::new(), None);
    loop {
        let page = meta.nars(cache, after, PAGE)?;
        nars.extend(page.iter().map(|(hash, NarRow { recipe, nar_size, uploaded_at, lease_until, .. })| MarkedNar {
            hash: *hash,
            recipe: number_of(recipes, recipe),
            bytes: *nar_size,
            uploaded_at: *uploaded_at,
            lease_until: *lease_until,
            is_named: false,
        }));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(nars),
        }
    }
}

impl Paths {
    /// Reads the paths of a cache; marks the NARs that they name.
    fn read(&mut self, meta: &dyn Meta, cache: &CacheName, number: u16, nars: &mut [MarkedNar]) -> Result<()> {
        let mut after = None;
        loop {
            let page = meta.paths(cache, after, PAGE)?;
            for (hash, row) in &page {
                let nar = nars.binary_search_by_key(&row.nar_hash, |nar| nar.hash).ok();
                let nar = nar.and_then(|at| nars.get_mut(at));
                let recipe = nar.map_or(NO_RECIPE, |nar| {
                    nar.is_named = true;
                    nar.recipe
                });
                self.paths.push(Holder {
                    kind: HolderKind::Path,
                    hash: *hash,
                    cache: number,
                    builder: self.builders.number(&row.uploader.builder),
                    package: self.packages.number(row.path.package()),
                    bytes: row.nar_size,
                    at: row.committed_at,
                    lease_until: 0,
                    recipe,
                });
                let last = row.conflicts.iter().map(|conflict| conflict.at).max();
                if let Some(at) = last.filter(|_| self.conflicts.len() < MAX_CONFLICTS) {
                    self.conflicts.push(MarkedConflict { cache: number, hash: *hash, at });
                }
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }
}

fn read_documents(
    meta: &dyn Meta,
    cache: &CacheName,
    number: u16,
    recipes: &[Row],
    documents: &mut Vec<Holder>,
    builders: &mut Numbering,
) -> Result<()> {
    let mut after = None;
    loop {
        let page = meta.documents(cache, after.as_ref(), PAGE)?;
        for (_, row) in &page {
            let Content::Recipe { recipe, length, .. } = &row.content else { continue };
            documents.push(Holder {
                kind: HolderKind::Document,
                hash: StoreHash([0; 20]),
                cache: number,
                builder: builders.number(&row.uploader.builder),
                package: 0,
                bytes: *length,
                at: row.written_at,
                lease_until: 0,
                recipe: number_of(recipes, recipe),
            });
        }
        let is_full = page.len() == PAGE;
        match page.into_iter().last() {
            Some((last, _)) if is_full => after = Some(last),
            _ => return Ok(()),
        }
    }
}

/// Reads the list of frames of every pack, twice if there are delta frames: their bases are known by id only.
fn read_packs(shared: &Shared, stop: &dyn Fn() -> bool) -> Result<Option<(ChunkTable, u64)>> {
    let (mut table, mut ids) = (ChunkTable::default(), BaseIds::default());
    let (mut after, mut packs) = (None, Vec::new());
    loop {
        let page = shared.packs.meta.packs(after, PAGE)?;
        packs.extend(page.iter().map(|(id, row)| (*id, row.state)));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => break,
        }
    }
    for (id, state) in &packs {
        if stop() {
            return Ok(None);
        }
        match footer(shared, *id, *state)? {
            Listed::Frames(footer, stored_bytes) => table.add(&footer, stored_bytes, &mut ids)?,
            Listed::Unread(stored_bytes) => table.add_unread(stored_bytes),
            Listed::Gone => {}
        }
    }
    let mut index = ChunkTable::base_index(&ids);
    if !index.is_empty() {
        for (id, state) in &packs {
            if stop() {
                return Ok(None);
            }
            if let Listed::Frames(footer, _) = footer(shared, *id, *state)? {
                index.fill(&table, &footer);
            }
        }
    }
    let missing = table.resolve(ids, &index);
    Ok(Some((table, missing)))
}

enum Listed {
    Frames(Footer, u64),
    Unread(u64),
    Gone,
}

/// Returns what a pack holds, the open one included.
fn footer(shared: &Shared, pack: PackId, state: PackState) -> Result<Listed> {
    if state == PackState::Writing
        && let Some(open) = shared.packs.open_footer(pack)
    {
        return Ok(Listed::Frames(open.list()?, open.len));
    }
    let Some(len) = shared.packs.len_of(pack)? else { return Ok(Listed::Gone) };
    match shared.packs.footer(pack) {
        Ok(Some(footer)) => Ok(Listed::Frames(footer, len)),
        Ok(None) => Ok(Listed::Gone),
        Err(error) if error.is_of_pack() => {
            tracing::warn!(%pack, error = crate::error::chain(&error), "a pack's footer can't be read; its chunks are not counted");
            Ok(Listed::Unread(len))
        }
        Err(error) => Err(error),
    }
}

/// Reads recipes and finds what they need in the table.
struct Spans<'a> {
    table: &'a ChunkTable,
    shared: &'a Shared,
    missing: u64,
    missing_recipes: u64,
    scratch: Vec<Span>,
}

impl Spans<'_> {
    /// Reads the recipes that are held, in the order in which they lie; the others need nothing.
    fn read_all(
        &mut self,
        rows: Vec<Row>,
        is_held: &[bool],
        stop: &dyn Fn() -> bool,
    ) -> Result<Option<(Vec<MarkedRecipe>, Vec<Span>)>> {
        let mut order: Vec<u32> =
            (0..).zip(is_held).filter(|(_, is_held)| **is_held).map(|(number, _)| number).collect();
        order.sort_unstable_by_key(|number| rows[*number as usize].record);
        // In the order of reading; brought into that of ids below.
        let (mut read, mut places) = (Vec::new(), vec![(0u64, 0u32, 0u32); rows.len()]);
        for (step, number) in order.into_iter().enumerate() {
            if step % STOP_EVERY == 0 && stop() {
                return Ok(None);
            }
            let from = read.len() as u64;
            let own = self.read(&rows[number as usize], &mut read)?;
            places[number as usize] = (from, own, (read.len() as u64 - from) as u32);
        }
        let mut spans = Vec::with_capacity(read.len());
        let recipes = rows.into_iter().zip(places).map(|(row, (from, own_spans, count))| {
            let spans_from = spans.len() as u64;
            spans.extend_from_slice(&read[from as usize..][..count as usize]);
            MarkedRecipe {
                id: short(&row.id.0),
                length: row.length,
                record_bytes: row.record.len,
                record_pack: self.table.number_of(&row.record.pack),
                spans_from,
                own_spans,
                is_damaged: row.is_damaged,
            }
        });
        let recipes = recipes.collect();
        Ok(Some((recipes, spans)))
    }

    /// Adds a recipe's spans, its own chunks' first; returns how many these are.
    fn read(&mut self, row: &Row, out: &mut Vec<Span>) -> Result<u32> {
        let frame = match self.shared.frames.read_record(row.record) {
            Ok(frame) => frame,
            Err(error) if error.is_of_pack() => {
                tracing::warn!(recipe = %row.id, error = crate::error::chain(&error), "a recipe can't be read; its chunks are not counted");
                self.missing_recipes += 1;
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        let placement = frame.item(1).filter(|_| frame.kind == FrameKind::Recipe).and_then(Placement::decode);
        let Some(placement) = placement else {
            self.missing_recipes += 1;
            return Ok(0);
        };
        let (mut own, mut bases) = (std::mem::take(&mut self.scratch), Vec::new());
        let mut last_frame = None;
        let mut stale = Vec::new();
        let mut chunk = 0usize;
        for run in &placement.runs {
            let found = self.table.frame(&run.frame).and_then(|frame| {
                let is_same = self.table.frame_len(frame) == run.frame.len;
                Some((frame, self.table.span(frame, run.first, run.count).filter(|_| is_same)?))
            });
            match found {
                Some((frame, span)) => {
                    own.push(span);
                    if last_frame.replace(frame) != Some(frame) {
                        self.table.add_bases(frame, &mut bases);
                    }
                }
                None => stale.push(chunk..chunk + run.count as usize),
            }
            chunk += run.count as usize;
        }
        if !stale.is_empty() {
            self.find_by_id(&frame, &placement, &stale, &mut own, &mut bases)?;
        }
        merge(&mut own);
        merge(&mut bases);
        out.extend_from_slice(&own);
        out.extend_from_slice(&bases);
        let count = own.len() as u32;
        own.clear();
        self.scratch = own;
        Ok(count)
    }

    /// Looks chunks up that are not where the placement says: they were written anew elsewhere.
    fn find_by_id(
        &mut self,
        frame: &DecodedFrame,
        placement: &Placement,
        stale: &[std::ops::Range<usize>],
        own: &mut Vec<Span>,
        bases: &mut Vec<Span>,
    ) -> Result<()> {
        let recipe = match recipe_of(&self.shared.frames, frame, placement) {
            Ok(recipe) => recipe,
            Err(error) if error.is_of_pack() => {
                self.missing_recipes += 1;
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let chunks = stale.iter().flat_map(|range| recipe.chunks.get(range.clone()).unwrap_or_default());
        let ids: Vec<ChunkId> = chunks.map(|chunk| chunk.id).collect();
        for loc in self.shared.packs.find_all(&ids)? {
            match loc.and_then(|loc| self.table.find(&loc)) {
                Some((frame, span)) => {
                    own.push(span);
                    self.table.add_bases(frame, bases);
                }
                None => self.missing += 1,
            }
        }
        Ok(())
    }
}

/// Sorts spans and joins those that touch or overlap.
pub(super) fn merge(spans: &mut Vec<Span>) {
    spans.sort_unstable();
    spans.dedup_by(|next, last| {
        let end = last.first + last.count;
        let joins = next.first <= end;
        if joins {
            last.count = end.max(next.first + next.count) - last.first;
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_that_touch_are_joined() {
        let span = |first, count| Span { first, count };
        let mut spans = vec![span(9, 1), span(0, 2), span(2, 3), span(3, 1), span(7, 2)];
        merge(&mut spans);
        assert_eq!(spans, [span(0, 5), span(7, 3)]);
    }
}
