//! Requests about sources.

use firn_index::{SourceCounts, SourceFilter, SourceName, SourceRow, SourceStateRow, SourceTrust, UnixSeconds};
use firn_nix_store::Pattern;
use serde::{Deserialize, Serialize};

use super::execute::{Admin, invalid, store};
use super::{Answer, Failure, keys};
use crate::sources::breaker;
use crate::sources::place::Place;
use crate::sources::{Activity, Sources};

/// How many NARs of a source are fetched at once unless somebody says otherwise, and at most.
const PARALLEL: (u32, u32) = (2, 32);

/// How long after a sync the next one begins unless somebody says otherwise, in seconds.
const EVERY_SECONDS: u64 = 3600;

/// The longest URL, file name or key, in bytes.
const MAX_TEXT_BYTES: usize = 1024;

/// The most patterns of a kind.
const MAX_PATTERNS: usize = 64;

/// Settings of a source to make or to change; what is `None` is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceSettings {
    /// Where it is.
    pub url: Option<String>,
    /// The cache that its paths come to.
    pub cache: Option<String>,
    /// The builder that its paths are recorded as from; the source's name unless somebody says otherwise.
    pub builder: Option<String>,
    /// Believes everything from there.
    pub trust: bool,
    /// Believes what one of these public keys signed; replaces the earlier trust.
    pub keys: Option<Vec<String>>,
    /// Whether what the cache's upstreams signed is left out.
    pub skip_upstream: Option<bool>,
    /// Names that are wanted; an empty list is all.
    pub include: Option<Vec<String>>,
    /// Names that are not.
    pub exclude: Option<Vec<String>>,
    /// The longest NAR, in bytes; 0 takes the limit away.
    pub max_nar_bytes: Option<u64>,
    /// Whether derivations are wanted.
    pub derivations: Option<bool>,
    /// Whether paths are wanted that were added and not built.
    pub sources: Option<bool>,
    /// Seconds from one sync to the next; 0 for never by itself.
    pub every_seconds: Option<u64>,
    /// NARs that are fetched at once.
    pub parallel: Option<u32>,
    /// Bytes a second at most; 0 takes the limit away.
    pub bytes_per_second: Option<u64>,
    /// The file of the private key for ssh; an empty one takes it away.
    pub ssh_key: Option<String>,
    /// The host's public key; an empty one forgets it.
    pub host_key: Option<String>,
    /// Whether the builder's own `firn` may send.
    pub use_firn: Option<bool>,
    /// Leaves out what is there at the first sync; only for a new source.
    pub new_only: bool,
}

/// A source, and how it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceView {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// The cache that its paths come to.
    pub cache: String,
    /// The builder that its paths are recorded as from.
    pub builder: String,
    /// Whether everything from there is believed.
    pub trusted: bool,
    /// The public keys one of which has to have signed, if not.
    pub keys: Vec<String>,
    /// Whether what the cache's upstreams signed is left out.
    pub skip_upstream: bool,
    /// Names that are wanted; none are all.
    pub include: Vec<String>,
    /// Names that are not.
    pub exclude: Vec<String>,
    /// The longest NAR, in bytes.
    pub max_nar_bytes: Option<u64>,
    /// Whether derivations are wanted.
    pub derivations: bool,
    /// Whether paths are wanted that were added and not built.
    pub sources: bool,
    /// Seconds from one sync to the next; 0 for never by itself.
    pub every_seconds: u64,
    /// NARs that are fetched at once.
    pub parallel: u32,
    /// Bytes a second at most.
    pub bytes_per_second: Option<u64>,
    /// The file of the private key for ssh.
    pub ssh_key: Option<String>,
    /// The host's public key that is demanded: the one that was set, or that the first sync found.
    pub host_key: Option<String>,
    /// Whether the builder's own `firn` may send.
    pub use_firn: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// `idle`, `waiting`, or what a sync does just now.
    pub activity: String,
    /// Whether a sync is under way or about to begin.
    pub running: bool,
    /// Paths that the sync that runs still has to fetch.
    pub waiting_paths: u64,
    /// Their NAR bytes.
    pub waiting_bytes: u64,
    /// When the last sync began.
    pub started_at: Option<UnixSeconds>,
    /// When the last sync ended.
    pub ended_at: Option<UnixSeconds>,
    /// When a sync last came to its end without an error.
    pub good_at: Option<UnixSeconds>,
    /// When the next one begins by itself.
    pub next_at: Option<UnixSeconds>,
    /// Syncs in a row that failed.
    pub failures: u32,
    /// Why the last one failed.
    pub error: Option<String>,
    /// What the last one has to say beside that.
    pub note: Option<String>,
    /// What the sync that runs, or the last one, did.
    pub last: SourceCounts,
    /// What all did.
    pub total: SourceCounts,
    /// Paths that did not come, the newest last.
    pub problems: Vec<ProblemView>,
}

/// A path that did not come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    /// The path, without its folder.
    pub path: String,
    /// Why.
    pub why: String,
    /// Whether the next sync tries again.
    pub again: bool,
}

impl Admin<'_> {
    pub(super) fn add_source(&self, text: &str, settings: &SourceSettings) -> Result<Answer, Failure> {
        let name: SourceName = text.parse().map_err(invalid)?;
        if self.meta.source(&name).map_err(store)?.is_some() {
            return Err(Failure::SourceExists { name: text.to_owned() });
        }
        let (Some(url), Some(cache)) = (&settings.url, &settings.cache) else {
            return Err(invalid("add a source: say where it is, and to which cache its paths go".to_owned()));
        };
        if !settings.trust && settings.keys.as_ref().is_none_or(Vec::is_empty) {
            return Err(invalid(
                "add a source: say what is believed: --trust for all that comes from there, or --key NAME:BASE64"
                    .to_owned(),
            ));
        }
        let fresh = SourceRow {
            url: url.clone(),
            cache: cache.parse().map_err(invalid)?,
            builder: text.to_owned(),
            trust: SourceTrust::Builder,
            filter: SourceFilter {
                skip_upstream: true,
                include: Vec::new(),
                exclude: Vec::new(),
                max_nar_bytes: None,
                derivations: false,
                sources: false,
            },
            every_seconds: EVERY_SECONDS,
            parallel: PARALLEL.0,
            bytes_per_second: None,
            ssh_key: None,
            host_key: None,
            use_firn: true,
            new_only: settings.new_only,
            paused: false,
            created_at: self.now,
        };
        let row = self.changed_source(fresh, settings)?;
        self.meta.put_source(&name, &row).map_err(store)?;
        Ok(Answer::Source(Box::new(self.source_view(&name, &row)?)))
    }

    pub(super) fn set_source(&self, text: &str, settings: &SourceSettings) -> Result<Answer, Failure> {
        let (name, old) = self.find_source(text)?;
        if settings.new_only {
            return Err(invalid("change a source to --new-only: only a new one can begin like that".to_owned()));
        }
        let row = self.changed_source(old.clone(), settings)?;
        self.meta.put_source(&name, &row).map_err(store)?;
        let mut state = self.meta.source_state(&name).map_err(store)?;
        let before = state.clone();
        if row.url != old.url {
            // Another store: what was seen of the old one says nothing, nor does its host's key.
            state = SourceStateRow { total: state.total, ..SourceStateRow::default() };
        }
        if settings.host_key.is_some() {
            state.host_key = None;
        }
        if state != before {
            let seen: Option<&[u8]> = (row.url != old.url).then_some(&[]);
            self.meta.put_source_state(&name, &state, seen).map_err(store)?;
        }
        Ok(Answer::Source(Box::new(self.source_view(&name, &row)?)))
    }

    pub(super) fn pause_source(&self, text: &str, paused: bool) -> Result<Answer, Failure> {
        let (name, row) = self.find_source(text)?;
        let row = SourceRow { paused, ..row };
        self.meta.put_source(&name, &row).map_err(store)?;
        if let Some(sources) = self.sources().filter(|_| paused) {
            sources.stop(&name);
        }
        Ok(Answer::Source(Box::new(self.source_view(&name, &row)?)))
    }

    pub(super) fn list_sources(&self) -> Result<Answer, Failure> {
        let rows = self.meta.sources().map_err(store)?;
        rows.iter().map(|(name, row)| self.source_view(name, row)).collect::<Result<_, _>>().map(Answer::Sources)
    }

    pub(super) fn show_source(&self, text: &str) -> Result<Answer, Failure> {
        let (name, row) = self.find_source(text)?;
        Ok(Answer::Source(Box::new(self.source_view(&name, &row)?)))
    }

    pub(super) fn remove_source(&self, text: &str) -> Result<Answer, Failure> {
        let (name, row) = self.find_source(text)?;
        let view = self.source_view(&name, &row)?;
        self.meta.remove_source(&name).map_err(store)?;
        if let Some(sources) = self.sources() {
            sources.stop(&name);
        }
        Ok(Answer::SourceRemoved(Box::new(view)))
    }

    pub(super) fn sync_source(&self, text: &str, full: bool) -> Result<Answer, Failure> {
        let (name, row) = self.find_source(text)?;
        let Some(sources) = self.sources() else {
            return Err(invalid("ask the server to sync: none runs".to_owned()));
        };
        if !sources.ask(&name, full) {
            return Err(Failure::Busy { detail: format!("sync the source '{name}': a sync is under way") });
        }
        Ok(Answer::Source(Box::new(self.source_view(&name, &row)?)))
    }

    fn sources(&self) -> Option<&Sources> {
        self.app.map(|app| &*app.sources)
    }

    fn find_source(&self, text: &str) -> Result<(SourceName, SourceRow), Failure> {
        let name: SourceName = text.parse().map_err(invalid)?;
        match self.meta.source(&name).map_err(store)? {
            Some(row) => Ok((name, row)),
            None => Err(Failure::NoSuchSource { name: text.to_owned() }),
        }
    }

    fn changed_source(&self, mut row: SourceRow, settings: &SourceSettings) -> Result<SourceRow, Failure> {
        if let Some(url) = &settings.url {
            Place::parse(check_text("URL", url)?).map_err(invalid)?;
            row.url = url.clone();
        }
        if let Some(cache) = &settings.cache {
            (row.cache, _) = self.find_cache(cache)?;
        }
        if let Some(builder) = &settings.builder {
            row.builder = super::execute::check_builder(builder)?.to_owned();
        }
        match &settings.keys {
            Some(_) if settings.trust => {
                return Err(invalid("trust a source: give either --trust or keys".to_owned()));
            }
            Some(texts) if texts.is_empty() => {
                return Err(invalid("trust a source by no key: give one, or --trust".to_owned()));
            }
            Some(texts) => row.trust = SourceTrust::Keys(keys::public("source's", texts)?),
            None if settings.trust => row.trust = SourceTrust::Builder,
            None => {}
        }
        let filter = &mut row.filter;
        filter.skip_upstream = settings.skip_upstream.unwrap_or(filter.skip_upstream);
        for (patterns, given) in [(&mut filter.include, &settings.include), (&mut filter.exclude, &settings.exclude)] {
            if let Some(given) = given {
                *patterns = check_patterns(given)?;
            }
        }
        filter.max_nar_bytes = limit(settings.max_nar_bytes, filter.max_nar_bytes);
        filter.derivations = settings.derivations.unwrap_or(filter.derivations);
        filter.sources = settings.sources.unwrap_or(filter.sources);
        row.every_seconds = settings.every_seconds.unwrap_or(row.every_seconds);
        row.parallel = settings.parallel.unwrap_or(row.parallel);
        if !(1..=PARALLEL.1).contains(&row.parallel) {
            return Err(invalid(format!("fetch {} NARs at once: give 1 to {}", row.parallel, PARALLEL.1)));
        }
        row.bytes_per_second = limit(settings.bytes_per_second, row.bytes_per_second);
        if let Some(path) = &settings.ssh_key {
            let absolute = path.is_empty() || path.starts_with('/');
            let path = Some(check_text("file of a key", path)?).filter(|_| absolute);
            let path = path.ok_or_else(|| invalid("name the file of an ssh key: give its absolute path".to_owned()))?;
            row.ssh_key = Some(path.to_owned()).filter(|path| !path.is_empty());
        }
        if let Some(key) = &settings.host_key {
            row.host_key = if key.trim().is_empty() { None } else { Some(check_host_key(key)?) };
        }
        row.use_firn = settings.use_firn.unwrap_or(row.use_firn);
        Ok(row)
    }

    fn source_view(&self, name: &SourceName, row: &SourceRow) -> Result<SourceView, Failure> {
        let state = self.meta.source_state(name).map_err(store)?;
        let activity = self.sources().map_or(Activity::Idle, |sources| sources.activity(name));
        let (doing, progress) = match activity {
            Activity::Idle => ("idle", None),
            Activity::Waiting => ("waiting", None),
            Activity::Running(progress) if progress.doing.is_empty() => ("beginning", Some(progress)),
            Activity::Running(progress) => (progress.doing, Some(progress)),
        };
        Ok(SourceView {
            name: name.to_string(),
            url: row.url.clone(),
            cache: row.cache.to_string(),
            builder: row.builder.clone(),
            trusted: row.trust == SourceTrust::Builder,
            keys: match &row.trust {
                SourceTrust::Keys(keys) => keys.clone(),
                SourceTrust::Builder => Vec::new(),
            },
            skip_upstream: row.filter.skip_upstream,
            include: row.filter.include.clone(),
            exclude: row.filter.exclude.clone(),
            max_nar_bytes: row.filter.max_nar_bytes,
            derivations: row.filter.derivations,
            sources: row.filter.sources,
            every_seconds: row.every_seconds,
            parallel: row.parallel,
            bytes_per_second: row.bytes_per_second,
            ssh_key: row.ssh_key.clone(),
            use_firn: row.use_firn,
            paused: row.paused,
            activity: doing.to_owned(),
            running: activity != Activity::Idle,
            waiting_paths: progress.map_or(0, |progress| progress.waiting_paths),
            waiting_bytes: progress.map_or(0, |progress| progress.waiting_bytes),
            next_at: breaker::next_at(row, &state),
            started_at: state.started_at,
            ended_at: state.ended_at,
            good_at: state.good_at,
            failures: state.failures,
            error: state.error,
            note: state.note,
            last: progress.map_or(state.last, |progress| progress.counts),
            total: state.total,
            problems: state
                .problems
                .into_iter()
                .map(|problem| ProblemView {
                    path: problem.path.base_name(),
                    why: problem.why,
                    again: problem.tries > 0,
                })
                .collect(),
            host_key: row.host_key.clone().or(state.host_key),
        })
    }
}

/// Returns a limit after a change: 0 takes it away.
fn limit(given: Option<u64>, before: Option<u64>) -> Option<u64> {
    given.map_or(before, |given| Some(given).filter(|given| *given > 0))
}

fn check_text<'a>(what: &str, text: &'a str) -> Result<&'a str, Failure> {
    if text.len() <= MAX_TEXT_BYTES && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(invalid(format!("take a {what}: it is longer than {MAX_TEXT_BYTES} bytes, or has control characters")))
}

fn check_patterns(texts: &[String]) -> Result<Vec<String>, Failure> {
    if texts.len() > MAX_PATTERNS {
        return Err(invalid(format!("filter by {} patterns: give at most {MAX_PATTERNS}", texts.len())));
    }
    for text in texts {
        let parsed: Result<Pattern, _> = check_text("pattern", text)?.parse();
        parsed.map_err(|error| invalid(error.to_string()))?;
    }
    Ok(texts.to_vec())
}

/// Takes a public key as `ssh-keyscan` or the host's `*.pub` files have it.
fn check_host_key(text: &str) -> Result<String, Failure> {
    let mut words = check_text("host key", text.trim())?.split_ascii_whitespace().skip_while(|word| {
        // What ssh-keyscan prints before it is the host.
        !word.starts_with("ssh-") && !word.starts_with("ecdsa-") && !word.starts_with("sk-")
    });
    match (words.next(), words.next()) {
        (Some(kind), Some(key)) if key.starts_with("AAAA") => Ok(format!("{kind} {key}")),
        _ => Err(invalid(
            "take a host key: give it as 'ssh-ed25519 AAAA…', as in the host's /etc/ssh/ssh_host_ed25519_key.pub"
                .to_owned(),
        )),
    }
}
