//! Who may do what: tokens, their grants, and the check that every request passes before anything is looked up.
//!
//! Tokens are kept in memory and replaced as a whole when an administrator changed one: a revoked token is
//! refused from the next request on.

mod grant;
mod issued;
mod secret;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine as _;
use firn_index::{CacheName, Error, IssuedRow, Meta, TokenId, TokenRow, UnixSeconds, Uploader, Verb};
use http::HeaderMap;
use http::header::{AUTHORIZATION, COOKIE};

pub use grant::{GrantError, grant_text, matches_pattern, parse_grant, permits};
pub use secret::{Token, TokenError};

/// The builder name of those who pull without a token.
pub const ANONYMOUS: &str = "anonymous";

/// The cookie in which a browser keeps a token. It counts for reading alone.
pub const COOKIE_NAME: &str = "firn-token";

/// A request that may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Who asks. `token` is `None` for someone who pulls from a public cache without one.
    pub uploader: Uploader,
}

/// Why a request may not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// It carries no token.
    #[error("this needs a token")]
    NoCredentials,
    /// What it carries is no token, or none of this server's.
    #[error("the token is not known here")]
    BadToken,
    /// What it carries looks like a token, but its checksum is wrong: it was cut or mistyped.
    #[error("the token is mistyped or cut short")]
    Mistyped,
    /// The token was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token is good, but not for this.
    #[error("the token does not permit this")]
    NotGranted,
}

/// All tokens; cheap to read, replaced as a whole.
pub struct Tokens {
    rows: RwLock<Arc<HashMap<TokenId, TokenRow>>>,
    issued: issued::IssuedTokens,
}

impl Tokens {
    /// Reads all tokens.
    pub fn load(meta: &dyn Meta) -> Result<Self, Error> {
        let tokens = Self { rows: RwLock::default(), issued: Default::default() };
        tokens.refresh(meta)?;
        tokens.issued.take(meta.issued()?);
        Ok(tokens)
    }

    /// Reads all tokens again; on an error the earlier ones stay.
    pub fn refresh(&self, meta: &dyn Meta) -> Result<(), Error> {
        // Held from before the rows are read, so that two refreshes can't leave the older rows in place.
        let mut place = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(meta.tokens()?.into_iter().collect());
        Ok(())
    }

    /// Counts a token that was made for an identity, or one that was changed.
    pub fn add_issued(&self, id: TokenId, row: IssuedRow) {
        self.issued.add(id, row);
    }

    /// Returns the tokens that were made for identities and whose time is not long over.
    pub fn issued(&self) -> Vec<(TokenId, IssuedRow)> {
        self.issued.all()
    }

    /// Returns how many these are.
    pub fn count_issued(&self) -> usize {
        self.issued.count()
    }

    /// Forgets those whose time has been over for an hour, and returns them.
    pub fn forget_issued(&self, now: UnixSeconds) -> Vec<TokenId> {
        self.issued.forget(now)
    }

    /// Says whether a request with these headers may do `verb` to a cache, and as whom.
    ///
    /// The token is taken from `Authorization: Bearer`, or is the password of `Basic` (the user name is ignored: that
    /// is what Nix sends from a netrc file). All of its grants that match count. What is wrong with a token is told only to
    /// who holds its secret.
    pub fn authorise(
        &self,
        headers: &HeaderMap,
        cache: &CacheName,
        public: bool,
        verb: Verb,
        now: UnixSeconds,
    ) -> Result<Access, Denial> {
        match self.check(headers, cache, verb, now) {
            Err(_) if public && verb == Verb::Pull => {
                Ok(Access { uploader: Uploader { token: None, builder: ANONYMOUS.to_owned() } })
            }
            result => result,
        }
    }

    fn check(&self, headers: &HeaderMap, cache: &CacheName, verb: Verb, now: UnixSeconds) -> Result<Access, Denial> {
        let token = match verb {
            Verb::Push => token_of(headers),
            Verb::Pull | Verb::Usage => token_or_cookie(headers),
        };
        self.with(token, now, |id, row| {
            if !permits(&row.grants, cache, verb) {
                return Err(Denial::NotGranted);
            }
            Ok(Access { uploader: Uploader { token: Some(id), builder: row.builder.clone() } })
        })
    }

    /// Returns the token that a request carries, whatever it may do.
    pub fn bearer(&self, headers: &HeaderMap, now: UnixSeconds) -> Result<(TokenId, TokenRow), Denial> {
        self.with(token_of(headers), now, |id, row| Ok((id, row.clone())))
    }

    /// Does as [`Tokens::bearer`], and takes a browser's cookie where there is no `Authorization`.
    pub fn bearer_or_cookie(&self, headers: &HeaderMap, now: UnixSeconds) -> Result<(TokenId, TokenRow), Denial> {
        self.with(token_or_cookie(headers), now, |id, row| Ok((id, row.clone())))
    }

    /// Returns the token that a text spells, if it counts.
    pub fn check_text(&self, text: &str, now: UnixSeconds) -> Result<(TokenId, TokenRow), Denial> {
        self.with(parse(text.trim()), now, |id, row| Ok((id, row.clone())))
    }

    fn with<T>(
        &self,
        token: Result<Token, Denial>,
        now: UnixSeconds,
        then: impl FnOnce(TokenId, &TokenRow) -> Result<T, Denial>,
    ) -> Result<T, Denial> {
        let token = token?;
        let rows = Arc::clone(&self.rows.read().unwrap_or_else(PoisonError::into_inner));
        let issued = if rows.contains_key(&token.id()) { None } else { self.issued.get(&token.id()) };
        let row = rows.get(&token.id()).or(issued.as_ref().map(|row| &row.token));
        let row = row.filter(|row| token.matches(&row.secret_hash)).ok_or(Denial::BadToken)?;
        if row.revoked_at.is_some() {
            return Err(Denial::Revoked);
        }
        if row.expires_at.is_some_and(|at| at <= now) {
            return Err(Denial::Expired);
        }
        then(token.id(), row)
    }
}

fn parse(text: &str) -> Result<Token, Denial> {
    text.parse().map_err(|error| match error {
        TokenError::NotAToken => Denial::BadToken,
        TokenError::Mistyped => Denial::Mistyped,
    })
}

/// Reads the token that a request carries, or else the one that a browser keeps.
fn token_or_cookie(headers: &HeaderMap) -> Result<Token, Denial> {
    if headers.contains_key(AUTHORIZATION) {
        return token_of(headers);
    }
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|list| list.split(';')).filter_map(|pair| pair.trim().split_once('='));
    match pairs.find(|(name, _)| *name == COOKIE_NAME) {
        Some((_, token)) if !token.is_empty() => parse(token),
        Some(_) | None => Err(Denial::NoCredentials),
    }
}

/// Reads the token that a request carries.
fn token_of(headers: &HeaderMap) -> Result<Token, Denial> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Denial::NoCredentials)?;
    if values.next().is_some() {
        return Err(Denial::BadToken);
    }
    let value = value.to_str().map_err(|_| Denial::BadToken)?;
    let (scheme, credentials) = value.trim().split_once(' ').ok_or(Denial::BadToken)?;
    let credentials = credentials.trim_start();
    if scheme.eq_ignore_ascii_case("bearer") {
        return parse(credentials);
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Denial::BadToken);
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(credentials).map_err(|_| Denial::BadToken)?;
    let decoded = String::from_utf8(decoded).map_err(|_| Denial::BadToken)?;
    let (_user, password) = decoded.split_once(':').ok_or(Denial::BadToken)?;
    if password.is_empty() { Err(Denial::NoCredentials) } else { parse(password) }
}
