//! Who asks, and what they may be told.

use std::net::IpAddr;
use std::sync::Arc;

use firn_api::Endpoint;
use firn_engine::Scope;
use firn_index::{CacheName, PathRow, TokenId, TokenRow, UnixSeconds, Uploader, Verb};
use http::HeaderMap;

use super::super::error::Problem;
use super::super::root_cache;
use super::refusal::Refusal;
use crate::app::App;
use crate::auth::{ANONYMOUS, Denial, permits};
use crate::caches::Cache;
use crate::turns::asker_of;

/// In how many caches is looked for what an asker may be told of: each costs a look-up for each chunk asked about. What only further
/// ones have is uploaded again, and stored once.
const SCOPE_CACHES: usize = 64;

/// Someone who may do what the request is for.
pub(super) struct Asker {
    pub(super) cache: Arc<Cache>,
    pub(super) uploader: Uploader,
    /// Where the request comes from.
    pub(super) address: Option<IpAddr>,
    pub(super) can_pull: bool,
    pub(super) can_push: bool,
    pub(super) expires_at: Option<UnixSeconds>,
    /// What answers about chunks and recipes may speak of.
    pub(super) scope: Scope,
}

impl Asker {
    /// Checks who asks before anything is looked up: a private cache and one that doesn't exist look alike to those who may
    /// use neither.
    pub(super) fn authorise(
        app: &App,
        name: Option<CacheName>,
        endpoint: &Endpoint,
        headers: &HeaderMap,
        host: Option<&str>,
        address: Option<IpAddr>,
    ) -> Result<Self, Refusal> {
        let is_list = matches!(endpoint, Endpoint::Paths { .. });
        let is_question = is_list || matches!(endpoint, Endpoint::Cache | Endpoint::MissingPaths | Endpoint::Pins);
        let Some(name) = name.or_else(|| root_cache(app, host)) else { return Err(Problem::Forbidden.into()) };
        let public = app.caches.get(&name).is_some_and(|cache| cache.row.public);
        let bearer = app.tokens.bearer(headers, app.now());
        let may = |verb| bearer.as_ref().is_ok_and(|(_, row)| permits(&row.grants, &name, verb));
        let (can_pull, can_push) = (public || may(Verb::Pull), may(Verb::Push));
        // Who may push and not read is told of what he names, and of nothing else.
        let allowed = if is_list { can_pull } else { can_push || (is_question && can_pull) };
        if !allowed {
            let denial = bearer.err().unwrap_or(Denial::NotGranted);
            return Err(denied(denial, is_question).into());
        }
        let cache = app.caches.get(&name).ok_or(Problem::NoSuchCache)?;
        let (uploader, expires_at, scope) = match bearer {
            Ok((id, row)) => {
                let scope = if is_question { Scope::Caches(Vec::new()) } else { scope(app, id, &row, &name) };
                (Uploader { token: Some(id), builder: row.builder }, row.expires_at, scope)
            }
            Err(_) => {
                let anonymous = Uploader { token: None, builder: ANONYMOUS.to_owned() };
                (anonymous, None, Scope::Caches(Vec::new()))
            }
        };
        Ok(Self { cache, uploader, address, can_pull, can_push, expires_at, scope })
    }

    /// Returns in whose name turns are taken: the builder's or, of those who have no token, their address's.
    pub(super) fn key(&self) -> String {
        match (self.uploader.token, self.address) {
            (None, Some(address)) => asker_of(address).to_string(),
            _ => self.uploader.builder.clone(),
        }
    }

    /// Returns by which token a path must have been brought first for the asker to be told of it; `None` if that does not matter.
    pub(super) fn told_only_of(&self) -> Option<TokenId> {
        self.uploader.token.filter(|_| !self.can_pull)
    }

    /// Returns whether the asker may be told that the cache has a path.
    pub(super) fn may_be_told_of(&self, path: &PathRow) -> bool {
        self.told_only_of().is_none_or(|token| path.uploader.token == Some(token))
    }
}

/// Returns how a denial is told: questions as what is read elsewhere, the rest as uploads elsewhere.
fn denied(denial: Denial, is_question: bool) -> Problem {
    match (denial, is_question) {
        (Denial::NoCredentials | Denial::BadToken | Denial::NotGranted, true) => Problem::Forbidden,
        (Denial::Mistyped | Denial::Revoked | Denial::Expired, true) => Problem::TokenRefused(denial),
        (Denial::NotGranted, false) => Problem::NotGranted,
        (_, false) => Problem::Unauthorised(denial),
    }
}

/// Returns what a token may be told of: all, if it may read every cache; else what those know who read what it may read. If it may not
/// read the cache that it pushes to, it is told there what it sent itself: a push that could not learn that would never end.
fn scope(app: &App, token: TokenId, row: &TokenRow, target: &CacheName) -> Scope {
    let caches = app.caches.all();
    let total = caches.len();
    let may_read = |cache: &Cache| cache.row.public || permits(&row.grants, &cache.name, Verb::Pull);
    let readable: Vec<_> = caches.iter().filter(|cache| may_read(cache)).map(|cache| &cache.name).collect();
    if readable.len() == total {
        return Scope::Store;
    }
    let is_told = readable.contains(&target);
    let others = readable.into_iter().filter(|name| *name != target);
    let readable = is_told.then_some(target).into_iter().chain(others).take(SCOPE_CACHES).cloned().collect();
    if is_told { Scope::Caches(readable) } else { Scope::Sender { token, cache: target.clone(), readable } }
}
