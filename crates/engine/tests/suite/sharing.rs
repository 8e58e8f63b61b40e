//! What is stored once, and what is visible when.

use firn_chunk::{Chunker, Input, RecipeId};
use firn_engine::{Clock as _, DocumentContent, Engine, Error, IngestStats};
use firn_index::{AliasRow, Content, DocumentKey, DocumentKind, PackState, Refusal};
use firn_nix::StorePath;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::{
    Fixture, Pushed, cache, cache_row, ingest, ingest_as, noise, objects, package, package_with, path, push, push_path,
    uploader,
};

#[test]
fn a_known_recipe_stores_a_record_and_nothing_else() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let nar = package(1, 700_000);
    let first = push(&engine, &nar).unwrap();
    let before = engine.stats().unwrap();

    let again = ingest(&engine, &nar).unwrap();
    let chunks = again.stats.chunks;
    assert_eq!(again.stats, IngestStats { chunks, known_recipe: true, ..IngestStats::default() });
    assert_eq!((again.recipe, again.nar_hash), (first.recipe, first.nar_hash));
    assert_eq!(engine.stats().unwrap().totals, before.totals, "taking it in must not write");
    engine.commit_nar(&cache(), again, None).unwrap();
    let grown = engine.stats().unwrap().totals.stored_bytes - before.totals.stored_bytes;
    assert!(grown < 400, "a record is some 200 bytes, and {grown} were written");
}

#[test]
fn a_rebuild_that_changes_only_hashes_shares_its_recipe() {
    let engine = Fixture::new().open();
    let dependencies = |generation: u8| ["glibc", "bash"].map(|name| rebuilt(name, generation));
    let old = push(&engine, &package_with(1, 700_000, &dependencies(1))).unwrap();
    let nar = package_with(1, 700_000, &dependencies(2));
    let new = ingest(&engine, &nar).unwrap();
    assert!(new.stats.known_recipe);
    assert_eq!((new.stats.new_chunks, new.stats.stored_bytes), (0, 0));
    assert_eq!(new.recipe, old.recipe);
    assert_ne!(new.slots, old.slots);
    let new_pushed = Pushed::of(&new, &nar);
    engine.commit_nar(&cache(), new, None).unwrap();
    new_pushed.check(&engine).unwrap();
    old.check(&engine).unwrap();
}

#[test]
fn a_part_that_is_known_is_not_stored_again() {
    let engine = Fixture::new().open();
    let (shared, own) = (noise(1, 2_000_000), noise(2, 300_000));
    push(&engine, &shared).unwrap();
    let before = engine.stats().unwrap().totals.unique_bytes;
    let both = ingest_as(&engine, Input::Bytes, &[&shared[..], &own].concat()).unwrap();
    assert!(!both.stats.known_recipe);
    assert!(both.stats.unique_bytes < own.len() as u64 + 600_000, "{:?}", both.stats);
    assert_eq!(engine.stats().unwrap().totals.unique_bytes - before, both.stats.unique_bytes);
}

#[test]
fn repetitions_inside_one_nar_are_stored_once() {
    let engine = Fixture::new().open();
    let nar = Node::directory((0..10).map(|n| (format!("copy-{n}"), Node::file(noise(1, 100_000)))));
    let ingested = ingest(&engine, &nar.encode()).unwrap();
    assert!(ingested.stats.unique_bytes < 110_000, "{:?}", ingested.stats);
}

#[test]
fn nothing_is_visible_before_it_is_committed() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let nar = package(1, 700_000);
    let ingested = ingest(&engine, &nar).unwrap();
    let pushed = Pushed::of(&ingested, &nar);
    let is_visible = || {
        let meta = engine.meta();
        meta.nar(&cache(), &pushed.nar_hash).unwrap().is_some()
            || meta.recipe(&pushed.recipe).unwrap().is_some()
            || engine.is_restorable(&pushed.recipe).unwrap()
    };
    assert!(!is_visible());
    assert!(matches!(pushed.check(&engine), Err(Error::NotFound { .. })));
    assert!(matches!(engine.commit_path(&cache(), pushed.as_path("a")), Err(Error::WrongNar { .. })));
    drop(ingested);
    assert!(!is_visible(), "an abandoned upload must stay invisible");
    assert_eq!(fixture.meta.oldest_session(fixture.clock.now()).unwrap(), None);

    let pushed = push(&engine, &nar).unwrap();
    assert!(is_visible());
    assert!(engine.meta().path(&cache(), &path("a").hash()).unwrap().is_none());
    engine.commit_path(&cache(), pushed.as_path("a")).unwrap();
    assert!(engine.meta().path(&cache(), &path("a").hash()).unwrap().is_some());
}

#[test]
fn what_is_not_there_is_not_found() {
    let engine = Fixture::new().open();
    let unknown = RecipeId([9; 32]);
    assert!(matches!(engine.restore(&unknown, &[], 0..1), Err(Error::NotFound { .. })));
    assert!(matches!(engine.listing(&unknown, &[]), Err(Error::NotFound { .. })));
    assert!(!engine.is_restorable(&unknown).unwrap());
}

#[test]
fn a_cache_that_is_not_there_takes_nothing() {
    let engine = Fixture::new().open();
    let other = "other".parse().unwrap();
    let ingested = ingest(&engine, &package(1, 100_000)).unwrap();
    let error = engine.commit_nar(&other, ingested, None).err().unwrap();
    assert!(matches!(&error, Error::Refused(Refusal::CacheGone(name)) if *name == other), "{error:?}");
}

/// Returns a path as a rebuild makes it: the same name behind another hash.
fn rebuilt(name: &str, generation: u8) -> StorePath {
    StorePath::new(path(&format!("{name}-{generation}")).hash(), name).unwrap()
}

#[test]
fn a_lease_that_ran_out_is_refused_and_the_next_upload_goes_through() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let nar = package(1, 100_000);
    let ingested = ingest(&engine, &nar).unwrap();
    fixture.clock.advance(fixture.options.session_lease_seconds + 1);
    let error = engine.commit_nar(&cache(), ingested, None).err().unwrap();
    assert!(matches!(error, Error::Refused(Refusal::SessionExpired)), "{error:?}");

    let mut slow = engine.ingest(Input::Nar).unwrap();
    for piece in nar.chunks(nar.len() / 5) {
        slow.write(piece).unwrap();
        // Signs of life come often enough.
        fixture.clock.advance(fixture.options.session_lease_seconds * 2 / 3);
    }
    let mut stalled = engine.ingest(Input::Nar).unwrap();
    fixture.clock.advance(fixture.options.session_lease_seconds + 1);
    assert!(matches!(stalled.write(&nar), Err(Error::Refused(Refusal::SessionExpired))));

    push(&engine, &nar).unwrap().check(&engine).unwrap();
}

#[test]
fn a_nar_keeps_the_name_under_which_it_was_sent_and_its_lease() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let ingested = ingest(&engine, &package(1, 100_000)).unwrap();
    let (nar_hash, length) = (ingested.nar_hash, ingested.length);
    let alias = AliasRow { nar_hash, compression: "xz".to_owned(), file_size: 4711 };
    engine.commit_nar(&cache(), ingested, Some(("abc.nar.xz".to_owned(), alias.clone()))).unwrap();
    assert_eq!(engine.meta().alias(&cache(), "abc.nar.xz").unwrap(), Some(alias));
    let row = engine.meta().nar(&cache(), &nar_hash).unwrap().unwrap();
    assert_eq!(row.nar_size, length);
    assert_eq!(row.lease_until - row.uploaded_at, fixture.options.nar_lease_seconds);
}

#[test]
fn documents_are_inline_up_to_4_kib_and_chunks_above() {
    let engine = Fixture::new().open();
    let key = DocumentKey { kind: DocumentKind::Log, name: "abc.drv".to_owned() };
    for len in [0, 4096, 4097, 300_000] {
        let bytes = Random::new(3).text(len);
        let content = DocumentContent::Inline(bytes.clone());
        engine.commit_document(&cache(), key.clone(), content, uploader("b")).unwrap();
        let row = engine.meta().document(&cache(), &key).unwrap().unwrap();
        match row.content {
            Content::Inline(found) => assert!(len <= 4096 && found == bytes, "{len}"),
            Content::Recipe { recipe, slots, length } => {
                assert!(len > 4096 && length == len as u64, "{len}");
                let nar_hash = firn_nix::Sha256([0; 32]);
                Pushed { nar_hash, recipe, slots, bytes }.check(&engine).unwrap();
            }
        }
    }
}

#[test]
fn totals_are_what_the_packs_hold() {
    let mut fixture = Fixture::new();
    fixture.options.pack_bytes = 400_000;
    let engine = fixture.open();
    let mut unique = 0;
    for seed in 0..6 {
        let ingested = ingest(&engine, &package(seed, 200_000)).unwrap();
        unique += ingested.stats.unique_bytes;
        engine.commit_nar(&cache(), ingested, None).unwrap();
    }
    let pushed = push_path(&engine, "a", &package(0, 200_000)).unwrap();
    let open = engine.stats().unwrap();
    assert_eq!(open.totals.unique_bytes, unique);
    engine.close().unwrap();
    let closed = engine.stats().unwrap();
    assert_eq!(closed.totals.unique_bytes, unique);
    assert_eq!(closed.totals.stored_bytes, objects(&*fixture.storage).iter().map(|(_, len)| len).sum::<u64>());
    assert_eq!((closed.totals.paths, closed.totals.logical_bytes), (1, pushed.bytes.len() as u64));
    assert_eq!(closed.chunks_in_flight, 0);
}

/// Returns a NAR each of whose chunks lies in another frame, where another upload stored it.
fn scattered(engine: &Engine) -> Vec<u8> {
    let (mut contents, mut seed) = (Vec::new(), 0);
    for _ in 0..60 {
        let file = Random::new(seed).noise(600_000);
        push(engine, &Node::file(file.clone()).encode()).unwrap();
        let (mut chunker, mut chunks) = (Chunker::new(Input::Bytes), Vec::new());
        chunker.push(&file, &mut |chunk| chunks.push(chunk.data.to_vec())).unwrap();
        chunker.finish(&mut |chunk| chunks.push(chunk.data.to_vec())).unwrap();
        contents.extend_from_slice(&chunks[0]);
        // The cut is made again where the same byte comes behind it.
        let behind = chunks[1][0];
        seed = (seed + 1..).find(|&seed| Random::new(seed).noise(1)[0] == behind).unwrap();
    }
    Node::file(contents).encode()
}

#[test]
fn what_was_gathered_again_is_not_gathered_another_time() {
    let engine = Fixture::new().open();
    let nar = scattered(&engine);
    let first = ingest(&engine, &nar).unwrap();
    assert!(first.stats.unique_bytes > 300_000, "scattered chunks are stored again: {:?}", first.stats);
    let pushed = Pushed::of(&first, &nar);
    engine.commit_nar(&cache(), first, None).unwrap();
    for _ in 0..3 {
        let again = ingest(&engine, &nar).unwrap();
        assert!(again.stats.known_recipe);
        assert_eq!(again.stats.unique_bytes, 0, "a known recipe stores nothing: {:?}", again.stats);
        engine.commit_nar(&cache(), again, None).unwrap();
    }
    pushed.check(&engine).unwrap();
}

/// What an upload leans on may be taken away until it is committed, and the commit finds out.
#[test]
fn a_commit_revives_a_condemned_pack_and_is_refused_for_a_doomed_one() {
    for is_doomed in [false, true] {
        let fixture = Fixture::new();
        let engine = fixture.open();
        let nar = package(1, 100_000);
        drop(ingest(&engine, &nar).unwrap());
        engine.close().unwrap();
        let (pack, _) = fixture.meta.packs(None, 1).unwrap().remove(0);

        let engine = fixture.open();
        let ingested = ingest(&engine, &nar).unwrap();
        assert_eq!((ingested.stats.new_chunks, ingested.stats.known_recipe), (0, false));
        let pushed = Pushed::of(&ingested, &nar);
        assert!(fixture.meta.set_pack_state(pack, PackState::Live, PackState::Condemned, 7).unwrap());
        if is_doomed {
            assert!(fixture.meta.set_pack_state(pack, PackState::Condemned, PackState::Doomed, 7).unwrap());
        }
        let outcome = engine.commit_nar(&cache(), ingested, None);
        let state = fixture.meta.pack(pack).unwrap().unwrap().state;
        if is_doomed {
            assert!(matches!(outcome, Err(Error::Refused(Refusal::PacksGone(gone))) if gone == [pack]));
            assert!(matches!(pushed.check(&engine), Err(Error::NotFound { .. })));
            assert_eq!(state, PackState::Doomed);
        } else {
            outcome.unwrap();
            pushed.check(&engine).unwrap();
            assert_eq!(state, PackState::Live);
        }
    }
}

#[test]
fn a_nar_that_a_cache_has_need_not_be_taken_in_again() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let nar = package(1, 700_000);
    let caches = ["other".parse().unwrap(), cache()];
    engine.meta().put_cache(&caches[0], &cache_row()).unwrap();
    let first = push(&engine, &nar).unwrap();
    assert!(engine.reuse(&caches[..1], &first.nar_hash).unwrap().is_none(), "it is in the other cache only");
    assert!(engine.reuse(&caches, &firn_nix::Sha256([9; 32])).unwrap().is_none());

    let again = engine.reuse(&caches, &first.nar_hash).unwrap().expect("the cache has it");
    assert_eq!((again.recipe, &again.slots, again.length), (first.recipe, &first.slots, nar.len() as u64));
    engine.commit_nar(&caches[0], again, None).unwrap();
    assert_eq!(engine.meta().nar(&caches[0], &first.nar_hash).unwrap().map(|row| row.recipe), Some(first.recipe));
}

#[test]
fn a_reused_nar_whose_session_ran_out_is_refused() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let first = push(&engine, &package(1, 10_000)).unwrap();
    let mut again = engine.reuse(&[cache()], &first.nar_hash).unwrap().expect("the cache has it");
    fixture.clock.advance(fixture.options.session_lease_seconds + 1);
    assert!(matches!(again.renew(), Err(Error::Refused(Refusal::SessionExpired))));
    let committed = engine.commit_nar(&cache(), again, None);
    assert!(matches!(committed, Err(Error::Refused(Refusal::SessionExpired))), "{committed:?}");
}
