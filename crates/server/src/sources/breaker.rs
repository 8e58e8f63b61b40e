//! When a source is asked again: by its schedule, or later and later while it fails.

use firn_index::{SourceRow, SourceStateRow, UnixSeconds};

use crate::due;

/// The shortest wait after a failure, in seconds.
const MIN_WAIT: u64 = 30;

/// The longest wait after failures, in seconds.
const MAX_WAIT: u64 = 6 * 3600;

/// Returns how long to wait after so many failures in a row: 30 s, then twice as long each time, up to 6 h.
pub fn wait(failures: u32) -> u64 {
    let doubled = MIN_WAIT.saturating_mul(1u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX));
    doubled.clamp(MIN_WAIT, MAX_WAIT)
}

/// Writes down that a sync failed: none begins by itself before [`wait`] is over.
pub fn failed(state: &mut SourceStateRow, error: String, now: UnixSeconds) {
    state.failures = state.failures.saturating_add(1);
    state.retry_at = Some(now.saturating_add(wait(state.failures)));
    state.error = Some(error);
    state.ended_at = Some(now);
}

/// Writes down that a sync came to its end.
pub fn succeeded(state: &mut SourceStateRow, now: UnixSeconds) {
    state.failures = 0;
    state.retry_at = None;
    state.error = None;
    state.ended_at = Some(now);
    state.good_at = Some(now);
}

/// Returns when the next sync begins by itself; `None` if it doesn't.
///
/// A source that fails is tried again when its wait is over, be its schedule shorter or longer.
pub fn next_at(row: &SourceRow, state: &SourceStateRow) -> Option<UnixSeconds> {
    if row.paused || row.every_seconds == 0 {
        return None;
    }
    match (state.retry_at, state.ended_at.or(state.started_at)) {
        (Some(retry), _) => Some(retry),
        (None, Some(last)) => Some(last.saturating_add(row.every_seconds)),
        (None, None) => Some(row.created_at),
    }
}

/// Returns whether a sync is to begin by itself.
pub fn is_due(row: &SourceRow, state: &SourceStateRow, now: UnixSeconds) -> bool {
    next_at(row, state).is_some_and(|at| due::has_come(at, row.every_seconds.max(MAX_WAIT), now))
}

#[cfg(test)]
mod tests {
    use firn_index::{SourceFilter, SourceTrust};

    use super::*;

    fn row(every_seconds: u64, paused: bool) -> SourceRow {
        SourceRow {
            url: "local".to_owned(),
            cache: "main".parse().unwrap(),
            builder: "b".to_owned(),
            trust: SourceTrust::Builder,
            filter: SourceFilter {
                skip_upstream: true,
                include: vec![],
                exclude: vec![],
                max_nar_bytes: None,
                derivations: false,
                sources: false,
            },
            every_seconds,
            parallel: 1,
            bytes_per_second: None,
            ssh_key: None,
            host_key: None,
            use_firn: true,
            new_only: false,
            paused,
            created_at: 100,
        }
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let waits: Vec<u64> = (1..13).map(wait).collect();
        assert_eq!(waits, [30, 60, 120, 240, 480, 960, 1920, 3840, 7680, 15360, 21600, 21600]);
        assert_eq!((wait(0), wait(u32::MAX)), (30, 21600));
    }

    #[test]
    fn a_schedule_goes_on_from_the_end_of_the_last_sync() {
        let mut state = SourceStateRow::default();
        assert_eq!(next_at(&row(600, false), &state), Some(100), "a new one at once");
        assert_eq!(next_at(&row(600, true), &state), None);
        assert_eq!(next_at(&row(0, false), &state), None);
        succeeded(&mut state, 1000);
        assert_eq!(next_at(&row(600, false), &state), Some(1600));
        assert!(!is_due(&row(600, false), &state, 1599) && is_due(&row(600, false), &state, 1600));
        // What a clock said that was a year ahead.
        succeeded(&mut state, 31_536_000);
        assert!(is_due(&row(600, false), &state, 1600));
    }

    #[test]
    fn failures_open_the_circuit_and_a_success_closes_it() {
        let mut state = SourceStateRow::default();
        failed(&mut state, "no route".to_owned(), 1000);
        assert_eq!(next_at(&row(600, false), &state), Some(1030), "sooner than its schedule");
        for now in [1030, 1090, 1210, 1450, 1930] {
            assert_eq!(next_at(&row(5, false), &state), Some(now), "later than its schedule");
            failed(&mut state, "no route".to_owned(), now);
        }
        assert_eq!((state.failures, state.error.as_deref(), state.good_at), (6, Some("no route"), None));
        succeeded(&mut state, 3000);
        assert_eq!((state.failures, state.retry_at, state.error.clone()), (0, None, None));
        assert_eq!(next_at(&row(5, false), &state), Some(3005));
    }
}
