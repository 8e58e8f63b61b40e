//! What there is to know of a gateway.

use std::thread;
use std::time::Duration;

use firn_client::agent::{Answer, CallError, Request, Status, call};
use serde_json::Value;

use super::machines::{self, Machine};
use super::place::Place;
use crate::agent_place::AgentPlace;
use crate::failure::{Failure, Kind};
use crate::nix_settings::NixSettings;
use crate::probe::clean;

/// How many builders are tried. All at once: one that hangs costs 20 s.
const MAX_TRIED: usize = 32;

/// How long the agent may take to say how things are.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway as it is.
#[derive(Debug)]
pub(super) struct Gateway {
    /// Where it is, for people.
    pub(super) place: String,
    /// Its Nix's version, like `2.26.3`.
    pub(super) version: String,
    /// Its daemon's settings.
    pub(super) settings: NixSettings,
    /// Whom it hands builds to; why that is not known.
    pub(super) machines: Result<Vec<Machine>, String>,
    /// What became of trying them, in order; none if they were not tried, as only root has the daemon's keys.
    pub(super) reached: Option<Vec<Reach>>,
    /// Whether the post-build hook is a program that can be run; none if there is no hook.
    pub(super) hook_runs: Option<bool>,
    /// Files of `secret-key-files` that are not there or can't be read.
    pub(super) absent_keys: Vec<String>,
    /// The agent of firn there.
    pub(super) agent: Agent,
    /// What its daemon thinks of the user who looks from afar; none if it did not say, or there is no such user.
    pub(super) trusts_login: Option<bool>,
}

/// What became of opening a builder's store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// It answers; and says whether it trusts whoever logs in, if it can.
    Answers {
        /// Whether it does.
        trusts: Option<bool>,
    },
    /// It does not, and what was said.
    Fails(String),
}

/// An agent that sends what comes to the gateway on to a cache.
#[derive(Debug)]
pub(super) enum Agent {
    /// It says how it is.
    Answers(Box<Status>),
    /// None answers.
    None(String),
    /// That is not known.
    Unknown(String),
}

impl Gateway {
    /// Asks for everything.
    ///
    /// # Errors
    /// If it can't be logged in to, or has no Nix that answers.
    pub(super) fn ask(place: &Place) -> Result<Self, Failure> {
        let version = version(place)?;
        let settings = settings(place)?;
        let machines = machines(place, settings.text("builders").unwrap_or_default());
        let is_root = output(place, &["id", "-u"]).is_ok_and(|text| text.trim() == "0");
        let reached = match &machines {
            Ok(machines) if is_root => Some(reach_all(place, machines)),
            _ => None,
        };
        let runs = |program: &str| place.run(&["test", "-x", program]).is_ok_and(|ran| ran.status.success());
        let hook_runs = settings.text("post-build-hook").map(runs);
        let is_absent = |file: &&str| !place.run(&["test", "-r", file]).is_ok_and(|ran| ran.status.success());
        let absent_keys = settings.words("secret-key-files").into_iter().filter(is_absent).map(str::to_owned).collect();
        let trusts_login = match place {
            Place::Here => None,
            Place::There(_) => match reach(place, "daemon") {
                Reach::Answers { trusts } => trusts,
                Reach::Fails(_) => None,
            },
        };
        let (place, agent) = (place.to_string(), agent(place));
        Ok(Self { place, version, settings, machines, reached, hook_runs, absent_keys, agent, trusts_login })
    }
}

fn version(place: &Place) -> Result<String, Failure> {
    let advice = match place {
        Place::Here => "install Nix, or add its programs to PATH",
        Place::There(_) => "`ssh` to it has to work without a question, and Nix has to be there",
    };
    let failure = |why: String| {
        let message = format!("ask Nix on {place} for its version: {why}");
        Failure::new(Kind::Store, message).hint(advice)
    };
    let ran = place.run(&["nix", "--version"]).map_err(|error| failure(error.to_string()))?;
    if !ran.status.success() {
        return Err(failure(last_line(&ran.stderr)));
    }
    let text = String::from_utf8_lossy(&ran.stdout).into_owned();
    Ok(text.trim().rsplit(' ').next().unwrap_or_default().to_owned())
}

fn settings(place: &Place) -> Result<NixSettings, Failure> {
    let mut why = String::new();
    for command in [&["config", "show", "--json"][..], &["show-config", "--json"]] {
        match place.nix(command) {
            Ok(ran) if ran.status.success() => match serde_json::from_slice(&ran.stdout) {
                Ok(Value::Object(values)) => return Ok(NixSettings::of_values(values)),
                _ => "it prints something else than settings".clone_into(&mut why),
            },
            Ok(ran) => why = last_line(&ran.stderr),
            Err(error) => why = error.to_string(),
        }
    }
    let message = format!("read Nix's settings on {place}: {why}");
    Err(Failure::new(Kind::Store, message)
        .hint("`nix show-config --json` or `nix config show --json` has to work there"))
}

fn machines(place: &Place, builders: &str) -> Result<Vec<Machine>, String> {
    machines::parse(builders, |path| {
        // Nix takes a file that is not there for an empty one.
        let is_there = place.run(&["test", "-e", path]).is_ok_and(|ran| ran.status.success());
        if is_there { output(place, &["cat", path]).map(Some) } else { Ok(None) }
    })
}

fn reach_all(place: &Place, machines: &[Machine]) -> Vec<Reach> {
    thread::scope(|scope| {
        let tried = machines.iter().take(MAX_TRIED).map(|machine| {
            let url = machine.url();
            scope.spawn(move || reach(place, &url))
        });
        let tried: Vec<_> = tried.collect();
        let ended = |handle: thread::ScopedJoinHandle<'_, Reach>| {
            handle.join().unwrap_or_else(|_| Reach::Fails("trying it went wrong".to_owned()))
        };
        tried.into_iter().map(ended).collect()
    })
}

/// Opens a store as Nix there does. Commands and flags have changed since 2.8.
fn reach(place: &Place, url: &str) -> Reach {
    let mut why = String::new();
    for command in [&["store", "info", "--json"][..], &["store", "ping", "--json"], &["store", "ping"]] {
        match place.nix(&[command, &["--store", url]].concat()) {
            Ok(ran) if ran.status.success() => {
                let trusts = serde_json::from_slice::<Value>(&ran.stdout).ok().and_then(|info| {
                    // A number before 2.29, a truth value since.
                    let trusted = info.get("trusted")?;
                    trusted.as_bool().or_else(|| trusted.as_u64().map(|number| number == 1))
                });
                return Reach::Answers { trusts };
            }
            Ok(ran) => {
                let is_unknown =
                    ["not a recognised command", "unrecognised flag"].iter().any(|text| ran.stderr.contains(text));
                why = telling_line(&ran.stderr);
                if !is_unknown {
                    break;
                }
            }
            Err(error) => {
                why = error.to_string();
                break;
            }
        }
    }
    Reach::Fails(why)
}

fn agent(place: &Place) -> Agent {
    match place {
        Place::Here => match call(&AgentPlace::usual().socket, &Request::Status, PATIENCE) {
            Ok(Answer::Status { status }) => Agent::Answers(status),
            Ok(_) => Agent::Unknown("the agent answered something else: is it of another version?".to_owned()),
            Err(error @ CallError::NoAgent { .. }) => Agent::None(error.to_string()),
            Err(error) => Agent::Unknown(error.to_string()),
        },
        Place::There(_) => match place.run(&["firn", "watch-store", "status", "--json"]) {
            Ok(ran) => match serde_json::from_slice(&ran.stdout) {
                Ok(status) => Agent::Answers(Box::new(status)),
                Err(_) if ran.stderr.contains("not found") => Agent::None("there is no firn on its PATH".to_owned()),
                Err(_) => Agent::Unknown(last_line(&ran.stderr)),
            },
            Err(error) => Agent::Unknown(error.to_string()),
        },
    }
}

/// Runs a program that has to succeed; says why it did not.
fn output(place: &Place, words: &[&str]) -> Result<String, String> {
    match place.run(words) {
        Ok(ran) if ran.status.success() => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        Ok(ran) => Err(last_line(&ran.stderr)),
        Err(error) => Err(error.to_string()),
    }
}

fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
    clean(line)
}

/// Returns what ssh said, if it did: Nix only says that there is no connection.
fn telling_line(text: &str) -> String {
    let tells = |line: &&str| super::judge::SSH_TROUBLES.iter().any(|(words, _)| line.contains(words));
    text.lines().find(tells).map_or_else(|| last_line(text), |line| clean(line.trim()))
}
