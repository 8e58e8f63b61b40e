//! Grants: `CACHE:VERB[,VERB]…`, where `*` in CACHE stands for any characters, none included.

use firn_index::{CacheName, Grant, Verb};

/// Why a text is no grant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read the grant '{text}': {problem}; write CACHE:VERB[,VERB]…, as in 'main:pull,push' or 'team-*:pull'")]
pub struct GrantError {
    text: String,
    problem: String,
}

/// Reads a grant.
pub fn parse_grant(text: &str) -> Result<Grant, GrantError> {
    let fail = |problem: String| GrantError { text: text.to_owned(), problem };
    let (cache, verbs) = text.split_once(':').ok_or_else(|| fail("it has no ':'".to_owned()))?;
    // A pattern is good if some name can match it: a name stands for each star.
    if cache.len() > 64 || cache.replace('*', "0").parse::<CacheName>().is_err() {
        return Err(fail(format!("'{cache}' is neither a cache's name nor a pattern for one")));
    }
    let mut parsed = Vec::new();
    for verb in verbs.split(',') {
        let verb = match verb {
            "pull" => Verb::Pull,
            "push" => Verb::Push,
            "usage" => Verb::Usage,
            other => return Err(fail(format!("'{other}' is no verb: the verbs are pull, push and usage"))),
        };
        if !parsed.contains(&verb) {
            parsed.push(verb);
        }
    }
    parsed.sort();
    Ok(Grant { cache: cache.to_owned(), verbs: parsed })
}

/// Says whether any of the grants permits `verb` on a cache.
pub fn permits(grants: &[Grant], cache: &CacheName, verb: Verb) -> bool {
    grants.iter().any(|grant| grant.verbs.contains(&verb) && matches_pattern(&grant.cache, cache.as_str()))
}

/// Returns a grant as [`parse_grant`] reads it.
pub fn grant_text(grant: &Grant) -> String {
    let verbs: Vec<_> = grant
        .verbs
        .iter()
        .map(|verb| match verb {
            Verb::Pull => "pull",
            Verb::Push => "push",
            Verb::Usage => "usage",
        })
        .collect();
    format!("{}:{}", grant.cache, verbs.join(","))
}

/// Says whether a pattern, in which `*` stands for any characters, matches a whole text; linear in time per star, without recursion.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // Where the last star was, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, in_name));
                at += 1;
            }
            Some(byte) if name.get(in_name) == Some(byte) => {
                at += 1;
                in_name += 1;
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    in_name = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(at).all(|byte| *byte == b'*')
}
