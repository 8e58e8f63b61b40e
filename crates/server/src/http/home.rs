//! Pages for people, as plain text, and `nix-cache-info`.

use std::fmt::Write as _;

use firn_nix::CacheInfo;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};

use super::body::Body;
use super::{Caching, ok};
use crate::app::App;
use crate::caches::Cache;

const TEXT: &str = "text/plain; charset=utf-8";
/// How long `nix-cache-info` may be kept on the way; clients keep it for a week.
const MAX_AGE_SECONDS: u32 = 300;

/// Answers at the root of a server that has no cache there.
pub(super) fn server(app: &App, host: Option<&str>) -> Response<Body> {
    let text = format!(
        "This is firn, a binary cache for Nix.\n\nIts caches stand at {}/NAME; each shows how to use it.\n",
        base(app, host)
    );
    let mut response = Response::new(Body::full(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// Tells how to use a cache.
pub(super) fn cache(app: &App, cache: &Cache, host: Option<&str>) -> Response<Body> {
    let url = format!("{}/{}", base(app, host), cache.name);
    let keys: Vec<String> = cache.public_keys().iter().map(ToString::to_string).collect();
    let keys = keys.join(" ");
    let mut text =
        format!("This is '{}', a binary cache for Nix, served by firn.\n\nTo use it, add to nix.conf:\n\n", cache.name);
    let _ = writeln!(text, "    extra-substituters = {url}");
    if !keys.is_empty() {
        let _ = writeln!(text, "    extra-trusted-public-keys = {keys}");
    }
    let machine = machine(&url);
    if !cache.row.public {
        let _ = write!(
            text,
            "\nIt is private. Put a token into the netrc file of the Nix daemon:\n\n    machine {machine} login any password TOKEN\n"
        );
    }
    let _ = write!(
        text,
        "\nTo upload, put a token that may push into a netrc file of yours:\n\n    machine {machine} login any password TOKEN\n\n\
         and run:\n\n    nix copy --netrc-file FILE --to '{url}?compression=zstd' PATH\n"
    );
    ok(Body::full(text), TEXT, Caching::For(0).of(cache))
}

/// Answers `nix-cache-info`.
pub(super) fn cache_info(cache: &Cache) -> Response<Body> {
    let info =
        CacheInfo { store_dir: Some(cache.row.store_dir.clone()), want_mass_query: true, priority: cache.row.priority };
    ok(Body::full(info.to_string()), "text/x-nix-cache-info", Caching::For(MAX_AGE_SECONDS).of(cache))
}

/// Returns how clients reach the server: as configured, or as this client says that it does.
pub(super) fn base(app: &App, host: Option<&str>) -> String {
    let server = &app.config.server;
    if let Some(url) = &server.public_url {
        return url.clone();
    }
    let scheme = if server.tls_cert.is_some() { "https" } else { "http" };
    format!("{scheme}://{}", host.unwrap_or("HOST"))
}

/// Returns the host name in a URL, without its port: netrc files know no ports.
pub(super) fn machine(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_the_machine_for_netrc() {
        for (url, machine) in [
            ("http://cache.example:8080/main", "cache.example"),
            ("https://cache.example/a/b", "cache.example"),
            ("http://[::1]:80/x", "[::1]"),
            ("http://[::1]/x", "[::1]"),
        ] {
            assert_eq!(super::machine(url), machine);
        }
    }
}
