use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use firn_nix::StorePath;
use firn_nix_store::PathInfo;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::control::{Answer, Flushed, Request};
use super::fake::{FakeClock, FakeServer, FakeStore, Longest, info, path};
use super::lane::LONG_BYTES;
use super::*;
use crate::queue::{Counter, Spool};

/// Runs a test's work on a clock of its own, which jumps whenever everybody sleeps; afterwards nothing of it runs any more.
fn life<F: Future>(work: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

struct Bench {
    directory: tempfile::TempDir,
    store: FakeStore,
    server: FakeServer,
}

impl Bench {
    fn new(store: FakeStore) -> Self {
        let server = FakeServer::beside(&store);
        Self { directory: tempfile::tempdir().unwrap(), store, server }
    }

    fn settings(&self) -> Settings {
        Settings { start: Start::Everything, ..Settings::new("test", self.directory.path()) }
    }

    /// Runs an agent while `work` does, then stops it.
    fn run<T>(&self, work: impl AsyncFnOnce(Handle<FakeStore>, Arc<FakeClock>) -> T) -> T {
        self.run_with(self.settings(), work)
    }

    fn run_with<T>(&self, settings: Settings, work: impl AsyncFnOnce(Handle<FakeStore>, Arc<FakeClock>) -> T) -> T {
        life(async {
            let clock = FakeClock::new();
            let agent = Agent::open(settings, self.store.clone(), clock.clone(), Arc::new(Longest)).unwrap();
            let (handle, stop) = (agent.handle(), CancellationToken::new());
            let work = async {
                let value = work(handle, clock).await;
                stop.cancel();
                value
            };
            tokio::join!(agent.run(self.server.clone(), stop.clone()), work).1
        })
    }
}

/// Waits until a status is as wanted: in a time that only exists here, and not for ever.
async fn until(handle: &Handle<FakeStore>, wanted: impl Fn(&Status) -> bool) -> Status {
    for _ in 0..20_000 {
        let status = handle.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!("it never came to that: {:#?}", handle.status().await.unwrap());
}

async fn until_empty(handle: &Handle<FakeStore>) -> Status {
    until(handle, |status| status.waiting == 0 && status.in_flight == 0 && status.last_scan_at > 0).await
}

async fn flush(handle: &Handle<FakeStore>, paths: &[u32]) -> Flushed {
    let paths = paths.iter().map(|number| path(*number)).collect();
    match handle.answer(Request::Flush { paths, wait: true, timeout_millis: 3_600_000 }).await {
        Answer::Flushed(flushed) => flushed,
        answer => panic!("{answer:?}"),
    }
}

#[test]
fn everything_that_is_registered_gets_there_with_what_it_refers_to() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.run(async |handle, _| {
        until_empty(&handle).await;
        bench.store.register([info(10, &[1, 11]), info(11, &[])]);
        let status = until(&handle, |status| status.counter(Counter::Pushed) == 5).await;
        assert_eq!((status.activity, status.behind), (Activity::Running, 0));
        assert_eq!(status.counter(Counter::SentBytes), 15);
    });
    assert!([1, 2, 3, 10, 11].iter().all(|number| bench.server.has(*number)));
}

#[test]
fn an_agent_begins_with_what_comes_unless_told_otherwise() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.run_with(Settings { start: Start::Now, ..bench.settings() }, async |handle, _| {
        until(&handle, |status| status.last_scan_at > 0).await;
        bench.store.register([info(5, &[])]);
        handle.look();
        until(&handle, |status| status.counter(Counter::Pushed) == 1).await;
    });
    assert!(bench.server.has(5) && !bench.server.has(1));
    bench.run(async |handle, _| {
        until_empty(&handle).await;
        assert!(!bench.server.has(1), "the first time is over");
        assert_eq!(handle.answer(Request::Backfill { since: 2_000_000 }).await, Answer::Taken { new: 0 });
        assert_eq!(handle.answer(Request::Backfill { since: 1_000_000 }).await, Answer::Taken { new: 4 });
        until_empty(&handle).await;
    });
    assert!(bench.server.has(1));
}

/// A path that has a lane of its own.
fn long(number: u32, references: &[u32]) -> PathInfo {
    PathInfo { nar_size: LONG_BYTES, ..info(number, references) }
}

#[test]
fn a_long_path_holds_up_only_what_refers_to_it() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.store.register([long(50, &[1]), info(51, &[50]), info(52, &[51, 2])]);
    bench.server.mood().slow = Some(path(50));
    bench.run(async |handle, _| {
        let status = until(&handle, |status| status.counter(Counter::Pushed) == 3).await;
        assert_eq!((status.waiting, status.activity), (3, Activity::Running));
        // What comes while it is under way does not wait for it, and neither does who asks for that.
        bench.store.register((100..200).map(|number| info(number, &[2])));
        bench.store.register([info(200, &[52])]);
        handle.look();
        until(&handle, |status| status.counter(Counter::Pushed) == 103).await;
        bench.store.register([info(300, &[3])]);
        assert_eq!(flush(&handle, &[300]).await.waiting, 0);
        assert!(bench.server.has(300) && [50, 51, 52, 200].iter().all(|number| !bench.server.has(*number)));
        assert_eq!(until(&handle, |status| status.in_flight > 0).await.waiting, 4);
        let questions = bench.server.questions.load(Ordering::SeqCst);
        sleep(Duration::from_secs(3600)).await;
        let more = bench.server.questions.load(Ordering::SeqCst) - questions;
        assert_eq!(more, 0, "what waits for it is not asked for again and again");
        bench.server.mood().slow = None;
        until(&handle, |status| status.waiting == 0).await;
    });
    assert!([50, 51, 52, 200].iter().all(|number| bench.server.has(*number)));
}

#[test]
fn a_long_reference_that_nobody_queued_takes_the_long_lane_too() {
    let bench = Bench::new(FakeStore::with([]));
    bench.store.register([long(50, &[])]);
    bench.run_with(Settings { start: Start::Now, ..bench.settings() }, async |handle, _| {
        until(&handle, |status| status.last_scan_at > 0).await;
        bench.server.mood().slow = Some(path(50));
        bench.store.register([info(51, &[50]), info(52, &[])]);
        handle.look();
        until(&handle, |status| status.counter(Counter::Pushed) == 1).await;
        assert!(bench.server.has(52));
        bench.server.mood().slow = None;
        until(&handle, |status| status.waiting == 0).await;
    });
    assert!(bench.server.has(50) && bench.server.has(51));
}

#[test]
fn what_is_killed_at_any_step_goes_on_where_it_was() {
    let numbers = 1..6;
    let mut kills = 0;
    for step in 1.. {
        let bench = Bench::new(FakeStore::with(numbers.clone()));
        bench.store.register([long(21, &[2]), info(20, &[1, 21])]);
        let fuse = bench.store.fuse.clone();
        fuse.arm(step);
        let finished = life(async {
            let clock = FakeClock::new();
            let agent = Agent::open(bench.settings(), bench.store.clone(), clock, Arc::new(Longest)).unwrap();
            let handle = agent.handle();
            let run = agent.run(bench.server.clone(), CancellationToken::new());
            tokio::select! {
                () = run => unreachable!("nobody stops it"),
                () = fuse.burnt.notified() => false,
                _ = until(&handle, |status| status.counter(Counter::Pushed) == 7) => true,
            }
        });
        fuse.disarm();
        let pushed = bench.run(async |handle, _| {
            let status = until_empty(&handle).await;
            assert_eq!((status.dead, status.counter(Counter::LostBeforePush)), (0, 0), "step {step}");
            status.counter(Counter::Pushed) + status.counter(Counter::AlreadyThere)
        });
        assert!(pushed >= 7, "step {step}: {pushed}");
        for number in numbers.clone().chain([20, 21]) {
            assert!(bench.server.has(number), "step {step}: {number}");
        }
        if finished {
            break;
        }
        kills += 1;
    }
    assert!(kills > 20, "{kills} steps");
}

#[test]
fn a_server_that_is_away_costs_time_and_nothing_else() {
    let bench = Bench::new(FakeStore::with(1..4));
    let retry_after = Some(Duration::from_secs(300));
    let away = Trouble::Unreachable { message: "no route".to_owned(), retry_after };
    bench.server.mood().trouble = Some(away);
    bench.run(async |handle, _| {
        let status = until(&handle, |status| status.activity == Activity::Unreachable).await;
        assert_eq!((status.waiting, status.trouble.as_deref()), (3, Some("no route")));
        let before = bench.server.questions.load(std::sync::atomic::Ordering::SeqCst);
        sleep(Duration::from_secs(24 * 3600)).await;
        let asked = bench.server.questions.load(std::sync::atomic::Ordering::SeqCst) - before;
        assert!((90..=300).contains(&asked), "{asked} times in a day");
        bench.server.mood().trouble = None;
        handle.resume();
        let status = until_empty(&handle).await;
        assert_eq!((status.activity, status.counter(Counter::Retried)), (Activity::Running, 0));
    });
    assert!(bench.server.has(3));
}

#[test]
fn a_refused_token_pauses_everything_and_says_so() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.server.mood().trouble = Some(Trouble::Denied { message: "token-expired".to_owned() });
    bench.run(async |handle, _| {
        let status = until(&handle, |status| status.activity == Activity::Paused).await;
        assert_eq!((status.dead, status.trouble.as_deref()), (0, Some("token-expired")));
        bench.server.mood().trouble = None;
        until_empty(&handle).await;
    });
    assert!(bench.server.has(1), "mended without anybody's saying so");
}

#[test]
fn a_path_fails_alone() {
    let bench = Bench::new(FakeStore::with(1..5));
    bench.store.register([info(10, &[1]), info(11, &[2])]);
    bench.server.mood().outcomes.extend([
        (path(1), vec![Outcome::Failed("a".to_owned()), Outcome::Failed("b".to_owned())]),
        (path(2), vec![Outcome::Refused("signature-required".to_owned())]),
        (path(3), vec![Outcome::Vanished]),
        (path(11), vec![Outcome::Blocked { by: path(2), for_good: true }]),
    ]);
    let named = |paths: &[DeadLetter]| paths.iter().map(|letter| letter.path.clone()).collect::<BTreeSet<_>>();
    bench.run(async |handle, _| {
        let status = until_empty(&handle).await;
        assert_eq!(named(&status.dead_letters), [path(2), path(3), path(11)].into());
        assert_eq!(status.counter(Counter::LostBeforePush), 0, "its files are gone, and Nix knows nothing of it");
        assert!(bench.server.has(1) && bench.server.has(4) && bench.server.has(10));
        let answer = handle.answer(Request::Requeue { paths: vec![path(2)] }).await;
        assert_eq!(answer, Answer::Requeued { paths: 1 });
        until_empty(&handle).await;
        assert!(bench.server.has(2) && !bench.server.has(11));
        assert_eq!(handle.answer(Request::Requeue { paths: vec![] }).await, Answer::Requeued { paths: 2 });
        assert_eq!(until_empty(&handle).await.dead, 0);
    });
    assert!(bench.server.has(11));
}

#[test]
fn a_poisonous_path_is_found_among_the_others() {
    let bench = Bench::new(FakeStore::with(1..40));
    bench.server.mood().poison = Some(path(17));
    bench.run(async |handle, _| {
        let status = until(&handle, |status| status.waiting == 1).await;
        assert_eq!((status.dead, status.retrying), (0, 1));
        bench.server.mood().poison = None;
        until_empty(&handle).await;
    });
    assert!(bench.server.has(17));
}

#[test]
fn what_was_deleted_before_its_push_is_counted_and_named() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.server.mood().trouble = Some(Trouble::Unreachable { message: String::new(), retry_after: None });
    bench.run(async |handle, _| {
        until(&handle, |status| status.waiting == 3).await;
        bench.store.delete(2);
        bench.server.mood().trouble = None;
        let status = until_empty(&handle).await;
        assert_eq!(status.lost.iter().map(|lost| lost.path.clone()).collect::<Vec<_>>(), [path(2)]);
        assert_eq!(status.counter(Counter::Pushed), 2);
    });
}

#[test]
fn pins_keep_the_collector_from_what_waits_and_only_from_that() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.store.register([info(10, &[1, 2])]);
    bench.server.mood().trouble = Some(Trouble::Unreachable { message: String::new(), retry_after: None });
    bench.run(async |handle, _| {
        until(&handle, |status| status.waiting == 4).await;
        bench.store.collect_garbage();
        bench.store.stop_daemon();
        bench.store.start_daemon();
        until(&handle, |_| bench.store.pinned().len() == 4).await;
        bench.store.collect_garbage();
        bench.server.mood().trouble = None;
        let status = until_empty(&handle).await;
        assert_eq!((status.counter(Counter::Pushed), status.counter(Counter::LostBeforePush)), (4, 0));
        until(&handle, |_| bench.store.pinned().is_empty()).await;
        bench.store.collect_garbage();
        assert!(bench.store.infos(&[path(1)]).unwrap().paths.is_empty());
    });
}

#[test]
fn without_a_daemon_paths_are_pushed_unprotected() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.store.stop_daemon();
    bench.run(async |handle, _| {
        let status = until_empty(&handle).await;
        assert_eq!((status.counter(Counter::Pushed), status.warnings.len()), (3, 1));
        bench.store.start_daemon();
        until(&handle, |status| status.warnings.is_empty()).await;
    });
}

#[test]
fn a_rebuilt_database_is_looked_at_from_its_beginning() {
    for same_file in [false, true] {
        let bench = Bench::new(FakeStore::with(1..4));
        bench.run(async |handle, _| {
            until_empty(&handle).await;
            bench.store.rebuild(same_file);
            bench.store.register([info(9, &[])]);
            let status = until(&handle, |_| bench.server.has(9)).await;
            assert_eq!(status.counter(Counter::Rescans), 1, "same file: {same_file}");
        });
    }
}

#[test]
fn a_database_on_a_device_of_another_number_is_the_same() {
    for (knows_births, seen, collected) in
        [(true, false, false), (true, true, true), (false, false, false), (false, true, false)]
    {
        let store = FakeStore::with(1..4);
        store.know_births(knows_births);
        let bench = Bench::new(store);
        let settings = || Settings { start: Start::Now, ..bench.settings() };
        bench.run_with(settings(), async |handle, _| {
            until(&handle, |status| status.last_scan_at > 0).await;
            if seen {
                bench.store.register([info(5, &[])]);
                until(&handle, |_| bench.server.has(5)).await;
            }
        });
        bench.store.mount_again();
        if collected {
            bench.store.delete(5);
        }
        bench.store.register([info(9, &[])]);
        bench.run_with(settings(), async |handle, _| {
            let status = until(&handle, |_| bench.server.has(9)).await;
            assert_eq!(status.counter(Counter::Rescans), 0, "{knows_births}, {seen}, {collected}");
        });
        assert!(!bench.server.has(1));
    }
}

#[test]
fn a_database_that_was_rebuilt_while_no_agent_ran_is_noticed_on_any_device() {
    for (same_file, mounted, knows_births) in
        [(true, false, true), (true, true, true), (true, true, false), (false, true, true), (false, true, false)]
    {
        let store = FakeStore::with(1..4);
        store.know_births(knows_births);
        let bench = Bench::new(store);
        let settings = || Settings { start: Start::Now, ..bench.settings() };
        bench.run_with(settings(), async |handle, _| {
            until(&handle, |status| status.last_scan_at > 0).await;
        });
        bench.store.rebuild(same_file);
        if mounted {
            bench.store.mount_again();
        }
        bench.store.register([info(9, &[])]);
        bench.run_with(settings(), async |handle, _| {
            until(&handle, |status| status.counter(Counter::Rescans) == 1).await;
            until(&handle, |_| [1, 2, 3, 9].iter().all(|number| bench.server.has(*number))).await;
        });
    }
}

#[test]
fn a_collected_end_of_the_database_is_no_new_database() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.run(async |handle, _| {
        until_empty(&handle).await;
        bench.store.delete(3);
        bench.store.register([info(3, &[])]);
        let status = until(&handle, |status| status.counter(Counter::AlreadyThere) == 1).await;
        assert_eq!(status.counter(Counter::Rescans), 0);
    });
}

#[test]
fn an_unreadable_database_is_waited_for() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.store.fail(true);
    bench.run(async |handle, _| {
        let status = until(&handle, |status| status.activity == Activity::Blocked).await;
        assert!(status.trouble.unwrap().contains("does not exist"));
        let answer = handle.answer(Request::Take { paths: vec![path(2)] }).await;
        assert_eq!(answer, Answer::Taken { new: 1 }, "the hook's paths are taken in unseen");
        bench.store.fail(false);
        until(&handle, |status| status.counter(Counter::Pushed) == 3).await;
    });
}

#[test]
fn a_clock_that_jumps_holds_nothing_up() {
    for jump in [-10 * 365 * 24 * 3600, 365 * 24 * 3600] {
        let bench = Bench::new(FakeStore::with(1..4));
        bench.server.mood().outcomes.insert(path(1), vec![Outcome::Failed("x".to_owned()); 8]);
        bench.run(async |handle, clock| {
            until(&handle, |status| status.retrying == 1).await;
            clock.jump(jump);
            let begun = tokio::time::Instant::now();
            until_empty(&handle).await;
            assert!(begun.elapsed() < Duration::from_secs(2 * 3600), "{:?}", begun.elapsed());
        });
        assert!(bench.server.has(1));
    }
}

#[test]
fn a_full_disk_of_the_queue_loses_nothing() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.run(async |handle, _| {
        until_empty(&handle).await;
        handle.limit_queue_pages(Some(16));
        bench.store.register((100..3000).map(|number| info(number, &[])));
        let status = until(&handle, |status| status.trouble.is_some()).await;
        assert!(status.trouble.unwrap().contains("the disk is full"));
        let answer = handle.answer(Request::Take { paths: (100..3000).map(path).collect() }).await;
        assert!(matches!(answer, Answer::Failed { .. }), "not said to be durable: {answer:?}");
        handle.limit_queue_pages(None);
        until(&handle, |status| status.counter(Counter::Pushed) == 2903).await;
    });
}

#[test]
fn the_spool_is_drained_and_hooks_are_taken_in() {
    let bench = Bench::new(FakeStore::with([]));
    let spool = Spool::of(bench.directory.path());
    bench.store.register([info(1, &[]), info(2, &[])]);
    let settings = Settings { start: Start::Now, ..bench.settings() };
    let soon = Instant::now() + Duration::from_secs(20);
    spool.append(&[path(1), path(7)], soon).unwrap();
    bench.run_with(settings, async |handle, _| {
        let status = until(&handle, |status| status.counter(Counter::Pushed) == 1).await;
        assert_eq!(status.lost[0].path, path(7), "the hook named it, so it was valid once");
        let answer = handle.answer(Request::Take { paths: vec![path(2), path(2)] }).await;
        assert_eq!(answer, Answer::Taken { new: 1 });
        until(&handle, |status| status.counter(Counter::Pushed) == 2).await;
    });
    assert!(spool.read().unwrap().is_none());
}

#[test]
fn filters_count_what_they_refuse() {
    let bench = Bench::new(FakeStore::with([]));
    let drv = StorePath::new(path(1).hash(), "package.drv").unwrap();
    let big = firn_nix_store::PathInfo { nar_size: 1000, ..info(2, &[]) };
    bench.store.register([firn_nix_store::PathInfo { path: drv, ..info(1, &[]) }, big, info(3, &[2])]);
    let filter = Filter { max_nar_bytes: Some(999), ..Filter::default() };
    bench.run_with(Settings { filter, ..bench.settings() }, async |handle, _| {
        let status = until(&handle, |status| status.counter(Counter::Pushed) == 1).await;
        assert_eq!(status.counter(Counter::SkippedDerivation), 1);
        assert_eq!(status.counter(Counter::SkippedSize), 1);
    });
    assert!(bench.server.has(2), "what a path refers to comes with it");
}

#[test]
fn a_flush_waits_for_what_was_asked_and_says_what_came_of_it() {
    let bench = Bench::new(FakeStore::with(1..4));
    bench.server.mood().outcomes.insert(path(2), vec![Outcome::Refused("no".to_owned())]);
    let settings = Settings { start: Start::Now, scan_every: Duration::from_secs(86_400), ..bench.settings() };
    bench.run_with(settings, async |handle, _| {
        until(&handle, |status| status.last_scan_at > 0).await;
        let flushed = flush(&handle, &[1, 2, 8]).await;
        assert_eq!((flushed.waiting, flushed.gone), (0, vec![path(8)]));
        assert_eq!(flushed.dead[0].path, path(2));
        bench.store.register([info(5, &[])]);
        assert_eq!(flush(&handle, &[]).await.waiting, 0, "which looks for new paths first");
        assert!(bench.server.has(5) && !bench.server.has(3));
        bench.server.mood().trouble = Some(Trouble::Denied { message: "expired".to_owned() });
        let flushed = flush(&handle, &[3]).await;
        assert_eq!((flushed.waiting, flushed.trouble.as_deref()), (1, Some("expired")));
    });
}

#[test]
fn ten_thousand_paths_are_a_few_batches() {
    let bench = Bench::new(FakeStore::with(1..10_001));
    bench.run(async |handle, _| {
        until(&handle, |status| status.counter(Counter::Pushed) == 10_000).await;
    });
    assert!(bench.server.questions.load(std::sync::atomic::Ordering::SeqCst) <= 4);
}

#[test]
fn two_agents_do_not_share_a_queue() {
    let bench = Bench::new(FakeStore::with([]));
    bench.run(async |_, clock| {
        let second = Agent::open(bench.settings(), bench.store.clone(), clock, Arc::new(Longest));
        assert!(matches!(second.err(), Some(Error::Queue(crate::queue::Error::Owned { .. }))));
    });
    assert_eq!(Status::of_queue(bench.directory.path()).unwrap().activity, Activity::Stopped);
    assert!(Status::of_queue(Path::new("/nowhere")).is_err());
}

#[test]
fn a_flush_names_what_is_gone_when_it_ends() {
    for (asked, gone) in [(vec![1, 2], vec![path(2)]), (vec![], vec![path(2), path(4)])] {
        let bench = Bench::new(FakeStore::with(1..6));
        bench.server.mood().trouble = Some(Trouble::Unreachable { message: String::new(), retry_after: None });
        bench.run(async |handle, _| {
            until(&handle, |status| status.waiting == 5).await;
            bench.store.delete(2);
            bench.store.delete(4);
            bench.server.mood().trouble = None;
            let flushed = flush(&handle, &asked).await;
            assert_eq!((flushed.waiting, flushed.gone), (0, gone));
            until_empty(&handle).await;
            assert_eq!(flush(&handle, &[]).await.gone, [], "that was another flush's");
            assert_eq!(flush(&handle, &[4]).await.gone, [path(4)]);
        });
    }
}

#[test]
fn an_agent_of_another_cache_says_so_and_begins_anew_where_asked() {
    let bench = Bench::new(FakeStore::with(1..4));
    let of = |url: &str, start| Settings { url: url.to_owned(), start, ..bench.settings() };
    let scanned = |status: &Status| status.last_scan_at > 0;
    let life = |url: &str, start, backfill: bool| {
        bench.run_with(of(url, start), async |handle, _| {
            until(&handle, scanned).await;
            let warned = handle.status().await.unwrap().warnings;
            if backfill {
                assert_eq!(handle.answer(Request::Backfill { since: 0 }).await, Answer::Taken { new: 3 });
            }
            let status = until_empty(&handle).await;
            (warned, status.warnings.len(), status.counter(Counter::Pushed) + status.counter(Counter::AlreadyThere))
        })
    };
    assert_eq!(life("a", Start::Now, false), (vec![], 0, 0));
    // As a queue is that earlier programs made.
    let queue = rusqlite::Connection::open(bench.directory.path().join("queue.sqlite")).unwrap();
    queue.execute("DROP TABLE cache", []).unwrap();
    assert!(Status::of_queue(bench.directory.path()).is_ok());
    assert_eq!(life("b", Start::Everything, false), (vec![], 0, 0));
    let (warned, after, done) = life("c", Start::Now, false);
    assert!(warned[0].contains("filled for b"), "{warned:?}");
    assert_eq!((after, done), (1, 0));
    let (warned, after, done) = life("c", Start::Now, true);
    assert_eq!((warned.len(), after, done), (1, 0, 3));
    assert_eq!(life("d", Start::Everything, false), (vec![], 0, 6));
    assert_eq!(life("d", Start::Everything, false), (vec![], 0, 6));
}

#[test]
fn dead_letters_are_forgotten_where_asked_and_when_their_path_is_gone() {
    let bench = Bench::new(FakeStore::with(1..5));
    let refused = |number| (path(number), vec![Outcome::Refused("no".to_owned())]);
    bench.server.mood().outcomes.extend((1..4).map(refused));
    bench.run(async |handle, _| {
        assert_eq!(until_empty(&handle).await.dead, 3);
        let paths = vec![path(1), path(4), path(9)];
        assert_eq!(handle.answer(Request::Forget { paths }).await, Answer::Forgotten { paths: 1 });
        bench.store.delete(2);
        let status = until(&handle, |status| status.dead == 1).await;
        assert_eq!(status.dead_letters[0].path, path(3));
        assert_eq!(handle.answer(Request::Forget { paths: vec![] }).await, Answer::Forgotten { paths: 1 });
        let status = handle.status().await.unwrap();
        assert_eq!((status.dead, status.waiting, status.counter(Counter::LostBeforePush)), (0, 0, 0));
    });
    assert!(!bench.server.has(1) && bench.server.has(4));
}
