use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_nix::StorePath;
use firn_nix_store::{Daemon, Database, DbIdentity, Error, Location, Result, Selection};

use crate::plan::references_first;

/// A page of Nix's database.
#[derive(Debug, Clone)]
pub struct Page {
    /// Which database it is of.
    pub identity: DbIdentity,
    /// The highest id that the database ever gave out.
    pub max_id: i64,
    /// The rows.
    pub rows: Selection,
}

/// The builder's store, as far as an agent looks at it. Everything blocks.
pub trait Store: Send + Sync + 'static {
    /// Returns at most `limit` valid paths with ids above `after_id`, in their order.
    fn page(&self, after_id: i64, limit: usize) -> Result<Page>;
    /// Returns what is known of paths.
    fn infos(&self, paths: &[StorePath]) -> Result<Selection>;
    /// Returns what is known of paths and all that they refer to, references first.
    fn closure(&self, paths: &[StorePath]) -> Result<Selection>;
    /// Returns the store directory, as in paths.
    fn store_dir(&self) -> &str;
    /// Connects to who can keep Nix's garbage collector from paths.
    fn pinner(&self) -> Result<Box<dyn Pinner>>;
}

/// Keeps Nix's garbage collector from paths, for as long as it lives.
pub trait Pinner: Send {
    /// Keeps a path, and all that it refers to, from now on.
    fn keep(&mut self, path: &StorePath) -> Result<()>;
    /// Says whether a path is valid.
    fn is_valid(&mut self, path: &StorePath) -> Result<bool>;
}

impl Pinner for Daemon {
    fn keep(&mut self, path: &StorePath) -> Result<()> {
        self.add_temp_root(path)
    }

    fn is_valid(&mut self, path: &StorePath) -> Result<bool> {
        Self::is_valid(self, path)
    }
}

/// Asks the daemon, path by path: for users who may not read the database.
fn by_daemon(daemon: &mut Daemon, paths: &[StorePath], and_references: bool) -> Result<Selection> {
    let mut found = Selection::default();
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut next: Vec<StorePath> = paths.to_vec();
    while let Some(path) = next.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        match daemon.info(&path)? {
            Some(info) => {
                if and_references {
                    next.extend(info.references.iter().cloned());
                }
                found.paths.push(info);
            }
            None => found.absent.push(path),
        }
    }
    found.paths = references_first(found.paths);
    Ok(found)
}

/// The store of this machine. The database is opened when it is first needed, and again when another took its place.
#[derive(Debug)]
pub struct NixStore {
    location: Location,
    database: Mutex<Option<Database>>,
}

impl NixStore {
    /// Returns a store; nothing is opened yet.
    #[must_use]
    pub fn new(location: Location) -> Self {
        Self { location, database: Mutex::new(None) }
    }

    fn read<T>(&self, question: impl Fn(&Database) -> Result<T>) -> Result<T> {
        let mut open = self.lock();
        let database = match open.take() {
            Some(database) => database,
            None => Database::open(&self.location)?,
        };
        match question(&database) {
            // The ids of the new one mean other paths, which its identity tells.
            Err(Error::Replaced { .. }) => {
                drop(database);
                let database = Database::open(&self.location)?;
                let answer = question(&database)?;
                *open = Some(database);
                Ok(answer)
            }
            // What else went wrong may be the connection's fault: the next question opens a new one.
            answer => {
                if answer.is_ok() {
                    *open = Some(database);
                }
                answer
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Database>> {
        // Whoever panicked had taken the database out.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for NixStore {
    fn page(&self, after_id: i64, limit: usize) -> Result<Page> {
        self.read(|database| {
            let max_id = database.max_id()?;
            Ok(Page { identity: database.identity(), max_id, rows: database.valid_after(after_id, limit)? })
        })
    }

    fn infos(&self, paths: &[StorePath]) -> Result<Selection> {
        match self.read(|database| database.infos(paths)) {
            Err(Error::Denied { .. }) => by_daemon(&mut Daemon::connect(&self.location)?, paths, false),
            answer => answer,
        }
    }

    fn closure(&self, paths: &[StorePath]) -> Result<Selection> {
        match self.read(|database| database.closure(paths)) {
            Err(Error::Denied { .. }) => by_daemon(&mut Daemon::connect(&self.location)?, paths, true),
            answer => answer,
        }
    }

    fn store_dir(&self) -> &str {
        &self.location.store_dir
    }

    fn pinner(&self) -> Result<Box<dyn Pinner>> {
        Ok(Box::new(Daemon::connect(&self.location)?))
    }
}

#[cfg(test)]
mod tests {
    use firn_testkit::nix::{Nix, Version};

    use super::*;

    #[test]
    fn the_daemon_says_what_the_database_says() {
        let Some(nix) = Nix::require(Version::V2_26) else { return };
        let machine = nix.store().unwrap();
        let expression = r#"let a = build { name = "a"; script = "echo > $out"; }; in
            build { name = "b"; inherit a; script = "echo $a $out > $out"; }"#;
        let top = machine.build_one(expression).unwrap();
        let top = StorePath::parse_absolute(&top, "/nix/store").unwrap();
        let absent: StorePath = format!("{}-absent", "0".repeat(32)).parse().unwrap();
        let _daemon = machine.daemon().unwrap();
        let location = Location::for_root(&machine.root());
        let store = NixStore::new(location.clone());
        let asked = [top.clone(), absent.clone(), top];
        for and_references in [false, true] {
            let of_daemon = by_daemon(&mut Daemon::connect(&location).unwrap(), &asked, and_references).unwrap();
            let of_database = if and_references { store.closure(&asked) } else { store.infos(&asked) }.unwrap();
            let names = |found: &Selection| found.paths.iter().map(|info| info.path.clone()).collect::<Vec<_>>();
            assert_eq!(names(&of_daemon), names(&of_database));
            assert_eq!(
                (of_daemon.absent.as_slice(), of_daemon.paths.len()),
                ([absent.clone()].as_slice(), 1 + usize::from(and_references))
            );
            assert_eq!(of_daemon.paths[0].nar_hash, of_database.paths[0].nar_hash);
        }
    }
}
