//! Random steps, taken by an engine and by the one in memory: every answer and everything visible must be the same.

use std::fmt::Debug;

use firn_chunk::ChunkId;
use firn_pack::ChunkLoc;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::test_runner::{TestCaseError, TestCaseResult};

use super::Open;
use super::samples::{
    alias_row, cache, cache_row, chunk, document_row, location, log, nar_hash, nar_row, pack, path_row, pin_name,
    pin_row, push_record, recipe, recipe_row, retention_row, store_hash, token_row,
};
use crate::memory::{MemoryChunkIndex, MemoryMeta};
use crate::{CacheName, ChunkIndex, Commit, Error, Meta, Op, PackState, Result, SeenId, SessionId, TokenId, Totals};

/// One thing that is done to a [`Meta`]. Numbers name packs, recipes, paths and the like; there are few of each, so
/// that steps meet.
#[derive(Debug, Clone)]
pub enum Step {
    /// Reserves a pack.
    Reserve(u8),
    /// Seals a pack.
    Seal(u8, u16),
    /// Forgets a pack.
    Forget(u8),
    /// Moves a pack's state.
    SetState(u8, PackState, PackState),
    /// Begins a session with a lease of so many steps.
    Begin(u8, u64),
    /// Renews a session for so many steps.
    Renew(u8, u64),
    /// Ends a session.
    End(u8),
    /// Removes a pack.
    Remove(u8),
    /// Notes a use.
    Use(u8, u8),
    /// Pins a path, or removes the pin.
    Pin(u8, u8, bool),
    /// Says what a cache keeps.
    Retain(u8, u32),
    /// Takes a lease for so many steps.
    Lease(u8, u64),
    /// Ends a lease.
    EndLease(u8),
    /// Commits a batch.
    Commit(Vec<Commit>),
    /// Writes a cache.
    PutCache(u8),
    /// Deletes a cache.
    DeleteCache(u8),
    /// Writes a token.
    PutToken(u8),
    /// Flushes.
    Flush,
    /// Ends the engine and opens it again.
    EndAndOpen(Open),
}

const PACKS: u8 = 5;
const RECIPES: u8 = 4;
const NAMES: u8 = 4;
const SESSIONS: u8 = 3;
const CACHES: [&str; 3] = ["a", "a-b", "b"];

/// Returns up to `most` random steps; with `ends`, the engine is also ended and opened again.
pub fn steps(most: usize, ends: bool) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..PACKS).prop_map(Step::Reserve),
        2 => (0..PACKS, any::<u16>()).prop_map(|(id, bytes)| Step::Seal(id, bytes)),
        1 => (0..PACKS).prop_map(Step::Forget),
        3 => (0..PACKS, state(), state()).prop_map(|(id, from, to)| Step::SetState(id, from, to)),
        1 => (0..SESSIONS, 0..20_u64).prop_map(|(id, lease)| Step::Begin(id, lease)),
        1 => (0..SESSIONS, 0..20_u64).prop_map(|(id, lease)| Step::Renew(id, lease)),
        1 => (0..SESSIONS).prop_map(Step::End),
        2 => (0..PACKS).prop_map(Step::Remove),
        1 => (0..3_u8, 0..NAMES).prop_map(|(of, id)| Step::Use(of, id)),
        1 => (0..3_u8, 0..2_u8, any::<bool>()).prop_map(|(of, name, stays)| Step::Pin(of, name, stays)),
        1 => (0..3_u8, 0..3_u32).prop_map(|(of, last)| Step::Retain(of, last)),
        1 => (0..2_u8, 0..9_u64).prop_map(|(holder, steps)| Step::Lease(holder, steps)),
        1 => (0..2_u8).prop_map(Step::EndLease),
        8 => vec(a_commit(), 0..4).prop_map(Step::Commit),
        2 => (0..3_u8).prop_map(Step::PutCache),
        1 => (0..3_u8).prop_map(Step::DeleteCache),
        1 => (0..3_u8).prop_map(Step::PutToken),
        1 => Just(Step::Flush),
        1 => prop_oneof![Just(Open::Reopened), Just(Open::Crashed)]
            .prop_map(move |end| if ends { Step::EndAndOpen(end) } else { Step::Flush }),
    ];
    vec(step, 0..most)
}

fn state() -> impl Strategy<Value = PackState> {
    prop_oneof![Just(PackState::Writing), Just(PackState::Live), Just(PackState::Condemned), Just(PackState::Doomed)]
}

fn a_commit() -> impl Strategy<Value = Commit> {
    let session = proptest::option::weighted(0.2, (0..SESSIONS).prop_map(|n| SessionId(n.into())));
    (session, vec((0..PACKS).prop_map(pack), 0..2), vec(an_op(), 0..5)).prop_map(|(session, packs, ops)| Commit {
        session,
        packs,
        ops,
    })
}

fn an_op() -> impl Strategy<Value = Op> {
    let edges = proptest::collection::btree_set(0..PACKS, 0..3);
    let of_cache = || ((0..3_usize).prop_map(|n| cache(CACHES[n])), 0..NAMES);
    prop_oneof![
        3 => (0..RECIPES, edges).prop_map(|(id, edges)| {
            Op::Recipe(recipe(id), recipe_row(&edges.into_iter().collect::<Vec<_>>()))
        }),
        2 => (0..RECIPES, 0..PACKS, 0..PACKS).prop_map(|(id, from, to)| {
            Op::MoveRecipe(recipe(id), recipe_row(&[from]).record, recipe_row(&[to]))
        }),
        1 => (0..PACKS, any::<u8>()).prop_map(|(id, effort)| Op::Effort(pack(id), effort)),
        1 => (of_cache(), any::<u8>()).prop_map(|((to, id), n)| Op::Nar(to, nar_hash(id), nar_row(n))),
        1 => (of_cache(), any::<u8>()).prop_map(|((to, id), n)| Op::Alias(to, id.to_string(), alias_row(n))),
        2 => (of_cache(), any::<u8>()).prop_map(|((to, id), n)| Op::Path(to, store_hash(id), path_row(n, n.into()))),
        1 => (of_cache(), any::<u8>()).prop_map(|((to, id), n)| Op::Document(to, log(&id.to_string()), document_row(n))),
        1 => (of_cache(), any::<u8>()).prop_map(|((to, id), n)| Op::Pushed(to, store_hash(id), push_record(n))),
        2 => (0..PACKS, any::<u16>()).prop_map(|(id, bytes)| Op::PackDurable(pack(id), bytes.into())),
        2 => of_cache().prop_map(|(of, id)| Op::DeletePath(of, store_hash(id))),
        1 => of_cache().prop_map(|(of, id)| Op::DeleteNar(of, nar_hash(id))),
        1 => of_cache().prop_map(|(of, id)| Op::DeleteAlias(of, id.to_string())),
        1 => of_cache().prop_map(|(of, id)| Op::DeleteDocument(of, log(&id.to_string()))),
        2 => (0..RECIPES).prop_map(|id| Op::DeleteRecipe(recipe(id))),
        1 => (0..9_u64).prop_map(Op::RecordOrder),
        1 => of_cache().prop_map(|(of, _)| Op::CacheGoneRecorded(of)),
        1 => any::<u8>().prop_map(|n| Op::Count(Totals { paths: 1, logical_bytes: n.into(), ..Totals::default() })),
    ]
}

/// Takes the steps with both engines.
///
/// # Errors
/// Where an answer, or what can be seen at the end or after an end, differs.
pub fn meta(open: &mut dyn FnMut(Open) -> Box<dyn Meta>, steps: &[Step]) -> TestCaseResult {
    let model = MemoryMeta::new();
    let mut engine = open(Open::Fresh);
    for (now, step) in (1..).zip(steps) {
        if let Step::EndAndOpen(end) = step {
            if *end == Open::Reopened {
                drop(engine);
                engine = open(*end);
            } else {
                let crashed = open(*end);
                drop(std::mem::replace(&mut engine, crashed));
            }
            for n in 0..SESSIONS {
                answer(model.end_session(SessionId(n.into())));
            }
            same("what is left", everything(&*engine), everything(&model))?;
            continue;
        }
        same(&format!("step {now}, {step:?}"), take(&*engine, now, step), take(&model, now, step))?;
    }
    same("what can be seen at the end", everything(&*engine), everything(&model))
}

fn same(what: &str, engine: Vec<String>, model: Vec<String>) -> TestCaseResult {
    if engine == model {
        return Ok(());
    }
    let pairs = engine.iter().zip(&model).filter(|(engine, model)| engine != model);
    let differing: Vec<_> = pairs.map(|(engine, model)| format!("  engine {engine}\n  model  {model}")).collect();
    Err(TestCaseError::fail(format!("{what} differs:\n{}", differing.join("\n"))))
}

/// Takes a step and returns the answer as text; of an error, only its kind.
fn take(meta: &dyn Meta, now: u64, step: &Step) -> Vec<String> {
    let session = |n: u8| SessionId(n.into());
    let said = match step.clone() {
        Step::Reserve(id) => answer(meta.reserve_pack(pack(id), now)),
        Step::Seal(id, bytes) => answer(meta.seal_pack(pack(id), bytes.into(), u64::from(bytes) * 2)),
        Step::Forget(id) => answer(meta.forget_pack(pack(id))),
        Step::SetState(id, from, to) => answer(meta.set_pack_state(pack(id), from, to, now)),
        Step::Begin(id, lease) => answer(meta.begin_session(session(id), now, now + lease)),
        Step::Renew(id, lease) => answer(meta.renew_session(session(id), now, now + lease)),
        Step::End(id) => answer(meta.end_session(session(id))),
        Step::Remove(id) => answer(meta.remove_pack(pack(id))),
        // A use is not durable until something that is was written.
        Step::Use(of, id) => answer(meta.note_uses(&named(of), &[(store_hash(id), now)]).and_then(|()| meta.flush())),
        Step::Pin(of, name, true) => answer(meta.put_pin(&named(of), &pin_name(name), &pin_row(name))),
        Step::Pin(of, name, false) => answer(meta.remove_pin(&named(of), &pin_name(name))),
        Step::Retain(of, last) => answer(meta.put_retention(&named(of), &retention_row(last))),
        Step::Lease(holder, steps) => answer(meta.take_lease("gc", holder.into(), now, now + steps)),
        Step::EndLease(holder) => answer(meta.end_lease("gc", holder.into())),
        Step::Commit(batch) => answer(meta.commit(now, &batch)),
        Step::PutCache(n) => answer(meta.put_cache(&cache(CACHES[usize::from(n)]), &cache_row(n.into()))),
        Step::DeleteCache(n) => answer(meta.delete_cache(&cache(CACHES[usize::from(n)]))),
        Step::PutToken(n) => answer(meta.put_token(&TokenId(n.into()), &token_row(n))),
        Step::Flush => answer(meta.flush()),
        Step::EndAndOpen(_) => String::new(),
    };
    vec![said, answer(meta.oldest_session(now))]
}

fn named(n: u8) -> CacheName {
    cache(CACHES[usize::from(n)])
}

fn answer<T: Debug>(result: Result<T>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(Error::Corrupt { .. }) => "corrupt".to_owned(),
        Err(Error::PackInUse { pack, detail }) => format!("pack {pack} in use: {detail}"),
        Err(error @ (Error::Full | Error::TooNew { .. } | Error::Locked | Error::Engine { .. })) => {
            format!("unexpected: {error:?}")
        }
    }
}

/// Returns everything that can be seen of the few things that steps touch.
fn everything(meta: &dyn Meta) -> Vec<String> {
    let mut seen = vec![
        answer(meta.totals()),
        answer(meta.packs(None, 99)),
        answer(meta.sealed_packs(0, 99)),
        answer(meta.caches()),
        answer(meta.tokens()),
        answer(meta.record_order()),
        answer(meta.deleted_caches()),
        answer(meta.recipes(Some(recipe(0)), 2)),
    ];
    for id in 0..PACKS {
        seen.push(answer(meta.pack_since(pack(id))));
        seen.push(answer(meta.recipes_of_pack(pack(id), None, 99)));
        seen.push(answer(meta.effort(pack(id))));
        seen.push(answer(meta.recipes_of_pack(pack(id), Some(recipe(1)), 1)));
    }
    seen.push(answer(meta.recipes(Some(recipe(1)), 2)));
    seen.extend((0..RECIPES).map(|id| answer(meta.recipe(&recipe(id)))));
    for name in CACHES.map(cache) {
        seen.push(answer(meta.paths(&name, None, 99)));
        seen.push(answer(meta.paths(&name, Some(store_hash(1)), 2)));
        seen.push(answer(meta.nars(&name, Some(nar_hash(1)), 2)));
        seen.push(answer(meta.documents(&name, Some(&log("1")), 2)));
        seen.push(answer(meta.nars(&name, Some(nar_hash(0)), 2)));
        seen.push(answer(meta.aliases(&name, Some("0"), 2)));
        seen.push(answer(meta.documents(&name, Some(&log("0")), 2)));
        seen.push(answer(meta.uses(&name, None, 99)));
        seen.push(answer(meta.pins(&name)));
        seen.push(answer(meta.retention(&name)));
        for id in 0..NAMES {
            seen.push(answer(meta.nar(&name, &nar_hash(id))));
            seen.push(answer(meta.alias(&name, &id.to_string())));
            seen.push(answer(meta.path(&name, &store_hash(id))));
            seen.push(answer(meta.provenance(&name, &store_hash(id))));
            seen.push(answer(meta.document(&name, &log(&id.to_string()))));
        }
    }
    seen
}

/// One thing that is done to a [`ChunkIndex`].
#[derive(Debug, Clone)]
pub enum ChunkStep {
    /// Applies entries.
    Apply(Vec<(ChunkId, ChunkLoc)>),
    /// Forgets entries.
    Forget(Vec<(ChunkId, ChunkLoc)>),
    /// Sets the watermark.
    Watermark(u64),
    /// Notes what a cache has seen.
    NoteSeen(u8, Vec<SeenId>),
    /// Forgets what it has.
    ForgetCache(u8),
    /// Flushes.
    Flush,
}

const CHUNKS: u64 = 12;

/// Returns up to `most` random steps.
pub fn chunk_steps(most: usize) -> impl Strategy<Value = Vec<ChunkStep>> {
    let entries = || vec(((0..CHUNKS).prop_map(chunk), (0..3_u64).prop_map(location)), 0..6);
    let step = prop_oneof![
        4 => entries().prop_map(ChunkStep::Apply),
        3 => entries().prop_map(ChunkStep::Forget),
        1 => any::<u64>().prop_map(ChunkStep::Watermark),
        2 => (0..2_u8, vec((0..CHUNKS).prop_map(|n| SeenId::from(&chunk(n))), 0..6))
            .prop_map(|(name, ids)| ChunkStep::NoteSeen(name, ids)),
        1 => (0..2_u8).prop_map(ChunkStep::ForgetCache),
        1 => Just(ChunkStep::Flush),
    ];
    vec(step, 0..most)
}

/// Takes the steps with both engines and compares all after each.
///
/// # Errors
/// Where something differs.
pub fn chunk_index(engine: &dyn ChunkIndex, steps: &[ChunkStep]) -> TestCaseResult {
    let model = MemoryChunkIndex::new();
    let ids: Vec<_> = (0..CHUNKS).map(chunk).collect();
    let seen: Vec<_> = ids.iter().map(SeenId::from).collect();
    for (number, step) in steps.iter().enumerate() {
        let observe = |index: &dyn ChunkIndex| {
            let done = match step {
                ChunkStep::Apply(entries) => index.apply(entries),
                ChunkStep::Forget(entries) => index.forget(entries),
                ChunkStep::Watermark(seq) => index.set_watermark(*seq),
                ChunkStep::NoteSeen(name, ids) => index.note_seen(&cache(CACHES[usize::from(*name)]), ids),
                ChunkStep::ForgetCache(name) => index.forget_cache(&cache(CACHES[usize::from(*name)])),
                ChunkStep::Flush => index.flush(),
            };
            let mut all = vec![answer(done), answer(index.lookup(&ids)), answer(index.watermark())];
            all.extend(CACHES.map(|name| answer(index.seen(&cache(name), &seen))));
            all
        };
        same(&format!("step {number}, {step:?}"), observe(engine), observe(&model))?;
    }
    Ok(())
}
