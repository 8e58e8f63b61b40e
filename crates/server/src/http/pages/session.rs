//! Logging in: a form takes a token, a cookie keeps it in the browser, nothing is kept here.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{LOCATION, ORIGIN, SET_COOKIE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use maud::{Markup, html};

use super::super::body::Body;
use super::super::query::Query;
use super::super::receive::Incoming;
use super::layout::Shell;
use super::{Answer, Call, Page, page_of, plain};
use crate::app::App;
use crate::auth::COOKIE_NAME;
use crate::usage::viewer::Viewer;

/// The longest form that is read.
const MAX_FORM_BYTES: u64 = 4096;

/// How long a browser keeps a token.
const KEPT_SECONDS: u32 = 12 * 3600;

/// Returns the form for a token.
pub(super) fn form(call: &Call) -> Answer {
    let next = call.query.get("next").unwrap_or_default();
    call.shell("Log in", "login", html! { h1 { "Log in" } (fields(next, "")) })
}

fn fields(next: &str, problem: &str) -> Markup {
    html! {
        @if !problem.is_empty() { p class="alarm" role="alert" { (problem) } }
        form action="/-/login" method="post" class="login" {
            label for="token" { "Token" }
            // Password managers keep a token under a name.
            input class="hidden" name="username" type="text" value="firn" autocomplete="username" tabindex="-1" aria-hidden="true" readonly;
            input id="token" name="token" type="password" autocomplete="current-password" required maxlength="200";
            input name="next" type="hidden" value=(next);
            button type="submit" { "Log in" }
        }
        p class="quiet" {
            "A token of this server (" code { "firnd token create" } "). It stays in a cookie of this browser for 12 hours, which counts "
            "for looking alone. What things cost is for tokens with the verb " code { "usage" } "."
        }
    }
}

/// Returns what those see who may not see a page.
pub(super) fn private(viewer: &Viewer) -> Markup {
    html! {
        @if viewer.is_known() { p { "Your token does not permit to see this, or it is not here." } }
        @else { p { "There is nothing here for everybody. With a token there may be." } (fields("", "")) }
    }
}

/// Takes a form.
pub(super) async fn post<B>(app: &Arc<App>, page: &Page, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::error::Error + Send + Sync,
{
    let (head, body) = request.into_parts();
    let host = super::host(&head.uri, &head.headers);
    if !is_own(&head.headers, host) {
        return plain(StatusCode::FORBIDDEN, "This form was sent by another site.\n");
    }
    if *page == Page::Logout {
        let mut response = redirect("/-/overview");
        forget(response.headers_mut());
        return response;
    }
    let mut body = Incoming::new(body, &head.headers, app.config.server.body_timeout.0);
    let Ok(body) = body.collect(MAX_FORM_BYTES).await else {
        return plain(StatusCode::BAD_REQUEST, "The form could not be read.\n");
    };
    let form = Query::parse(&String::from_utf8_lossy(&body));
    let (token, next) = (form.get("token").unwrap_or_default().trim(), form.get("next").unwrap_or_default());
    match app.tokens.check_text(token, app.now()) {
        Ok(_) => {
            let mut response = redirect(if is_local(next) { next } else { "/-/overview" });
            let is_secure = super::super::home::base(app, host).starts_with("https://");
            set_cookie(response.headers_mut(), token, KEPT_SECONDS, is_secure);
            response
        }
        Err(denial) => {
            let content = html! { h1 { "Log in" } (fields(next, &format!("That did not work: {denial}."))) };
            let shell = Shell { title: "Log in", page: "login", viewer: &Viewer::default(), sees_all: false };
            page_of(StatusCode::FORBIDDEN, shell.around(&content))
        }
    }
}

/// Says whether a form was sent by a page of this server, as far as the browser tells.
fn is_own(headers: &HeaderMap, host: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let by_fetch = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let origin = text(ORIGIN.as_str()).map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
    by_fetch && origin.is_none_or(|origin| Some(origin) == host)
}

/// Says whether a redirection stays on this server.
fn is_local(next: &str) -> bool {
    next.starts_with('/')
        && !next.starts_with("//")
        && !next.contains('\\')
        && next.bytes().all(|b| b.is_ascii_graphic())
}

fn redirect(to: &str) -> Response<Body> {
    let mut response = plain(StatusCode::SEE_OTHER, "See there.\n");
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/-/overview"));
    response.headers_mut().insert(LOCATION, to);
    response
}

fn set_cookie(headers: &mut HeaderMap, token: &str, seconds: u32, is_secure: bool) {
    let secure = if is_secure { "; Secure" } else { "" };
    let value = format!("{COOKIE_NAME}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.append(SET_COOKIE, value);
    }
}

/// Has the browser forget its token.
pub(super) fn forget(headers: &mut HeaderMap) {
    set_cookie(headers, "", 0, false);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_stay_here() {
        for good in ["/", "/-/caches/main", "/main?x=1"] {
            assert!(is_local(good), "{good}");
        }
        for bad in ["", "//evil.example", "https://evil.example", "/\\evil.example", "/a b", "/a\r\nx: y", "x"] {
            assert!(!is_local(bad), "{bad:?}");
        }
    }

    #[test]
    fn forms_of_other_sites_are_told_apart() {
        let headers = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, HeaderValue::from_static(value));
            }
            headers
        };
        let host = Some("cache.example:8080");
        for good in [&[][..], &[("origin", "http://cache.example:8080")], &[("sec-fetch-site", "same-origin")]] {
            assert!(is_own(&headers(good), host), "{good:?}");
        }
        for bad in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site"), ("origin", "http://cache.example:8080")],
        ] {
            assert!(!is_own(&headers(bad), host), "{bad:?}");
        }
    }
}
