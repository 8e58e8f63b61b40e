//! What a request's path is an instance of: few names for any number of paths. Traces use them; routing does not.

use std::borrow::Cow;

use firn_api::{Endpoint, IDENTITY_PATH, PREFIX};
use http::Uri;

use super::inspect::Call;
use super::pages::Page;
use super::route::{Api, Resource, Route};
use super::{identity, inspect, pages, route};

/// Stands for the name of a cache.
const CACHE: &str = "{cache}";

/// Stands for a session's secret.
pub(crate) const SESSION: &str = "{session}";

/// Returns the pattern that a URL's path fits, if the server has anything there.
pub(crate) fn of(uri: &Uri) -> Option<Cow<'static, str>> {
    let path = uri.path();
    if let "/healthz" | "/readyz" = path {
        return Some(path.to_owned().into());
    }
    if let Some(call) = inspect::route(path) {
        return of_call(&call).map(Cow::from);
    }
    if let Some(page) = pages::route(path) {
        return of_page(&page).map(Cow::from);
    }
    if identity::is_at(path) {
        return Some(format!("{PREFIX}{IDENTITY_PATH}").into());
    }
    let target = uri.path_and_query().map_or(path, http::uri::PathAndQuery::as_str);
    match route::parse_api(target) {
        Some(Api::Nothing) => return None,
        Some(Api::Capabilities) => return Some(Endpoint::Capabilities.path(CACHE).into()),
        Some(Api::Cache { endpoint, .. }) => return Some(of_endpoint(&endpoint)),
        None => {}
    }
    let Route::Cache { cache, resource } = route::parse(path) else { return None };
    let rest = of_resource(&resource)?;
    Some(if cache.is_some() { format!("/{CACHE}{rest}").into() } else { rest.into() })
}

fn of_call(call: &Call) -> Option<&'static str> {
    Some(match call {
        Call::Metrics => "/metrics",
        Call::OpenApi => "/api/v1/openapi.yaml",
        Call::Maintenance => "/api/v1/maintenance",
        Call::Usage => "/api/v1/usage",
        Call::History => "/api/v1/usage/history",
        Call::Search => "/api/v1/usage/search",
        Call::DiskUse(_) => "/api/v1/caches/{cache}/disk-use",
        Call::Difference(_) => "/api/v1/caches/{cache}/difference",
        Call::Path(..) => "/api/v1/caches/{cache}/paths/{hash}",
        Call::Malformed(_) => return None,
    })
}

fn of_page(page: &Page) -> Option<&'static str> {
    Some(match page {
        Page::Style => "/-/style.css",
        Page::Overview => "/-/overview",
        Page::Caches => "/-/caches",
        Page::Cache(_) => "/-/caches/{cache}",
        Page::Builders => "/-/builders",
        Page::Packages => "/-/packages",
        Page::Path(..) => "/-/paths/{cache}/{hash}",
        Page::Search => "/-/search",
        Page::State => "/-/state",
        Page::Conflicts => "/-/conflicts",
        Page::Login => "/-/login",
        Page::Logout => "/-/logout",
        Page::Nothing => return None,
    })
}

fn of_endpoint(endpoint: &Endpoint) -> Cow<'static, str> {
    match endpoint {
        Endpoint::Paths { .. } => "/api/v1/caches/{cache}/paths".into(),
        Endpoint::Frames { .. } => "/api/v1/caches/{cache}/frames".into(),
        Endpoint::Session(_) => "/api/v1/caches/{cache}/sessions/{session}".into(),
        Endpoint::RecipePart { .. } => "/api/v1/caches/{cache}/recipes/{recipe}/{offset}".into(),
        Endpoint::Capabilities
        | Endpoint::Cache
        | Endpoint::Sessions
        | Endpoint::MissingPaths
        | Endpoint::KnownRecipes
        | Endpoint::MissingChunks
        | Endpoint::Commits
        | Endpoint::Pins
        | Endpoint::PinAdd
        | Endpoint::PinRemove => endpoint.path(CACHE).into(),
    }
}

fn of_resource(resource: &Resource) -> Option<&'static str> {
    Some(match resource {
        Resource::Home => "/",
        Resource::CacheInfo => "/nix-cache-info",
        Resource::NarInfo(_) => "/{hash}.narinfo",
        Resource::Nar(_) => "/nar/{file}",
        Resource::Listing(_) => "/{hash}.ls",
        Resource::Log(_) => "/log/{hash}",
        Resource::Realisation(_) => "/realisations/{id}.doi",
        Resource::BuildTrace(_) => "/build-trace-v2/{drv}/{output}.doi",
        Resource::DebugInfo(_) => "/debuginfo/{id}",
        Resource::File { .. } => "/serve/{hash}/{path}",
        Resource::Nothing => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_path_is_one_of() {
        let hash = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
        for (target, expected) in [
            ("/", "/"),
            ("/main/", "/{cache}/"),
            ("/healthz", "/healthz"),
            ("/nix-cache-info", "/nix-cache-info"),
            (&format!("/main/{hash}.narinfo"), "/{cache}/{hash}.narinfo"),
            (&format!("/{hash}.narinfo?x=secret"), "/{hash}.narinfo"),
            ("/main/nar/x.nar.zst", "/{cache}/nar/{file}"),
            (&format!("/main/serve/{hash}-x/bin/x"), "/{cache}/serve/{hash}/{path}"),
            ("/api/v1/capabilities", "/api/v1/capabilities"),
            ("//api/v1/caches/main/frames", "/api/v1/caches/{cache}/frames"),
            ("/api/v1/caches/main/paths?since=7", "/api/v1/caches/{cache}/paths"),
            ("/api/v1/caches/main/sessions", "/api/v1/caches/{cache}/sessions"),
            ("/api/v1/caches/_/sessions/0123456789abcdef0123456789abcdef", "/api/v1/caches/{cache}/sessions/{session}"),
            ("/api/v1/oidc/token", "/api/v1/oidc/token"),
            (&format!("/api/v1/caches/main/paths/{hash}"), "/api/v1/caches/{cache}/paths/{hash}"),
            ("/-/caches/main", "/-/caches/{cache}"),
        ] {
            assert_eq!(of(&target.parse().unwrap()).as_deref(), Some(expected), "{target}");
        }
    }

    #[test]
    fn has_no_name_for_what_is_not_there() {
        for target in ["/main/x", "/Main", "/api/v2/x", "/-/x", "/api/v1/caches/main/paths/x"] {
            assert_eq!(of(&target.parse().unwrap()), None, "{target}");
        }
    }
}
