//! What a request's path names. Pure: no look-up, no allocation beyond the names, any bytes in.
//!
//! Segments are split at raw slashes and percent-decoded afterwards, one by one, so that `%2F` never makes a new
//! segment; empty ones (`//`) are dropped, and `.` and `..` are never resolved: nothing is called so.

use std::borrow::Cow;
use std::str::FromStr;

use firn_api::{Endpoint, ROOT_CACHE};
use firn_index::CacheName;
use firn_nix::{Sha256, StoreHash, StorePath};
use percent_encoding::percent_decode_str;

/// The longest file name under `nar/`.
const MAX_NAR_NAME_LEN: usize = 200;
/// The longest output name of a realisation; Nix's limit for a store path's name.
const MAX_OUTPUT_LEN: usize = firn_nix::MAX_NAME_LEN;

/// What a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// Something of a cache: the named one, or the one that stands at the root of the request's host.
    Cache {
        /// The name in the path, if there is one.
        cache: Option<CacheName>,
        /// What of it.
        resource: Resource,
    },
    /// Nothing that exists on any server.
    Nowhere,
}

/// What a path of the push API names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Api {
    /// What the server can do.
    Capabilities,
    /// Something of a cache: the named one, or the one that stands at the root of the request's host.
    Cache {
        /// The name in the path, if there is one.
        cache: Option<CacheName>,
        /// What of it.
        endpoint: Endpoint,
    },
    /// Nothing in any version that this server speaks.
    Nothing,
}

/// Something of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// The page for people.
    Home,
    /// `nix-cache-info`.
    CacheInfo,
    /// `<hash>.narinfo`.
    NarInfo(StoreHash),
    /// `nar/<file>`.
    Nar(NarName),
    /// `<hash>.ls`.
    Listing(StoreHash),
    /// `log/<hash>[-name]`: the name varies between versions of Nix, see `docs`; only the hash counts.
    Log(StoreHash),
    /// `realisations/sha256:HEX!OUTPUT.doi`, without `.doi`.
    Realisation(String),
    /// `build-trace-v2/DRVNAME/OUTPUT.doi`, without `.doi`.
    BuildTrace(String),
    /// `debuginfo/<40 hex digits>[.debug]`: the digits in lower case.
    DebugInfo(String),
    /// `serve/<hash>[-name]/<path>`.
    File {
        /// The store path's hash.
        hash: StoreHash,
        /// Names below it, decoded.
        path: Vec<Vec<u8>>,
    },
    /// Nothing that a cache has.
    Nothing,
}

/// What may be done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// GET and HEAD.
    ReadOnly,
    /// GET, HEAD and PUT.
    ReadWrite,
}

impl Access {
    /// Returns the value of an `Allow` header.
    pub fn allow(self) -> &'static str {
        match self {
            Self::ReadOnly => "GET, HEAD",
            Self::ReadWrite => "GET, HEAD, PUT",
        }
    }
}

impl Resource {
    /// Returns which methods the resource has; the same whether it exists or not.
    pub fn access(&self) -> Access {
        match self {
            Self::Home | Self::File { .. } | Self::Nothing => Access::ReadOnly,
            Self::CacheInfo
            | Self::NarInfo(_)
            | Self::Nar(_)
            | Self::Listing(_)
            | Self::Log(_)
            | Self::Realisation(_)
            | Self::BuildTrace(_)
            | Self::DebugInfo(_) => Access::ReadWrite,
        }
    }
}

/// A file name under `nar/`: `<stem>.nar`, or `<stem>.nar.<extension>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarName {
    file: String,
    hash: Option<Sha256>,
    extension: usize,
}

impl NarName {
    /// Returns the whole name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Returns the SHA-256 that the stem spells in 52 characters of nix-base32, if it does.
    pub fn hash(&self) -> Option<Sha256> {
        self.hash
    }

    /// Returns what follows `.nar.`, or nothing.
    pub fn extension(&self) -> &str {
        self.file.get(self.extension..).unwrap_or_default()
    }
}

impl FromStr for NarName {
    type Err = ();

    fn from_str(file: &str) -> Result<Self, ()> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"+-._=".contains(&b);
        if file.len() > MAX_NAR_NAME_LEN || file.starts_with('.') || !file.bytes().all(plain) {
            return Err(());
        }
        let (stem, rest) = file.split_once(".nar").ok_or(())?;
        let extension = match rest {
            "" => file.len(),
            _ => file.len() - rest.strip_prefix('.').filter(|extension| !extension.is_empty()).ok_or(())?.len(),
        };
        let hash = Some(stem).filter(|stem| stem.len() == 52).and_then(|stem| stem.parse().ok());
        Ok(Self { file: file.to_owned(), hash, extension })
    }
}

/// Finds out what a request's path names. `path` is as it stood in the request line, without its query.
///
/// The query is not looked at: Nix 2.8 and 2.26 send the `?` of a derivation's name as it is, and all that follows
/// in `log/<hash>-a?b.drv` is a name that does not count.
pub fn parse(path: &str) -> Route {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty()).peekable();
    let Some(&first) = segments.peek() else {
        return Route::Cache { cache: None, resource: Resource::Home };
    };
    let Ok(first) = percent_decode_str(first).decode_utf8() else { return Route::Nowhere };
    let cache = if begins_resource(&first) {
        None
    } else {
        let Ok(cache) = first.parse() else { return Route::Nowhere };
        segments.next();
        Some(cache)
    };
    Route::Cache { cache, resource: resource(segments) }
}

/// Finds out what a path of the push API names; `None` for any other path. `target` is as it stood in the request line, with its
/// query.
pub fn parse_api(target: &str) -> Option<Api> {
    let path = target.split('?').next().unwrap_or_default();
    if path.split('/').find(|segment| !segment.is_empty()) != Some("api") {
        return None;
    }
    Some(match Endpoint::parse(target) {
        None => Api::Nothing,
        Some((_, Endpoint::Capabilities)) => Api::Capabilities,
        Some((ROOT_CACHE, endpoint)) => Api::Cache { cache: None, endpoint },
        Some((name, endpoint)) => match name.parse() {
            Ok(cache) => Api::Cache { cache: Some(cache), endpoint },
            Err(_) => Api::Nothing,
        },
    })
}

/// Says if a first segment is a cache's resource rather than the name of a cache.
fn begins_resource(segment: &str) -> bool {
    const FOLDERS: [&str; 7] = ["nix-cache-info", "nar", "log", "realisations", "build-trace-v2", "debuginfo", "serve"];
    FOLDERS.contains(&segment) || segment.ends_with(".narinfo") || listing(segment).is_some()
}

fn listing(segment: &str) -> Option<StoreHash> {
    segment.strip_suffix(".ls")?.parse().ok()
}

fn resource<'a>(segments: impl Iterator<Item = &'a str>) -> Resource {
    let mut segments = segments.map(|segment| Cow::from(percent_decode_str(segment)));
    let Some(first) = segments.next() else { return Resource::Home };
    if first.as_ref() == b"serve" {
        return file(segments).unwrap_or(Resource::Nothing);
    }
    // No name below has more than three segments; one more tells that there are too many.
    let names: Option<Vec<String>> = segments.take(3).map(|name| String::from_utf8(name.into_owned()).ok()).collect();
    let (Ok(first), Some(names)) = (std::str::from_utf8(&first), names) else { return Resource::Nothing };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    known(first, &names).unwrap_or(Resource::Nothing)
}

/// Returns what a name in a cache, with those below it, stands for; all decoded.
pub(crate) fn known(first: &str, names: &[&str]) -> Option<Resource> {
    match (first, names) {
        ("nix-cache-info", []) => Some(Resource::CacheInfo),
        ("nar", [name]) => name.parse().ok().map(Resource::Nar),
        ("log", [name]) => hash_of_name(name).map(Resource::Log),
        ("realisations", [name]) => realisation(name).map(Resource::Realisation),
        ("build-trace-v2", [drv, output]) => build_trace(drv, output).map(Resource::BuildTrace),
        ("debuginfo", [name]) => debug_info(name).map(Resource::DebugInfo),
        (name, []) => match name.strip_suffix(".narinfo") {
            Some(hash) => hash.parse().ok().map(Resource::NarInfo),
            None => listing(name).map(Resource::Listing),
        },
        _ => None,
    }
}

/// Reads the hash of `<hash>` or `<hash>-<anything>`.
fn hash_of_name(name: &str) -> Option<StoreHash> {
    let (hash, rest) = name.as_bytes().split_first_chunk()?;
    (rest.is_empty() || rest.starts_with(b"-")).then(|| StoreHash::from_ascii(hash)).flatten()
}

fn file<'a>(mut segments: impl Iterator<Item = Cow<'a, [u8]>>) -> Option<Resource> {
    let base_name = segments.next()?;
    let hash = hash_of_name(std::str::from_utf8(&base_name).ok()?)?;
    let path: Vec<Vec<u8>> = segments.map(Cow::into_owned).collect();
    let ordinary = |name: &Vec<u8>| name != b"." && name != b".." && !name.iter().any(|&b| b == b'/' || b == 0);
    path.iter().all(ordinary).then_some(Resource::File { hash, path })
}

fn is_output(name: &str) -> bool {
    (1..=MAX_OUTPUT_LEN).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b))
}

fn realisation(name: &str) -> Option<String> {
    let id = name.strip_suffix(".doi")?;
    let (hash, output) = id.strip_prefix("sha256:")?.split_once('!')?;
    let hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (hex && is_output(output)).then(|| id.to_owned())
}

fn build_trace(drv: &str, output: &str) -> Option<String> {
    let output = output.strip_suffix(".doi")?;
    let drv = drv.parse::<StorePath>().ok().filter(|drv| drv.name().ends_with(".drv"))?;
    is_output(output).then(|| format!("{drv}/{output}"))
}

fn debug_info(name: &str) -> Option<String> {
    let digits = name.strip_suffix(".debug").unwrap_or(name);
    let hex = digits.len() == 40 && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hex.then(|| digits.to_ascii_lowercase())
}

/// Feeds arbitrary bytes to the parser and checks what must hold of any answer.
#[doc(hidden)]
pub fn fuzz_route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let path = text.split('?').next().unwrap_or_default();
    if let Some(api) = parse_api(text) {
        // No path is both.
        assert_eq!(parse(path), Route::Nowhere);
        assert_eq!(parse_api(&text.replace('/', "//")), Some(api));
    }
    let Route::Cache { cache, resource } = parse(path) else { return };
    match &resource {
        Resource::Nar(name) => {
            assert!(!name.file().contains('/') && !name.file().starts_with('.'), "{name:?}");
            assert!(name.extension().is_empty() || name.file().ends_with(&format!(".nar.{}", name.extension())));
        }
        Resource::File { path, .. } => {
            assert!(path.iter().all(|name| name != b".." && !name.contains(&b'/') && !name.contains(&0)));
        }
        Resource::Realisation(name) | Resource::BuildTrace(name) | Resource::DebugInfo(name) => {
            assert!(name.len() <= 512, "{name}");
        }
        Resource::Home
        | Resource::CacheInfo
        | Resource::NarInfo(_)
        | Resource::Listing(_)
        | Resource::Log(_)
        | Resource::Nothing => {}
    }
    // Doubled slashes change nothing, and a cache's name in front only names the cache.
    assert_eq!(parse(&path.replace('/', "//")), Route::Cache { cache: cache.clone(), resource: resource.clone() });
    if cache.is_none() {
        let named = parse(&format!("/c/{path}"));
        assert_eq!(named, Route::Cache { cache: "c".parse().ok(), resource });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
    const FILE_HASH: &str = "0amqqdkkjy9s9a5qfd62lczdhby2pn4y3xf5z0cg8ppm911qq5wx";

    fn at(path: &str) -> Resource {
        match parse(path) {
            Route::Cache { resource, .. } => resource,
            Route::Nowhere => panic!("{path} is nowhere"),
        }
    }

    fn hash() -> StoreHash {
        HASH.parse().unwrap()
    }

    #[test]
    fn finds_nothing_where_nothing_is() {
        let hex = "a".repeat(64);
        for path in [
            "/c/nar".into(),
            "/c/nar/x".into(),
            "/c/nar/..".into(),
            "/c/nar/.nar".into(),
            "/c/nar/..%2f..%2fx.nar".into(),
            "/c/nar/x.nar.".into(),
            "/c/nar/x.narx".into(),
            format!("/c/nar/{}.nar", "x".repeat(300)),
            "/c/nar/a/b.nar".into(),
            "/c/x.narinfo".into(),
            format!("/c/{}.narinfo", HASH.to_uppercase()),
            format!("/c/{HASH}x.narinfo"),
            format!("/c/{HASH}.narinfo/x"),
            format!("/c/{HASH}.lsx"),
            format!("/c/log/{}", &HASH[1..]),
            format!("/c/log/{HASH}x"),
            "/c/realisations/sha256:00!out.doi".into(),
            format!("/c/realisations/sha256:{hex}!out"),
            format!("/c/realisations/sha256:{hex}!a%2fb.doi"),
            format!("/c/realisations/sha256:{}!out.doi", hex.to_uppercase()),
            format!("/c/build-trace-v2/{HASH}-x.drv/.doi"),
            format!("/c/build-trace-v2/{HASH}-x/out.doi"),
            format!("/c/build-trace-v2/..%2f{HASH}-x.drv/out.doi"),
            "/c/debuginfo/zz".into(),
            format!("/c/debuginfo/{}.debug.debug", "a".repeat(40)),
            "/c/serve".into(),
            "/c/serve/../x".into(),
            format!("/c/serve/{HASH}/.."),
            format!("/c/serve/{HASH}/a/%2e%2e/b"),
            format!("/c/serve/{HASH}/a%2f..%2fb"),
            format!("/c/serve/{HASH}/a%00"),
            "/c/../d/nix-cache-info".into(),
            "/c/%ff%fe".into(),
            "/c/foo".into(),
        ] {
            assert_eq!(at(&path), Resource::Nothing, "{path}");
        }
        for path in ["/C/nix-cache-info", "/..", "/%2e%2e/etc/passwd", "/api/v1", "/healthz", "/%ff", "/a b/x", "/-/x"]
        {
            assert_eq!(parse(path), Route::Nowhere, "{path}");
        }
    }

    #[test]
    fn finds_the_push_api() {
        for path in ["/api", "/api/v1", "/api/v2/capabilities", "/api/v1/caches/Main/frames", "/api/v1/caches/api"] {
            assert_eq!(parse_api(path), Some(Api::Nothing), "{path}");
        }
        for path in ["/", "", "/c/api/v1", "/apis", "/%61pi/v1/capabilities", "?/api"] {
            assert_eq!(parse_api(path), None, "{path}");
        }
        assert_eq!(parse_api("//api/v1/capabilities"), Some(Api::Capabilities));
        let frames = |cache| Some(Api::Cache { cache, endpoint: Endpoint::Frames { hints: 0 } });
        assert_eq!(parse_api("/api/v1/caches/_/frames"), frames(None));
        assert_eq!(parse_api("/api/v1/caches/c/frames?x=1"), frames("c".parse().ok()));
    }

    #[test]
    fn finds_what_nix_asks_for() {
        assert_eq!(at("/c/nix-cache-info"), Resource::CacheInfo);
        assert_eq!(at(&format!("/c/{HASH}.narinfo")), Resource::NarInfo(hash()));
        assert_eq!(at(&format!("/c/{HASH}.ls")), Resource::Listing(hash()));
        let hex = "a7".repeat(32);
        for separator in ["!", "%21"] {
            let found = at(&format!("/c/realisations/sha256:{hex}{separator}out.doi"));
            assert_eq!(found, Resource::Realisation(format!("sha256:{hex}!out")));
        }
        let trace = at(&format!("/c/build-trace-v2/{HASH}-x.drv/out.doi"));
        assert_eq!(trace, Resource::BuildTrace(format!("{HASH}-x.drv/out")));
        let id = "0123456789abcdef0123456789abcdef01234567";
        for suffix in ["", ".debug"] {
            assert_eq!(at(&format!("/c/debuginfo/{id}{suffix}")), Resource::DebugInfo(id.into()));
        }
        let path = vec![b"bin".to_vec(), b"a b".to_vec(), vec![0xff]];
        let found = at(&format!("/c/serve/{HASH}-name//bin/a%20b/%ff"));
        assert_eq!(found, Resource::File { hash: hash(), path });
    }

    #[test]
    fn takes_every_spelling_of_a_log() {
        for name in ["-a+b=c.drv", "-a%2Bb%3Dc.drv", "-q", "-q?x.drv", "", "-%ff"] {
            let (path, _query) = name.split_once('?').unwrap_or((name, ""));
            let expected = if name == "-%ff" { Resource::Nothing } else { Resource::Log(hash()) };
            assert_eq!(at(&format!("/c/log/{HASH}{path}")), expected, "{name}");
        }
    }

    #[test]
    fn reads_names_of_nars() {
        for (file, hash, extension) in [
            (format!("{FILE_HASH}.nar"), true, ""),
            (format!("{FILE_HASH}.nar.xz"), true, "xz"),
            ("x.nar.zst".into(), false, "zst"),
            (format!("{}.nar.a.b", FILE_HASH.to_uppercase()), false, "a.b"),
        ] {
            let Resource::Nar(name) = at(&format!("/c/nar/{file}")) else { panic!("{file}") };
            assert_eq!((name.file(), name.hash().is_some(), name.extension()), (&*file, hash, extension));
        }
    }

    #[test]
    fn tells_caches_from_what_stands_at_the_root() {
        let root = |path: &str| match parse(path) {
            Route::Cache { cache, .. } => cache.map(String::from),
            Route::Nowhere => panic!("{path}"),
        };
        for path in ["/", "//", "/nix-cache-info", "/nar/x.nar", "/log/x", &format!("/{HASH}.ls"), "/x.narinfo"] {
            assert_eq!(root(path), None, "{path}");
        }
        for path in ["/c", "/c/", "//c//nix-cache-info", "/%63/nar/x.nar", "/c/c"] {
            assert_eq!(root(path), Some("c".into()), "{path}");
        }
        assert_eq!(at("/c"), Resource::Home);
        assert_eq!(at("/c/"), Resource::Home);
    }

    #[test]
    fn holds_for_odd_paths() {
        for path in [
            "/api/v1//caches/_/frames?/api",
            "",
            "?",
            "/%",
            "/%2",
            "/%zz/x",
            "/\u{e9}",
            "/c/serve/",
            "/c//..//",
            "/nar//",
            "/x.narinfo/..",
        ] {
            fuzz_route(path.as_bytes());
        }
    }

    proptest::proptest! {
        #[test]
        fn holds_for_any_text(text in ".{0,80}") {
            fuzz_route(text.as_bytes());
        }

        #[test]
        fn holds_for_any_segments(
            segments in proptest::collection::vec(
                proptest::sample::select(vec![
                    "", "c", "nar", "log", "serve", "realisations", "build-trace-v2", "debuginfo", "nix-cache-info", "..", ".", "%2e%2e",
                    "%2f", "%00", "%ff", HASH, "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-x.drv", "0fanvwfh6772nmhmbw78d8jmj0dr6lpc.narinfo",
                    "0fanvwfh6772nmhmbw78d8jmj0dr6lpc.ls", "x.nar.xz", "out.doi", "0123456789abcdef0123456789abcdef01234567.debug",
                ]),
                0..6,
            )
        ) {
            fuzz_route(segments.join("/").as_bytes());
        }
    }
}
