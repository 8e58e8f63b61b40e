//! Segments that are changed together.

use super::{Filter, MAX_GROUP_BYTES, MAX_GROUP_GAP, Segment, bytecode, number, unwind};

/// One or several segments, of which each is changed given the others.
#[derive(Debug, Clone, Copy)]
pub(super) enum Group<'a> {
    Alone(&'a Segment),
    /// An index, and the entries that say what is in it.
    Index {
        rows: &'a Segment,
        entries: &'a Segment,
    },
    /// Modules that lie close to one another.
    Modules(&'a [Segment]),
}

/// Divides segments, in order, into groups.
pub(super) fn groups(mut segments: &[Segment]) -> impl Iterator<Item = Group<'_>> {
    std::iter::from_fn(move || {
        let (group, rest) = match segments {
            [] => return None,
            [rows, entries, rest @ ..] if is_index(rows, entries) => (Group::Index { rows, entries }, rest),
            [first, ..] if first.filter == Filter::Bytecode => {
                let (modules, rest) = segments.split_at(modules_len(segments));
                (Group::Modules(modules), rest)
            }
            [one, rest @ ..] => (Group::Alone(one), rest),
        };
        segments = rest;
        Some(group)
    })
}

fn is_index(rows: &Segment, entries: &Segment) -> bool {
    rows.filter == Filter::UnwindIndexOf && matches!(entries.filter, Filter::Unwind { .. })
}

/// Returns how many modules in front are changed together.
fn modules_len(segments: &[Segment]) -> usize {
    let mut bytes = segments.first().map_or(0, |first| first.range.len());
    let is_one_more = |pair: &&[Segment]| {
        bytes += pair[1].range.len();
        pair[1].filter == Filter::Bytecode
            && pair[1].range.start - pair[0].range.end <= MAX_GROUP_GAP
            && bytes <= MAX_GROUP_BYTES
    };
    1 + segments.windows(2).take_while(is_one_more).count()
}

impl<'a> Group<'a> {
    /// Returns its segments: the first and the last.
    pub(super) fn ends(&self) -> (&'a Segment, &'a Segment) {
        match self {
            Self::Alone(one) => (one, one),
            Self::Index { rows, entries } => (rows, entries),
            Self::Modules(modules) => (&modules[0], &modules[modules.len() - 1]),
        }
    }

    /// Changes the group in a frame's items, if these have it whole.
    pub(super) fn forward(&self, data: &mut [u8]) {
        match self {
            Self::Alone(one) => change(one, data, Filter::forward),
            Self::Index { rows, entries } => {
                change_index(rows, entries, data, unwind::forward_index_of);
                change(entries, data, Filter::forward);
            }
            Self::Modules(modules) => change_modules(modules, data, bytecode::forward),
        }
    }

    /// Undoes [`forward`](Self::forward).
    pub(super) fn inverse(&self, data: &mut [u8]) {
        match self {
            Self::Alone(one) => change(one, data, Filter::inverse),
            Self::Index { rows, entries } => {
                change(entries, data, Filter::inverse);
                change_index(rows, entries, data, unwind::inverse_index_of);
            }
            Self::Modules(modules) => change_modules(modules, data, bytecode::inverse),
        }
    }
}

fn change(segment: &Segment, data: &mut [u8], filter: impl Fn(Filter, &mut [u8], u32)) {
    if let Some(bytes) = data.get_mut(segment.range.clone()) {
        filter(segment.filter, bytes, number(segment.range.start));
    }
}

fn change_index(rows: &Segment, entries: &Segment, data: &mut [u8], change: impl Fn(&mut [u8], &[u8], u32)) {
    let Some((front, behind)) = data.split_at_mut_checked(entries.range.start) else { return };
    if let (Some(index), Some(behind)) = (front.get_mut(rows.range.clone()), behind.get(..entries.range.len())) {
        change(index, behind, unwind::distance(&rows.range, &entries.range));
    }
}

/// Changes modules as if they were one behind the other.
fn change_modules(modules: &[Segment], data: &mut [u8], change: impl Fn(&[u8], usize) -> Option<Vec<u8>>) {
    let gathered: Option<Vec<&[u8]>> = modules.iter().map(|segment| data.get(segment.range.clone())).collect();
    let Some(changed) = gathered.and_then(|gathered| change(&gathered.concat(), modules.len())) else { return };
    let mut rest = &changed[..];
    for Segment { range, .. } in modules {
        let (segment, after) = rest.split_at(range.len());
        data[range.clone()].copy_from_slice(segment);
        rest = after;
    }
}
