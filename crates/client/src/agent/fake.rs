//! A store, a server and a clock that tests turn as they like.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::pending;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firn_nix::{Sha256, StoreHash, StorePath};
use firn_nix_store::{DbIdentity, Error, PathInfo, Result, Selection};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::pusher::{Outcome, Pusher, Trouble};
use super::store::{Page, Pinner, Store};
use crate::remote::{Clock, Jitter};

pub(super) fn path(number: u32) -> StorePath {
    let mut hash = [0; 20];
    hash[..4].copy_from_slice(&number.to_be_bytes());
    StorePath::new(StoreHash(hash), &format!("package-{number}")).unwrap()
}

pub(super) fn info(number: u32, references: &[u32]) -> PathInfo {
    PathInfo {
        id: 0,
        path: path(number),
        nar_hash: Sha256::of(&number.to_le_bytes()),
        nar_size: 10,
        registered_at: 1_000_000,
        deriver: None,
        ultimate: true,
        signatures: vec![],
        ca: None,
        references: references.iter().map(|number| path(*number)).collect(),
    }
}

/// Burns at the operation with a number: from then on nothing that is asked of store, daemon or server ever ends well.
#[derive(Debug, Default)]
pub(super) struct Fuse {
    left: AtomicI64,
    armed: std::sync::atomic::AtomicBool,
    pub(super) burnt: Notify,
}

impl Fuse {
    pub(super) fn arm(&self, operations: i64) {
        self.left.store(operations, Ordering::SeqCst);
        self.armed.store(true, Ordering::SeqCst);
    }

    pub(super) fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    fn is_burnt(&self) -> bool {
        if !self.armed.load(Ordering::SeqCst) {
            return false;
        }
        let burnt = self.left.fetch_sub(1, Ordering::SeqCst) <= 1;
        if burnt {
            self.burnt.notify_one();
        }
        burnt
    }

    /// Ends a step that blocks as a kill does: nothing after it happens.
    fn pass(&self) {
        assert!(!self.is_burnt(), "killed");
    }

    async fn pass_async(&self) {
        if self.is_burnt() {
            pending::<()>().await;
        }
    }
}

#[derive(Debug)]
struct Rows {
    identity: DbIdentity,
    valid: BTreeMap<i64, PathInfo>,
    last_id: i64,
    /// By connection.
    pinned: BTreeMap<u64, BTreeSet<StorePath>>,
    connections: u64,
    daemon_epoch: Option<u64>,
    failing: bool,
}

/// A store in memory; clones are the same store.
#[derive(Debug, Clone)]
pub(super) struct FakeStore {
    rows: Arc<Mutex<Rows>>,
    pub(super) fuse: Arc<Fuse>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeStore {
    pub(super) fn with(numbers: impl IntoIterator<Item = u32>) -> Self {
        let identity = DbIdentity { device: 1, inode: 1, born_at_ns: 1, schema: 10 };
        let rows = Rows {
            identity,
            valid: BTreeMap::new(),
            last_id: 0,
            pinned: BTreeMap::new(),
            connections: 0,
            daemon_epoch: Some(0),
            failing: false,
        };
        let store = Self { rows: Arc::new(Mutex::new(rows)), fuse: Arc::default() };
        store.register(numbers.into_iter().map(|number| info(number, &[])));
        store
    }

    pub(super) fn register(&self, infos: impl IntoIterator<Item = PathInfo>) {
        let mut rows = locked(&self.rows);
        for info in infos {
            rows.last_id += 1;
            let id = rows.last_id;
            rows.valid.insert(id, PathInfo { id, ..info });
        }
    }

    pub(super) fn delete(&self, number: u32) {
        locked(&self.rows).valid.retain(|_, info| info.path != path(number));
    }

    /// Deletes what no pin keeps, as Nix's garbage collector does when there are no other roots.
    pub(super) fn collect_garbage(&self) {
        let mut rows = locked(&self.rows);
        let mut live: BTreeSet<StorePath> = rows.pinned.values().flatten().cloned().collect();
        loop {
            let referred = rows.valid.values().filter(|info| live.contains(&info.path));
            let more: Vec<_> = referred.flat_map(|info| info.references.clone()).collect();
            let before = live.len();
            live.extend(more);
            if live.len() == before {
                break;
            }
        }
        rows.valid.retain(|_, info| live.contains(&info.path));
    }

    /// Makes a new database of the same paths, as `nix-store --load-db` does.
    pub(super) fn rebuild(&self, same_file: bool) {
        let mut rows = locked(&self.rows);
        let infos: Vec<_> = std::mem::take(&mut rows.valid).into_values().collect();
        rows.last_id = 0;
        if !same_file {
            rows.identity.inode += 1;
        }
        drop(rows);
        self.register(infos.into_iter().rev());
    }

    /// Says whether the file system of the database knows when files were made.
    pub(super) fn know_births(&self, known: bool) {
        locked(&self.rows).identity.born_at_ns = u64::from(known);
    }

    /// Mounts the file system of the database again, which gives its device another number.
    pub(super) fn mount_again(&self) {
        locked(&self.rows).identity.device += 1;
    }

    pub(super) fn fail(&self, failing: bool) {
        locked(&self.rows).failing = failing;
    }

    pub(super) fn stop_daemon(&self) {
        let mut rows = locked(&self.rows);
        rows.daemon_epoch = None;
        rows.pinned.clear();
    }

    pub(super) fn start_daemon(&self) {
        let mut rows = locked(&self.rows);
        rows.daemon_epoch = Some(rows.connections + 1);
    }

    pub(super) fn pinned(&self) -> Vec<StorePath> {
        locked(&self.rows).pinned.values().flatten().cloned().collect()
    }

    fn open(&self) -> Result<MutexGuard<'_, Rows>> {
        self.fuse.pass();
        let rows = locked(&self.rows);
        if rows.failing { Err(Error::NoDatabase { path: PathBuf::from("fake") }) } else { Ok(rows) }
    }
}

fn no_daemon() -> Error {
    Error::Io { doing: "connect to", path: "daemon".into(), source: std::io::ErrorKind::ConnectionRefused.into() }
}

impl Store for FakeStore {
    fn page(&self, after_id: i64, limit: usize) -> Result<Page> {
        let rows = self.open()?;
        let paths = rows.valid.values().filter(|info| info.id > after_id).take(limit).cloned().collect();
        let selection = Selection { paths, ..Selection::default() };
        Ok(Page { identity: rows.identity, max_id: rows.last_id, rows: selection })
    }

    fn infos(&self, paths: &[StorePath]) -> Result<Selection> {
        let rows = self.open()?;
        let wanted: BTreeSet<_> = paths.iter().collect();
        let found: Vec<_> = rows.valid.values().filter(|info| wanted.contains(&info.path)).cloned().collect();
        let known: BTreeSet<_> = found.iter().map(|info| &info.path).collect();
        let absent = wanted.into_iter().filter(|path| !known.contains(path)).cloned().collect();
        Ok(Selection { paths: found, absent, ..Selection::default() })
    }

    fn closure(&self, paths: &[StorePath]) -> Result<Selection> {
        fn visit(by_path: &HashMap<StorePath, PathInfo>, path: &StorePath, done: &mut Vec<PathInfo>) {
            let Some(info) = by_path.get(path) else { return };
            if done.iter().any(|known| known.path == *path) {
                return;
            }
            info.references.iter().for_each(|reference| visit(by_path, reference, done));
            done.push(info.clone());
        }
        let rows = self.open()?;
        let by_path: HashMap<_, _> = rows.valid.values().map(|info| (info.path.clone(), info.clone())).collect();
        let mut done = Vec::new();
        for path in paths {
            visit(&by_path, path, &mut done);
        }
        Ok(Selection { paths: done, ..Selection::default() })
    }

    fn store_dir(&self) -> &str {
        "/nix/store"
    }

    fn pinner(&self) -> Result<Box<dyn Pinner>> {
        self.fuse.pass();
        let mut rows = locked(&self.rows);
        let Some(epoch) = rows.daemon_epoch else { return Err(no_daemon()) };
        rows.connections += 1;
        let connection = rows.connections;
        rows.pinned.insert(connection, BTreeSet::new());
        Ok(Box::new(FakePinner { store: self.clone(), connection, epoch }))
    }
}

struct FakePinner {
    store: FakeStore,
    connection: u64,
    epoch: u64,
}

impl FakePinner {
    fn open(&self) -> Result<MutexGuard<'_, Rows>> {
        self.store.fuse.pass();
        let rows = locked(&self.store.rows);
        if rows.daemon_epoch == Some(self.epoch) { Ok(rows) } else { Err(no_daemon()) }
    }
}

impl Pinner for FakePinner {
    fn keep(&mut self, path: &StorePath) -> Result<()> {
        self.open()?.pinned.entry(self.connection).or_default().insert(path.clone());
        Ok(())
    }

    fn is_valid(&mut self, path: &StorePath) -> Result<bool> {
        Ok(self.open()?.valid.values().any(|info| info.path == *path))
    }
}

impl Drop for FakePinner {
    fn drop(&mut self) {
        locked(&self.store.rows).pinned.remove(&self.connection);
    }
}

/// What a fake server says.
#[derive(Debug, Clone, Default)]
pub(super) struct Mood {
    pub(super) trouble: Option<Trouble>,
    /// What to say of single paths; taken once each.
    pub(super) outcomes: HashMap<StorePath, Vec<Outcome>>,
    /// A path that makes any push that it is in fail as a whole.
    pub(super) poison: Option<StorePath>,
    /// A path that takes for ever, as long as it stands here.
    pub(super) slow: Option<StorePath>,
}

/// A cache in memory; clones are the same cache.
#[derive(Debug, Clone)]
pub(super) struct FakeServer {
    pub(super) cache: Arc<Mutex<BTreeSet<StorePath>>>,
    pub(super) mood: Arc<Mutex<Mood>>,
    /// The sizes of pushes.
    pub(super) pushes: Arc<Mutex<Vec<usize>>>,
    pub(super) questions: Arc<AtomicU64>,
    fuse: Arc<Fuse>,
}

impl FakeServer {
    pub(super) fn beside(store: &FakeStore) -> Self {
        Self {
            cache: Arc::default(),
            mood: Arc::default(),
            pushes: Arc::default(),
            questions: Arc::default(),
            fuse: store.fuse.clone(),
        }
    }

    pub(super) fn has(&self, number: u32) -> bool {
        locked(&self.cache).contains(&path(number))
    }

    pub(super) fn mood(&self) -> MutexGuard<'_, Mood> {
        locked(&self.mood)
    }

    fn outcome(&self, info: &PathInfo) -> Outcome {
        if let Some(outcome) = self.mood().outcomes.get_mut(&info.path).and_then(Vec::pop) {
            return outcome;
        }
        let mut cache = locked(&self.cache);
        let missing = info.references.iter().find(|path| **path != info.path && !cache.contains(*path));
        match missing {
            Some(by) => Outcome::Blocked { by: by.clone(), for_good: false },
            None if cache.insert(info.path.clone()) => Outcome::Pushed { sent_bytes: 3 },
            None => Outcome::AlreadyThere,
        }
    }
}

impl Pusher for FakeServer {
    async fn missing(&self, paths: &[StorePath]) -> std::result::Result<Vec<bool>, Trouble> {
        self.fuse.pass_async().await;
        self.questions.fetch_add(1, Ordering::SeqCst);
        match &self.mood().trouble {
            Some(trouble) => Err(trouble.clone()),
            None => Ok(paths.iter().map(|path| !locked(&self.cache).contains(path)).collect()),
        }
    }

    async fn push(
        &self,
        closure: Vec<PathInfo>,
        told: mpsc::Sender<(StorePath, Outcome)>,
        stop: CancellationToken,
    ) -> std::result::Result<(), Trouble> {
        locked(&self.pushes).push(closure.len());
        let poison = self.mood().poison.clone();
        if closure.iter().any(|info| Some(&info.path) == poison.as_ref()) {
            return Err(Trouble::Batch { message: "it all went wrong".to_owned() });
        }
        for info in closure {
            self.fuse.pass_async().await;
            if stop.is_cancelled() {
                return Err(Trouble::Stopped);
            }
            while self.mood().slow.as_ref() == Some(&info.path) {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            let outcome = self.outcome(&info);
            if told.send((info.path, outcome)).await.is_err() {
                return Err(Trouble::Stopped);
            }
        }
        Ok(())
    }
}

/// The runtime's clock, which a test moves, and a wall clock on it that may jump.
#[derive(Debug)]
pub(super) struct FakeClock {
    begun: tokio::time::Instant,
    jump_seconds: AtomicI64,
}

impl FakeClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { begun: tokio::time::Instant::now(), jump_seconds: AtomicI64::new(0) })
    }

    pub(super) fn jump(&self, seconds: i64) {
        self.jump_seconds.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> SystemTime {
        let jump = self.jump_seconds.load(Ordering::SeqCst);
        let base = UNIX_EPOCH + Duration::from_secs(1_700_000_000u64.saturating_add_signed(jump));
        base + self.begun.elapsed()
    }
}

/// No luck at all: every wait is as long as it may be.
#[derive(Debug)]
pub(super) struct Longest;

impl Jitter for Longest {
    fn fraction(&self) -> f64 {
        1.0
    }
}
