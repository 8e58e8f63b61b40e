//! Two NARs for one path: the alarm, and what differs between them.
//!
//! Of a NAR that a path did not take, nothing is kept for long. So what differs is found out right after the commit that
//! refused it, while the upload still holds its content, and kept as a document beside the path. That this is missing (a
//! crash came between, or the NARs could not be read) costs the record and nothing else: the next offer of the same NAR
//! makes it.

use firn_index::{CacheName, Conflict, Content, DifferenceRow, FileDifference, PathRow, Row as _, UnixSeconds};
use firn_nix::{Sha256, StoreHash};

use crate::commit::DocumentContent;
use crate::difference::Compared;
use crate::error::chain;
use crate::{Engine, Error, PathOutcome, Result};

/// Files that the log names.
const LOGGED_FILES: usize = 5;

/// Bytes of a file's path that the log shows.
const LOGGED_PATH_BYTES: usize = 200;

/// The longest difference that is read back: twice what one takes.
const MAX_READ_BYTES: u64 = 2 * DifferenceRow::MAX_BYTES as u64;

impl Engine {
    /// Returns what was recorded of the difference between a path's NAR, `first`, and another one that was offered for it;
    /// `None` if nothing was, or it was about another first one.
    ///
    /// # Errors
    /// Errors of the index; as [`Engine::restore`]; [`Error::Damaged`] for a record that does not decode.
    pub fn recorded_difference(
        &self,
        cache: &CacheName,
        path: &StoreHash,
        first: &Sha256,
        offered: &Sha256,
    ) -> Result<Option<DifferenceRow>> {
        let key = DifferenceRow::key(path, offered);
        let Some(document) = self.meta().document(cache, &key)? else { return Ok(None) };
        let damaged = |detail: String| Error::damaged(format!("what differs between two NARs of {path}"), detail);
        let bytes = match document.content {
            Content::Inline(bytes) => bytes,
            Content::Recipe { length, .. } if length > MAX_READ_BYTES => {
                return Err(damaged(format!("it has {length} bytes")));
            }
            Content::Recipe { recipe, slots, length } => {
                let mut restore = self.restore(&recipe, &slots, 0..length)?;
                let mut bytes = Vec::new();
                while let Some(piece) = restore.next(DifferenceRow::MAX_BYTES)? {
                    bytes.extend_from_slice(&piece);
                }
                bytes
            }
        };
        let row = DifferenceRow::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
        Ok((row.first == *first).then_some(row))
    }

    /// After the commit of a path: if it had another NAR, logs that, and records what differs. `other` is what was offered;
    /// without it the cache holds that NAR. Does so once for each NAR; after `until` nothing is compared, and the next offer of
    /// the same NAR makes up for it. Nothing that fails here changes the outcome.
    pub(crate) fn note_conflict(
        &self,
        cache: &CacheName,
        path: &StoreHash,
        offered: &Sha256,
        outcome: PathOutcome,
        other: Option<Compared<'_>>,
        until: UnixSeconds,
    ) {
        match outcome {
            PathOutcome::Created | PathOutcome::Merged => {}
            PathOutcome::KeptFirst | PathOutcome::Rejected => {
                if let Err(error) = self.record_conflict(cache, path, offered, other, until) {
                    let error = chain(&error);
                    tracing::warn!(%cache, %path, error, "what differs between two NARs of a path was not recorded");
                }
            }
        }
    }

    fn record_conflict(
        &self,
        cache: &CacheName,
        path: &StoreHash,
        offered: &Sha256,
        other: Option<Compared<'_>>,
        until: UnixSeconds,
    ) -> Result<()> {
        let Some(row) = self.meta().path(cache, path)? else { return Ok(()) };
        // An offer with other references is none of another NAR, and only so many conflicts are remembered.
        let is_other = |conflict: &&Conflict| conflict.nar_hash == *offered && row.nar_hash != *offered;
        let Some(conflict) = row.conflicts.iter().find(is_other) else { return Ok(()) };
        if self.recorded_difference(cache, path, &row.nar_hash, offered).is_ok_and(|known| known.is_some()) {
            return Ok(());
        }
        if self.shared.packs.clock.now() > until {
            raise_alarm(cache, &row, conflict, None);
            tracing::warn!(%cache, %path, "two NARs of a path were not compared: the request that brought many had no time left");
            return Ok(());
        }
        let found = self.compare_offered(cache, &row, offered, other, until);
        raise_alarm(cache, &row, conflict, found.as_ref().ok());
        let content = DocumentContent::Inline(found?.encode());
        self.commit_document(cache, DifferenceRow::key(path, offered), content, conflict.uploader.clone())
    }

    fn compare_offered(
        &self,
        cache: &CacheName,
        row: &PathRow,
        offered: &Sha256,
        other: Option<Compared<'_>>,
        until: UnixSeconds,
    ) -> Result<DifferenceRow> {
        let nar = |hash: &Sha256| {
            let absent = || Error::NotFound { what: format!("the NAR sha256:{} in cache '{cache}'", hash.to_nix32()) };
            self.meta().nar(cache, hash)?.ok_or_else(absent)
        };
        let first = nar(&row.nar_hash)?;
        let found = match other {
            Some(other) => self.compare(Compared::Held(&first), other, until)?,
            None => self.compare(Compared::Held(&first), Compared::Held(&nar(offered)?), until)?,
        };
        Ok(DifferenceRow::new(row.nar_hash, found.new_bytes, found.files, found.is_partial))
    }
}

fn raise_alarm(cache: &CacheName, row: &PathRow, conflict: &Conflict, found: Option<&DifferenceRow>) {
    let differing_files = found.map(|found| found.total);
    let is_partial = found.is_none_or(|found| found.is_partial);
    let files = found.map_or_else(String::new, |found| listed(&found.files));
    tracing::warn!(
        %cache, path = %row.path, first_nar = %row.nar_hash, first_builder = row.uploader.builder,
        other_nar = %conflict.nar_hash, other_builder = conflict.uploader.builder, differing_files, is_partial, files,
        "two different NARs were pushed for one path: the first stays"
    );
}

/// Returns the first paths, readable and not too long.
fn listed(files: &[FileDifference]) -> String {
    let name = |file: &FileDifference| {
        let shown = &file.path[..file.path.len().min(LOGGED_PATH_BYTES)];
        if shown.is_empty() { "(the root)".to_owned() } else { shown.escape_ascii().to_string() }
    };
    let names: Vec<String> = files.iter().take(LOGGED_FILES).map(name).collect();
    names.join(", ")
}
