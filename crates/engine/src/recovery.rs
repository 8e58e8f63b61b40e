//! What is done when a store is opened: packs that a crash left unsealed are recovered, and the chunk index catches up.

use firn_chunk::ChunkerId;
use firn_index::{PackRow, PackState, StoreInfo};
use firn_pack::{ChunkSource, Footer, FrameDecoder, FrameEntry, FrameKind, PackId, Recovered};

use crate::gc::chunks_of;
use crate::packs::{Packs, object_name};
use crate::torn::{Found, Read, look_through};
use crate::{Error, Result};

/// The version of the store's format as a whole: index, packs and records.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Rows read at a time.
const PAGE: usize = 256;

/// Checks that the store is one that this program can use, or makes it one if it is new.
pub(crate) fn identify(packs: &Packs) -> Result<()> {
    if let Some(info) = packs.meta.store_info()? {
        check_identity(&info)?;
        return packs.check_storage(&info);
    }
    if packs.meta.packs(None, 1)?.is_empty() && packs.has_objects()? {
        return Err(Error::packs_without_index());
    }
    // A crash may have come between the two below.
    let store_id = match packs.storage_id()? {
        Some(id) => id,
        None => packs.entropy.draw(),
    };
    packs.name_storage(store_id)?;
    let (chunker, created_at) = (ChunkerId::CURRENT.to_string(), packs.clock.now());
    let info = StoreInfo { format_version: FORMAT_VERSION, chunker, created_at, store_id };
    Ok(packs.meta.set_store_info(&info)?)
}

/// Checks that this program can use a store that was made like this.
pub(crate) fn check_identity(info: &StoreInfo) -> Result<()> {
    let chunker = ChunkerId::CURRENT.to_string();
    if info.format_version > FORMAT_VERSION {
        return Err(Error::Unusable(format!(
            "its format version is {}, and this firn knows up to {FORMAT_VERSION}: upgrade firn",
            info.format_version
        )));
    }
    if info.chunker != chunker {
        return Err(Error::Unusable(format!(
            "its chunks were cut by {}, and this firn cuts by {chunker}: use the firn that made it",
            info.chunker
        )));
    }
    Ok(())
}

/// Notes since when uses are recorded, and ends the lease of a collection that ended with its process. A store without
/// room opens without either.
pub(crate) fn prepare_collection(packs: &Packs) -> Result<()> {
    let prepare = || -> firn_index::Result<()> {
        if packs.meta.uses_since()?.is_none() {
            packs.meta.set_uses_since(packs.clock.now())?;
        }
        packs.meta.end_any_lease(crate::DELETION_LEASE)
    };
    match prepare() {
        Err(firn_index::Error::Full) => {
            tracing::warn!("no room to prepare garbage collection");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// A pack that was being written and has no footer.
struct Torn {
    pack: PackId,
    row: PackRow,
    len: u64,
}

/// Seals every pack that was being written when the store was last closed or killed.
pub(crate) fn seal_torn_packs(packs: &Packs) -> Result<()> {
    let (mut torn, mut closed, mut after) = (Vec::new(), Found::default(), None);
    loop {
        let page = packs.meta.packs(after, PAGE)?;
        after = page.last().map(|(last, _)| *last).filter(|_| page.len() == PAGE);
        for (pack, row) in page.into_iter().filter(|(_, row)| row.state == PackState::Writing) {
            let Some(len) = packs.len_of(pack)? else {
                forget(packs, pack, &row)?;
                continue;
            };
            match whole_footer(packs, pack, &row, len) {
                Some(footer) => {
                    closed.add(pack, &footer.frames);
                    unless_full(pack, seal_closed(packs, pack, len, &footer))?;
                }
                None => torn.push(Torn { pack, row, len }),
            }
        }
        if after.is_none() {
            break;
        }
    }
    let id_of = |torn: &Torn| torn.pack;
    let scan = |torn: &Torn, read: &Read<'_>, base: &mut ChunkSource<'_>| {
        firn_pack::recover(read, torn.len, torn.row.durable_bytes, base)
    };
    let mut scans = look_through(packs, &torn, closed.clone(), id_of, scan);
    if scans.iter().flatten().any(|recovered| !recovered.baseless.is_empty()) {
        add_withdrawn(packs, &mut closed)?;
        scans = look_through(packs, &torn, closed, id_of, scan);
    }
    for (torn, recovered) in torn.iter().zip(scans) {
        unless_full(torn.pack, seal_torn(packs, torn, recovered))?;
    }
    Ok(())
}

/// Adds the chunks of packs that collections have begun to take away: they are not offered, also where a commit brought their
/// pack back since, and there all the same.
fn add_withdrawn(packs: &Packs, found: &mut Found) -> Result<()> {
    let mut after = None;
    loop {
        let page = packs.meta.packs(after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(*last);
        for (pack, row) in &page {
            if row.state == PackState::Writing || packs.meta.pack_since(*pack)?.is_none() {
                continue;
            }
            match packs.footer(*pack) {
                Ok(Some(footer)) => found.add(*pack, &footer.frames),
                Err(error) if !error.is_of_pack() => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
    }
}

/// Leaves a pack for the next start if there is no room: restores know where its frames are, and a store with just the room
/// that its index needs must open, if only to be read.
fn unless_full(pack: PackId, outcome: Result<()>) -> Result<()> {
    match outcome {
        Err(Error::StorageFull) => {
            tracing::warn!(%pack, "no room to seal a pack that was being written: left for the next start");
            Ok(())
        }
        other => other,
    }
}

/// Returns the footer of a pack that was closed before the index was told; `None` if it has none, or a loss of power took
/// frames that lie before it.
fn whole_footer(packs: &Packs, pack: PackId, row: &PackRow, len: u64) -> Option<Footer> {
    let name = object_name(pack);
    let read = |offset, len| packs.storage.read(&name, offset, len).map_err(std::io::Error::other);
    let footer = Footer::open(read, len).ok()?;
    let mut decoder = FrameDecoder::new().ok()?;
    let mut is_whole = |(offset, entry): &(u64, FrameEntry)| {
        let decoded = read(*offset, entry.len as usize).map(|bytes| decoder.decode(&bytes));
        // What can't be read says nothing.
        !matches!(decoded, Ok(Err(firn_pack::Error::Corrupt { .. })))
    };
    let mut new = footer.frames.iter().filter(|(offset, _)| *offset >= row.durable_bytes);
    new.all(&mut is_whole).then_some(footer)
}

fn seal_closed(packs: &Packs, pack: PackId, len: u64, footer: &Footer) -> Result<()> {
    tracing::info!(%pack, "sealed a pack that was closed and not yet in the index");
    let unique = unique_bytes(footer.frames.iter().map(|(_, entry)| entry));
    // The footer was read, which does not say that it was synced.
    packs.storage.resume(&object_name(pack), len)?.sync()?;
    packs.meta.seal_pack(pack, len, unique)?;
    Ok(())
}

fn seal_torn(packs: &Packs, torn: &Torn, recovered: firn_pack::Result<Recovered>) -> Result<()> {
    let Torn { pack, row, len } = torn;
    let (pack, durable, name) = (*pack, row.durable_bytes, object_name(*pack));
    let recovered = match recovered {
        Ok(recovered) => recovered,
        Err(firn_pack::Error::NoHeader) if durable == 0 => {
            packs.storage.delete(&name)?;
            return forget(packs, pack, row);
        }
        Err(error) => {
            tracing::error!(%pack, %error, "a pack is damaged; what leans on it answers as missing");
            return Ok(());
        }
    };
    let lost: Vec<_> = recovered.lost.iter().filter(|lost| lost.start < durable).collect();
    if recovered.valid_len < durable || !lost.is_empty() {
        tracing::error!(
            %pack, durable_bytes = durable, valid_bytes = recovered.valid_len, lost_ranges = ?lost,
            "a pack lost bytes that were durable: the disk is to blame; what leans on them answers as missing"
        );
    }
    if !recovered.baseless.is_empty() {
        tracing::info!(%pack, frames = recovered.baseless.len(), "a pack has frames whose bases are gone: their chunks are not offered");
    }
    if recovered.frames.is_empty() && durable == 0 {
        packs.storage.delete(&name)?;
        return forget(packs, pack, row);
    }
    let unique = recovered.builder.unique_bytes();
    // What a crash tore is cut off. What the disk damaged stays where recipes know that it lies.
    let end = recovered.valid_len.max(durable.min(*len));
    let mut writer = packs.storage.resume(&name, end)?;
    writer.append(&[&recovered.builder.finish()])?;
    writer.sync()?;
    packs.meta.seal_pack(pack, writer.len(), unique)?;
    tracing::info!(%pack, cut_bytes = len - end, "recovered a pack that was being written");
    Ok(())
}

fn forget(packs: &Packs, pack: PackId, row: &PackRow) -> Result<()> {
    if row.durable_bytes == 0 {
        return Ok(packs.meta.forget_pack(pack)?);
    }
    tracing::error!(%pack, durable_bytes = row.durable_bytes, "a pack is gone; what leans on it answers as missing");
    Ok(())
}

/// Tells the chunk index of packs that it has not seen.
pub(crate) fn catch_up(packs: &Packs) -> Result<Vec<PackId>> {
    let (mut leaning, mut after) = (Vec::new(), packs.chunks.watermark()?);
    loop {
        let page = packs.meta.sealed_packs(after, PAGE)?;
        for &(seq, pack) in &page {
            if apply_footer(packs, pack)? {
                leaning.push(pack);
            }
            packs.chunks.set_watermark(seq)?;
        }
        match page.last() {
            Some(&(seq, _)) => after = seq,
            None => return Ok(leaning),
        }
    }
}

/// Forgets again, of packs that were just taken in, the chunks that lean on what is not offered: their bases may have gone before
/// the crash, and an upload that was told of them would be refused.
pub(crate) fn withdraw_baseless(packs: &Packs, leaning: &[PackId]) -> Result<()> {
    for pack in leaning {
        match packs.forget_baseless(*pack, |_| true) {
            Err(error @ (Error::Damaged { .. } | Error::Storage(_))) => skip(*pack, &error),
            other => other?,
        }
    }
    Ok(())
}

/// Has the chunk index offer a pack; returns whether some of its frames have bases.
fn apply_footer(packs: &Packs, pack: PackId) -> Result<bool> {
    let state = packs.meta.pack(pack)?.map(|row| row.state);
    if matches!(state, Some(PackState::Condemned | PackState::Doomed)) {
        return Ok(false);
    }
    match packs.footer(pack) {
        Ok(Some(footer)) => {
            packs.chunks.apply(&chunks_of(pack, &footer))?;
            Ok(footer.frames.iter().any(|(_, entry)| !entry.bases.is_empty()))
        }
        Ok(None) => {
            skip(pack, &Error::NotFound { what: format!("the object of pack {pack}") });
            Ok(false)
        }
        // The index is a view: chunks that it does not know are stored again, and restores have their own hints.
        Err(error @ (Error::Damaged { .. } | Error::Storage(_))) => {
            skip(pack, &error);
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn skip(pack: PackId, error: &dyn std::error::Error) {
    tracing::error!(%pack, %error, "a pack's footer can't be read; its chunks are not offered");
}

fn unique_bytes<'a>(frames: impl Iterator<Item = &'a FrameEntry>) -> u64 {
    frames.filter(|entry| entry.kind == FrameKind::Chunks).map(|entry| u64::from(entry.raw_len)).sum()
}
