//! Where the chunks of a recipe lie: the second item of a recipe's record frame.
//!
//! A placement is a hint beside the recipe's chunk ids: runs of consecutive chunks within one frame. A chunk that is
//! no longer there is looked for by its id. Encoding, little endian, `v` for LEB128 numbers:
//!
//! ```text
//! magic "FPLC" | version u8 = 1 | v packs | packs x 16 bytes | v runs | runs x (v pack, v offset, v length, v first, v count)
//! ```
//!
//! Version 2 goes on: `v bases | bases x (v pack, v offset, v length)`, frames that hold bases of the runs' frames.

use firn_pack::{ChunkLoc, FrameLoc, PackId};

const MAGIC: &[u8; 4] = b"FPLC";
const VERSION: u8 = 1;

/// The version with frames of bases behind the runs.
const VERSION_WITH_BASES: u8 = 2;

/// Consecutive chunks of a recipe that lie one after the other in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// The frame.
    pub frame: FrameLoc,
    /// The first item of the frame.
    pub first: u16,
    /// How many items.
    pub count: u32,
}

/// The placement of a recipe's chunks, in the recipe's order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// The runs.
    pub runs: Vec<Run>,
    /// Frames that hold bases of the runs' frames, sorted.
    pub bases: Vec<FrameLoc>,
}

impl Placement {
    /// Adds the next chunk's location.
    pub(crate) fn push(&mut self, loc: ChunkLoc) {
        if let Some(last) = self.runs.last_mut()
            && last.frame == loc.frame
            && u32::from(last.first) + last.count == u32::from(loc.index)
        {
            last.count += 1;
            return;
        }
        self.runs.push(Run { frame: loc.frame, first: loc.index, count: 1 });
    }

    /// Returns how many chunks are placed.
    pub(crate) fn chunks(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.count)).sum()
    }

    /// Returns all frames that are needed, those of bases included; some more than once.
    pub(crate) fn frames(&self) -> impl Iterator<Item = FrameLoc> + '_ {
        self.runs.iter().map(|run| run.frame).chain(self.bases.iter().copied())
    }

    /// Returns the packs that are needed, sorted, without duplicates.
    pub(crate) fn packs(&self) -> Vec<PackId> {
        let mut packs: Vec<_> = self.frames().map(|frame| frame.pack).collect();
        packs.sort_unstable();
        packs.dedup();
        packs
    }

    /// Returns the placement's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let packs = self.packs();
        let mut out = Vec::with_capacity(16 + packs.len() * 16 + self.runs.len() * 12);
        out.extend_from_slice(MAGIC);
        out.push(if self.bases.is_empty() { VERSION } else { VERSION_WITH_BASES });
        put(&mut out, packs.len() as u64);
        for pack in &packs {
            out.extend_from_slice(&pack.0);
        }
        put(&mut out, self.runs.len() as u64);
        for run in &self.runs {
            let pack = packs.binary_search(&run.frame.pack).expect("packs() lists the pack of every run");
            put(&mut out, pack as u64);
            put(&mut out, run.frame.offset);
            put(&mut out, u64::from(run.frame.len));
            put(&mut out, u64::from(run.first));
            put(&mut out, u64::from(run.count));
        }
        if !self.bases.is_empty() {
            put(&mut out, self.bases.len() as u64);
        }
        for base in &self.bases {
            let pack = packs.binary_search(&base.pack).expect("packs() lists the pack of every base");
            put(&mut out, pack as u64);
            put(&mut out, base.offset);
            put(&mut out, u64::from(base.len));
        }
        out
    }

    /// Reads a placement; `None` when the bytes are not one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&version, mut rest) = bytes.strip_prefix(MAGIC)?.split_first()?;
        if version != VERSION && version != VERSION_WITH_BASES {
            return None;
        }
        let packs = take(&mut rest)?;
        let table_bytes = usize::try_from(packs.checked_mul(16)?).ok()?;
        let table = rest.get(..table_bytes)?;
        rest = &rest[table_bytes..];
        let pack_at = |n: u64| -> Option<PackId> {
            let start = usize::try_from(n.checked_mul(16)?).ok()?;
            Some(PackId(table.get(start..start.checked_add(16)?)?.try_into().ok()?))
        };
        let count = take(&mut rest)?;
        // A run takes five bytes at least, so that a claimed count can't make us reserve more than the input's size.
        if count > rest.len() as u64 / 5 {
            return None;
        }
        let mut runs = Vec::with_capacity(usize::try_from(count).ok()?);
        for _ in 0..count {
            let pack = pack_at(take(&mut rest)?)?;
            let offset = take(&mut rest)?;
            let len = u32::try_from(take(&mut rest)?).ok()?;
            let first = u16::try_from(take(&mut rest)?).ok()?;
            let count = u32::try_from(take(&mut rest)?).ok()?;
            if count == 0 || u32::from(first) + count > u32::from(u16::MAX) + 1 {
                return None;
            }
            runs.push(Run { frame: FrameLoc { pack, offset, len }, first, count });
        }
        let mut bases = Vec::new();
        if version == VERSION_WITH_BASES {
            let count = take(&mut rest)?;
            if count == 0 || count > rest.len() as u64 / 3 {
                return None;
            }
            for _ in 0..count {
                let pack = pack_at(take(&mut rest)?)?;
                let offset = take(&mut rest)?;
                bases.push(FrameLoc { pack, offset, len: u32::try_from(take(&mut rest)?).ok()? });
            }
        }
        rest.is_empty().then_some(Self { runs, bases })
    }
}

/// Writes a LEB128 number.
pub(crate) fn put(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push((n as u8) | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Reads a LEB128 number from the front of some bytes; `None` when there is none.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        n |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(n);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loc(pack: u8, offset: u64, index: u16) -> ChunkLoc {
        ChunkLoc { frame: FrameLoc { pack: PackId([pack; 16]), offset, len: 1000 }, index }
    }

    fn sample() -> Placement {
        let mut placement = Placement::default();
        for loc in [loc(2, 64, 0), loc(2, 64, 1), loc(2, 64, 3), loc(1, 1 << 40, 0), loc(2, 64, 4)] {
            placement.push(loc);
        }
        placement
    }

    #[test]
    fn consecutive_chunks_of_one_frame_are_one_run() {
        let placement = sample();
        assert_eq!(placement.runs.len(), 4);
        assert_eq!(placement.runs[0].count, 2);
        assert_eq!(placement.chunks(), 5);
        assert_eq!(placement.packs(), [PackId([1; 16]), PackId([2; 16])]);
    }

    #[test]
    fn encoding_round_trips_and_refuses_what_is_cut_or_longer() {
        let placement = sample();
        let bytes = placement.encode();
        assert_eq!(Placement::decode(&bytes), Some(placement));
        for len in 0..bytes.len() {
            assert_eq!(Placement::decode(&bytes[..len]), None, "cut at {len}");
        }
        assert_eq!(Placement::decode(&[&bytes[..], &[0]].concat()), None);
    }

    #[test]
    fn frames_of_bases_are_needed_too() {
        let mut placement = sample();
        placement.bases.push(FrameLoc { pack: PackId([3; 16]), offset: 9, len: 5 });
        assert_eq!(placement.packs(), [1, 2, 3].map(|pack| PackId([pack; 16])));
        let bytes = placement.encode();
        assert_eq!(Placement::decode(&bytes), Some(placement));
        for len in 0..bytes.len() {
            assert_eq!(Placement::decode(&bytes[..len]), None, "cut at {len}");
        }
    }

    #[test]
    fn a_huge_claimed_count_is_refused() {
        let mut bytes = b"FPLC\x01\x00".to_vec();
        put(&mut bytes, u64::MAX);
        assert_eq!(Placement::decode(&bytes), None);
    }
}
