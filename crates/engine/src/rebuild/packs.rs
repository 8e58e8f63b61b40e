//! The packs: which there are, what they hold, and in which order they were written.

use std::ops::Range;

use firn_chunk::ChunkId;
use firn_index::{Commit, Op, PackState};
use firn_pack::{Chain, Footer, FrameKind, FrameLoc, PACK_HEADER_LEN, PackBuilder, PackId, Recovered};

use super::{PAGE, Rebuild};
use crate::orders::is_behind;
use crate::packs::{PACKS, object_name, pack_of};
use crate::recipes::id_of;
use crate::torn::{Found, look_through};
use crate::{Error, Result};

/// A pack that the index is to know.
pub(super) struct FoundPack {
    pub(super) id: PackId,
    stored_bytes: u64,
    unique_bytes: u64,
    /// Its frames of records.
    pub(super) records: Vec<FrameLoc>,
    /// The greatest number of its record frames.
    last_order: u64,
    /// The number that the earlier index gave it.
    old_number: Option<u64>,
    /// Where its bytes end that were acknowledged, if its footer does not list all that lies before that and the earlier index knows.
    acknowledged: Option<u64>,
}

/// A pack without a footer, or with one that does not list all of its bytes.
struct Torn {
    id: PackId,
    len: u64,
    footer: Option<Footer>,
}

impl Rebuild {
    /// Returns the ids of all packs in the storage.
    pub(super) fn find_packs(&mut self) -> Result<Vec<PackId>> {
        let (mut found, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = self.packs.storage.list(PACKS, after.as_deref(), PAGE)?;
            for entry in &page {
                match pack_of(&entry.name) {
                    Some(pack) => found.push(pack),
                    None => self.report.unreadable.push(format!("{}: its name is no pack's", entry.name)),
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(last.name.clone()),
                _ => return Ok(found),
            }
        }
    }

    /// Reads all footers, recipes' heads and records, and tells the chunk index. Packs without a footer, or with one that does
    /// not list all of their bytes, come last, because their frames may have bases in others.
    pub(super) fn look_at(&mut self, ids: Vec<PackId>) -> Result<Vec<FoundPack>> {
        let (mut found, mut torn) = (Vec::new(), Vec::new());
        for id in ids {
            let len = self.packs.storage.len(&object_name(id)).map_err(|error| unreadable(id, error.into()))?;
            match self.footer(id, len)? {
                Some(footer) if footer.gaps().is_empty() && footer.unlisted_bytes(len) == 0 => {
                    found.push(self.take(id, len, &footer)?);
                }
                other => torn.push(Torn { id, len, footer: other }),
            }
        }
        let id_of = |torn: &Torn| torn.id;
        let scans = look_through(&self.packs, &torn, Found::default(), id_of, |torn, read, base| match &torn.footer {
            Some(footer) => firn_pack::recover_behind(read, footer, torn.len, base),
            // It is not known for sure how far it was durable: frames may lie behind what looks like its end.
            None => firn_pack::recover(read, torn.len, torn.len, base),
        });
        for (Torn { id, len, footer }, scan) in torn.into_iter().zip(scans) {
            let acknowledged = self.acknowledged_bytes(id, footer.is_some())?;
            let sealed = match footer {
                Some(footer) => self.extend(id, len, footer, scan, acknowledged)?,
                None => self.seal(id, len, scan, acknowledged)?,
            };
            if let Some((len, footer)) = sealed {
                found.push(FoundPack { acknowledged, ..self.take(id, len, &footer)? });
            }
        }
        if let Some(old) = &self.old
            && is_behind(old.record_order()?, self.lasts.order())
        {
            // It knows nothing of what was acknowledged since.
            self.report.damaged_frames += self.torn_ranges;
            for pack in &mut found {
                pack.acknowledged = None;
            }
        }
        // As the earlier index had them, and what it had not numbered after those; else by their records, which are
        // numbered upwards.
        found.sort_by_key(|pack| (pack.old_number.unwrap_or(u64::MAX), pack.last_order, pack.id));
        Ok(found)
    }

    fn footer(&self, id: PackId, len: u64) -> Result<Option<Footer>> {
        let name = object_name(id);
        let read = |offset, len| self.packs.storage.read(&name, offset, len).map_err(std::io::Error::other);
        match Footer::open(read, len) {
            Ok(footer) if footer.id == id => Ok(Some(footer)),
            Ok(_) => Ok(None),
            Err(error @ (firn_pack::Error::Read { .. } | firn_pack::Error::Unsupported { .. })) => {
                Err(unusable(id, &error))
            }
            Err(_) => Ok(None),
        }
    }

    /// Gives a pack without a footer one that lists the frames that were found, behind all that is there.
    fn seal(
        &mut self,
        id: PackId,
        len: u64,
        scan: firn_pack::Result<Recovered>,
        acknowledged: Option<u64>,
    ) -> Result<Option<(u64, Footer)>> {
        let name = object_name(id);
        let recovered = match scan {
            Ok(recovered) => recovered,
            Err(firn_pack::Error::NoHeader) => {
                // Of a pack that was never written, the next opening of the store disposes.
                self.packs.meta.reserve_pack(id, self.packs.clock.now())?;
                return Ok(None);
            }
            Err(error @ firn_pack::Error::Corrupt { .. }) => {
                tracing::error!(pack = %id, %error, "rebuild: a pack can't be read; it was left as it is");
                self.report.unreadable.push(format!("{name}: {error}"));
                return Ok(None);
            }
            Err(error) => return Err(unusable(id, &error)),
        };
        self.note_lost(id, &recovered.lost, acknowledged);
        let durable = match &self.old {
            Some(old) => old.pack(id)?.map_or(0, |row| row.durable_bytes),
            None => 0,
        };
        // What is behind the last whole frame is no damage if a crash tore it.
        self.report.damaged_frames += u64::from(recovered.valid_len < durable);
        if recovered.frames.is_empty() {
            self.report.unreadable.push(format!("{name}: it has no whole frame"));
            return Ok(None);
        }
        self.write_footer(id, len, recovered.builder)
    }

    /// Takes what was found of a sealed pack that its footer does not list. If there are frames, writes another footer, behind
    /// all that is there; bytes before a frame that are none are damage.
    fn extend(
        &mut self,
        id: PackId,
        len: u64,
        footer: Footer,
        scan: firn_pack::Result<Recovered>,
        acknowledged: Option<u64>,
    ) -> Result<Option<(u64, Footer)>> {
        let recovered = scan.map_err(|error| unusable(id, &error))?;
        self.note_lost(id, &recovered.lost, acknowledged);
        if recovered.frames.len() > footer.frames.len() {
            return self.write_footer(id, len, recovered.builder);
        }
        // A crash leaves no footer that lists nothing.
        let is_empty = footer.frames.is_empty() && recovered.baseless.is_empty();
        self.report.damaged_frames += u64::from(is_empty);
        Ok(Some((len, footer)))
    }

    /// Returns where the bytes of a pack end that were acknowledged, if the earlier index knows: only up to there can anything be
    /// damaged that a loss of power did not take.
    fn acknowledged_bytes(&self, id: PackId, has_footer: bool) -> Result<Option<u64>> {
        let row = match &self.old {
            Some(old) => old.pack(id)?,
            None => None,
        };
        // A sealed one that leaves something out was torn before: by then it was known.
        let is_known = |state, durable| state == PackState::Writing || has_footer && durable > 0;
        let row = row.filter(|row| is_known(row.state, row.durable_bytes));
        Ok(row.map(|row| row.durable_bytes.max(PACK_HEADER_LEN as u64)))
    }

    /// Counts what is damaged, and, aside, what a loss of power took of bytes that were not acknowledged.
    fn note_lost(&mut self, id: PackId, lost: &[Range<u64>], acknowledged: Option<u64>) {
        let is_damage = |range: &&Range<u64>| acknowledged.is_none_or(|end| range.start < end);
        let (damaged, torn): (Vec<_>, Vec<_>) = lost.iter().partition(is_damage);
        if !damaged.is_empty() {
            tracing::error!(pack = %id, ranges = ?damaged, "rebuild: frames of a pack are damaged");
        }
        self.report.damaged_frames += damaged.len() as u64;
        self.torn_ranges += torn.len() as u64;
    }

    fn write_footer(&mut self, id: PackId, len: u64, builder: PackBuilder) -> Result<Option<(u64, Footer)>> {
        self.report.sealed += 1;
        let mut writer = self.packs.storage.resume(&object_name(id), len)?;
        writer.append(&[&builder.finish()])?;
        writer.sync()?;
        let len = writer.len();
        Ok(self.footer(id, len)?.map(|footer| (len, footer)))
    }

    fn take(&mut self, id: PackId, len: u64, footer: &Footer) -> Result<FoundPack> {
        let old_number = self.old_number(id)?;
        let mut pack = FoundPack {
            id,
            stored_bytes: len,
            unique_bytes: 0,
            records: Vec::new(),
            last_order: 0,
            old_number,
            acknowledged: None,
        };
        let (mut chunks, mut chain) = (Vec::new(), Chain::default());
        for (offset, entry) in &footer.frames {
            let loc = FrameLoc { pack: id, offset: *offset, len: entry.len };
            match entry.kind {
                FrameKind::Chunks => {
                    pack.unique_bytes += u64::from(entry.raw_len);
                    chunks.extend(entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)));
                }
                FrameKind::Recipe => self.note_recipe(loc)?,
                FrameKind::Record => {
                    pack.records.push(loc);
                    let order = self.note_records(loc, old_number, &mut chain)?;
                    pack.last_order = pack.last_order.max(order);
                }
            }
        }
        if footer.frames.iter().any(|(_, entry)| !entry.bases.is_empty()) {
            self.leaning.push(id);
        }
        self.tell_chunks(&chunks)?;
        Ok(pack)
    }

    fn note_recipe(&mut self, loc: FrameLoc) -> Result<()> {
        if let Some(id) = self.recipe_frame(loc)?.as_ref().and_then(id_of) {
            self.lasts.add_recipe(id, loc);
        }
        Ok(())
    }

    /// Writes the packs' rows, in their order, and says that the chunk index knows all of them.
    pub(super) fn number_packs(&mut self, found: &[FoundPack]) -> Result<()> {
        let mut last = 0;
        for pack in found {
            let reserved_at = match &self.old {
                Some(old) => old.pack(pack.id)?.map(|row| row.reserved_at),
                None => None,
            };
            let now = self.packs.clock.now();
            self.packs.meta.reserve_pack(pack.id, reserved_at.unwrap_or(now))?;
            if let Some(end) = pack.acknowledged {
                // For the next rebuild. A pack that was just reserved can't be gone.
                let commit = Commit { session: None, packs: Vec::new(), ops: vec![Op::PackDurable(pack.id, end)] };
                let _ = self.packs.meta.commit(now, &[commit])?;
            }
            last = self.packs.meta.seal_pack(pack.id, pack.stored_bytes, pack.unique_bytes)?;
        }
        self.packs.chunks.set_watermark(last)?;
        self.lasts.rank_packs(found.iter().map(|pack| pack.id));
        self.report.packs = found.len() as u64;
        Ok(())
    }
}

/// Returns the error for a pack that the storage does not give out, with what can be done about it; others as they are.
pub(super) fn unreadable(pack: PackId, error: Error) -> Error {
    match error {
        Error::Storage(error) => Error::Unusable(advice(pack, &error)),
        other => other,
    }
}

fn unusable(pack: PackId, error: &firn_pack::Error) -> Error {
    Error::Unusable(match error {
        firn_pack::Error::Read { .. } => advice(pack, error),
        other => format!("pack {pack} can't be read: {}", crate::error::chain(other)),
    })
}

fn advice(pack: PackId, error: &(dyn std::error::Error + 'static)) -> String {
    format!(
        "pack {pack} can't be read: {}. Copy what can be read of {} in the store's folder, put the copy in its place, and \
         try again; or move it out of the store's folder, to make the index without it",
        crate::error::chain(error),
        object_name(pack)
    )
}
