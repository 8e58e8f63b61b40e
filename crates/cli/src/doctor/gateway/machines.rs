//! The machines that Nix hands builds to, as its setting `builders` names them.

/// The system of a machine that names none.
const UNNAMED: &str = "the gateway's own system";

/// A machine that builds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Machine {
    /// Its store's URL, as it is written.
    pub(super) uri: String,
    /// What it builds for.
    pub(super) systems: Vec<String>,
    /// The file with the key to log in with.
    pub(super) key: Option<String>,
    /// How many builds it takes at once.
    pub(super) jobs: u64,
    /// Its public host key, in base64.
    pub(super) host_key: Option<String>,
}

impl Machine {
    /// Reads a line; `None` if it says nothing.
    fn of_line(line: &str) -> Option<Self> {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let uri = words.next()?.to_owned();
        let given: Vec<Option<&str>> = words.map(|word| (word != "-").then_some(word)).collect();
        let field = |place: usize| given.get(place).copied().flatten();
        let systems = field(0).unwrap_or(UNNAMED).split(',').map(str::to_owned).collect();
        let jobs = field(2).and_then(|word| word.parse().ok()).unwrap_or(1);
        Some(Self { uri, systems, key: field(1).map(str::to_owned), jobs, host_key: field(6).map(str::to_owned) })
    }

    /// Returns the URL that Nix opens, with its key and host key. A name alone means `ssh://`.
    pub(super) fn url(&self) -> String {
        let base = if self.uri.contains("://") { self.uri.clone() } else { format!("ssh://{}", self.uri) };
        let more = [("ssh-key", &self.key), ("base64-ssh-public-host-key", &self.host_key)];
        more.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?))).fold(base, |url, (name, value)| {
            let between = if url.contains('?') { '&' } else { '?' };
            // What is not in a host key or a usual file name would end the parameter.
            let value = value.replace('%', "%25").replace('&', "%26").replace('+', "%2B").replace('=', "%3D");
            format!("{url}{between}{name}={value}")
        })
    }

    /// Says if an own system counts for one that is asked for.
    pub(super) fn builds_for(&self, system: &str) -> bool {
        self.systems.iter().any(|this| this == system || this == UNNAMED)
    }
}

/// Reads the setting; `file` gives the text of a file that it names by `@FILE`, none if there is no such file.
///
/// # Errors
/// Those of `file`.
pub(super) fn parse<E>(
    builders: &str,
    mut file: impl FnMut(&str) -> Result<Option<String>, E>,
) -> Result<Vec<Machine>, E> {
    let mut machines = Vec::new();
    for entry in builders.split(['\n', ';']).map(str::trim) {
        match entry.strip_prefix('@') {
            Some(path) => {
                let text = file(path.trim())?.unwrap_or_default();
                machines.extend(text.lines().filter_map(Machine::of_line));
            }
            None => machines.extend(Machine::of_line(entry)),
        }
    }
    Ok(machines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_read_as_nix_reads_them() {
        let file = |path: &str| -> Result<_, ()> {
            Ok((path == "/m").then(|| "# all of them\n\nmac x86_64-darwin,aarch64-darwin\n".to_owned()))
        };
        let text = "@/m ; @/none\nssh-ng://b@b1 x86_64-linux /k 8 2 kvm,big-parallel - c3Mg\n-\n";
        let machines = parse(text.trim_end_matches("-\n"), file).expect("read");
        let urls: Vec<String> = machines.iter().map(Machine::url).collect();
        assert_eq!(urls, ["ssh://mac", "ssh-ng://b@b1?ssh-key=/k&base64-ssh-public-host-key=c3Mg"]);
        assert_eq!((machines[0].jobs, machines[1].jobs), (1, 8));
        assert!(machines[0].builds_for("aarch64-darwin") && !machines[0].builds_for("x86_64-linux"));
        assert!(parse("b1", file).expect("read")[0].builds_for("x86_64-linux"), "it builds for what the gateway is");
        assert_eq!(parse("", file), Ok(vec![]));
    }
}
