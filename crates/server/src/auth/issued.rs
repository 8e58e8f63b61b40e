//! Tokens that were made for identities: alive for a while, in memory whether the index has them or not.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use firn_index::{IssuedRow, TokenId, UnixSeconds};

/// They, by their ids.
#[derive(Default)]
pub(super) struct IssuedTokens(RwLock<HashMap<TokenId, IssuedRow>>);

impl IssuedTokens {
    pub(super) fn take(&self, rows: Vec<(TokenId, IssuedRow)>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).extend(rows);
    }

    pub(super) fn get(&self, id: &TokenId) -> Option<IssuedRow> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn add(&self, id: TokenId, row: IssuedRow) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(id, row);
    }

    pub(super) fn all(&self) -> Vec<(TokenId, IssuedRow)> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        rows.iter().map(|(id, row)| (*id, row.clone())).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets those whose time is over, and returns them.
    pub(super) fn forget(&self, now: UnixSeconds) -> Vec<TokenId> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let is_over = |row: &IssuedRow| row.token.expires_at.is_none_or(|at| at.saturating_add(KEPT_SECONDS) <= now);
        let over: Vec<TokenId> = rows.iter().filter(|(_, row)| is_over(row)).map(|(id, _)| *id).collect();
        for id in &over {
            rows.remove(id);
        }
        over
    }
}

/// For how many seconds a token is still listed, and told to have expired, after its time.
const KEPT_SECONDS: u64 = 3600;
