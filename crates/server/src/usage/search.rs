//! Finding paths by their names.
//!
//! Rows lie in the order of store hashes, and to look through a large cache takes longer than anybody waits. So the paths of
//! each package are kept in memory, as the newest pass over the store found them. What is called like the text is found
//! there first; the time that is left goes to looking through the caches, which finds what came since, and texts that stand
//! in versions.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use firn_api::usage::{Found, FoundPath};
use firn_engine::Mark;
use firn_index::{CacheName, Meta, PathRow, UnixSeconds};
use firn_nix::{StoreHash, StorePath};

use super::Usage;

/// Rows read at a time.
const PAGE: usize = 1000;

/// How long a search may take: somebody waits for it, and it keeps a thread busy.
const SEARCH_TIME: Duration = Duration::from_millis(500);

/// How long it may take if a package was found: what is missing then is what came since, or stands in versions.
const FOUND_TIME: Duration = Duration::from_millis(40);

/// Paths that are kept in memory by their packages: the newest million takes 22 MiB.
pub(super) const KEPT_PATHS: usize = 1 << 20;

/// Which paths each package has, as a pass over the store found them.
#[derive(Debug)]
pub struct Packages {
    /// When the pass began.
    at: UnixSeconds,
    /// Whether all paths of the pass are here.
    is_whole: bool,
    caches: Vec<CacheName>,
    /// Names of packages in lower case, and how many of the paths each has; in the order of the paths.
    names: Vec<(Box<str>, u32)>,
    /// By package, the newest first: the number of the cache, and the hash.
    paths: Vec<(u16, StoreHash)>,
}

impl Packages {
    /// Takes the newest paths out of a pass, so many at most.
    pub fn of(mark: &Mark, most: usize) -> Self {
        let all = &mark.holders()[..mark.paths()];
        let of = |number: &u32| &all[*number as usize];
        let mut order: Vec<u32> = (0..).zip(all).map(|(number, _)| number).collect();
        let is_whole = order.len() <= most;
        if !is_whole {
            order.select_nth_unstable_by_key(most, |number| Reverse(of(number).at));
            order.truncate(most);
        }
        order.sort_unstable_by_key(|number| (of(number).package, Reverse(of(number).at), *number));
        let name = |package: u32| mark.names().packages.get(package as usize).map_or("", String::as_str);
        let groups = order.chunk_by(|a, b| of(a).package == of(b).package);
        let names = groups.map(|group| (name(of(&group[0]).package).to_ascii_lowercase().into(), group.len() as u32));
        Self {
            at: mark.at,
            is_whole,
            caches: mark.names().caches.clone(),
            names: names.collect(),
            paths: order.iter().map(|number| (of(number).cache, of(number).hash)).collect(),
        }
    }

    /// Returns the paths of packages in whose names a text may stand, the best packages first.
    fn candidates(&self, wanted: &str) -> Vec<&[(u16, StoreHash)]> {
        // A text with a version in it may begin in a package's name and go on behind that.
        let start = StorePath::package_of(wanted);
        let may_begin = |name: &str| !start.is_empty() && start.len() < wanted.len() && name.ends_with(start);
        let mut found = Vec::new();
        let mut from = 0;
        for (name, count) in &self.names {
            let to = from + *count as usize;
            if name.contains(wanted) || may_begin(name) {
                found.push((Rank::of(name, start), &self.paths[from..to]));
            }
            from = to;
        }
        found.sort_by_key(|(rank, _)| *rank);
        found.into_iter().map(|(_, paths)| paths).collect()
    }
}

/// How well something is called what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Exact,
    Begins,
    Holds,
}

impl Rank {
    fn of(name: &str, wanted: &str) -> Self {
        match name.strip_prefix(wanted) {
            Some("") => Self::Exact,
            Some(_) => Self::Begins,
            None => Self::Holds,
        }
    }

    fn of_path(name: &str, wanted: &str) -> Self {
        Self::of(StorePath::package_of(name), wanted).min(Self::of(name, wanted))
    }
}

/// What was found so far.
struct Hits<'a> {
    wanted: &'a str,
    most: usize,
    /// By how well they are called, then by age, then by name.
    found: Vec<((Rank, Reverse<UnixSeconds>), FoundPath)>,
    seen: HashSet<(CacheName, StoreHash)>,
    /// Whether some were left out because there are too many.
    is_cut: bool,
}

impl Hits<'_> {
    fn take(&mut self, cache: &CacheName, row: &PathRow) {
        let name = row.path.name().to_ascii_lowercase();
        if !name.contains(self.wanted) || !self.seen.insert((cache.clone(), row.path.hash())) {
            return;
        }
        let order = (Rank::of_path(&name, self.wanted), Reverse(row.committed_at));
        self.found.push((order, found_path(cache, row)));
        if self.found.len() >= 2 * self.most.max(PAGE) {
            self.cut();
        }
    }

    /// Keeps the best.
    fn cut(&mut self) {
        self.found.sort_by(|(a, one), (b, other)| (a, &one.path, &one.cache).cmp(&(b, &other.path, &other.cache)));
        self.is_cut |= self.found.len() > self.most;
        self.found.truncate(self.most);
    }
}

/// Does as [`search`] for half a second, or for 40 ms if there are packages that are called so, with what the newest report found.
///
/// # Errors
/// Errors of the index.
pub fn find(
    usage: &Usage,
    meta: &dyn Meta,
    caches: &[CacheName],
    text: &str,
    most: usize,
) -> firn_index::Result<Found> {
    let (packages, began) = (usage.packages(), Instant::now());
    let has_time = |has_package: bool| began.elapsed() < if has_package { FOUND_TIME } else { SEARCH_TIME };
    search(meta, packages.as_deref(), caches, text, most, &has_time)
}

/// Finds paths of some caches whose base name holds a text, letter case aside, or that have a hash: what is called just so
/// first, then what begins so, the newest first. Looks as long as there is time, which is asked after each path of `packages`
/// and each thousand rows of a cache with whether a package had any.
///
/// # Errors
/// Errors of the index.
pub fn search(
    meta: &dyn Meta,
    packages: Option<&Packages>,
    caches: &[CacheName],
    text: &str,
    most: usize,
    has_time: &dyn Fn(bool) -> bool,
) -> firn_index::Result<Found> {
    let wanted = text.trim().to_ascii_lowercase();
    let wanted = wanted.rsplit('/').next().unwrap_or_default();
    if wanted.is_empty() {
        return Ok(Found::default());
    }
    if let Some(hash) = wanted.get(..32).and_then(|hash| hash.parse().ok()) {
        let mut found = Found::default();
        for cache in caches {
            found.paths.extend(meta.path(cache, &hash)?.map(|row| found_path(cache, &row)));
        }
        return Ok(found);
    }
    let mut hits = Hits { wanted, most, found: Vec::new(), seen: HashSet::new(), is_cut: false };
    let counted_at = match packages {
        Some(packages) if by_package(meta, packages, caches, &mut hits, has_time)? => Some(packages.at),
        _ => None,
    };
    let has_package = !hits.found.is_empty();
    let has_time = || has_time(has_package);
    let is_through = !hits.is_cut && look_through(meta, caches, &mut hits, &has_time)?;
    hits.cut();
    Ok(Found {
        paths: hits.found.into_iter().map(|(_, path)| path).collect(),
        is_partial: !is_through || hits.is_cut,
        counted_at: counted_at.filter(|_| !is_through && !hits.is_cut),
    })
}

/// Takes what packages have that are called so; says whether that is all that they had when the pass began.
fn by_package(
    meta: &dyn Meta,
    packages: &Packages,
    caches: &[CacheName],
    hits: &mut Hits<'_>,
    has_time: &dyn Fn(bool) -> bool,
) -> firn_index::Result<bool> {
    let is_asked: Vec<bool> = packages.caches.iter().map(|cache| caches.contains(cache)).collect();
    let candidates = packages.candidates(hits.wanted);
    for (number, hash) in candidates.into_iter().flatten() {
        let number = usize::from(*number);
        let Some(cache) = packages.caches.get(number).filter(|_| is_asked[number]) else { continue };
        hits.is_cut = hits.found.len() >= hits.most;
        if hits.is_cut || !has_time(!hits.found.is_empty()) {
            return Ok(false);
        }
        // One that went since is not there.
        if let Some(row) = meta.path(cache, hash)? {
            hits.take(cache, &row);
        }
    }
    Ok(packages.is_whole)
}

/// Looks at all paths of caches; says whether there was time for all.
fn look_through(
    meta: &dyn Meta,
    caches: &[CacheName],
    hits: &mut Hits<'_>,
    has_time: &dyn Fn() -> bool,
) -> firn_index::Result<bool> {
    for cache in caches {
        let mut after = None;
        loop {
            if !has_time() {
                return Ok(false);
            }
            let page = meta.paths(cache, after, PAGE)?;
            for (_, row) in &page {
                hits.take(cache, row);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => break,
            }
        }
    }
    Ok(true)
}

fn found_path(cache: &CacheName, row: &PathRow) -> FoundPath {
    FoundPath {
        path: row.path.base_name(),
        cache: cache.to_string(),
        nar_bytes: row.nar_size,
        committed_at: row.committed_at,
    }
}
