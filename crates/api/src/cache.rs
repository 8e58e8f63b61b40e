//! What a client is told of a cache.

use serde::{Deserialize, Serialize};

/// A cache, as whoever asks may use it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheDescription {
    /// Its name; that of the cache at the root if `_` was asked for.
    pub name: String,
    /// Its store directory, without a slash at the end.
    pub store_dir: String,
    /// What `nix-cache-info` says; lower is asked first.
    pub priority: u32,
    /// Whether it can be read without a token.
    pub public: bool,
    /// The keys that sign what it serves, for `trusted-public-keys`.
    pub public_keys: Vec<String>,
    /// The keys of upstreams: what they signed need not be here.
    pub upstream_keys: Vec<String>,
    /// The form of NARs that narinfos name: `zstd` or `none`.
    pub transport: String,
    /// Whether the asker may read.
    pub can_pull: bool,
    /// Whether the asker may upload.
    pub can_push: bool,
    /// The identity that uploads carry; of the token, `anonymous` without one.
    pub builder: String,
    /// When the token expires, in seconds since 1970 UTC; absent without a token, or if it doesn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_expires_at: Option<u64>,
    /// URLs under which Nix can use it as a substituter, best first.
    pub substituters: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_less_and_more_than_it_has() {
        let less: CacheDescription = serde_json::from_str(r#"{"name": "main", "later": [1]}"#).unwrap();
        assert_eq!(less, CacheDescription { name: "main".into(), ..CacheDescription::default() });
        let text = serde_json::to_string(&less).unwrap();
        assert!(!text.contains("token_expires_at"));
        assert_eq!(serde_json::from_str::<CacheDescription>(&text).unwrap(), less);
    }
}
