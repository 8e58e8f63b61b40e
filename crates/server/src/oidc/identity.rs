//! An identity token (a signed JWT): read, and checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firn_index::UnixSeconds;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::keys::Key;

/// The longest identity token, in bytes.
pub const MAX_BYTES: usize = 16 << 10;
/// By how many seconds the clocks of an issuer and of this machine may differ.
const LEEWAY: u64 = 60;
/// How old an identity may be, in seconds, whatever it says of its end: CI systems' live for minutes to hours.
const MAX_AGE: u64 = 24 * 3600;

/// Why there is no token for an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no JWT, or one of a kind that is not taken.
    #[error("the identity token is malformed: {0}")]
    Malformed(String),
    /// It is signed in a way that is not taken.
    #[error("the identity token is not signed with RS256, ES256 or EdDSA")]
    Algorithm,
    /// No rule names its issuer.
    #[error("no rule of this server names the identity token's issuer")]
    Issuer,
    /// The issuer can't be asked for its keys, and none are remembered.
    #[error("the issuer's keys can't be had: {0}")]
    IssuerUnreachable(String),
    /// The issuer has no such key.
    #[error("the issuer has no key of the name that the identity token gives")]
    UnknownKey,
    /// The signature is not by the issuer's key.
    #[error("the identity token's signature is wrong")]
    Signature,
    /// Its time is over.
    #[error("the identity token has expired")]
    Expired,
    /// Its time has not come, or it was made in the future.
    #[error("the identity token is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("the identity token is for another audience")]
    Audience,
    /// No rule fits what it says.
    #[error("no rule of this server fits what the identity token says")]
    NoRule,
    /// There are too many of them.
    #[error("the server has made as many tokens as it keeps")]
    Busy,
    /// The index failed.
    #[error("the token can't be kept: {0}")]
    Store(String),
}

/// How a token is signed: the ways that are taken. None of them has a secret that both sides know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSA (PKCS #1, version 1.5) with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
    b64: Option<Value>,
}

/// An identity token that nobody has checked.
pub struct Identity<'a> {
    /// Whose it says that it is.
    pub issuer: String,
    /// The name of the key that made it.
    pub key_id: Option<String>,
    /// How it is signed.
    pub algorithm: Algorithm,
    /// What is signed.
    message: &'a str,
    signature: Vec<u8>,
    claims: Claims,
}

impl<'a> Identity<'a> {
    /// Reads a token in the compact form: three parts, each base64url without padding.
    ///
    /// # Errors
    /// [`Refusal::Malformed`], [`Refusal::Algorithm`].
    pub fn read(text: &'a str) -> Result<Self, Refusal> {
        let malformed = |detail: &str| Refusal::Malformed(detail.to_owned());
        if text.len() > MAX_BYTES {
            return Err(Refusal::Malformed(format!("it has more than {MAX_BYTES} bytes")));
        }
        let parts: Vec<&str> = text.split('.').collect();
        let &[header, claims, signature] = parts.as_slice() else { return Err(malformed("it has not three parts")) };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed("a part of it is no base64url"));
        let header: Header = serde_json::from_slice(&decode(header)?)
            .map_err(|_| malformed("its header is no JSON object with an 'alg'"))?;
        let algorithm = match header.alg.as_str() {
            "RS256" => Algorithm::Rs256,
            "ES256" => Algorithm::Es256,
            "EdDSA" => Algorithm::EdDsa,
            _ => return Err(Refusal::Algorithm),
        };
        if header.crit.is_some() || header.b64.is_some() {
            return Err(malformed("it has extensions that must be understood"));
        }
        let values: Map<String, Value> =
            serde_json::from_slice(&decode(claims)?).map_err(|_| malformed("its claims are no JSON object"))?;
        let signature = decode(signature)?;
        let issuer = values.get("iss").and_then(Value::as_str).ok_or_else(|| malformed("it names no issuer"))?;
        let message = &text[..parts[0].len() + 1 + parts[1].len()];
        Ok(Self {
            issuer: issuer.to_owned(),
            key_id: header.kid,
            algorithm,
            message,
            signature,
            claims: Claims(values),
        })
    }

    /// Checks signature and times, and returns what it says. The audience is checked with the rules.
    ///
    /// # Errors
    /// [`Refusal::Signature`], [`Refusal::Expired`], [`Refusal::NotYet`], [`Refusal::Malformed`].
    pub fn verify(self, key: &Key, now: UnixSeconds) -> Result<Claims, Refusal> {
        if key.algorithm() != self.algorithm || !key.verifies(self.message.as_bytes(), &self.signature) {
            return Err(Refusal::Signature);
        }
        let claims = self.claims;
        let ends = claims.time("exp")?.ok_or_else(|| Refusal::Malformed("it has no end ('exp')".to_owned()))?;
        if ends.saturating_add(LEEWAY) <= now {
            return Err(Refusal::Expired);
        }
        let latest = now.saturating_add(LEEWAY);
        let made = claims.time("iat")?;
        if claims.time("nbf")?.is_some_and(|at| at > latest) || made.is_some_and(|at| at > latest) {
            return Err(Refusal::NotYet);
        }
        if made.is_some_and(|at| at.saturating_add(MAX_AGE) < now) {
            return Err(Refusal::Expired);
        }
        Ok(claims)
    }
}

/// What a checked identity token says.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims(pub(crate) Map<String, Value>);

impl Claims {
    /// Returns whom it speaks of.
    pub fn subject(&self) -> &str {
        self.0.get("sub").and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns whether it is for an audience, exactly.
    pub fn is_for(&self, audience: &str) -> bool {
        match self.0.get("aud") {
            Some(Value::String(one)) => one == audience,
            Some(Value::Array(several)) => several.iter().any(|one| one.as_str() == Some(audience)),
            _ => false,
        }
    }

    /// Returns a claim that is a time.
    fn time(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        // Some issuers write times with a fraction.
        let time = value.as_u64().or_else(|| value.as_f64().filter(|at| *at >= 0.0).map(|at| at as u64));
        time.map(Some).ok_or_else(|| Refusal::Malformed(format!("its '{name}' is no time")))
    }

    /// Returns the value of a claim as text: strings, numbers and booleans have one.
    pub fn text(&self, name: &str) -> Option<String> {
        text_of(self.0.get(name)?)
    }

    /// Returns all values of a claim as texts: those of a list, or the one.
    pub fn texts(&self, name: &str) -> Vec<String> {
        match self.0.get(name) {
            Some(Value::Array(several)) => several.iter().filter_map(text_of).collect(),
            Some(one) => text_of(one).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
