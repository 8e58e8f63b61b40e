use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::{Duration, Instant};

use firn_nix::{StoreHash, StorePath};
use firn_nix_store::DbIdentity;
use tempfile::TempDir;

use super::*;

fn path(number: u32) -> StorePath {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    StorePath::new(StoreHash(hash), &format!("package-{number}")).unwrap()
}

fn entry(number: u32) -> NewEntry {
    NewEntry { path: path(number), nar_bytes: 100, source: Source::Cursor }
}

fn cursor(last_id: i64) -> Cursor {
    let witness = Some(Witness { path: path(7), registered_at: u64::MAX });
    Cursor { database: DbIdentity { device: u64::MAX, inode: 1 << 63, born_at_ns: 3, schema: 10 }, last_id, witness }
}

fn with(numbers: impl IntoIterator<Item = u32>) -> (TempDir, Queue) {
    let directory = tempfile::tempdir().unwrap();
    let mut queue = Queue::open(directory.path()).unwrap();
    let entries = numbers.into_iter().map(entry).collect();
    queue.take_in(&Intake { entries, ..Intake::at(1000) }).unwrap();
    (directory, queue)
}

fn due(queue: &Queue, now: u64) -> Vec<StorePath> {
    queue.read().due(now, 100).unwrap().into_iter().map(|entry| entry.path).collect()
}

fn settle(queue: &mut Queue, number: u32, verdict: Verdict) {
    queue.settle(2000, &[Settled { path: path(number), verdict }]).unwrap();
}

#[test]
fn a_second_owner_is_refused_and_a_reader_is_not() {
    let (directory, queue) = with([1]);
    assert!(matches!(Queue::open(directory.path()), Err(Error::Owned { .. })));
    assert_eq!(Reader::open(directory.path()).unwrap().totals().unwrap().waiting, 1);
    drop(queue);
    assert!(Queue::open(directory.path()).is_ok());
}

#[test]
fn a_queue_whose_files_are_gone_says_so() {
    let losses: [fn(&std::path::Path); 4] = [
        |directory| fs::remove_dir_all(directory).unwrap(),
        |directory| fs::remove_file(directory.join("queue.lock")).unwrap(),
        |directory| {
            fs::rename(directory.join("queue.sqlite"), directory.join("aside")).unwrap();
            fs::copy(directory.join("aside"), directory.join("queue.sqlite")).unwrap();
        },
        |directory| {
            fs::rename(directory, directory.with_extension("moved")).unwrap();
            drop(Queue::open(directory).unwrap());
        },
    ];
    for (number, lose) in losses.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("agent");
        let mut queue = Queue::open(&directory).unwrap();
        queue.take_in(&Intake { entries: vec![entry(1)], ..Intake::at(1000) }).unwrap();
        queue.check_place().unwrap();
        lose(&directory);
        assert!(matches!(queue.check_place(), Err(Error::Gone { .. })), "{number}");
    }
}

#[test]
fn a_queue_that_nobody_made_is_absent() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Reader::open(directory.path()), Err(Error::Absent { .. })));
    assert!(matches!(Reader::open(&directory.path().join("none")), Err(Error::Absent { .. })));
}

#[test]
fn what_was_taken_in_survives_reopening() {
    let (directory, mut queue) = with([1, 2]);
    let count = vec![(Counter::SkippedUpstream, 3)];
    let intake =
        Intake { count, cursor: Some(cursor(42)), lost: vec![entry(9)], entries: vec![entry(3)], ..Intake::at(5) };
    queue.take_in(&intake).unwrap();
    drop(queue);
    let queue = Queue::open(directory.path()).unwrap();
    assert_eq!(queue.read().cursor().unwrap(), Some(cursor(42)));
    assert_eq!(due(&queue, 1000), [path(1), path(2), path(3)]);
    let totals = queue.read().totals().unwrap();
    assert_eq!((totals.waiting, totals.waiting_bytes, totals.oldest_at), (3, 300, Some(5)));
    assert_eq!(totals.counter(Counter::SkippedUpstream), 3);
    assert_eq!(totals.counter(Counter::LostBeforePush), 1);
    assert_eq!(queue.read().lost(10).unwrap(), [Lost { path: path(9), nar_bytes: 100, at: 5 }]);
}

#[test]
fn a_path_waits_once() {
    let (_directory, mut queue) = with([1, 2]);
    let again = Intake { entries: vec![entry(2), entry(3), entry(3)], ..Intake::at(9000) };
    assert_eq!(queue.take_in(&again).unwrap(), Taken { new: 1, known: 2 });
    assert_eq!(queue.read().entry(&path(2)).unwrap().unwrap().first_seen_at, 1000);
}

#[test]
fn turns_are_by_failures_then_by_age_and_wait_for_their_time() {
    let (_directory, mut queue) = with([1, 2, 3]);
    settle(&mut queue, 1, Verdict::Retry { error: "no route".to_owned(), not_before: 5000 });
    assert_eq!(due(&queue, 4999), [path(2), path(3)]);
    assert_eq!(due(&queue, 5000), [path(2), path(3), path(1)]);
    assert_eq!(queue.read().next_due(4000).unwrap(), Some(1000));
    settle(&mut queue, 2, Verdict::AlreadyThere);
    settle(&mut queue, 3, Verdict::Pushed { sent_bytes: 7 });
    assert_eq!(queue.read().next_due(4000).unwrap(), Some(5000));
    assert_eq!(queue.read().totals().unwrap().retrying, 1);
    queue.hurry(4000).unwrap();
    assert_eq!(due(&queue, 4000), [path(1)]);
    assert_eq!(queue.read().entry(&path(1)).unwrap().unwrap().error.as_deref(), Some("no route"));
}

#[test]
fn a_clock_that_jumps_back_keeps_nobody_waiting() {
    let (_directory, mut queue) = with([1]);
    let later = 1_000_000_000_000;
    settle(&mut queue, 1, Verdict::Retry { error: String::new(), not_before: later });
    assert_eq!(due(&queue, 2000), [path(1)], "a day before what was written down");
    assert_eq!(queue.read().next_due(2000).unwrap(), Some(0));
    assert!(due(&queue, later - MAX_WAIT_MILLIS).is_empty());
}

#[test]
fn each_verdict_leaves_what_it_says() {
    let (_directory, mut queue) = with(1..=6);
    settle(&mut queue, 1, Verdict::Pushed { sent_bytes: 30 });
    settle(&mut queue, 2, Verdict::AlreadyThere);
    settle(&mut queue, 3, Verdict::Skipped(Counter::SkippedSize));
    settle(&mut queue, 4, Verdict::Lost);
    settle(&mut queue, 5, Verdict::Refused { error: "signature-required".to_owned() });
    let totals = queue.read().totals().unwrap();
    assert_eq!((totals.waiting, totals.dead), (1, 1));
    let counters = [
        (Counter::Pushed, 1),
        (Counter::PushedBytes, 100),
        (Counter::SentBytes, 30),
        (Counter::AlreadyThere, 1),
        (Counter::SkippedSize, 1),
        (Counter::LostBeforePush, 1),
        (Counter::Refused, 1),
        (Counter::Retried, 0),
    ];
    for (counter, value) in counters {
        assert_eq!(totals.counter(counter), value, "{counter}");
    }
    let dead = queue.read().dead(0, 10).unwrap();
    assert_eq!((dead[0].path.clone(), dead[0].error.as_deref()), (path(5), Some("signature-required")));
}

#[test]
fn dead_letters_wait_again_when_asked_or_when_they_come_again() {
    let (_directory, mut queue) = with([1, 2, 3]);
    for number in 1..=3 {
        settle(&mut queue, number, Verdict::Refused { error: "no".to_owned() });
    }
    assert!(due(&queue, u64::MAX >> 2).is_empty());
    assert_eq!(queue.requeue(DeadLetters::Paths(&[path(2), path(8)]), 3000).unwrap(), 1);
    assert_eq!(due(&queue, 3000), [path(2)]);
    let taken = queue.take_in(&Intake { entries: vec![entry(3)], ..Intake::at(4000) }).unwrap();
    assert_eq!(taken, Taken { new: 1, known: 0 });
    assert_eq!(queue.requeue(DeadLetters::All, 5000).unwrap(), 1);
    assert_eq!(queue.read().totals().unwrap().dead, 0);
}

#[test]
fn lost_paths_are_kept_up_to_a_number_and_counted_beyond() {
    let (_directory, mut queue) = with([]);
    let many = u32::try_from(MAX_LOST).unwrap() + 10;
    queue.take_in(&Intake { lost: (1..=many).map(entry).collect(), ..Intake::at(1) }).unwrap();
    let lost = queue.read().lost(usize::MAX).unwrap();
    assert_eq!((lost.len(), lost[0].path.clone()), (1000, path(many)));
    assert_eq!(queue.read().totals().unwrap().counter(Counter::LostBeforePush), u64::from(many));
}

#[test]
fn counters_stop_at_their_end() {
    let (_directory, mut queue) = with([1, 2]);
    settle(&mut queue, 1, Verdict::Pushed { sent_bytes: u64::MAX });
    settle(&mut queue, 2, Verdict::Pushed { sent_bytes: u64::MAX });
    assert_eq!(queue.read().totals().unwrap().counter(Counter::SentBytes), i64::MAX as u64);
}

#[test]
fn a_long_error_is_cut_between_characters() {
    let (_directory, mut queue) = with([1]);
    settle(&mut queue, 1, Verdict::Refused { error: format!("x{}", "é".repeat(1000)) });
    assert_eq!(queue.read().dead(0, 1).unwrap()[0].error.as_ref().unwrap().len(), 999);
}

#[test]
fn a_full_disk_changes_nothing_and_is_named() {
    let (directory, mut queue) = with([1]);
    queue.take_in(&Intake { cursor: Some(cursor(1)), ..Intake::at(1) }).unwrap();
    queue.limit_pages(20);
    let many = Intake { entries: (2..5000).map(entry).collect(), cursor: Some(cursor(5000)), ..Intake::at(1) };
    let error = queue.take_in(&many).unwrap_err();
    assert!(matches!(error, Error::Full { .. }), "{error}");
    assert_eq!(queue.read().cursor().unwrap(), Some(cursor(1)));
    assert_eq!(due(&queue, 1000), [path(1)]);
    drop(queue);
    assert_eq!(Queue::open(directory.path()).unwrap().take_in(&many).unwrap().new, 4998);
}

#[test]
fn damage_is_named_and_nothing_is_thrown_away() {
    let (directory, queue) = with(1..500);
    drop(queue);
    let file = directory.path().join("queue.sqlite");
    let whole = fs::read(&file).unwrap();
    assert!(whole.len() > 3 * 4096);
    let mut zeros = fs::OpenOptions::new().write(true).open(&file).unwrap();
    zeros.seek(SeekFrom::Start(4096)).unwrap();
    zeros.write_all(&vec![0xa5; whole.len() - 4096]).unwrap();
    let error = Queue::open(directory.path()).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
    fs::write(&file, b"this was a queue once, and is a text now".repeat(200)).unwrap();
    assert!(matches!(Queue::open(directory.path()).unwrap_err(), Error::Corrupt { .. }));
    assert!(matches!(Reader::open(directory.path()).unwrap_err(), Error::Corrupt { .. }));
    assert!(fs::read(&file).unwrap().starts_with(b"this was"));
}

#[test]
fn other_databases_and_newer_formats_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("queue.sqlite");
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE photo (name TEXT)").unwrap();
    assert!(matches!(Queue::open(directory.path()), Err(Error::Corrupt { .. })));
    drop(other);
    let (directory, queue) = with([1]);
    drop(queue);
    let newer = rusqlite::Connection::open(directory.path().join("queue.sqlite")).unwrap();
    newer.pragma_update(None, "user_version", 2).unwrap();
    assert!(matches!(Queue::open(directory.path()), Err(Error::Newer { found: 2, known: 1, .. })));
}

#[test]
fn rows_that_make_no_sense_are_corrupt_and_not_absent() {
    for change in ["path = 'nonsense'", "state = 9", "source = 'rumour'"] {
        let (directory, queue) = with([1]);
        let other = rusqlite::Connection::open(directory.path().join("queue.sqlite")).unwrap();
        other.execute(&format!("UPDATE path SET {change}"), []).unwrap();
        let read = queue.read().entry(&path(1)).and_then(|_| queue.read().due(9999, 10));
        let gone = change.starts_with("path");
        if gone {
            assert!(matches!(queue.read().due(9999, 10), Err(Error::Corrupt { .. })), "{change}");
        } else {
            assert!(matches!(read, Err(Error::Corrupt { .. })), "{change}");
        }
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[test]
fn a_spool_gives_what_was_appended_and_is_emptied_when_told() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::of(&directory.path().join("new"));
    assert!(spool.read().unwrap().is_none());
    spool.append(&[path(1), path(2)], soon()).unwrap();
    spool.append(&[path(3)], soon()).unwrap();
    let spooled = spool.read().unwrap().unwrap();
    assert_eq!((spooled.paths.as_slice(), spooled.unreadable), ([path(1), path(2), path(3)].as_slice(), 0));
    assert!(spool.read().unwrap().is_none(), "whoever reads it holds the lock");
    drop(spooled);
    let spooled = spool.read().unwrap().unwrap();
    assert_eq!(spooled.paths.len(), 3, "not emptied before that is said");
    spooled.done().unwrap();
    assert!(spool.read().unwrap().is_none());
}

#[test]
fn a_torn_line_costs_only_itself() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::of(directory.path());
    spool.append(&[path(1)], soon()).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(directory.path().join("spool")).unwrap();
    file.write_all(&path(2).base_name().as_bytes()[..20]).unwrap();
    spool.append(&[path(3)], soon()).unwrap();
    let spooled = spool.read().unwrap().unwrap();
    assert_eq!((spooled.paths.as_slice(), spooled.unreadable), ([path(1), path(3)].as_slice(), 1));
}

#[test]
fn a_spool_does_not_grow_without_bound() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::of(directory.path());
    fs::File::create(directory.path().join("spool")).unwrap().set_len(MAX_SPOOL_BYTES - 10).unwrap();
    assert!(matches!(spool.append(&[path(1)], soon()), Err(Error::SpoolFull { .. })));
}

#[test]
fn whoever_waits_for_the_spool_waits_until_its_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::of(directory.path());
    spool.append(&[path(1)], soon()).unwrap();
    let held = spool.read().unwrap().unwrap();
    assert!(matches!(spool.append(&[path(2)], Instant::now()), Err(Error::Busy { .. })));
    held.done().unwrap();
}
