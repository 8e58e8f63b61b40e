//! Requests of a backup that copies the store of a running server: it keeps what it copies from being deleted.

use std::path::PathBuf;

use firn_index::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::execute::{Admin, invalid, store};
use super::{Answer, Failure};

/// How long nothing is deleted after a backup's last sign of life, in seconds.
const LEASE_SECONDS: u64 = 15 * 60;

/// A backup that may copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupView {
    /// Names it in later requests.
    pub id: String,
    /// The folder that holds the copy of the index.
    pub index: PathBuf,
    /// When the index was copied.
    pub taken_at: UnixSeconds,
    /// Until when nothing is deleted, unless the backup says that it goes on.
    pub until: UnixSeconds,
}

impl Admin<'_> {
    /// Stops deletions, and copies the index as it is.
    pub(super) fn begin_backup(&self) -> Result<Answer, Failure> {
        let Some(files) = self.index else {
            return Err(invalid("copy the index: this store's can't be copied while it is used".to_owned()));
        };
        let (id, until) = (self.entropy.draw(), self.now.saturating_add(LEASE_SECONDS));
        if !self.meta.take_lease(firn_engine::DELETION_LEASE, id, self.now, until).map_err(store)? {
            return Err(Failure::Busy {
                detail: "begin a backup: garbage collection or another backup is running; try again when it is done"
                    .to_owned(),
            });
        }
        let view = BackupView { id: format!("{id:032x}"), index: self.data.backup_index(), taken_at: self.now, until };
        let copied = self.data.remove_backup_index().and_then(|()| files.checkpoint(&view.index));
        if let Err(error) = copied {
            self.meta.end_lease(firn_engine::DELETION_LEASE, id).map_err(store)?;
            return Err(store(error));
        }
        Ok(Answer::Backup(view))
    }

    /// Goes on keeping everything.
    pub(super) fn renew_backup(&self, id: &str) -> Result<Answer, Failure> {
        let (holder, until) = (parse(id)?, self.now.saturating_add(LEASE_SECONDS));
        if !self.meta.take_lease(firn_engine::DELETION_LEASE, holder, self.now, until).map_err(store)? {
            return Err(invalid(
                "go on with the backup: it gave no sign of life for too long; run it again".to_owned(),
            ));
        }
        let view = BackupView { id: id.to_owned(), index: self.data.backup_index(), taken_at: self.now, until };
        Ok(Answer::Backup(view))
    }

    /// Lets deletions go on.
    pub(super) fn end_backup(&self, id: &str) -> Result<Answer, Failure> {
        let holder = parse(id)?;
        let removed = self.data.remove_backup_index();
        self.meta.end_lease(firn_engine::DELETION_LEASE, holder).map_err(store)?;
        removed.map_err(store)?;
        let view =
            BackupView { id: id.to_owned(), index: self.data.backup_index(), taken_at: self.now, until: self.now };
        Ok(Answer::Backup(view))
    }
}

fn parse(id: &str) -> Result<u128, Failure> {
    u128::from_str_radix(id, 16).map_err(|_| invalid(format!("find the backup '{id}': that is no id of one")))
}
