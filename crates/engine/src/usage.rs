//! What groups of paths cost on the disk: sums over a [`Mark`].
//!
//! For one kind of group (by cache, builder, package, day, or any sets of paths) two passes over the chunks of all its
//! groups give exact figures: the first counts by how many groups each chunk is needed, the second adds up. A dense array
//! of counters is used rather than a set for each group, so that memory does not grow with the number of groups.

use firn_index::UnixSeconds;

use crate::mark::{Holder, HolderKind, Mark, Sizes, Span};

/// By what holders are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// All in one group.
    Store,
    /// By cache.
    Cache,
    /// By who uploaded.
    Builder,
    /// By package: the name without its version.
    Package,
    /// By the day (UTC) of the commit.
    Day,
}

/// Sums over a group of paths. Bytes of a chunk in a pack are its share of its frame.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Paths. NARs that no path names yet, and documents, are no paths, and are in all other sums.
    pub paths: u64,
    /// NAR bytes.
    pub logical_bytes: u64,
    /// Uncompressed bytes of the chunks that they are made of, each stored copy once.
    pub unique_bytes: u64,
    /// Bytes in packs of all that they need: their chunks, the bases of these, and their recipes.
    pub stored_bytes: u64,
    /// Of these, what no other group needs: would come back if the group went.
    pub exclusive_bytes: u64,
    /// The same, with what several groups need divided evenly among them: adds up over all groups of a kind.
    pub amortised_bytes: u64,
    /// Of the stored bytes, chunks that are needed as bases only.
    pub base_bytes: u64,
    /// What delta frames save of their chunks, estimated by how far their bases were compressed.
    pub delta_saved_bytes: u64,
    /// Of the stored bytes, what nothing needs that the group had before the time asked for: how much it grew since.
    pub recent_bytes: u64,
    /// When the newest of them was committed; 0 for none.
    pub last_at: UnixSeconds,
}

impl Usage {
    /// Returns the stored bytes that other groups need as well.
    pub fn shared_bytes(&self) -> u64 {
        self.stored_bytes.saturating_sub(self.exclusive_bytes)
    }

    /// Returns how many times the logical bytes are the unique ones; 1 for nothing.
    pub fn dedup_factor(&self) -> f64 {
        ratio(self.logical_bytes, self.unique_bytes)
    }

    /// Returns how many times the unique bytes are what they take in packs; 1 for nothing.
    pub fn compression_factor(&self) -> f64 {
        ratio(self.unique_bytes, self.stored_bytes.saturating_sub(self.base_bytes))
    }
}

fn ratio(of: u64, to: u64) -> f64 {
    if of == 0 || to == 0 { 1.0 } else { of as f64 / to as f64 }
}

/// What one chunk's counter holds during a pass.
#[derive(Clone, Copy, Default)]
struct Counter {
    /// The last group that met the chunk, from 1.
    group: u32,
    /// How many groups did.
    groups: u32,
}

impl Mark {
    /// Returns the sums of all groups of a kind, with their names, in no order. `since` is for [`Usage::recent_bytes`].
    pub fn usage_by(&self, dimension: Dimension, since: UnixSeconds) -> Vec<(String, Usage)> {
        let key = |holder: &Holder| match dimension {
            Dimension::Store => 0,
            Dimension::Cache => u64::from(holder.cache),
            Dimension::Builder => u64::from(holder.builder),
            Dimension::Package => u64::from(holder.package),
            Dimension::Day => holder.at / 86_400,
        };
        let mut order: Vec<u32> = (0..).zip(self.holders()).map(|(number, _)| number).collect();
        let of = |number: &u32| &self.holders()[*number as usize];
        order.sort_unstable_by_key(|number| (key(of(number)), of(number).at));
        let groups: Vec<&[u32]> = order.chunk_by(|a, b| key(of(a)) == key(of(b))).collect();
        let name = |key: u64| {
            let named = |names: &[String]| names.get(key as usize).cloned().unwrap_or_default();
            match dimension {
                Dimension::Store => String::new(),
                Dimension::Cache => self.names().caches.get(key as usize).map(ToString::to_string).unwrap_or_default(),
                Dimension::Builder => named(&self.names().builders),
                Dimension::Package => named(&self.names().packages),
                Dimension::Day => day_name(key * 86_400),
            }
        };
        let names: Vec<String> = groups.iter().map(|group| name(key(of(&group[0])))).collect();
        names.into_iter().zip(self.usage_of(&groups, since)).collect()
    }

    /// Returns the sums of any groups of holders, given by their places in [`Mark::holders`] and, for recent bytes, in the
    /// order in which they were committed. A holder may be in several groups; what is in none counts as another group
    /// when it comes to what is exclusive.
    pub fn usage_of(&self, groups: &[&[u32]], since: UnixSeconds) -> Vec<Usage> {
        let mut counters = vec![Counter::default(); self.table.len()];
        let mut recipes = RecipeUses::new(self);
        for (group, number) in groups.iter().zip(1..) {
            for recipe in recipes.of(self, group, number) {
                for ordinal in self.all(recipe).iter().flat_map(|span| span.ordinals()) {
                    let counter = &mut counters[ordinal];
                    if counter.group != number {
                        *counter = Counter { group: number, groups: counter.groups + 1 };
                    }
                }
            }
        }
        self.count_rest(groups, &mut counters, &mut recipes);
        for counter in &mut counters {
            counter.group = 0;
        }
        recipes.restart();
        let sums = groups.iter().zip(1..).map(|(group, number)| {
            let mut sum = self.sum(group, &mut counters, &mut recipes, number, since);
            sum.last_at = group.iter().map(|holder| self.holders()[*holder as usize].at).max().unwrap_or(0);
            sum
        });
        sums.collect()
    }

    /// Counts what holders need that are in no group, as one more.
    fn count_rest(&self, groups: &[&[u32]], counters: &mut [Counter], recipes: &mut RecipeUses) {
        let mut is_grouped = vec![false; self.holders().len()];
        groups.iter().flat_map(|group| *group).for_each(|holder| is_grouped[*holder as usize] = true);
        let rest: Vec<u32> =
            (0..).zip(&is_grouped).filter(|(_, grouped)| !**grouped).map(|(number, _)| number).collect();
        for recipe in recipes.of(self, &rest, u32::MAX) {
            for ordinal in self.all(recipe).iter().flat_map(|span| span.ordinals()) {
                let counter = &mut counters[ordinal];
                if counter.group != u32::MAX {
                    *counter = Counter { group: u32::MAX, groups: counter.groups + 1 };
                }
            }
        }
    }

    fn sum(
        &self,
        group: &[u32],
        counters: &mut [Counter],
        recipes: &mut RecipeUses,
        number: u32,
        since: UnixSeconds,
    ) -> Usage {
        let mut sum = Usage::default();
        for holder in group.iter().map(|holder| &self.holders()[*holder as usize]) {
            sum.paths += u64::from(holder.kind == HolderKind::Path);
            sum.logical_bytes += holder.bytes;
        }
        let mut shared = Shares::default();
        let first_of: Vec<(usize, bool)> = recipes.first_uses(self, group, number, since).collect();
        for &(recipe, is_recent) in &first_of {
            let groups = recipes.groups[recipe];
            let bytes = u64::from(self.recipes[recipe].record_bytes);
            sum.add_stored(bytes, groups, is_recent, &mut shared);
            self.each_new(self.own(recipe), counters, number, |chunk, groups| {
                sum.unique_bytes += u64::from(chunk.raw_bytes());
                sum.delta_saved_bytes += u64::from(chunk.saved_bytes());
                sum.add_stored(u64::from(chunk.stored_bytes()), groups, is_recent, &mut shared);
            });
        }
        // After all own chunks: what is a chunk of one path and a base of another is its own.
        for (recipe, is_recent) in first_of {
            self.each_new(self.bases(recipe), counters, number, |chunk, groups| {
                sum.base_bytes += u64::from(chunk.stored_bytes());
                sum.add_stored(u64::from(chunk.stored_bytes()), groups, is_recent, &mut shared);
            });
        }
        sum.amortised_bytes = sum.exclusive_bytes + shared.total();
        sum
    }

    /// Calls `each` with the chunks that the group has not met yet, and by how many groups they are needed.
    fn each_new(&self, spans: &[Span], counters: &mut [Counter], number: u32, mut each: impl FnMut(Sizes, u32)) {
        for ordinal in spans.iter().flat_map(|span| span.ordinals()) {
            let counter = &mut counters[ordinal];
            if counter.group != number {
                counter.group = number;
                each(self.table.chunk(ordinal), counter.groups);
            }
        }
    }
}

/// Bytes that several groups need, by how many, up to 16; the others in floating point, whose error is far below a byte
/// in a million.
#[derive(Default)]
struct Shares {
    by_groups: [u64; 17],
    others: f64,
}

impl Shares {
    fn add(&mut self, bytes: u64, groups: u32) {
        match self.by_groups.get_mut(groups as usize) {
            Some(sum) => *sum += bytes,
            None => self.others += bytes as f64 / f64::from(groups),
        }
    }

    fn total(&self) -> u64 {
        let exact = (2..).zip(&self.by_groups[2..]).map(|(groups, bytes)| *bytes as f64 / f64::from(groups));
        (exact.sum::<f64>() + self.others).round() as u64
    }
}

impl Usage {
    fn add_stored(&mut self, bytes: u64, groups: u32, is_recent: bool, shared: &mut Shares) {
        self.stored_bytes += bytes;
        if groups <= 1 {
            self.exclusive_bytes += bytes;
        } else {
            shared.add(bytes, groups);
        }
        if is_recent {
            self.recent_bytes += bytes;
        }
    }
}

/// By how many groups each recipe is held; recipes are counted as chunks are.
struct RecipeUses {
    last: Vec<u32>,
    groups: Vec<u32>,
}

impl RecipeUses {
    fn new(mark: &Mark) -> Self {
        Self { last: vec![0; mark.recipes.len()], groups: vec![0; mark.recipes.len()] }
    }

    fn restart(&mut self) {
        self.last.fill(0);
    }

    /// Returns the recipes of a group, each once, and counts them.
    fn of(&mut self, mark: &Mark, group: &[u32], number: u32) -> Vec<usize> {
        let mut recipes = Vec::new();
        for recipe in group.iter().filter_map(|holder| mark.holders()[*holder as usize].recipe()) {
            if std::mem::replace(&mut self.last[recipe], number) != number {
                self.groups[recipe] += 1;
                recipes.push(recipe);
            }
        }
        recipes
    }

    /// Returns the recipes of a group, each once, and whether their first holder is as new as `since`.
    fn first_uses<'a>(
        &'a mut self,
        mark: &'a Mark,
        group: &'a [u32],
        number: u32,
        since: UnixSeconds,
    ) -> impl Iterator<Item = (usize, bool)> + 'a {
        group.iter().filter_map(move |holder| {
            let holder = &mark.holders()[*holder as usize];
            let recipe = holder.recipe()?;
            let is_first = std::mem::replace(&mut self.last[recipe], number) != number;
            is_first.then_some((recipe, holder.at >= since))
        })
    }
}

/// Returns the day of a time as `2026-11-28`, UTC.
pub fn day_name(at: UnixSeconds) -> String {
    // Days to civil, as Howard Hinnant describes it ("chrono-Compatible Low-Level Date Algorithms").
    let days = at / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests;
