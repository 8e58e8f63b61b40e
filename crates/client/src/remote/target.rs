//! Which cache on which server, and the token that opens it.

use std::fmt;

use reqwest::Url;

use crate::{Error, Result};

/// The name of the cache that stands at the root of a server's address.
const ROOT: &str = "_";

/// The longest token that is taken, in bytes; firnd's own have 52.
const MAX_TOKEN_BYTES: usize = 4096;

/// A secret that a server knows its bearer by. Neither `Debug` nor any message shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// Returns the token that a text holds, without the white space around it.
    ///
    /// # Errors
    /// [`Error::Target`] if nothing is left or it could not stand in a header.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let is_good =
            !text.is_empty() && text.len() <= MAX_TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        if is_good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Target("the token is empty, too long, or has characters that no token has".to_owned()))
        }
    }

    /// Returns the value of an `Authorization` header.
    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// One cache on one server.
///
/// Written `http[s]://HOST[:PORT][/PREFIX…]/NAME`; without a NAME, or with `_`, it is the cache at the root of the address.
/// Behind a prefix the root has to be written `_`, since the last part is the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Scheme, host, port and prefix; no slash at the end.
    base: String,
    cache: String,
    /// What the server is to know us by.
    pub token: Option<Token>,
}

impl Target {
    /// Reads the URL of a cache.
    ///
    /// # Errors
    /// [`Error::Target`] for what is no such URL, or holds a user, a password, a query or a fragment. The message never shows
    /// a password.
    pub fn parse(text: &str, token: Option<Token>) -> Result<Self> {
        let text = text.trim();
        if !text.contains("://") {
            let detail = format!("'{}' has no scheme: write https://{0} or http://{0}", shown(text));
            return Err(Error::Target(detail));
        }
        let url = Url::parse(text).map_err(|error| Error::Target(format!("it is no URL: {error}")))?;
        let fail = |detail: String| Err(Error::Target(detail));
        if !matches!(url.scheme(), "http" | "https") {
            return fail(format!("its scheme is '{}': caches are at http:// or https://", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return fail(
                "it holds a user or a password: give the token by file, environment or configuration".to_owned(),
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return fail("it has a query or a fragment, which no cache's URL has".to_owned());
        }
        let Some(host) = url.host_str() else { return fail("it has no host".to_owned()) };
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let path = url.path().trim_end_matches('/');
        let (prefix, name) = path.rsplit_once('/').unwrap_or(("", ""));
        let cache = if name.is_empty() { ROOT } else { name };
        if !cache.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)) {
            return fail(format!("'{}' is no name of a cache", shown(cache)));
        }
        Ok(Self { base: format!("{}://{host}{port}{prefix}", url.scheme()), cache: cache.to_owned(), token })
    }

    /// Returns scheme, host, port and prefix, without a slash at the end.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Returns the cache's name; `_` for the one at the root.
    #[must_use]
    pub fn cache(&self) -> &str {
        &self.cache
    }
}

/// The URL, without the token.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cache == ROOT { f.write_str(&self.base) } else { write!(f, "{}/{}", self.base, self.cache) }
    }
}

/// Returns the start of a text that somebody typed, without what terminals obey.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_cache_and_shows_no_password() {
        for bad in [
            "",
            "cache.example.org/main",
            "ftp://example.org/main",
            "https://",
            "https://user@example.org/main",
            "https://user:sesame@example.org/main",
            "https://example.org/main?x=1",
            "https://example.org/main#x",
            "https://example.org/a%2fb",
            "https://exa mple.org/",
        ] {
            let error = Target::parse(bad, None).unwrap_err().to_string();
            assert!(!error.contains("sesame"), "{error}");
        }
        assert!(
            Target::parse("cache.example.org/main", None)
                .unwrap_err()
                .to_string()
                .contains("https://cache.example.org/main")
        );
    }

    #[test]
    fn knows_the_root_and_prefixes() {
        for (text, base, cache, shown) in [
            ("https://a.org", "https://a.org", "_", "https://a.org"),
            ("https://A.org/", "https://a.org", "_", "https://a.org"),
            ("https://a.org:8443/main/", "https://a.org:8443", "main", "https://a.org:8443/main"),
            ("https://a.org:443/main", "https://a.org", "main", "https://a.org/main"),
            ("http://[::1]:80/x/y/main", "http://[::1]/x/y", "main", "http://[::1]/x/y/main"),
            ("https://a.org/nix/_", "https://a.org/nix", "_", "https://a.org/nix"),
        ] {
            let target = Target::parse(text, None).unwrap();
            assert_eq!((target.base(), target.cache(), target.to_string().as_str()), (base, cache, shown));
        }
    }

    #[test]
    fn tokens_stay_secret() {
        for bad in ["", " \n", "a b", "a\u{7f}", "é", &"x".repeat(5000)] {
            assert!(Token::parse(bad).is_err(), "{bad:?}");
        }
        let target = Target::parse("https://a.org/main", Some(Token::parse("sesame\n").unwrap())).unwrap();
        assert!(!format!("{target:?} {target}").contains("sesame"));
        assert_eq!(target.token.unwrap().bearer(), "Bearer sesame");
    }
}
