//! Requests about reading stored bytes again.

use firn_index::{DamagedPath, ScrubPass, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::execute::{Admin, invalid, store};
use super::{Answer, Failure};
use crate::app::App;

/// What scrubs have found, and whether one runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubView {
    /// Whether a pass runs now.
    pub running: bool,
    /// The most bytes per second of the pass that runs.
    pub bytes_per_second: Option<u64>,
    /// When the next pass is due.
    pub next_at: Option<UnixSeconds>,
    /// Why the pass broke off, if the store was to blame.
    pub problem: Option<String>,
    /// The pass that runs, or was interrupted.
    pub current: Option<ScrubPassView>,
    /// The last pass that came to its end.
    pub last: Option<ScrubPassView>,
}

/// A pass over all packs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPassView {
    /// When it began.
    pub started_at: UnixSeconds,
    /// When it came to its end.
    pub finished_at: Option<UnixSeconds>,
    /// Packs checked.
    pub packs: u64,
    /// Frames checked.
    pub frames: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Packs that could not be read.
    pub unreadable_packs: u64,
    /// Packs that are gone, or whose header, length or footer is wrong.
    pub damaged_packs: u64,
    /// Frames that are not what was written.
    pub damaged_frames: u64,
    /// Paths that can't be had until they are uploaded again.
    pub damaged_paths: u64,
    /// The first 100 of them.
    pub paths: Vec<DamagedPath>,
}

impl ScrubPassView {
    /// Returns whether any stored byte is damaged, or it is not known whether it is. If paths can't be had for it, it says which.
    pub fn is_damaged(&self) -> bool {
        self.damaged_paths + self.unreadable_packs + self.damaged_packs + self.damaged_frames > 0
    }
}

impl From<ScrubPass> for ScrubPassView {
    fn from(pass: ScrubPass) -> Self {
        Self {
            started_at: pass.started_at,
            finished_at: pass.finished_at,
            packs: pass.packs,
            frames: pass.frames,
            read_bytes: pass.read_bytes,
            unreadable_packs: pass.unreadable_packs,
            damaged_packs: pass.damaged_packs,
            damaged_frames: pass.damaged_frames,
            damaged_paths: pass.damaged_paths,
            paths: pass.paths,
        }
    }
}

impl Admin<'_> {
    pub(super) fn start_scrub(&self, bytes_per_second: Option<u64>) -> Result<Answer, Failure> {
        if bytes_per_second == Some(0) {
            return Err(invalid("read no bytes per second: give a rate of at least 1".to_owned()));
        }
        self.running()?.scrubber.start(bytes_per_second);
        self.scrub_status()
    }

    pub(super) fn stop_scrub(&self) -> Result<Answer, Failure> {
        self.running()?.scrubber.stop();
        self.scrub_status()
    }

    pub(super) fn scrub_status(&self) -> Result<Answer, Failure> {
        let outcome = self.meta.scrub().map_err(store)?;
        let state = self.app.map(|app| app.scrubber.state());
        let next_at = match self.app {
            Some(app) => app.scrubber.next_at(&app.engine).map_err(|detail| Failure::Store { detail })?,
            None => None,
        };
        let bytes_per_second = state.as_ref().and_then(|state| state.running);
        Ok(Answer::Scrub(Box::new(ScrubView {
            running: bytes_per_second.is_some(),
            bytes_per_second,
            next_at,
            problem: state.and_then(|state| state.problem),
            current: outcome.current.map(Into::into),
            last: outcome.last.map(Into::into),
        })))
    }

    fn running(&self) -> Result<&App, Failure> {
        self.app.ok_or_else(|| invalid("stop a scrub: no server runs, and so none of its own".to_owned()))
    }
}
