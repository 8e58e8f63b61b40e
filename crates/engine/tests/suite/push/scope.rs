//! What a pusher is told, and what is stored all the same.

use std::sync::Arc;

use firn_engine::{DocumentContent, Engine, Error, PathOutcome, Scope};
use firn_index::{CacheName, CacheRow, Content, DocumentKey, DocumentKind, TokenId};

use crate::fixture::broken::{BrokenChunks, When};
use crate::fixture::client::{Local, error_of, frame};
use crate::fixture::{Fixture, cache, cache_row, noise, package, path, push, uploader};

fn secret() -> CacheName {
    "secret".parse().unwrap()
}

fn only(cache: CacheName) -> Scope {
    Scope::Caches(vec![cache])
}

/// Returns a store with two caches, of which the secret one has a path.
fn store() -> (Fixture, Engine, Local) {
    let fixture = Fixture::new();
    fixture.meta.put_cache(&secret(), &cache_row()).unwrap();
    let engine = fixture.open();
    let local = Local::of(&noise(1, 2_000_000));
    let session = engine.begin_session().unwrap();
    let assembled = local.assemble(&engine, session, &Scope::Store, &secret()).unwrap();
    engine.commit_pushed(&secret(), vec![(local.pushed().as_path("tool"), Some(assembled))]).remove(0).unwrap();
    (fixture, engine, local)
}

/// Returns whether a scope is told of a NAR: of all of its chunks, and of its recipe.
fn told(engine: &Engine, scope: &Scope, local: &Local) -> (bool, bool) {
    let missing = engine.missing_chunks(scope, &local.ids()).unwrap();
    assert!(missing.iter().all(|chunk| *chunk == missing[0]));
    (!missing[0], engine.known_recipes(scope, &[local.known().recipe]).unwrap()[0])
}

#[test]
fn what_a_token_may_not_read_is_missing_until_it_is_sent_and_then_stored_once() {
    let (_, engine, local) = store();
    for scope in [Scope::Store, only(secret()), Scope::Caches(vec![cache(), secret()])] {
        assert_eq!(told(&engine, &scope, &local), (true, true));
    }
    let scope = only(cache());
    assert_eq!(told(&engine, &scope, &local), (false, false));
    let session = engine.begin_session().unwrap();
    let assemble = |claim| engine.assemble(session, &scope, &cache(), claim);
    assert!(matches!(error_of(assemble(local.known())), Error::RecipeUnknown));
    let all = vec![true; local.chunks.len()];
    assert!(matches!(error_of(assemble(local.claim())), Error::MissingChunks(missing) if missing == all));

    let before = engine.stats().unwrap().totals;
    // One who may read everything knows it all without; others of the cache know of it once it is committed.
    let sent = local.send(&engine, session, &cache()).unwrap();
    assert_eq!((sent.new_chunks, sent.stored_bytes), (0, 0));
    assert_eq!(told(&engine, &scope, &local), (false, false));
    local.send_as(&engine, session, &scope, &cache(), |_| true).unwrap();
    assert_eq!(told(&engine, &scope, &local), (true, false));
    assert!(matches!(error_of(assemble(local.known())), Error::RecipeUnknown));
    let assembled = assemble(local.claim()).unwrap();
    let outcome = engine.commit_pushed(&cache(), vec![(local.pushed().as_path("mine"), Some(assembled))]).remove(0);
    assert_eq!(outcome.unwrap(), PathOutcome::Created);
    let after = engine.stats().unwrap().totals;
    assert_eq!(after.unique_bytes, before.unique_bytes);
    assert!(after.stored_bytes < before.stored_bytes + 400, "it is one record");
    assert_eq!(told(&engine, &scope, &local), (true, true));
    assemble(local.known()).unwrap();
}

#[test]
fn a_part_is_told() {
    let (_, engine, local) = store();
    let session = engine.begin_session().unwrap();
    local.send_as(&engine, session, &only(cache()), &cache(), |n| n % 2 == 0).unwrap();
    let odd: Vec<bool> = (0..local.chunks.len()).map(|n| n % 2 == 1).collect();
    assert_eq!(engine.missing_chunks(&only(cache()), &local.ids()).unwrap(), odd);
    let error = error_of(engine.assemble(session, &only(cache()), &cache(), local.claim()));
    assert!(matches!(error, Error::MissingChunks(missing) if missing == odd));
}

/// A token that may push and not read is told nothing but what it sent itself, and gets that committed.
#[test]
fn who_may_read_nothing_can_push_and_is_told_of_nobody_else() {
    let (_, engine, local) = store();
    let sender = |token, cache| Scope::Sender { token: TokenId(token), cache, readable: vec![] };
    for target in [cache(), secret()] {
        let scope = sender(5, target.clone());
        assert_eq!(told(&engine, &scope, &local), (false, false));
        let session = engine.begin_session().unwrap();
        // To claim it is not to have it, in a cache that has it all as well.
        let all = vec![true; local.chunks.len()];
        let claimed = |claim| error_of(engine.assemble(session, &scope, &target, claim));
        assert!(matches!(claimed(local.claim()), Error::MissingChunks(missing) if missing == all));
        assert!(matches!(claimed(local.known()), Error::RecipeUnknown));
        let assembled = local.assemble(&engine, session, &scope, &target).unwrap();
        assert_eq!(told(&engine, &scope, &local), (true, false));
        let batch = vec![(local.pushed().as_path("mine"), Some(assembled))];
        engine.commit_pushed(&target, batch).remove(0).unwrap();
        // From now on the same costs it a record; others with such a token are told nothing.
        assert_eq!(told(&engine, &scope, &local), (true, true));
        engine.assemble(session, &scope, &target, local.known()).map(drop).unwrap();
        assert_eq!(told(&engine, &sender(6, target.clone()), &local), (false, false));
        assert_eq!(told(&engine, &only(target), &local), (true, true));
    }
    assert_eq!(told(&engine, &sender(5, "other".parse().unwrap()), &local), (false, false));
}

#[test]
fn who_may_read_nothing_is_told_of_the_paths_that_it_brought() {
    let (_, engine, local) = store();
    let hashes = [path("tool").hash(), path("mine").hash(), path("absent").hash()];
    let missing = |token: Option<u64>| engine.missing_paths(&secret(), token.map(TokenId), &hashes).unwrap();
    let session = engine.begin_session().unwrap();
    let assembled = local.assemble(&engine, session, &Scope::Store, &secret()).unwrap();
    let mut upload = local.pushed().as_path("mine");
    upload.uploader.token = Some(TokenId(5));
    engine.commit_pushed(&secret(), vec![(upload, Some(assembled))]).remove(0).unwrap();
    assert_eq!(missing(None), [false, false, true]);
    assert_eq!(missing(Some(5)), [true, false, true]);
    assert_eq!(missing(Some(6)), [true, true, true]);
}

#[test]
fn what_stock_uploads_bring_is_told_to_readers_of_their_cache_alone() {
    let (_, engine, _) = store();
    let nar = Local::of(&package(5, 300_000));
    push(&engine, &nar.nar).unwrap();
    assert_eq!(told(&engine, &only(cache()), &nar), (true, true));
    assert_eq!(told(&engine, &only(secret()), &nar), (false, false));

    // The same NAR for the other cache, taken by its hash alone.
    let reused = engine.reuse(&[cache()], &nar.nar_hash).unwrap().unwrap();
    engine.commit_nar(&secret(), reused, None).unwrap();
    assert_eq!(told(&engine, &only(secret()), &nar), (true, true));

    let key = DocumentKey { kind: DocumentKind::Log, name: "log".to_owned() };
    let content = DocumentContent::Inline(noise(6, 50_000));
    engine.commit_document(&secret(), key.clone(), content, uploader("b")).unwrap();
    let Content::Recipe { recipe, .. } = engine.meta().document(&secret(), &key).unwrap().unwrap().content else {
        panic!("it is long");
    };
    assert_eq!(engine.known_recipes(&only(secret()), &[recipe]).unwrap(), [true]);
    assert_eq!(engine.known_recipes(&only(cache()), &[recipe]).unwrap(), [false]);
}

#[test]
fn a_cache_that_is_made_again_inherits_nothing() {
    let (fixture, engine, local) = store();
    assert_eq!(told(&engine, &only(secret()), &local), (true, true));
    assert!(fixture.meta.delete_cache(&secret()).unwrap());
    assert_eq!(told(&engine, &only(secret()), &local), (false, false));
    fixture.meta.put_cache(&secret(), &CacheRow { created_at: 7, ..cache_row() }).unwrap();
    assert_eq!(told(&engine, &only(secret()), &local), (false, false));
    assert_eq!(told(&engine, &Scope::Store, &local), (true, true));
}

#[test]
fn what_a_cache_has_seen_can_be_forgotten() {
    let (_, engine, local) = store();
    let session = engine.begin_session().unwrap();
    local.send_as(&engine, session, &only(cache()), &cache(), |_| true).unwrap();
    engine.forget_cache(&secret()).unwrap();
    assert_eq!(told(&engine, &only(secret()), &local), (false, false));
    assert_eq!(told(&engine, &only(cache()), &local), (true, false));
}

#[test]
fn a_recipe_that_is_sent_as_a_chunk_opens_nothing() {
    let (_, engine, local) = store();
    let session = engine.begin_session().unwrap();
    let scope = only(cache());
    engine.take_frames(session, &scope, &cache(), frame(&[&local.recipe.encode()])[..].into()).unwrap();
    assert_eq!(told(&engine, &scope, &local), (false, false));
    let assemble = |claim| engine.assemble(session, &scope, &cache(), claim);
    assert!(matches!(error_of(assemble(local.known())), Error::RecipeUnknown));
    assert!(matches!(error_of(assemble(local.claim())), Error::MissingChunks(missing) if !missing.contains(&false)));
}

#[test]
fn what_can_not_be_noted_is_committed_and_sent_again() {
    let fixture = Fixture::new();
    let chunks = Arc::new(BrokenChunks::new(Arc::clone(&fixture.chunks)));
    let engine = Fixture { chunks: chunks.clone(), ..fixture }.open();
    let nar = Local::of(&package(5, 300_000));
    chunks.plan(Some("note_seen"), 0, When::Before);
    push(&engine, &nar.nar).unwrap().check(&engine).unwrap();
    assert!(chunks.fired());
    let scope = only(cache());
    assert_eq!(told(&engine, &scope, &nar), (false, false));
    let session = engine.begin_session().unwrap();
    let assembled = nar.assemble(&engine, session, &scope, &cache()).unwrap();
    engine.commit_pushed(&cache(), vec![(nar.pushed().as_path("tool"), Some(assembled))]).remove(0).unwrap();
    assert_eq!(told(&engine, &scope, &nar), (true, true));
}

#[test]
fn a_question_of_any_length_is_answered() {
    let (_, engine, local) = store();
    let unknown = |n: u32| firn_chunk::ChunkId::of(&n.to_le_bytes());
    let mut ids: Vec<_> = (0..10_000).map(unknown).collect();
    ids[5_000] = local.ids()[0];
    for scope in [Scope::Store, only(secret())] {
        let missing = engine.missing_chunks(&scope, &ids).unwrap();
        assert_eq!(missing.len(), 10_000);
        assert_eq!(missing.iter().position(|missing| !missing), Some(5_000));
    }
    assert_eq!(engine.missing_chunks(&Scope::Store, &[]).unwrap(), Vec::<bool>::new());
}
