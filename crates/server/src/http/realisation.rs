//! Realisations and build traces: what is checked of them, how a cache signs them, and how two of one output become one.

use std::collections::BTreeMap;

use firn_engine::MAX_SIGNATURES;
use firn_index::{ConflictPolicy, DocumentKey, DocumentKind, Meta, ReferencePolicy};
use firn_nix::{PublicKey, Signature, StorePath, build_trace_fingerprint, realisation_fingerprint};
use serde_json::{Map, Value, json};

use super::documents::parse;
use super::error::{After, Problem};
use crate::caches::Cache;

/// The longest signature that is kept, as JSON: 88 letters and a name.
const MAX_SIGNATURE_BYTES: usize = 512;

/// What says which path an output of a derivation became.
pub(super) struct Realisation {
    kind: DocumentKind,
    document: Map<String, Value>,
    /// The document as it came, or as it was changed.
    text: Vec<u8>,
    out_path: StorePath,
    /// What its signatures sign.
    fingerprint: String,
    /// What Nix 2.34 takes for that, if it is something else: it leaves out what a realisation depends on.
    bare_fingerprint: Option<String>,
}

/// What a cache has that a realisation may name.
pub(super) struct Outputs<'a> {
    pub(super) meta: &'a dyn Meta,
    pub(super) cache: &'a Cache,
    /// Paths that an upstream has.
    pub(super) elsewhere: &'a [StorePath],
}

impl Outputs<'_> {
    /// Returns whether the cache has a path itself.
    pub(super) fn has(&self, path: &StorePath) -> Result<bool, Problem> {
        let row = self.meta.path(&self.cache.name, &path.hash());
        let row = row.map_err(|error| Problem::of_engine(error.into(), After::Body))?;
        Ok(row.is_some_and(|row| row.path == *path))
    }
}

impl Realisation {
    /// Reads what came, or is kept, under a key.
    pub(super) fn parse(key: &DocumentKey, text: &[u8]) -> Result<Self, Problem> {
        let malformed = |detail: &str| Problem::BadDocument(detail.to_owned());
        let document = parse(text)?;
        let string = |name: &str| document.get(name).and_then(Value::as_str);
        let out_path = string("outPath").ok_or_else(|| malformed("it has no 'outPath'"))?;
        let out_path: StorePath =
            out_path.parse().map_err(|_| malformed("its 'outPath' is no base name of a store path"))?;
        let mut bare_fingerprint = None;
        let fingerprint = match key.kind {
            DocumentKind::BuildTrace => {
                let (derivation, output) = key.name.split_once('/').unwrap_or_default();
                let derivation = derivation.parse().map_err(|_| malformed("its URL names no derivation"))?;
                build_trace_fingerprint(&derivation, output, &out_path)
            }
            _ if string("id") != Some(&key.name) => return Err(malformed("its 'id' is not the one in the URL")),
            _ => {
                let dependents = dependents(&document)
                    .ok_or_else(|| malformed("its 'dependentRealisations' are no store paths by their ids"))?;
                if !dependents.is_empty() {
                    bare_fingerprint = Some(realisation_fingerprint(&key.name, &out_path, &BTreeMap::new()));
                }
                realisation_fingerprint(&key.name, &out_path, &dependents)
            }
        };
        let signatures = signatures(&document).ok_or_else(|| malformed("its 'signatures' are no list"))?;
        if !signatures.iter().all(|value| signature(value).is_some()) {
            return Err(malformed("one of its 'signatures' is malformed"));
        }
        Ok(Self { kind: key.kind, document, text: text.to_vec(), out_path, fingerprint, bare_fingerprint })
    }

    /// Returns the path that it names.
    pub(super) fn out_path(&self) -> &StorePath {
        &self.out_path
    }

    fn is_signed(&self, keys: &[PublicKey]) -> bool {
        let list = signatures(&self.document).unwrap_or_default();
        list.iter()
            .filter_map(signature)
            .any(|signature| keys.iter().any(|key| key.verify(self.fingerprint.as_bytes(), &signature)))
    }

    /// Refuses one that nobody trusted has signed, or whose path is not here in a cache that wants to be complete: stock Nix uploads
    /// paths before their realisations.
    pub(super) fn check(&self, outputs: &Outputs<'_>) -> Result<(), Problem> {
        let Cache { row, trusted, .. } = outputs.cache;
        if !trusted.is_empty() && !self.is_signed(trusted) {
            return Err(Problem::UnsignedRealisation(row.trusted_keys.join(" ")));
        }
        let is_complete = row.references == ReferencePolicy::Any
            || outputs.elsewhere.contains(&self.out_path)
            || outputs.has(&self.out_path)?;
        if is_complete { Ok(()) } else { Err(Problem::OutputMissing(self.out_path.to_string())) }
    }

    /// Returns what to write when `earlier` is there, signed by the cache's keys; `None` to leave that.
    ///
    /// The first one stays, with the signatures of both if they name the same path. It does not if its path is gone, or if it would
    /// be refused today.
    pub(super) fn over(self, earlier: Option<Self>, outputs: &Outputs<'_>) -> Result<Option<Vec<u8>>, Problem> {
        let cache = outputs.cache;
        let mut kept = self;
        let (mut before, mut more) = (None, Vec::new());
        if let Some(earlier) = earlier
            && (cache.trusted.is_empty() || earlier.is_signed(&cache.trusted))
        {
            if earlier.out_path == kept.out_path {
                before = Some(earlier.text.clone());
                more = signatures(&kept.document).unwrap_or_default().to_vec();
                kept = earlier;
            } else if outputs.has(&earlier.out_path)? {
                return match cache.row.on_conflict {
                    ConflictPolicy::KeepFirst => Ok(None),
                    ConflictPolicy::Reject => Err(Problem::Conflict),
                };
            }
        }
        kept.add(more, cache);
        Ok(Some(kept.text).filter(|text| before.as_ref() != Some(text)))
    }

    /// Returns what is signed of it.
    fn fingerprints(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.fingerprint).chain(&self.bare_fingerprint).map(String::as_str)
    }

    /// Returns the signatures by the cache's keys, as the Nix writes them that makes such a document.
    fn signed(&self, cache: &Cache) -> Vec<Value> {
        let value = |text: String| match (self.kind, text.split_once(':')) {
            (DocumentKind::BuildTrace, Some((name, signature))) => json!({"keyName": name, "sig": signature}),
            _ => Value::String(text),
        };
        self.fingerprints().flat_map(|fingerprint| cache.sign(fingerprint)).map(value).collect()
    }

    /// Adds signatures, with the cache's own, and leaves out what anybody may have made up: in the name of a key that the cache
    /// knows what that key did not sign, and of the others those that are too long or come when there are [`MAX_SIGNATURES`].
    fn add(&mut self, more: Vec<Value>, cache: &Cache) {
        let before = signatures(&self.document).unwrap_or_default().to_vec();
        let (own, mut all) = (self.signed(cache), Vec::new());
        let (fingerprints, mut judge) = (Vec::from_iter(self.fingerprints()), cache.judge());
        let mut weigh = |value: &Value| match signature(value) {
            _ if own.contains(value) => Some(true),
            Some(signature) if value.to_string().len() <= MAX_SIGNATURE_BYTES => judge.weigh(&fingerprints, &signature),
            _ => None,
        };
        for value in before.iter().chain(&more).chain(&own) {
            if !all.iter().any(|(other, _)| other == value)
                && let Some(is_known) = weigh(value)
            {
                all.push((value.clone(), is_known));
            }
        }
        let known = all.iter().filter(|(_, is_known)| *is_known).count();
        let mut room_for_others = MAX_SIGNATURES.saturating_sub(known);
        all.retain(|(_, is_known)| {
            let is_kept = *is_known || room_for_others > 0;
            room_for_others -= usize::from(is_kept && !is_known);
            is_kept
        });
        let all: Vec<Value> = all.into_iter().map(|(value, _)| value).collect();
        if all != before {
            self.document.insert("signatures".to_owned(), Value::Array(all));
            self.text = Value::Object(self.document.clone()).to_string().into_bytes();
        }
    }
}

/// Returns the realisations that one depends on; none if it does not say.
fn dependents(document: &Map<String, Value>) -> Option<BTreeMap<String, String>> {
    let Some(value) = document.get("dependentRealisations") else { return Some(BTreeMap::new()) };
    let is_path = |path: &&str| path.parse::<StorePath>().is_ok();
    let pair = |(id, path): (&String, &Value)| Some((id.clone(), path.as_str().filter(is_path)?.to_owned()));
    value.as_object()?.iter().map(pair).collect()
}

/// Returns a document's signatures; one without any has an empty list.
fn signatures(document: &Map<String, Value>) -> Option<&[Value]> {
    document.get("signatures").map_or(Some(&[]), |list| list.as_array().map(Vec::as_slice))
}

/// Reads a signature: `name:base64` up to Nix 2.34, an object since.
fn signature(value: &Value) -> Option<Signature> {
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Object(parts) => {
            let part = |name: &str| parts.get(name).and_then(Value::as_str);
            format!("{}:{}", part("keyName")?, part("sig")?).parse().ok()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    }
}
