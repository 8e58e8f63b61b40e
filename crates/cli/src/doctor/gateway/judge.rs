//! The traps that a gateway can be in.

use super::gather::{Agent, Gateway, Reach};
use super::machines::Machine;
use crate::doctor::Finding;
use crate::doctor::nix::judge_hook;

/// What ssh says, and what to do about it.
pub(super) const SSH_TROUBLES: [(&str, &str); 6] = [
    (
        "Host key verification failed",
        "the gateway's root does not know its host key, or knows another: check the key, put it into root's known_hosts \
         (or into the 8th field of its line in builders)",
    ),
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        "find out why its host key is another one; then replace the old one in root's known_hosts",
    ),
    (
        "Permission denied",
        "let the key of the gateway's root in there (authorized_keys), or name the right one in the 3rd field of its \
         line in builders; no key may need a passphrase",
    ),
    ("Could not resolve hostname", "correct its name in builders"),
    ("Connection refused", "start its sshd, or correct its port"),
    ("timed out", "check that it runs, and that no firewall is between"),
];

/// Judges what the gateway does with builds.
pub(super) fn builds(gateway: &Gateway) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("gateway", format!("{} has Nix {}", gateway.place, gateway.version))];
    findings.push(jobs(gateway));
    match &gateway.machines {
        Ok(machines) => {
            findings.push(builders(gateway, machines));
            findings.extend(reached(gateway, machines));
        }
        Err(why) => findings.push(Finding::fail(
            "builders",
            format!("the file that builders names can't be read: {why}"),
            "let everybody read it; the daemon reads it as root",
        )),
    }
    findings.push(inputs(gateway));
    findings.push(users(gateway));
    findings.extend(gateway.trusts_login.map(login));
    findings
}

/// Judges what becomes of results.
pub(super) fn results(gateway: &Gateway) -> Vec<Finding> {
    vec![sending(gateway), signatures(gateway), signing(gateway), garbage(gateway)]
}

fn jobs(gateway: &Gateway) -> Finding {
    match gateway.settings.number("max-jobs") {
        Some(0) => Finding::ok("max-jobs", "0: it builds nothing itself"),
        Some(jobs) => Finding::warn(
            "max-jobs",
            format!("{jobs}: it builds itself when no builder has room, and what is marked preferLocalBuild"),
            "if it should only hand out builds: max-jobs = 0 in its nix.conf, and restart the daemon",
        ),
        None => Finding::skipped("max-jobs", "Nix does not say"),
    }
}

fn builders(gateway: &Gateway, machines: &[Machine]) -> Finding {
    let check = "builders";
    let able: Vec<&Machine> = machines.iter().filter(|machine| machine.jobs > 0).collect();
    let advice = "name them in its nix.conf: builders = ssh-ng://USER@HOST SYSTEM - JOBS 1 FEATURES";
    if able.is_empty() {
        let detail = if machines.is_empty() { "none" } else { "all of them take 0 builds" };
        return Finding::fail(check, format!("{detail}: nothing can be handed out"), advice);
    }
    let own = gateway.settings.text("system").unwrap_or_default();
    let mut systems: Vec<&str> = able.iter().flat_map(|machine| machine.systems.iter().map(String::as_str)).collect();
    systems.sort_unstable();
    systems.dedup();
    let detail = format!("{}, for {}", able.len(), systems.join(", "));
    if !own.is_empty() && !able.iter().any(|machine| machine.builds_for(own)) {
        return Finding::warn(check, format!("{detail}; none for {own}"), format!("if clients want {own}: {advice}"));
    }
    Finding::ok(check, detail)
}

fn reached(gateway: &Gateway, machines: &[Machine]) -> Vec<Finding> {
    let check = "builder";
    let Some(reached) = &gateway.reached else {
        let detail = "not tried: the daemon logs in with root's keys and known hosts; run this as root";
        return if machines.is_empty() { Vec::new() } else { vec![Finding::skipped(check, detail)] };
    };
    let mut findings: Vec<Finding> = machines.iter().zip(reached).map(|(machine, reach)| one(machine, reach)).collect();
    let left = machines.len().saturating_sub(reached.len());
    if left > 0 {
        findings.push(Finding::skipped(check, format!("{left} more were not tried")));
    }
    findings
}

fn one(machine: &Machine, reach: &Reach) -> Finding {
    let (check, uri) = ("builder", &machine.uri);
    match reach {
        Reach::Answers { trusts: Some(false) } => Finding::warn(
            check,
            format!(
                "{uri} answers, and does not trust who logs in: it refuses inputs without a signature that it knows; Nix 2.8 can't hand it builds"
            ),
            "add that user to trusted-users there",
        ),
        Reach::Answers { .. } => Finding::ok(check, format!("{uri} answers")),
        Reach::Fails(why) => {
            let known = SSH_TROUBLES.iter().find(|(words, _)| why.contains(words));
            let advice = known.map_or("try it as the gateway's root: nix store info --store URL", |(_, advice)| advice);
            Finding::fail(check, format!("{uri} can't be used: {why}"), advice)
        }
    }
}

fn inputs(gateway: &Gateway) -> Finding {
    let check = "builders-use-substitutes";
    if gateway.settings.is(check, true) {
        return Finding::ok(check, "builders take inputs from the cache");
    }
    Finding::warn(
        check,
        "off: every input goes from here to the builder by ssh, also if the cache has it",
        "builders-use-substitutes = true in its nix.conf; on the builders the cache as a substituter, and narinfo-cache-negative-ttl = 0",
    )
}

fn users(gateway: &Gateway) -> Finding {
    let check = "trusted-users";
    let others: Vec<&str> = gateway.settings.words(check).into_iter().filter(|user| *user != "root").collect();
    if others.is_empty() {
        let detail = "root only: who logs in as somebody else may also name this machine in its own builders (ssh-ng, Nix 2.26 and later)";
        return Finding::ok(check, detail);
    }
    Finding::warn(
        check,
        format!("{} too: builds of theirs that come by --builders are not passed on, and fail", others.join(", ")),
        "let them build with --store ssh-ng://, or log in as a user who is not trusted",
    )
}

fn login(trusted: bool) -> Finding {
    let check = "login";
    if trusted {
        let detail = "the daemon trusts this login: build with --store ssh-ng://; as one of your builders it would not pass builds on";
        return Finding::ok(check, detail);
    }
    let detail = "the daemon does not trust this login: inputs without a signature that it knows are refused; --store ssh-ng:// works, \
                  and as one of your builders (ssh-ng, Nix 2.26 and later)";
    Finding::ok(check, detail)
}

fn sending(gateway: &Gateway) -> Finding {
    let check = "hook";
    match (gateway.settings.text("post-build-hook"), &gateway.agent) {
        (None, Agent::None(_)) => Finding::fail(
            check,
            "no post-build-hook and no agent: what comes back from builders stays here",
            "run `firn watch-store CACHE` on it as root, and set post-build-hook to a program that runs `firn hook`",
        ),
        (None, Agent::Unknown(_)) => Finding::warn(
            check,
            "no post-build-hook, and if there is an agent is not known",
            "run `firn watch-store CACHE` on it as root",
        ),
        (None, Agent::Answers(_)) => {
            Finding::ok(check, "none: the agent finds what comes back by itself, up to 15 s later")
        }
        (Some(program), agent) => {
            let found = judge_hook(program, gateway.hook_runs == Some(true), &gateway.version);
            if found.advice.is_none() && matches!(agent, Agent::None(_)) {
                let detail = format!("{}; no agent takes what it hands over, if it is firn's", found.detail);
                return Finding::warn(check, detail, "run `firn watch-store CACHE` on it as root");
            }
            found
        }
    }
}

fn signatures(gateway: &Gateway) -> Finding {
    let check = "require-sigs";
    if gateway.settings.is(check, false) {
        return Finding::warn(
            check,
            "off: it takes anything from anybody who may connect, and what it takes is pushed",
            "require-sigs = true in its nix.conf; clients' own inputs go through the cache, or come from trusted users",
        );
    }
    Finding::ok(check, "on")
}

fn signing(gateway: &Gateway) -> Finding {
    let check = "secret-key-files";
    if !gateway.absent_keys.is_empty() {
        let detail = format!("{} can't be read", gateway.absent_keys.join(", "));
        return Finding::fail(
            check,
            detail,
            "correct secret-key-files in its nix.conf, or take it out: the cache signs by itself",
        );
    }
    let detail = match gateway.settings.words(check).len() {
        0 => "none: what builders made has no signature here. Clients take it from the cache, which signs it",
        _ => {
            "they can be read. What builders made bears their signatures, not these; clients take it from the cache, which signs it"
        }
    };
    Finding::ok(check, detail)
}

fn garbage(gateway: &Gateway) -> Finding {
    let check = "garbage";
    let frees_by_itself = gateway.settings.number("min-free").is_some_and(|bytes| bytes > 0);
    if frees_by_itself && !matches!(gateway.agent, Agent::Answers(_)) {
        return Finding::warn(
            check,
            "min-free is set and no agent answers: what was not pushed yet can be deleted, nothing holds it",
            "run the agent: it has the daemon keep what waits",
        );
    }
    Finding::ok(
        check,
        if frees_by_itself {
            "min-free is set, and the agent has the daemon keep what waits"
        } else {
            "the daemon deletes nothing by itself"
        },
    )
}
