//! What goes in comes out: any bytes, any pieces, any range, both forms.

use firn_chunk::Input;
use firn_engine::{Engine, Error, Options, TransportEncoder, TransportPiece};
use firn_nix::Sha256;
use firn_testkit::nar::Node;
use firn_testkit::strategy::{contents, pieces, read_sizes, tree};
use proptest::prelude::*;
use sha2::Digest as _;

use crate::fixture::{Fixture, Pushed, cache, ingest, noise, package, package_with, path, push, restore};

/// Returns the zstd form from a byte on.
fn zstd(engine: &Engine, pushed: &Pushed, start: u64) -> firn_engine::Result<(Option<u64>, Vec<u8>)> {
    let mut restore = engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, start)?;
    let total = restore.total();
    let mut bytes = Vec::new();
    while let Some(piece) = restore.next()? {
        bytes.extend_from_slice(&piece);
    }
    Ok((total, bytes))
}

fn sha256(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

/// Returns a fixture whose packs, frames and memories are so small that borders are met often.
fn tight() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.options =
        Options { pack_bytes: 300_000, frame_bytes: 40_000, frame_cache_bytes: 100_000, ..fixture.options };
    fixture
}

fn write_all(engine: &Engine, input: Input, bytes: &[u8], sizes: &[usize]) -> Pushed {
    let mut ingest = engine.ingest(input).unwrap();
    for piece in pieces(bytes, sizes) {
        ingest.write(piece).unwrap();
    }
    let ingested = ingest.finish().unwrap();
    assert_eq!(ingested.nar_hash, sha256(bytes));
    assert_eq!(ingested.length, bytes.len() as u64);
    let pushed = Pushed::of(&ingested, bytes);
    engine.commit_nar(&cache(), ingested, None).unwrap();
    pushed
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn any_nar_in_any_pieces(
        tree in tree(), sizes in read_sizes(200_000), from in 0.0..1.0f64, len in 0.0..1.0f64, start in 0.0..1.0f64,
    ) {
        let (fixture, nar) = (tight(), tree.encode());
        let engine = fixture.open();
        let pushed = write_all(&engine, Input::Nar, &nar, &sizes);
        pushed.check(&engine).unwrap();

        let at = |part: f64| (nar.len() as f64 * part) as usize;
        let range = at(from)..(at(from) + at(len)).min(nar.len());
        let got = restore(&engine, &pushed, range.start as u64..range.end as u64).unwrap();
        prop_assert!(got == nar[range]);

        let (_, whole) = zstd(&engine, &pushed, 0).unwrap();
        prop_assert!(zstd::decode_all(&whole[..]).unwrap() == nar);
        let start = (whole.len() as f64 * start) as usize;
        let (total, tail) = zstd(&engine, &pushed, start as u64).unwrap();
        prop_assert_eq!(total, Some(whole.len() as u64));
        prop_assert!(tail == whole[start..]);

        let listing = engine.listing(&pushed.recipe, &pushed.slots).unwrap();
        prop_assert_eq!(listing.to_json(), listing_of(&nar));

        // The same from what is on the disk alone.
        engine.close().unwrap();
        pushed.check(&fixture.open()).unwrap();
    }

    #[test]
    fn any_bytes_in_any_pieces(bytes in contents(), sizes in read_sizes(100_000)) {
        let engine = tight().open();
        write_all(&engine, Input::Bytes, &bytes, &sizes).check(&engine).unwrap();
    }
}

/// Returns the listing of a NAR that is read in full.
fn listing_of(nar: &[u8]) -> Vec<u8> {
    let (mut decoder, mut listing) = (firn_nix::nar::Decoder::new(), firn_nix::nar::ListingBuilder::new());
    decoder.push(nar, &mut |event| listing.event(event)).unwrap();
    listing.finish().unwrap().to_json()
}

#[test]
fn what_is_no_nar_is_refused_as_soon_as_it_is_seen() {
    let engine = Fixture::new().open();
    let mut ingest = engine.ingest(Input::Nar).unwrap();
    assert!(matches!(ingest.write(b"\x0d\0\0\0\0\0\0\0nix-archive-2"), Err(Error::Nar(_))));
    // An ingest that failed stays failed, whatever comes.
    assert!(ingest.write(b"").is_err());
    assert!(ingest.finish().is_err());

    let nar = package(1, 50_000);
    for cut in [0, 1, 8, nar.len() / 2, nar.len() - 1] {
        let mut ingest = engine.ingest(Input::Nar).unwrap();
        ingest.write(&nar[..cut]).unwrap();
        assert!(matches!(ingest.finish(), Err(Error::Nar(_))), "cut at {cut}");
    }
    let mut ingest = engine.ingest(Input::Nar).unwrap();
    assert!(matches!(ingest.write(&[&nar[..], b"x"].concat()), Err(Error::Nar(_))));
    assert_eq!(engine.stats().unwrap().totals.paths, 0);
}

#[test]
fn the_limit_is_the_last_length_that_goes_in() {
    let mut fixture = Fixture::new();
    let nar = package(1, 50_000);
    fixture.options.max_nar_bytes = nar.len() as u64;
    ingest(&fixture.open(), &nar).unwrap();
    fixture.options.max_nar_bytes -= 1;
    let error = ingest(&fixture.open(), &nar).err().unwrap();
    assert!(matches!(error, Error::TooLarge { limit } if limit == nar.len() as u64 - 1), "{error:?}");
}

#[test]
fn ranges_end_at_the_end() {
    let engine = tight().open();
    let pushed = push(&engine, &package(1, 400_000)).unwrap();
    let len = pushed.bytes.len() as u64;
    let cases = [
        (0, 0),
        (0, 1),
        (len - 1, len),
        (len, len),
        (len, u64::MAX),
        (len + 1, len + 2),
        (u64::MAX, u64::MAX),
        (7, len + 100),
        (100_000, 300_001),
    ];
    for (start, end) in cases {
        let expected = &pushed.bytes[start.min(len) as usize..end.min(len) as usize];
        assert!(restore(&engine, &pushed, start..end).unwrap() == expected, "{start}..{end}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller may be wrong")]
    let nothing = restore(&engine, &pushed, 10..5).unwrap();
    assert!(nothing.is_empty());
}

#[test]
fn reads_are_as_long_as_was_asked_for() {
    let engine = tight().open();
    let pushed = push(&engine, &package(1, 100_000)).unwrap();
    let mut restore = engine.restore(&pushed.recipe, &pushed.slots, 5..u64::MAX).unwrap();
    assert_eq!(restore.read(0).unwrap().unwrap(), &pushed.bytes[5..6]);
    assert_eq!(restore.read(70_000).unwrap().unwrap(), &pushed.bytes[6..70_006]);
    assert_eq!(restore.read(usize::MAX).unwrap().unwrap(), &pushed.bytes[70_006..]);
    assert_eq!(restore.read(1).unwrap(), None);
    assert_eq!(restore.next(1).unwrap(), None);
}

#[test]
fn pieces_are_no_longer_than_was_asked_for() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    // Nothing in it is patched.
    let pushed = push(&engine, &noise(1, 3_000_000)).unwrap();
    for max in [1000, 50_000, 300_000, usize::MAX] {
        let mut restore = engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
        let (mut got, mut longest) = (Vec::new(), 0);
        while let Some(piece) = restore.next(max).unwrap() {
            assert!((1..=max).contains(&piece.len()), "{} of {max}", piece.len());
            longest = longest.max(piece.len());
            got.extend_from_slice(&piece);
        }
        assert!(got == pushed.bytes, "{max}");
        assert!(max != usize::MAX || longest > 256 << 10, "whole parts of frames are given out, not {longest} bytes");
    }
}

#[test]
fn nothing_at_all_is_a_document() {
    let engine = Fixture::new().open();
    let ingested = engine.ingest(Input::Bytes).unwrap().finish().unwrap();
    let pushed = Pushed::of(&ingested, b"");
    engine.commit_nar(&cache(), ingested, None).unwrap();
    pushed.check(&engine).unwrap();
    assert_eq!(zstd(&engine, &pushed, 0).unwrap(), (Some(0), Vec::new()));
}

/// A NAR of several transport frames whose zstd form is short, so that every byte of it can be a start.
fn compressible() -> Vec<u8> {
    let mut contents = vec![0; 3 * TransportPiece::MAX_BYTES + 1000];
    for (at, byte) in contents.iter_mut().enumerate().step_by(9_973) {
        *byte = (at % 251) as u8;
    }
    Node::file(contents).encode()
}

#[test]
fn the_zstd_form_goes_on_at_every_byte() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let pushed = push(&engine, &compressible()).unwrap();
    let (total, whole) = zstd(&engine, &pushed, 0).unwrap();
    assert_eq!(total, None, "nobody has measured it yet");
    assert!(whole.len() > 200, "there must be something to cut");
    assert!(zstd::decode_all(&whole[..]).unwrap() == pushed.bytes);

    for start in 0..=whole.len() {
        let (total, tail) = zstd(&engine, &pushed, start as u64).unwrap();
        assert_eq!(total, Some(whole.len() as u64), "from {start}");
        assert!(tail == whole[start..], "from {start}");
    }
    for start in [whole.len() as u64 + 1, u64::MAX] {
        assert_eq!(zstd(&engine, &pushed, start).unwrap(), (Some(whole.len() as u64), Vec::new()));
    }
}

#[test]
fn the_zstd_form_goes_on_where_its_frames_meet_after_a_restart() {
    let fixture = Fixture::new();
    let pushed = push(&fixture.open(), &compressible()).unwrap();
    let (_, whole) = zstd(&fixture.open(), &pushed, 0).unwrap();
    let (mut piece, mut border) = (TransportPiece::FIRST, 0);
    while border < whole.len() {
        assert!(zstd::decode_all(&whole[border..]).unwrap() == pushed.bytes[piece.start() as usize..], "{piece:?}");
        // Nothing is measured yet: the same bytes all the same.
        for start in [border.max(2) - 1, border, border + 1] {
            let (total, tail) = zstd(&fixture.open(), &pushed, start as u64).unwrap();
            assert!(start == 0 || total == Some(whole.len() as u64), "from {start}");
            assert!(tail == whole[start..], "from {start}");
        }
        border += zstd::zstd_safe::find_frame_compressed_size(&whole[border..]).unwrap();
        piece = piece.following();
    }
    assert_eq!(piece.number(), 4);
}

#[test]
fn the_zstd_form_of_a_small_nar_comes_whole_with_its_length() {
    let engine = Fixture::new().open();
    let around = noise(1, 8).len() - 8;
    for (nar_bytes, frames) in [(1 << 10, 1), (64 << 10, 1), ((64 << 10) + 8, 2), (256 << 10, 2)] {
        let pushed = push(&engine, &noise(nar_bytes as u64, nar_bytes - around)).unwrap();
        assert_eq!(pushed.bytes.len(), nar_bytes);
        let (mut encoder, mut expected, mut count) = (TransportEncoder::new().unwrap(), Vec::new(), 0);
        for piece in TransportPiece::cut(&pushed.bytes) {
            encoder.encode(piece, &mut expected).unwrap();
            count += 1;
        }
        let mut form = engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, 0).unwrap();
        assert_eq!((form.total(), count), (Some(expected.len() as u64), frames), "{nar_bytes}");
        assert!(form.next().unwrap().unwrap() == expected, "{nar_bytes}");
        assert_eq!(form.next().unwrap(), None, "{nar_bytes}");
        // What was measured on the way is right.
        for start in [1, 64 << 10, 65 << 10, expected.len() - 1].map(|start| start.min(expected.len())) {
            let (total, tail) = zstd(&engine, &pushed, start as u64).unwrap();
            assert!(total == Some(expected.len() as u64) && tail == expected[start..], "{nar_bytes} from {start}");
        }
    }
    // One that is longer comes frame by frame.
    let pushed = push(&engine, &noise(1, (256 << 10) + 8 - around)).unwrap();
    let mut form = engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, 0).unwrap();
    assert_eq!(form.total(), None);
    let first = form.next().unwrap().unwrap();
    assert!(zstd::bulk::decompress(&first, 1 << 20).unwrap() == pushed.bytes[..64 << 10]);
}

#[test]
fn the_zstd_form_does_not_depend_on_how_chunks_are_stored() {
    let nar = package_with(5, 900_000, &[path("glibc")]);
    let mut forms = Vec::new();
    for (frame_bytes, level) in [(1 << 20, 3), (40_000, 1), (1, 9)] {
        let mut fixture = Fixture::new();
        fixture.options = Options { frame_bytes, compression_level: level, ..fixture.options };
        let engine = fixture.open();
        let pushed = push(&engine, &nar).unwrap();
        forms.push(zstd(&engine, &pushed, 0).unwrap().1);
    }
    assert!(forms.windows(2).all(|pair| pair[0] == pair[1]));
}

/// Clients resume transfers across upgrades of the server: these bytes may not change behind a URL. If another libzstd
/// makes other bytes, the form needs a new name, not this test a new hash.
#[test]
fn the_zstd_form_is_the_one_that_was_always_served() {
    let engine = Fixture::new().open();
    let goldens = [
        (
            package_with(7, 2_000_000, &[path("glibc"), path("bash")]),
            "ce2d713ff8fc2fd134f8d8e457c85644f021b137160393e7f977b926fea8a89d",
            1_698_303,
        ),
        (compressible(), "dc47c5d8f97304f0052469828a2fe5aab75a0d5ee4e934742a6a9b9d9ad5bda8", 557),
        (noise(9, 300_000), "4537b7894d05a29acd2b1e278279687ceeab5a0f187f1a6ba076dcb266af131d", 300_137),
    ];
    for (nar, hash, len) in goldens {
        let pushed = push(&engine, &nar).unwrap();
        let (_, form) = zstd(&engine, &pushed, 0).unwrap();
        assert_eq!((sha256(&form).to_hex().as_str(), form.len()), (hash, len));
    }
}

#[test]
fn every_zstd_frame_stands_alone_and_names_its_size() {
    let engine = Fixture::new().open();
    let pushed = push(&engine, &package(7, 900_000)).unwrap();
    let mut form = engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, 0).unwrap();
    for expected in TransportPiece::cut(&pushed.bytes) {
        let frame = form.next().unwrap().unwrap();
        assert_eq!(zstd::zstd_safe::get_frame_content_size(&frame).unwrap(), Some(expected.len() as u64));
        assert!(zstd::bulk::decompress(&frame, expected.len()).unwrap() == expected);
        assert_eq!(frame[4] & 4, 0, "the frame's header must name no checksum");
    }
    assert!(form.next().unwrap().is_none());
}

#[test]
fn several_zstd_frames_at_once_are_the_same_bytes() {
    let engine = Fixture::new().open();
    let pushed = push(&engine, &package_with(7, 2_000_000, &[path("glibc"), path("bash")])).unwrap();
    let (_, whole) = zstd(&engine, &pushed, 0).unwrap();
    for start in [0, 1, whole.len() - 1] {
        let mut form = engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, start as u64).unwrap();
        let (mut bytes, mut calls) = (Vec::new(), 0);
        while let Some(frames) = form.next_few(3).unwrap() {
            bytes.extend_from_slice(&frames);
            calls += 1;
        }
        assert!(bytes == whole[start..], "from {start}");
        let count = TransportPiece::count(pushed.bytes.len() as u64);
        assert!(start > 1 || calls == count.div_ceil(3), "{calls} calls");
    }
}

#[test]
fn wrong_slots_are_an_error_and_no_damage() {
    let engine = Fixture::new().open();
    let pushed = push(&engine, &package_with(5, 90_000, &[path("glibc")])).unwrap();
    assert_eq!(pushed.slots.len(), 1);
    assert!(engine.restore(&pushed.recipe, &[], 0..u64::MAX).is_err());
    assert!(engine.is_restorable(&pushed.recipe).unwrap());
    pushed.check(&engine).unwrap();
}
