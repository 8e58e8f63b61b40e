//! What every storage must keep, as tests that can be run over any.
//!
//! ```
//! use std::sync::Arc;
//! use firn_storage::{Memory, conformance};
//!
//! conformance::run(&mut || Arc::new(Memory::new()));
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::{Error, MAX_NAME_LEN, ObjectEntry, ObjectWriter, Storage};

/// A test of one promise; panics when the storage breaks it. It is given an empty storage.
pub type Case = fn(&dyn Storage);

/// All tests, with their names.
pub const CASES: &[(&str, Case)] = &[
    ("an object grows", an_object_grows),
    ("appends take any parts", appends_take_any_parts),
    ("a name is used once", a_name_is_used_once),
    ("what is absent is not found", what_is_absent_is_not_found),
    ("a read is exact or short", a_read_is_exact_or_short),
    ("put writes whole objects", put_writes_whole_objects),
    ("bad names are refused", bad_names_are_refused),
    ("folders are no objects", folders_are_no_objects),
    ("resume cuts and goes on", resume_cuts_and_goes_on),
    ("resume cannot lengthen", resume_cannot_lengthen),
    ("a dropped writer leaves the object", a_dropped_writer_leaves_the_object),
    ("delete removes", delete_removes),
    ("listings are sorted and paged", listings_are_sorted_and_paged),
    ("listings cannot leave", listings_cannot_leave),
    ("one of many creates wins", one_of_many_creates_wins),
    ("one of many puts wins", one_of_many_puts_wins),
    ("readers see what was appended", readers_see_what_was_appended),
    ("free bytes can be asked for", free_bytes_can_be_asked_for),
];

/// Runs every test, each over a new storage.
///
/// # Panics
/// When the storage breaks a promise.
pub fn run(make: &mut dyn FnMut() -> Arc<dyn Storage>) {
    for (name, case) in CASES {
        eprintln!("storage conformance: {name}");
        case(&*make());
    }
}

fn write(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Box<dyn ObjectWriter> {
    let mut writer = storage.create(name).expect("the name is free");
    writer.append(&[bytes]).expect("there is room");
    writer
}

fn contents(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let len = storage.len(name).expect("the object is there");
    let len = usize::try_from(len).expect("the tests' objects are small");
    storage.read(name, 0, len).expect("the object has its length").to_vec()
}

fn names(entries: &[ObjectEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

fn an_object_grows(storage: &dyn Storage) {
    let mut writer = storage.create("packs/ab/1").unwrap();
    assert!(writer.is_empty());
    assert_eq!(storage.len("packs/ab/1").unwrap(), 0, "an object is seen as soon as it is created");
    assert_eq!(writer.append(&[b"one", b"two"]).unwrap(), 0);
    assert_eq!(contents(storage, "packs/ab/1"), b"onetwo", "bytes are seen before they are synced");
    writer.sync().unwrap();
    assert_eq!(writer.append(&[b"three"]).unwrap(), 6);
    assert_eq!(writer.len(), 11);
    writer.sync().unwrap();
    writer.sync().unwrap();
    assert_eq!(contents(storage, "packs/ab/1"), b"onetwothree");
    let entry = ObjectEntry { name: "packs/ab/1".into(), len: 11 };
    assert_eq!(storage.list("", None, 10).unwrap(), [entry]);
}

fn appends_take_any_parts(storage: &dyn Storage) {
    let mut writer = storage.create("a").unwrap();
    assert_eq!(writer.append(&[]).unwrap(), 0);
    assert_eq!(writer.append(&[b"", b""]).unwrap(), 0);
    let parts: Vec<Vec<u8>> = (0..3000_usize).map(|n| vec![n.to_le_bytes()[0]; n % 7]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    assert_eq!(writer.append(&slices).unwrap(), 0);
    let large = vec![7; 5 << 20];
    let end = writer.len();
    assert_eq!(writer.append(&[b"", &large, b"", b"end"]).unwrap(), end);
    let mut expected = parts.concat();
    expected.extend(large);
    expected.extend(b"end");
    assert!(contents(storage, "a") == expected);
}

fn a_name_is_used_once(storage: &dyn Storage) {
    let taken = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::AlreadyExists { .. })), "{result:?}");
    };
    let mut writer = write(storage, "a/created", b"first");
    storage.put("a/put", b"first").unwrap();
    for name in ["a/created", "a/put"] {
        taken(storage.create(name).map(drop));
        taken(storage.put(name, b"second"));
        assert_eq!(contents(storage, name), b"first");
    }
    writer.append(&[b", still"]).unwrap();
    assert_eq!(contents(storage, "a/created"), b"first, still");
}

fn what_is_absent_is_not_found(storage: &dyn Storage) {
    storage.put("folder/there", b"x").unwrap();
    for name in ["absent", "folder/absent", "absent/folder", "folder/there.not"] {
        let absent = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::NotFound { .. })), "{name}: {result:?}");
        };
        absent(storage.read(name, 0, 1).map(drop));
        absent(storage.read(name, 0, 0).map(drop));
        absent(storage.len(name).map(drop));
        absent(storage.resume(name, 0).map(drop));
        absent(storage.delete(name));
    }
    assert_eq!(names(&storage.list("", None, 9).unwrap()), ["folder/there"]);
}

fn a_read_is_exact_or_short(storage: &dyn Storage) {
    storage.put("a", b"0123456789").unwrap();
    assert_eq!(storage.read("a", 0, 10).unwrap(), "0123456789");
    assert_eq!(storage.read("a", 3, 4).unwrap(), "3456");
    assert_eq!(storage.read("a", 10, 0).unwrap(), "");
    let short = |offset, len, has| match storage.read("a", offset, len) {
        Err(Error::Short { name, wanted, got }) => {
            assert_eq!((name.as_str(), wanted, got), ("a", len as u64, has));
        }
        other => panic!("{len} bytes at {offset}: {other:?}"),
    };
    short(0, 11, 10);
    short(9, 2, 1);
    short(10, 1, 0);
    short(11, 1, 0);
    short(u64::MAX, 1, 0);
    short(1 << 63, 1, 0);
    short((1 << 63) - 1, 1, 0);
    // A length that nobody has memory for is refused before any is taken.
    short(0, usize::MAX, 10);
    short(5, usize::MAX / 4, 5);
}

fn put_writes_whole_objects(storage: &dyn Storage) {
    let large: Vec<u8> = (0..3 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    storage.put("deep/er/large", &large).unwrap();
    storage.put("empty", b"").unwrap();
    assert!(contents(storage, "deep/er/large") == large);
    assert_eq!(contents(storage, "empty"), b"");
    assert_eq!(names(&storage.list("", None, 9).unwrap()), ["deep/er/large", "empty"]);
}

fn bad_names_are_refused(storage: &dyn Storage) {
    let long = "x".repeat(MAX_NAME_LEN + 1);
    for name in ["", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/", "a//b", ".tmp/0", "A", "a\0b", "ä", &long] {
        let refused = |result: Result<(), Error>| {
            assert!(matches!(result, Err(Error::InvalidName { .. })), "{name:?}: {result:?}");
        };
        refused(storage.create(name).map(drop));
        refused(storage.resume(name, 0).map(drop));
        refused(storage.put(name, b"x"));
        refused(storage.read(name, 0, 0).map(drop));
        refused(storage.len(name).map(drop));
        refused(storage.delete(name));
    }
    assert_eq!(storage.list("", None, 9).unwrap(), []);
}

fn folders_are_no_objects(storage: &dyn Storage) {
    storage.put("folder/object", b"x").unwrap();
    let absent = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    };
    absent(storage.read("folder", 0, 0).map(drop));
    absent(storage.len("folder").map(drop));
    absent(storage.resume("folder", 0).map(drop));
    absent(storage.delete("folder"));
    absent(storage.read("folder/object/below", 0, 0).map(drop));
    absent(storage.len("folder/object/below").map(drop));
    absent(storage.resume("folder/object/below", 0).map(drop));
    absent(storage.delete("folder/object/below"));
    assert_eq!(contents(storage, "folder/object"), b"x");
}

fn resume_cuts_and_goes_on(storage: &dyn Storage) {
    drop(write(storage, "a", b"whole frames, torn fra"));
    let mut writer = storage.resume("a", 12).unwrap();
    assert_eq!(writer.len(), 12);
    assert_eq!(contents(storage, "a"), b"whole frames", "the cut is seen at once");
    assert_eq!(writer.append(&[b" and more"]).unwrap(), 12);
    writer.sync().unwrap();
    drop(writer);
    let mut writer = storage.resume("a", 21).unwrap();
    assert_eq!(writer.append(&[b"!"]).unwrap(), 21);
    assert_eq!(contents(storage, "a"), b"whole frames and more!");
    drop(writer);
    let mut writer = storage.resume("a", 0).unwrap();
    assert!(writer.is_empty());
    assert_eq!(writer.append(&[b"new"]).unwrap(), 0);
    assert_eq!(contents(storage, "a"), b"new");
}

fn resume_cannot_lengthen(storage: &dyn Storage) {
    drop(write(storage, "a", b"12345"));
    for len in [6, u64::MAX] {
        let result = storage.resume("a", len).map(drop);
        assert!(matches!(result, Err(Error::Short { got: 5, .. })), "{result:?}");
        assert_eq!(contents(storage, "a"), b"12345");
    }
}

fn a_dropped_writer_leaves_the_object(storage: &dyn Storage) {
    drop(storage.create("empty").unwrap());
    drop(write(storage, "some", b"some"));
    assert_eq!(contents(storage, "empty"), b"");
    assert_eq!(contents(storage, "some"), b"some");
}

fn delete_removes(storage: &dyn Storage) {
    let mut writer = write(storage, "packs/1", b"in hand");
    writer.sync().unwrap();
    storage.put("packs/2", b"stays").unwrap();
    let in_hand = storage.read("packs/1", 0, 7).unwrap();
    storage.delete("packs/1").unwrap();
    assert_eq!(in_hand, "in hand");
    let absent = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
    };
    absent(storage.read("packs/1", 0, 1).map(drop));
    absent(storage.len("packs/1").map(drop));
    absent(storage.delete("packs/1"));
    assert_eq!(names(&storage.list("packs/", None, 9).unwrap()), ["packs/2"]);
    assert_eq!(contents(storage, "packs/2"), b"stays");
}

fn listings_are_sorted_and_paged(storage: &dyn Storage) {
    // In byte order '-' and '.' come before '/', and '/' before digits and letters.
    let sorted = ["a", "b-c", "b.d/z", "b/a", "b/a-b", "b/aa/1", "b/aa/2", "b/ab", "b0", "bb/1"];
    for name in sorted.iter().rev() {
        storage.put(name, name.as_bytes()).unwrap();
    }
    let all = storage.list("", None, 100).unwrap();
    assert_eq!(names(&all), sorted);
    assert!(all.iter().all(|entry| entry.len == entry.name.len() as u64));

    for limit in 1..=sorted.len() + 1 {
        let mut paged: Vec<ObjectEntry> = Vec::new();
        loop {
            let after = paged.last().map(|entry| entry.name.clone());
            let page = storage.list("", after.as_deref(), limit).unwrap();
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            paged.extend(page);
        }
        assert_eq!(paged, all, "in pages of {limit}");
    }
    for prefix in ["", "a", "b", "b/", "b/a", "b/aa", "b/aa/", "b/aa/1", "bb", "c", "b//", "b-", "b."] {
        for after in [None, Some(""), Some("a"), Some("b/"), Some("b/a"), Some("b/aa/15"), Some("b/zz"), Some("z")] {
            let expected: Vec<_> = sorted
                .into_iter()
                .filter(|name| name.starts_with(prefix) && after.is_none_or(|after| *name > after))
                .collect();
            let listed = storage.list(prefix, after, 100).unwrap();
            assert_eq!(names(&listed), expected, "{prefix:?} after {after:?}");
        }
    }
    assert_eq!(storage.list("", None, 0).unwrap(), []);
}

fn listings_cannot_leave(storage: &dyn Storage) {
    storage.put("a/b", b"x").unwrap();
    for prefix in ["/", "..", "../", "./", "a/../", "a//", ".", ".tmp/", "a\0", "ä"] {
        assert_eq!(storage.list(prefix, None, 100).unwrap(), [], "{prefix:?}");
    }
}

/// Runs `work` in eight threads and returns how many succeeded, and that the others lost to them.
fn race(work: impl Fn(usize) -> Result<(), Error> + Sync) -> usize {
    let won = AtomicUsize::new(0);
    thread::scope(|scope| {
        for number in 0..8 {
            let (work, won) = (&work, &won);
            scope.spawn(move || match work(number) {
                Ok(()) => _ = won.fetch_add(1, Ordering::SeqCst),
                Err(error) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}"),
            });
        }
    });
    won.into_inner()
}

fn one_of_many_creates_wins(storage: &dyn Storage) {
    for round in 0..20 {
        let name = format!("new-folder-{round}/object");
        let won = race(|number| {
            let mut writer = storage.create(&name)?;
            writer.append(&[&[number.to_le_bytes()[0]; 100]])?;
            writer.sync()
        });
        assert_eq!(won, 1);
        assert_eq!(storage.len(&name).unwrap(), 100);
    }
}

fn one_of_many_puts_wins(storage: &dyn Storage) {
    for round in 0..20 {
        let name = format!("new-folder-{round}/object");
        assert_eq!(race(|number| storage.put(&name, &[number.to_le_bytes()[0]; 100])), 1);
        let found = contents(storage, &name);
        assert!(found.len() == 100 && found.iter().all(|byte| *byte == found[0]), "not a mixture");
    }
}

fn readers_see_what_was_appended(storage: &dyn Storage) {
    let mut writer = storage.create("growing").unwrap();
    let written = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut last = false;
                while !last {
                    last = done.load(Ordering::SeqCst);
                    let len = written.load(Ordering::SeqCst);
                    let bytes = storage.read("growing", 0, len).expect("it is appended");
                    assert!(bytes.iter().enumerate().all(|(at, byte)| *byte == (at % 251).to_le_bytes()[0]));
                }
            });
        }
        for _ in 0..200 {
            let from = written.load(Ordering::SeqCst);
            let bytes: Vec<u8> = (from..from + 100).map(|at| (at % 251).to_le_bytes()[0]).collect();
            let (first, second) = bytes.split_at(33);
            assert_eq!(writer.append(&[first, second]).unwrap(), from as u64);
            written.fetch_add(100, Ordering::SeqCst);
        }
        done.store(true, Ordering::SeqCst);
    });
}

fn free_bytes_can_be_asked_for(storage: &dyn Storage) {
    if let Some(free) = storage.free_bytes().unwrap() {
        assert!(free > 0, "an empty storage has room");
    }
}
