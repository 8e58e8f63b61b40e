//! The session that a push leans on.

use std::sync::atomic::{AtomicU64, Ordering};

use firn_api::SessionToken;
use tokio::sync::Mutex;

use super::Remote;
use crate::Result;

/// The current session, and how many there were.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    current: Mutex<Option<SessionToken>>,
    count: AtomicU64,
}

impl Remote {
    /// Returns the current session; begins one if there is none. Whoever asks meanwhile waits and gets the same.
    pub(super) async fn session(&self) -> Result<SessionToken> {
        let mut current = self.sessions.current.lock().await;
        if let Some(session) = *current {
            return Ok(session);
        }
        let session = self.begin_session().await?;
        self.sessions.count.fetch_add(1, Ordering::Release);
        *current = Some(session);
        Ok(session)
    }

    /// Notes that a session is over.
    pub(super) async fn forget_session(&self, session: SessionToken) {
        let mut current = self.sessions.current.lock().await;
        if *current == Some(session) {
            *current = None;
        }
    }

    /// Returns how many sessions there were. When it grows, what was said to be there before may be gone.
    #[must_use]
    pub fn session_count(&self) -> u64 {
        self.sessions.count.load(Ordering::Acquire)
    }

    /// Ends the session, if there is one. Whether that works does not matter: its lease runs out.
    pub async fn end_session(&self) {
        let session = self.sessions.current.lock().await.take();
        if let Some(session) = session {
            self.drop_session(session).await;
        }
    }
}
