//! What is true of every store in which nothing is going on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_engine::{Engine, Parts, Rebuilt, Result, rebuild};
use firn_index::PackState;

use crate::fixture::{Fixture, Pushed, cache, cache_row, objects};
use crate::indexes;

const ALL: usize = 100_000;

/// Checks that exactly these paths are visible and restore to their bytes, that sums are what a recount gives, that nothing
/// which is needed is doomed, and that every object is known.
pub(crate) fn check(fixture: &Fixture, engine: &Engine, paths: &BTreeMap<String, Pushed>, what: &dyn Fn() -> String) {
    let meta = engine.meta();
    let visible = meta.paths(&cache(), None, ALL).unwrap();
    let names: BTreeSet<&str> = visible.iter().map(|(_, row)| row.path.name()).collect();
    assert_eq!(names, paths.keys().map(String::as_str).collect(), "{}", what());
    for (name, pushed) in paths {
        pushed.check(engine).unwrap_or_else(|error| panic!("{name}: {error:?}: {}", what()));
    }
    let totals = engine.stats().unwrap().totals;
    let logical_bytes = visible.iter().map(|(_, row)| row.nar_size).sum::<u64>();
    assert_eq!((totals.paths, totals.logical_bytes), (visible.len() as u64, logical_bytes), "{}", what());
    let packs: BTreeMap<_, _> = meta.packs(None, ALL).unwrap().into_iter().collect();
    for (pack, row) in &packs {
        if row.state == PackState::Doomed {
            assert_eq!(meta.recipes_of_pack(*pack, None, 1).unwrap(), [], "{}", what());
        }
    }
    let known: BTreeSet<String> = packs.keys().map(ToString::to_string).collect();
    for (name, _) in objects(fixture.storage.as_ref()) {
        let hex = name.rsplit('/').next().unwrap().to_owned();
        assert!(known.contains(&hex), "nobody knows {name}: {}", what());
    }
    let sealed: u64 = packs.values().map(|row| row.stored_bytes).sum();
    assert!(totals.stored_bytes >= sealed, "{} of {sealed}: {}", totals.stored_bytes, what());
}

/// Reads everything again: each place that the index knows holds what it says.
pub(crate) fn check_places(engine: &Engine, what: &dyn Fn() -> String) {
    let mut scrub = engine.scrub().unwrap();
    while scrub.step().unwrap().is_some() {}
    let pass = scrub.pass();
    let found = (pass.damaged_packs, pass.damaged_frames, pass.damaged_paths, pass.unreadable_packs);
    assert_eq!(found, (0, 0, 0, 0), "{}", what());
}

/// Makes the indexes of a closed store anew, with what the present one knows beside its packs or without; the store may be
/// opened then.
pub(crate) fn rebuild_indexes(fixture: &mut Fixture, with_old: bool) -> Result<Rebuilt> {
    let old = std::mem::replace(&mut fixture.meta, indexes::new_meta());
    fixture.chunks = indexes::new_chunks();
    rebuild(parts(fixture, with_old.then_some(old)), &mut |_| cache_row())
}

/// Returns what a rebuild takes of a store.
pub(crate) fn parts(fixture: &Fixture, old: Option<Arc<dyn firn_index::Meta>>) -> Parts {
    Parts {
        storage: Arc::clone(&fixture.storage),
        meta: Arc::clone(&fixture.meta),
        chunks: Arc::clone(&fixture.chunks),
        old,
        clock: Arc::clone(&fixture.clock) as _,
        entropy: Arc::clone(&fixture.entropy) as _,
    }
}

/// Returns how many times longer than in `make test` a test is to run: `FIRN_SOAK=N`.
pub(crate) fn factor() -> u64 {
    std::env::var("FIRN_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
