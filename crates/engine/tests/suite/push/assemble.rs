//! Claims that are right, and claims that are not.

use std::cell::Cell;
use std::sync::Arc;

use firn_chunk::{ChunkId, ChunkRef, ChunkerId, Input, Patches, Recipe, RecipeId};
use firn_engine::{DocumentContent, Engine, Error, NarClaim, PathOutcome, Result, Scope};
use firn_index::{Content, DocumentKey, DocumentKind};
use firn_nix::{Sha256, StoreHash};
use firn_storage::{Memory, Meter};
use firn_testkit::random::Random;
use sha2::Digest;

use super::rebuilt;
use crate::fixture::client::{Local, error_of, frame};
use crate::fixture::{Fixture, cache, noise, objects, package, package_with, path, push, uploader};

fn assemble(engine: &Engine, claim: NarClaim) -> Result<()> {
    engine.assemble(engine.begin_session()?, &Scope::Store, &cache(), claim).map(drop)
}

/// Returns a store that holds the chunks of a package with three slots.
fn sent() -> (Engine, Local) {
    let engine = Fixture::new().open();
    let local = Local::of(&package_with(1, 800_000, &[path("glibc"), path("bash"), path("tool")]));
    assert_eq!(local.slots.len(), 3);
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    (engine, local)
}

fn claim_of(encoded: Vec<u8>, local: &Local) -> NarClaim {
    NarClaim { recipe: RecipeId::of(&encoded), encoded: Some(encoded), ..local.known() }
}

#[test]
fn encodings_that_are_no_recipe() {
    let (engine, local) = sent();
    let good = local.recipe.encode();
    let mut bad: Vec<(String, Vec<u8>)> = vec![
        ("nothing".to_owned(), vec![]),
        ("garbage".to_owned(), Random::new(1).noise(1000)),
        ("one byte more".to_owned(), [&good[..], &[0]].concat()),
        ("half".to_owned(), good[..good.len() / 2].to_vec()),
    ];
    let forged = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    bad.push(("another version".to_owned(), forged(4, &[9])));
    bad.push(("another length".to_owned(), forged(20, &(local.nar.len() as u64 + 1).to_le_bytes())));
    bad.push(("a huge length".to_owned(), forged(20, &u64::MAX.to_le_bytes())));
    bad.push(("an absurd count".to_owned(), forged(28, &u32::MAX.to_le_bytes())));
    bad.push(("a chunk less".to_owned(), forged(28, &(local.chunks.len() as u32 - 1).to_le_bytes())));
    bad.push(("another chunker".to_owned(), forged(12, &1_u32.to_le_bytes())));
    bad.push(("not of a NAR".to_owned(), forged(5, &[1])));
    let last = good.len() - 1;
    bad.push(("a slot that is skipped".to_owned(), forged(last, &[7])));
    for (what, bytes) in bad {
        let error = error_of(assemble(&engine, claim_of(bytes, &local)));
        assert!(matches!(error, Error::BadRecipe { .. }), "{what}: {error:?}");
    }
    // Under the name of another.
    let other = Local::of(&package(2, 1_000));
    let error = error_of(assemble(&engine, NarClaim { recipe: other.known().recipe, ..local.claim() }));
    assert!(matches!(error, Error::BadRecipe { .. }), "{error:?}");
    assemble(&engine, local.claim()).unwrap();
}

#[test]
fn claims_that_do_not_suit_their_recipe() {
    let (engine, local) = sent();
    let slots = |slots: &[StoreHash]| NarClaim { slots: slots.to_vec(), ..local.claim() };
    let [a, b, c] = local.slots[..] else { panic!("it has three slots") };
    for slots in [slots(&[]), slots(&[a, b]), slots(&[a, b, c, a])] {
        assert!(matches!(error_of(assemble(&engine, slots)), Error::BadRecipe { .. }));
    }
    let size = local.nar.len() as u64;
    let wrong = [
        slots(&[a, c, b]),
        slots(&[a, a, a]),
        NarClaim { nar_size: size - 1, ..local.claim() },
        NarClaim { nar_size: size + 1, ..local.claim() },
        NarClaim { nar_size: 0, ..local.claim() },
        NarClaim { nar_hash: Sha256([1; 32]), ..local.claim() },
    ];
    for claim in wrong {
        let error = error_of(assemble(&engine, claim));
        assert!(matches!(error, Error::WrongNar { .. }), "{error:?}");
    }
    assert!(matches!(error_of(assemble(&engine, local.known())), Error::RecipeUnknown));
    assert!(engine.meta().recipe(&local.known().recipe).unwrap().is_none());
    assert!(engine.meta().nar(&cache(), &local.nar_hash).unwrap().is_none());
    assert_eq!(local.push(&engine, local.pushed().as_path("tool")).unwrap(), PathOutcome::Created);
}

/// Returns the claim that some bytes, cut at will, are a NAR, and a frame with all its chunks.
fn claim(bytes: &[u8], chunk_bytes: usize, length: u64) -> (NarClaim, Vec<u8>) {
    let chunks: Vec<&[u8]> = bytes.chunks(chunk_bytes).collect();
    let refs = chunks.iter().map(|chunk| ChunkRef { id: ChunkId::of(chunk), len: chunk.len() as u32 }).collect();
    let (input, chunker, patches) = (Input::Nar, ChunkerId::CURRENT, Patches::default());
    let encoded = Recipe { input, chunker, length, chunks: refs, patches }.encode();
    let nar_hash = Sha256(sha2::Sha256::digest(bytes).into());
    let recipe = RecipeId::of(&encoded);
    (NarClaim { recipe, encoded: Some(encoded), slots: vec![], nar_hash, nar_size: length }, frame(&chunks))
}

#[test]
fn bytes_that_are_no_nar_are_refused_however_well_they_hash() {
    let engine = Fixture::new().open();
    let session = engine.begin_session().unwrap();
    let nar = package(1, 10_000);
    for bytes in [&b"not a NAR"[..], &nar[..nar.len() - 8], &[&nar[..], b"12345678"].concat()] {
        let (claim, frame) = claim(bytes, 10_000, bytes.len() as u64);
        engine.take_frames(session, &Scope::Store, &cache(), frame[..].into()).unwrap();
        let error = error_of(assemble(&engine, claim));
        assert!(matches!(error, Error::Nar(_)), "{error:?}");
    }
    // Cut otherwise than firn cuts, but a NAR all the same.
    let (claim, frame) = claim(&nar, 3_000, nar.len() as u64);
    engine.take_frames(session, &Scope::Store, &cache(), frame[..].into()).unwrap();
    assemble(&engine, claim).unwrap();
}

#[test]
fn a_recipe_of_crumbs_is_refused() {
    let engine = Fixture::new().open();
    let nar = noise(1, 400_000);
    for (chunk_bytes, good) in [(1500, false), (100, false), (2100, true)] {
        let (claim, frame) = claim(&nar, chunk_bytes, nar.len() as u64);
        engine.take_frames(engine.begin_session().unwrap(), &Scope::Store, &cache(), frame[..].into()).unwrap();
        match assemble(&engine, claim) {
            Ok(()) => assert!(good, "{chunk_bytes}"),
            Err(error) => assert!(!good && matches!(error, Error::BadRecipe { .. }), "{chunk_bytes}: {error:?}"),
        }
    }
    // Chunks that are shorter than the recipe's length never decode.
    let (claim, _) = claim(&nar, 5_000, nar.len() as u64 + 5);
    assert!(matches!(error_of(assemble(&engine, claim)), Error::BadRecipe { .. }));
}

#[test]
fn a_recipe_that_is_wrong_about_a_chunks_length_is_refused_and_the_chunk_stays() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.frame_cache_bytes = 0;
    let engine = fixture.open();
    let nar = noise(1, 24_000);
    let (first, second) = nar.split_at(15_000);
    let frame = frame(&[first, second]);
    engine.take_frames(engine.begin_session().unwrap(), &Scope::Store, &cache(), frame[..].into()).unwrap();
    let ids = [first, second].map(ChunkId::of);
    let chunk = |n: usize, len: usize| ChunkRef { id: ids[n], len: len as u32 };
    let cases = [
        vec![chunk(0, 10_000), chunk(0, 10_000)],
        vec![chunk(0, 5_000)],
        vec![chunk(0, 15_001), chunk(1, second.len())],
        vec![chunk(0, 15_000), chunk(1, second.len() - 1)],
        vec![chunk(0, 15_000), chunk(1, second.len() + 1)],
    ];
    for chunks in cases {
        let length = chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let (input, chunker, patches) = (Input::Nar, ChunkerId::CURRENT, Patches::default());
        let encoded = Recipe { input, chunker, length, chunks: chunks.clone(), patches }.encode();
        let recipe = RecipeId::of(&encoded);
        let nar_hash = Sha256([1; 32]);
        let claim = NarClaim { recipe, encoded: Some(encoded), slots: vec![], nar_hash, nar_size: length };
        let error = error_of(assemble(&engine, claim));
        assert!(matches!(error, Error::BadRecipe { .. }), "{chunks:?}: {error:?}");
        assert_eq!(engine.missing_chunks(&Scope::Store, &ids).unwrap(), [false, false], "{chunks:?}");
    }
}

#[test]
fn a_nar_over_the_limit_is_refused() {
    let mut fixture = Fixture::new();
    fixture.options.max_nar_bytes = 100_000;
    let engine = fixture.open();
    let local = Local::of(&package(1, 200_000));
    assert!(matches!(error_of(assemble(&engine, local.claim())), Error::TooLarge { limit: 100_000 }));
}

#[test]
fn a_recipe_of_a_document_is_no_nar() {
    let engine = Fixture::new().open();
    let bytes = package(1, 20_000);
    let key = DocumentKey { kind: DocumentKind::Log, name: "log".to_owned() };
    let content = DocumentContent::Inline(bytes.clone());
    engine.commit_document(&cache(), key.clone(), content, uploader("b")).unwrap();
    let Content::Recipe { recipe, .. } = engine.meta().document(&cache(), &key).unwrap().unwrap().content else {
        panic!("it is long");
    };
    let claim = NarClaim { recipe, encoded: None, ..Local::of(&bytes).known() };
    assert!(matches!(error_of(assemble(&engine, claim)), Error::BadRecipe { .. }));
}

#[test]
fn chunks_that_vanish_after_the_question_are_named() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let local = Local::of(&noise(1, 2_000_000));
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    push(&engine, &package(2, 100)).unwrap();
    let ids = local.ids();
    assert!(!engine.missing_chunks(&Scope::Store, &ids).unwrap().contains(&true));
    let gone: Vec<bool> = (0..ids.len()).map(|n| n % 3 == 1).collect();
    for (id, _) in ids.iter().zip(&gone).filter(|(_, gone)| **gone) {
        let loc = fixture.chunks.lookup(&[*id]).unwrap()[0].unwrap();
        fixture.chunks.forget(&[(*id, loc)]).unwrap();
    }
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), local.claim()));
    assert!(matches!(error, Error::MissingChunks(missing) if missing == gone));
    let sent = local.send_some(&engine, session, &cache(), |n| gone[n]).unwrap();
    assert_eq!(sent.new_chunks, gone.iter().filter(|gone| **gone).count() as u64);
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    local.pushed().check(&engine).unwrap();
}

#[test]
fn a_rebuild_that_changes_only_hashes_sends_no_chunk_and_no_recipe() {
    let engine = Fixture::new().open();
    let (old, new) = (rebuilt(1), rebuilt(2));
    old.push(&engine, old.pushed().as_path("old")).unwrap();
    assert_eq!(old.known().recipe, new.known().recipe);
    assert_ne!(old.slots, new.slots);
    let before = engine.stats().unwrap().totals;
    // What is claimed of it is checked, known as it is.
    let wrong = NarClaim { slots: new.slots.clone(), ..old.known() };
    assert!(matches!(error_of(assemble(&engine, wrong)), Error::WrongNar { .. }));
    let wrong = NarClaim { slots: old.slots.clone(), ..new.known() };
    assert!(matches!(error_of(assemble(&engine, wrong)), Error::WrongNar { .. }));
    assemble(&engine, new.known()).unwrap();
    new.push(&engine, new.pushed().as_path("new")).unwrap();
    let after = engine.stats().unwrap().totals;
    assert_eq!(after.unique_bytes, before.unique_bytes);
    assert!(after.stored_bytes < before.stored_bytes + 400);
    for local in [old, new] {
        local.pushed().check(&engine).unwrap();
    }
}

#[test]
fn only_the_very_same_nar_is_not_restored_again() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let mut fixture = Fixture::on(Arc::new(meter.clone()));
    fixture.options.frame_cache_bytes = 0;
    let other_cache = "other".parse().unwrap();
    fixture.meta.put_cache(&other_cache, &crate::fixture::cache_row()).unwrap();
    let engine = fixture.open();
    let (old, new) = (rebuilt(1), rebuilt(2));
    old.push(&engine, old.pushed().as_path("old")).unwrap();
    let session = engine.begin_session().unwrap();
    let reads_of = |scope: &Scope, cache: &firn_index::CacheName, claim| {
        let before = meter.counts();
        engine.assemble(session, scope, cache, claim).map(drop).unwrap();
        meter.counts().since(&before).reads
    };
    let reads = |cache: &firn_index::CacheName, claim| reads_of(&Scope::Store, cache, claim);
    assert!(reads(&cache(), new.known()) > 0, "the recipe is in memory from here on");
    assert_eq!(reads(&cache(), old.known()), 0);
    assert_eq!(reads(&cache(), old.claim()), 0);
    assert!(reads(&cache(), new.known()) > 0, "other slots");
    assert_eq!(reads(&other_cache, old.known()), 0, "another cache, for which the same was checked");
    let assembled = engine.assemble(session, &Scope::Store, &other_cache, new.known()).unwrap();
    let outcome = engine.commit_pushed(&other_cache, vec![(new.pushed().as_path("new"), Some(assembled))]).remove(0);
    outcome.unwrap();
    let may_read = |caches: &[&firn_index::CacheName]| Scope::Caches(caches.iter().copied().cloned().collect());
    assert!(reads_of(&may_read(&[&other_cache]), &other_cache, old.known()) > 0, "the first cache may not be read");
    assert_eq!(reads_of(&may_read(&[&cache(), &other_cache]), &other_cache, old.known()), 0);
    let wrong = NarClaim { nar_hash: new.nar_hash, ..old.known() };
    assert!(matches!(error_of(assemble(&engine, wrong)), Error::WrongNar { .. }));
}

#[test]
fn what_was_just_sent_is_not_read_again() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let engine = Fixture::on(Arc::new(meter.clone())).open();
    let local = Local::of(&package(1, 5_000_000));
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    let before = meter.counts();
    engine.assemble(session, &Scope::Store, &cache(), local.claim()).map(drop).unwrap();
    assert_eq!(meter.counts().since(&before).reads, 0);
    assert_eq!(objects(&meter).len(), 1);
}

#[test]
fn what_nobody_waits_for_is_given_up_and_can_be_assembled_later() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let local = Local::of(&package(1, 5_000_000));
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    let asked = Cell::new(0);
    let is_wanted = || {
        asked.set(asked.get() + 1);
        asked.get() < 2
    };
    let given_up = engine.assemble_while(session, &Scope::Store, &cache(), local.claim(), &is_wanted).unwrap();
    assert!(given_up.is_none());
    assert_eq!(asked.get(), 2, "it was restored no further");
    let assembled = engine.assemble(session, &Scope::Store, &cache(), local.claim()).unwrap();
    engine.commit_pushed(&cache(), vec![(local.pushed().as_path("tool"), Some(assembled))]).remove(0).unwrap();
    local.pushed().check(&engine).unwrap();
}
