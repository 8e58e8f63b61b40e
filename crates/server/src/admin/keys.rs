//! A cache's signing keys: made, imported, removed.

use firn_engine::Entropy;
use firn_nix::{PublicKey, SecretKey};

use super::{Failure, SecretText, Settings};

/// The most keys that a cache signs with; each adds a line of 100 bytes to every narinfo.
const MAX_KEYS: usize = 8;

/// How keys that are made are named: a stem, and a number that no key of that stem ever had. Clients know keys by their names.
pub(super) struct Names<'a> {
    /// The cache's name, with its host if it has one.
    pub stem: &'a str,
    /// The greatest number so far, as far as that was noted.
    pub last: u64,
}

/// Returns the secret keys of a cache after a change.
pub(super) fn changed(
    old: &[String],
    settings: &Settings,
    names: &Names<'_>,
    entropy: &dyn Entropy,
) -> Result<Vec<String>, Failure> {
    let mut keys = old.to_vec();
    for name in &settings.remove_keys {
        let before = keys.len();
        keys.retain(|key| name_of(key) != name);
        if keys.len() == before {
            return Err(invalid(format!("remove the signing key '{name}': the cache has none of that name")));
        }
    }
    for SecretText(text) in &settings.add_keys {
        keys.push(import(text, &keys)?);
    }
    if settings.new_key {
        keys.push(generate(names, old.iter().chain(&keys), entropy)?);
    }
    // One that has none, as some programs make them, may be changed in all else.
    if keys.is_empty() && !settings.remove_keys.is_empty() {
        return Err(invalid("remove the last signing key: clients would trust nothing from the cache; add a new one in the same command".to_owned()));
    }
    if keys.len() > MAX_KEYS {
        return Err(invalid(format!("sign with {} keys: a cache signs with at most {MAX_KEYS}", keys.len())));
    }
    Ok(keys)
}

/// The most public keys of one kind that a cache knows: each may cost a verification for every upload.
const MAX_PUBLIC_KEYS: usize = 64;

/// Returns public keys, checked, each once. `kind` is what they are called in an error.
pub(super) fn public(kind: &str, texts: &[String]) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    for text in texts {
        let text = text.trim();
        let key: PublicKey = text.parse().map_err(|error| {
            invalid(format!("read the {kind} key '{text}': {error}; a public key looks like 'name:base64'"))
        })?;
        let text = key.to_string();
        if !keys.contains(&text) {
            keys.push(text);
        }
    }
    if keys.len() > MAX_PUBLIC_KEYS {
        return Err(invalid(format!("know {} {kind} keys: a cache knows at most {MAX_PUBLIC_KEYS}", keys.len())));
    }
    Ok(keys)
}

fn import(text: &str, present: &[String]) -> Result<String, Failure> {
    let text = text.trim();
    // The error must not show the text: it is, or nearly is, a secret.
    let key = SecretKey::parse(text).map_err(|_| {
        invalid("read a signing key: it must be one line 'name:base64' as `nix key generate-secret` writes it (the secret one, 64 bytes)".to_owned())
    })?;
    let name = key.name();
    if present.iter().any(|key| name_of(key) == name) {
        return Err(invalid(format!("add the signing key '{name}': the cache has one of that name")));
    }
    Ok(text.to_owned())
}

/// Returns the stem and the number of a key's name, if it has these.
pub(super) fn numbered(key: &str) -> Option<(&str, u64)> {
    let (stem, number) = name_of(key).rsplit_once('-')?;
    Some((stem, number.parse().ok()?))
}

fn generate<'a>(
    names: &Names<'_>,
    present: impl Iterator<Item = &'a String>,
    entropy: &dyn Entropy,
) -> Result<String, Failure> {
    // Numbers only go up, so that a removed key's name doesn't come to mean another key.
    let present = present.filter_map(|key| numbered(key)).filter(|(stem, _)| *stem == names.stem);
    let last = present.map(|(_, number)| number).fold(names.last, u64::max);
    let name = format!("{}-{}", names.stem, last.saturating_add(1));
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&entropy.draw().to_le_bytes());
    seed[16..].copy_from_slice(&entropy.draw().to_le_bytes());
    let key =
        SecretKey::generate(&name, seed).map_err(|error| invalid(format!("make the signing key '{name}': {error}")))?;
    Ok(key.to_text().to_string())
}

fn name_of(key: &str) -> &str {
    key.split(':').next().unwrap_or(key)
}

fn invalid(detail: String) -> Failure {
    Failure::Invalid { detail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::SystemEntropy;

    #[test]
    fn a_cache_without_keys_stays_so_until_it_is_given_one() {
        let names = Names { stem: "main", last: 0 };
        let change = |old: &[String], settings: &Settings| changed(old, settings, &names, &SystemEntropy);
        assert_eq!(change(&[], &Settings::default()).unwrap(), Vec::<String>::new());
        let first = change(&[], &Settings { new_key: true, ..Settings::default() }).unwrap();
        assert_eq!(first.iter().map(|key| name_of(key)).collect::<Vec<_>>(), ["main-1"]);
        let remove = Settings { remove_keys: vec!["main-1".to_owned()], ..Settings::default() };
        assert!(change(&first, &remove).unwrap_err().to_string().contains("remove the last signing key"));
        let replaced = change(&first, &Settings { new_key: true, ..remove }).unwrap();
        assert_eq!(replaced.iter().map(|key| name_of(key)).collect::<Vec<_>>(), ["main-2"]);
    }
}
