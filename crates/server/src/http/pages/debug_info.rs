//! Debug information that a path holds, by the build ids under which debuggers ask for it.

use firn_index::{CacheName, DocumentKey, DocumentKind};
use firn_nix::StoreHash;
use firn_nix::nar::{Listing, Node};
use maud::{Markup, html};

use super::layout::bytes;
use super::table::{Column, cell, table};
use super::{Call, Problem};

/// Build ids that a page lists.
const BUILD_IDS: usize = 20;

/// Where a path keeps debug information: `lib/debug/.build-id/XX/REST.debug`.
const FOLDER: [&[u8]; 3] = [b"lib", b"debug", b".build-id"];

/// A file with debug information.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    /// The build id, 40 hex digits.
    id: String,
    /// The file's name in its folder.
    file: String,
    size: u64,
}

/// Writes which build ids a path has debug information of; nothing if it has none.
pub(super) fn section(call: &Call, cache: &CacheName, hash: &StoreHash, listing: &Listing) -> Result<Markup, Problem> {
    let found = find(listing);
    let mut rows = Vec::new();
    for one in found.iter().take(BUILD_IDS) {
        let key = DocumentKey { kind: DocumentKind::DebugInfo, name: one.id.clone() };
        let is_indexed = call.app.engine.meta().document(cache, &key).map_err(|error| call.index(error))?.is_some();
        let file = format!("/{cache}/serve/{hash}/lib/debug/.build-id/{}/{}", &one.id[..2], one.file);
        rows.push(vec![
            html! { code { (one.id) } },
            cell(bytes(one.size)),
            html! {
                a href=(file) download { "file" } " · "
                @if is_indexed { a href=(format!("/{cache}/debuginfo/{}", one.id)) { "index" } } @else { "not indexed" }
            },
        ]);
    }
    let columns = [Column::text("Build id"), Column::number("Size"), Column::text("Get it")];
    Ok(html! {
        @if !rows.is_empty() {
            section {
                h2 { "Debug information" }
                (table("Debug information by build id", &columns, rows))
                @if found.len() > BUILD_IDS { p class="quiet" { "The first " (BUILD_IDS) ": the files below have them all." } }
                p class="quiet" { "Debuggers find what is indexed; Nix uploads the index if the cache's URL ends in " code { "?index-debug-info=true" } "." }
            }
        }
    })
}

/// Returns the files with debug information, one more than a page lists at most.
fn find(listing: &Listing) -> Vec<Found> {
    let Some(Node::Directory(folders)) = listing.find(FOLDER) else { return Vec::new() };
    let files = folders.entries().filter_map(|(name, node)| match node {
        Node::Directory(folder) => Some((name, folder)),
        Node::Regular { .. } | Node::Symlink { .. } => None,
    });
    let files = files.flat_map(|(folder, files)| files.entries().map(move |(name, node)| (folder, name, node)));
    let found = files.filter_map(|(folder, name, node)| {
        let Node::Regular { size, .. } = node else { return None };
        let (folder, file) = (std::str::from_utf8(folder).ok()?, std::str::from_utf8(name).ok()?);
        let id = format!("{folder}{}", file.strip_suffix(".debug")?);
        let is_id =
            folder.len() == 2 && id.len() == 40 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Found { id, file: file.to_owned(), size })
    });
    found.take(BUILD_IDS + 1).collect()
}

#[cfg(test)]
mod tests {
    use firn_nix::nar::{Decoder, ListingBuilder};
    use firn_testkit::nar::Node as Tree;

    use super::*;

    fn listing(tree: &Tree) -> Listing {
        let (mut decoder, mut listing) = (Decoder::new(), ListingBuilder::new());
        decoder.push(&tree.encode(), &mut |event| listing.event(event)).unwrap();
        decoder.finish().unwrap();
        listing.finish().unwrap()
    }

    #[test]
    fn build_ids_are_found_where_nix_puts_them() {
        let rest = "0123456789abcdef0123456789abcdef012345";
        let below = |files: Vec<(String, Tree)>| {
            let ids =
                Tree::directory([("ab", Tree::directory(files)), ("abc", Tree::directory([("x", Tree::file("x"))]))]);
            Tree::directory([("lib", Tree::directory([("debug", Tree::directory([(".build-id", ids)]))]))])
        };
        let files = vec![
            (format!("{rest}.debug"), Tree::file("four")),
            (format!("{rest}.executable"), Tree::file("x")),
            ("short.debug".to_owned(), Tree::file("x")),
            (format!("{}.debug", rest.to_uppercase()), Tree::file("x")),
        ];
        let expected = Found { id: format!("ab{rest}"), file: format!("{rest}.debug"), size: 4 };
        assert_eq!(find(&listing(&below(files))), [expected]);
        assert!(find(&listing(&Tree::file("x"))).is_empty());
        let many = (0..BUILD_IDS + 5).map(|n| (format!("{n:038x}.debug"), Tree::file("x"))).collect();
        assert_eq!(find(&listing(&below(many))).len(), BUILD_IDS + 1);
    }
}
