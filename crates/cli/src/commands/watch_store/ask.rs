//! What is said to an agent that runs, and what can be done while none does.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firn_client::agent::{Activity, Answer, CallError, Flushed, Request, Status, call, metrics};
use firn_client::queue::{DeadLetters, Error as QueueError, Queue};
use firn_nix::StorePath;
use firn_nix_store::{Location, resolve};
use serde_json::json;

use super::Ask;
use crate::agent_place::AgentPlace;
use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::output::span;
use crate::progress::{self, paths};

/// How long the agent may take to say how things are.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take to do something that needs no push.
const WORK_PATIENCE: Duration = Duration::from_secs(60);

/// A backfill reads the whole database.
const BACKFILL_PATIENCE: Duration = Duration::from_secs(3600);

/// How many paths are named in words.
const NAMED: usize = 10;

/// Says it, and prints the answer.
pub(super) fn run(ask: &Ask, place: &AgentPlace, context: &Context) -> Result<u8, Failure> {
    match ask {
        Ask::Status => show_status(&status(place)?, context),
        Ask::Metrics => {
            let text = match say(place, &Request::Metrics, PATIENCE) {
                Ok(Answer::Metrics { text }) => text,
                Ok(other) => return Err(unexpected(other)),
                Err(CallError::NoAgent { .. }) => metrics(&queued(place)?),
                Err(error) => return Err(Failure::of(Kind::Agent, error)),
            };
            context.output.data(&text)?;
            Ok(exit::DONE)
        }
        Ask::Flush { paths, wait, timeout } => {
            let timeout_millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let request = Request::Flush { paths: resolved(paths)?, wait: *wait, timeout_millis };
            let pushing = if *wait { *timeout } else { Duration::ZERO };
            match say(place, &request, pushing.saturating_add(WORK_PATIENCE)).map_err(no_agent)? {
                Answer::Flushed(flushed) => show_flushed(&flushed, *wait, context),
                other => Err(unexpected(other)),
            }
        }
        Ask::Requeue(letters) => requeue(place, resolved(&letters.paths)?, context),
        Ask::Forget(letters) => forget(place, resolved(&letters.paths)?, context),
        Ask::Backfill { since, .. } => {
            let since = since.map_or(0, |since| seconds_now().saturating_sub(since.as_secs()));
            match say(place, &Request::Backfill { since }, BACKFILL_PATIENCE).map_err(no_agent)? {
                Answer::Taken { new } => {
                    tell(context, "queued", new, &format!("queued {}", paths(new)))?;
                    Ok(exit::DONE)
                }
                other => Err(unexpected(other)),
            }
        }
    }
}

/// Returns what the agent says of itself, or what its queue says while it doesn't run.
pub(crate) fn status(place: &AgentPlace) -> Result<Status, Failure> {
    match say(place, &Request::Status, PATIENCE) {
        Ok(Answer::Status { status }) => Ok(*status),
        Ok(other) => Err(unexpected(other)),
        Err(CallError::NoAgent { .. }) => queued(place),
        Err(error) => Err(Failure::of(Kind::Agent, error)),
    }
}

fn say(place: &AgentPlace, request: &Request, patience: Duration) -> Result<Answer, CallError> {
    call(&place.socket, request, patience)
}

fn queued(place: &AgentPlace) -> Result<Status, Failure> {
    let hint = format!("no agent answers on {}; start one with `firn watch-store CACHE`", place.socket.display());
    Status::of_queue(&place.state).map_err(|error| Failure::of(Kind::Agent, error).hint(hint))
}

fn requeue(place: &AgentPlace, paths: Vec<StorePath>, context: &Context) -> Result<u8, Failure> {
    let number = match say(place, &Request::Requeue { paths: paths.clone() }, WORK_PATIENCE) {
        Ok(Answer::Requeued { paths }) => paths,
        Ok(other) => return Err(unexpected(other)),
        Err(CallError::NoAgent { .. }) => requeue_alone(place, &paths)?,
        Err(error) => return Err(Failure::of(Kind::Agent, error)),
    };
    tell(context, "requeued", number, &format!("{} to be tried again", progress::paths(number)))?;
    Ok(exit::DONE)
}

fn requeue_alone(place: &AgentPlace, paths: &[StorePath]) -> Result<u64, Failure> {
    let now = seconds_now().saturating_mul(1000);
    alone(place, paths, |mut queue, which| queue.requeue(which, now))
}

fn forget(place: &AgentPlace, paths: Vec<StorePath>, context: &Context) -> Result<u8, Failure> {
    let number = match say(place, &Request::Forget { paths: paths.clone() }, WORK_PATIENCE) {
        Ok(Answer::Forgotten { paths }) => paths,
        Ok(other) => return Err(unexpected(other)),
        Err(CallError::NoAgent { .. }) => alone(place, &paths, |mut queue, which| queue.forget(which))?,
        Err(error) => return Err(Failure::of(Kind::Agent, error)),
    };
    tell(context, "forgotten", number, &format!("{} forgotten", progress::paths(number)))?;
    Ok(exit::DONE)
}

/// Does something with dead letters, all if `paths` is empty, while no agent has the queue.
fn alone(
    place: &AgentPlace,
    paths: &[StorePath],
    work: impl FnOnce(Queue, DeadLetters<'_>) -> Result<u64, QueueError>,
) -> Result<u64, Failure> {
    // Opening would make one.
    queued(place)?;
    let which = if paths.is_empty() { DeadLetters::All } else { DeadLetters::Paths(paths) };
    let done = Queue::open(&place.state).and_then(|queue| work(queue, which));
    done.map_err(|error| Failure::of(Kind::Agent, error))
}

/// Returns the store paths that a user means by what they typed.
fn resolved(paths: &[PathBuf]) -> Result<Vec<StorePath>, Failure> {
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let location = Location::from_env().map_err(|error| Failure::of(Kind::Store, error))?;
    let one = |path: &PathBuf| match path.to_str().and_then(base_name) {
        // As the dead letters are printed; such a path need not be there any more.
        Some(path) => Ok(path),
        None => resolve(&location, Path::new(path)).map_err(|error| Failure::of(Kind::Usage, error)),
    };
    paths.iter().map(one).collect()
}

fn base_name(text: &str) -> Option<StorePath> {
    text.parse().ok()
}

fn show_flushed(flushed: &Flushed, wait: bool, context: &Context) -> Result<u8, Failure> {
    if context.output.json {
        context.output.json_line(flushed)?;
    } else {
        for letter in &flushed.dead {
            context.output.warn(&format!("{} can't be pushed: {}", letter.path, letter.error));
        }
        for path in &flushed.gone {
            context.output.warn(&format!("{path} is not in the store, or not any more"));
        }
        if let Some(trouble) = &flushed.trouble {
            context.output.warn(&format!("nothing is pushed at the moment: {trouble}"));
        }
        if flushed.waiting > 0 {
            context.output.note(&format!("still waiting: {}", paths(flushed.waiting)));
        }
    }
    let complete = flushed.waiting == 0 && flushed.dead.is_empty() && flushed.gone.is_empty();
    Ok(if !wait || complete { exit::DONE } else { exit::FAILED })
}

fn show_status(status: &Status, context: &Context) -> Result<u8, Failure> {
    if context.output.json {
        context.output.json_line(status)?;
        return Ok(exit::DONE);
    }
    let now = seconds_now().saturating_mul(1000);
    let ago = |at: u64| match at {
        0 => "never".to_owned(),
        at => format!("{} ago", span(now.saturating_sub(at) / 1000)),
    };
    let bytes = |bytes: u64| bytesize::ByteSize(bytes).to_string();
    let activity = match (&status.trouble, status.activity) {
        (Some(trouble), activity) => format!("{}: {trouble}", activity.name()),
        (None, Activity::Stopped) => "stopped; this is what its queue says".to_owned(),
        (None, activity) => format!("{}, to {}", activity.name(), status.cache),
    };
    let oldest = status.oldest_at.map(|at| format!(", the oldest came {}", ago(at))).unwrap_or_default();
    let refused = match status.dead {
        0 => paths(0),
        dead => format!("{}, see below; `requeue --all` tries again, `forget --all` gives up", paths(dead)),
    };
    let mut rows = vec![
        ("agent", activity),
        ("waiting", format!("{}, {}{oldest}", paths(status.waiting), bytes(status.waiting_bytes))),
        ("", format!("{} failed before, {} are being pushed", status.retrying, status.in_flight)),
        ("pinned", format!("{}, {}", paths(status.pinned), bytes(status.pinned_bytes))),
        ("store", format!("looked at {}, {} registrations to look at", ago(status.last_scan_at), status.behind)),
        ("pushed", format!("the last path {}", ago(status.last_push_at))),
        ("refused", refused),
    ];
    rows.extend(status.warnings.iter().map(|warning| ("warning", warning.clone())));
    let counters = status.counters.iter().map(|(name, value)| match name.ends_with("-bytes") {
        true => format!("{name} {}", bytes(*value)),
        false => format!("{name} {value}"),
    });
    rows.push(("ever", counters.collect::<Vec<_>>().join(", ")));
    let dead = status.dead_letters.iter().take(NAMED);
    rows.extend(dead.map(|letter| ("refused", format!("{}: {}", letter.path, letter.error))));
    let lost = status.lost.iter().take(NAMED);
    rows.extend(lost.map(|lost| ("lost", format!("{}, {}", lost.path, ago(lost.at)))));
    context.output.pairs(&rows)?;
    Ok(exit::DONE)
}

fn tell(context: &Context, name: &str, number: u64, words: &str) -> Result<(), Failure> {
    if context.output.json {
        return context.output.json_line(&json!({ name: number }));
    }
    context.output.note(words);
    Ok(())
}

fn no_agent(error: CallError) -> Failure {
    let is_absent = matches!(error, CallError::NoAgent { .. });
    let failure = Failure::of(Kind::Agent, error);
    if is_absent { failure.hint("start one with `firn watch-store CACHE`") } else { failure }
}

fn unexpected(answer: Answer) -> Failure {
    match answer {
        Answer::Failed { message } => Failure::new(Kind::Agent, format!("do that: the agent says: {message}")),
        _ => Failure::new(Kind::Agent, "understand the agent: it answered something else"),
    }
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads a duration: a number and `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || "a number with s, m, h or d, as in 90s or 7d".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text.strip_suffix(unit).and_then(|number| number.parse().ok()).ok_or_else(bad)?;
    number.checked_mul(seconds).filter(|seconds| *seconds <= 1 << 40).map(Duration::from_secs).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_and_a_bound() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "7", "d", "-1s", "1.5h", "1w", "99999999999999999999s", "999999999999999999d", "1é"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
