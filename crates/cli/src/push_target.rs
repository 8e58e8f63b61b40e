//! What commands that push have in common: where to, as whom, and how.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use bytesize::ByteSize;
use firn_client::agent::GiveTarget;
use firn_client::push::PushOptions;
use firn_client::remote::{Target, Token};

use crate::cache_ref::CacheRef;
use crate::context::Context;
use crate::failure::{Failure, Kind};

/// Returns what reads configuration and token again whenever it is asked: either may change while a command runs.
pub(crate) fn give_target(context: &Context, cache: Option<String>, token_file: Option<PathBuf>) -> GiveTarget {
    let context = context.clone();
    Box::new(move || {
        let cache = context.cache(cache.as_deref(), token_file.as_deref());
        cache.and_then(|cache| target(&cache)).map_err(|failure| failure.chain())
    })
}

/// Returns the cache and its token as the client takes them.
pub(crate) fn target(cache: &CacheRef) -> Result<Target, Failure> {
    let token = cache.token.as_ref().map(|token| Token::parse(token.expose())).transpose();
    let token = token.map_err(|error| Failure::of(Kind::Config, error))?;
    Target::parse(cache.url.as_str(), token).map_err(|error| Failure::of(Kind::Usage, error))
}

/// How much of the machine a push takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Effort {
    /// How many paths are read at a time
    #[arg(short, long, value_name = "N")]
    jobs: Option<NonZeroUsize>,
    /// How much of the paths may be in memory at a time
    #[arg(long, value_name = "BYTES", default_value = "64MiB")]
    max_memory: ByteSize,
    /// The zstd level of what is sent; the server keeps it so
    #[arg(long, value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

impl Effort {
    /// Returns how to push.
    pub(crate) fn options(&self) -> PushOptions {
        let jobs = self.jobs.map_or(PushOptions::default().jobs, NonZeroUsize::get);
        PushOptions { jobs, memory_bytes: self.max_memory.as_u64(), level: self.level }
    }
}
