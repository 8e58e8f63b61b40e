//! Tokens for identities: a CI job shows what its system says of it, and gets a token of ours for a while.
//!
//! [`rule`] says which claims give what, [`keys`] fetches and remembers the keys of issuers, [`identity`] checks an identity
//! token. Nothing about an identity is believed before its signature and times are checked, and whose keys may have made it is
//! decided by the configuration alone.

pub mod identity;
pub mod keys;
pub mod rule;

use std::sync::Arc;

use firn_engine::Entropy;
use firn_index::{IssuedRow, Meta, TokenId, TokenOrigin, TokenRow, UnixSeconds};
use tokio::sync::Semaphore;

pub use identity::Refusal;
pub use rule::Rule;

use crate::auth::{Token, Tokens};
use identity::Identity;
use keys::Issuers;

/// Identities that are checked at once: each costs some signatures, and perhaps a question to an issuer.
const TURNS: usize = 16;
/// Tokens that are alive at once; each takes about 1 KiB.
const MAX_ISSUED: usize = 20_000;

/// What exchanges identities for tokens; part of [`crate::app::App`].
pub struct Oidc {
    rules: Vec<Rule>,
    issuers: Issuers,
    turns: Arc<Semaphore>,
}

/// A token that was made for an identity.
pub struct Issued {
    /// The token.
    pub token: Token,
    /// What is kept of it.
    pub row: IssuedRow,
}

impl Oidc {
    /// Takes the rules of a configuration, which were checked.
    pub fn new(rules: &[Rule]) -> Self {
        Self { rules: rules.to_vec(), issuers: Issuers::default(), turns: Arc::new(Semaphore::new(TURNS)) }
    }

    /// Returns whether there is any rule.
    pub fn is_used(&self) -> bool {
        !self.rules.is_empty()
    }

    /// Makes a token for whom an identity token speaks of; the first rule that fits counts.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn exchange(
        &self,
        text: &str,
        now: UnixSeconds,
        entropy: &dyn Entropy,
    ) -> Result<(Issued, Rule), Refusal> {
        let _turn = self.turns.acquire().await.map_err(|_| Refusal::Busy)?;
        let unchecked = Identity::read(text)?;
        // Only those that the configuration names are ever asked for keys.
        let of_issuer: Vec<&Rule> = self.rules.iter().filter(|rule| rule.issuer == unchecked.issuer).collect();
        if of_issuer.is_empty() {
            return Err(Refusal::Issuer);
        }
        let key = self.issuers.key(&unchecked.issuer, unchecked.key_id.as_deref(), unchecked.algorithm, now).await?;
        let claims = unchecked.verify(&key, now)?;
        let rule = of_issuer.into_iter().filter(|rule| claims.is_for(&rule.audience));
        let mut audiences = rule.peekable();
        if audiences.peek().is_none() {
            return Err(Refusal::Audience);
        }
        let rule = audiences.find(|rule| rule.fits(&claims)).ok_or(Refusal::NoRule)?;
        let grants = rule.parsed_grants().map_err(|_| Refusal::NoRule)?;
        let token = fresh_token(entropy);
        let row = TokenRow {
            secret_hash: token.secret_hash(),
            builder: rule.builder_of(&claims),
            grants,
            created_at: now,
            expires_at: Some(now.saturating_add(rule.lifetime.0.as_secs())),
            revoked_at: None,
        };
        let origin = TokenOrigin {
            rule: rule.name.clone(),
            issuer: rule.issuer.clone(),
            subject: rule::cut(claims.subject(), 512),
        };
        Ok((Issued { token, row: IssuedRow { token: row, origin } }, rule.clone()))
    }
}

/// Keeps a token that was made, durably if its rule says so. Those whose time is over are forgotten. Blocks.
///
/// # Errors
/// [`Refusal::Busy`] when there are as many as there may be; errors of the index are [`Refusal::Store`].
pub fn keep(tokens: &Tokens, meta: &dyn Meta, issued: &Issued, rule: &Rule, now: UnixSeconds) -> Result<(), Refusal> {
    let over = tokens.forget_issued(now);
    let store = |error: firn_index::Error| Refusal::Store(crate::error_chain(&error));
    if !over.is_empty() {
        meta.remove_issued(&over).map_err(store)?;
    }
    if tokens.count_issued() >= MAX_ISSUED {
        return Err(Refusal::Busy);
    }
    if rule.on_disk {
        meta.put_issued(&issued.token.id(), &issued.row).map_err(store)?;
    }
    tokens.add_issued(issued.token.id(), issued.row.clone());
    Ok(())
}

fn fresh_token(entropy: &dyn Entropy) -> Token {
    let mut secret = [0; 32];
    secret[..16].copy_from_slice(&entropy.draw().to_le_bytes());
    secret[16..].copy_from_slice(&entropy.draw().to_le_bytes());
    let [a, b, c, d, e, f, g, h, ..] = entropy.draw().to_be_bytes();
    Token::new(TokenId(u64::from_be_bytes([a, b, c, d, e, f, g, h])), secret)
}
