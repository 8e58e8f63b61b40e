//! What real Nix made, read and made again: `fixtures/README.md` says how it came about.

use std::fs;
use std::path::Path;

use firn_nix::nar::{Decoder, Event, Listing, ListingBuilder};
use firn_nix::{CacheInfo, NarInfo, PublicKey, SecretKey};

const STORE_DIR: &str = "/nix/store";

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(fixture(name)).unwrap()
}

fn fixtures_ending_in(suffix: &str) -> Vec<String> {
    let names = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.ends_with(suffix)).collect();
    assert!(names.len() >= 6, "{suffix}: {names:?}");
    names
}

fn listing(nar: &[u8]) -> Listing {
    let (mut decoder, mut builder) = (Decoder::new(), ListingBuilder::new());
    decoder.push(nar, &mut |event| builder.event(event)).unwrap();
    decoder.finish().unwrap();
    builder.finish().unwrap()
}

#[test]
fn nars_are_accepted_and_written_again() {
    for name in fixtures_ending_in(".nar") {
        firn_nix::fuzz::nar_decoder(&fixture(&name));
        let mut decoder = Decoder::new();
        decoder.push(&fixture(&name), &mut |_| {}).unwrap();
        decoder.finish().unwrap();
    }
}

#[test]
fn listings_are_byte_for_byte_those_of_nix() {
    assert_eq!(String::from_utf8(listing(&fixture("tree.nar")).to_json()).unwrap(), text("tree.ls"));
}

#[test]
fn names_are_bytes() {
    let mut names = Vec::new();
    let mut record = |event: Event<'_>| match event {
        Event::Entry { name } => names.push(name.to_vec()),
        Event::Symlink { target } => names.push(target.to_vec()),
        _ => {}
    };
    Decoder::new().push(&fixture("latin1.nar"), &mut record).unwrap();
    assert_eq!(names, [&b"caf\xe9"[..], b"link", b"\xff"]);
}

#[test]
fn narinfos_are_printed_as_nix_does() {
    for name in fixtures_ending_in(".narinfo") {
        let info = NarInfo::parse(&fixture(&name), STORE_DIR).unwrap();
        assert_eq!(info.to_text(STORE_DIR), text(&name), "{name}");
    }
}

#[test]
fn signatures_are_those_of_nix() {
    let secret = SecretKey::parse(&text("secret.key")).unwrap();
    let public: PublicKey = text("public.key").trim_end().parse().unwrap();
    assert_eq!(secret.public(), public);
    assert_eq!(*secret.to_text(), text("secret.key").trim_end());
    for name in fixtures_ending_in(".narinfo") {
        let info = NarInfo::parse(&fixture(&name), STORE_DIR).unwrap();
        assert!(info.is_signed_by(&public, STORE_DIR), "{name}");
        let mut unsigned = NarInfo { signatures: Default::default(), ..info.clone() };
        assert!(!unsigned.is_signed_by(&public, STORE_DIR));
        unsigned.sign(&secret, STORE_DIR);
        assert_eq!(unsigned, info, "{name}");
    }
}

#[test]
fn cache_infos_are_understood() {
    for version in ["2.8", "2.26", "2.34"] {
        let info: CacheInfo = text(&format!("nix-cache-info-{version}")).parse().unwrap();
        assert_eq!(info, CacheInfo { store_dir: Some(STORE_DIR.into()), want_mass_query: false, priority: 0 });
    }
}
