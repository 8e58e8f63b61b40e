//! What is done when a store is opened: packs that a crash left unsealed are recovered, and the chunk index catches up.

use firn_chunk::{ChunkId, ChunkerId};
use firn_index::{PackRow, PackState, StoreInfo};
use firn_pack::{Footer, FrameDecoder, FrameEntry, FrameKind, PackId, frame_bases};

use crate::frames::BASE_STEPS;
use crate::gc::chunks_of;
use crate::packs::{Packs, object_name};
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

/// Seals every pack that was being written when the store was last closed or killed.
pub(crate) fn seal_torn_packs(packs: &Packs) -> Result<()> {
    let mut after = None;
    loop {
        let page = packs.meta.packs(after, PAGE)?;
        for (pack, row) in page.iter().filter(|(_, row)| row.state == PackState::Writing) {
            match seal_torn(packs, *pack, row) {
                Err(Error::StorageFull) => {
                    // Restores know where its frames are. A store with just the room that its index needs must open, if only to be read.
                    tracing::warn!(%pack, "no room to seal a pack that was being written: left for the next start");
                }
                other => other?,
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(()),
        }
    }
}

fn seal_torn(packs: &Packs, pack: PackId, row: &PackRow) -> Result<()> {
    let name = object_name(pack);
    let Some(len) = packs.len_of(pack)? else { return forget(packs, pack, row) };
    let read = |offset, len| packs.storage.read(&name, offset, len).map_err(std::io::Error::other);
    if let Ok(footer) = Footer::open(read, len) {
        tracing::info!(%pack, "sealed a pack that was closed and not yet in the index");
        let unique = unique_bytes(footer.frames.iter().map(|(_, entry)| entry));
        // The footer was read, which does not say that it was synced.
        packs.storage.resume(&name, len)?.sync()?;
        packs.meta.seal_pack(pack, len, unique)?;
        return Ok(());
    }
    let recovered = match firn_pack::recover(read, len, row.durable_bytes, &mut |id| {
        base(packs, &ChunkId(*id), BASE_STEPS).map_err(std::io::Error::other)
    }) {
        Ok(recovered) => recovered,
        Err(firn_pack::Error::NoHeader) if row.durable_bytes == 0 => {
            packs.storage.delete(&name)?;
            return forget(packs, pack, row);
        }
        Err(error) => {
            tracing::error!(%pack, %error, "a pack is damaged; what leans on it answers as missing");
            return Ok(());
        }
    };
    let is_damaged = recovered.valid_len < row.durable_bytes || !recovered.lost.is_empty();
    if is_damaged {
        tracing::error!(
            %pack, durable_bytes = row.durable_bytes, valid_bytes = recovered.valid_len, lost_ranges = ?recovered.lost,
            "a pack lost bytes that were durable: the disk is to blame; what leans on them answers as missing"
        );
    }
    if recovered.builder.frames() == 0 && row.durable_bytes == 0 {
        packs.storage.delete(&name)?;
        return forget(packs, pack, row);
    }
    let unique = recovered.builder.unique_bytes();
    // What a crash tore is cut off. What the disk damaged stays where recipes know that it lies.
    let end = if is_damaged { len } else { recovered.valid_len };
    let mut writer = packs.storage.resume(&name, end)?;
    writer.append(&[&recovered.builder.finish()])?;
    writer.sync()?;
    packs.meta.seal_pack(pack, writer.len(), unique)?;
    tracing::info!(%pack, cut_bytes = len - end, "recovered a pack that was being written");
    Ok(())
}

/// Returns a chunk of another pack that frames of a torn one were compressed with; as many steps may lie behind it.
pub(crate) fn base(packs: &Packs, id: &ChunkId, steps: u8) -> Result<Option<Vec<u8>>> {
    let Some(loc) = packs.lookup(id)? else { return Ok(None) };
    let name = object_name(loc.frame.pack);
    let bytes = match packs.storage.read(&name, loc.frame.offset, loc.frame.len as usize) {
        Ok(bytes) => bytes,
        Err(error) => match packs.fault("a base", error) {
            error if error.is_damage() => return Ok(None),
            error => return Err(error),
        },
    };
    let internal = |error: firn_pack::Error| Error::Internal(error.to_string());
    let mut prefix = Vec::new();
    for of in frame_bases(&bytes).unwrap_or_default() {
        let Some(steps) = steps.checked_sub(1) else { return Ok(None) };
        let Some(data) = base(packs, &ChunkId(of), steps)? else { return Ok(None) };
        prefix.extend(data);
    }
    let frame = match FrameDecoder::new().map_err(internal)?.decode_delta(&bytes, &prefix) {
        Ok(frame) => frame,
        Err(firn_pack::Error::Corrupt { .. } | firn_pack::Error::NeedsBases) => return Ok(None),
        Err(error) => return Err(internal(error)),
    };
    Ok(frame.item(loc.index.into()).filter(|data| ChunkId::of(data) == *id).map(<[u8]>::to_vec))
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
