//! Closures, level by level.

use std::collections::{HashMap, HashSet};

use firn_nix::StorePath;

use super::Database;
use crate::{PathInfo, Result, Selection};

/// Returns the closure of paths in topological order. Each level of references is asked for as a whole: about as many questions as
/// the longest chain of references is long.
pub(super) fn of(database: &Database, paths: &[StorePath]) -> Result<Selection> {
    let mut all = Selection::default();
    let mut asked: HashSet<StorePath> = HashSet::new();
    let mut level: Vec<StorePath> = paths.iter().filter(|path| asked.insert((*path).clone())).cloned().collect();
    let roots = level.clone();
    while !level.is_empty() {
        let found = database.infos(&level)?;
        let references = found.paths.iter().flat_map(|info| &info.references);
        level = references.filter(|path| asked.insert((*path).clone())).cloned().collect();
        all.paths.extend(found.paths);
        all.absent.extend(found.absent);
        all.unreadable.extend(found.unreadable);
    }
    all.paths = references_first(all.paths, &roots);
    Ok(all)
}

/// Keeps the first of those that are named several times.
pub(super) fn keep_first_of_each(selection: &mut Selection) {
    let mut seen = HashSet::new();
    selection.paths.retain(|info| seen.insert(info.id));
    selection.unreadable.retain(|row| seen.insert(row.id));
    let mut seen = HashSet::new();
    selection.absent.retain(|path| seen.insert(path.clone()));
}

/// Sorts depth first, without recursion: chains of references may be long.
fn references_first(infos: Vec<PathInfo>, roots: &[StorePath]) -> Vec<PathInfo> {
    let places: HashMap<StorePath, usize> =
        infos.iter().enumerate().map(|(place, info)| (info.path.clone(), place)).collect();
    let mut infos: Vec<Option<PathInfo>> = infos.into_iter().map(Some).collect();
    let mut begun = vec![false; infos.len()];
    let mut sorted = Vec::with_capacity(infos.len());
    // Whom we are in, and how many of its references were visited.
    let mut stack: Vec<(usize, usize)> = Vec::new();
    for root in roots {
        enter(places.get(root), &mut begun, &mut stack);
        while let Some((place, visited)) = stack.pop() {
            let Some(info) = infos.get(place).and_then(Option::as_ref) else { continue };
            match info.references.get(visited) {
                Some(reference) => {
                    stack.push((place, visited + 1));
                    enter(places.get(reference), &mut begun, &mut stack);
                }
                None => sorted.extend(infos.get_mut(place).and_then(Option::take)),
            }
        }
    }
    sorted
}

/// Visits what was not yet: a path that refers to itself or closes a cycle was.
fn enter(place: Option<&usize>, begun: &mut [bool], stack: &mut Vec<(usize, usize)>) {
    let Some(&place) = place else { return };
    if let Some(begun) = begun.get_mut(place)
        && !*begun
    {
        *begun = true;
        stack.push((place, 0));
    }
}
