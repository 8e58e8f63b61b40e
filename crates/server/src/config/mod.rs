//! The one file that `firnd` reads: TOML, every key optional, none unknown, all checked before a socket is opened.
//!
//! `default.toml` beside this module documents every key and is what `firnd config example` prints; a test holds it
//! to the defaults in the code.

mod file;
#[cfg(test)]
mod tests;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[doc(hidden)]
pub use file::fuzz_config;
pub use file::{ConfigError, EXAMPLE, Problem};
pub(crate) use value::parse_address;
pub use value::{Listen, Size, Span};

/// All settings.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Config {
    /// Sockets, limits, time limits.
    pub server: ServerConfig,
    /// How bytes are kept.
    pub store: StoreConfig,
    /// What is done to new bytes.
    pub ingest: IngestConfig,
    /// When garbage is collected.
    pub gc: GcConfig,
    /// When stored bytes are read again.
    pub scrub: ScrubConfig,
    /// What is done to packs in the background.
    pub squeeze: SqueezeConfig,
    /// What is fetched from upstreams.
    pub upstream: UpstreamConfig,
    /// Which identities of CI jobs get which tokens.
    pub oidc: Vec<crate::oidc::Rule>,
    /// What is logged.
    pub log: LogConfig,
    /// How usage is counted and told.
    pub usage: UsageConfig,
    /// Whether and where traces are sent.
    pub traces: TracesConfig,
}

/// Sockets, limits, time limits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerConfig {
    /// Where to listen.
    pub listen: Listen,
    /// The certificate chain, PEM; with `tls_key`, all sockets speak TLS.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    pub tls_key: Option<PathBuf>,
    /// The data directory.
    pub data: Option<PathBuf>,
    /// Whether a proxy before the server says where requests come from, in `X-Forwarded-For`.
    pub behind_proxy: bool,
    /// How clients reach the server, without a final slash; for the lines to paste that `firnd` prints.
    pub public_url: Option<String>,
    /// How long a connection may stand idle between requests; at least 120 s.
    pub idle_timeout: Span,
    /// How long a client may take to send a request's headers.
    pub header_timeout: Span,
    /// How long a body may stand still, in either direction.
    pub body_timeout: Span,
    /// How many connections are open at once; more wait to be accepted.
    pub max_connections: usize,
    /// How many uploads are taken at once; more are asked to come again.
    pub max_uploads: usize,
    /// How many NARs and files are sent at once; more are asked to come again.
    pub max_downloads: usize,
    /// How much memory keeps rendered narinfos.
    pub narinfo_cache: Size,
    /// How long a shutdown waits for requests in progress.
    pub shutdown_grace: Span,
}

/// How bytes are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct StoreConfig {
    /// The zstd level of new frames.
    pub compression_level: i32,
    /// The length at which a pack is sealed.
    pub pack_size: Size,
    /// How much memory keeps decoded frames.
    pub frame_cache: Size,
    /// How much memory keeps decoded recipes.
    pub recipe_cache: Size,
    /// How much memory keeps blocks of the index.
    pub index_cache: Size,
    /// The longest NAR that is taken.
    pub max_nar_size: Size,
    /// Uploads are refused while less of the disk is free.
    pub min_free: Size,
    /// How long a NAR is kept that no narinfo has named yet.
    pub nar_lease: Span,
}

/// When garbage is collected, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GcConfig {
    /// How long a running server waits between two collections; 0 for never.
    pub interval: Span,
    /// How long packs stay that nobody needs and that nobody may lean on any more.
    pub grace: Span,
    /// Packs of which at most this percentage is needed are repacked by collections; 0 for none.
    pub repack_percent: u8,
    /// Bytes that the repacking of one collection reads and writes, at most.
    pub repack_bytes: Size,
    /// Bytes that it reads and writes in a second, at most.
    pub repack_rate: Size,
}

impl Default for GcConfig {
    fn default() -> Self {
        Self {
            interval: Span(Duration::from_secs(24 * 3600)),
            grace: Span(Duration::from_secs(6 * 3600)),
            repack_percent: 60,
            repack_bytes: Size(8 << 30),
            repack_rate: Size(20 << 20),
        }
    }
}

/// What is fetched from upstreams, for all caches together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct UpstreamConfig {
    /// How many NARs are fetched at once; more wait, and are asked to come again.
    pub max_fetches: usize,
    /// How many clients are sent at once what is being fetched.
    pub max_clients: usize,
    /// The longest NAR that is fetched.
    pub max_nar_size: Size,
    /// How much room NARs take, by their uncompressed lengths, that are being fetched or still being sent.
    pub spool_size: Size,
    /// How long it is believed that an upstream has a path.
    pub positive_ttl: Span,
    /// How long it is believed that none has it.
    pub negative_ttl: Span,
    /// How long a question about a path may take, whatever upstreams do.
    pub answer_timeout: Span,
    /// How much is fetched in a day into one cache for those without a token; 0 for no limit.
    pub anonymous_daily: Size,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            max_fetches: 16,
            max_clients: 512,
            max_nar_size: Size(16 << 30),
            spool_size: Size(64 << 30),
            positive_ttl: Span(Duration::from_secs(3600)),
            negative_ttl: Span(Duration::from_secs(600)),
            answer_timeout: Span(Duration::from_secs(20)),
            anonymous_daily: Size(200 << 30),
        }
    }
}

/// How usage is counted and told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct UsageConfig {
    /// How often the store is counted anew; zero: only when somebody asks for it.
    pub report_interval: Span,
    /// Whether `/metrics` is answered without a token.
    pub public_metrics: bool,
}

impl Default for UsageConfig {
    fn default() -> Self {
        Self { report_interval: Span(Duration::from_secs(3600)), public_metrics: false }
    }
}

/// Whether and where traces are sent; what is not set here is up to the standard variables `OTEL_*`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TracesConfig {
    /// Whether they are; needs a build with the feature `otel`.
    pub enabled: bool,
    /// The collector's URL for traces, by OTLP over HTTP.
    pub endpoint: Option<String>,
    /// How much is traced of what comes without a decision of its client: 0 to 1.
    pub sample_ratio: Option<f64>,
}

/// What is logged, and how. Logs go to standard error.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogConfig {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// A sentence, then fields.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLevel {
    /// Nothing works without someone's help.
    Error,
    /// Someone may want to look at it.
    Warn,
    /// One line for each request.
    #[default]
    Info,
    /// For finding faults.
    Debug,
    /// For finding faults in firn.
    Trace,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: Listen(vec![SocketAddr::from(([127, 0, 0, 1], 8080))]),
            tls_cert: None,
            tls_key: None,
            data: None,
            public_url: None,
            behind_proxy: false,
            // Nix keeps connections for 120 s and takes one that the server closed at that moment for an error.
            idle_timeout: Span(Duration::from_secs(180)),
            header_timeout: Span(Duration::from_secs(30)),
            body_timeout: Span(Duration::from_secs(120)),
            max_connections: 4096,
            // Each holds about 4 MiB while it runs, and computes.
            max_uploads: 64,
            // Each holds at most two pieces of a body.
            max_downloads: 1024,
            narinfo_cache: Size(16 << 20),
            shutdown_grace: Span(Duration::from_secs(30)),
        }
    }
}

/// What is done to new bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IngestConfig {
    /// Whether new chunks are compressed with stored ones that are like them.
    pub delta: DeltaMode,
}

/// When delta frames are made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeltaMode {
    /// While an upload is taken in.
    #[default]
    Inline,
    /// Later, by the background pass.
    Background,
    /// Never; those that are there are read.
    Off,
}

impl From<DeltaMode> for firn_engine::Delta {
    fn from(mode: DeltaMode) -> Self {
        match mode {
            DeltaMode::Inline => Self::Inline,
            DeltaMode::Background => Self::Background,
            DeltaMode::Off => Self::Off,
        }
    }
}

/// When stored bytes are read again, and how fast.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ScrubConfig {
    /// The time from the end of one pass to the begin of the next; 0 for none but those that are asked for.
    pub every: Span,
    /// Bytes read per second at most.
    pub rate: Size,
}

impl Default for ScrubConfig {
    fn default() -> Self {
        // 16 MiB a second are 40 TiB in 30 days, and a tenth of what one disk gives.
        Self { every: Span(Duration::from_secs(30 * 86_400)), rate: Size(16 << 20) }
    }
}

/// The uncompressed bytes that frames may have.
pub const SQUEEZE_FRAME_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=8 << 20;

/// How cold packs are compressed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SqueezeConfig {
    /// Whether the server does so by itself.
    pub enabled: bool,
    /// How long it waits from one pass to the next.
    pub every: Span,
    /// How old a pack is at least.
    pub min_age: Span,
    /// The zstd level.
    pub level: u8,
    /// Uncompressed bytes of a frame without bases.
    pub frame_size: Size,
    /// Percent of one core that it takes.
    pub cpu_percent: u8,
    /// Bytes that it reads and writes in a second, at most.
    pub rate: Size,
}

impl Default for SqueezeConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            every: Span(Duration::from_secs(3600)),
            min_age: Span(Duration::from_secs(86_400)),
            level: 18,
            frame_size: Size(8 << 20),
            cpu_percent: 25,
            rate: Size(20 << 20),
        }
    }
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            compression_level: 3,
            pack_size: Size(32 << 20),
            frame_cache: Size(128 << 20),
            recipe_cache: Size(32 << 20),
            index_cache: Size(64 << 20),
            max_nar_size: Size(64 << 30),
            min_free: Size(256 << 20),
            nar_lease: Span(Duration::from_secs(86_400)),
        }
    }
}
