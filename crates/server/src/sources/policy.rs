//! Which paths of a source are wanted, and which are believed.

use firn_index::{SourceRow, SourceTrust};
use firn_nix::{PublicKey, StorePath};
use firn_nix_store::{PathInfo, Pattern};

use crate::caches::Cache;

/// What is to be done with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is fetched.
    Wanted,
    /// It is left out, and nobody minds.
    Filtered,
    /// It is not believed.
    Refused(String),
}

/// A source's filter and trust, and what its cache demands beside.
pub(super) struct Policy {
    row: SourceRow,
    store_dir: String,
    /// The keys one of which has to have signed; `None` if the builder is trusted.
    keys: Option<Vec<PublicKey>>,
    /// Those of the cache, if it demands some.
    demanded: Vec<PublicKey>,
    upstreams: Vec<PublicKey>,
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Policy {
    pub(super) fn new(row: &SourceRow, cache: &Cache) -> Self {
        // They were checked when they were set.
        let keys = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        let patterns = |texts: &[String]| texts.iter().filter_map(|text| text.parse().ok()).collect();
        Self {
            store_dir: cache.row.store_dir.clone(),
            keys: match &row.trust {
                SourceTrust::Keys(texts) => Some(keys(texts)),
                SourceTrust::Builder => None,
            },
            demanded: cache.trusted.clone(),
            upstreams: cache.upstreams.clone(),
            include: patterns(&row.filter.include),
            exclude: patterns(&row.filter.exclude),
            row: row.clone(),
        }
    }

    /// Says if a new path may be wanted, by its name alone: nothing more is asked of the others.
    pub(super) fn may_want(&self, path: &StorePath) -> bool {
        let name = path.name();
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        (self.row.filter.derivations || !name.ends_with(".drv"))
            && (self.include.is_empty() || matches(&self.include))
            && !matches(&self.exclude)
    }

    /// Decides about a new path.
    pub(super) fn of_new(&self, info: &PathInfo) -> Verdict {
        let filter = &self.row.filter;
        let derivation = info.path.name().ends_with(".drv");
        // What is built with a fixed hash has a content address as well, and a deriver.
        let source = !derivation && info.ca.is_some() && info.deriver.is_none();
        let too_long = filter.max_nar_bytes.is_some_and(|max| info.nar_size > max);
        let upstream = || filter.skip_upstream && self.is_upstreams(info);
        if !self.may_want(&info.path) || (source && !filter.sources) || too_long || upstream() {
            return Verdict::Filtered;
        }
        self.believe(info)
    }

    /// Decides about a path that a wanted one refers to.
    pub(super) fn of_reference(&self, info: &PathInfo) -> Verdict {
        if self.row.filter.skip_upstream && self.is_upstreams(info) {
            return Verdict::Filtered;
        }
        self.believe(info)
    }

    fn is_upstreams(&self, info: &PathInfo) -> bool {
        info.signature_by(&self.upstreams, &self.store_dir).is_some()
    }

    fn believe(&self, info: &PathInfo) -> Verdict {
        let lacks = |keys: &[PublicKey]| info.signature_by(keys, &self.store_dir).is_none();
        let names = |keys: &[PublicKey]| keys.iter().map(PublicKey::name).collect::<Vec<_>>().join(", ");
        match &self.keys {
            Some(keys) if lacks(keys) => {
                Verdict::Refused(format!("the source is trusted only for what {} signed, and none did", names(keys)))
            }
            _ if !self.demanded.is_empty() && lacks(&self.demanded) => {
                Verdict::Refused(format!("the cache wants a signature by one of {}", names(&self.demanded)))
            }
            _ => Verdict::Wanted,
        }
    }
}
