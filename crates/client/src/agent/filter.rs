use std::sync::{Arc, PoisonError, RwLock};

use firn_nix::PublicKey;
use firn_nix_store::PathInfo;

use crate::plan::{Pattern, proof};
use crate::queue::Counter;

/// The keys of upstreams, which a cache knows and tells. Clones share them; before anybody told them there are none.
#[derive(Debug, Clone, Default)]
pub struct UpstreamKeys(Arc<RwLock<Vec<PublicKey>>>);

impl UpstreamKeys {
    /// Replaces them, for all clones.
    pub fn set(&self, keys: Vec<PublicKey>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
    }

    fn has_signed(&self, info: &PathInfo, store_dir: &str) -> bool {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner);
        proof(info, &keys, store_dir).is_some()
    }
}

/// What an agent takes notice of. It decides about the paths that come in; what those refer to is pushed with them whatever
/// it says, because the cache must be closed, except what an upstream signed.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Paths signed by one of these are the upstream's: the signature is verified. Only those that the cache knows belong
    /// here, as nobody would have the others' paths. What comes in before they are known is asked for like everything else.
    pub upstream_keys: UpstreamKeys,
    /// If there are any, a name has to match one.
    pub include: Vec<Pattern>,
    /// A name may match none.
    pub exclude: Vec<Pattern>,
    /// The longest NAR, in bytes.
    pub max_nar_bytes: Option<u64>,
    /// Whether derivations (`.drv`) count.
    pub derivations: bool,
    /// Whether sources count: paths that were added and not built.
    pub sources: bool,
}

impl Filter {
    /// Returns the reason not to take a path, as the counter to count it under; `None` if it is wanted.
    #[must_use]
    pub fn refuses(&self, info: &PathInfo, store_dir: &str) -> Option<Counter> {
        let derivation = info.path.name().ends_with(".drv");
        if derivation && !self.derivations {
            return Some(Counter::SkippedDerivation);
        }
        // What is built with a fixed hash has a content address as well, and a deriver.
        if !derivation && !self.sources && info.ca.is_some() && info.deriver.is_none() {
            return Some(Counter::SkippedSource);
        }
        if self.max_nar_bytes.is_some_and(|max| info.nar_size > max) {
            return Some(Counter::SkippedSize);
        }
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(info.path.name()));
        if !self.include.is_empty() && !matches(&self.include) || matches(&self.exclude) {
            return Some(Counter::SkippedName);
        }
        self.upstream_keys.has_signed(info, store_dir).then_some(Counter::SkippedUpstream)
    }
}

#[cfg(test)]
mod tests {
    use firn_nix::{SecretKey, Sha256, StorePath};

    use super::*;

    fn path(name: &str) -> StorePath {
        format!("0fanvwfh6772nmhmbw78d8jmj0dr6lpc-{name}").parse().unwrap()
    }

    fn info(name: &str) -> PathInfo {
        PathInfo {
            id: 1,
            path: path(name),
            nar_hash: Sha256::of(b"nar"),
            nar_size: 100,
            registered_at: 0,
            deriver: None,
            ultimate: true,
            signatures: vec![],
            ca: None,
            references: vec![path("b"), path("a")],
        }
    }

    fn refuses(filter: &Filter, info: &PathInfo) -> Option<Counter> {
        filter.refuses(info, "/nix/store")
    }

    #[test]
    fn only_genuine_signatures_of_an_upstream_count() {
        let key = SecretKey::generate("up-1", [1; 32]).unwrap();
        let impostor = SecretKey::generate("up-1", [2; 32]).unwrap();
        let filter = Filter::default();
        filter.upstream_keys.clone().set(vec![key.public()]);
        let text = format!(
            "1;/nix/store/{};{};100;/nix/store/{},/nix/store/{}",
            path("x"),
            Sha256::of(b"nar"),
            path("a"),
            path("b")
        );
        let signed = |key: &SecretKey| PathInfo {
            signatures: vec!["nonsense".to_owned(), "up-1:!".to_owned(), key.sign(text.as_bytes()).to_string()],
            ..info("x")
        };
        assert_eq!(refuses(&filter, &signed(&key)), Some(Counter::SkippedUpstream));
        assert_eq!(refuses(&filter, &signed(&impostor)), None, "the key's name alone is no proof");
        assert_eq!(refuses(&filter, &PathInfo { nar_size: 101, ..signed(&key) }), None);
        assert_eq!(filter.refuses(&signed(&key), "/gnu/store"), None);
        assert_eq!(refuses(&Filter::default(), &signed(&key)), None);
    }

    #[test]
    fn derivations_and_sources_count_where_asked_for() {
        let source = PathInfo { ca: Some("fixed:r:sha256:x".to_owned()), ..info("source") };
        let fixed = PathInfo { deriver: Some(path("x.drv")), ..source.clone() };
        let derivation = PathInfo { ca: Some("text:sha256:x".to_owned()), ..info("x.drv") };
        let none = Filter::default();
        assert_eq!(refuses(&none, &source), Some(Counter::SkippedSource));
        assert_eq!(refuses(&none, &fixed), None);
        assert_eq!(refuses(&none, &derivation), Some(Counter::SkippedDerivation));
        assert_eq!(refuses(&Filter { sources: true, ..Filter::default() }, &source), None);
        assert_eq!(refuses(&Filter { derivations: true, ..Filter::default() }, &derivation), None);
    }

    #[test]
    fn names_and_lengths_are_limits() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Pattern>>();
        let filter = Filter { include: patterns(&["hello*", "x"]), ..Filter::default() };
        assert_eq!(refuses(&filter, &info("hello-1")), None);
        assert_eq!(refuses(&filter, &info("x")), None);
        assert_eq!(refuses(&filter, &info("xx")), Some(Counter::SkippedName));
        let filter = Filter { exclude: patterns(&["*-source"]), max_nar_bytes: Some(100), ..filter };
        assert_eq!(refuses(&filter, &info("hello-source")), Some(Counter::SkippedName));
        assert_eq!(refuses(&filter, &PathInfo { nar_size: 101, ..info("hello") }), Some(Counter::SkippedSize));
    }
}
