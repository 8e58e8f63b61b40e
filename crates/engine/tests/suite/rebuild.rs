//! An index made again from the packs says what the one said that was lost.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::Arc;

use firn_chunk::{ChunkId, RecipeId};
use firn_engine::{DocumentContent, Engine, Parts, PathOutcome, Rebuilt, rebuild};
use firn_index::memory::{MemoryChunkIndex, MemoryMeta};
use firn_index::{AliasRow, CacheName, DocumentKey, DocumentKind, Meta, PackRow, PackState, TokenId, TokenRow, Totals};
use firn_pack::{Footer, FrameKind};
use firn_storage::{Memory, Storage};

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::client::Local;
use crate::fixture::{
    Fixture, Pushed, cache, cache_row, ingest, noise, objects, package, package_with, path, push, push_path, uploader,
};

const ALL: usize = 100_000;

/// Makes another index from a store's packs.
fn again(fixture: &Fixture, old: Option<Arc<dyn Meta>>) -> (Fixture, Rebuilt) {
    let new =
        Fixture { meta: Arc::new(MemoryMeta::new()), chunks: Arc::new(MemoryChunkIndex::new()), ..fixture.clone() };
    let parts = Parts {
        storage: Arc::clone(&new.storage),
        meta: Arc::clone(&new.meta),
        chunks: Arc::clone(&new.chunks),
        old,
        clock: Arc::clone(&new.clock) as _,
        entropy: Arc::clone(&new.entropy) as _,
    };
    let done = rebuild(parts, &mut |_| cache_row()).unwrap();
    (new, done)
}

/// Everything that an index says and that is to be the same, as text.
fn rows(fixture: &Fixture) -> BTreeMap<String, String> {
    let meta = &fixture.meta;
    let mut rows = BTreeMap::new();
    let mut note = |what: &dyn Debug, row: &dyn Debug| _ = rows.insert(format!("{what:?}"), format!("{row:?}"));
    let mut needed = BTreeSet::new();
    for (name, row) in meta.caches().unwrap() {
        note(&("cache", &name), &row);
        for (hash, row) in meta.nars(&name, None, ALL).unwrap() {
            needed.insert(row.recipe);
            note(&("nar", &name, hash), &row);
        }
        for (alias, row) in meta.aliases(&name, None, ALL).unwrap() {
            note(&("alias", &name, alias), &row);
        }
        for (hash, row) in meta.paths(&name, None, ALL).unwrap() {
            note(&("path", &name, hash), &row);
        }
        for (key, row) in meta.documents(&name, None, ALL).unwrap() {
            if let firn_index::Content::Recipe { recipe, .. } = &row.content {
                needed.insert(*recipe);
            }
            note(&("document", &name, key), &row);
        }
    }
    for id in &needed {
        note(&("recipe", id), &meta.recipe(id).unwrap());
    }
    for (pack, row) in meta.packs(None, ALL).unwrap() {
        let edges = meta.recipes_of_pack(pack, None, ALL).unwrap();
        let edges: Vec<&RecipeId> = edges.iter().filter(|id| needed.contains(*id)).collect();
        let PackRow { state, stored_bytes, unique_bytes, .. } = row;
        note(&("pack", pack), &(state, stored_bytes, unique_bytes, edges));
    }
    note(&"totals", &meta.totals().unwrap());
    rows
}

/// Every chunk that footers tell of is found where it is.
fn check_chunks(fixture: &Fixture) {
    for (name, len) in objects(fixture.storage.as_ref()) {
        let read = |at, len| fixture.storage.read(&name, at, len).map_err(std::io::Error::other);
        let footer = Footer::open(read, len).unwrap();
        for (_, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks) {
            let ids: Vec<ChunkId> = entry.items.iter().map(|item| ChunkId(item.id)).collect();
            assert!(fixture.chunks.lookup(&ids).unwrap().iter().all(Option::is_some));
        }
    }
}

fn other() -> CacheName {
    "other".parse().unwrap()
}

/// A store with a little of everything: two caches, aliases, documents, replaced and merged rows, pushes by both ways.
fn filled() -> (Fixture, Vec<Pushed>) {
    let mut fixture = Fixture::new();
    fixture.options.pack_bytes = 1 << 20;
    fixture.meta.put_cache(&other(), &cache_row()).unwrap();
    let engine = fixture.open();
    let mut pushed = Vec::new();
    pushed.push(push_path(&engine, "bash", &package(1, 200_000)).unwrap());
    pushed.push(push_path(&engine, "tool", &package_with(2, 900_000, &[path("bash")])).unwrap());
    fixture.clock.advance(5);
    let local = Local::of(&package_with(3, 700_000, &[path("bash")]));
    assert_eq!(local.push(&engine, local.pushed().as_path("pushed")).unwrap(), PathOutcome::Created);
    pushed.push(local.pushed());
    // In another cache, under a name of the uploader's.
    let nar = package(4, 300_000);
    let ingested = ingest(&engine, &nar).unwrap();
    let elsewhere = Pushed::of(&ingested, &nar);
    let alias = AliasRow { nar_hash: elsewhere.nar_hash, compression: "xz".to_owned(), file_size: 7 };
    engine.commit_nar(&other(), ingested, Some(("file.nar.xz".to_owned(), alias))).unwrap();
    engine.commit_path(&other(), elsewhere.as_path("elsewhere")).unwrap();
    pushed.push(elsewhere);
    // A path that gathers signatures, one that is offered with another NAR, a NAR without a path, documents old and new.
    fixture.clock.advance(5);
    let mut again = pushed[0].as_path("bash");
    again.signatures = vec!["k-1:AAAA".to_owned()];
    assert_eq!(engine.commit_path(&cache(), again).unwrap(), PathOutcome::Merged);
    let second = push(&engine, &package(9, 100_000)).unwrap();
    assert_eq!(engine.commit_path(&cache(), second.as_path("bash")).unwrap(), PathOutcome::KeptFirst);
    pushed.push(second);
    for (kind, name, len) in [
        (DocumentKind::Log, "small", 100),
        (DocumentKind::Log, "large", 300_000),
        (DocumentKind::Realisation, "small", 50),
        (DocumentKind::Log, "small", 120),
    ] {
        let key = DocumentKey { kind, name: name.to_owned() };
        let content = DocumentContent::Inline(noise(len as u64, len));
        engine.commit_document(&cache(), key, content, uploader("builder")).unwrap();
    }
    engine.close().unwrap();
    (fixture, pushed)
}

fn check_all(engine: &Engine, pushed: &[Pushed]) {
    for one in pushed {
        one.check(engine).unwrap();
    }
}

#[test]
fn the_packs_alone_give_the_same_index() {
    let token = TokenRow {
        secret_hash: [1; 32],
        builder: "b".to_owned(),
        grants: Vec::new(),
        created_at: 1,
        expires_at: None,
        revoked_at: None,
    };
    for is_kept in [false, true] {
        let (fixture, pushed) = filled();
        fixture.meta.put_token(&TokenId(7), &token).unwrap();
        let (new, done) = again(&fixture, is_kept.then(|| Arc::clone(&fixture.meta)));
        assert_eq!(rows(&new), rows(&fixture), "kept: {is_kept}");
        assert_eq!((done.lost, done.damaged_frames, done.sealed), (0, 0, 0), "{done:?}");
        assert_eq!(done.packs, objects(fixture.storage.as_ref()).len() as u64);
        assert_eq!((done.paths, done.documents), (4, 4), "with what differs in the second NAR of a path");
        assert_eq!(new.meta.tokens().unwrap().len(), usize::from(is_kept), "tokens are in no pack");
        check_chunks(&new);
        let engine = new.open();
        check_all(&engine, &pushed);
        let (first, second) = (&pushed[0].nar_hash, &pushed[4].nar_hash);
        let found = engine.recorded_difference(&cache(), &path("bash").hash(), first, second).unwrap();
        assert!(found.is_some_and(|found| found.total > 0));
        // It takes uploads as before, and knows what it has.
        engine.learn(true).unwrap();
        let before = engine.stats().unwrap().totals.unique_bytes;
        push_path(&engine, "again", &pushed[1].bytes).unwrap();
        assert_eq!(engine.stats().unwrap().totals.unique_bytes, before);
        push_path(&engine, "new", &package(77, 50_000)).unwrap().check(&engine).unwrap();
        engine.close().unwrap();
        let (newest, _) = again(&new, None);
        assert_eq!(rows(&newest), rows(&new), "and once more, with what came since");
    }
}

#[test]
fn what_was_deleted_stays_deleted() {
    let (fixture, pushed) = filled();
    let engine = fixture.open();
    let options = firn_engine::GcOptions { dry_run: false, grace_seconds: 0, repack: None };
    assert!(engine.meta().delete_cache(&other()).unwrap());
    engine.record_deleted_caches().unwrap();
    fixture.clock.advance(3 * 24 * 3600);
    // The NAR without a path is past its lease.
    engine.collect(&options, &|_, _| {}).unwrap().unwrap();
    let kept = &pushed[..3];
    check_all(&engine, kept);
    engine.close().unwrap();
    let (new, done) = again(&fixture, None);
    let (new_rows, old_rows) = (rows(&new), rows(&fixture));
    let of = |rows: &BTreeMap<String, String>, kind: &str| {
        rows.iter().filter(|(key, _)| key.contains(kind)).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
    };
    for kind in ["cache", "nar", "alias", "path", "document", "recipe"] {
        assert_eq!(of(&new_rows, kind), of(&old_rows, kind), "{kind}: {done:?}");
    }
    check_all(&new.open(), kept);
}

#[test]
fn a_store_that_was_killed_comes_back_from_its_torn_pack() {
    let memory = Memory::new();
    let fixture = Fixture::on(Arc::new(memory.clone()));
    let engine = fixture.open();
    let first = push_path(&engine, "first", &noise(1, 900_000)).unwrap();
    let second = push_path(&engine, "second", &noise(2, 900_000)).unwrap();
    // The power goes: what was synced is there.
    let left = memory.after_torn_power_loss(&mut |_, bytes| bytes / 2);
    let (new, done) = again(&fixture.over(left), None);
    assert_eq!((done.sealed, done.lost, done.paths), (1, 0, 2), "{done:?}");
    let states: Vec<PackState> = new.meta.packs(None, ALL).unwrap().iter().map(|(_, row)| row.state).collect();
    assert_eq!(states, [PackState::Live]);
    let engine = new.open();
    check_all(&engine, &[first, second]);
}

#[test]
fn what_is_damaged_is_named_and_the_rest_comes_back() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 400_000;
    let engine = fixture.open();
    let pushed: Vec<Pushed> =
        (1..6).map(|seed| push_path(&engine, &format!("p{seed}"), &noise(seed, 300_000)).unwrap()).collect();
    engine.close().unwrap();
    let name = objects(&memory)[2].0.clone();
    memory.delete(&name).unwrap();
    let (new, done) = again(&fixture, None);
    let engine = new.open();
    let there = pushed.iter().filter(|one| one.check(&engine).is_ok()).count() as u64;
    let visible = new
        .meta
        .paths(&cache(), None, ALL)
        .unwrap()
        .into_iter()
        .filter(|(_, row)| {
            let nar = new.meta.nar(&cache(), &row.nar_hash).unwrap().unwrap();
            engine.is_restorable(&nar.recipe).unwrap()
        })
        .count() as u64;
    assert!((1..5).contains(&there), "{there}: {done:?}");
    assert_eq!(there, visible, "what is visible can be had, and what can't be had is not");
    for one in &pushed {
        crate::fixture::upload_again(&engine, &one.bytes);
        one.check(&engine).unwrap();
    }
}

#[test]
fn an_empty_store_has_an_empty_index() {
    let fixture = Fixture::new();
    fixture.open().close().unwrap();
    let (new, done) = again(&fixture, None);
    assert_eq!(done, Rebuilt::default());
    assert_eq!(new.meta.totals().unwrap(), Totals::default());
    push_path(&new.with_cache().open(), "first", &package(1, 1000)).unwrap();
}

#[test]
fn damage_that_was_known_stays_known() {
    let memory = Memory::new();
    let fixture = Fixture::on(Arc::new(memory.clone()));
    let engine = fixture.open();
    let pushed = push_path(&engine, "bad", &noise(1, 300_000)).unwrap();
    engine.close().unwrap();
    let (name, len) = objects(&memory)[0].clone();
    memory.damage(&name, len as usize / 2, 1).unwrap();
    let engine = fixture.open();
    assert!(pushed.check(&engine).is_err());
    engine.close().unwrap();
    let (new, _) = again(&fixture, Some(Arc::clone(&fixture.meta)));
    assert!(!new.open().is_restorable(&pushed.recipe).unwrap());
}

#[test]
fn what_a_crash_kept_from_being_deleted_is_there_after_a_rebuild() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    let sound = Arc::clone(&fixture.meta);
    let broken = Arc::new(BrokenMeta::new(Arc::clone(&sound)));
    fixture.meta = Arc::clone(&broken) as Arc<dyn Meta>;
    let engine = fixture.open();
    let pushed = push_path(&engine, "a", &noise(1, 100_000)).unwrap();
    // The first commit is the one behind which a deletion begins to look.
    broken.plan(Some("commit"), 1, When::Before);
    // The pack says that it is gone by now, the index does not.
    assert!(engine.delete_path(&cache(), &path("a").hash(), false, &|_, _| {}).is_err());
    assert!(broken.fired());
    let left = fixture.over(memory.after_power_loss());
    let fixture = Fixture { meta: sound, ..left };
    let (anew, _) = again(&fixture, None);
    assert_eq!(anew.meta.paths(&cache(), None, ALL).unwrap().len(), 0, "packs alone say that it is gone");
    let (new, done) = again(&fixture, Some(Arc::clone(&fixture.meta)));
    assert_eq!((done.paths, done.lost), (1, 0), "{done:?}");
    let engine = new.open();
    check_all(&engine, &[pushed]);
    engine.close().unwrap();
    assert_eq!(again(&new, None).1.paths, 1, "and packs alone say so from then on");
}

#[test]
fn what_happened_is_taken_over_from_the_earlier_index() {
    let (fixture, _) = filled();
    let key = firn_index::UsageKey { day: 20_000, cache: cache(), builder: "ci".to_owned() };
    let counted = firn_index::UsageRow { pushes: 3, ..Default::default() };
    fixture.meta.add_usage(&[(key.clone(), counted)]).unwrap();
    fixture.meta.put_summary(20_000, &Default::default(), b"{}").unwrap();
    let (new, _) = again(&fixture, Some(Arc::clone(&fixture.meta)));
    assert_eq!(new.meta.usage(0, None, ALL).unwrap(), fixture.meta.usage(0, None, ALL).unwrap());
    assert_eq!(new.meta.summaries(0).unwrap(), fixture.meta.summaries(0).unwrap());
    assert_eq!(new.meta.last_report().unwrap(), Some(b"{}".to_vec()));
    let mut known = 0;
    for (hash, _) in fixture.meta.paths(&cache(), None, ALL).unwrap() {
        let pushes = fixture.meta.provenance(&cache(), &hash).unwrap();
        assert_eq!(new.meta.provenance(&cache(), &hash).unwrap(), pushes);
        known += usize::from(pushes.is_some());
    }
    assert!(known > 0, "somebody pushed something");
    for (pack, _) in new.meta.packs(None, ALL).unwrap() {
        assert_eq!(new.meta.effort(pack).unwrap(), fixture.meta.effort(pack).unwrap());
    }
}
