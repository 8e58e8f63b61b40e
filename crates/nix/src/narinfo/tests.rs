//! What is refused, what is tolerated, and what is printed.

use proptest::prelude::*;

use super::*;
use crate::{Error, StoreHash};

const STORE_DIR: &str = "/nix/store";

const GOOD: &str = "\
StorePath: /nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top
URL: nar/x.nar.zst
Compression: zstd
FileHash: sha256:0amqqdkkjy9s9a5qfd62lczdhby2pn4y3xf5z0cg8ppm911qq5wx
FileSize: 261
NarHash: sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i
NarSize: 600
References: 0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top 0hqyy7md660wym233gh2jfjjmqli31dx-leaf
Deriver: xzxy4qspx7010ga6gx5svayqv0z511n6-top.drv
CA: fixed:r:sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i
";

fn parse(text: &str) -> crate::Result<NarInfo> {
    NarInfo::parse(text.as_bytes(), STORE_DIR)
}

/// The good narinfo with another line for `key`, or without it.
fn with(key: &str, line: &str) -> String {
    let start = GOOD.find(&format!("{key}: ")).unwrap();
    let end = start + GOOD[start..].find('\n').unwrap() + 1;
    format!("{}{line}{}", &GOOD[..start], &GOOD[end..])
}

#[test]
fn refuses_other_line_formats() {
    for bad in [
        String::new(),
        "\n".into(),
        "<html>\n".into(),
        GOOD.trim_end().into(),
        format!("{GOOD}\n"),
        format!("\n{GOOD}"),
        GOOD.replace('\n', "\r\n"),
        GOOD.replace("URL: ", "URL:"),
        GOOD.replace("URL: ", "url: "),
        GOOD.replace("URL: ", "URL:: "),
        GOOD.replace("nar/x", "nar/\0x"),
        format!("{GOOD}nonsense\n"),
        format!("{GOOD}X-New:y: z\n"),
    ] {
        assert!(parse(&bad).is_err(), "{bad:?}");
    }
    assert!(NarInfo::parse(&[GOOD.as_bytes(), b"X: \xff\n"].concat(), STORE_DIR).is_err());
}

#[test]
fn refuses_missing_lines() {
    for key in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert!(matches!(parse(&with(key, "")), Err(Error::Missing { field, .. }) if field == key), "{key}");
    }
}

#[test]
fn refuses_bad_values() {
    for (key, value) in [
        ("StorePath", "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top"),
        ("StorePath", "/nix/other/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top"),
        ("StorePath", "/nix/store//0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top"),
        ("URL", ""),
        ("URL", "nar/a b"),
        ("URL", " nar/a"),
        ("Compression", "Zstd"),
        ("Compression", "zip"),
        ("FileHash", "sha1:kpcd173cq987hw957sx6m0868wv3x6d9"),
        ("FileHash", ""),
        ("FileSize", "-1"),
        ("FileSize", ""),
        ("NarHash", "sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4"),
        ("NarSize", "0"),
        ("NarSize", "+1"),
        ("NarSize", " 1"),
        ("NarSize", "1 "),
        ("NarSize", "0x1"),
        ("NarSize", "9223372036854775808"),
        ("References", "/nix/store/0hqyy7md660wym233gh2jfjjmqli31dx-leaf"),
        ("References", "leaf"),
        ("Deriver", "/nix/store/xzxy4qspx7010ga6gx5svayqv0z511n6-top.drv"),
        ("Deriver", ""),
        ("CA", "garbage"),
        ("CA", "fixed:r:sha256"),
        ("CA", "fixed:r:sha256:"),
        ("CA", "fixed:r:sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4"),
        ("CA", "fixed:git:sha1:kpcd173cq987hw957sx6m0868wv3x6d9"),
        ("CA", "text:sha1:kpcd173cq987hw957sx6m0868wv3x6d9"),
        ("CA", "fixed:blake3:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i"),
    ] {
        assert!(parse(&with(key, &format!("{key}: {value}\n"))).is_err(), "{key}: {value}");
    }
    for sig in ["", "x", ":AAAA", "k:", "k:AAAA", "k:!", "k 1:AAAA"] {
        assert!(parse(&format!("{GOOD}Sig: {sig}\n")).is_err(), "{sig}");
    }
}

#[test]
fn refuses_a_key_twice() {
    for line in GOOD.lines() {
        assert!(parse(&format!("{GOOD}{line}\n")).is_err(), "{line}");
    }
}

#[test]
fn refuses_more_than_its_limit() {
    let long = format!("{GOOD}X: {}\n", "x".repeat(MAX_NARINFO_LEN));
    assert_eq!(parse(&long), Err(Error::TooLarge { what: "narinfo", limit: MAX_NARINFO_LEN }));
}

#[test]
fn says_which_line() {
    let error = parse(&GOOD.replace("Compression: ", "Compression")).unwrap_err();
    assert_eq!(error.to_string(), "parse narinfo: line 3");
}

#[test]
fn tolerates_what_every_nix_does() {
    let good = parse(GOOD).unwrap();
    let reversed: String = GOOD.lines().rev().map(|line| format!("{line}\n")).collect();
    assert_eq!(parse(&reversed).unwrap(), good);
    assert_eq!(parse(&format!("{GOOD}System: x\nX-New: y:z\nEmpty: \n: \n")).unwrap(), good);
    for hash in [good.nar_hash.to_hex(), good.nar_hash.to_nix32()] {
        assert_eq!(parse(&with("NarHash", &format!("NarHash: sha256:{hash}\n"))).unwrap(), good);
    }
    assert_eq!(parse(&with("NarHash", &format!("NarHash: {}\n", good.nar_hash.to_sri()))).unwrap(), good);
    let twice = "References: 0hqyy7md660wym233gh2jfjjmqli31dx-leaf  0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top 0hqyy7md660wym233gh2jfjjmqli31dx-leaf\n";
    assert_eq!(parse(&with("References", twice)).unwrap(), good);
}

#[test]
fn takes_absent_values_as_nix_does() {
    let deriver = parse(&with("Deriver", "Deriver: unknown-deriver\n")).unwrap();
    assert_eq!(deriver, parse(&with("Deriver", "")).unwrap());
    assert_eq!(deriver.deriver, None);
    let references = parse(&with("References", "References: \n")).unwrap();
    assert_eq!(references, parse(&with("References", "")).unwrap());
    assert!(references.references.is_empty() && references.to_text(STORE_DIR).contains("\nReferences: \n"));
    assert_eq!(parse(&with("Compression", "")).unwrap().compression, Compression::Bzip2);
    assert_eq!(parse(&with("CA", "CA: \n")).unwrap().ca, None);
    assert_eq!(parse(&with("FileHash", "")).unwrap().file_hash, None);
    assert_eq!(parse(&with("FileSize", "")).unwrap().file_size, None);
}

#[test]
fn prints_in_the_order_of_nix() {
    assert_eq!(parse(GOOD).unwrap().to_text(STORE_DIR), GOOD);
}

#[test]
fn fingerprints_path_hash_size_and_sorted_references() {
    let fingerprint = parse(GOOD).unwrap().fingerprint(STORE_DIR);
    assert_eq!(
        fingerprint,
        "1;/nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top;sha256:02by0f9myq6xi08bbr8ig0bf4w92r8vagh3k7hjk4al5xqxidq4i;600;\
         /nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top,/nix/store/0hqyy7md660wym233gh2jfjjmqli31dx-leaf"
    );
    assert!(parse(&with("References", "")).unwrap().fingerprint(STORE_DIR).ends_with(";600;"));
}

#[test]
fn signing_replaces_the_same_keys_old_signature() {
    let key = crate::SecretKey::generate("cache-1", [7; 32]).unwrap();
    let other = crate::SecretKey::generate("cache-2", [8; 32]).unwrap();
    let mut info = parse(GOOD).unwrap();
    info.signatures.insert(key.sign(b"something else"));
    assert!(!info.is_signed_by(&key.public(), STORE_DIR));
    info.sign(&key, STORE_DIR);
    info.sign(&other, STORE_DIR);
    assert!(info.is_signed_by(&key.public(), STORE_DIR));
    assert_eq!(info.signatures.len(), 2);
    info.nar_size += 1;
    assert!(!info.is_signed_by(&key.public(), STORE_DIR));
}

#[test]
fn content_addresses_keep_their_meaning() {
    for (given, kept) in [
        ("text:sha256:107816lh863j1ck16926bmhwqawr7fg13ixnmyv1w8cl61kcx79w", None),
        ("fixed:sha1:kpcd173cq987hw957sx6m0868wv3x6d9", None),
        (
            "fixed:sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            Some("fixed:sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic"),
        ),
    ] {
        assert_eq!(given.parse::<ContentAddress>().unwrap().as_str(), kept.unwrap_or(given));
    }
}

fn store_path() -> impl Strategy<Value = StorePath> {
    let name = "[a-zA-Z0-9+_?=][a-zA-Z0-9+._?=-]{0,20}";
    (any::<[u8; 20]>(), name).prop_map(|(hash, name)| StorePath::new(StoreHash(hash), &name).unwrap())
}

fn info() -> impl Strategy<Value = NarInfo> {
    let compression = proptest::sample::select(vec!["none", "xz", "zstd", "br", "gzip", "lzma"]);
    let ca = "(text|fixed|fixed:r):sha256:[01][0-9a-df-np-sv-z]{51}".prop_map(|ca| ca.parse().unwrap());
    (
        (store_path(), "[!-~]{1,40}", compression.prop_map(|name| name.parse().unwrap())),
        (any::<Option<[u8; 32]>>(), proptest::option::of(0..i64::MAX as u64)),
        (any::<[u8; 32]>(), 1..i64::MAX as u64),
        (proptest::collection::btree_set(store_path(), 0..5), proptest::option::of(store_path())),
        (proptest::collection::btree_set("[a-z.-]{1,9}", 0..3), proptest::option::of(ca)),
    )
        .prop_map(|((store_path, url, compression), file, nar, (references, deriver), (keys, ca))| NarInfo {
            store_path,
            url,
            compression,
            file_hash: file.0.map(Sha256),
            file_size: file.1,
            nar_hash: Sha256(nar.0),
            nar_size: nar.1,
            references,
            deriver,
            signatures: keys.iter().map(|name| SecretKey::generate(name, [1; 32]).unwrap().sign(b"x")).collect(),
            ca,
        })
}

proptest! {
    #[test]
    fn parses_what_it_prints(info in info()) {
        let text = info.to_text(STORE_DIR);
        prop_assert_eq!(NarInfo::parse(text.as_bytes(), STORE_DIR).unwrap(), info);
    }

    #[test]
    fn accepts_nothing_that_it_would_print_differently(info in info(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = info.to_text(STORE_DIR).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        crate::fuzz::narinfo_parse(&text);
    }
}
