//! Where an agent has its control socket and its queue.

use std::env;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Kind};

/// The agent's name where none is given.
pub(crate) const DEFAULT_NAME: &str = "agent";

/// The folder of the sockets of agents that run as root. systemd's `RuntimeDirectory=firn` makes it.
const SYSTEM_RUNTIME: &str = "/run/firn";

/// The folder of the queues of agents that run as root. systemd's `StateDirectory=firn` makes it.
const SYSTEM_STATE: &str = "/var/lib/firn";

/// The variable that names an agent's socket.
const SOCKET_VARIABLE: &str = "FIRN_AGENT_SOCKET";

/// The variable that names the folder of an agent's queue.
const STATE_VARIABLE: &str = "FIRN_AGENT_STATE";

/// Which agent.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct AgentOptions {
    /// The agent's name, where a machine has several, one for each cache
    #[arg(long, value_name = "NAME", default_value = DEFAULT_NAME, global = true)]
    pub(crate) name: String,
    /// Its control socket; by default /run/firn/NAME.sock, or $XDG_RUNTIME_DIR/firn/NAME.sock for other users than root
    #[arg(long, value_name = "SOCKET", env = SOCKET_VARIABLE, global = true)]
    pub(crate) socket: Option<PathBuf>,
    /// The folder of its queue; by default /var/lib/firn/NAME, or $XDG_STATE_HOME/firn/NAME for other users than root
    #[arg(long, value_name = "DIRECTORY", env = STATE_VARIABLE, global = true)]
    pub(crate) state_dir: Option<PathBuf>,
}

/// Where an agent is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentPlace {
    /// Its control socket.
    pub(crate) socket: PathBuf,
    /// The folder with its queue and the hook's spool.
    pub(crate) state: PathBuf,
}

impl AgentPlace {
    /// Returns where this user's agent of the default name is, or the system's if this user has none; the environment may
    /// say otherwise, as for commands that take an agent's options.
    pub(crate) fn usual() -> Self {
        let named = |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
        let place = Self::found();
        Self {
            socket: named(SOCKET_VARIABLE).unwrap_or(place.socket),
            state: named(STATE_VARIABLE).unwrap_or(place.state),
        }
    }

    fn found() -> Self {
        let own = Self::of_user(DEFAULT_NAME);
        let system = Self::of_system(DEFAULT_NAME);
        match own {
            Some(own) if own.socket.exists() || own.state.exists() || !system.socket.exists() => own,
            _ => system,
        }
    }

    fn of_system(name: &str) -> Self {
        let socket = Path::new(SYSTEM_RUNTIME).join(format!("{name}.sock"));
        Self { socket, state: Path::new(SYSTEM_STATE).join(name) }
    }

    /// Returns the place of an agent that this user runs; root's are the system's.
    fn of_user(name: &str) -> Option<Self> {
        if rustix::process::geteuid().is_root() {
            return Some(Self::of_system(name));
        }
        let folder = |variable| env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = folder("XDG_STATE_HOME").or_else(|| Some(folder("HOME")?.join(".local/state")))?;
        let state = state.join("firn").join(name);
        let socket = match folder("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("firn").join(format!("{name}.sock")),
            None => state.join("control.sock"),
        };
        Some(Self { socket, state })
    }
}

impl AgentOptions {
    /// Returns where the agent is that this user runs, or would run.
    pub(crate) fn own(&self) -> Result<AgentPlace, Failure> {
        let no_home = || {
            Failure::new(Kind::Usage, "find the agent's folders: neither HOME nor XDG_STATE_HOME is set")
                .hint("give --socket and --state-dir")
        };
        self.check()?;
        match (&self.socket, &self.state_dir) {
            (Some(socket), Some(state)) => Ok(AgentPlace { socket: socket.clone(), state: state.clone() }),
            _ => Ok(self.changed(AgentPlace::of_user(&self.name).ok_or_else(no_home)?)),
        }
    }

    /// Returns where the agent is that this user speaks with: their own, or the system's if they have none.
    pub(crate) fn reached(&self) -> Result<AgentPlace, Failure> {
        self.check()?;
        let system = self.changed(AgentPlace::of_system(&self.name));
        match self.own() {
            Ok(own) if own.socket.exists() || own.state.exists() || !system.socket.exists() => Ok(own),
            _ => Ok(system),
        }
    }

    fn changed(&self, place: AgentPlace) -> AgentPlace {
        AgentPlace {
            socket: self.socket.clone().unwrap_or(place.socket),
            state: self.state_dir.clone().unwrap_or(place.state),
        }
    }

    fn check(&self) -> Result<(), Failure> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if self.name.is_empty() || self.name.starts_with('.') || !self.name.bytes().all(good) {
            let message = format!("use the agent's name '{}': letters, digits, '-', '_' and '.' only", self.name);
            return Err(Failure::new(Kind::Usage, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(name: &str) -> AgentOptions {
        AgentOptions { name: name.to_owned(), socket: Some("/s".into()), state_dir: Some("/d".into()) }
    }

    #[test]
    fn names_are_no_paths() {
        for bad in ["", "..", ".hidden", "a/b", "a b"] {
            assert!(options(bad).own().is_err(), "{bad}");
        }
        assert_eq!(options("main").own().unwrap(), AgentPlace { socket: "/s".into(), state: "/d".into() });
    }

    #[test]
    fn agents_of_the_system_are_where_its_units_put_them() {
        let place = AgentPlace::of_system("main");
        assert_eq!(place, AgentPlace { socket: "/run/firn/main.sock".into(), state: "/var/lib/firn/main".into() });
    }
}
