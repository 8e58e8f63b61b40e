//! Tokens: making, listing and revoking them.

use firn_index::{Grant, IssuedRow, TokenId, TokenRow};

use super::execute::{check_builder, invalid, store};
use super::{Admin, Answer, Failure, NewToken, SecretText, TokenState, TokenView};
use crate::auth::{Token, grant_text, parse_grant};

/// The most grants of a token.
const MAX_GRANTS: usize = 64;

impl Admin<'_> {
    pub(super) fn create_token(
        &self,
        grants: Vec<Grant>,
        builder: Option<String>,
        expires_in: Option<u64>,
    ) -> Result<Answer, Failure> {
        if grants.is_empty() || grants.len() > MAX_GRANTS {
            return Err(invalid(format!("create a token with {} grants: give 1 to {MAX_GRANTS}", grants.len())));
        }
        for grant in &grants {
            parse_grant(&grant_text(grant)).map_err(|error| invalid(error.to_string()))?;
        }
        if let Some(name) = &builder {
            check_builder(name)?;
        }
        let expires_at = expires_in.map(|seconds| self.now.checked_add(seconds)).map_or(Ok(None), |at| {
            at.filter(|at| *at > self.now)
                .map(Some)
                .ok_or_else(|| invalid("create a token that expires at once: give at least one second".to_owned()))
        })?;
        let token = self.fresh_token()?;
        let row = TokenRow {
            secret_hash: token.secret_hash(),
            builder: builder.unwrap_or_else(|| token.id().to_string()),
            grants,
            created_at: self.now,
            expires_at,
            revoked_at: None,
        };
        self.meta.put_token(&token.id(), &row).map_err(store)?;
        self.refresh_tokens()?;
        let view = self.token_view(token.id(), &row);
        Ok(Answer::NewToken(NewToken { token: SecretText(token.reveal().to_string()), view }))
    }

    fn fresh_token(&self) -> Result<Token, Failure> {
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(&self.entropy.draw().to_le_bytes());
        secret[16..].copy_from_slice(&self.entropy.draw().to_le_bytes());
        // An id that is taken would give one holder's token to another: draw again, and give up when that can't be chance.
        for _ in 0..8 {
            let [low, ..] = split(self.entropy.draw());
            if self.meta.token(&TokenId(low)).map_err(store)?.is_none() {
                return Ok(Token::new(TokenId(low), secret));
            }
        }
        Err(Failure::Store { detail: "draw a token's id: the system's random numbers repeat themselves".to_owned() })
    }

    pub(super) fn list_tokens(&self) -> Result<Answer, Failure> {
        let mut rows = self.meta.tokens().map_err(store)?;
        rows.sort_by_key(|(id, row)| (row.created_at, *id));
        let mut views: Vec<_> = rows.iter().map(|(id, row)| self.token_view(*id, row)).collect();
        let mut issued = self.issued()?;
        issued.sort_by_key(|(id, row)| (row.token.created_at, *id));
        views.extend(issued.into_iter().map(|(id, row)| self.issued_view(id, row)));
        Ok(Answer::Tokens(views))
    }

    /// Returns the tokens that were made for identities: a server knows also those that are nowhere else.
    fn issued(&self) -> Result<Vec<(TokenId, IssuedRow)>, Failure> {
        self.app.map_or_else(|| self.meta.issued().map_err(store), |app| Ok(app.tokens.issued()))
    }

    fn issued_view(&self, id: TokenId, row: IssuedRow) -> TokenView {
        TokenView { origin: Some(row.origin), ..self.token_view(id, &row.token) }
    }

    pub(super) fn revoke_token(&self, id: TokenId) -> Result<Answer, Failure> {
        if let Some((_, mut row)) = self.issued()?.into_iter().find(|(known, _)| *known == id) {
            row.token.revoked_at.get_or_insert(self.now);
            if self.meta.issued().map_err(store)?.iter().any(|(known, _)| *known == id) {
                self.meta.put_issued(&id, &row).map_err(store)?;
            }
            if let Some(app) = self.app {
                app.tokens.add_issued(id, row.clone());
            }
            return Ok(Answer::Revoked(self.issued_view(id, row)));
        }
        let mut row =
            self.meta.token(&id).map_err(store)?.ok_or_else(|| Failure::NoSuchToken { id: id.to_string() })?;
        // A second time keeps the first time's date.
        row.revoked_at.get_or_insert(self.now);
        self.meta.put_token(&id, &row).map_err(store)?;
        self.refresh_tokens()?;
        Ok(Answer::Revoked(self.token_view(id, &row)))
    }

    fn token_view(&self, id: TokenId, row: &TokenRow) -> TokenView {
        let state = if row.revoked_at.is_some() {
            TokenState::Revoked
        } else if row.expires_at.is_some_and(|at| at <= self.now) {
            TokenState::Expired
        } else {
            TokenState::Active
        };
        TokenView {
            id: id.to_string(),
            builder: row.builder.clone(),
            grants: row.grants.iter().map(grant_text).collect(),
            created_at: row.created_at,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            state,
            origin: None,
        }
    }

    fn refresh_tokens(&self) -> Result<(), Failure> {
        self.app.map_or(Ok(()), |app| app.tokens.refresh(self.meta)).map_err(store)
    }
}

fn split(random: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = random.to_le_bytes();
    [u64::from_le_bytes([a, b, c, d, e, f, g, h]), u64::from_le_bytes(rest)]
}
