//! Rules: which identities get which token.

use std::collections::BTreeMap;
use std::time::Duration;

use firn_index::Grant;
use serde::{Deserialize, Serialize};

use super::identity::Claims;
use crate::auth::{GrantError, matches_pattern, parse_grant};
use crate::config::Span;

/// The longest builder name, in bytes.
const MAX_BUILDER_BYTES: usize = 128;
/// The longest life of a token.
const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Who gets a token, and which: `[[oidc]]` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// What the rule is called where tokens are listed.
    pub name: String,
    /// The issuer, exactly as its identity tokens spell it.
    pub issuer: String,
    /// For whom an identity token must be, exactly.
    pub audience: String,
    /// What it must say: each of these claims has one of these values, in which `*` stands for any characters.
    pub claims: BTreeMap<String, Patterns>,
    /// What the token may do: `CACHE:VERB[,VERB]…`.
    pub grants: Vec<String>,
    /// How long the token lives.
    #[serde(default = "usual_lifetime")]
    pub lifetime: Span,
    /// The builder's name, with claims in braces.
    #[serde(default = "usual_builder")]
    pub builder: String,
    /// Whether tokens are written to the index, so that they outlive a restart of the server.
    #[serde(default = "yes")]
    pub on_disk: bool,
}

fn usual_lifetime() -> Span {
    Span(Duration::from_secs(3600))
}

fn usual_builder() -> String {
    "{sub}".to_owned()
}

fn yes() -> bool {
    true
}

/// Values that a claim may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patterns(pub Vec<String>);

impl Serialize for Patterns {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Patterns {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> serde::de::Visitor<'de> for OneOrMore {
            type Value = Patterns;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value in quotes, or a list of them")
            }
            fn visit_str<E>(self, text: &str) -> Result<Patterns, E> {
                Ok(Patterns(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Patterns, A::Error> {
                let mut values = Vec::new();
                while let Some(text) = items.next_element()? {
                    values.push(text);
                }
                Ok(Patterns(values))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}

impl Rule {
    /// Returns everything that is wrong with the rule.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |good: bool, detail: String| {
            if !good {
                problems.push(format!("'{}': {detail}", self.name));
            }
        };
        check(!self.name.is_empty(), "give it a name".to_owned());
        check(
            super::keys::is_safe_url(&self.issuer),
            format!("the issuer '{}' is no https:// URL (http:// only on this machine)", self.issuer),
        );
        check(!self.audience.is_empty(), "give an audience".to_owned());
        // Issuers of whole CI services vouch for everybody there.
        check(
            self.claims.values().any(|patterns| patterns.0.iter().all(|pattern| !pattern.trim_matches('*').is_empty())),
            "it fits everybody for whom the issuer vouches: name claims with values other than '*'".to_owned(),
        );
        for (claim, patterns) in &self.claims {
            check(!patterns.0.is_empty(), format!("the claim '{claim}' has no values"));
        }
        check(!self.grants.is_empty(), "give at least one grant".to_owned());
        for grant in &self.grants {
            if let Err(error) = parse_grant(grant) {
                check(false, error.to_string());
            }
        }
        check(
            (Duration::from_secs(60)..=MAX_LIFETIME).contains(&self.lifetime.0),
            format!("its lifetime is {}: allowed are 1 m to {}", self.lifetime, Span(MAX_LIFETIME)),
        );
        check(!self.builder.is_empty(), "give a builder name".to_owned());
        problems
    }

    /// Returns the grants.
    pub fn parsed_grants(&self) -> Result<Vec<Grant>, GrantError> {
        self.grants.iter().map(|grant| parse_grant(grant)).collect()
    }

    /// Returns whether an identity says all that the rule wants.
    pub fn fits(&self, claims: &Claims) -> bool {
        self.claims.iter().all(|(name, patterns)| {
            let values = claims.texts(name);
            patterns.0.iter().any(|pattern| values.iter().any(|value| matches_pattern(pattern, value)))
        })
    }

    /// Returns the builder's name for an identity; a claim that it lacks is left out.
    pub fn builder_of(&self, claims: &Claims) -> String {
        let (mut name, mut rest) = (String::new(), self.builder.as_str());
        while let Some((before, after)) = rest.split_once('{') {
            name.push_str(before);
            let Some((claim, after)) = after.split_once('}') else {
                rest = after;
                continue;
            };
            name.push_str(&claims.text(claim).unwrap_or_default());
            rest = after;
        }
        name.push_str(rest);
        let name = cut(&name, MAX_BUILDER_BYTES);
        if name.is_empty() { self.name.clone() } else { name }
    }
}

/// Returns a text without control characters, cut to so many bytes.
pub fn cut(text: &str, bytes: usize) -> String {
    let mut clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let end = (0..=bytes.min(clean.len())).rev().find(|end| clean.is_char_boundary(*end));
    clean.truncate(end.unwrap_or(0));
    clean
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rule(text: &str) -> Rule {
        let usual = "name = 'ci'\nissuer = 'https://issuer.example'\naudience = 'firn'\ngrants = ['main:push']\n";
        toml::from_str(&format!("{usual}{text}")).expect("a rule")
    }

    fn claims(value: serde_json::Value) -> Claims {
        Claims(value.as_object().cloned().expect("an object"))
    }

    #[test]
    fn all_claims_must_fit_and_of_a_claims_values_one() {
        let rule =
            rule("claims = { repository = ['acme/*', 'other/one'], ref = 'refs/heads/main', protected = 'true' }");
        let identity = |repository: &str, branch: &str, protected: serde_json::Value| {
            claims(json!({ "repository": repository, "ref": branch, "protected": protected }))
        };
        assert!(rule.fits(&identity("acme/tool", "refs/heads/main", json!(true))));
        assert!(rule.fits(&identity("other/one", "refs/heads/main", json!("true"))));
        for (repository, branch, protected) in [
            ("acme", "refs/heads/main", json!(true)),
            ("evil/acme/tool", "refs/heads/main", json!(true)),
            ("other/one2", "refs/heads/main", json!(true)),
            ("acme/tool", "refs/heads/main2", json!(true)),
            ("acme/tool", "refs/heads/main", json!(false)),
            ("acme/tool", "refs/heads/main", json!({"true": true})),
        ] {
            assert!(!rule.fits(&identity(repository, branch, protected)), "{repository} {branch}");
        }
        assert!(!rule.fits(&claims(json!({ "repository": "acme/tool", "protected": true }))), "a claim is missing");
        let list = claims(json!({ "repository": ["x", "acme/a"], "ref": "refs/heads/main", "protected": true }));
        assert!(rule.fits(&list));
    }

    #[test]
    fn builders_are_named_after_claims() {
        let named = |builder: &str| rule(&format!("claims = {{ sub = 'x' }}\nbuilder = '{builder}'"));
        let claims = claims(json!({ "sub": "a\u{7}b", "id": 7, "list": [1] }));
        for (builder, expected) in [
            ("{sub}", "ab"),
            ("ci/{sub}-{id}", "ci/ab-7"),
            ("{none}", "ci"),
            ("{list}x", "x"),
            ("a{sub", "asub"),
            ("}{", "}"),
        ] {
            assert_eq!(named(builder).builder_of(&claims), expected, "{builder}");
        }
        assert_eq!(named(&"é".repeat(100)).builder_of(&claims).len(), 128);
    }

    #[test]
    fn a_rule_for_everybody_is_no_rule() {
        for bad in ["claims = {}", "claims = { sub = '*' }", "claims = { sub = [] }", "claims = { sub = ['a', '*'] }"] {
            assert!(!rule(bad).problems().is_empty(), "{bad}");
        }
        assert_eq!(rule("claims = { sub = 'a*' }").problems(), Vec::<String>::new());
        let more = ["lifetime = '2 d'", "lifetime = '1 s'", "builder = ''"];
        for bad in more {
            assert_eq!(rule(&format!("claims = {{ sub = 'a' }}\n{bad}")).problems().len(), 1, "{bad}");
        }
        let mut plain = rule("claims = { sub = 'a' }");
        plain.issuer = "http://issuer.example".to_owned();
        assert_eq!(plain.problems().len(), 1);
        plain.issuer = "http://127.0.0.1:8080".to_owned();
        assert!(plain.problems().is_empty());
        plain.grants = vec!["main:fly".to_owned()];
        assert_eq!(plain.problems().len(), 1);
    }
}
