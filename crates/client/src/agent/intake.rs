//! From Nix's database, the hook and the spool into the queue.

use firn_nix::StorePath;
use firn_nix_store::{DbIdentity, PathInfo, Selection};

use super::backoff::now;
use super::desk::Desk;
use super::error::Result;
use super::pins::Pinned;
use super::store::{Page, Store};
use crate::queue::{Counter, Cursor, DeadLetters, Intake, NewEntry, Source, Taken, Witness};

/// How many rows of Nix's database are taken in at once: some 4 MB.
pub(super) const PAGE: usize = 4096;

/// How often the paths of dead letters are looked for.
const DEAD_EVERY_MILLIS: u64 = 3_600_000;

/// Where an agent begins that never ran before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is registered from now on.
    #[default]
    Now,
    /// With everything that is in the store.
    Everything,
}

impl<S: Store> Desk<S> {
    /// Takes in everything that Nix registered since the last time. Returns what is new in the queue.
    ///
    /// A page of rows, what is refused of it, and the cursor behind it are one transaction: whatever happens in between
    /// costs that the page is read again.
    pub(crate) fn scan(&self, start: Start) -> Result<Taken> {
        let _one_at_a_time = self.scanning.lock();
        let mut all = Taken::default();
        loop {
            let cursor = self.queue().read().cursor()?;
            let Some(cursor) = cursor else {
                self.begin(start)?;
                continue;
            };
            // The row before shows whether these ids still mean what they meant.
            let mut page = self.store.page(cursor.last_id.saturating_sub(1), PAGE)?;
            self.state().behind = u64::try_from(page.max_id.saturating_sub(cursor.last_id)).unwrap_or(0);
            if is_rebuilt(&cursor, &page) {
                tracing::warn!(
                    last_id = cursor.last_id,
                    max_id = page.max_id,
                    "Nix's database is another one than before: everything in it is looked at"
                );
                let count = vec![(Counter::Rescans, 1)];
                let cursor = Some(Cursor { database: page.identity, last_id: 0, witness: None });
                self.queue().take_in(&Intake { count, cursor, ..Intake::at(self.now()) })?;
                continue;
            }
            page.rows.paths.retain(|info| info.id > cursor.last_id);
            page.rows.unreadable.retain(|row| row.id > cursor.last_id);
            let Some(last_id) = page.rows.last_id() else {
                self.state().last_scan_at = self.now();
                return Ok(all);
            };
            let witness = witness_of(&page, last_id);
            let cursor = Cursor { database: page.identity, last_id, witness };
            let taken = self.take_in(&page.rows, Source::Cursor, Some(cursor))?;
            all.new += taken.new;
            all.known += taken.known;
        }
    }

    /// Sees to it that the queue was filled for this cache: another one's says nothing of what this one has.
    ///
    /// With [`Start::Everything`] the database is read from its beginning once more, else that is told by [`Self::other_cache`].
    /// A queue of before it was written down counts as this cache's.
    pub(crate) fn recognise_cache(&self, start: Start) -> Result<()> {
        let queue = self.queue();
        let (cursor, known) = (queue.read().cursor()?, queue.read().cache()?);
        drop(queue);
        // Without a cursor nothing is taken for done.
        let Some(cursor) = cursor else { return Ok(()) };
        let cache = Some(self.url.clone());
        match (known, start) {
            (None, _) => self.queue().take_in(&Intake { cache, ..Intake::at(self.now()) })?,
            (Some(known), _) if known == self.url => return Ok(()),
            (Some(known), Start::Everything) => {
                tracing::warn!(before = known, now = self.url, "another cache than before: everything is looked at");
                let cursor = Some(Cursor { last_id: 0, witness: None, ..cursor });
                self.queue().take_in(&Intake { cursor, cache, ..Intake::at(self.now()) })?
            }
            (Some(known), Start::Now) => {
                tracing::warn!("{}", other_cache(&known));
                return Ok(());
            }
        };
        Ok(())
    }

    /// Says so if what the cursor passed was meant for another cache.
    pub(crate) fn other_cache(&self) -> Result<Option<String>> {
        let known = self.queue().read().cache()?;
        Ok(known.filter(|known| *known != self.url).map(|known| other_cache(&known)))
    }

    /// Takes in paths that the hook named. They are durable in the queue when it returns.
    ///
    /// Without a readable database they are taken in unseen, and looked at when their turn comes.
    pub(crate) fn take_named(&self, paths: &[StorePath], source: Source) -> Result<Taken> {
        match self.store.infos(paths) {
            Ok(found) => self.take_in(&found, source, None),
            Err(error) => {
                tracing::debug!(%error, "paths are taken in unseen");
                let entry = |path: &StorePath| NewEntry { path: path.clone(), nar_bytes: 0, source };
                let entries = paths.iter().map(entry).collect();
                Ok(self.queue().take_in(&Intake { entries, ..Intake::at(self.now()) })?)
            }
        }
    }

    /// Takes in what hooks left while no agent answered them.
    pub(crate) fn drain_spool(&self) -> Result<()> {
        let Some(spooled) = self.spool.read()? else { return Ok(()) };
        if spooled.unreadable > 0 {
            tracing::warn!(lines = spooled.unreadable, "the spool has lines that are no store paths; they are dropped");
        }
        let taken = self.take_named(&spooled.paths, Source::Hook)?;
        tracing::info!(paths = spooled.paths.len(), new = taken.new, "took in what hooks had left");
        Ok(spooled.done()?)
    }

    /// Takes in what is in the store already and was registered at `since` (in seconds) or later. Returns what is new.
    /// After all of it, from 0 on, the queue is this cache's, whichever it was filled for.
    pub(crate) fn backfill(&self, since: u64) -> Result<Taken> {
        let mut all = Taken::default();
        let mut after = 0;
        loop {
            let mut page = self.store.page(after, PAGE)?;
            let Some(last_id) = page.rows.last_id() else { break };
            after = last_id;
            page.rows.paths.retain(|info| info.registered_at >= since);
            let taken = self.take_in(&page.rows, Source::Backfill, None)?;
            all.new += taken.new;
            all.known += taken.known;
        }
        if since == 0 && self.other_cache()?.is_some() {
            self.queue().take_in(&Intake { cache: Some(self.url.clone()), ..Intake::at(self.now()) })?;
        }
        Ok(all)
    }

    /// Pins what still waits, if it is time to: after a restart of the daemon, or to let go of what was pushed.
    pub(crate) fn look_after_pins(&self) -> Result<()> {
        let now = self.now();
        let mut pins = self.pins();
        if !pins.want_renewal(now) {
            return Ok(());
        }
        let renewed = pins.renew(&self.store, now, |each: &mut dyn FnMut(&StorePath, u64, u64)| -> Result<()> {
            let mut after = 0;
            loop {
                let page = self.queue().read().waiting(after, PAGE)?;
                let Some(last) = page.last() else { return Ok(()) };
                after = last.sequence;
                for entry in &page {
                    each(&entry.path, entry.nar_bytes, entry.first_seen_at);
                }
            }
        });
        let mut state = self.state();
        match renewed {
            Ok(()) => state.pin_error = None,
            Err(error) => {
                let message = super::error::chain(&error);
                if state.pin_error.as_ref() != Some(&message) {
                    tracing::warn!(error = message, "nothing keeps Nix's garbage collector from paths that wait");
                }
                state.pin_error = Some(message);
            }
        }
        Ok(())
    }

    /// Forgets dead letters whose paths are not valid any more, at most once an hour: no try could push them.
    pub(crate) fn look_after_dead(&self) -> Result<()> {
        let now = self.now();
        if now.abs_diff(self.state().dead_seen_at) < DEAD_EVERY_MILLIS {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let page = self.queue().read().dead(after, PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.sequence;
            let paths: Vec<_> = page.into_iter().map(|entry| entry.path).collect();
            let absent = self.store.infos(&paths)?.absent;
            for path in &absent {
                tracing::info!(%path, "was refused, and is not in the store any more");
            }
            self.queue().forget(DeadLetters::Paths(&absent))?;
        }
        self.state().dead_seen_at = now;
        Ok(())
    }

    fn begin(&self, start: Start) -> Result<()> {
        let last_id = match start {
            Start::Now => self.store.page(i64::MAX - 1, 1)?.max_id,
            Start::Everything => 0,
        };
        let page = self.store.page(last_id.saturating_sub(1), 1)?;
        tracing::info!(last_id, "began to follow Nix's database");
        let cursor = Some(Cursor { database: page.identity, last_id, witness: witness_of(&page, last_id) });
        self.queue().take_in(&Intake { cursor, cache: Some(self.url.clone()), ..Intake::at(self.now()) })?;
        Ok(())
    }

    fn take_in(&self, found: &Selection, source: Source, cursor: Option<Cursor>) -> Result<Taken> {
        let now = self.now();
        let mut intake = Intake { cursor, ..Intake::at(now) };
        // A hook waits for its answer, and a new epoch takes its time: the scan that the hook sets off pins the path then.
        let mut pins = if source == Source::Hook { self.try_pins() } else { Some(self.pins()) };
        for info in &found.paths {
            let refused = if source == Source::Asked { None } else { self.refuses(info) };
            if let Some(counter) = refused {
                // What a hook names the cursor passes as well, and counts.
                if source != Source::Hook {
                    count(&mut intake, counter);
                }
                continue;
            }
            let entry = NewEntry { path: info.path.clone(), nar_bytes: info.nar_size, source };
            let pinned = pins.as_mut().map(|pins| pins.pin(&info.path, info.nar_size, now));
            match pinned.unwrap_or(Pinned::Unprotected) {
                Pinned::Held | Pinned::Unprotected => intake.entries.push(entry),
                Pinned::Gone => {
                    tracing::warn!(path = %info.path, "gone before it could be pushed");
                    intake.lost.push(entry);
                }
            }
        }
        drop(pins);
        for row in &found.unreadable {
            tracing::warn!(id = row.id, path = row.path, why = row.why, "a row of Nix's database makes no sense");
            count(&mut intake, Counter::Unreadable);
        }
        // What is asked for and not valid is a mistake of who asks; what the hook named was valid a moment ago.
        if source == Source::Hook {
            for path in &found.absent {
                tracing::warn!(%path, "gone before it could be pushed");
                intake.lost.push(NewEntry { path: path.clone(), nar_bytes: 0, source });
            }
        }
        Ok(self.queue().take_in(&intake)?)
    }

    pub(super) fn refuses(&self, info: &PathInfo) -> Option<Counter> {
        self.filter.refuses(info, self.store.store_dir())
    }

    pub(crate) fn now(&self) -> u64 {
        now(&*self.clock)
    }
}

fn count(intake: &mut Intake, counter: Counter) {
    match intake.count.iter_mut().find(|(known, _)| *known == counter) {
        Some((_, number)) => *number += 1,
        None => intake.count.push((counter, 1)),
    }
}

fn other_cache(known: &str) -> String {
    format!(
        "the queue was filled for {known}: what was registered meanwhile and before is not looked at for this cache, until \
         `firn watch-store backfill --all`, or a start with --backfill"
    )
}

fn witness_of(page: &Page, id: i64) -> Option<Witness> {
    page.rows.paths.iter().find(|info| info.id == id).map(Witness::of)
}

/// Says whether a page is of another database than the cursor: ids mean other paths then.
fn is_rebuilt(cursor: &Cursor, page: &Page) -> bool {
    // A row that is gone proves nothing: its path was collected.
    let row = witness_of(page, cursor.last_id);
    let is_witnessed = cursor.witness.as_ref().zip(row.as_ref()).map(|(before, now)| before == now);
    page.max_id < cursor.last_id
        || is_witnessed == Some(false)
        || !is_same_file(&cursor.database, &page.identity, is_witnessed == Some(true))
}

/// Says whether two identities are of one file. Its device has another number after many a restart; an inode of another device
/// is the same one if it is as old, to the nanosecond, or, where nobody knows how old, if the file holds what it held.
fn is_same_file(known: &DbIdentity, found: &DbIdentity, is_witnessed: bool) -> bool {
    let is_placed = known.device == found.device || known.born_at_ns != 0 || is_witnessed;
    is_placed && DbIdentity { device: found.device, ..*known } == *found
}
