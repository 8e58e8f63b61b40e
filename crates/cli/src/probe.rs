//! One question at a time to a server, for commands that look at it: every answer and every trouble is told as it came.
//!
//! Nothing is retried and no redirect is followed, so a token never reaches another host. Answers are bounded.

use std::env;
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use firn_api::{CacheDescription, Capabilities, Endpoint, ErrorAnswer, IDENTITY_PATH, IdentityAnswer, IdentityRequest};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, DATE, LOCATION};
use reqwest::{Certificate, Client, redirect};
use serde::de::DeserializeOwned;

use crate::cache_ref::{CacheUrl, Token};
use crate::failure::{Failure, Kind};

/// How long it may take until a connection stands, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an answer may take in all.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 10;

/// How long a report may take: the server may have to count its store first.
const PATIENT_TIMEOUT: Duration = Duration::from_secs(600);

/// The longest report that is read, in bytes.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// Asks the server of one cache.
#[derive(Debug)]
pub(crate) struct Probe {
    client: Client,
    url: CacheUrl,
    token: Option<Token>,
    /// The longest answer that is read, in bytes.
    most: usize,
}

/// An answer with status 200.
#[derive(Debug)]
pub(crate) struct Answer {
    /// What the server's clock said.
    pub(crate) date: Option<SystemTime>,
    /// The body.
    pub(crate) body: Vec<u8>,
}

/// Why there is no good answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection, or it broke.
    Unreachable {
        /// Whether it was while TLS was set up or a certificate was checked.
        tls: bool,
        /// What happened.
        detail: String,
    },
    /// The server sends elsewhere.
    Redirect {
        /// Where to, if it said.
        to: Option<String>,
    },
    /// The server refused.
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said.
        answer: ErrorAnswer,
    },
    /// The answer is none that firnd gives.
    Strange(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { tls: true, detail } => write!(f, "TLS: {detail}"),
            Self::Unreachable { tls: false, detail } | Self::Strange(detail) => f.write_str(detail),
            Self::Redirect { to: Some(to) } => write!(f, "it redirects to {to}"),
            Self::Redirect { to: None } => f.write_str("it redirects without saying where to"),
            Self::Refused { status, answer } if answer.message.is_empty() => write!(f, "status {status}"),
            Self::Refused { status, answer } if answer.code.is_empty() => {
                write!(f, "status {status}: {}", answer.message)
            }
            Self::Refused { answer, .. } => write!(f, "{} ({})", answer.message, answer.code),
        }
    }
}

impl Trouble {
    /// Returns what to do about it, when that is known.
    pub(crate) fn advice(&self) -> Option<String> {
        match self {
            Self::Unreachable { tls: true, .. } => Some(
                "check the server's certificate and this machine's clock; NIX_SSL_CERT_FILE names further authorities"
                    .to_owned(),
            ),
            Self::Unreachable { tls: false, .. } => {
                Some("check the URL, and that firnd runs and can be reached from here".to_owned())
            }
            Self::Redirect { .. } => Some("use the URL that it redirects to; tokens never follow redirects".to_owned()),
            Self::Refused { status: 404, answer } if answer.code.is_empty() => {
                Some("check the URL: this does not look like firnd".to_owned())
            }
            Self::Refused { answer, .. } => Some(answer.hint.clone()).filter(|hint| !hint.is_empty()),
            Self::Strange(_) => Some("check the URL: this does not look like firnd".to_owned()),
        }
    }

    /// Makes the failure of a command that can't go on.
    pub(crate) fn into_failure(self, doing: &str) -> Failure {
        let advice = self.advice();
        let mut failure = Failure::new(Kind::Server, format!("{doing}: {self}"));
        failure.hint = advice;
        failure
    }
}

impl Probe {
    /// Makes a probe; needs nothing of the network yet.
    pub(crate) fn new(url: &CacheUrl, token: Option<&Token>) -> Result<Self, Failure> {
        Self::with_limits(url, token, ANSWER_TIMEOUT, MAX_ANSWER_BYTES)
    }

    /// Makes a probe for questions whose answers take their time and are long.
    pub(crate) fn patient(url: &CacheUrl, token: Option<&Token>) -> Result<Self, Failure> {
        Self::with_limits(url, token, PATIENT_TIMEOUT, MAX_REPORT_BYTES)
    }

    fn with_limits(url: &CacheUrl, token: Option<&Token>, timeout: Duration, most: usize) -> Result<Self, Failure> {
        let mut builder = Client::builder()
            .user_agent(concat!("firn/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(timeout);
        if let Some(path) = env::var_os("NIX_SSL_CERT_FILE").filter(|path| !path.is_empty()) {
            builder = builder.tls_certs_merge(certificates(Path::new(&path))?);
        }
        let client = builder.build().map_err(|error| Failure::doing(Kind::Failed, "set up HTTP", error))?;
        Ok(Self { client, url: url.clone(), token: token.cloned(), most })
    }

    /// Asks what the server can do; sends no token.
    pub(crate) async fn capabilities(&self) -> Result<(Capabilities, Answer), Trouble> {
        let url = format!("{}{}", self.url.server(), Endpoint::Capabilities.path(""));
        let answer = self.get(&url, false).await?;
        Ok((read_json(&answer.body)?, answer))
    }

    /// Asks what the cache is and what the token may do with it.
    pub(crate) async fn cache(&self) -> Result<CacheDescription, Trouble> {
        let url = format!("{}{}", self.url.server(), Endpoint::Cache.path(self.url.name()));
        read_json(&self.get(&url, true).await?.body)
    }

    /// Asks for `nix-cache-info` as Nix does.
    pub(crate) async fn cache_info(&self) -> Result<Answer, Trouble> {
        self.get(&format!("{}/nix-cache-info", self.url.substituter()), true).await
    }

    /// Asks for JSON under `/api/v1/`; `question` is the rest of the path with its query.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, question: &str) -> Result<T, Trouble> {
        let url = format!("{}{}{question}", self.url.server(), firn_api::PREFIX);
        read_json(&self.get(&url, true).await?.body)
    }

    /// Exchanges a job's identity token for one of the server's.
    pub(crate) async fn exchange(&self, identity: &str) -> Result<IdentityAnswer, Trouble> {
        let url = format!("{}{}{IDENTITY_PATH}", self.url.server(), firn_api::PREFIX);
        let request = IdentityRequest { token: identity.trim().to_owned() };
        let body = serde_json::to_vec(&request).map_err(|error| Trouble::Strange(error.to_string()))?;
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        read_json(&self.send(request.header(ACCEPT, "application/json")).await?.body)
    }

    /// Asks a CI system for its job's identity token, with the secret that it gave to the job.
    pub(crate) async fn identity(&self, url: &str, secret: &str) -> Result<String, Trouble> {
        #[derive(serde::Deserialize)]
        struct Made {
            value: String,
        }
        let request = self.client.get(url).header(ACCEPT, "application/json");
        let answer = self.send(request.header(AUTHORIZATION, format!("Bearer {secret}"))).await?;
        Ok(read_json::<Made>(&answer.body)?.value)
    }

    async fn get(&self, url: &str, with_token: bool) -> Result<Answer, Trouble> {
        let mut request = self.client.get(url).header(ACCEPT, "application/json, text/plain;q=0.9, */*;q=0.8");
        if let Some(token) = self.token.as_ref().filter(|_| with_token) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        self.send(request).await
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Answer, Trouble> {
        let mut response = request.send().await.map_err(|error| unreachable(&error))?;
        let status = response.status();
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if status.is_redirection() {
            return Err(Trouble::Redirect { to: header(LOCATION).map(clean) });
        }
        let date = header(DATE).and_then(read_date);
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + piece.len() > self.most {
                return Err(Trouble::Strange(format!("the answer is longer than {} bytes", self.most)));
            }
            body.extend_from_slice(&piece);
        }
        if status.as_u16() != 200 {
            return Err(Trouble::Refused { status: status.as_u16(), answer: ErrorAnswer::read(&body) });
        }
        Ok(Answer { date, body })
    }
}

/// Reads the certificates that Nix trusts beside the system's.
fn certificates(path: &Path) -> Result<Vec<Certificate>, Failure> {
    let doing = || format!("read the certificates in {}, which NIX_SSL_CERT_FILE names", path.display());
    let pem = fs::read(path).map_err(|error| Failure::doing(Kind::Config, doing(), error))?;
    Certificate::from_pem_bundle(&pem).map_err(|error| Failure::doing(Kind::Config, doing(), error))
}

/// Runs a future that waits for a server.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::doing(Kind::Failed, "start the runtime", error))?;
    Ok(runtime.block_on(future))
}

fn read_json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Trouble> {
    serde_json::from_slice(body)
        .map_err(|error| Trouble::Strange(format!("the answer is not what firnd says: {error}")))
}

/// Reads a date as HTTP writes it.
fn read_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}

/// Returns a text of a server without what terminals obey, cut to what fits a line.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Says what happened, from the innermost cause out: that is the one that people know what to do about.
fn unreachable(error: &reqwest::Error) -> Trouble {
    if error.is_timeout() {
        let what = if error.is_connect() { "no connection" } else { "no answer" };
        let limit = if error.is_connect() { CONNECT_TIMEOUT } else { ANSWER_TIMEOUT };
        return Trouble::Unreachable { tls: false, detail: format!("{what} within {} s", limit.as_secs()) };
    }
    let mut innermost: &dyn std::error::Error = error;
    let mut text = String::new();
    let mut tls = false;
    while let Some(cause) = innermost.source() {
        innermost = cause;
        let shown = innermost.to_string();
        tls |= shown.contains("certificate") || shown.contains("TLS") || shown.contains("handshake");
        text = shown;
    }
    let detail = if text.is_empty() { error.to_string() } else { text };
    Trouble::Unreachable { tls, detail: clean(&detail) }
}
