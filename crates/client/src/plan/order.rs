//! References before referrers.

use std::collections::HashMap;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;

/// Returns the paths, each once, in an order that has references before referrers; otherwise as they came. What is part of a
/// cycle, which no real store has, comes in any order. Uses no recursion: a chain of references may be long.
#[must_use]
pub fn references_first(paths: Vec<PathInfo>) -> Vec<PathInfo> {
    let mut places: HashMap<&StorePath, usize> = HashMap::with_capacity(paths.len());
    for (place, info) in paths.iter().enumerate() {
        places.entry(&info.path).or_insert(place);
    }
    let mut order = Vec::with_capacity(paths.len());
    let mut is_seen = vec![false; paths.len()];
    // Places to be left, each with how many of its references were looked at.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (place, info) in paths.iter().enumerate() {
        if places.get(&info.path) != Some(&place) || std::mem::replace(&mut is_seen[place], true) {
            continue;
        }
        open.push((place, 0));
        while let Some((here, looked_at)) = open.last_mut() {
            let here = *here;
            let reference = paths.get(here).and_then(|info| info.references.get(*looked_at));
            *looked_at += 1;
            match reference {
                None => {
                    order.push(here);
                    open.pop();
                }
                Some(reference) => {
                    if let Some(&next) = places.get(reference)
                        && !std::mem::replace(&mut is_seen[next], true)
                    {
                        open.push((next, 0));
                    }
                }
            }
        }
    }
    let mut paths: Vec<Option<PathInfo>> = paths.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| paths.get_mut(place).and_then(Option::take)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::samples::{info, path};

    fn ordered(paths: &[(&str, &[&str])]) -> Vec<String> {
        let of = |(name, references): &(&str, &[&str])| {
            let mut info = info(name, 1);
            info.references = references.iter().map(|name| path(name)).collect();
            info
        };
        references_first(paths.iter().map(of).collect()).iter().map(|info| info.path.name().to_owned()).collect()
    }

    #[test]
    fn references_come_first_once_and_cycles_end() {
        assert_eq!(ordered(&[("c", &["b", "c"]), ("b", &["a", "x"]), ("a", &[]), ("b", &["a"])]), ["a", "b", "c"]);
        assert_eq!(ordered(&[("a", &[]), ("b", &[])]), ["a", "b"]);
        assert_eq!(ordered(&[("a", &["b"]), ("b", &["a"])]).len(), 2);
    }

    #[test]
    fn long_chains_are_fine() {
        let names: Vec<String> = (0..100_000).map(|number| format!("p{number}")).collect();
        let paths = names.windows(2).map(|pair| {
            let mut info = info(&pair[0], 1);
            info.references = vec![path(&pair[1])];
            info
        });
        let ordered = references_first(paths.collect());
        assert_eq!(ordered[0].path.name(), "p99998");
    }
}
