//! What could not be rewritten, and why its pack stays.

use std::collections::BTreeSet;

use firn_chunk::RecipeId;
use firn_pack::{FrameLoc, PackId};

use super::StuckPack;
use super::writer::Writer;
use crate::restore::Restore;
use crate::{Error, Result};

/// Rows read at a time.
const PAGE: usize = 1024;

/// Packs that are named; the log names all.
const MAX_NAMED: usize = 100;

/// What stays of a pack.
#[derive(Default)]
pub(super) struct Left {
    /// Frames that can't be read.
    unreadable: BTreeSet<FrameLoc>,
    /// What is wrong with the first of them.
    first: String,
    /// Frames whose bases could not be rewritten.
    pub(super) baseless: u64,
}

impl Left {
    /// Notes a frame that can't be read; returns whether it is a new one.
    pub(super) fn add_unreadable(&mut self, loc: FrameLoc, error: &Error) -> bool {
        if self.unreadable.is_empty() {
            self.first = error.to_string();
        }
        self.unreadable.insert(loc)
    }
}

/// Finds out who needs a pack that could not be emptied, marks what can't be restored, and reports it. One that uploads came
/// to need meanwhile is nothing to report: the next run takes it.
pub(super) fn report(writer: &mut Writer<'_, '_>, pack: PackId, stored_bytes: u64) -> Result<()> {
    let left = writer.left.remove(&pack).unwrap_or_default();
    let (mut recipes, mut damaged, mut after) = (0, 0, None);
    loop {
        let page = writer.shared.packs.meta.recipes_of_pack(pack, after, PAGE)?;
        for id in &page {
            recipes += 1;
            damaged += u64::from(is_damaged(writer, id, &left)?);
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(*last),
            _ => break,
        }
        writer.session.renew()?;
    }
    let mut reasons = Vec::new();
    if !left.unreadable.is_empty() {
        reasons.push(format!("{} of its frames can't be read, the first: {}", left.unreadable.len(), left.first));
    }
    if damaged > 0 {
        reasons.push(format!(
            "{damaged} NARs or documents that need it are damaged: it goes once these were pushed again or deleted; `firnd scrub` names them"
        ));
    }
    if left.baseless > 0 {
        reasons.push(format!("{} of its frames lean on bases that could not be moved", left.baseless));
    }
    if reasons.is_empty() {
        return Ok(());
    }
    let why = reasons.join("; ");
    tracing::error!(%pack, stored_bytes, recipes, why, "a pack could not be emptied");
    if writer.so_far.stuck.len() < MAX_NAMED {
        writer.so_far.stuck.push(StuckPack { pack, stored_bytes, recipes, why });
    }
    Ok(())
}

/// Returns whether a recipe is marked as damaged, turns out to be, or can't be read.
fn is_damaged(writer: &Writer<'_, '_>, id: &RecipeId, left: &Left) -> Result<bool> {
    let shared = writer.shared;
    let Some(row) = shared.packs.meta.recipe(id)? else { return Ok(false) };
    if row.damaged_at.is_some() || left.unreadable.is_empty() {
        return Ok(row.damaged_at.is_some());
    }
    let stored = match shared.recipes.get(&shared.frames, id, &row) {
        Ok(stored) => stored,
        Err(error) if error.is_damage() => {
            shared.mark_damaged(*id, row.record);
            return Ok(true);
        }
        Err(error) if error.is_of_pack() => return Ok(true),
        Err(error) => return Err(error),
    };
    let needs_base = stored.placement.bases.iter().any(|base| left.unreadable.contains(base));
    let is_wanted = |frame: &FrameLoc| needs_base || left.unreadable.contains(frame);
    match Restore::check(shared, (*id, row.record), stored, &is_wanted) {
        Ok(()) => Ok(false),
        Err(error) if error.is_of_pack() => Ok(true),
        Err(error) => Err(error),
    }
}
