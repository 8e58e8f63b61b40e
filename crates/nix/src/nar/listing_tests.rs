//! Limits and lookups of listings; their JSON is held against Nix's own in `tests/real_nix.rs`.

use super::*;

fn regular(size: u64) -> Event<'static> {
    Event::Regular { executable: false, offset: 96, size }
}

fn listing(events: &[Event<'_>]) -> Listing {
    let mut builder = ListingBuilder::new();
    for &event in events {
        builder.event(event);
    }
    builder.finish().unwrap()
}

#[test]
fn refuses_a_tree_that_is_not_whole() {
    assert!(ListingBuilder::new().finish().is_err());
    let mut builder = ListingBuilder::new();
    builder.event(Event::Directory);
    assert!(builder.finish().is_err());
}

#[test]
fn refuses_too_many_entries_and_forgets_them() {
    let mut builder = ListingBuilder::new();
    builder.event(Event::Directory);
    for i in 0..=MAX_LISTING_ENTRIES {
        builder.event(Event::Entry { name: &i.to_be_bytes() });
        builder.event(regular(0));
    }
    assert_eq!(builder.entries.capacity() + builder.text.capacity(), 0);
    assert_eq!(builder.finish().unwrap_err(), Error::TooLarge { what: "listing", limit: MAX_LISTING_ENTRIES });
}

#[test]
fn refuses_too_much_text() {
    let target = vec![b'x'; 1 << 16];
    let mut builder = ListingBuilder::new();
    builder.event(Event::Directory);
    for _ in 0..=MAX_LISTING_TEXT / target.len() {
        builder.event(Event::Entry { name: b"x" });
        builder.event(Event::Symlink { target: &target });
    }
    assert_eq!(builder.finish().unwrap_err(), Error::TooLarge { what: "text of a listing", limit: MAX_LISTING_TEXT });
}

#[test]
fn finds_by_names() {
    let listing = listing(&[
        Event::Directory,
        Event::Entry { name: b"a" },
        Event::Directory,
        Event::Entry { name: b"b" },
        regular(1),
        Event::Entry { name: b"d" },
        regular(2),
        Event::EndDirectory,
        Event::Entry { name: b"c" },
        Event::Symlink { target: b"a" },
        Event::EndDirectory,
    ]);
    let find = |path: &str| listing.find(path.split('/').filter(|name| !name.is_empty()).map(str::as_bytes));
    assert!(matches!(find(""), Some(Node::Directory(_))));
    assert!(matches!(find("a"), Some(Node::Directory(d)) if d.entries().count() == 2));
    assert!(matches!(find("a/b"), Some(Node::Regular { size: 1, .. })));
    assert!(matches!(find("a/d"), Some(Node::Regular { size: 2, .. })));
    assert!(matches!(find("c"), Some(Node::Symlink { target: b"a" })));
    for absent in ["b", "d", "a/a", "a/c", "a/b/x", "c/b", "z", "A"] {
        assert!(find(absent).is_none(), "{absent}");
    }
    assert_eq!(listing.entry_count(), 5);
}

#[test]
fn replaces_what_json_cannot_say() {
    let listing = listing(&[Event::Directory, Event::Entry { name: b"caf\xe9" }, regular(0), Event::EndDirectory]);
    let json = String::from_utf8(listing.to_json()).unwrap();
    assert!(json.contains("\"caf\u{fffd}\":{"), "{json}");
}

/// Returns the pieces of some bytes that a directory's JSON, or that of all, comes in.
fn pieces(mut json: ListingJson<&Listing>, bytes: usize) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| json.next_piece(bytes)).collect()
}

#[test]
fn json_comes_in_pieces_of_any_length() {
    let all = listing(&[
        Event::Directory,
        Event::Entry { name: b"a" },
        Event::Directory,
        Event::Entry { name: b"in\"a" },
        Event::Directory,
        Event::EndDirectory,
        Event::Entry { name: b"x" },
        Event::Regular { executable: true, offset: 96, size: 7 },
        Event::EndDirectory,
        Event::Entry { name: b"b" },
        regular(1),
        Event::Entry { name: b"c" },
        Event::Symlink { target: b"a/x" },
        Event::EndDirectory,
    ]);
    let whole = r#"{"root":{"entries":{"a":{"entries":{"in\"a":{"entries":{},"type":"directory"},"x":{"executable":true,"narOffset":96,"size":7,"type":"regular"}},"type":"directory"},"b":{"narOffset":96,"size":1,"type":"regular"},"c":{"target":"a/x","type":"symlink"}},"type":"directory"},"version":1}"#;
    let root = r#"{"entries":{"a":{"type":"directory"},"b":{"size":1,"type":"regular"},"c":{"target":"a/x","type":"symlink"}},"type":"directory"}"#;
    let below = r#"{"entries":{"in\"a":{"type":"directory"},"x":{"executable":true,"size":7,"type":"regular"}},"type":"directory"}"#;
    let empty = r#"{"entries":{},"type":"directory"}"#;
    assert_eq!(String::from_utf8(all.to_json()).unwrap(), whole);
    let directory = |path: &[&[u8]]| match all.find(path.iter().copied()) {
        Some(Node::Directory(directory)) => ListingJson::of_directory(&all, &directory),
        other => panic!("{other:?}"),
    };
    for (json, expected) in [
        (ListingJson::whole(&all), whole),
        (directory(&[]), root),
        (directory(&[b"a"]), below),
        (directory(&[b"a", b"in\"a"]), empty),
    ] {
        assert_eq!(json.count(), expected.len() as u64);
        for bytes in [1, 2, 30, 100, 1000] {
            let pieces = pieces(json.clone(), bytes);
            assert_eq!(String::from_utf8(pieces.concat()).unwrap(), expected, "{bytes}");
            assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() >= bytes), "{bytes}");
            assert!(pieces.iter().all(|piece| piece.len() < bytes + 100), "{bytes}");
        }
    }
    for (event, expected) in [
        (regular(5), r#"{"root":{"narOffset":96,"size":5,"type":"regular"},"version":1}"#),
        (Event::Symlink { target: b"t" }, r#"{"root":{"target":"t","type":"symlink"},"version":1}"#),
    ] {
        let all = listing(&[event]);
        for bytes in [1, 1000] {
            assert_eq!(String::from_utf8(pieces(ListingJson::whole(&all), bytes).concat()).unwrap(), expected);
        }
    }
}
