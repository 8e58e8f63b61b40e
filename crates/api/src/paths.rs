//! What a cache has, page by page, for those who keep up with it.

use serde::{Deserialize, Serialize};

/// Paths on one page, at most.
pub const MAX_LISTED_PATHS: usize = 10_000;

/// A page of the paths that came to a cache since a time.
///
/// Pages are in order of store hashes. A page may be empty and not be the last one: what came earlier was looked at and left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathList {
    /// Everything that came before this time, by the server's clock, is on these pages. Of the first page it is what to ask for the next
    /// time, as `since`.
    pub until: u64,
    /// At most [`MAX_LISTED_PATHS`].
    pub paths: Vec<ListedPath>,
    /// Where the next page begins, as `after`; absent on the last page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A path of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedPath {
    /// Its base name.
    pub path: String,
    /// When it became visible, in seconds since 1970; later again if it was deleted and came back.
    pub committed_at: u64,
}
