//! Who looks, and what they may see.

use std::sync::Arc;

use firn_index::{TokenId, TokenRow, Verb};
use http::HeaderMap;

use crate::app::App;
use crate::auth::{Denial, permits};
use crate::caches::Cache;

/// Somebody who asks about usage, or looks at pages.
///
/// Who may pull from a cache may see what is in it. What things cost, who pushed them and from where needs the verb
/// `usage`; sums over several caches need it for every cache, the private ones of others included.
#[derive(Debug, Clone, Default)]
pub struct Viewer {
    token: Option<(TokenId, TokenRow)>,
}

impl Viewer {
    /// Returns who sends these headers; `with_cookie` also looks for a token that a browser keeps.
    ///
    /// # Errors
    /// What is wrong with the token, if there is one.
    pub fn of(app: &App, headers: &HeaderMap, with_cookie: bool) -> Result<Self, Denial> {
        let found = if with_cookie {
            app.tokens.bearer_or_cookie(headers, app.now())
        } else {
            app.tokens.bearer(headers, app.now())
        };
        match found {
            Ok(token) => Ok(Self { token: Some(token) }),
            Err(Denial::NoCredentials) => Ok(Self::default()),
            Err(denial) => Err(denial),
        }
    }

    /// Returns whether a token came.
    pub fn is_known(&self) -> bool {
        self.token.is_some()
    }

    /// Returns the builder's name.
    pub fn builder(&self) -> Option<&str> {
        self.token.as_ref().map(|(_, row)| row.builder.as_str())
    }

    fn may(&self, cache: &Cache, verb: Verb) -> bool {
        self.token.as_ref().is_some_and(|(_, row)| permits(&row.grants, &cache.name, verb))
    }

    /// Says whether they may see what is in a cache.
    pub fn may_pull(&self, cache: &Cache) -> bool {
        cache.row.public || self.may(cache, Verb::Pull) || self.may(cache, Verb::Usage)
    }

    /// Says whether they may see what a cache costs, and who pushed to it.
    pub fn may_see_usage(&self, cache: &Cache) -> bool {
        self.may(cache, Verb::Usage)
    }

    /// Says whether they may see sums over all caches; not on a server without any, unless a grant is for every name.
    pub fn sees_all(&self, app: &App) -> bool {
        let caches = app.caches.all();
        self.token.as_ref().is_some_and(|(_, row)| {
            let for_any = row.grants.iter().any(|grant| grant.cache == "*" && grant.verbs.contains(&Verb::Usage));
            for_any || (!caches.is_empty() && caches.iter().all(|cache| self.may_see_usage(cache)))
        })
    }

    /// Returns the caches that they may look into.
    pub fn caches(&self, app: &App) -> Vec<Arc<Cache>> {
        app.caches.all().into_iter().filter(|cache| self.may_pull(cache)).collect()
    }
}
