//! A builder that has `firn` sends by itself what is wanted, so that only chunks travel which the cache does not have.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::Shutdown;

use firn_engine::Entropy;
use firn_index::{CacheName, Grant, Meta, SourceName, TokenId, TokenRow, UnixSeconds, Verb};
use firn_nix::StorePath;

use super::peer::SyncError;
use super::ssh::Ssh;
use crate::auth::{Token, Tokens};

/// How long the token counts, in seconds, should nobody be left to revoke it.
const TOKEN_SECONDS: u64 = 3600;

/// How long the builder's `firn` may be silent.
const SILENCE: std::time::Duration = std::time::Duration::from_secs(600);

/// What a builder needs to get in.
pub(super) struct Door<'a> {
    pub(super) ssh: Ssh,
    pub(super) app: &'a dyn Meta,
    pub(super) tokens: &'a Tokens,
    /// Where the cache is, as builders see it.
    pub(super) url: String,
    pub(super) cache: CacheName,
    pub(super) builder: String,
    pub(super) source: SourceName,
    pub(super) entropy: &'a dyn Entropy,
}

impl Door<'_> {
    /// Each source has one token, which is made anew for each push.
    fn token_id(&self) -> TokenId {
        let hash = blake3::derive_key("firn 2026-11 token of a source", self.source.as_str().as_bytes());
        TokenId(u64::from_le_bytes(hash.first_chunk().copied().unwrap_or_default()))
    }

    fn give_token(&self, now: UnixSeconds) -> Result<Token, SyncError> {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&self.entropy.draw().to_le_bytes());
        secret[16..].copy_from_slice(&self.entropy.draw().to_le_bytes());
        let token = Token::new(self.token_id(), secret);
        self.write_token(token.secret_hash(), now, None)?;
        Ok(token)
    }

    fn write_token(
        &self,
        secret_hash: [u8; 32],
        now: UnixSeconds,
        revoked_at: Option<UnixSeconds>,
    ) -> Result<(), SyncError> {
        let row = TokenRow {
            secret_hash,
            builder: self.builder.clone(),
            grants: vec![Grant { cache: self.cache.to_string(), verbs: vec![Verb::Pull, Verb::Push] }],
            created_at: now,
            expires_at: Some(now.saturating_add(TOKEN_SECONDS)),
            revoked_at,
        };
        self.app.put_token(&self.token_id(), &row)?;
        self.tokens.refresh(self.app)?;
        Ok(())
    }
}

/// Has paths pushed, references before referrers or not; the error says why not all were.
pub(super) fn push(door: &Door<'_>, paths: &[&StorePath], now: UnixSeconds) -> Result<(), SyncError> {
    let token = door.give_token(now)?;
    let pushed = push_with(door, paths, &token);
    door.write_token(token.secret_hash(), now, Some(now))?;
    pushed
}

fn push_with(door: &Door<'_>, paths: &[&StorePath], token: &Token) -> Result<(), SyncError> {
    // Neither the token nor the paths are arguments, which other users of the builder could read.
    let (environment, firn) = (door.ssh.firn_environment(), door.ssh.firn());
    let remote = format!(
        "sh -c 'read -r FIRN_TOKEN && export FIRN_TOKEN && exec env {environment}{firn} push --json --stdin --no-closure \
         --no-upstream-skip --retry-for 30 {}'",
        door.url
    );
    let (mut process, mut stream) = door.ssh.start(&remote)?;
    let fail = |why: String| SyncError::Source(format!("have firn push at the builder: {why}"));
    stream.set_read_timeout(Some(SILENCE)).map_err(|error| fail(error.to_string()))?;
    let mut text = format!("{}\n", *token.reveal());
    for path in paths {
        text.push_str(&path.to_absolute(door.ssh.store_dir()));
        text.push('\n');
    }
    let sent = stream.write_all(text.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    sent.map_err(|error| fail(error.to_string()))?;
    // Its events are of no use here: the cache knows what came. They tell that it lives.
    let mut events = BufReader::new(stream).take(1 << 30);
    let mut line = Vec::new();
    while events.read_until(b'\n', &mut line).map_err(|error| fail(error.to_string()))? > 0 {
        line.clear();
    }
    match process.wait_briefly() {
        (Some(status), _) if status.success() => Ok(()),
        (_, said) => Err(fail(said.lines().last().unwrap_or("it failed").to_owned())),
    }
}
