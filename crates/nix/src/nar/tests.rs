//! Malformed NARs, misuse of the writer, listings.

use super::words::padding;
use super::*;

/// Encodes strings as a NAR does.
fn strings(strings: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    for string in strings {
        nar.extend_from_slice(&(string.len() as u64).to_le_bytes());
        nar.extend_from_slice(string);
        nar.resize(nar.len() + padding(string.len() as u64), 0);
    }
    nar
}

/// Encodes blank-separated words; `""` is the empty one.
fn nar(words: &str) -> Vec<u8> {
    let words: Vec<_> =
        words.split_whitespace().map(|word| if word == "\"\"" { b"" } else { word.as_bytes() }).collect();
    strings(&words)
}

/// Returns the error, which must be the same in whatever pieces the input comes.
fn decode(nar: &[u8]) -> Result<(), NarError> {
    let [whole, bytewise] = [nar.len().max(1), 1].map(|piece| {
        let mut decoder = Decoder::new();
        nar.chunks(piece).try_for_each(|piece| decoder.push(piece, &mut |_| {})).and_then(|()| decoder.finish())
    });
    assert_eq!(whole, bytewise);
    whole
}

fn in_directory(body: &str) -> Vec<u8> {
    nar(&format!("nix-archive-1 ( type directory {body} )"))
}

fn file_named(name: &[u8]) -> Vec<u8> {
    let mut bytes = nar("nix-archive-1 ( type directory entry ( name");
    bytes.extend(strings(&[name]));
    bytes.extend(nar("node ( type regular contents \"\" ) ) )"));
    bytes
}

fn link_to(target: &[u8]) -> Vec<u8> {
    [nar("nix-archive-1 ( type symlink target"), strings(&[target]), nar(")")].concat()
}

#[test]
fn refuses_other_words() {
    for bad in [
        "nix-archive-2 ( type regular contents x )",
        "Nix-archive-1 ( type regular contents x )",
        "( type regular contents x )",
        "nix-archive-1 type regular contents x",
        "nix-archive-1 ( type Regular contents x )",
        "nix-archive-1 ( type fifo )",
        "nix-archive-1 ( type regular )",
        "nix-archive-1 ( type regular executable x contents x )",
        "nix-archive-1 ( type regular executable contents x )",
        "nix-archive-1 ( type regular contents x executable \"\" )",
        "nix-archive-1 ( type regular contents x contents y )",
        "nix-archive-1 ( type symlink )",
        "nix-archive-1 ( type symlink contents x )",
        "nix-archive-1 ( type directory entry ( name a ) )",
        "nix-archive-1 ( type directory entry ( node ( type directory ) name a ) )",
        "nix-archive-1 ( type directory entry ( name a node ( type directory ) extra x ) )",
        "nix-archive-1 ( type directory type regular contents x )",
    ] {
        assert!(matches!(decode(&nar(bad)), Err(NarError::Unexpected { .. })), "{bad}: {:?}", decode(&nar(bad)));
    }
}

#[test]
fn says_where_and_what_was_expected() {
    let error = decode(&nar("nix-archive-1 ( type regulax contents x )")).unwrap_err();
    assert_eq!(error, NarError::Unexpected { at: 70, expected: "regular file, directory or symlink" });
    assert_eq!(error.to_string(), "parse NAR: no regular file, directory or symlink at byte 70");
}

#[test]
fn refuses_every_truncation() {
    let whole = in_directory(
        "entry ( name a node ( type regular executable \"\" contents hello ) ) entry ( name b node ( type symlink target c ) )",
    );
    assert_eq!(decode(&whole), Ok(()));
    for len in 0..whole.len() {
        assert!(matches!(decode(&whole[..len]), Err(NarError::Truncated { at, .. }) if at == len as u64), "{len}");
    }
}

#[test]
fn refuses_trailing_bytes() {
    let mut bytes = in_directory("");
    let end = bytes.len() as u64;
    bytes.push(0);
    assert_eq!(decode(&bytes), Err(NarError::Trailing { at: end }));
}

#[test]
fn refuses_padding_that_is_not_zero() {
    for bytes in [file_named(b"abc"), link_to(b"abc"), nar("nix-archive-1 ( type regular contents abc )")] {
        assert_eq!(decode(&bytes), Ok(()));
        let abc = bytes.windows(3).position(|w| w == b"abc").unwrap();
        for at in abc + 3..abc + 8 {
            let mut bad = bytes.clone();
            bad[at] = 1;
            let expected = NarError::Unexpected { at: at as u64, expected: "zero for padding" };
            assert_eq!(decode(&bad), Err(expected));
        }
    }
}

#[test]
fn refuses_names_that_no_file_has() {
    for bad in [&b""[..], b".", b"..", b"/", b"a/b", b"a\0", b"\0"] {
        assert!(matches!(decode(&file_named(bad)), Err(NarError::Forbidden { .. })), "{bad:?}");
    }
    for good in [&b"..."[..], b".a", b" ", b"\\", b"\xff", b"\n", &[b'x'; 255]] {
        assert_eq!(decode(&file_named(good)), Ok(()), "{good:?}");
    }
    let long = decode(&file_named(&[b'x'; 256]));
    assert_eq!(long, Err(NarError::TooLarge { at: 128, what: "name", limit: 255 }));
}

#[test]
fn refuses_targets_that_no_symlink_has() {
    assert!(matches!(decode(&link_to(b"")), Err(NarError::Forbidden { .. })));
    assert!(matches!(decode(&link_to(b"a\0b")), Err(NarError::Forbidden { .. })));
    assert_eq!(decode(&link_to(&[b'/'; MAX_TARGET_LEN])), Ok(()));
    assert!(matches!(decode(&link_to(&[b'/'; MAX_TARGET_LEN + 1])), Err(NarError::TooLarge { .. })));
}

#[test]
fn refuses_unsorted_and_duplicate_entries() {
    let entry = |name: &str| format!("entry ( name {name} node ( type symlink target x ) )");
    for (first, second) in [("b", "a"), ("a", "a"), ("aa", "a"), ("a", "A"), ("é", "z")] {
        let bytes = in_directory(&format!("{} {}", entry(first), entry(second)));
        assert!(matches!(decode(&bytes), Err(NarError::Unsorted { .. })), "{first} {second}");
    }
    // Order is within a directory: what is in a subdirectory does not matter after it.
    let nested = format!("entry ( name b node ( type directory {} ) ) {}", entry("z"), entry("c"));
    assert_eq!(decode(&in_directory(&nested)), Ok(()));
    let nested = format!("entry ( name b node ( type directory {} ) ) {}", entry("z"), entry("b"));
    assert!(matches!(decode(&in_directory(&nested)), Err(NarError::Unsorted { .. })));
}

#[test]
fn refuses_deep_nesting() {
    let nested = |depth: usize| {
        let down = "( type directory entry ( name a node ".repeat(depth - 1);
        nar(&format!("nix-archive-1 {down} ( type directory ) {}", ") ) ".repeat(depth - 1)))
    };
    assert_eq!(decode(&nested(MAX_DEPTH)), Ok(()));
    assert!(matches!(decode(&nested(MAX_DEPTH + 1)), Err(NarError::TooLarge { what: "nested directories", .. })));
}

#[test]
fn refuses_sizes_that_overflow() {
    for size in [u64::MAX, i64::MAX as u64, 1 << 63] {
        let bytes = [nar("nix-archive-1 ( type regular contents"), size.to_le_bytes().to_vec()].concat();
        assert!(matches!(decode(&bytes), Err(NarError::TooLarge { what: "file", .. })), "{size}");
    }
}

#[test]
fn keeps_its_error() {
    let mut decoder = Decoder::new();
    let error = decoder.push(b"x", &mut |_| {}).unwrap_err();
    assert_eq!(decoder.push(&in_directory(""), &mut |_| panic!("event after an error")), Err(error));
    assert_eq!(decoder.push(b"", &mut |_| {}), Err(error));
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn skips_contents() {
    let bytes = nar("nix-archive-1 ( type regular contents 0123456789 )");
    let mut decoder = Decoder::new();
    let mut events = Vec::new();
    let mut start = 0;
    decoder
        .push(&bytes[..99], &mut |event| {
            if let Event::Regular { offset, .. } = event {
                start = offset;
            }
            events.push(format!("{event:?}"));
        })
        .unwrap();
    assert_eq!(events, ["Regular { executable: false, offset: 96, size: 10 }", "Contents([48, 49, 50])"]);
    assert_eq!((decoder.position(), decoder.contents_left()), (99, 7));
    assert_eq!(decoder.skip_contents(2), 2);
    assert_eq!(decoder.skip_contents(100), 5);
    assert_eq!((decoder.position(), decoder.contents_left()), (start + 10, 0));
    assert_eq!(decoder.skip_contents(1), 0);
    decoder.push(&bytes[106..], &mut |_| {}).unwrap();
    decoder.finish().unwrap();
}

#[test]
fn writer_refuses_what_the_decoder_would() {
    type Call = fn(&mut Writer<Vec<u8>>) -> std::io::Result<()>;
    let in_directory: [Call; 10] = [
        |w| w.entry(b""),
        |w| w.entry(b".."),
        |w| w.entry(b"a/b"),
        |w| w.entry(&[b'x'; 256]),
        |w| w.entry(b"a").and_then(|()| w.symlink(b"x")).and_then(|()| w.entry(b"a")),
        |w| w.entry(b"a").and_then(|()| w.entry(b"b")),
        |w| w.entry(b"a").and_then(|()| w.symlink(b"")),
        |w| w.entry(b"a").and_then(|()| w.regular(false, 1)).and_then(|()| w.contents(b"xy")),
        |w| w.entry(b"a").and_then(|()| w.end_directory()),
        |w| w.regular(false, 0),
    ];
    for (i, call) in in_directory.into_iter().enumerate() {
        let mut writer = Writer::new(Vec::new());
        writer.directory().unwrap();
        assert_eq!(call(&mut writer).unwrap_err().kind(), std::io::ErrorKind::InvalidInput, "{i}");
    }
    let at_root: [Call; 4] =
        [|w| w.entry(b"a"), |w| w.end_directory(), |w| w.contents(b"x"), |w| w.regular(true, u64::MAX)];
    for (i, call) in at_root.into_iter().enumerate() {
        assert!(call(&mut Writer::new(Vec::new())).is_err(), "{i}");
    }
    let mut writer = Writer::new(Vec::new());
    writer.regular(false, 2).unwrap();
    writer.contents(b"x").unwrap();
    assert!(!writer.is_complete());
    assert!(writer.finish().is_err());
}
