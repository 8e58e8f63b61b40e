//! The command that is watched.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Kind};
use crate::output::Output;

/// What a shell ends with if a command can't be found, and if it can't be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;

/// Runs a command to its end and returns its exit code, as a shell would.
///
/// Ctrl-C on a terminal reaches the command by itself, so it is only survived here; SIGTERM and SIGHUP are handed on.
pub(super) async fn run(
    command: &[OsString],
    environment: Option<(&str, OsString)>,
    output: Output,
) -> Result<u8, Failure> {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::new(Kind::Usage, "run a command: there is none"));
    };
    let listen = |kind| signal(kind).map_err(|error| Failure::doing(Kind::Failed, "listen to signals", error));
    let (mut interrupt, mut terminate, mut hangup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    let mut command = Command::new(program);
    command.args(arguments).envs(environment);
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN };
            output.failure(&Failure::doing(Kind::Failed, format!("run {}", program.display()), error));
            return Ok(code);
        }
    };
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let hand_on = |signal| {
        if let Some(pid) = pid {
            // It may have ended just now.
            let _ = kill_process(pid, signal);
        }
    };
    let mut ended = tokio::task::spawn_blocking(move || child.wait());
    loop {
        tokio::select! {
            status = &mut ended => {
                let status = status.map_err(|error| Failure::doing(Kind::Failed, "wait for the command", error))?;
                let status = status.map_err(|error| Failure::doing(Kind::Failed, "wait for the command", error))?;
                return Ok(code(status));
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => hand_on(Signal::TERM),
            _ = hangup.recv() => hand_on(Signal::HUP),
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_words(words: &[&str]) -> u8 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        runtime.block_on(run(&words, Some(("FIRN_TEST", "yes".into())), Output::new(false, true, false))).unwrap()
    }

    #[test]
    fn exit_codes_are_those_of_the_command() {
        assert_eq!(run_words(&["sh", "-c", "test $FIRN_TEST = yes"]), 0);
        assert_eq!(run_words(&["sh", "-c", "exit 42"]), 42);
        assert_eq!(run_words(&["sh", "-c", "kill -9 $$"]), 137);
        assert_eq!(run_words(&["/nowhere/at/all"]), 127);
        assert_eq!(run_words(&["/"]), 126);
    }
}
