//! The agent on this machine.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use firn_client::agent::{Activity, Answer, CallError, Request, Status, call};

use super::Finding;
use crate::agent_place::AgentPlace;
use crate::progress::paths_wait;

/// How long the agent may take to say how things are.
const PATIENCE: Duration = Duration::from_secs(10);

/// From when on a path waits too long, in milliseconds, and Nix's database was not looked at for too long.
const LONG_MILLIS: u64 = 3_600_000;

/// For how long the loss of a path is told, in milliseconds.
const RECENT_MILLIS: u64 = 7 * 86_400_000;

/// Asks the agent of this user or of the system.
pub(super) fn examine() -> Vec<Finding> {
    let place = AgentPlace::usual();
    match call(&place.socket, &Request::Status, PATIENCE) {
        Ok(Answer::Status { status }) => vec![running(&status), queue(&status, now_millis())],
        Ok(_) => vec![Finding::fail("agent", "it answered something else", "use a firn of the agent's version")],
        Err(CallError::NoAgent { .. }) => vec![absent(&place.socket, Status::of_queue(&place.state).ok().as_ref())],
        Err(error @ CallError::Denied { .. }) => vec![Finding::skipped("agent", error.to_string())],
        Err(error) => {
            let detail = crate::failure::Failure::of(crate::failure::Kind::Agent, error).chain();
            vec![Finding::fail("agent", detail, "restart it: systemctl restart firn-watch-store")]
        }
    }
}

/// Returns the time as agents write it.
pub(super) fn now_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX)
}

/// Judges that no agent runs; a queue says that one is meant to.
pub(super) fn absent(socket: &Path, queue: Option<&Status>) -> Finding {
    match queue {
        None => Finding::ok("agent", "none is installed: builds are pushed by `firn push` or `firn watch-exec` only"),
        Some(queue) => Finding::fail(
            "agent",
            format!("none answers on {}, and {} in its queue", socket.display(), paths_wait(queue.waiting)),
            "start it: systemctl start firn-watch-store",
        ),
    }
}

/// Judges what the agent is at.
pub(super) fn running(status: &Status) -> Finding {
    let trouble = || status.trouble.clone().unwrap_or_else(|| "it does not say why".to_owned());
    let detail = format!("{}: {}", status.activity.name(), trouble());
    match status.activity {
        Activity::Running if status.warnings.is_empty() => {
            Finding::ok("agent", format!("runs, and pushes to {}", status.cache))
        }
        Activity::Running => {
            let advice =
                "the work goes on; until this is mended paths may be lost to Nix's garbage collector, or not be pushed";
            Finding::warn("agent", format!("runs, but: {}", status.warnings.join("; ")), advice)
        }
        Activity::Silent => Finding::fail("agent", detail, "restart it: systemctl restart firn-watch-store"),
        Activity::Stopped => Finding::fail("agent", detail, "start it: systemctl start firn-watch-store"),
        Activity::Unreachable => Finding::warn("agent", detail, "it goes on by itself when the server is there again"),
        Activity::Paused => {
            Finding::fail("agent", detail, "give it a good token, then: systemctl reload firn-watch-store")
        }
        Activity::Blocked => Finding::fail(
            "agent",
            detail,
            "see to that it can read Nix's database and write its queue; is a disk full?",
        ),
    }
}

/// Judges what waits.
pub(super) fn queue(status: &Status, now_millis: u64) -> Finding {
    let waits = format!("{}, {} failed before", paths_wait(status.waiting), status.retrying);
    let lost = status.lost.iter().filter(|lost| now_millis.saturating_sub(lost.at) < RECENT_MILLIS).count();
    if status.dead > 0 {
        let detail = format!("{waits}, and {} were refused for good", status.dead);
        return Finding::warn(
            "queue",
            detail,
            "`firn watch-store status` says why, `firn watch-store requeue --all` tries again, \
             `firn watch-store forget --all` gives them up",
        );
    }
    if status.oldest_at.is_some_and(|at| now_millis.saturating_sub(at) > LONG_MILLIS) {
        return Finding::warn("queue", format!("{waits}, for more than an hour"), "`firn watch-store status` says why");
    }
    if lost > 0 {
        let detail = format!("{waits}; {lost} were deleted in the last week before they could be pushed");
        return Finding::warn(
            "queue",
            detail,
            "`firn watch-store status` names them; see --max-pin-age and --max-pinned-bytes",
        );
    }
    Finding::ok("queue", waits)
}
