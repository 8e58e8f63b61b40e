//! Restoring is the inverse of cutting, and only the bytes count.

use std::error::Error as _;

use firn_chunk::{Error, Input};
use firn_nix::nar::NarError;
use proptest::prelude::*;

use crate::input::{Fragment, Node, Random, bytes_of, cut, cut_pieces, fragments, hashes, split, tree};

fn small_nar() -> Vec<u8> {
    let contents = vec![Fragment::Reference(0), Fragment::Random(1, 20_000), Fragment::Bare(0)];
    Node::Regular { executable: true, contents }.nar(&hashes())
}

#[test]
fn what_is_no_nar_is_refused() {
    let nar = small_nar();
    for end in (0..400).chain(nar.len() - 80..nar.len()) {
        let error = cut(Input::Nar, &nar[..end]).expect_err("it is not whole");
        assert!(matches!(error, Error::Nar(NarError::Truncated { at, .. }) if at == end as u64), "{end}: {error:?}");
    }
    let error = cut(Input::Nar, &[&nar[..], b"\0"].concat()).expect_err("a byte follows its end");
    assert!(matches!(error, Error::Nar(NarError::Trailing { at }) if at == nar.len() as u64), "{error:?}");
    for text in [&b"no NAR at all"[..], &[0; 100], b"\x0d\0\0\0\0\0\0\0nix-archive-2"] {
        let error = cut(Input::Nar, text).expect_err("it begins otherwise");
        assert!(matches!(error, Error::Nar(NarError::Unexpected { .. })), "{error:?}");
        assert!(error.source().is_none(), "the message is the parser's own: {error}");
    }
}

#[test]
fn an_error_behind_many_chunks_is_seen() {
    let contents = vec![Fragment::Random(1, 3_000_000)];
    let mut nar = Node::Regular { executable: false, contents }.nar(&hashes());
    let end = nar.len() - 1;
    nar[end] = 1;
    let error = cut_pieces(Input::Nar, split(&nar, &[1000])).expect_err("its padding is wrong");
    assert!(matches!(error, Error::Nar(_)), "{error:?}");
}

#[test]
fn a_nar_as_bytes_is_another_recipe_of_the_same_length() {
    let nar = small_nar();
    let as_nar = cut(Input::Nar, &nar).expect("it is a NAR");
    let as_bytes = cut(Input::Bytes, &nar).expect("bytes of any kind are fine");
    assert_eq!(as_nar.restore(), as_bytes.restore());
    assert_ne!(as_nar.cut.recipe.id(), as_bytes.cut.recipe.id());
}

#[test]
fn no_bytes_have_no_chunks() {
    let outcome = cut(Input::Bytes, b"").expect("bytes of any kind are fine");
    assert_eq!((outcome.chunks.len(), outcome.cut.length, outcome.cut.slots.len()), (0, 0, 0));
    assert_eq!(outcome.restore(), b"");
}

#[test]
fn chunks_of_a_large_file_do_not_depend_on_its_neighbours() {
    let file = || Node::Regular { executable: false, contents: vec![Fragment::Random(5, 400_000)] };
    let other = |seed| Node::Regular { executable: false, contents: vec![Fragment::Random(seed, 30_001)] };
    let small = Node::Regular { executable: true, contents: vec![Fragment::Run(b'x', 10_001)] };
    let name = |name: &str| (name.to_owned(), None);
    let alone = cut(Input::Nar, &file().nar(&hashes())).expect("it is a NAR");
    let among =
        Node::Directory([(name("a"), other(1)), (name("b"), small), (name("c"), file()), (name("d"), other(2))].into());
    let among = cut(Input::Nar, &among.nar(&hashes())).expect("it is a NAR");
    let ids = |outcome: &crate::input::Outcome| outcome.chunks.iter().map(|(id, _)| *id).collect::<Vec<_>>();
    let (alone, among) = (ids(&alone), ids(&among));
    let own = &alone[1..alone.len() - 1];
    assert!(own.len() >= 3, "several chunks, and what stands around them: {}", own.len());
    assert!(among.windows(own.len()).any(|window| window == own));
}

#[test]
fn a_byte_that_is_put_in_changes_few_chunks() {
    let bytes = Random(3).bytes(4_000_000);
    let changed = [&bytes[..2_000_000], b"!", &bytes[2_000_000..]].concat();
    let ids = |bytes: &[u8]| -> Vec<_> {
        cut(Input::Bytes, bytes).expect("bytes of any kind are fine").chunks.into_iter().map(|(id, _)| id).collect()
    };
    let before = ids(&bytes);
    let new = ids(&changed).iter().filter(|id| !before.contains(id)).count();
    assert!((1..=3).contains(&new), "{new} of {} chunks are new", before.len());
}

/// Renames each hash to one that occurs nowhere.
fn renamed(hashes: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut random = Random(99);
    hashes.iter().map(|_| random.hash()).collect()
}

proptest! {
    #[test]
    fn a_nar_comes_back(tree in tree()) {
        let nar = tree.nar(&hashes());
        let outcome = cut(Input::Nar, &nar).expect("it is a NAR");
        prop_assert_eq!(outcome.cut.length, nar.len() as u64);
        prop_assert!(outcome.restore() == nar);
    }

    #[test]
    fn bytes_come_back(fragments in fragments(60)) {
        let bytes = bytes_of(&fragments, &hashes());
        prop_assert!(cut(Input::Bytes, &bytes).expect("bytes of any kind are fine").restore() == bytes);
    }

    #[test]
    fn how_a_nar_is_divided_does_not_matter(
        tree in tree(), lengths in prop::collection::vec(prop_oneof![1_usize..100, 1_usize..100_000], 1..20),
    ) {
        let nar = tree.nar(&hashes());
        let whole = cut(Input::Nar, &nar).expect("it is a NAR");
        let divided = cut_pieces(Input::Nar, split(&nar, &lengths)).expect("it is a NAR");
        prop_assert!(whole == divided);
    }

    #[test]
    fn how_bytes_are_divided_does_not_matter(fragments in fragments(60), lengths in prop::collection::vec(0_usize..70, 1..9)) {
        prop_assume!(lengths.iter().sum::<usize>() > 0);
        let bytes = bytes_of(&fragments, &hashes());
        let whole = cut(Input::Bytes, &bytes).expect("bytes of any kind are fine");
        let divided = cut_pieces(Input::Bytes, split(&bytes, &lengths)).expect("bytes of any kind are fine");
        prop_assert!(whole == divided);
    }

    #[test]
    fn nars_that_differ_only_in_store_hashes_share_their_recipe(tree in tree()) {
        // Not those that overlap with themselves: another hash in their place need not overlap.
        let hashes = &hashes()[..4];
        let tree = renamable(tree);
        let one = cut(Input::Nar, &tree.nar(hashes)).expect("it is a NAR");
        let new = tree.nar(&renamed(hashes));
        let other = cut(Input::Nar, &new).expect("it is a NAR");
        prop_assert!(one.chunks == other.chunks);
        prop_assert_eq!(one.cut.recipe.id(), other.cut.recipe.id());
        prop_assert!(other.restore() == new);
        prop_assert_eq!(one.cut.recipe, other.cut.recipe);
    }
}

/// Puts a file with references to all hashes first and completes torn ones, so that every hash is seen as such.
fn renamable(tree: Node) -> Node {
    let contents = (0..4).map(Fragment::Reference).collect();
    let first = Node::Regular { executable: false, contents };
    Node::Directory([(("!=".into(), None), first), (("a=".into(), None), complete(tree))].into())
}

fn complete(node: Node) -> Node {
    let whole = |fragment| match fragment {
        Fragment::Torn(hash, _) => Fragment::Reference(hash),
        other => other,
    };
    match node {
        Node::Regular { executable, contents } => {
            Node::Regular { executable, contents: contents.into_iter().map(whole).collect() }
        }
        Node::Symlink(hash) => Node::Symlink(hash),
        Node::Directory(entries) => {
            Node::Directory(entries.into_iter().map(|(name, node)| (name, complete(node))).collect())
        }
    }
}

#[test]
fn a_renamed_closure_shares_its_recipe_and_keeps_its_slots() {
    let contents = vec![
        Fragment::Random(1, 100_000),
        Fragment::Reference(2),
        Fragment::Bare(2),
        Fragment::Reference(0),
        Fragment::Run(0, 300_000),
        Fragment::Reference(1),
        Fragment::Bare(0),
    ];
    let tree = Node::Directory(
        [
            (("a=".into(), None), Node::Regular { executable: true, contents }),
            (("b=".into(), Some(1)), Node::Symlink(3)),
        ]
        .into(),
    );
    let hashes = &hashes()[..4];
    let new = renamed(hashes);
    let one = cut(Input::Nar, &tree.nar(hashes)).expect("it is a NAR");
    let other = cut(Input::Nar, &tree.nar(&new)).expect("it is a NAR");
    assert_eq!(one.cut.recipe, other.cut.recipe);
    assert!(one.chunks == other.chunks);
    let slots = |outcome: &crate::input::Outcome| -> Vec<_> {
        outcome.cut.slots.iter().map(|slot| slot.to_ascii().to_vec()).collect()
    };
    assert_eq!(slots(&one), [2, 0, 1, 3].map(|hash| hashes[hash].clone()));
    assert_eq!(slots(&other), [2, 0, 1, 3].map(|hash| new[hash].clone()));
    assert_eq!(other.restore(), tree.nar(&new));
}
