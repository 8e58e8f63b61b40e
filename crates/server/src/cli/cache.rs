//! `firnd cache …`

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use firn_index::{ConflictPolicy, ReferencePolicy, Transport};
use serde::de::DeserializeOwned;

use super::{CliError, Report, admin, output};
use crate::admin::{Answer, CacheView, Request, SecretText, Settings};
use crate::config::{Config, Size, Span};
use crate::data_dir::DataDir;

/// The longest key file, in bytes.
const MAX_KEY_FILE_BYTES: u64 = 4096;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a cache; prints its public key and the lines for clients' nix.conf
    #[command(after_help = CREATE_HELP)]
    Create(Create),
    /// List all caches
    List,
    /// Show a cache: settings, public keys, nix.conf lines, what it holds
    Show {
        /// The cache
        name: String,
    },
    /// Change a cache; what is not named stays as it is
    #[command(after_help = SET_HELP)]
    Set(Box<Set>),
    /// Delete a cache with all its paths; their bytes stay until garbage collection
    Delete {
        /// The cache
        name: String,
        /// Yes, delete it
        #[arg(long)]
        yes: bool,
    },
}

const CREATE_HELP: &str = "\
A cache is private until it is made public: pulling then needs a token that grants pull.
Uploading always needs a token that grants push.

Examples:
  firnd cache create main --public
  firnd cache create team --signing-key /etc/nix/team.secret --trusted-key builder-1:AAAA…=
  firnd cache create main --public --root        also at http://SERVER:8080/
  firnd cache create main --public --host cache.example.org";

const SET_HELP: &str = "\
New keys sign what is uploaded from then on; paths keep the signatures that they have.
To change a key: add the new one, have clients trust both, remove the old one later.

Examples:
  firnd cache set main --private
  firnd cache set main --new-signing-key
  firnd cache set main --keep '90 d' --keep-last 3 --quota '500 GiB'
  firnd cache set main --remove-signing-key main-1";

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Its name: 1 to 64 of a-z, 0-9, '-', '_', '.'; part of its URL
    name: String,
    /// Let anyone pull without a token
    #[arg(long)]
    public: bool,
    /// Put it at the root of the server's URL as well; one cache may stand there
    #[arg(long)]
    root: bool,
    /// The store directory of its paths; fixed for the cache's life [default: /nix/store]
    #[arg(long, value_name = "DIR")]
    store_dir: Option<String>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// The cache
    name: String,
    /// Let anyone pull without a token
    #[arg(long, conflicts_with = "private")]
    public: bool,
    /// Let only those pull whose token grants it
    #[arg(long)]
    private: bool,
    /// Put it at the root of the server's URL as well; one cache may stand there
    #[arg(long, conflicts_with = "no_root")]
    root: bool,
    /// Take it away from the root
    #[arg(long)]
    no_root: bool,
    /// Take away its own host name
    #[arg(long, conflicts_with = "host")]
    no_host: bool,
    /// Demand no signatures from uploaders any more
    #[arg(long, conflicts_with = "trusted_key")]
    no_trusted_keys: bool,
    /// Know no upstream any more: everything that a path refers to must be in the cache
    #[arg(long, conflicts_with = "upstream_key")]
    no_upstream_keys: bool,
    /// Make a new signing key and sign with it as well
    #[arg(long)]
    new_signing_key: bool,
    /// Sign with this key no longer; may be given several times
    #[arg(long, value_name = "KEYNAME")]
    remove_signing_key: Vec<String>,
    #[command(flatten)]
    common: Common,
}

/// What `create` and `set` have in common.
#[derive(Debug, Args)]
struct Common {
    /// The lower, the earlier clients ask it; cache.nixos.org has 40 [new caches: 30]
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// The form in which narinfos offer NARs: zstd is small, none needs no decompression [new caches: zstd]
    #[arg(long, value_name = "FORM", value_parser = word::<Transport>(&["zstd", "none"]))]
    transport: Option<Transport>,
    /// What an upload of another NAR for a path that is there does: both keep the first and record the
    /// second; reject also fails the uploader [new caches: keep-first]
    #[arg(long, value_name = "POLICY", value_parser = word::<ConflictPolicy>(&["keep-first", "reject"]))]
    on_conflict: Option<ConflictPolicy>,
    /// What an upload's references must be: strict = in the cache and found in the NAR, present = in the
    /// cache, any = well-formed [new caches: strict]
    #[arg(long, value_name = "POLICY", value_parser = word::<ReferencePolicy>(&["strict", "present", "any"]))]
    references: Option<ReferencePolicy>,
    /// A host name on which it stands at the root, without scheme and port
    #[arg(long, value_name = "NAME")]
    host: Option<String>,
    /// A file with a secret key to sign with, as `nix key generate-secret` writes it; may be given several
    /// times. A new cache without any gets a new key: NAME-1, or HOST-NAME-1 with --host
    #[arg(long, value_name = "FILE")]
    signing_key: Vec<PathBuf>,
    /// A public key (name:base64) by one of which uploads must be signed; may be given several times, and
    /// replaces the earlier ones
    #[arg(long, value_name = "KEY")]
    trusted_key: Vec<String>,
    /// A public key (name:base64) of another cache that clients use as well: `firn push` doesn't upload what it
    /// signed; may be given several times, and replaces the earlier ones [new caches: that of cache.nixos.org]
    #[arg(long, value_name = "KEY")]
    upstream_key: Vec<String>,
    /// Keep what was used (asked for, or pushed again, itself or by what refers to it) within this time, as in
    /// '90 d'; '0 s' takes the rule away [new caches: keep everything]
    #[arg(long, value_name = "DURATION", value_parser = super::bounds::seconds_or_none)]
    keep: Option<Span>,
    /// Keep the newest N of each name, versions aside (each output of a package counts for itself); 0 takes the rule away
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep so many stored bytes at most, as in '500 GiB': what was used longest ago goes first; '0 B' takes
    /// the quota away
    #[arg(long, value_name = "SIZE")]
    quota: Option<Size>,
}

/// Parses one of a type's words.
pub(super) fn word<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    words: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(words).try_map(|text| serde_json::from_value(serde_json::Value::String(text)))
}

impl Common {
    fn settings(self) -> Result<Settings, CliError> {
        let mut add_keys = Vec::new();
        for path in self.signing_key {
            let mut text = String::new();
            File::open(&path)
                .and_then(|file| file.take(MAX_KEY_FILE_BYTES).read_to_string(&mut text))
                .map_err(|source| CliError::Read { path, source })?;
            add_keys.push(SecretText(text.trim().to_owned()));
        }
        Ok(Settings {
            priority: self.priority,
            transport: self.transport,
            on_conflict: self.on_conflict,
            references: self.references,
            host: self.host,
            add_keys,
            keep_seconds: self.keep.map(|span| span.0.as_secs()),
            keep_last: self.keep_last,
            quota_bytes: self.quota.map(|size| size.0),
            trusted_keys: Some(self.trusted_key).filter(|keys| !keys.is_empty()),
            upstream_keys: Some(self.upstream_key).filter(|keys| !keys.is_empty()),
            ..Settings::default()
        })
    }
}

/// Returns what two opposite flags say together.
fn either(yes: bool, no: bool) -> Option<bool> {
    if yes {
        Some(true)
    } else if no {
        Some(false)
    } else {
        None
    }
}

pub(super) fn run(command: Command, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    match command {
        Command::Create(create) => {
            let settings = Settings {
                public: Some(create.public),
                at_root: Some(create.root),
                store_dir: create.store_dir,
                ..create.common.settings()?
            };
            let view = one(admin::ask(data, config, &Request::CacheCreate { name: create.name, settings }, true)?)?;
            let mut report = Report::new(view_text(&view), &view);
            report.notes = format!("created the cache '{}'\n", view.name);
            Ok(report)
        }
        Command::Set(set) => {
            let mut settings = set.common.settings()?;
            settings.public = either(set.public, set.private);
            settings.at_root = either(set.root, set.no_root);
            settings.new_key = set.new_signing_key;
            settings.remove_keys = set.remove_signing_key;
            if set.no_host {
                settings.host = Some(String::new());
            }
            if set.no_trusted_keys {
                settings.trusted_keys = Some(Vec::new());
            }
            if set.no_upstream_keys {
                settings.upstream_keys = Some(Vec::new());
            }
            let view = one(admin::ask(data, config, &Request::CacheSet { name: set.name, settings }, false)?)?;
            Ok(Report::new(view_text(&view), &view))
        }
        Command::Show { name } => {
            let view = one(admin::ask(data, config, &Request::CacheShow { name }, false)?)?;
            Ok(Report::new(view_text(&view), &view))
        }
        Command::List => list(data, config),
        Command::Delete { name, yes: false } => Err(CliError::Unconfirmed { name }),
        Command::Delete { name, yes: true } => {
            let Answer::Deleted(view) = admin::ask(data, config, &Request::CacheDelete { name }, false)? else {
                return Err(admin::unexpected());
            };
            let contents = view.contents.unwrap_or_default();
            let text = format!(
                "deleted the cache '{}' with its {} paths ({})\n",
                view.name,
                contents.paths,
                output::bytes(contents.logical_bytes)
            );
            Ok(Report::new(text, &*view))
        }
    }
}

fn one(answer: Answer) -> Result<CacheView, CliError> {
    if let Answer::Cache(view) = answer { Ok(*view) } else { Err(admin::unexpected()) }
}

fn list(data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let Answer::Caches(views) = admin::ask(data, config, &Request::CacheList, false)? else {
        return Err(admin::unexpected());
    };
    let mut report = Report::new(String::new(), &views);
    if views.is_empty() {
        "no caches yet; `firnd cache create NAME` makes one\n".clone_into(&mut report.notes);
        return Ok(report);
    }
    let row = |view: &CacheView| {
        vec![
            view.name.clone(),
            visibility(view).to_owned(),
            view.priority.to_string(),
            view.url.clone(),
            output::time(view.created_at),
        ]
    };
    report.text =
        output::table(&["NAME", "ACCESS", "PRIORITY", "URL", "CREATED"], views.iter().map(row).collect(), &[2]);
    Ok(report)
}

fn visibility(view: &CacheView) -> &'static str {
    if view.public { "public" } else { "private" }
}

fn view_text(view: &CacheView) -> String {
    let word = |value: serde_json::Result<serde_json::Value>| {
        value.ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
    };
    let mut rows = vec![
        ("name", view.name.clone()),
        ("url", view.url.clone()),
        ("access", visibility(view).to_owned()),
        ("priority", view.priority.to_string()),
        ("store directory", view.store_dir.clone()),
        ("transport", word(serde_json::to_value(view.transport))),
        ("on conflict", word(serde_json::to_value(view.on_conflict))),
        ("references", word(serde_json::to_value(view.references))),
        ("at root", if view.at_root { "yes" } else { "no" }.to_owned()),
    ];
    rows.extend(view.host.iter().map(|host| ("host", host.clone())));
    rows.extend(view.public_keys.iter().map(|key| ("public key", key.clone())));
    if view.public_keys.is_empty() {
        let hint = format!("none, so nothing is signed: `firnd cache set {} --new-signing-key` makes one", view.name);
        rows.push(("public key", hint));
    }
    rows.extend(view.trusted_keys.iter().map(|key| ("trusted key", key.clone())));
    rows.extend(view.upstream_keys.iter().map(|key| ("upstream key", key.clone())));
    rows.push(("keeps", keeps(view)));
    rows.push(("created", output::time(view.created_at)));
    if let Some(contents) = view.contents {
        rows.push(("paths", contents.paths.to_string()));
        rows.push(("logical", output::bytes(contents.logical_bytes)));
    }
    let mut text = output::pairs(&rows);
    text.push_str("\nfor nix.conf:\n");
    for line in &view.nix_conf {
        text.push_str(&format!("  {line}\n"));
    }
    if !view.public {
        text.push_str(&format!(
            "for the netrc file that nix.conf names as netrc-file:\n  machine {} login firn password TOKEN\n",
            host_of(&view.url)
        ));
    }
    text
}

/// Says what a cache keeps.
fn keeps(view: &CacheView) -> String {
    let used = view.keep_seconds.map(|seconds| format!("what was used within {}", Span(Duration::from_secs(seconds))));
    let last = view.keep_last.map(|last| format!("the newest {last} of each package"));
    let rules: Vec<String> = used.into_iter().chain(last).collect();
    let all = if rules.is_empty() { "everything".to_owned() } else { rules.join(", and ") };
    match view.quota_bytes {
        Some(bytes) => format!("{all}, within {}", output::bytes(bytes)),
        None => all,
    }
}

/// Returns the host of a URL, without its port.
fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}
