//! Which paths are meant.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::path::Path;

use firn_nix::StorePath;
use firn_nix_store::{Daemon, Database, Error, Location, PathInfo, Selection, resolve};

use crate::config::Config;
use crate::failure::{Failure, Kind};

/// How much is read of standard input, in bytes: about a million paths.
const MAX_INPUT_BYTES: u64 = 64 << 20;

/// How many paths that are not readable are named one by one.
const MAX_NAMED: usize = 5;

/// What the command line asks for.
#[derive(Debug)]
pub(super) struct Wanted {
    /// Paths and links.
    pub(super) names: Vec<String>,
    /// Whether standard input has more.
    pub(super) stdin: bool,
    /// Whether all paths are meant.
    pub(super) all: bool,
    /// Whether what they refer to is meant too.
    pub(super) closure: bool,
}

/// What is to be considered.
#[derive(Debug, Default)]
pub(super) struct Selected {
    /// What is to be pushed.
    pub(super) paths: Vec<PathInfo>,
    /// What they refer to, where that is not to be pushed.
    pub(super) beside: Vec<PathInfo>,
    /// What somebody may want to know.
    pub(super) warnings: Vec<String>,
}

/// Takes the cache from the end of the names: a URL, or a name that the configuration has. A file of that name can be written
/// with `./`.
pub(super) fn split_cache(config: &Config, names: &[String]) -> Result<(Vec<String>, Option<String>), Failure> {
    let Some((last, paths)) = names.split_last() else { return Ok((Vec::new(), None)) };
    if last.contains("://") || config.caches.contains_key(last) {
        return Ok((paths.to_vec(), Some(last.clone())));
    }
    // A word that is neither a file nor a store path was meant as a cache: let the search for it say what is wrong.
    let is_path = last.contains('/') || Path::new(last).symlink_metadata().is_ok() || last.parse::<StorePath>().is_ok();
    if is_path { Ok((names.to_vec(), None)) } else { Ok((paths.to_vec(), Some(last.clone()))) }
}

/// Finds what is asked for in the store: by its database, or by its daemon where the database may not be read.
pub(super) fn select(location: &Location, wanted: Wanted) -> Result<Selected, Failure> {
    let roots = roots(location, &wanted)?;
    if roots.is_empty() && !wanted.all {
        return match wanted.stdin {
            true => Ok(Selected::default()),
            false => Err(Failure::new(Kind::Usage, "push: no paths are given")
                .hint("name store paths or result links, or use --stdin or --all")),
        };
    }
    let found = match Database::open(location).and_then(|database| by_database(&database, &roots, &wanted)) {
        Err(Error::Denied { path, source }) => by_daemon(location, &roots, &wanted).map_err(|error| {
            let denied = Error::Denied { path, source };
            Failure::of(Kind::Store, denied).hint(format!("the daemon was no help either: {error}"))
        })?,
        other => other.map_err(|error| Failure::of(Kind::Store, error))?,
    };
    let (selection, beside) = found;
    if let Some(absent) = selection.absent.iter().find(|path| roots.contains(path)) {
        let message = format!("push {}: it is not a valid path of this store", absent.to_absolute(&location.store_dir));
        return Err(Failure::new(Kind::Store, message).hint("build it first, or copy it here with `nix copy`"));
    }
    Ok(Selected { warnings: warnings(&selection), paths: selection.paths, beside })
}

fn roots(location: &Location, wanted: &Wanted) -> Result<Vec<StorePath>, Failure> {
    let mut names = wanted.names.clone();
    if wanted.stdin {
        names.extend(read_names(std::io::stdin().lock(), MAX_INPUT_BYTES)?);
    }
    let find = |name: &String| resolve(location, Path::new(name)).map_err(|error| Failure::of(Kind::Usage, error));
    names.iter().map(find).collect()
}

/// Reads names, one a line. More than `limit` bytes are refused: a list that was cut would look like a whole one.
fn read_names(input: impl Read, limit: u64) -> Result<Vec<String>, Failure> {
    let mut text = String::new();
    let read = input.take(limit + 1).read_to_string(&mut text);
    let read = read.map_err(|error| Failure::doing(Kind::Failed, "read paths from standard input", error))?;
    if read as u64 > limit {
        let message = format!("read paths from standard input: they are longer than {limit} bytes");
        return Err(Failure::new(Kind::Usage, message).hint("push them in several parts, or with --all"));
    }
    Ok(text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect())
}

type Found = (Selection, Vec<PathInfo>);

fn by_database(database: &Database, roots: &[StorePath], wanted: &Wanted) -> Result<Found, Error> {
    if wanted.all {
        let mut all = Selection::default();
        let mut after = 0;
        loop {
            let page = database.all(after, usize::MAX)?;
            let Some(last) = page.last_id() else { return Ok((all, Vec::new())) };
            after = last;
            all.paths.extend(page.paths);
            all.unreadable.extend(page.unreadable);
        }
    }
    if wanted.closure {
        return Ok((database.closure(roots)?, Vec::new()));
    }
    let selection = database.infos(roots)?;
    let beside = database.infos(&references(&selection.paths))?;
    Ok((selection, beside.paths))
}

fn by_daemon(location: &Location, roots: &[StorePath], wanted: &Wanted) -> Result<Found, Error> {
    let mut daemon = Daemon::connect(location)?;
    let mut selection = Selection::default();
    let mut seen: HashSet<StorePath> = HashSet::new();
    let mut waiting: VecDeque<StorePath> = roots.iter().cloned().collect();
    if wanted.all {
        waiting.extend(daemon.all_valid()?.paths);
    }
    while let Some(path) = waiting.pop_front() {
        if !seen.insert(path.clone()) {
            continue;
        }
        match daemon.info(&path)? {
            None => selection.absent.push(path),
            Some(info) => {
                if wanted.closure {
                    waiting.extend(info.references.iter().filter(|reference| !seen.contains(reference)).cloned());
                }
                selection.paths.push(info);
            }
        }
    }
    let mut beside = Vec::new();
    if !wanted.closure && !wanted.all {
        for path in references(&selection.paths) {
            beside.extend(daemon.info(&path)?);
        }
    }
    Ok((selection, beside))
}

/// Returns what paths refer to, each once, and none of themselves.
fn references(paths: &[PathInfo]) -> Vec<StorePath> {
    let mut seen: HashSet<&StorePath> = paths.iter().map(|info| &info.path).collect();
    paths.iter().flat_map(|info| &info.references).filter(|reference| seen.insert(reference)).cloned().collect()
}

fn warnings(selection: &Selection) -> Vec<String> {
    let rows = selection.unreadable.iter().map(|row| format!("{}: its record makes no sense: {}", row.path, row.why));
    let absent = selection.absent.iter().map(|path| format!("{path} is referred to and not valid any more"));
    let mut warnings: Vec<String> = rows.chain(absent).collect();
    if warnings.len() > MAX_NAMED {
        let more = warnings.len() - MAX_NAMED;
        warnings.truncate(MAX_NAMED);
        warnings.push(format!("and {more} more paths can't be pushed for such reasons"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lines_and_a_list_that_is_too_long_is_refused() {
        let list = b" a \n\nb\r\nc";
        assert_eq!(read_names(&list[..], list.len() as u64).unwrap(), ["a", "b", "c"]);
        let refused = read_names(&list[..], list.len() as u64 - 1).unwrap_err();
        assert_eq!(refused.code(), crate::exit::USAGE);
        assert!(read_names(&b"\xff"[..], 10).is_err());
    }

    #[test]
    fn the_cache_is_told_from_paths() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        std::fs::write(&file, "[caches.main]\nurl = \"https://a.org/main\"\n").unwrap();
        let config =
            Config::load(&crate::config::Places { only: Some(file), user: None, system: "/nonexistent".into() })
                .unwrap();
        let split = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let (paths, cache) = split_cache(&config, &names).unwrap();
            (paths.len(), cache)
        };
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(split(&[]), (0, None));
        assert_eq!(split(&["main"]), (0, some("main")));
        assert_eq!(split(&["./main"]), (1, None));
        assert_eq!(split(&["./result", "main"]), (1, some("main")));
        assert_eq!(split(&["./result", "/nix/store/x"]), (2, None));
        assert_eq!(split(&["a", "https://b.org/x"]), (1, some("https://b.org/x")));
        assert_eq!(split(&["./result", "mian"]), (1, some("mian")));
        assert_eq!(split(&["0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top"]), (1, None));
    }
}
