use std::fmt::Write as _;
use std::fs;
use std::process::{Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Doing, Error, Result};

/// A program that has ended, and what it printed.
#[derive(Debug)]
#[must_use]
pub struct Ran {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error; what is not UTF-8 is replaced.
    pub stderr: String,
}

impl Ran {
    /// Returns whether the program ended with status 0.
    pub fn succeeded(&self) -> bool {
        self.status.success()
    }

    /// Returns the same if the program succeeded, else [`Error::Command`].
    pub fn ok(self) -> Result<Self> {
        if self.succeeded() {
            return Ok(self);
        }
        Err(Error::Command {
            status: self.status.to_string(),
            stdout: self.text(),
            command: self.command,
            stderr: self.stderr,
        })
    }

    /// Fails with [`Error::Command`] if the program did.
    pub fn done(self) -> Result<()> {
        self.ok().map(drop)
    }

    /// Returns standard output as text without the last line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Returns the lines of standard output.
    pub fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

/// Runs a command to its end without input and keeps what it prints.
pub(crate) fn run(command: &mut Command) -> Result<Ran> {
    let line = describe(command);
    let output = command.stdin(Stdio::null()).output().doing(|| format!("run {line}"))?;
    Ok(Ran {
        command: line,
        status: output.status,
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Returns the command line as one would type it, nearly.
pub(crate) fn describe(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        let _ = write!(line, " {}", argument.to_string_lossy());
    }
    line
}

/// Returns the processes that still run and that a process started, or these, and so on.
pub(crate) fn descendants(ancestor: u32) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let with_parents: Vec<(i32, i32)> = ids
        .filter_map(|id| {
            // The name, which may hold anything, is in parentheses; then state and parent.
            let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
            let parent = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()?;
            Some((id, parent))
        })
        .collect();
    let (mut found, mut next) = (Vec::new(), vec![i32::try_from(ancestor).unwrap_or_default()]);
    while let Some(process) = next.pop() {
        let children = with_parents.iter().filter(|(id, parent)| *parent == process && !found.contains(id));
        let children: Vec<i32> = children.map(|(id, _)| *id).collect();
        next.extend(&children);
        found.extend(children);
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// Ends processes with SIGKILL.
pub(crate) fn kill_all(processes: Vec<Pid>) {
    for process in processes {
        // It may have ended by itself.
        let _ = kill_process(process, Signal::KILL);
    }
}
