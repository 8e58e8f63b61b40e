//! One sync: what is new is listed, judged, closed over its references, fetched in order, and written down step by step.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use firn_engine::{Engine, Entropy};
use firn_index::{SourceCounts, SourceName, SourceProblem, SourceRow, SourceStateRow, UnixSeconds};
use firn_nix::StorePath;
use firn_nix_store::PathInfo;

use super::breaker;
use super::builder_firn::{self, Door};
use super::fetch::{Order, Outcome, fetch};
use super::files::FileCache;
use super::http::HttpCache;
use super::local::LocalStore;
use super::peer::{BoxedPeer, Failed, Step, SyncError};
use super::place::Place;
use super::policy::{Policy, Verdict};
use super::run::Run;
use super::seen::Seen;
use super::ssh::Ssh;
use crate::app::App;
use crate::caches::{Cache, Caches};
use crate::intake::Intake;

/// Paths that are remembered because they did not come.
const MAX_PROBLEMS: usize = 200;

/// How often a path is tried, in as many syncs.
const MAX_TRIES: u32 = 5;

/// The longest reason that is remembered, in bytes.
const MAX_REASON: usize = 500;

/// What a sync works with.
pub struct Context<'a> {
    /// The store.
    pub engine: &'a Engine,
    /// The server, if one runs.
    pub app: Option<&'a App>,
    /// A folder for files that matter only while a sync runs.
    pub folder: PathBuf,
    /// Where the server is reached, if one runs: for builders with a `firn` of their own.
    pub base_url: Option<&'a str>,
    /// Where tokens come from.
    pub entropy: &'a dyn Entropy,
    /// The time.
    pub now: &'a (dyn Fn() -> UnixSeconds + Sync),
}

/// Runs a sync to its end and writes down what came of it, failures too. `full` lists everything again, as if for the first time.
///
/// # Errors
/// Those of the store; a source that is gone is an error too, all else about it is in what is returned.
pub fn sync(context: &Context<'_>, name: &SourceName, run: &Arc<Run>, full: bool) -> Result<SourceStateRow, SyncError> {
    let meta = context.engine.meta();
    let gone = || SyncError::Source(format!("sync the source '{name}': there is none"));
    let row = meta.source(name)?.ok_or_else(gone)?;
    let mut state = meta.source_state(name)?;
    state.started_at = Some((context.now)());
    state.note = None;
    if full {
        state.cursor = None;
        state.problems.clear();
    }
    let mut sync = Work { context, name, row, run, state, seen: None };
    let outcome = sync.whole(full);
    let Work { mut state, .. } = sync;
    state.last = run.progress().counts;
    state.total.add(&state.last.clone());
    let now = (context.now)();
    match outcome {
        Ok(()) => breaker::succeeded(&mut state, now),
        // Nobody is to blame.
        Err(SyncError::Stopped) => state.ended_at = Some(now),
        Err(SyncError::Store(why)) => {
            breaker::failed(&mut state, why.clone(), now);
            meta.put_source_state(name, &state, None)?;
            return Err(SyncError::Store(why));
        }
        Err(error) => breaker::failed(&mut state, error.to_string(), now),
    }
    meta.put_source_state(name, &state, None)?;
    Ok(state)
}

struct Work<'a> {
    context: &'a Context<'a>,
    name: &'a SourceName,
    row: SourceRow,
    run: &'a Arc<Run>,
    state: SourceStateRow,
    seen: Option<Seen>,
}

/// What a step turned out to want.
#[derive(Default)]
struct Wanted {
    infos: Vec<PathInfo>,
    elsewhere: Vec<StorePath>,
    refused: Vec<(StorePath, Failed)>,
}

impl<'a> Work<'a> {
    fn whole(&mut self, full: bool) -> Result<(), SyncError> {
        let caches = Caches::load(self.context.engine.meta())?;
        let cache = caches.get(&self.row.cache).ok_or_else(|| {
            SyncError::Source(format!(
                "sync to the cache '{}': there is none; `firnd source set` names another",
                self.row.cache
            ))
        })?;
        let place = Place::parse(&self.row.url).map_err(SyncError::Source)?;
        let ssh = match &place {
            Place::Ssh(place) => {
                let known = self.state.host_key.as_deref();
                let (folder, dir) = (&self.context.folder, &cache.row.store_dir);
                Some(Ssh::new(self.name, &self.row, place.clone(), dir, known, folder, self.run)?)
            }
            _ => None,
        };
        let open = || open(&place, ssh.as_ref(), &cache, self.run);
        self.run.update(|progress| progress.doing = "connecting");
        let mut peer = open()?;
        if let Some(ssh) = &ssh
            && self.row.host_key.is_none()
            && self.state.host_key.is_none()
        {
            self.state.host_key = ssh.host_key();
        }
        let worked = self.steps(&cache, &mut peer, &open, ssh.as_ref(), full);
        let bytes = peer.metadata_bytes();
        self.run.update(|progress| progress.counts.metadata_bytes += bytes);
        if self.run.is_stopped() { Err(SyncError::Stopped) } else { worked }
    }

    fn steps(
        &mut self,
        cache: &Cache,
        peer: &mut BoxedPeer,
        open: &(dyn Fn() -> Result<BoxedPeer, SyncError> + Sync),
        ssh: Option<&Ssh>,
        full: bool,
    ) -> Result<(), SyncError> {
        self.run.update(|progress| progress.doing = "listing");
        let meta = self.context.engine.meta();
        let seen = if full { Seen::default() } else { Seen::decode(&meta.source_seen(self.name)?) };
        let listing = peer.list(self.state.cursor.as_ref(), &seen)?;
        self.seen = listing.seen;
        if self.row.new_only && self.state.cursor.is_none() && !full {
            // What is there is left out; from now on everything counts.
            self.state.cursor = listing.steps.last().map(|step| step.cursor.clone());
            return self.write_down(true);
        }
        let intake =
            Intake { engine: self.context.engine, app: self.context.app, cache, builder: &self.row.builder.clone() };
        let policy = Policy::new(&self.row, cache);
        let door = ssh.and_then(|ssh| self.door(ssh, cache));
        let mut steps = listing.steps.into_iter().peekable();
        let mut is_first = true;
        while let Some(step) = steps.next() {
            if self.run.is_stopped() {
                return Err(SyncError::Stopped);
            }
            let retried = if std::mem::take(&mut is_first) { self.retries() } else { Vec::new() };
            self.step(&step, &retried, &intake, &policy, peer, open, door.as_ref())?;
            // What failed again was noted anew.
            self.state.problems.retain(|problem| !retried.contains(problem));
            self.state.cursor = Some(step.cursor);
            let is_last = steps.peek().is_none();
            self.write_down(is_last)?;
        }
        Ok(())
    }

    fn door(&self, ssh: &Ssh, cache: &Cache) -> Option<Door<'a>> {
        let (app, base_url) = (self.context.app?, self.context.base_url?);
        let is_trusted = matches!(self.row.trust, firn_index::SourceTrust::Builder);
        let url = crate::admin::cache_url(base_url, &cache.name, &cache.row);
        // It becomes a word of a command there.
        let is_plain = url.chars().all(|c| c.is_ascii_alphanumeric() || "-._~:/[]%@+,=".contains(c));
        (self.row.use_firn && is_trusted && is_plain && ssh.has_firn()).then(|| Door {
            ssh: ssh.clone(),
            app: app.engine.meta(),
            tokens: &app.tokens,
            url,
            cache: cache.name.clone(),
            builder: self.row.builder.clone(),
            source: self.name.clone(),
            entropy: self.context.entropy,
        })
    }

    /// Returns the paths that are to be tried again.
    fn retries(&self) -> Vec<SourceProblem> {
        self.state.problems.iter().filter(|problem| problem.tries > 0).cloned().collect()
    }

    /// Makes everything so far durable; `with_seen` at the end only, because the names are those of all steps.
    fn write_down(&mut self, with_seen: bool) -> Result<(), SyncError> {
        let seen = self.seen.as_ref().filter(|_| with_seen).map(Seen::encode);
        let mut state = self.state.clone();
        state.last = self.run.progress().counts;
        if self.context.engine.meta().put_source_state(self.name, &state, seen.as_deref())? {
            return Ok(());
        }
        Err(SyncError::Source(format!("sync the source '{}': it was removed meanwhile", self.name)))
    }

    #[expect(clippy::too_many_arguments, reason = "what a sync has at hand, for one step")]
    fn step(
        &mut self,
        step: &Step,
        retried: &[SourceProblem],
        intake: &Intake<'_>,
        policy: &Policy,
        peer: &mut BoxedPeer,
        open: &(dyn Fn() -> Result<BoxedPeer, SyncError> + Sync),
        door: Option<&Door<'_>>,
    ) -> Result<(), SyncError> {
        self.run.update(|progress| {
            progress.doing = "looking up";
            progress.counts.listed += step.paths.len() as u64;
        });
        let again = retried.iter().map(|problem| &problem.path);
        let (mut known, mut paths) = (HashSet::new(), Vec::new());
        paths.extend(again.chain(&step.paths).filter(|path| known.insert(*path)).cloned());
        let mut wanted = self.judge(&paths, intake, policy, peer)?;
        self.close(&mut wanted, intake, policy, peer)?;
        let (count, bytes) = (wanted.infos.len() as u64, wanted.infos.iter().map(|info| info.nar_size).sum());
        self.run.update(|progress| {
            (progress.doing, progress.waiting_paths, progress.waiting_bytes) = ("fetching", count, bytes);
        });
        let refused = std::mem::take(&mut wanted.refused);
        for (path, why) in refused {
            self.note(path, why, retried)?;
        }
        if let Some(door) = door.filter(|_| !wanted.infos.is_empty()) {
            self.by_firn(door, &mut wanted, intake)?;
        }
        if wanted.infos.is_empty() {
            return Ok(());
        }
        let order = Order {
            infos: wanted.infos,
            elsewhere: wanted.elsewhere,
            parallel: usize::try_from(self.row.parallel).unwrap_or(1),
            rate: self.row.bytes_per_second,
        };
        let (outcomes, fatal): (Vec<Outcome>, _) = match fetch(intake, self.run, order, peer, open) {
            Ok(outcomes) => (outcomes, None),
            Err((outcomes, error)) => (outcomes, Some(error)),
        };
        for (info, outcome) in outcomes {
            if let Err(why) = outcome {
                self.note(info.path, why, retried)?;
            }
        }
        fatal.map_or(Ok(()), Err)
    }

    /// Has the builder's own `firn` send what is wanted, and leaves what did not come.
    fn by_firn(&mut self, door: &Door<'_>, wanted: &mut Wanted, intake: &Intake<'_>) -> Result<(), SyncError> {
        let paths: Vec<&StorePath> = wanted.infos.iter().map(|info| &info.path).collect();
        if let Err(why) = builder_firn::push(door, &paths, (self.context.now)()) {
            self.state.note =
                Some(shortened(format!("the builder's firn did not send all, so NARs were fetched: {why}")));
        }
        let mut left = Vec::new();
        for info in std::mem::take(&mut wanted.infos) {
            if intake.has(&info.path)? {
                self.run.update(|progress| {
                    progress.counts.paths += 1;
                    progress.counts.logical_bytes = progress.counts.logical_bytes.saturating_add(info.nar_size);
                });
            } else {
                left.push(info);
            }
        }
        wanted.infos = left;
        Ok(())
    }

    /// Decides which new paths are wanted.
    fn judge(
        &self,
        paths: &[StorePath],
        intake: &Intake<'_>,
        policy: &Policy,
        peer: &mut BoxedPeer,
    ) -> Result<Wanted, SyncError> {
        let mut unknown = Vec::new();
        let mut counts = SourceCounts::default();
        for path in paths {
            if !policy.may_want(path) {
                counts.filtered += 1;
            } else if intake.has(path)? {
                counts.present += 1;
            } else {
                unknown.push(path.clone());
            }
        }
        let found = peer.infos(&unknown)?;
        let mut wanted = Wanted::default();
        // Locks and what is still being made are in the folder, and not valid.
        counts.gone += found.absent.len() as u64;
        for row in found.unreadable {
            tracing::warn!(source = %self.name, path = row.path, why = row.why, "a path of a source can't be read");
            counts.refused += 1;
        }
        for info in found.paths {
            match policy.of_new(&info) {
                Verdict::Wanted => wanted.infos.push(info),
                Verdict::Filtered => counts.filtered += 1,
                Verdict::Refused(why) => wanted.refused.push((info.path, Failed::Refused(why))),
            }
        }
        self.run.update(|progress| progress.counts.add(&counts));
        Ok(wanted)
    }

    /// Adds what wanted paths refer to, and the cache does not have.
    fn close(
        &self,
        wanted: &mut Wanted,
        intake: &Intake<'_>,
        policy: &Policy,
        peer: &mut BoxedPeer,
    ) -> Result<(), SyncError> {
        let mut known: HashSet<StorePath> = wanted.infos.iter().map(|info| info.path.clone()).collect();
        let mut queue: VecDeque<StorePath> = wanted.infos.iter().flat_map(|info| info.references.clone()).collect();
        let mut bad: HashMap<StorePath, String> = HashMap::new();
        while !queue.is_empty() {
            let mut ask = Vec::new();
            for path in queue.drain(..) {
                if known.insert(path.clone()) && !intake.has(&path)? {
                    ask.push(path);
                }
            }
            let found = peer.infos(&ask)?;
            if peer.is_closed() {
                bad.extend(found.absent.into_iter().map(|path| (path, "it is not valid at the source".to_owned())));
            } else {
                wanted.elsewhere.extend(found.absent);
            }
            for info in found.paths {
                match policy.of_reference(&info) {
                    Verdict::Wanted => {
                        queue.extend(info.references.clone());
                        wanted.infos.push(info);
                    }
                    Verdict::Filtered => wanted.elsewhere.push(info.path),
                    Verdict::Refused(why) => _ = bad.insert(info.path, why),
                }
            }
        }
        drop_referrers(wanted, bad);
        Ok(())
    }

    /// Remembers a path that did not come.
    fn note(&mut self, path: StorePath, why: Failed, retried: &[SourceProblem]) -> Result<(), SyncError> {
        let before = retried.iter().find(|problem| problem.path == path).map_or(0, |problem| problem.tries);
        let (why, tries) = match why {
            Failed::Gone(why) => {
                tracing::debug!(source = %self.name, %path, why, "a path is gone from a source");
                self.run.update(|progress| progress.counts.gone += 1);
                return Ok(());
            }
            Failed::Refused(why) => (why, 0),
            Failed::Broken(why) | Failed::Lost(why) => (why, if before + 1 < MAX_TRIES { before + 1 } else { 0 }),
            Failed::Fatal(error) => return Err(error),
        };
        tracing::warn!(source = %self.name, %path, why, "a path of a source did not come");
        self.run.update(|progress| progress.counts.refused += 1);
        self.state.problems.retain(|problem| problem.path != path);
        self.state.problems.push(SourceProblem { path, why: shortened(why), tries });
        while self.state.problems.len() > MAX_PROBLEMS {
            // Those that are only there to be read go first.
            let Some(at) = self.state.problems.iter().position(|problem| problem.tries == 0) else {
                return Err(SyncError::Source(format!("fetch paths: more than {MAX_PROBLEMS} can't be had")));
            };
            self.state.problems.remove(at);
        }
        Ok(())
    }
}

/// Refuses what refers to what can't come.
fn drop_referrers(wanted: &mut Wanted, mut bad: HashMap<StorePath, String>) {
    while !bad.is_empty() {
        let mut next = HashMap::new();
        let (good, refused): (Vec<_>, Vec<_>) = std::mem::take(&mut wanted.infos)
            .into_iter()
            .partition(|info| !info.references.iter().any(|path| *path != info.path && bad.contains_key(path)));
        wanted.infos = good;
        for info in refused {
            let cause = info.references.iter().find_map(|path| Some((path, bad.get(path)?)));
            let why = cause.map_or_else(String::new, |(path, why)| format!("it refers to {path}: {why}"));
            next.insert(info.path.clone(), "it did not come either".to_owned());
            wanted.refused.push((info.path, Failed::Refused(why)));
        }
        bad = next;
    }
}

fn open(place: &Place, ssh: Option<&Ssh>, cache: &Cache, run: &Arc<Run>) -> Result<BoxedPeer, SyncError> {
    let store_dir = &cache.row.store_dir;
    Ok(match (place, ssh) {
        (Place::Ssh(_), Some(ssh)) => Box::new(ssh.open()?),
        (Place::Ssh(_), None) => return Err(SyncError::Source("reach the source: ssh was not prepared".to_owned())),
        (Place::Local(location), _) => {
            if location.store_dir != *store_dir {
                let text =
                    format!("use the store: its directory is {}, and the cache's is {store_dir}", location.store_dir);
                return Err(SyncError::Source(text));
            }
            Box::new(LocalStore::open(location)?)
        }
        (Place::Files(root), _) => Box::new(FileCache::open(root, store_dir)?),
        (Place::Http(place), _) => Box::new(HttpCache::open(place, store_dir, run)?),
    })
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_REASON {
        let end = (0..=MAX_REASON).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
