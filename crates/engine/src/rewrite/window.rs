//! Some packs that are rewritten together: what they hold, and who needs it.

use std::collections::{BTreeSet, HashMap, HashSet};

use firn_chunk::{ChunkId, RecipeId};
use firn_pack::{ChunkLoc, FrameEntry, FrameKind, FrameLoc, PackId};

use super::WINDOW_CHUNKS;
use super::choose::Candidate;
use super::survey::Survey;
use crate::engine::Shared;
use crate::{Error, Result};

/// A chunk of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) loc: ChunkLoc,
    /// Whether its frame has no bases.
    pub(super) is_plain: bool,
}

/// Packs that are rewritten together. Memory: some 150 bytes for each of their chunks, and 32 for each recipe.
pub(super) struct Window {
    /// The packs, in the order in which they were sealed, with their bytes.
    pub(super) packs: Vec<(PackId, u64)>,
    ids: HashSet<PackId>,
    /// How many candidates it took, those included whose footer is damaged.
    taken: usize,
    /// Their frames of chunks, in order.
    pub(super) frames: Vec<(FrameLoc, FrameEntry)>,
    by_place: HashMap<FrameLoc, usize>,
    /// Their chunks; of several copies one without bases.
    pub(super) chunks: HashMap<ChunkId, Held>,
    pub(super) survey: Survey,
}

impl Window {
    /// Reads footers of the first packs of these, as many as are rewritten together, and looks at who needs them. A pack
    /// whose footer is damaged is left out: nothing can be told of it. At least one is taken, and others up to `max_bytes`.
    pub(super) fn of(shared: &Shared, candidates: &[Candidate], max_bytes: u64) -> Result<Self> {
        let mut window = Self {
            packs: Vec::new(),
            ids: HashSet::new(),
            taken: 0,
            frames: Vec::new(),
            by_place: HashMap::new(),
            chunks: HashMap::new(),
            survey: Survey::default(),
        };
        let mut bytes = 0u64;
        for candidate in candidates {
            bytes = bytes.saturating_add(candidate.stored_bytes);
            let is_full = bytes > max_bytes || window.chunks.len() > WINDOW_CHUNKS;
            if is_full && !window.packs.is_empty() {
                break;
            }
            window.taken += 1;
            match window.add(shared, candidate) {
                Err(error) if error.is_of_pack() => {
                    let error = crate::error::chain(&error);
                    tracing::error!(pack = %candidate.pack, error, "a pack can't be rewritten: its footer can't be read");
                }
                other => other?,
            }
        }
        window.survey = Survey::of(shared, &window)?;
        Ok(window)
    }

    /// Returns how many of the candidates are done with it.
    pub(super) fn taken(&self) -> usize {
        self.taken
    }

    /// Returns whether a frame lies in one of the packs.
    pub(super) fn has(&self, frame: &FrameLoc) -> bool {
        self.ids.contains(&frame.pack)
    }

    /// Returns what is known of a frame of one of the packs.
    pub(super) fn entry(&self, frame: &FrameLoc) -> Option<&FrameEntry> {
        self.by_place.get(frame).and_then(|at| self.frames.get(*at)).map(|(_, entry)| entry)
    }

    /// Returns the recipes that need one of the packs now, each once.
    pub(super) fn recipes(&self, shared: &Shared) -> Result<Vec<RecipeId>> {
        const PAGE: usize = 1024;
        let mut recipes = BTreeSet::new();
        for (pack, _) in &self.packs {
            let mut after = None;
            loop {
                let page = shared.packs.meta.recipes_of_pack(*pack, after, PAGE)?;
                recipes.extend(page.iter().copied());
                match page.last() {
                    Some(last) if page.len() == PAGE => after = Some(*last),
                    _ => break,
                }
            }
        }
        Ok(recipes.into_iter().collect())
    }

    fn add(&mut self, shared: &Shared, candidate: &Candidate) -> Result<()> {
        let pack = candidate.pack;
        let gone = || Error::damaged(format!("pack {pack}"), "it is gone");
        let footer = shared.packs.footer(pack)?.ok_or_else(gone)?;
        self.packs.push((pack, candidate.stored_bytes));
        self.ids.insert(pack);
        for (offset, entry) in footer.frames {
            if entry.kind != FrameKind::Chunks {
                continue;
            }
            let frame = FrameLoc { pack, offset, len: entry.len };
            let is_plain = entry.bases.is_empty();
            for (id, loc) in entry.locations(frame) {
                let held = self.chunks.entry(ChunkId(id)).or_insert(Held { loc, is_plain });
                if is_plain && !held.is_plain {
                    *held = Held { loc, is_plain };
                }
            }
            self.by_place.insert(frame, self.frames.len());
            self.frames.push((frame, entry));
        }
        Ok(())
    }
}
