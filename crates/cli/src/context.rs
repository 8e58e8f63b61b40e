//! What a command gets from the outside.

use std::path::{Path, PathBuf};

use crate::cache_ref::{self, CacheRef};
use crate::config::{Config, Places};
use crate::failure::Failure;
use crate::nix_settings::NixSettings;
use crate::output::Output;

/// What a command gets from the outside: where its words go, and its configuration.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    /// Where its words go.
    pub(crate) output: Output,
    /// `--config`, if given.
    pub(crate) config_file: Option<PathBuf>,
}

impl Context {
    /// Returns where configuration files are looked for.
    pub(crate) fn places(&self) -> Places {
        Places::from_environment(self.config_file.clone())
    }

    /// Reads and checks the configuration. Commands that use it call this first; `firn hook` never does.
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(&self.places())?)
    }

    /// Returns the cache that an argument names (a configured name or a URL; none: the configured default), with its token.
    ///
    /// The token is the first of `token_file`, the environment's `FIRN_TOKEN`, the configuration's, and what Nix's
    /// netrc file has for the host. Having none is no error: a public cache can be read without.
    pub(crate) fn cache(&self, argument: Option<&str>, token_file: Option<&Path>) -> Result<CacheRef, Failure> {
        let config = self.config()?;
        Self::cache_of(&config, argument, token_file)
    }

    /// Does what [`Self::cache`] does, with a configuration that was read before.
    pub(crate) fn cache_of(
        config: &Config,
        argument: Option<&str>,
        token_file: Option<&Path>,
    ) -> Result<CacheRef, Failure> {
        let mut cache = cache_ref::resolve(config, argument)?;
        cache.token = cache_ref::find_token(config, &cache, token_file, NixSettings::netrc_file)?;
        Ok(cache)
    }
}
