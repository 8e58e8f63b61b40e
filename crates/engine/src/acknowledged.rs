//! Whether packs say that more was acknowledged than the index knows of.
//!
//! Records are numbered, and the index holds the number of the last group whose commit came to its end. The committer begins
//! a group only when the one before has, so packs are ahead by the one that was under way, at most. If they are further
//! ahead, the index is not the one that belongs to them any more: the disk lost the end of its log, or somebody put an
//! earlier one in its place. What it does not know of would be taken for bytes that nobody needs, and be collected.

use std::collections::VecDeque;

use firn_index::{PackRow, PackState};
use firn_pack::{Chain, Footer, FrameDecoder, FrameHead, FrameKind, PACK_HEADER_LEN, PackId, read_frame, read_header};

use crate::orders::is_behind;
use crate::packs::{PACKS, Packs, object_name, pack_of};
use crate::records::records_of;
use crate::{Error, Result};

/// Rows and objects read at a time.
const PAGE: usize = 256;

/// Objects that the index does not know of which one opening reads; there should be none.
const MOST_UNKNOWN: usize = 256;

/// Refuses a store whose packs hold what was acknowledged and is not in the index. To be asked before packs are sealed: of
/// those that the index calls sealed, it knows all.
///
/// Reads packs that were being written, 32 MiB each, and lists the storage.
///
/// # Errors
/// [`Error::Unusable`] if so; those of the index and of listing the storage.
pub(crate) fn check(packs: &Packs) -> Result<()> {
    let known = packs.meta.record_order()?;
    let (mut rows, mut unknown) = (Rows::new(packs), 0);
    let mut after: Option<String> = None;
    loop {
        let page = packs.storage.list(PACKS, after.as_deref(), PAGE)?;
        for pack in page.iter().filter_map(|entry| pack_of(&entry.name)) {
            match rows.find(pack)? {
                Some(row) if row.state != PackState::Writing => continue,
                Some(_) => {}
                None if unknown == MOST_UNKNOWN => continue,
                None => unknown += 1,
            }
            let last = last_order(packs, pack);
            if last.is_some_and(|last| is_behind(known, last)) {
                return Err(lost(pack));
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.name.clone()),
            _ => return Ok(()),
        }
    }
}

fn lost(pack: PackId) -> Error {
    Error::Unusable(format!(
        "its index lacks changes that were acknowledged: pack {pack} holds records of them. The index lost them to the disk, or is \
         older than the packs. Nothing was changed; `firnd rebuild-index` brings them back (OPERATIONS, \"When something breaks\")"
    ))
}

/// The rows of all packs, asked for in the order of their ids.
struct Rows<'a> {
    packs: &'a Packs,
    page: VecDeque<(PackId, PackRow)>,
    after: Option<PackId>,
    is_last: bool,
}

impl<'a> Rows<'a> {
    fn new(packs: &'a Packs) -> Self {
        Self { packs, page: VecDeque::new(), after: None, is_last: false }
    }

    /// Returns the row of a pack, behind those that were asked for before.
    fn find(&mut self, pack: PackId) -> Result<Option<PackRow>> {
        loop {
            while self.page.front().is_some_and(|(id, _)| *id < pack) {
                self.page.pop_front();
            }
            if let Some((id, row)) = self.page.front() {
                return Ok((*id == pack).then(|| row.clone()));
            }
            if self.is_last {
                return Ok(None);
            }
            self.page = self.packs.meta.packs(self.after, PAGE)?.into();
            self.is_last = self.page.len() < PAGE;
            self.after = self.page.back().map(|(id, _)| *id).or(self.after);
        }
    }
}

/// Returns the greatest number of a pack's records, as far as they can be read: what can't proves nothing.
fn last_order(packs: &Packs, pack: PackId) -> Option<u64> {
    let name = object_name(pack);
    let len = packs.storage.len(&name).ok()?;
    let read = |offset, len| packs.storage.read(&name, offset, len).map_err(std::io::Error::other);
    let (mut decoder, mut chain, mut last) = (FrameDecoder::new().ok()?, Chain::default(), None);
    let mut note = |bytes: &[u8]| {
        let Ok(head) = FrameHead::read(bytes) else { return chain.tear() };
        if head.kind != FrameKind::Record {
            return;
        }
        let frame = decoder.decode_delta(bytes, chain.prefix_of(head.codec)).ok();
        chain.pass(head.kind, head.codec, frame.as_ref().map(|frame| frame.data.as_slice()));
        let records = frame.and_then(|frame| records_of(&frame).ok()).unwrap_or_default();
        last = last.max(records.iter().map(|numbered| numbered.order).max());
    };
    if let Ok(footer) = Footer::open(read, len) {
        for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Record) {
            // What can't be read is no frame, and takes those that are linked to it along.
            note(&read(*offset, entry.len as usize).unwrap_or_default());
        }
    } else {
        read_header(&read, len).ok()?;
        let mut offset = PACK_HEADER_LEN as u64;
        while let Ok(Some(bytes)) = read_frame(&read, offset, len) {
            note(&bytes);
            offset += bytes.len() as u64;
        }
    }
    last
}
