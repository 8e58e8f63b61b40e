//! The steps of packs that nobody needs: condemned, doomed, deleted.

use firn_chunk::ChunkId;
use firn_index::{PackRow, PackState, UnixSeconds};
use firn_pack::{ChunkLoc, Footer, FrameKind, FrameLoc, PackId};

use super::Collection;
use super::report::{Backlog, PackSum};
use super::withdraw::Going;
use crate::packs::{Packs, object_name};
use crate::rewrite::StuckPack;
use crate::{Error, Result, spans};

/// Rows read at a time.
pub(super) const PAGE: usize = 1000;

/// Packs that a report names.
pub(super) const MAX_NAMED: usize = 100;

impl Collection<'_> {
    /// Stops to offer packs that no recipe has an edge to. A pack in which an upload under way may have put chunks that
    /// are not committed yet is left alone.
    pub(super) fn condemn(&mut self) -> Result<()> {
        let _span = tracing::info_span!(target: spans::TARGET, "condemn").entered();
        let packs = &self.shared.packs;
        let oldest = packs.meta.oldest_session(self.now)?;
        let mut going = Going::default();
        self.each_pack(|this, pack, row| match row.state {
            PackState::Live if packs.has_edge(pack)? => {
                if packs.meta.pack_since(pack)?.is_some() {
                    // A commit has revived it.
                    this.offer_again(pack, row)?;
                }
                Ok(())
            }
            PackState::Live if oldest.is_none_or(|oldest| row.reserved_at < oldest) => {
                if this.shared.holds_records(pack)? {
                    return Ok(());
                }
                // It stays until the sessions are over that may have been told of its chunks.
                going.add(packs, pack, row.stored_bytes)
            }
            // What was reserved before this process began and is still not sealed could not be brought in order.
            PackState::Writing
                if row.durable_bytes == 0 && row.reserved_at < packs.opened_at && !packs.is_open(pack) =>
            {
                if !packs.has_edge(pack)?
                    && packs.meta.set_pack_state(pack, PackState::Writing, PackState::Doomed, packs.clock.now())?
                {
                    tracing::warn!(%pack, "a pack that was never sealed holds nothing that is needed: it goes");
                    this.report.doomed.add(row.durable_bytes);
                }
                Ok(())
            }
            PackState::Live | PackState::Writing | PackState::Condemned | PackState::Doomed => Ok(()),
        })?;
        if going.packs.is_empty() {
            return Ok(());
        }
        let meta = &self.shared.packs.meta;
        // In this order: a session that begins afterwards is told of nothing that leans on them.
        self.withdraw(&mut going)?;
        for (pack, stored_bytes) in going.packs {
            if meta.set_pack_state(pack, PackState::Live, PackState::Condemned, self.shared.packs.clock.now())? {
                self.report.condemned.add(stored_bytes);
            }
        }
        Ok(())
    }

    /// Dooms condemned packs that no session under way can have been told of.
    pub(super) fn doom(&mut self) -> Result<()> {
        let _span = tracing::info_span!(target: spans::TARGET, "doom").entered();
        let packs = &self.shared.packs;
        let (mut writing, mut doomed) = (Vec::new(), Vec::new());
        self.each_pack(|this, pack, row| {
            match row.state {
                PackState::Condemned => {}
                PackState::Writing => {
                    writing.push(pack);
                    return Ok(());
                }
                PackState::Doomed => {
                    // What was written late and leans on it may not have been looked for: a failure came between.
                    doomed.push(pack);
                    return Ok(());
                }
                PackState::Live => return Ok(()),
            }
            let since = packs.meta.pack_since(pack)?.unwrap_or(0);
            let is_over = packs.meta.oldest_session(packs.clock.now())?.is_none_or(|oldest| oldest > since);
            if packs.has_edge(pack)? {
                return this.offer_again(pack, row);
            }
            if !is_over {
                return Ok(());
            }
            let carried = this.shared.carry_records(pack)?;
            this.report.carried_records += carried.records;
            this.report.lost_record_frames += carried.unreadable_frames;
            if packs.meta.set_pack_state(pack, PackState::Condemned, PackState::Doomed, packs.clock.now())? {
                this.report.doomed.add(row.stored_bytes);
                // Uploads would lean on the bases that these remember, and be refused.
                this.shared.frames.drop_packs(&[pack]);
                doomed.push(pack);
            }
            Ok(())
        })?;
        self.withdraw_late(&doomed, &writing)
    }

    /// Deletes the objects of packs that were doomed long enough ago.
    pub(super) fn delete(&mut self) -> Result<()> {
        let _span = tracing::info_span!(target: spans::TARGET, "delete").entered();
        let packs = &self.shared.packs;
        let grace = self.options.grace_seconds;
        let mut is_flushed = false;
        self.each_pack(|this, pack, row| {
            if row.state != PackState::Doomed || packs.in_use.has(pack) {
                return Ok(());
            }
            let since: UnixSeconds = packs.meta.pack_since(pack)?.unwrap_or(0);
            if since.saturating_add(grace) > packs.clock.now() {
                return Ok(());
            }
            if !is_flushed {
                packs.chunks.flush()?;
                is_flushed = true;
            }
            // Bytes first, then the row: a crash in between is finished by the next collection.
            match packs.storage.delete(&object_name(pack)) {
                Ok(()) | Err(firn_storage::Error::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            if packs.meta.remove_pack(pack)? {
                this.report.deleted.add(row.stored_bytes);
            }
            Ok(())
        })
    }

    /// Gives a pack that is needed after all back to uploads.
    fn offer_again(&mut self, pack: PackId, row: &PackRow) -> Result<()> {
        let packs = &self.shared.packs;
        let now = packs.clock.now();
        // The time of its condemnation says that its chunks are not offered: it goes last.
        if let Some(footer) = packs.footer(pack)? {
            packs.chunks.apply(&chunks_of(pack, &footer))?;
        }
        if row.state == PackState::Live {
            packs.meta.set_pack_state(pack, PackState::Live, PackState::Condemned, now)?;
        }
        packs.meta.set_pack_state(pack, PackState::Condemned, PackState::Live, now)?;
        packs.withdrawals().forget(&[pack]);
        self.report.revived.add(row.stored_bytes);
        Ok(())
    }

    fn note_stuck(&mut self, pack: PackId, stored_bytes: u64, error: &Error) {
        if self.report.stuck.len() < MAX_NAMED && !self.report.stuck.iter().any(|stuck| stuck.pack == pack) {
            let hint = if error.is_damage() { "; `firnd rebuild-index` may give it a footer again" } else { "" };
            let why = format!("nothing needs it, and it stays: {}{hint}", crate::error::chain(error));
            self.report.stuck.push(StuckPack { pack, stored_bytes, recipes: 0, why });
        }
    }

    /// Calls `step` for every pack. One that can't be read or deleted is reported, and the others go on.
    pub(super) fn each_pack(&mut self, mut step: impl FnMut(&mut Self, PackId, &PackRow) -> Result<()>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.shared.packs.meta.packs(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (pack, row) in &page {
                match step(self, *pack, row) {
                    Err(error) if error.is_of_pack() => {
                        tracing::error!(%pack, error = crate::error::chain(&error), "a pack stays that nobody needs");
                        self.report.failed.add(row.stored_bytes);
                        self.note_stuck(*pack, row.stored_bytes, &error);
                    }
                    other => other?,
                }
            }
        }
    }
}

impl Packs {
    /// Returns whether a recipe has an edge to a pack.
    pub(crate) fn has_edge(&self, pack: PackId) -> Result<bool> {
        Ok(!self.meta.recipes_of_pack(pack, None, 1)?.is_empty())
    }

    /// Sums up what waits to be doomed or deleted.
    pub(crate) fn backlog(&self) -> Result<Backlog> {
        let mut backlog = Backlog::default();
        let mut after = None;
        loop {
            let page = self.meta.packs(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(backlog) };
            after = Some(*last);
            for (_, row) in &page {
                let sum: &mut PackSum = match row.state {
                    PackState::Condemned => &mut backlog.condemned,
                    PackState::Doomed => &mut backlog.doomed,
                    PackState::Writing | PackState::Live => continue,
                };
                sum.add(row.stored_bytes);
            }
        }
    }
}

/// Returns where the chunks of a pack lie.
pub(crate) fn chunks_of(pack: PackId, footer: &Footer) -> Vec<(ChunkId, ChunkLoc)> {
    let mut chunks = Vec::new();
    for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks) {
        let loc = FrameLoc { pack, offset: *offset, len: entry.len };
        chunks.extend(entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)));
    }
    chunks
}
