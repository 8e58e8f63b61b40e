//! Pages for people: made here, without scripts, readable without styles, from stored results.
//!
//! They stand under `/-/`, which no cache can be called, and at `/` and `/CACHE` for those who ask for HTML: Nix never does.
//! Who may see what is decided as for the API ([`crate::usage::viewer`]); a browser keeps its token in a cookie that no script
//! can read, that no other site's request carries, and that counts for reading alone.

mod caches;
mod charts;
mod debug_info;
mod groups;
mod hours;
mod layout;
mod overview;
mod path;
mod session;
mod state;
mod table;

use std::sync::Arc;

use bytes::Bytes;
use firn_index::CacheName;
use firn_nix::StoreHash;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY};
use http::header::{COOKIE, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use maud::{Markup, html};

use self::layout::Shell;
use super::body::Body;
use super::error::{After, Problem};
use super::query::Query;
use super::{host, work};
use crate::app::App;
use crate::caches::Cache;
use crate::usage::viewer::Viewer;

/// One file for all pages.
const STYLE: &str = include_str!("pages/style.css");

/// Nothing is loaded but the style, nothing runs, nothing frames us, forms go nowhere else.
const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self' data:; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    Style,
    Overview,
    Caches,
    Cache(CacheName),
    Builders,
    Packages,
    Path(CacheName, StoreHash),
    Search,
    State,
    Conflicts,
    Login,
    Logout,
    Nothing,
}

/// Finds out which page a path names, if it is one of these.
pub(super) fn route(path: &str) -> Option<Page> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    if segments.next() != Some("-") {
        return None;
    }
    let rest: Vec<&str> = segments.take(4).collect();
    let page = match rest.as_slice() {
        ["style.css"] => Some(Page::Style),
        [] | ["overview"] => Some(Page::Overview),
        ["caches"] => Some(Page::Caches),
        ["caches", name] => name.parse().ok().map(Page::Cache),
        ["builders"] => Some(Page::Builders),
        ["packages"] => Some(Page::Packages),
        ["paths", name, hash] => name.parse().ok().zip(hash.parse().ok()).map(|(cache, hash)| Page::Path(cache, hash)),
        ["search"] => Some(Page::Search),
        ["state"] => Some(Page::State),
        ["conflicts"] => Some(Page::Conflicts),
        ["login"] => Some(Page::Login),
        ["logout"] => Some(Page::Logout),
        _ => None,
    };
    Some(page.unwrap_or(Page::Nothing))
}

/// Says whether a client asks for HTML by name: browsers do, Nix and curl don't.
pub(super) fn wants_html(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT).iter().any(|value| value.to_str().is_ok_and(|value| value.contains("text/html")))
}

/// What a page is made of.
struct Call {
    app: Arc<App>,
    viewer: Viewer,
    query: Query,
    /// How clients reach the server.
    base: String,
}

/// A page, or why there is none.
enum Answer {
    Page(StatusCode, Markup),
    /// The viewer must log in to see it.
    Private,
    Missing(&'static str),
}

type Made = Result<Answer, Problem>;

impl Call {
    fn shell(&self, title: &str, page: &'static str, content: Markup) -> Answer {
        let shell = Shell { title, page, viewer: &self.viewer, sees_all: self.viewer.sees_all(&self.app) };
        Answer::Page(StatusCode::OK, shell.around(&content))
    }

    fn index(&self, error: firn_index::Error) -> Problem {
        super::failed(&self.app, error.into(), After::Headers)
    }

    fn engine(&self, error: firn_engine::Error) -> Problem {
        super::failed(&self.app, error, After::Headers)
    }

    /// Returns a cache if the viewer may look into it.
    fn cache(&self, name: &CacheName) -> Option<Arc<Cache>> {
        self.app.caches.get(name).filter(|cache| self.viewer.may_pull(cache))
    }
}

/// Answers a request under `/-/`.
pub(super) async fn answer<B>(app: &Arc<App>, page: Page, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::error::Error + Send + Sync,
{
    let is_form = matches!(page, Page::Login | Page::Logout);
    let method = request.method().clone();
    if method == Method::POST && is_form {
        return session::post(app, &page, request).await;
    }
    if !matches!(method, Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "This can't be done here.\n");
        let allow = if is_form { "GET, HEAD, POST" } else { "GET, HEAD" };
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        return response;
    }
    if page == Page::Style {
        let mut response = Response::new(Body::full(STYLE));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        return response;
    }
    let host = host(request.uri(), request.headers());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    make(app, page, request.headers(), host, query).await
}

/// Answers a request for HTML at `/` or `/CACHE`.
pub(super) async fn home(
    app: &Arc<App>,
    cache: Option<CacheName>,
    headers: &HeaderMap,
    host: Option<&str>,
) -> Response<Body> {
    let page = cache.map_or(Page::Overview, Page::Cache);
    let mut response = make(app, page, headers, host, Query::default()).await;
    // The same URL is text for others.
    response.headers_mut().insert(VARY, HeaderValue::from_static("accept, cookie"));
    response
}

async fn make(app: &Arc<App>, page: Page, headers: &HeaderMap, host: Option<&str>, query: Query) -> Response<Body> {
    // A cookie that counts no more must not lock anybody out of what is public.
    let (viewer, is_stale) = match Viewer::of(app, headers, true) {
        Ok(viewer) => (viewer, false),
        Err(_) => (Viewer::default(), headers.contains_key(COOKIE)),
    };
    let call = Call { app: Arc::clone(app), viewer, query, base: super::home::base(app, host) };
    let made = work(app, After::Headers, move || {
        let answer = of_page(&call, &page)?;
        Ok((call.viewer.clone(), answer))
    })
    .await;
    let mut response = match made {
        Ok((_, Answer::Page(status, markup))) => page_of(status, markup),
        Ok((viewer, Answer::Private)) => {
            let status = StatusCode::FORBIDDEN;
            page_of(status, notice(&viewer, "Not for everybody", &session::private(&viewer)))
        }
        Ok((viewer, Answer::Missing(what))) => {
            let text = html! { p { (what) " is not here." } };
            page_of(StatusCode::NOT_FOUND, notice(&viewer, "Not found", &text))
        }
        Err(problem) => {
            let text = html! { p { "The server could not make this page: " (problem.to_string()) "." } };
            page_of(problem.status(), notice(&Viewer::default(), "Something went wrong", &text))
        }
    };
    if is_stale {
        session::forget(response.headers_mut());
    }
    response
}

fn of_page(call: &Call, page: &Page) -> Made {
    match page {
        Page::Overview => overview::page(call),
        Page::Caches => caches::list(call),
        Page::Cache(name) => caches::one(call, name),
        Page::Builders => groups::builders(call),
        Page::Packages => groups::packages(call),
        Page::Path(cache, hash) => path::page(call, cache, hash),
        Page::Search => path::search(call),
        Page::State => state::page(call),
        Page::Conflicts => overview::conflicts(call),
        Page::Login | Page::Logout => Ok(session::form(call)),
        Page::Style | Page::Nothing => Ok(Answer::Missing("This page")),
    }
}

fn notice(viewer: &Viewer, title: &str, content: &Markup) -> Markup {
    let content = html! { h1 { (title) } (content) };
    Shell { title, page: "", viewer, sees_all: false }.around(&content)
}

fn page_of(status: StatusCode, markup: Markup) -> Response<Body> {
    let mut response = Response::new(Body::full(markup.into_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::full(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_stand_where_no_cache_can() {
        let hash = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
        let cache: CacheName = "main".parse().unwrap();
        for (path, page) in [
            ("/-/", Page::Overview),
            ("/-/caches", Page::Caches),
            ("//-//caches/main", Page::Cache(cache.clone())),
            (&format!("/-/paths/main/{hash}"), Page::Path(cache, hash.parse().unwrap())),
            ("/-/style.css", Page::Style),
            ("/-/nothing", Page::Nothing),
            ("/-/paths/main/x", Page::Nothing),
        ] {
            assert_eq!(route(path), Some(page), "{path}");
        }
        for path in ["/", "/main", "/main/-/caches", "/api/v1/usage", "/nix-cache-info", ""] {
            assert_eq!(route(path), None, "{path}");
        }
    }

    #[test]
    fn only_browsers_ask_for_html() {
        let headers = |value: &'static str| HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static(value))]);
        assert!(wants_html(&headers("text/html,application/xhtml+xml,*/*;q=0.8")));
        for other in ["*/*", "application/json", ""] {
            assert!(!wants_html(&headers(other)), "{other}");
        }
        assert!(!wants_html(&HeaderMap::new()));
    }
}
