//! `firn hook`: from Nix's `post-build-hook` to the agent, in milliseconds.
//!
//! Nix waits for it, and a hook that fails stops the build: so it ends within two seconds with status 0, whatever happens,
//! and prints nothing on standard output. What it can't hand over it leaves in the spool beside the agent's queue.

use std::env;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use firn_client::agent::{Answer, Request, call};
use firn_client::queue::Spool;
use firn_nix::StorePath;

use crate::agent_place::{AgentOptions, AgentPlace};
use crate::context::Context;
use crate::exit;
use crate::failure::Failure;

/// How long the agent may take to say that it has the paths.
const AGENT_PATIENCE: Duration = Duration::from_millis(800);

/// How long all of it may take.
const PATIENCE: Duration = Duration::from_millis(1800);

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    agent: AgentOptions,
}

const AFTER_HELP: &str = "\
Reads OUT_PATHS as Nix sets it. Nix runs a hook without arguments; as firn-hook, a link to firn, the program is one:
  ln -s firn /usr/local/bin/firn-hook
  post-build-hook = /usr/local/bin/firn-hook        in nix.conf
With options, name a script that runs `exec firn hook …`.
The hook runs as the user of the Nix daemon, normally root; the agent should run as the same. It always
ends with status 0, within two seconds: the agent, which has a cursor of its own over Nix's database,
finds the paths anyway, only later.";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let paths = named_paths(&env::var("OUT_PATHS").unwrap_or_default(), |problem| context.output.warn(&problem));
    if paths.is_empty() {
        return Ok(exit::DONE);
    }
    match arguments.agent.own() {
        Ok(place) => hand_over(place, paths, deadline, context),
        Err(failure) => context.output.failure(&failure),
    }
    Ok(exit::DONE)
}

fn named_paths(text: &str, mut problem: impl FnMut(String)) -> Vec<StorePath> {
    let mut paths = Vec::new();
    for word in text.split_ascii_whitespace() {
        let base_name = word.rsplit('/').next().unwrap_or(word);
        match base_name.parse() {
            Ok(path) => paths.push(path),
            Err(error) => problem(format!("hook: {word} is no store path: {error}")),
        }
    }
    paths
}

fn hand_over(place: AgentPlace, paths: Vec<StorePath>, deadline: Instant, context: &Context) {
    let Err(why) = tell(&place, &paths) else { return };
    match Spool::of(&place.state).append(&paths, deadline) {
        Ok(()) => tracing::debug!(why, "left the paths in the spool"),
        Err(error) => {
            let failure = Failure::of(crate::failure::Kind::Failed, error);
            let text = format!("hook: no agent took the paths ({why}), and they were not left: {}", failure.chain());
            context.output.warn(&text);
        }
    }
}

/// Waits no longer than [`AGENT_PATIENCE`] even where connecting hangs: nobody accepts, and the line is full.
fn tell(place: &AgentPlace, paths: &[StorePath]) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let (socket, request) = (place.socket.clone(), Request::Take { paths: paths.to_vec() });
    thread::spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = sender.send(call(&socket, &request, AGENT_PATIENCE));
    });
    match receiver.recv_timeout(AGENT_PATIENCE) {
        Ok(Ok(Answer::Taken { .. })) => Ok(()),
        Ok(Ok(Answer::Failed { message })) => Err(message),
        Ok(Ok(_)) => Err("it answered something else".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it took too long".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_whatever_is_beside_them() {
        let mut problems = Vec::new();
        let hash = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";
        let text = format!("/nix/store/{hash}-a  /gnu/store/{hash}-b\n{hash}-c /nix/store nonsense");
        let paths = named_paths(&text, |problem| problems.push(problem));
        let names: Vec<_> = paths.iter().map(StorePath::name).collect();
        assert_eq!((names, problems.len()), (vec!["a", "b", "c"], 2));
        assert!(named_paths("", |_| ()).is_empty());
    }
}
