//! Paths by the hour in which they became visible, for each builder: out of a mark pass, so that a restart loses nothing.

use std::collections::HashMap;

use firn_engine::{HolderKind, Mark};
use firn_index::UnixSeconds;

/// How many hours are told, that of the pass included.
pub const HOURS: usize = 48;

/// Seconds of an hour.
pub const HOUR: u64 = 3600;

/// Returns the beginnings of the hours that end with that of `at`, the oldest first.
pub fn beginnings(at: UnixSeconds) -> Vec<UnixSeconds> {
    let last = at / HOUR;
    (0..HOURS as u64).rev().map(|back| last.saturating_sub(back) * HOUR).collect()
}

/// Returns how many of the paths that are there became visible in each of the hours, the oldest first, by who pushed them
/// first; builders that pushed none are left out.
pub fn by_builder(mark: &Mark) -> HashMap<&str, Vec<u64>> {
    let paths = mark.holders().iter().filter(|holder| holder.kind == HolderKind::Path);
    let name = |number: u32| mark.names().builders.get(number as usize).map_or("", String::as_str);
    count(mark.at, paths.map(|holder| (name(holder.builder), holder.at)))
}

fn count<'a>(at: UnixSeconds, paths: impl Iterator<Item = (&'a str, UnixSeconds)>) -> HashMap<&'a str, Vec<u64>> {
    let mut counts: HashMap<&str, Vec<u64>> = HashMap::new();
    for (builder, committed_at) in paths {
        // What came while the pass ran counts for its hour.
        let back = usize::try_from((at / HOUR).saturating_sub(committed_at / HOUR)).unwrap_or(usize::MAX);
        if let Some(place) = (HOURS - 1).checked_sub(back) {
            counts.entry(builder).or_insert_with(|| vec![0; HOURS])[place] += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_count_for_their_hours() {
        let now = 1000 * HOUR + 5;
        let at = |back: u64| now - back * HOUR;
        let paths = [("a", now), ("a", now + 2 * HOUR), ("a", at(1)), ("b", at(47)), ("b", at(48)), ("c", 0)];
        let counts = count(now, paths.into_iter());
        let mut of_a = vec![0; HOURS];
        (of_a[46], of_a[47]) = (1, 2);
        let mut of_b = vec![0; HOURS];
        of_b[0] = 1;
        assert_eq!(counts, HashMap::from([("a", of_a), ("b", of_b)]));
        let beginnings = beginnings(now);
        assert_eq!((beginnings[0], beginnings[47], beginnings.len()), (953 * HOUR, 1000 * HOUR, HOURS));
    }
}
