//! Files inside a path: `.ls`, and `serve/<hash>/<path>`.
//!
//! What is served here was built by anybody who may push, and is opened in browsers: nothing of it may run with this
//! server's origin.

use std::collections::VecDeque;
use std::sync::Arc;

use firn_nix::StoreHash;
use firn_nix::nar::{Listing, ListingJson, Node};
use http::Response;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
    X_CONTENT_TYPE_OPTIONS,
};

use super::body::Body;
use super::error::{After, Problem};
use super::listed::{self, Listed};
use super::{Caching, Want, download_turn, nar, ok, work};
use crate::app::App;
use crate::caches::Cache;

/// How long an answer may be kept on the way to the client.
const MAX_AGE_SECONDS: u32 = 300;
/// How many symlinks are followed; Linux's own limit.
const MAX_SYMLINKS: usize = 40;
/// How many names one request may step through, those of symlinks included.
const MAX_STEPS: usize = 4096;

/// Forbids browsers to guess types, run scripts, load anything or show the answer in another page.
pub(super) fn harden(headers: &mut HeaderMap) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
}

/// Answers GET and HEAD of `.ls`.
pub(super) async fn listing(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    hash: StoreHash,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let turn = download_turn(app, want).await?;
    let Listed { listing, room, .. } = listed::find(app, &cache.name, hash).await?;
    let body = work(app, After::Headers, move || Ok(listed::body(ListingJson::whole(listing), room))).await?;
    Ok(ok(body.holding(turn), "application/json", Caching::For(MAX_AGE_SECONDS).of(cache)))
}

/// Answers GET and HEAD of a file or directory.
pub(super) async fn get(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    hash: StoreHash,
    path: Vec<Vec<u8>>,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let turn = download_turn(app, want).await?;
    let found = listed::find(app, &cache.name, hash).await?;
    let (shared, cache) = (Arc::clone(app), Arc::clone(cache));
    let response = work(app, After::Headers, move || open(&shared, &cache, found, path, want)).await?;
    Ok(response.map(|body| body.holding(turn)))
}

fn open(
    app: &Arc<App>,
    cache: &Cache,
    found: Listed,
    path: Vec<Vec<u8>>,
    want: Want,
) -> Result<Response<Body>, Problem> {
    let Listed { row, nar, listing, room } = found;
    let (content_type, is_attachment) = content_type(path.last().map(Vec::as_slice).unwrap_or_default());
    let home = format!("{}/{}", cache.row.store_dir, row.path);
    let node = walk(&listing, home.as_bytes(), path)?;
    let caching = Caching::For(MAX_AGE_SECONDS).of(cache);
    let mut response = match node {
        Node::Directory(directory) => {
            let json = ListingJson::of_directory(Arc::clone(&listing), &directory);
            ok(listed::body(json, room), "application/json", caching)
        }
        Node::Regular { offset, size, .. } => {
            let end = offset.checked_add(size).ok_or(Problem::NotFound("this file"))?;
            let span = nar::restoring(size);
            let response = span.in_scope(|| nar::identity(app, &nar, offset..end, want))?;
            let mut response = response.map(|body| body.within(span));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, content_type);
            headers.insert(CACHE_CONTROL, caching);
            if is_attachment {
                headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
            }
            response
        }
        // `walk` follows them.
        Node::Symlink { .. } => return Err(Problem::NotFound("this file")),
    };
    harden(response.headers_mut());
    Ok(response)
}

/// Finds the node at the end of `path`, following symlinks as text: into `home`, the path's own absolute name, and never
/// out of it.
fn walk<'a>(listing: &'a Listing, home: &[u8], path: Vec<Vec<u8>>) -> Result<Node<'a>, Problem> {
    let absent = || Problem::NotFound("this file");
    let mut ahead: VecDeque<Vec<u8>> = path.into();
    // The directories from the root to where we are, and the node there.
    let mut above: Vec<Node<'a>> = Vec::new();
    let mut here = listing.root();
    let (mut symlinks, mut steps) = (0, 0);
    loop {
        while let Node::Symlink { target } = here {
            symlinks += 1;
            if symlinks > MAX_SYMLINKS {
                return Err(Problem::NotFound("a file (its symlinks go round and round)"));
            }
            // A target counts from the directory that holds the link; the root has none, so it must be absolute.
            let names = match inside(target, home) {
                Some(names) => {
                    above.clear();
                    here = listing.root();
                    names
                }
                None if target.starts_with(b"/") => return Err(Problem::NotFound("what the symlink points to")),
                None => {
                    here = above.pop().ok_or(Problem::NotFound("what the symlink points to"))?;
                    target
                }
            };
            let names: Vec<_> = names.split(|&b| b == b'/').filter(|name| !name.is_empty()).collect();
            if names.len() > MAX_STEPS {
                return Err(absent());
            }
            for name in names.into_iter().rev() {
                ahead.push_front(name.to_vec());
            }
        }
        let Some(name) = ahead.pop_front() else { return Ok(here) };
        steps += 1;
        if steps > MAX_STEPS {
            return Err(absent());
        }
        let Node::Directory(directory) = here else { return Err(absent()) };
        match name.as_slice() {
            b"." => {}
            b".." => here = above.pop().ok_or(Problem::NotFound("what the symlink points to"))?,
            name => {
                let next = directory.get(name).ok_or_else(absent)?;
                above.push(here);
                here = next;
            }
        }
    }
}

/// Returns what follows `home` in a target that lies in it.
fn inside<'t>(target: &'t [u8], home: &[u8]) -> Option<&'t [u8]> {
    let rest = target.strip_prefix(home)?;
    (rest.is_empty() || rest.starts_with(b"/")).then_some(rest)
}

/// Returns the type to serve a file as, by its name, and whether browsers must save it instead of showing it.
fn content_type(name: &[u8]) -> (HeaderValue, bool) {
    const BINARY: (HeaderValue, bool) = (HeaderValue::from_static("application/octet-stream"), false);
    const PLAIN: (HeaderValue, bool) = (HeaderValue::from_static("text/plain; charset=utf-8"), false);
    let Ok(name) = std::str::from_utf8(name) else { return BINARY };
    let Some(guess) = mime_guess::from_path(name).first() else { return BINARY };
    let essence = guess.essence_str();
    let as_guessed = |is_attachment| HeaderValue::from_str(essence).map_or(BINARY, |essence| (essence, is_attachment));
    match essence {
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" | "application/json" | "application/pdf" => {
            as_guessed(false)
        }
        // What a browser would run scripts of.
        "text/html" | "text/xml" | "application/xml" | "application/xhtml+xml" | "image/svg+xml" => as_guessed(true),
        "application/javascript"
        | "application/toml"
        | "application/x-sh"
        | "application/sql"
        | "application/x-tex" => PLAIN,
        _ if guess.type_() == "text" => PLAIN,
        _ => BINARY,
    }
}

#[cfg(test)]
mod tests {
    use firn_nix::nar::{Decoder, ListingBuilder};
    use firn_testkit::nar::Node as Tree;

    use super::*;

    fn listing(tree: &Tree) -> Listing {
        let (mut decoder, mut builder) = (Decoder::new(), ListingBuilder::new());
        decoder.push(&tree.encode(), &mut |event| builder.event(event)).unwrap();
        builder.finish().unwrap()
    }

    fn link(target: impl AsRef<str>) -> Tree {
        Tree::Symlink { target: target.as_ref().as_bytes().to_vec() }
    }

    fn reach(tree: &Tree, path: &str) -> Option<u64> {
        let listing = listing(tree);
        let path = path.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect();
        match walk(&listing, b"/nix/store/h-n", path).ok()? {
            Node::Regular { size, .. } => Some(size),
            Node::Directory(_) => Some(0),
            Node::Symlink { .. } => panic!("a symlink was not followed"),
        }
    }

    #[test]
    fn ends_on_symlinks_without_end() {
        let chain = |len: usize| {
            let mut entries = vec![("l0".to_owned(), Tree::file("xyz"))];
            entries.extend((1..=len).map(|n| (format!("l{n}"), link(format!("l{}", n - 1)))));
            Tree::directory(entries)
        };
        assert_eq!(reach(&chain(MAX_SYMLINKS), &format!("l{MAX_SYMLINKS}")), Some(3));
        assert_eq!(reach(&chain(MAX_SYMLINKS + 1), &format!("l{}", MAX_SYMLINKS + 1)), None);
        let round = Tree::directory([("a", link("b/a")), ("b", link("."))]);
        assert_eq!(reach(&round, "a"), None);
        let long = Tree::directory([
            ("a", link("./".repeat(MAX_STEPS) + "f")),
            ("b", link("../../b")),
            ("f", Tree::file("x")),
        ]);
        assert_eq!(reach(&long, "a"), None);
        assert_eq!(reach(&long, "b"), None);
    }

    #[test]
    fn stays_inside() {
        let tree = Tree::directory([
            ("above", link("..")),
            (
                "dir",
                Tree::directory([
                    ("file", Tree::file("12")),
                    ("home", link("/nix/store/h-n")),
                    ("up", link(".././dir//file")),
                ]),
            ),
            ("elsewhere", link("/nix/store/h-no/x")),
            ("file", Tree::file("1")),
            ("here", link("/nix/store/h-n/dir/up")),
            ("root", link("/")),
            ("through", link("file/../dir")),
        ]);
        for (path, size) in [
            ("", Some(0)),
            ("dir/up", Some(2)),
            ("here", Some(2)),
            ("dir/home/dir/home/file", Some(1)),
            ("dir/home", Some(0)),
        ] {
            assert_eq!(reach(&tree, path), size, "{path}");
        }
        for path in ["above", "elsewhere", "root", "root/etc", "through", "file/x", "dir/home/above/x"] {
            assert_eq!(reach(&tree, path), None, "{path}");
        }
        assert_eq!(reach(&link("x"), ""), None);
        assert_eq!(reach(&link("/nix/store/h-n"), ""), None);
        assert_eq!(reach(&Tree::file("1234"), ""), Some(4));
    }
}
