//! The whole pipeline against a model of a server.

mod model;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_nix_store::PathInfo;
use firn_testkit::random::Random;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::samples::{Nars, path};
use super::*;
use crate::plan::Plan;
use crate::remote::{Remote, RemoteOptions, RetryPolicy, Target};
use model::Model;

/// What stands for ever ends here; nothing comes near it.
const HANGS: Duration = Duration::from_secs(120);

async fn run_with(
    model: &Model,
    nars: Nars,
    paths: Vec<PathInfo>,
    memory_bytes: u64,
    stop: &CancellationToken,
) -> Summary {
    let target = Target::parse("https://a.org/main", None).unwrap();
    let options = RemoteOptions { retry: RetryPolicy::never(), ..RemoteOptions::default() };
    let remote = Remote::connect_by(target, Box::new(model.clone()), Arc::default(), options).await.unwrap();
    let plan = Plan { paths, ..Plan::default() };
    let options = PushOptions { jobs: 2, memory_bytes, level: 1 };
    let pushed = push(Arc::new(remote), Arc::new(nars), plan, &options, stop, Arc::new(|_| {}));
    timeout(HANGS, pushed).await.expect("a push comes to its end")
}

async fn run(model: &Model, nars: Nars, paths: Vec<PathInfo>) -> Summary {
    run_with(model, nars, paths, 8 << 20, &CancellationToken::new()).await
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    Random::new(seed).noise(len)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_long_paths_and_little_memory_come_to_an_end() {
    let (model, mut nars, mut paths) = (Model::default(), Nars::default(), Vec::new());
    for number in 0..16 {
        paths.push(nars.add(&format!("long-{number}"), &noise(number, 5 << 20), &[]));
        paths.push(nars.add(&format!("short-{number}"), &noise(99 + number, 1 << 20), &[&format!("long-{number}")]));
    }
    let summary = run(&model, nars, paths).await;
    assert!(summary.is_complete(), "{:?}", summary.failed);
    assert_eq!((summary.created_paths, model.0.lock().unwrap().paths.len()), (32, 32));
}

#[tokio::test]
async fn frames_come_with_hints_and_in_parts_where_requests_must_be_small() {
    for (most_bytes, with_hints) in [(None, true), (Some(1_200_000), true), (Some(1_000_000), false)] {
        let (model, mut nars) = (Model::default(), Nars::default());
        model.0.lock().unwrap().most_bytes = most_bytes;
        // Two frames of nearly 1,000,000 bytes, as noise can't be compressed; more with hints.
        let paths = [1, 2].map(|seed| nars.add(&format!("path-{seed}"), &noise(seed, 999_600), &[])).to_vec();
        let summary = run(&model, nars, paths).await;
        assert!(summary.is_complete(), "{:?}", summary.failed);
        let (requests, hinted) = model.0.lock().unwrap().taken;
        assert_eq!(hinted, if with_hints { requests } else { 0 }, "{most_bytes:?}");
        assert!(most_bytes.is_none() || requests == 2, "{requests}");
    }
}

#[tokio::test]
async fn a_path_that_fails_blocks_only_its_referrers() {
    let (model, mut nars) = (Model::default(), Nars::default());
    let paths = vec![
        nars.add("gone", &noise(1, 50_000), &[]),
        nars.add("good", &noise(2, 50_000), &[]),
        nars.add("upon", &noise(3, 50_000), &["gone", "good"]),
        nars.add("further", &noise(4, 50_000), &["upon"]),
        nars.add("fine", &noise(5, 50_000), &["good"]),
    ];
    nars.0.remove(&path("gone"));
    let summary = run(&model, nars, paths).await;
    let failed: Vec<_> = summary.failed.iter().map(|(path, failure)| (path.name(), failure.name())).collect();
    assert_eq!(failed, [("gone", "vanished"), ("upon", "blocked"), ("further", "blocked")]);
    assert!(summary.stopped_by.is_none());
    assert_eq!(model.0.lock().unwrap().paths, [path("good"), path("fine")].into());
}

#[tokio::test]
async fn a_chunk_is_sent_once_and_a_known_recipe_not_at_all() {
    let model = Model::default();
    for (name, expected) in [("a", 1), ("b", 0)] {
        let mut nars = Nars::default();
        let contents = noise(1, 300_000);
        let paths = vec![nars.add(&format!("{name}1"), &contents, &[]), nars.add(&format!("{name}2"), &contents, &[])];
        let before = model.0.lock().unwrap().sent_chunks;
        assert!(run(&model, nars, paths).await.is_complete());
        let contents = model.0.lock().unwrap();
        assert_eq!(usize::from(contents.sent_chunks > before), expected);
        assert_eq!(contents.sent_chunks, contents.chunks.len());
    }
}

#[tokio::test]
async fn what_the_server_lost_before_the_commit_is_sent_again() {
    let (model, mut nars) = (Model::default(), Nars::default());
    model.0.lock().unwrap().forget_once = true;
    let paths = vec![nars.add("short", &noise(1, 300_000), &[]), nars.add("long", &noise(2, 5 << 20), &["short"])];
    let summary = run(&model, nars, paths).await;
    assert!(summary.is_complete(), "{:?}", summary.failed);
    assert_eq!(model.0.lock().unwrap().paths.len(), 2);
}

#[tokio::test]
async fn two_pushes_of_the_same_at_once_both_succeed() {
    let model = Model::default();
    let make = || {
        let mut nars = Nars::default();
        let paths = vec![nars.add("a", &noise(1, 5 << 20), &[]), nars.add("b", &noise(2, 400_000), &["a"])];
        (nars, paths)
    };
    let ((one, ones), (two, twos)) = (make(), make());
    let (one, two) = tokio::join!(run(&model, one, ones), run(&model, two, twos));
    assert!(one.is_complete() && two.is_complete());
    assert_eq!(one.created_paths + two.created_paths, 2);
}

#[tokio::test]
async fn what_fails_for_all_stops_the_push() {
    let (model, mut nars) = (Model::default(), Nars::default());
    model.0.lock().unwrap().refuse = Some((403, "not-granted"));
    let paths = (0..9).map(|number| nars.add(&format!("p{number}"), &noise(number, 50_000), &[])).collect();
    let summary = run(&model, nars, paths).await;
    assert!(matches!(summary.stopped_by, Some(crate::Error::Refused { .. })));
    assert_eq!((summary.failed.len(), summary.totals.failed_paths), (9, 9));
}

#[tokio::test]
async fn a_push_that_is_stopped_leaves_nothing_half_done_and_can_be_repeated() {
    let model = Model::default();
    let make = || {
        let mut nars = Nars::default();
        let paths: Vec<_> = (0..9).map(|number| nars.add(&format!("p{number}"), &noise(number, 50_000), &[])).collect();
        (nars, paths)
    };
    let (stop, (nars, paths)) = (CancellationToken::new(), make());
    stop.cancel();
    let summary = run_with(&model, nars, paths, 8 << 20, &stop).await;
    assert!(matches!(summary.stopped_by, Some(crate::Error::Cancelled)));
    assert_eq!(summary.failed.len(), 9);
    let (nars, paths) = make();
    assert!(run(&model, nars, paths).await.is_complete());
}

#[tokio::test]
async fn events_tell_of_every_path_once() {
    let (model, mut nars) = (Model::default(), Nars::default());
    let paths = vec![nars.add("a", &noise(1, 9_000), &[]), nars.add("b", &noise(2, 9_000), &[])];
    let target = Target::parse("https://a.org/main", None).unwrap();
    let remote = Remote::connect_by(target, Box::new(model), Arc::default(), RemoteOptions::default()).await.unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = told.clone();
    let on_event: OnEvent = Arc::new(move |event| {
        telling.lock().unwrap().push(match event {
            Event::Started { paths, .. } => format!("started {paths}"),
            Event::PathDone { path, .. } => format!("done {}", path.name()),
            Event::Finished(totals) => format!("finished {}", totals.done_paths),
            _ => return,
        });
    });
    let plan = Plan { paths, ..Plan::default() };
    let stop = CancellationToken::new();
    let _ = push(Arc::new(remote), Arc::new(nars), plan, &PushOptions::default(), &stop, on_event).await;
    let mut told = told.lock().unwrap().clone();
    told[1..3].sort();
    assert_eq!(told, ["started 2", "done a", "done b", "finished 2"]);
}
