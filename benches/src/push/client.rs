//! firn's client in this process, and what it costs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use firn_client::plan::{PlanOptions, plan};
use firn_client::push::{PushOptions, push};
use firn_client::remote::{HttpOptions, Remote, RemoteOptions, Target, Token, Wire};
use firn_nix_store::PathInfo;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use super::source::Nars;
use crate::process::{cpu_seconds, forget_peak, peak_bytes};
use crate::server::Server;

const STORE_DIR: &str = "/nix/store";

/// A client of one cache.
pub(crate) struct Client {
    runtime: Runtime,
    target: Target,
    nars: Arc<Nars>,
    options: PushOptions,
}

/// What a push took.
pub(crate) struct Pushed {
    /// Paths whose recipes the server knew.
    pub(crate) known: u64,
    /// Everything over the wire, as the client counts it: the connection's first questions included.
    pub(crate) wire: Wire,
    /// CPU seconds of this process, user and system.
    pub(crate) cpu: f64,
    /// The largest resident set of this process meanwhile, in bytes.
    pub(crate) peak: u64,
    /// How long it took.
    pub(crate) wall: Duration,
}

impl Client {
    /// Makes a client of a cache of the server; it connects anew for each push, as the command does.
    pub(crate) fn new(server: &Server<'_>, cache: &str, nars: Arc<Nars>, options: PushOptions) -> anyhow::Result<Self> {
        let token = Token::parse(&server.token)?;
        let target = Target::parse(&format!("http://{}/{cache}", server.address), Some(token))?;
        Ok(Self { runtime: Builder::new_multi_thread().enable_all().build()?, target, nars, options })
    }

    /// Plans and pushes paths; it is an error if one of them does not get into the cache.
    pub(crate) fn push(&self, paths: Vec<PathInfo>) -> anyhow::Result<Pushed> {
        self.measure(async |remote: Arc<Remote>| {
            let plan = plan(&remote, paths, Vec::new(), STORE_DIR, &PlanOptions::default()).await?;
            let stop = CancellationToken::new();
            let summary = push(remote, self.nars.clone(), plan, &self.options, &stop, Arc::new(|_| {})).await;
            if let Some((path, failure)) = summary.failed.first() {
                anyhow::bail!("{} paths were not pushed, the first is {path}: {failure}", summary.failed.len());
            }
            ensure!(summary.is_complete(), "the push was stopped: {:?}", summary.stopped_by);
            Ok(summary.totals.known_paths)
        })
    }

    /// Plans, this many times, to push what the cache has; it is an error if one of the paths is missing.
    pub(crate) fn plan_present(&self, paths: &[PathInfo], rounds: usize) -> anyhow::Result<Pushed> {
        self.measure(async |remote: Arc<Remote>| {
            for _ in 0..rounds {
                let planned = plan(&remote, paths.to_vec(), Vec::new(), STORE_DIR, &PlanOptions::default()).await?;
                ensure!(planned.paths.is_empty(), "{} paths are not there", planned.paths.len());
            }
            Ok(0)
        })
    }

    /// Runs something with a new connection; it returns how many paths were known.
    fn measure(&self, run: impl AsyncFnOnce(Arc<Remote>) -> anyhow::Result<u64>) -> anyhow::Result<Pushed> {
        forget_peak("self")?;
        let (cpu, began) = (cpu_seconds("self")?, Instant::now());
        let (known, wire) = self.runtime.block_on(async {
            let http = HttpOptions::default();
            let remote = Remote::connect(self.target.clone(), &http, RemoteOptions::default()).await;
            let remote = Arc::new(remote.context("connect to firnd")?);
            let known = run(remote.clone()).await?;
            anyhow::Ok((known, remote.wire()))
        })?;
        Ok(Pushed { known, wire, wall: began.elapsed(), cpu: cpu_seconds("self")? - cpu, peak: peak_bytes("self")? })
    }
}
