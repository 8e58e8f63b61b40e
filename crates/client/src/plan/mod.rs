//! Decides what is to be pushed: not what the server has, not what upstreams have, not what somebody excludes.

mod order;

use std::collections::{BTreeMap, HashMap};

use firn_api::Proof;
use firn_nix::{PublicKey, StoreHash, StorePath};
use firn_nix_store::PathInfo;
use tokio::task::spawn_blocking;

pub use firn_nix_store::Pattern;
pub use order::references_first;

use crate::remote::Remote;
use crate::{Error, Result};

/// What may be left out of a push.
#[derive(Debug, Clone, Default)]
pub struct PlanOptions {
    /// What is genuinely signed by one of these keys is an upstream's, and is not pushed.
    pub upstream_keys: Vec<PublicKey>,
    /// Only paths whose names match one of these are pushed; all, if there are none.
    pub include: Vec<Pattern>,
    /// Paths whose names match one of these are not pushed.
    pub exclude: Vec<Pattern>,
    /// Don't ask which paths are there: everything is committed again.
    pub ignore_present: bool,
}

/// Why a path is not pushed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// The cache has it.
    Present,
    /// It is signed by the upstream key of this name.
    Upstream(String),
    /// Its name is excluded, or not among those included.
    Excluded,
}

/// What is to be pushed.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The paths, references before referrers.
    pub paths: Vec<PathInfo>,
    /// That upstreams have some of the references.
    pub proofs: HashMap<StorePath, Proof>,
    /// What is not pushed, and why.
    pub skipped: Vec<(StorePath, Skip)>,
}

impl Plan {
    /// Returns how many paths are skipped for which reason.
    #[must_use]
    pub fn skipped_counts(&self) -> BTreeMap<Skip, u64> {
        let mut counts = BTreeMap::new();
        for (_, skip) in &self.skipped {
            *counts.entry(skip.clone()).or_default() += 1;
        }
        counts
    }

    /// Returns the length of the NARs of what is to be pushed, in bytes.
    #[must_use]
    pub fn logical_bytes(&self) -> u64 {
        self.paths.iter().map(|info| info.nar_size).sum()
    }
}

/// Decides which of `paths` are to be pushed to a cache whose store directory is `store_dir`.
///
/// `beside` are paths that are not to be pushed and that others may refer to: where an upstream signed them, that is proven to
/// the server. One request asks for some 32,000 paths.
///
/// # Errors
/// As requests: [`Error::Unreachable`], [`Error::Refused`], [`Error::Nonsense`].
pub async fn plan(
    remote: &Remote,
    paths: Vec<PathInfo>,
    beside: Vec<PathInfo>,
    store_dir: &str,
    options: &PlanOptions,
) -> Result<Plan> {
    let mut plan = Plan::default();
    let wanted = exclude(references_first(paths), options, &mut plan);
    let missing = if options.ignore_present { wanted } else { missing(remote, wanted, &mut plan).await? };
    let (keys, store_dir) = (options.upstream_keys.clone(), store_dir.to_owned());
    let verified = spawn_blocking(move || {
        skip_upstream(&mut plan, missing, &keys, &store_dir);
        prove(&mut plan, beside, &keys, &store_dir);
        plan
    });
    verified.await.map_err(|_| Error::Cancelled)
}

fn exclude(paths: Vec<PathInfo>, options: &PlanOptions, plan: &mut Plan) -> Vec<PathInfo> {
    let PlanOptions { include, exclude, .. } = options;
    let is_wanted = |info: &PathInfo| {
        let name = info.path.name();
        (include.is_empty() || include.iter().any(|pattern| pattern.matches(name)))
            && !exclude.iter().any(|pattern| pattern.matches(name))
    };
    let (wanted, excluded): (Vec<_>, Vec<_>) = paths.into_iter().partition(is_wanted);
    plan.skipped.extend(excluded.into_iter().map(|info| (info.path, Skip::Excluded)));
    wanted
}

async fn missing(remote: &Remote, paths: Vec<PathInfo>, plan: &mut Plan) -> Result<Vec<PathInfo>> {
    let hashes: Vec<StoreHash> = paths.iter().map(|info| info.path.hash()).collect();
    let mut bits = Vec::with_capacity(hashes.len());
    for part in hashes.chunks(remote.limits().paths.max(1)) {
        bits.extend(remote.missing_paths(part).await?);
    }
    let mut missing = Vec::new();
    for (info, is_missing) in paths.into_iter().zip(bits) {
        if is_missing {
            missing.push(info);
        } else {
            plan.skipped.push((info.path, Skip::Present));
        }
    }
    Ok(missing)
}

fn skip_upstream(plan: &mut Plan, paths: Vec<PathInfo>, keys: &[PublicKey], store_dir: &str) {
    for info in paths {
        match proof(&info, keys, store_dir) {
            Some(proof) => {
                let key = proof.signature.key_name().to_owned();
                plan.skipped.push((info.path.clone(), Skip::Upstream(key)));
                plan.proofs.insert(info.path, proof);
            }
            None => plan.paths.push(info),
        }
    }
}

/// Adds proofs for what others refer to.
fn prove(plan: &mut Plan, beside: Vec<PathInfo>, keys: &[PublicKey], store_dir: &str) {
    for info in beside {
        if !plan.proofs.contains_key(&info.path)
            && let Some(proof) = proof(&info, keys, store_dir)
        {
            plan.proofs.insert(info.path, proof);
        }
    }
}

/// Returns that an upstream has a path, if one of its signatures is genuine and by one of the keys.
pub(crate) fn proof(info: &PathInfo, keys: &[PublicKey], store_dir: &str) -> Option<Proof> {
    let signature = info.signature_by(keys, store_dir)?;
    let PathInfo { path, nar_hash, nar_size, references, .. } = info;
    Some(Proof {
        path: path.clone(),
        nar_hash: *nar_hash,
        nar_size: *nar_size,
        references: references.clone(),
        signature,
    })
}

#[cfg(test)]
mod tests;
