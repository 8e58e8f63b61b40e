//! A store on this machine: new rows of its database, files read directly.

use std::io::Write;

use firn_index::SourceCursor;
use firn_nix::StorePath;
use firn_nix_store::{Daemon, Database, Error, Location, PathInfo, Selection, dump};

use super::peer::{Listing, NarError, Peer, STEP_PATHS, Step, SyncError, source_error};
use super::seen::Seen;

pub(super) struct LocalStore {
    location: Location,
    database: Database,
    /// Keeps paths from being deleted, where one runs.
    daemon: Option<Daemon>,
}

impl LocalStore {
    pub(super) fn open(location: &Location) -> Result<Self, SyncError> {
        let database = Database::open(location).map_err(|error| source_error(&error))?;
        let daemon = Daemon::connect(location).ok();
        Ok(Self { location: location.clone(), database, daemon })
    }

    /// Tells one database from another: ids of one mean nothing in the other.
    fn identity(&self) -> [u8; 32] {
        let identity = self.database.identity();
        let mut text = Vec::new();
        for number in [identity.device, identity.inode, identity.born_at_ns, u64::from(identity.schema)] {
            text.extend_from_slice(&number.to_le_bytes());
        }
        *blake3::hash(&text).as_bytes()
    }
}

impl Peer for LocalStore {
    fn list(&mut self, since: Option<&SourceCursor>, _seen: &Seen) -> Result<Listing, SyncError> {
        let identity = self.identity();
        let fail = |error: Error| source_error(&error);
        let mut after = match since {
            Some(SourceCursor::Row { database, id }) if *database == identity => *id,
            _ => 0,
        };
        if after > self.database.max_id().map_err(fail)? {
            after = 0;
        }
        let mut steps = Vec::new();
        loop {
            let page = self.database.valid_after(after, STEP_PATHS).map_err(fail)?;
            let Some(last) = page.last_id() else { break };
            after = last;
            let paths = page.paths.into_iter().map(|info| info.path).collect();
            steps.push(Step { paths, cursor: SourceCursor::Row { database: identity, id: last } });
        }
        if steps.is_empty() {
            steps.push(Step { paths: Vec::new(), cursor: SourceCursor::Row { database: identity, id: after } });
        }
        Ok(Listing { steps, seen: None })
    }

    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError> {
        self.database.infos(paths).map_err(|error| source_error(&error))
    }

    fn keep(&mut self, path: &StorePath) -> Result<(), NarError> {
        // Without a daemon, a path that goes is noticed when it is read.
        if let Some(daemon) = &mut self.daemon
            && daemon.add_temp_root(path).is_err()
        {
            self.daemon = None;
        }
        Ok(())
    }

    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError> {
        match dump(&self.location, &info.path, out) {
            Ok(_) => Ok(()),
            Err(error @ Error::Vanished { .. }) => Err(NarError::Gone(crate::error_chain(&error))),
            Err(error) => Err(NarError::Broken(crate::error_chain(&error))),
        }
    }

    fn metadata_bytes(&self) -> u64 {
        0
    }
}
