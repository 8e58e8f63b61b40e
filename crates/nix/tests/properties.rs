//! Properties of the NAR decoder and writer over any trees, any splits, and damaged bytes.

use std::collections::BTreeMap;

use firn_nix::nar::{Decoder, Event, Writer};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Tree {
    File { executable: bool, contents: Vec<u8> },
    Link(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Self>),
}

fn trees() -> impl Strategy<Value = Tree> {
    let name = || {
        let name = vec(any::<u8>().prop_filter("no / and NUL", |&b| b != b'/' && b != 0), 1..12);
        name.prop_filter("no . and ..", |name| name != b"." && name != b"..")
    };
    let file =
        (any::<bool>(), vec(any::<u8>(), 0..40)).prop_map(|(executable, contents)| Tree::File { executable, contents });
    let link = vec(1..=255u8, 1..20).prop_map(Tree::Link);
    prop_oneof![3 => file, 1 => link]
        .prop_recursive(5, 30, 6, move |inner| btree_map(name(), inner, 0..6).prop_map(Tree::Directory))
}

fn write(tree: &Tree, writer: &mut Writer<Vec<u8>>) {
    match tree {
        Tree::File { executable, contents } => {
            writer.regular(*executable, contents.len() as u64).unwrap();
            for piece in contents.chunks(13) {
                writer.contents(piece).unwrap();
            }
        }
        Tree::Link(target) => writer.symlink(target).unwrap(),
        Tree::Directory(entries) => {
            writer.directory().unwrap();
            for (name, tree) in entries {
                writer.entry(name).unwrap();
                write(tree, writer);
            }
            writer.end_directory().unwrap();
        }
    }
}

fn nar(tree: &Tree) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(tree, &mut writer);
    let position = writer.position();
    let nar = writer.finish().unwrap();
    assert_eq!(position, nar.len() as u64);
    nar
}

/// The entries so far, and the directory's own name.
type OpenDirectory = (BTreeMap<Vec<u8>, Tree>, Vec<u8>);

/// Builds a tree of events.
#[derive(Default)]
struct Builder {
    open: Vec<OpenDirectory>,
    name: Vec<u8>,
    file: Option<(bool, u64, Vec<u8>)>,
    root: Option<Tree>,
}

impl Builder {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Directory => {
                let name = std::mem::take(&mut self.name);
                self.open.push((BTreeMap::new(), name));
            }
            Event::Entry { name } => self.name = name.to_vec(),
            Event::EndDirectory => {
                let (entries, name) = self.open.pop().unwrap();
                self.name = name;
                self.add(Tree::Directory(entries));
            }
            Event::Regular { executable, size, .. } => {
                self.file = Some((executable, size, Vec::new()));
                self.end_file_if_whole();
            }
            Event::Contents(bytes) => {
                assert!(!bytes.is_empty());
                self.file.as_mut().unwrap().2.extend_from_slice(bytes);
                self.end_file_if_whole();
            }
            Event::Symlink { target } => self.add(Tree::Link(target.to_vec())),
        }
    }

    fn end_file_if_whole(&mut self) {
        if let Some((executable, _, contents)) = self.file.take_if(|(_, size, contents)| *size == contents.len() as u64)
        {
            self.add(Tree::File { executable, contents });
        }
    }

    fn add(&mut self, tree: Tree) {
        let name = std::mem::take(&mut self.name);
        match self.open.last_mut() {
            Some((entries, _)) => assert!(entries.insert(name, tree).is_none()),
            None => assert!(self.root.replace(tree).is_none()),
        }
    }
}

/// Feeds `nar` in pieces of these lengths, over and over.
fn decode(nar: &[u8], lengths: &[usize]) -> Tree {
    let (mut decoder, mut builder) = (Decoder::new(), Builder::default());
    let mut rest = nar;
    for &length in lengths.iter().cycle() {
        let (piece, after) = rest.split_at(length.min(rest.len()));
        decoder.push(piece, &mut |event| builder.event(event)).unwrap();
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    decoder.finish().unwrap();
    builder.root.unwrap()
}

proptest! {
    #[test]
    fn decodes_what_it_writes_however_split(tree in trees(), lengths in vec(1..60usize, 1..10)) {
        let nar = nar(&tree);
        prop_assert_eq!(decode(&nar, &[nar.len()]), tree.clone());
        prop_assert_eq!(decode(&nar, &lengths), tree);
    }

    #[test]
    fn offsets_point_to_the_contents(tree in trees()) {
        let nar = nar(&tree);
        let mut due: &[u8] = &[];
        Decoder::new().push(&nar, &mut |event| match event {
            Event::Regular { offset, size, .. } => due = &nar[offset as usize..][..size as usize],
            Event::Contents(bytes) => assert_eq!(bytes, due),
            _ => {}
        }).unwrap();
    }

    #[test]
    fn skipping_contents_changes_nothing_else(tree in trees()) {
        let nar = nar(&tree);
        let events = |skip: bool| {
            let mut events = Vec::new();
            let mut decoder = Decoder::new();
            while let Some(byte) = nar.get(decoder.position() as usize) {
                if skip && decoder.contents_left() > 0 {
                    decoder.skip_contents(7);
                    continue;
                }
                decoder.push(&[*byte], &mut |event| if !matches!(event, Event::Contents(_)) {
                    events.push(format!("{event:?}"));
                }).unwrap();
            }
            decoder.finish().unwrap();
            events
        };
        prop_assert_eq!(events(true), events(false));
    }

    /// Damage never makes a second spelling of a tree, and never a panic.
    #[test]
    fn damaged_nars_are_refused_or_canonical(
        tree in trees(), edits in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
    ) {
        let mut nar = nar(&tree);
        for (at, byte, kind) in edits {
            let at = at.index(nar.len().max(1));
            match kind {
                0 => nar.insert(at, byte),
                1 => drop(nar.remove(at)),
                2 => nar.truncate(at),
                _ => nar[at] = byte,
            }
            if nar.is_empty() {
                break;
            }
        }
        firn_nix::fuzz::nar_decoder(&nar);
    }
}
