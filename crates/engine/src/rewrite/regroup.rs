//! Repacking: what is needed of a window, as it is compressed already as far as that goes.

use bytes::Bytes;
use firn_chunk::ChunkId;
use firn_pack::{FrameEntry, FrameLoc};

use super::window::Window;
use super::writer::{Candidate, Writer};
use crate::Result;

/// Writes what is needed of the window's packs, frame by frame: first those that may hold bases.
pub(super) fn rewrite(writer: &mut Writer<'_, '_>, window: &Window) -> Result<()> {
    let is_plain = |entry: &FrameEntry| entry.bases.is_empty();
    let (plain, delta): (Vec<_>, Vec<_>) = window.frames.iter().partition(|(_, entry)| is_plain(entry));
    for (loc, entry) in plain.into_iter().chain(delta) {
        let needs = |id: &[u8; 32]| {
            let id = ChunkId(*id);
            // Of several copies in the window one is enough.
            let is_here = window.chunks.get(&id).is_some_and(|held| held.loc.frame == *loc);
            is_here && window.survey.needs(&id)
        };
        let needed = entry.items.iter().filter(|item| needs(&item.id)).count();
        if needed == 0 {
            continue;
        }
        if !writer.goes_on()? {
            break;
        }
        let is_whole =
            needed == entry.items.len() && !entry.items.iter().any(|item| writer.moved.contains_key(&ChunkId(item.id)));
        writer.so_far.read_bytes += u64::from(loc.len);
        match bases(writer, window, entry)? {
            Some(bases) if is_whole => copy(writer, *loc, entry, &bases)?,
            Some(bases) => regroup(writer, window, *loc, entry, &bases)?,
            // What leans on a base that is gone or has bases itself stays where it is.
            None => writer.left.entry(loc.pack).or_default().baseless += 1,
        }
    }
    Ok(())
}

/// Returns the bases of a frame, those of the window rewritten; `None` if one of them can't be told.
fn bases(writer: &mut Writer<'_, '_>, window: &Window, entry: &FrameEntry) -> Result<Option<Vec<Candidate>>> {
    let mut bases = Vec::new();
    for id in &entry.bases {
        let Some(base) = writer.base(window, &ChunkId(*id), true)? else { return Ok(None) };
        bases.push(base);
    }
    Ok(Some(bases))
}

/// Copies a frame as it is.
fn copy(writer: &mut Writer<'_, '_>, loc: FrameLoc, entry: &FrameEntry, bases: &[Candidate]) -> Result<()> {
    let bytes = match writer.shared.frames.stored(loc) {
        Ok(bytes) => bytes,
        Err(error) if error.is_of_pack() => {
            writer.leave(loc, &error);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    // A frame that is damaged is not copied: its chunks may be found elsewhere, and its recipes stay with it.
    if chunks(writer, loc, entry)?.is_none() {
        return Ok(());
    }
    let mut spots: Vec<_> = bases.iter().map(Candidate::spot).collect();
    spots.sort_unstable();
    spots.dedup();
    writer.copy(&bytes, entry, spots)
}

/// Takes the chunks of a frame that are needed and were not rewritten yet.
fn regroup(
    writer: &mut Writer<'_, '_>,
    window: &Window,
    loc: FrameLoc,
    entry: &FrameEntry,
    bases: &[Candidate],
) -> Result<()> {
    let Some(chunks) = chunks(writer, loc, entry)? else { return Ok(()) };
    for (id, data) in chunks {
        if window.survey.needs(&id) && !writer.moved.contains_key(&id) {
            writer.add(id, &data, bases)?;
        }
    }
    Ok(())
}

/// Returns the chunks of a frame; `None` when it is damaged.
fn chunks(writer: &mut Writer<'_, '_>, loc: FrameLoc, entry: &FrameEntry) -> Result<Option<Vec<(ChunkId, Bytes)>>> {
    let fetched = match writer.shared.frames.get(loc, &[], &mut std::iter::empty()) {
        Ok(fetched) => fetched,
        Err(error) if error.is_of_pack() => {
            writer.leave(loc, &error);
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let Some((_, frame)) = fetched.first() else { return Ok(None) };
    let chunk = |(id, loc): ([u8; 32], firn_pack::ChunkLoc)| {
        let id = ChunkId(id);
        Some((id, frame.data().slice(frame.range(loc.index, &id)?)))
    };
    Ok(entry.locations(loc).map(chunk).collect())
}
