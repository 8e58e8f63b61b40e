//! Why a request was not done.

use serde::{Deserialize, Serialize};

/// Why a request was not done; nothing of it took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "failure", rename_all = "kebab-case")]
pub enum Failure {
    /// There is no such cache.
    #[error("find the cache '{name}': there is none; `firnd cache list` shows all")]
    NoSuchCache {
        /// Its name.
        name: String,
    },
    /// There is one already.
    #[error("create the cache '{name}': it is there already; `firnd cache set` changes it")]
    CacheExists {
        /// Its name.
        name: String,
    },
    /// There is no such token.
    #[error("find the token {id}: there is none; `firnd token list` shows all")]
    NoSuchToken {
        /// Its id.
        id: String,
    },
    /// The cache has no such path.
    #[error("find the path '{path}': the cache does not have it")]
    NoSuchPath {
        /// The path.
        path: String,
    },
    /// What was asked for is not where it was to be.
    #[error("{detail}")]
    NotThere {
        /// What, and where it was looked for.
        detail: String,
    },
    /// The cache has no such pin.
    #[error("find the pin '{name}': there is none; `firnd pin list` shows all")]
    NoSuchPin {
        /// Its name.
        name: String,
    },
    /// The cache has no such upstream.
    #[error("find the upstream {url}: the cache has none there; `firnd upstream list` shows all")]
    NoSuchUpstream {
        /// Its URL.
        url: String,
    },
    /// There is no such source.
    #[error("find the source '{name}': there is none; `firnd source list` shows all")]
    NoSuchSource {
        /// Its name.
        name: String,
    },
    /// There is one already.
    #[error("add the source '{name}': it is there already; `firnd source set` changes it")]
    SourceExists {
        /// Its name.
        name: String,
    },
    /// A source can't be reached, or can't be used.
    #[error("sync: {detail}")]
    Source {
        /// What was being done, and why it failed.
        detail: String,
    },
    /// Somebody else needs what was to be changed, or does the same.
    #[error("{detail}")]
    Busy {
        /// What, and what to do.
        detail: String,
    },
    /// The request makes no sense.
    #[error("{detail}")]
    Invalid {
        /// What, and what is allowed.
        detail: String,
    },
    /// The store failed.
    #[error("{detail}")]
    Store {
        /// What was being done, and why it failed.
        detail: String,
    },
}

impl Failure {
    /// Returns whether the same request may be good a little later.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
