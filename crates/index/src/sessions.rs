use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::rows::{SessionId, SessionRow, UnixSeconds};

/// The uploads in progress, in memory only: a crash or a restart ends every session.
///
/// Engines whose sessions need not outlive the process hold one. A session whose lease ran out is
/// dropped when the next one begins, so that the memory is bounded by the sessions begun within one lease.
#[derive(Debug, Default)]
pub struct Sessions {
    rows: Mutex<BTreeMap<SessionId, SessionRow>>,
}

impl Sessions {
    /// Starts a session whose lease ends at `expires_at`; one with the same id is replaced.
    pub fn begin(&self, id: SessionId, started_at: UnixSeconds, expires_at: UnixSeconds) {
        let mut rows = self.lock();
        rows.retain(|_, row| row.expires_at > started_at);
        rows.insert(id, SessionRow { started_at, expires_at });
    }

    /// Moves a live session's lease; returns whether it was still alive at `now`.
    pub fn renew(&self, id: SessionId, now: UnixSeconds, expires_at: UnixSeconds) -> bool {
        match self.lock().get_mut(&id) {
            Some(row) if row.expires_at > now => {
                row.expires_at = expires_at;
                true
            }
            _ => false,
        }
    }

    /// Ends a session, if it is there.
    pub fn end(&self, id: SessionId) {
        self.lock().remove(&id);
    }

    /// Returns whether a session's lease ends after `now`.
    pub fn is_alive(&self, id: SessionId, now: UnixSeconds) -> bool {
        self.lock().get(&id).is_some_and(|row| row.expires_at > now)
    }

    /// Returns when the oldest session that is alive at `now` began.
    pub fn oldest(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.lock().values().filter(|row| row.expires_at > now).map(|row| row.started_at).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, SessionRow>> {
        // Every change is one operation on the map: a panic elsewhere leaves nothing half done.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
