//! The other end of a sync: a store or cache that lists what is new, says what it knows of paths, and gives NARs.

use std::io::Write;

use firn_index::SourceCursor;
use firn_nix::StorePath;
use firn_nix_store::{PathInfo, Selection};

use super::seen::Seen;
use crate::intake::NotTaken;

/// Why a sync can't go on.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// It was told to stop.
    #[error("sync: it was stopped; the next one goes on")]
    Stopped,
    /// The source can't be reached or used, or what it says makes no sense.
    #[error("{0}")]
    Source(String),
    /// Our own store failed.
    #[error("use the store: {0}")]
    Store(String),
}

impl From<firn_index::Error> for SyncError {
    fn from(error: firn_index::Error) -> Self {
        Self::Store(crate::error_chain(&error))
    }
}

impl From<firn_engine::Error> for SyncError {
    fn from(error: firn_engine::Error) -> Self {
        Self::Store(crate::error_chain(&error))
    }
}

/// Returns the error of a source.
pub(super) fn source_error(error: &(dyn std::error::Error + 'static)) -> SyncError {
    SyncError::Source(crate::error_chain(error))
}

/// Why a NAR did not come.
#[derive(Debug)]
pub(super) enum NarError {
    /// The path is not there any more.
    Gone(String),
    /// It can't be had as it is.
    Broken(String),
    /// The connection was lost: open another one.
    Lost(String),
}

/// Why a path did not come.
#[derive(Debug)]
pub(super) enum Failed {
    /// It is gone from the source.
    Gone(String),
    /// It won't come, however often it is tried.
    Refused(String),
    /// It may come another time.
    Broken(String),
    /// The connection was lost.
    Lost(String),
    /// Nothing can be stored.
    Fatal(SyncError),
}

impl From<NarError> for Failed {
    fn from(error: NarError) -> Self {
        match error {
            NarError::Gone(why) => Self::Gone(why),
            NarError::Broken(why) => Self::Broken(why),
            NarError::Lost(why) => Self::Lost(why),
        }
    }
}

impl From<NotTaken<NarError>> for Failed {
    fn from(error: NotTaken<NarError>) -> Self {
        match error {
            NotTaken::Fetch(error) => error.into(),
            NotTaken::Refused(why) => Self::Refused(why),
            NotTaken::Broken(why) => Self::Broken(why),
            NotTaken::Store(error) => Self::Fatal(error.into()),
        }
    }
}

/// What a source has that is new.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// In the order in which they came to the source.
    pub(super) steps: Vec<Step>,
    /// What is to be remembered once all steps are done.
    pub(super) seen: Option<Seen>,
}

/// Some new paths.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) paths: Vec<StorePath>,
    /// Up to where the source is known once they are settled.
    pub(super) cursor: SourceCursor,
}

/// Paths in one step, at most: so much is done again after a crash.
pub(super) const STEP_PATHS: usize = 1000;

/// A connection to a source.
pub(super) trait Peer {
    /// Lists what is new since a cursor, or everything.
    fn list(&mut self, since: Option<&SourceCursor>, seen: &Seen) -> Result<Listing, SyncError>;

    /// Returns what is known of paths.
    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError>;

    /// Keeps a path from being deleted as long as this connection lives, if the source can.
    fn keep(&mut self, path: &StorePath) -> Result<(), NarError>;

    /// Writes a NAR.
    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError>;

    /// Returns whether it has all that its paths refer to. What another one lacks is at an upstream: its clients have to look there as well.
    fn is_closed(&self) -> bool {
        true
    }

    /// Returns how many bytes came so far that were not NARs.
    fn metadata_bytes(&self) -> u64;
}

/// A connection, wherever it leads.
pub(super) type BoxedPeer = Box<dyn Peer + Send>;

/// Makes steps of paths with the time at which each came, in their order, none later than `until`.
pub(super) fn steps_by_time(mut paths: Vec<(u64, StorePath)>, until: u64) -> Vec<Step> {
    paths.sort_unstable();
    let mut steps: Vec<Step> = Vec::new();
    for chunk in paths.chunks(STEP_PATHS) {
        let last = chunk.last().map_or(until, |(at, _)| *at);
        steps.push(Step {
            paths: chunk.iter().map(|(_, path)| path.clone()).collect(),
            // Others may have come in the same second.
            cursor: SourceCursor::Time(last.saturating_sub(1).min(until)),
        });
    }
    match steps.last_mut() {
        Some(step) => step.cursor = SourceCursor::Time(until),
        None => steps.push(Step { paths: Vec::new(), cursor: SourceCursor::Time(until) }),
    }
    steps
}

/// Makes steps of those of all names that were not seen before, with all of them to be remembered.
pub(super) fn steps_by_name(names: Vec<StorePath>, seen: &Seen) -> Listing {
    let remembered = Seen::of(names.iter());
    let new: Vec<StorePath> = names.into_iter().filter(|path| !seen.has(path)).collect();
    let step = |paths: &[StorePath]| Step { paths: paths.to_vec(), cursor: SourceCursor::Seen };
    let mut steps: Vec<Step> = new.chunks(STEP_PATHS).map(step).collect();
    if steps.is_empty() {
        steps.push(step(&[]));
    }
    Listing { steps, seen: Some(remembered) }
}

#[cfg(test)]
mod tests {
    use firn_nix::StoreHash;

    use super::*;

    #[test]
    fn steps_never_pass_over_what_came_in_the_same_second() {
        let path = |n: usize| StorePath::new(StoreHash([1; 20]), &format!("x{n}")).unwrap();
        let paths: Vec<_> = (0..2500).map(|n| (100 + n as u64 / 1000, path(n))).rev().collect();
        let steps = steps_by_time(paths, 5000);
        let times: Vec<_> = steps.iter().map(|step| (step.paths.len(), step.cursor.clone())).collect();
        let time = SourceCursor::Time;
        assert_eq!(times, [(1000, time(99)), (1000, time(100)), (500, time(5000))]);
        let late = steps_by_time(vec![(900, path(1))], 500);
        assert_eq!(late[0].cursor, SourceCursor::Time(500), "what is newer than the limit is listed again");
        assert_eq!(steps_by_time(vec![], 7)[0].cursor, SourceCursor::Time(7));
    }
}
