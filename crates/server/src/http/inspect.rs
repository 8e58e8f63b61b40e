//! Usage reports, single paths and metrics for programs: JSON under `/api/v1`, Prometheus text at `/metrics`.
//!
//! `openapi.yaml` of this crate describes the requests, and is served here too. What the asker may not see is answered like
//! what is not there.

use std::sync::Arc;

use firn_api::ErrorAnswer;
use firn_api::usage::GroupBy;
use firn_index::{CacheName, UnixSeconds};
use firn_nix::StoreHash;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response};
use serde::Serialize;

use super::body::Body;
use super::error::{After, Problem};
use super::query::Query;
use super::{failed, work};
use crate::app::App;
use crate::auth::Denial;
use crate::caches::Cache;
use crate::maintenance::Maintenance;
use crate::usage::viewer::Viewer;
use crate::usage::{counters, report, search, view};

/// The description of the requests.
pub(super) const OPENAPI: &str = include_str!("../../openapi.yaml");

/// Groups that a report has at most.
const MAX_TOP: usize = 1000;

/// Paths that are asked about at once.
const MAX_PATHS: usize = 1000;

/// Paths that a search tells at most.
const MAX_FOUND: usize = 500;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Metrics,
    OpenApi,
    Maintenance,
    Usage,
    History,
    Search,
    DiskUse(CacheName),
    Difference(CacheName),
    Path(CacheName, StoreHash),
    /// One of these, with something in its URL that is not what it should be.
    Malformed(&'static str),
}

/// Finds out what a path is for, if it is one of these.
pub(super) fn route(path: &str) -> Option<Call> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).take(7).collect();
    Some(match segments.as_slice() {
        ["metrics"] => Call::Metrics,
        ["api", "v1", "openapi.yaml"] => Call::OpenApi,
        ["api", "v1", "maintenance"] => Call::Maintenance,
        ["api", "v1", "usage"] => Call::Usage,
        ["api", "v1", "usage", "history"] => Call::History,
        ["api", "v1", "usage", "search"] => Call::Search,
        ["api", "v1", "caches", cache, "disk-use"] => of_cache(cache, Call::DiskUse),
        ["api", "v1", "caches", cache, "difference"] => of_cache(cache, Call::Difference),
        ["api", "v1", "caches", cache, "paths", hash] => match hash.parse() {
            Ok(hash) => of_cache(cache, |cache| Call::Path(cache, hash)),
            Err(_) => Call::Malformed("the last part of the URL must be a store hash"),
        },
        _ => return None,
    })
}

fn of_cache(name: &str, call: impl FnOnce(CacheName) -> Call) -> Call {
    name.parse().map_or(Call::Malformed("the URL must name a cache as caches are named"), call)
}

/// Answers GET and HEAD.
pub(super) async fn answer(
    app: &Arc<App>,
    call: Call,
    method: &Method,
    headers: &HeaderMap,
    query: &str,
) -> Response<Body> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = refusal(&Problem::Method(super::route::Access::ReadOnly));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match call {
        Call::OpenApi => text(OPENAPI.to_owned(), "application/yaml"),
        Call::Malformed(what) => refusal(&bad(what.to_owned())),
        call => {
            let (shared, headers, query) = (Arc::clone(app), headers.clone(), Query::parse(query));
            let answered = work(app, After::Headers, move || blocking(&shared, call, &headers, &query)).await;
            answered.unwrap_or_else(|problem| refusal(&problem))
        }
    }
}

/// Refuses parameters that a call does not have: one that is mistyped would change the answer unseen.
fn check_names(call: &Call, query: &Query) -> Result<(), Problem> {
    let (once, many): (&[&str], _) = match call {
        // Scrapers add their own.
        Call::Metrics | Call::OpenApi | Call::Malformed(_) => return Ok(()),
        Call::Usage => (&["by", "top", "since", "fresh"], None),
        Call::History => (&["since"], None),
        Call::Search => (&["q"], None),
        Call::DiskUse(_) => (&["closure"], Some("path")),
        Call::Difference(_) => (&["from", "to"], None),
        Call::Path(..) | Call::Maintenance => (&[], None),
    };
    let shown = |name: String| name.chars().take(64).collect::<String>();
    match query.stranger(once, many).map(shown) {
        Some(name) if once.contains(&name.as_str()) => Err(bad(format!("'{name}' is given twice"))),
        Some(name) => Err(bad(format!("there is no parameter '{}'", name.escape_default()))),
        None => Ok(()),
    }
}

fn blocking(app: &App, call: Call, headers: &HeaderMap, query: &Query) -> Result<Response<Body>, Problem> {
    let viewer = Viewer::of(app, headers, false).map_err(Problem::Unauthorised)?;
    let fail = |error| failed(app, error, After::Headers);
    let index = |error: firn_index::Error| failed(app, error.into(), After::Headers);
    let now = app.now();
    check_names(&call, query)?;
    match call {
        Call::OpenApi => Ok(text(OPENAPI.to_owned(), "application/yaml")),
        Call::Malformed(what) => Err(bad(what.to_owned())),
        Call::Metrics => {
            if !app.config.usage.public_metrics && !viewer.sees_all(app) {
                return Err(denied(&viewer));
            }
            let body = crate::metrics::encode(app).map_err(fail)?;
            Ok(text(body, "application/openmetrics-text; version=1.0.0; charset=utf-8"))
        }
        Call::Maintenance => {
            if !viewer.sees_all(app) {
                return Err(denied(&viewer));
            }
            Ok(json(&Maintenance::of(app).map_err(fail)?))
        }
        Call::Usage => {
            let asked = asked(query, now)?;
            let sees_all = viewer.sees_all(app);
            if asked.by != GroupBy::Cache && !sees_all {
                return Err(denied(&viewer));
            }
            let seen: Vec<String> = seen_usage(app, &viewer)?;
            let may_see = |name: &str| seen.iter().any(|seen| seen == name);
            Ok(json(&report::report(&app.usage, &app.engine, asked, now, &may_see, sees_all).map_err(fail)?))
        }
        Call::History => {
            if !viewer.sees_all(app) {
                return Err(denied(&viewer));
            }
            let from = counters::day_of(since(query, now)?.unwrap_or(0));
            Ok(json(&report::history(&app.usage, app.engine.meta(), now, from).map_err(index)?))
        }
        Call::Search => {
            let caches: Vec<CacheName> = viewer.caches(app).into_iter().map(|cache| cache.name.clone()).collect();
            let text = query.get("q").ok_or_else(|| bad("'q' must be given".to_owned()))?;
            Ok(json(&search::find(&app.usage, app.engine.meta(), &caches, text, MAX_FOUND).map_err(index)?))
        }
        Call::DiskUse(name) => {
            let cache = admitted(app, &viewer, &name, Viewer::may_see_usage)?;
            let paths = hashes(query)?;
            let closure = flag(query, "closure")?;
            let may_name = |name: &CacheName| app.caches.get(name).is_some_and(|other| viewer.may_pull(&other));
            let found = view::disk_use(&app.usage, &app.engine, &cache.name, &paths, closure, now, &may_name);
            Ok(json(&found.map_err(fail)?))
        }
        Call::Difference(name) => {
            let cache = admitted(app, &viewer, &name, Viewer::may_pull)?;
            let of = |name| {
                let hash = query.get(name).and_then(hash_of);
                hash.ok_or_else(|| bad(format!("'{name}' must be a store path or its hash")))
            };
            let (from, to) = (of("from")?, of("to")?);
            Ok(json(&view::difference(&app.engine, &cache.name, &from, &to).map_err(fail)?))
        }
        Call::Path(name, hash) => {
            let cache = admitted(app, &viewer, &name, Viewer::may_pull)?;
            let with_pushes = viewer.may_see_usage(&cache);
            Ok(json(&view::path(&app.engine, &cache.name, &hash, with_pushes).map_err(fail)?))
        }
    }
}

/// Returns the names of the caches whose usage may be seen; refuses those who may see none.
fn seen_usage(app: &App, viewer: &Viewer) -> Result<Vec<String>, Problem> {
    let caches = app.caches.all();
    let seen: Vec<_> = caches.iter().filter(|cache| viewer.may_see_usage(cache)).collect();
    if seen.is_empty() && !viewer.sees_all(app) {
        return Err(denied(viewer));
    }
    Ok(seen.into_iter().map(|cache| cache.name.to_string()).collect())
}

fn admitted(
    app: &App,
    viewer: &Viewer,
    name: &CacheName,
    may: impl Fn(&Viewer, &Cache) -> bool,
) -> Result<Arc<Cache>, Problem> {
    app.caches.get(name).filter(|cache| may(viewer, cache)).ok_or_else(|| denied(viewer))
}

fn denied(viewer: &Viewer) -> Problem {
    if viewer.is_known() { Problem::UsageNotGranted } else { Problem::Unauthorised(Denial::NoCredentials) }
}

fn bad(detail: String) -> Problem {
    Problem::BadQuestion(detail)
}

fn asked(query: &Query, now: UnixSeconds) -> Result<report::Asked, Problem> {
    let by = query.get("by").map_or(Some(GroupBy::Cache), GroupBy::parse);
    let by = by.ok_or_else(|| bad("'by' must be cache, builder, package, pin or day".to_owned()))?;
    Ok(report::Asked { by, top: top(query)?, since: since(query, now)?, fresh: flag(query, "fresh")? })
}

fn top(query: &Query) -> Result<usize, Problem> {
    let Some(text) = query.get("top") else { return Ok(MAX_TOP) };
    let number = text.parse().ok().filter(|top| *top <= MAX_TOP && text.bytes().all(|byte| byte.is_ascii_digit()));
    number.ok_or_else(|| bad(format!("'top' must be a number up to {MAX_TOP}")))
}

/// Reads what is true if it is there: `1` or `true`.
fn flag(query: &Query, name: &str) -> Result<bool, Problem> {
    match query.get(name) {
        None => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(_) => Err(bad(format!("'{name}' must be 1 or true, or not be given"))),
    }
}

/// Reads `since`: a date, or a number of days.
fn since(query: &Query, now: UnixSeconds) -> Result<Option<UnixSeconds>, Problem> {
    let Some(text) = query.get("since").filter(|text| !text.is_empty()) else { return Ok(None) };
    let since = text.parse::<report::Since>().map_err(|wanted| bad(format!("'since' must be {wanted}")))?;
    Ok(Some(since.at(now)))
}

fn hashes(query: &Query) -> Result<Vec<StoreHash>, Problem> {
    let hashes: Option<Vec<StoreHash>> = query.all("path").map(hash_of).collect();
    let hashes = hashes.filter(|hashes| (1..=MAX_PATHS).contains(&hashes.len()));
    hashes.ok_or_else(|| bad(format!("'path' must be given 1 to {MAX_PATHS} times: store paths or their hashes")))
}

/// Reads a store path, its base name, or its hash.
pub(super) fn hash_of(text: &str) -> Option<StoreHash> {
    let base_name = text.rsplit('/').next().unwrap_or_default();
    base_name.get(..32)?.parse().ok()
}

fn json(value: &impl Serialize) -> Response<Body> {
    text(serde_json::to_string(value).expect("texts and numbers are JSON"), "application/json")
}

fn text(body: String, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn refusal(problem: &Problem) -> Response<Body> {
    let answer = ErrorAnswer {
        code: problem.code().to_owned(),
        message: problem.to_string(),
        hint: problem.hint().to_owned(),
        retry_after: None,
    };
    let mut response = json(&answer);
    *response.status_mut() = problem.status();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_its_own_paths_and_no_others() {
        let hash = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
        let cache = || "main".parse().unwrap();
        for (path, call) in [
            ("/metrics", Call::Metrics),
            ("/api/v1/usage", Call::Usage),
            ("//api//v1/usage/history", Call::History),
            ("/api/v1/usage/search", Call::Search),
            ("/api/v1/openapi.yaml", Call::OpenApi),
            ("/api/v1/caches/main/disk-use", Call::DiskUse(cache())),
            ("/api/v1/caches/main/difference", Call::Difference(cache())),
            (&format!("/api/v1/caches/main/paths/{hash}"), Call::Path(cache(), hash.parse().unwrap())),
        ] {
            assert_eq!(route(path), Some(call), "{path}");
        }
        for path in ["/", "/main/metrics", "/api/v1/caches/main", "/api/v1/caches/main/frames", "/api/v1/usage/x"] {
            assert_eq!(route(path), None, "{path}");
        }
        let malformed = [
            format!("/api/v1/caches/Main/paths/{hash}"),
            "/api/v1/caches/main/paths/x".to_owned(),
            "/api/v1/caches/M/difference".to_owned(),
            "/api/v1/caches/_/disk-use".to_owned(),
        ];
        for path in malformed {
            assert!(matches!(route(&path), Some(Call::Malformed(_))), "{path}");
        }
    }

    #[test]
    fn takes_what_is_described_and_nothing_else() {
        let asked = |text: &str| asked(&Query::parse(text), 1_000_000).map(|asked| (asked.top, asked.fresh));
        assert_eq!((asked(""), asked("top=0&fresh=true")), (Ok((MAX_TOP, false)), Ok((0, true))));
        for bad in ["top=1001", "top=%2B5", "top=-1", "top=", "top=1e2", "fresh=yes", "fresh=", "by=", "by=x"] {
            assert!(matches!(asked(bad), Err(Problem::BadQuestion(_))), "{bad}");
        }
        let check = |call: &Call, text: &str| check_names(call, &Query::parse(text)).map_err(|error| error.to_string());
        assert_eq!(check(&Call::Usage, "by=cache&top=1&since=1d&fresh=1"), Ok(()));
        assert!(check(&Call::Usage, "tpo=5").unwrap_err().ends_with("there is no parameter 'tpo'"));
        assert!(check(&Call::Usage, "top=5&top=6").unwrap_err().ends_with("'top' is given twice"));
        assert_eq!(check(&Call::DiskUse("a".parse().unwrap()), "path=1&path=2&closure=1"), Ok(()));
        assert_eq!(check(&Call::Metrics, "x=1"), Ok(()));
    }

    #[test]
    fn reads_times() {
        let read = |text: &str| since(&Query::parse(text), 1_000_000);
        assert_eq!(read("since=1d"), Ok(Some(1_000_000 - 86_400)));
        assert_eq!(read("since=2026-11-28"), Ok(Some(1_795_824_000)));
        assert_eq!(read("since="), Ok(None));
        assert_eq!(read("since=99999d"), Ok(Some(0)));
        assert!(read("since=yesterday").is_err() && read("since=-1d").is_err());
    }
}
