//! Whose a store is: what another user makes in it, its server could not use.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use super::{DataDir, DataError, SERVER};

impl DataDir {
    /// Refuses to let root use a store of another user: that one's server could not open the files that root makes. Others are
    /// held back by permissions.
    ///
    /// Whoever made the lock file owns the store, whomever the folder belongs to. In a folder without one, a server may be the first.
    pub(super) fn check_owner(&self, name: &str) -> Result<(), DataError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let owner = match fs::metadata(self.lock_file()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && name != SERVER => fs::metadata(self.root()),
            found => found,
        };
        match owner.map(|found| found.uid()) {
            Ok(owner) if owner != 0 && self.uid_of_new_files().is_some_and(|uid| uid != owner) => {
                Err(DataError::Foreign { data: self.root().to_owned(), owner: user_name(owner) })
            }
            // What can't be seen here says so when it is used.
            _ => Ok(()),
        }
    }

    /// Returns to whom a file belongs that this process makes. Some file systems give all to one user: shares, and what is
    /// mounted for another system.
    fn uid_of_new_files(&self) -> Option<u32> {
        let path = self.root().join(format!("owner.{}", std::process::id()));
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).ok()?;
        let uid = File::metadata(&made).map(|found| found.uid()).ok();
        // An empty file that stays does no harm.
        let _ = fs::remove_file(&path);
        uid
    }
}

/// Returns a user's name as `sudo -u` takes it: `#` and the number for those of whom the system's file does not tell.
fn user_name(uid: u32) -> String {
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let named = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    named.unwrap_or_else(|| format!("#{uid}"))
}
