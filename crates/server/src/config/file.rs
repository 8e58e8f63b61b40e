//! Reading the file, and checking what its syntax can't.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Config, DeltaMode, SQUEEZE_FRAME_BYTES, Size, Span};

/// The default configuration with every key explained.
pub const EXAMPLE: &str = include_str!("default.toml");

/// The longest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML, or has a key or value that firnd doesn't know.
    #[error("read the configuration {}: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column, and what is allowed there.
        detail: String,
    },
    /// Values are out of bounds or don't fit together.
    #[error("check the configuration {place}:{}", list(problems))]
    Invalid {
        /// The file, or a word for the defaults with what the command line says.
        place: String,
        /// All that is wrong, at least one.
        problems: Vec<Problem>,
    },
}

/// One wrong value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with its table.
    pub key: &'static str,
    /// What is wrong and what is allowed.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.detail)
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// Any text is refused with a sentence, or is a configuration.
#[doc(hidden)]
pub fn fuzz_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text) {
        Ok(config) => {
            if let Err(error) = config.check("fuzz") {
                assert!(!error.to_string().is_empty());
            }
        }
        Err(sentence) => assert!(!sentence.is_empty()),
    }
}

impl Config {
    /// Reads and checks a file. Relative paths in it count from its own folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(read)?;
        file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).map_err(read)?;
        if text.len() as u64 > MAX_FILE_BYTES {
            let detail = format!("it is longer than {MAX_FILE_BYTES} bytes");
            return Err(ConfigError::Syntax { path: path.to_owned(), detail });
        }
        let mut config = Self::parse(&text).map_err(|detail| ConfigError::Syntax { path: path.to_owned(), detail })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for place in
            [&mut config.server.tls_cert, &mut config.server.tls_key, &mut config.server.data].into_iter().flatten()
        {
            // An empty one is refused below: it would be the file's folder itself.
            if !place.as_os_str().is_empty() {
                *place = folder.join(&*place);
            }
        }
        config.check(&path.display().to_string())?;
        Ok(config)
    }

    /// Reads a file's text, without the checks of [`Config::check`].
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_owned())
    }

    /// Checks all values; `place` says in the error where they are from.
    pub fn check(&self, place: &str) -> Result<(), ConfigError> {
        let mut check = Check { problems: Vec::new() };
        self.check_server(&mut check);
        self.check_store(&mut check);
        let year = Duration::from_secs(365 * 86_400);
        check.span_or_never("gc.interval", self.gc.interval, Duration::from_secs(60), year);
        check.span("gc.grace", self.gc.grace, Duration::ZERO, year);
        check.count("gc.repack-percent", self.gc.repack_percent.into(), 0, 95);
        check.size("gc.repack-bytes", self.gc.repack_bytes, 0, 1 << 50);
        check.size("gc.repack-rate", self.gc.repack_rate, 64 << 10, 1 << 40);
        let scrub = &self.scrub;
        check.span_or_never("scrub.every", scrub.every, Duration::from_secs(60), 10 * year);
        check.size("scrub.rate", scrub.rate, 1 << 10, 1 << 40);
        self.check_squeeze(&mut check);
        self.check_usage(&mut check);
        self.check_upstream(&mut check);
        self.check_traces(&mut check);
        for rule in &self.oidc {
            check.problems.extend(rule.problems().into_iter().map(|detail| Problem { key: "oidc", detail }));
        }
        let names: std::collections::HashSet<_> = self.oidc.iter().map(|rule| &rule.name).collect();
        check.that(names.len() == self.oidc.len(), "oidc", || "has two rules of one name".to_owned());
        if check.problems.is_empty() {
            Ok(())
        } else {
            Err(ConfigError::Invalid { place: place.to_owned(), problems: check.problems })
        }
    }

    fn check_server(&self, check: &mut Check) {
        let server = &self.server;
        let second = Duration::from_secs(1);
        let day = Duration::from_secs(86_400);
        check.that(!server.listen.0.is_empty(), "server.listen", || "is empty: give at least one address".to_owned());
        check.that(server.tls_cert.is_some() == server.tls_key.is_some(), "server.tls-cert", || {
            "and server.tls-key belong together: give both or neither".to_owned()
        });
        for (key, path) in
            [("server.data", &server.data), ("server.tls-cert", &server.tls_cert), ("server.tls-key", &server.tls_key)]
        {
            check.that(path.as_ref().is_none_or(|path| !path.as_os_str().is_empty()), key, || {
                "is empty: give a path, or leave it out".to_owned()
            });
        }
        if let Some(url) = &server.public_url {
            let good = ["http://", "https://"]
                .iter()
                .any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
            let clean =
                !url.ends_with('/') && !url.contains(char::is_whitespace) && !url.contains('?') && !url.contains('#');
            check.that(good && clean, "server.public-url", || {
                format!("is '{url}': give http:// or https:// and a host, without a final '/'")
            });
        }
        check.span("server.idle-timeout", server.idle_timeout, Duration::from_secs(120), day);
        check.span("server.header-timeout", server.header_timeout, second, day);
        check.span("server.body-timeout", server.body_timeout, second, day);
        check.span("server.shutdown-grace", server.shutdown_grace, Duration::ZERO, day);
        check.count("server.max-connections", server.max_connections, 1, 1_000_000);
        check.count("server.max-uploads", server.max_uploads, 1, 10_000);
        check.count("server.max-downloads", server.max_downloads, 1, 100_000);
        check.size("server.narinfo-cache", server.narinfo_cache, 0, 1 << 40);
    }

    fn check_squeeze(&self, check: &mut Check) {
        let squeeze = &self.squeeze;
        let year = Duration::from_secs(365 * 86_400);
        check.that(self.ingest.delta != DeltaMode::Background || squeeze.enabled, "ingest.delta", || {
            "is \"background\", which needs squeeze.enabled = true".to_owned()
        });
        check.span("squeeze.every", squeeze.every, Duration::from_secs(60), year);
        check.span("squeeze.min-age", squeeze.min_age, Duration::ZERO, year);
        check.count("squeeze.level", squeeze.level.into(), 1, 22);
        check.size("squeeze.frame-size", squeeze.frame_size, *SQUEEZE_FRAME_BYTES.start(), *SQUEEZE_FRAME_BYTES.end());
        check.count("squeeze.cpu-percent", squeeze.cpu_percent.into(), 1, 100);
        check.size("squeeze.rate", squeeze.rate, 64 << 10, 1 << 40);
    }

    fn check_usage(&self, check: &mut Check) {
        let week = Duration::from_secs(7 * 86_400);
        check.span_or_never("usage.report-interval", self.usage.report_interval, Duration::from_secs(60), week);
    }

    fn check_traces(&self, check: &mut Check) {
        let traces = &self.traces;
        check.that(!traces.enabled || cfg!(feature = "otel"), "traces.enabled", || {
            "is true, and this firnd was built without the feature otel: see 'Traces' in docs/OPERATIONS.md".to_owned()
        });
        if let Some(endpoint) = &traces.endpoint {
            let url = endpoint.parse::<http::Uri>().ok();
            let authority = url.as_ref().filter(|url| matches!(url.scheme_str(), Some("http" | "https")));
            let authority = authority.and_then(http::Uri::authority).map(|authority| authority.as_str());
            // Without the value: it may have a password in it.
            check.that(authority.is_some_and(|authority| !authority.contains('@')), "traces.endpoint", || {
                "is no URL like http://127.0.0.1:4318/v1/traces; a password belongs into OTEL_EXPORTER_OTLP_HEADERS"
                    .to_owned()
            });
        }
        if let Some(ratio) = traces.sample_ratio {
            check.that((0.0..=1.0).contains(&ratio), "traces.sample-ratio", || {
                format!("is {ratio}: allowed are 0 to 1")
            });
        }
    }

    fn check_upstream(&self, check: &mut Check) {
        let upstream = &self.upstream;
        let (second, week) = (Duration::from_secs(1), Duration::from_secs(7 * 86_400));
        check.count("upstream.max-fetches", upstream.max_fetches, 1, 1000);
        check.count("upstream.max-clients", upstream.max_clients, 1, 100_000);
        check.size("upstream.max-nar-size", upstream.max_nar_size, 1 << 20, 1 << 50);
        check.size("upstream.spool-size", upstream.spool_size, 1 << 20, 1 << 50);
        check.span("upstream.positive-ttl", upstream.positive_ttl, Duration::ZERO, week);
        check.span("upstream.negative-ttl", upstream.negative_ttl, Duration::ZERO, week);
        check.span("upstream.answer-timeout", upstream.answer_timeout, second, Duration::from_secs(240));
        check.size("upstream.anonymous-daily", upstream.anonymous_daily, 0, 1 << 60);
    }

    fn check_store(&self, check: &mut Check) {
        let store = &self.store;
        check.that((1..=19).contains(&store.compression_level), "store.compression-level", || {
            format!("is {}: allowed are 1 to 19", store.compression_level)
        });
        check.size("store.pack-size", store.pack_size, 1 << 20, 64 << 20);
        check.size("store.frame-cache", store.frame_cache, 4 << 20, 1 << 44);
        check.size("store.recipe-cache", store.recipe_cache, 1 << 20, 1 << 44);
        check.size("store.index-cache", store.index_cache, 1 << 20, 1 << 44);
        check.size("store.max-nar-size", store.max_nar_size, 1 << 10, 1 << 50);
        check.size("store.min-free", store.min_free, 0, 1 << 50);
        check.span("store.nar-lease", store.nar_lease, Duration::from_secs(60), Duration::from_secs(365 * 86_400));
    }
}

struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn that(&mut self, good: bool, key: &'static str, detail: impl FnOnce() -> String) {
        if !good {
            self.problems.push(Problem { key, detail: detail() });
        }
    }

    fn span(&mut self, key: &'static str, found: Span, least: Duration, most: Duration) {
        self.that((least..=most).contains(&found.0), key, || {
            format!("is {found}: allowed are {} to {}", Span(least), Span(most))
        });
    }

    /// Like [`Check::span`], of a value for which no time at all means never.
    fn span_or_never(&mut self, key: &'static str, found: Span, least: Duration, most: Duration) {
        if found.0 != Duration::ZERO {
            self.span(key, found, least, most);
        }
    }

    fn size(&mut self, key: &'static str, found: Size, least: u64, most: u64) {
        self.that((least..=most).contains(&found.0), key, || {
            format!("is {found}: allowed are {} to {}", Size(least), Size(most))
        });
    }

    fn count(&mut self, key: &'static str, found: usize, least: usize, most: usize) {
        self.that((least..=most).contains(&found), key, || format!("is {found}: allowed are {least} to {most}"));
    }
}
