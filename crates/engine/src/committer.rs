//! Group commit: one thread makes uploads durable and visible, many at a time with one wait for the disk.
//!
//! A group is taken off the queue, its records are appended to the open pack, the pack is synced once, and the index
//! is once. Decisions that depend on what the cache has (which NAR a path gets) are made here, one after the other.

mod removal;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use firn_chunk::RecipeId;
use firn_index::{
    AliasRow, CacheName, Commit, DocumentKey, DocumentRow, NarRow, Op, PathRow, RecipeRow, ReferencePolicy, Refusal,
    SessionId, Totals, UnixSeconds,
};
use firn_nix::{Sha256, StoreHash, StorePath};
use firn_pack::{FrameLoc, PackId};

use crate::commit::{Decision, PathOutcome, PathUpload, decide, push_record, warn_of_conflict};
use crate::ingest::{NewRecipe, Session};
use crate::measures::Commits;
use crate::orders::{frame_after, group_after, opening_after};
use crate::packs::{Lane, Packs};
use crate::placement::Placement;
use crate::records::{Record, RecordEncoder};
use crate::{Error, Result};

pub(crate) use removal::{Removal, Removals, Rescued};

/// Requests that wait at most; whoever sends more waits too.
pub(crate) const QUEUE: usize = 1024;

/// Changes from which on a group takes no more requests.
const GROUP: usize = 256;

/// Changes that one request has at most.
pub(crate) const REQUEST_CHANGES: usize = 1024;

/// Bytes of records in one frame, unless a single one is longer.
const RECORD_FRAME_BYTES: usize = 4 << 20;

/// Changes to make durable together.
pub(crate) struct Request {
    pub(crate) changes: Vec<Change>,
    pub(crate) reply: SyncSender<Outcomes>,
}

/// What became of a request's changes, in their order; an error when the whole group failed.
type Outcomes = Result<Vec<Result<PathOutcome>>>;

/// What to change.
pub(crate) enum Change {
    Nar {
        cache: CacheName,
        hash: Sha256,
        row: NarRow,
        alias: Option<(String, AliasRow)>,
        new: Stored,
    },
    Path {
        cache: CacheName,
        upload: Box<PathUpload>,
    },
    Pushed {
        cache: CacheName,
        upload: Box<PathUpload>,
        nar: PushedNar,
    },
    Document {
        cache: CacheName,
        key: DocumentKey,
        row: DocumentRow,
        new: Option<(RecipeId, Stored)>,
    },
    Damaged {
        recipe: RecipeId,
        record: FrameLoc,
    },
    /// Takes the mark of a recipe back that can be restored after all.
    Whole {
        recipe: RecipeId,
        record: FrameLoc,
    },
    Move(Box<MovedRecipe>),
    /// What a sweep found; see [`removal`].
    Remove(Arc<Removals>),
    /// Records of a pack that is about to go, each with the number of the frame that it was first written in.
    Carry {
        records: Vec<(u64, Record)>,
        keep_gone: bool,
    },
    /// A cache that was deleted from the index.
    CacheGone(CacheName),
}

impl Change {
    /// Returns the cache that must be there.
    fn cache(&self) -> Option<&CacheName> {
        match self {
            Self::Nar { cache, .. }
            | Self::Path { cache, .. }
            | Self::Pushed { cache, .. }
            | Self::Document { cache, .. } => Some(cache),
            Self::Damaged { .. }
            | Self::Whole { .. }
            | Self::Move(_)
            | Self::Remove(_)
            | Self::Carry { .. }
            | Self::CacheGone(_) => None,
        }
    }

    /// Returns whether it must see in the index what every change before it did, and so shares no group.
    fn is_alone(&self) -> bool {
        match self {
            Self::Remove(_) | Self::Carry { .. } | Self::CacheGone(_) => true,
            Self::Nar { .. }
            | Self::Path { .. }
            | Self::Pushed { .. }
            | Self::Document { .. }
            | Self::Damaged { .. }
            | Self::Whole { .. }
            | Self::Move(_) => false,
        }
    }
}

/// A recipe whose chunks were rewritten.
pub(crate) struct MovedRecipe {
    pub(crate) id: RecipeId,
    /// The record that it was read from: if it has another by now, it stays.
    pub(crate) from: FrameLoc,
    pub(crate) encoded: Vec<u8>,
    pub(crate) placement: Placement,
    pub(crate) length: u64,
    pub(crate) chunks: u64,
    /// What keeps the frames that were written for it.
    pub(crate) session: SessionId,
    pub(crate) lane: Lane,
}

/// What an ingest stored, and the session that protects it.
pub(crate) struct Stored {
    pub(crate) new_recipe: Option<NewRecipe>,
    pub(crate) session: Session,
}

/// A NAR that comes together with its path, and its recipe if that was new when the NAR was assembled.
pub(crate) struct PushedNar {
    pub(crate) row: NarRow,
    pub(crate) new_recipe: Option<NewRecipe>,
}

/// Sends changes, at most [`REQUEST_CHANGES`], and waits for them. The queue is bounded, and so is each group's work.
pub(crate) fn submit(queue: &SyncSender<Request>, changes: Vec<Change>) -> Outcomes {
    let (reply, answer) = sync_channel(1);
    let gone = |_| Error::WritesStopped("the store is being closed".to_owned());
    queue.send(Request { changes, reply }).map_err(|_| gone(()))?;
    answer.recv().map_err(|_| gone(()))?
}

/// The thread's work, until every sender is gone.
pub(crate) fn run(packs: &Arc<Packs>, encoder: RecordEncoder, queue: &Receiver<Request>, commits: &Commits) {
    let mut writer = Writer { encoder, order: None, is_begun: false };
    let mut held = None;
    while let Some(first) = held.take().or_else(|| queue.recv().ok()) {
        let is_alone = |request: &Request| request.changes.iter().any(Change::is_alone);
        let is_open = !is_alone(&first);
        let (mut changes, mut replies) = (first.changes, vec![(first.reply, 0)]);
        while is_open
            && changes.len() < GROUP
            && let Ok(mut next) = queue.try_recv()
        {
            if is_alone(&next) {
                held = Some(next);
                break;
            }
            replies.push((next.reply, changes.len()));
            changes.append(&mut next.changes);
        }
        commits.group(changes.len() as u64);
        let committed = Group::new(packs, &mut writer).commit(&changes);
        // Sessions hold the engine: whoever has the answer may drop what he has and open the storage again.
        drop(changes);
        match committed {
            Ok(mut outcomes) => replies.iter().rev().for_each(|(reply, from)| {
                // Whoever asked may have gone; what was done stays done.
                let _ = reply.send(Ok(outcomes.split_off(*from)));
            }),
            Err(error) => {
                writer.order = None;
                fail(replies.iter().map(|(reply, _)| reply), &error);
            }
        }
    }
}

/// Tells everybody of a group that the disk or the index failed; only one can have the error itself.
fn fail<'a>(replies: impl Iterator<Item = &'a SyncSender<Outcomes>>, error: &Error) {
    tracing::error!(%error, source = std::error::Error::source(error).map(tracing::field::display), "commit failed");
    for reply in replies {
        let _ = reply.send(Err(error.for_another()));
    }
}

/// Divides records into runs of which each fits a frame: mostly one, but a row may be long and a group is large.
fn frames_of(records: &[Vec<u8>]) -> impl Iterator<Item = &[Vec<u8>]> {
    let mut rest = records;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|record| {
            bytes += record.len();
            bytes <= RECORD_FRAME_BYTES
        });
        let (run, after) = rest.split_at(fits.count().max(1).min(rest.len()));
        rest = after;
        (!run.is_empty()).then_some(run)
    })
}

/// What makes frames of records, from group to group.
struct Writer {
    encoder: RecordEncoder,
    /// The number of the last record frame; `None` before the first one of this opening of the store, and when a group failed.
    order: Option<u64>,
    /// Whether the present group has a number.
    is_begun: bool,
}

impl Writer {
    /// Appends a frame of records, with a number above those of all frames before it.
    ///
    /// Every opening has numbers of its own, durably so before the first is used, and so has what comes after a group that
    /// failed: frames whose commit failed or was never reached are in packs too, and none of them may outrank what came
    /// later, nor be taken for one that was acknowledged.
    fn append(&mut self, packs: &Packs, records: &[Vec<u8>]) -> Result<()> {
        let number =
            match self.order.and_then(|last| if self.is_begun { Some(frame_after(last)) } else { group_after(last) }) {
                Some(number) => number,
                None => {
                    let first = opening_after(packs.meta.record_order()?);
                    let commit = Commit { session: None, packs: Vec::new(), ops: vec![Op::RecordOrder(first)] };
                    packs.meta.commit(packs.clock.now(), &[commit])?;
                    group_after(first).unwrap_or(first)
                }
            };
        (self.order, self.is_begun) = (Some(number), true);
        let order = Record::Order(number).encode();
        packs.append_records(&mut self.encoder, std::iter::once(&order).chain(records))
    }
}

/// One group on its way.
struct Group<'a> {
    packs: &'a Packs,
    writer: &'a mut Writer,
    commits: Vec<Commit>,
    records: Vec<Vec<u8>>,
    /// Records that have a number from before.
    carried: Vec<(u64, Vec<u8>)>,
    /// Recipes that this group writes, so that two uploads of the same content store one.
    recipes: BTreeMap<RecipeId, RecipeRow>,
    /// NARs that this group writes, with what the commits that do lean on.
    nars: BTreeMap<(CacheName, Sha256), (NarRow, Vec<PackId>)>,
    /// Paths as they will be after the changes before, with what the commits of these lean on.
    paths: BTreeMap<(CacheName, StoreHash), (PathRow, Vec<PackId>)>,
    now: u64,
}

impl<'a> Group<'a> {
    fn new(packs: &'a Packs, writer: &'a mut Writer) -> Self {
        writer.is_begun = false;
        Self {
            packs,
            writer,
            commits: Vec::new(),
            records: Vec::new(),
            carried: Vec::new(),
            recipes: BTreeMap::new(),
            nars: BTreeMap::new(),
            paths: BTreeMap::new(),
            now: packs.clock.now(),
        }
    }

    /// Commits the changes; the answer has one outcome for each. An `Err` means that none of them took effect.
    fn commit(mut self, changes: &[Change]) -> Result<Vec<Result<PathOutcome>>> {
        let mut outcomes = Vec::with_capacity(changes.len());
        for change in changes {
            outcomes.push(self.prepare(change)?);
        }
        self.append_carried()?;
        for records in frames_of(&self.records) {
            self.writer.append(self.packs, records)?;
        }
        let durable = self.packs.sync()?;
        let mut ops: Vec<Op> = durable.iter().map(|durable| Op::PackDurable(durable.pack, durable.bytes)).collect();
        ops.extend(self.writer.order.filter(|_| self.writer.is_begun).map(Op::RecordOrder));
        if !ops.is_empty() {
            // A commit of its own, behind those that have an outcome: a refusal of one of them must not take it along.
            self.commits.push(Commit { session: None, packs: Vec::new(), ops });
        }
        let refusals = self.packs.meta.commit(self.now, &self.commits)?;
        let mut refusals = refusals.into_iter();
        for outcome in outcomes.iter_mut().filter(|outcome| outcome.is_ok()) {
            if let Some(Err(refusal)) = refusals.next() {
                *outcome = Err(Error::Refused(refusal));
            }
        }
        Ok(outcomes)
    }

    /// Appends the records that have a number, as one frame: they are no more than one request has.
    fn append_carried(&mut self) -> Result<()> {
        let mut items = Vec::new();
        let mut last = None;
        for (order, record) in std::mem::take(&mut self.carried) {
            if last.replace(order) != Some(order) {
                items.push(Record::Order(order).encode());
            }
            items.push(record);
        }
        if !items.is_empty() {
            self.packs.append_records(&mut self.writer.encoder, items.iter())?;
        }
        Ok(())
    }

    /// Adds a change's commit and records. The outer error fails the group, the inner one only this change; each change
    /// that is `Ok` adds exactly one commit.
    fn prepare(&mut self, change: &Change) -> Result<Result<PathOutcome>> {
        let mut commit = Commit { session: None, packs: Vec::new(), ops: Vec::new() };
        // Before its records are in a pack: they would outrank the record that says that the cache is gone.
        if let Some(cache) = change.cache()
            && self.packs.meta.cache(cache)?.is_none()
        {
            return Ok(Err(Error::Refused(Refusal::CacheGone(cache.clone()))));
        }
        let outcome = match change {
            Change::Nar { cache, hash, row, alias, new } => self.add_stored(&mut commit, row.recipe, new)?.map(|()| {
                self.packs.watch.name_nar(cache, *hash);
                self.records.push(Record::Nar(cache.clone(), *hash, row.clone()).encode());
                commit.ops.push(Op::Nar(cache.clone(), *hash, row.clone()));
                if let Some((name, alias)) = alias {
                    self.records.push(Record::Alias(cache.clone(), name.clone(), alias.clone()).encode());
                    commit.ops.push(Op::Alias(cache.clone(), name.clone(), alias.clone()));
                }
                PathOutcome::Created
            }),
            Change::Document { cache, key, row, new } => {
                let added = match new {
                    Some((recipe, new)) => self.add_stored(&mut commit, *recipe, new)?,
                    None => Ok(()),
                };
                added.map(|()| {
                    self.packs.watch.name_document(cache, key);
                    self.records.push(Record::Document(cache.clone(), key.clone(), row.clone()).encode());
                    commit.ops.push(Op::Document(cache.clone(), key.clone(), row.clone()));
                    PathOutcome::Created
                })
            }
            Change::Path { cache, upload } => inner(self.add_path(&mut commit, cache, upload))?,
            Change::Pushed { cache, upload, nar } => inner(self.add_pushed(&mut commit, cache, upload, nar))?,
            Change::Move(moved) => inner(self.move_recipe(&mut commit, moved))?,
            Change::Damaged { recipe, record } => {
                self.mark(&mut commit, recipe, *record, Some(self.now))?;
                Ok(PathOutcome::Created)
            }
            Change::Whole { recipe, record } => {
                self.mark(&mut commit, recipe, *record, None)?;
                Ok(PathOutcome::Created)
            }
            Change::Remove(removals) => self.add_removals(&mut commit, removals).map(|()| Ok(PathOutcome::Created))?,
            Change::Carry { records, keep_gone } => {
                self.add_carried(records, *keep_gone).map(|()| Ok(PathOutcome::Created))?
            }
            Change::CacheGone(cache) => {
                // A record of one that was made again would take along what that holds: the number is above all of its rows.
                if self.packs.meta.cache(cache)?.is_none() {
                    self.records.push(Record::CacheGone(cache.clone()).encode());
                    commit.ops.push(Op::CacheGoneRecorded(cache.clone()));
                }
                Ok(PathOutcome::Created)
            }
        };
        if outcome.is_ok() {
            commit.packs.sort_unstable();
            commit.packs.dedup();
            self.commits.push(commit);
        }
        Ok(outcome)
    }

    /// Marks a recipe as damaged, or takes its mark back, if it still has this record.
    fn mark(&self, commit: &mut Commit, id: &RecipeId, record: FrameLoc, at: Option<UnixSeconds>) -> Result<()> {
        if let Some(mut row) = self.packs.meta.recipe(id)?
            && row.damaged_at.is_some() != at.is_some()
            && row.record == record
            && !self.recipes.contains_key(id)
        {
            row.damaged_at = at;
            commit.ops.push(Op::Recipe(*id, row));
        }
        Ok(())
    }

    fn add_stored(&mut self, commit: &mut Commit, id: RecipeId, stored: &Stored) -> Result<Result<()>> {
        commit.session = Some(stored.session.id);
        self.add_recipe(commit, id, stored.new_recipe.as_ref())
    }

    /// Adds what a recipe needs: nothing if it is there already, else its record, row and edges.
    fn add_recipe(&mut self, commit: &mut Commit, id: RecipeId, new: Option<&NewRecipe>) -> Result<Result<()>> {
        self.packs.watch.name_recipe(id);
        if let Some(row) = self.recipes.get(&id) {
            // Written once more, so that this commit stands also if the other is refused.
            commit.ops.push(Op::Recipe(id, row.clone()));
            return Ok(Ok(()));
        }
        let existing = self.packs.meta.recipe(&id)?.filter(|row| row.damaged_at.is_none());
        let Some(new) = new else {
            let gone = Error::Refused(Refusal::PacksGone(Vec::new()));
            commit.packs.extend(existing.iter().flat_map(|row| &row.edges));
            return Ok(existing.map(|_| ()).ok_or(gone));
        };
        if let Some(row) = existing {
            commit.packs.extend(row.edges);
            return Ok(Ok(()));
        }
        let frame = self.writer.encoder.recipe(&new.encoded, &new.placement)?;
        let record: FrameLoc = self.packs.append(Lane::Ingest, &frame)?;
        let row = recipe_row(record, &new.placement, new.length, new.chunks);
        commit.ops.push(Op::Recipe(id, row.clone()));
        self.recipes.insert(id, row);
        Ok(Ok(()))
    }

    /// Adds a recipe's new record, placement and edges.
    fn move_recipe(&mut self, commit: &mut Commit, moved: &MovedRecipe) -> Result<PathOutcome> {
        let is_same = self.packs.meta.recipe(&moved.id)?.is_some_and(|row| row.is_at(moved.from));
        if !is_same || self.recipes.contains_key(&moved.id) {
            return Err(Error::Refused(Refusal::RecipeChanged(moved.id)));
        }
        let frame = self.writer.encoder.recipe(&moved.encoded, &moved.placement)?;
        let record = self.packs.append(moved.lane, &frame)?;
        let row = recipe_row(record, &moved.placement, moved.length, moved.chunks);
        commit.session = Some(moved.session);
        commit.ops.push(Op::MoveRecipe(moved.id, moved.from, row.clone()));
        self.recipes.insert(moved.id, row);
        Ok(PathOutcome::Created)
    }

    fn add_path(&mut self, commit: &mut Commit, cache: &CacheName, upload: &PathUpload) -> Result<PathOutcome> {
        let nar = match self.nars.get(&(cache.clone(), upload.nar_hash)) {
            Some((row, packs)) => {
                commit.packs.extend(packs);
                Some(row.clone())
            }
            None => self.packs.meta.nar(cache, &upload.nar_hash)?,
        };
        let decision = self.decide(commit, cache, upload, nar.as_ref())?;
        let outcome = decision.outcome;
        self.write_path(commit, cache, upload, decision);
        Ok(outcome)
    }

    /// Adds a path together with its NAR, unless the cache has that or the path keeps another.
    fn add_pushed(
        &mut self,
        commit: &mut Commit,
        cache: &CacheName,
        upload: &PathUpload,
        nar: &PushedNar,
    ) -> Result<PathOutcome> {
        if self.nars.contains_key(&(cache.clone(), upload.nar_hash)) || self.is_restorable(cache, &upload.nar_hash)? {
            return self.add_path(commit, cache, upload);
        }
        let decision = self.decide(commit, cache, upload, Some(&nar.row))?;
        let outcome = decision.outcome;
        if matches!(outcome, PathOutcome::Created | PathOutcome::Merged) {
            // What was known when the NAR was assembled may have been found damaged since.
            self.add_recipe(commit, nar.row.recipe, nar.new_recipe.as_ref())?.map_err(|_| Error::RecipeUnknown)?;
            self.records.push(Record::Nar(cache.clone(), upload.nar_hash, nar.row.clone()).encode());
            commit.ops.push(Op::Nar(cache.clone(), upload.nar_hash, nar.row.clone()));
            self.nars.insert((cache.clone(), upload.nar_hash), (nar.row.clone(), leaned_on(commit)));
        }
        self.write_path(commit, cache, upload, decision);
        Ok(outcome)
    }

    fn decide(
        &self,
        commit: &mut Commit,
        cache: &CacheName,
        upload: &PathUpload,
        nar: Option<&NarRow>,
    ) -> Result<Decision> {
        // Also where nothing is written: whoever offers a path is told that it is there, with all that it refers to.
        self.packs.watch.name_nar(cache, upload.nar_hash);
        for path in std::iter::once(&upload.path).chain(&upload.references) {
            self.packs.watch.name_path(cache, path.hash());
        }
        self.packs.uses.note(cache, upload.path.hash(), self.now);
        let existing = self.path(commit, &(cache.clone(), upload.path.hash()))?;
        let is_damaged = match &existing {
            Some(row) if row.nar_hash != upload.nar_hash => !self.is_restorable(cache, &row.nar_hash)?,
            _ => false,
        };
        let decision = decide(upload, nar, existing.as_ref(), is_damaged, self.now)?;
        let references = |row: &Option<PathRow>| row.as_ref().map(|row| row.references.clone());
        let adds_references = decision.row.is_some() && references(&decision.row) != references(&existing);
        if decision.outcome == PathOutcome::Created || adds_references {
            self.check_references(commit, cache, upload)?;
        }
        if let Some(first) = existing.filter(|_| decision.is_conflict()) {
            warn_of_conflict(cache, upload, &first);
        }
        Ok(decision)
    }

    fn write_path(&mut self, commit: &mut Commit, cache: &CacheName, upload: &PathUpload, decision: Decision) {
        let Some(row) = decision.row else { return };
        let hash = row.path.hash();
        let push = push_record(upload, decision.outcome, self.now);
        commit.ops.push(Op::Pushed(cache.clone(), hash, push));
        self.records.push(Record::Path(cache.clone(), row.clone()).encode());
        commit.ops.push(Op::Path(cache.clone(), hash, row.clone()));
        if decision.replaces.is_none() {
            commit.ops.push(Op::Count(Totals { paths: 1, logical_bytes: row.nar_size, ..Totals::default() }));
        }
        self.paths.insert((cache.clone(), hash), (row, leaned_on(commit)));
    }

    fn check_references(&self, commit: &mut Commit, cache: &CacheName, upload: &PathUpload) -> Result<()> {
        if upload.references_policy == ReferencePolicy::Any {
            return Ok(());
        }
        let mut missing: Vec<StorePath> = Vec::new();
        for reference in upload.references.iter().filter(|reference| **reference != upload.path) {
            let found = self.path(commit, &(cache.clone(), reference.hash()))?;
            if found.is_none_or(|row| row.path != *reference) && !upload.elsewhere.contains(reference) {
                missing.push(reference.clone());
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(Error::MissingReferences(missing)) }
    }

    /// Returns a path as it will be. If that is this group's doing, the commit then leans on what it leans on: when one
    /// is refused because packs are gone, the other is too.
    fn path(&self, commit: &mut Commit, key: &(CacheName, StoreHash)) -> Result<Option<PathRow>> {
        match self.paths.get(key) {
            Some((row, packs)) => {
                commit.packs.extend(packs);
                Ok(Some(row.clone()))
            }
            None => Ok(self.packs.meta.path(&key.0, &key.1)?),
        }
    }

    fn is_restorable(&self, cache: &CacheName, nar: &Sha256) -> Result<bool> {
        let Some(nar) = self.packs.meta.nar(cache, nar)? else { return Ok(false) };
        Ok(self.packs.meta.recipe(&nar.recipe)?.is_some_and(|row| row.damaged_at.is_none()))
    }
}

/// Tells errors that are about one change, as its outcome, from those of the store.
fn inner(outcome: Result<PathOutcome>) -> Result<Result<PathOutcome>> {
    match outcome {
        Err(
            error @ (Error::WrongNar { .. } | Error::MissingReferences(_) | Error::RecipeUnknown | Error::Refused(_)),
        ) => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(outcome) => Ok(Ok(outcome)),
    }
}

/// Returns the row of a recipe, with edges to the packs of its record, its chunks and their bases.
fn recipe_row(record: FrameLoc, placement: &Placement, length: u64, chunks: u64) -> RecipeRow {
    let mut edges = placement.packs();
    edges.push(record.pack);
    edges.sort_unstable();
    edges.dedup();
    RecipeRow { record, length, chunks, edges, damaged_at: None }
}

fn leaned_on(commit: &Commit) -> Vec<PackId> {
    let mut packs: Vec<PackId> = commit.leans_on().collect();
    packs.sort_unstable();
    packs.dedup();
    packs
}

#[cfg(test)]
mod tests;
