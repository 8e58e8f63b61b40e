//! The keys of issuers: found by discovery, remembered for an hour, and asked for again when a key is unknown.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firn_index::UnixSeconds;
use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

use super::Refusal;
use super::identity::Algorithm;
use crate::binary_cache::causes;

/// For how many seconds keys are taken without asking again.
const FRESH_SECONDS: u64 = 3600;
/// For how many seconds they are taken when the issuer can't be asked.
const STALE_SECONDS: u64 = 24 * 3600;
/// How many seconds pass between two questions, whatever identity tokens say: they cost nothing to make.
const PAUSE_SECONDS: u64 = 30;
/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 256 << 10;
/// The most keys of an issuer.
const MAX_KEYS: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Issuers that were asked, by their names; only those of the configuration ever come here.
#[derive(Default)]
pub struct Issuers {
    known: std::sync::Mutex<HashMap<String, Arc<Mutex<Keys>>>>,
    http: OnceLock<reqwest::Client>,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Named>,
    fetched_at: Option<UnixSeconds>,
    asked_at: Option<UnixSeconds>,
    failure: String,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

impl Issuers {
    /// Returns an issuer's key, for one algorithm; the issuer is asked if need be, by one at a time.
    ///
    /// # Errors
    /// [`Refusal::UnknownKey`], [`Refusal::IssuerUnreachable`].
    pub async fn key(
        &self,
        issuer: &str,
        id: Option<&str>,
        algorithm: Algorithm,
        now: UnixSeconds,
    ) -> Result<Key, Refusal> {
        let of_issuer = {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(known.entry(issuer.to_owned()).or_default())
        };
        let mut keys = of_issuer.lock().await;
        let is_fresh = keys.is_younger_than(FRESH_SECONDS, now);
        let found = keys.find(id, algorithm);
        let may_ask = keys.asked_at.is_none_or(|at| at.saturating_add(PAUSE_SECONDS) <= now);
        if (!is_fresh || found.is_none()) && may_ask {
            keys.asked_at = Some(now);
            match self.fetch(issuer).await {
                Ok(fetched) => {
                    keys.keys = fetched;
                    keys.fetched_at = Some(now);
                }
                Err(detail) => {
                    tracing::warn!(issuer, detail, "an issuer's keys could not be fetched");
                    keys.failure = detail;
                }
            }
        }
        if !keys.is_younger_than(STALE_SECONDS, now) {
            return Err(Refusal::IssuerUnreachable(keys.failure.clone()));
        }
        keys.find(id, algorithm).cloned().ok_or(Refusal::UnknownKey)
    }

    async fn fetch(&self, issuer: &str) -> Result<Vec<Named>, String> {
        let place = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let discovery: Discovery = self.json(&place).await?;
        if discovery.issuer != issuer {
            return Err(format!("{place} is of the issuer '{}'", discovery.issuer));
        }
        if !is_safe_url(&discovery.jwks_uri) {
            return Err(format!("{place} leads to '{}', which is no https:// URL", discovery.jwks_uri));
        }
        let set: KeySet = self.json(&discovery.jwks_uri).await?;
        // Keys of kinds that are unknown here are no reason to refuse the others.
        Ok(set.keys.iter().take(MAX_KEYS).filter_map(Named::read).collect())
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, String> {
        let fail = |detail: String| format!("get {url}: {detail}");
        let client = self.client().map_err(fail)?;
        let request = async {
            let mut answer = client.get(url).send().await.map_err(|error| causes(&error))?;
            if answer.status() != reqwest::StatusCode::OK {
                return Err(format!("the answer is {}", answer.status().as_u16()));
            }
            let mut text = Vec::new();
            while let Some(piece) = answer.chunk().await.map_err(|error| causes(&error))? {
                if text.len() + piece.len() > MAX_ANSWER_BYTES {
                    return Err(format!("the answer is longer than {MAX_ANSWER_BYTES} bytes"));
                }
                text.extend_from_slice(&piece);
            }
            serde_json::from_slice(&text).map_err(|error| error.to_string())
        };
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, request).await;
        answer.map_err(|_| fail(format!("it took longer than {} s", ANSWER_TIMEOUT.as_secs())))?.map_err(fail)
    }

    fn client(&self) -> Result<reqwest::Client, String> {
        if let Some(client) = self.http.get() {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("firnd/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .referer(false)
            .build()
            .map_err(|error| causes(&error))?;
        Ok(self.http.get_or_init(|| client).clone())
    }
}

impl Keys {
    fn is_younger_than(&self, seconds: u64, now: UnixSeconds) -> bool {
        self.fetched_at.is_some_and(|at| at.saturating_add(seconds) > now)
    }

    /// Returns the key of a name that fits an algorithm; without a name, the only one that fits.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&Key> {
        let mut fitting = self.keys.iter().filter(|named| named.key.algorithm() == algorithm);
        let found = match id {
            Some(id) => fitting.find(|named| named.id.as_deref() == Some(id)),
            None => fitting.next().filter(|_| fitting.next().is_none()),
        };
        found.map(|named| &named.key)
    }
}

/// A key of an issuer, and what the issuer calls it.
struct Named {
    id: Option<String>,
    key: Key,
}

impl Named {
    /// Reads a JWK; `None` if it is of a kind that is not taken, as those that are shared secrets, or not for signatures.
    fn read(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        if text("use").is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let key = match (text("kty")?, text("crv")) {
            ("RSA", _) => Key::Rsa { n: without_zeros(bytes("n")?), e: without_zeros(bytes("e")?) },
            ("EC", Some("P-256")) => {
                let (x, y) = (bytes("x")?, bytes("y")?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Key::P256([&[4][..], &x, &y].concat())
            }
            ("OKP", Some("Ed25519")) => Key::Ed25519(bytes("x")?),
            _ => return None,
        };
        Some(Self { id: text("kid").map(str::to_owned), key })
    }
}

fn without_zeros(mut number: Vec<u8>) -> Vec<u8> {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.drain(..zeros);
    number
}

/// A public key, which knows its one way of signing: a token has no say in that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// An RSA key of 2048 to 8192 bits, by modulus and exponent.
    Rsa {
        /// The modulus, the most significant byte first.
        n: Vec<u8>,
        /// The exponent, as well.
        e: Vec<u8>,
    },
    /// A point on P-256, uncompressed.
    P256(Vec<u8>),
    /// An Ed25519 key.
    Ed25519(Vec<u8>),
}

impl Key {
    /// Returns the key's way of signing.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::P256(_) => Algorithm::Es256,
            Self::Ed25519(_) => Algorithm::EdDsa,
        }
    }

    /// Returns whether a signature of a message is by this key.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let result = match self {
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
            Self::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature),
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
        };
        result.is_ok()
    }
}

/// Returns whether what comes from a URL comes from whom it names: over TLS, or from this machine.
pub fn is_safe_url(text: &str) -> bool {
    let Ok(url) = Url::parse(text) else { return false };
    let is_local = url.host_str().is_some_and(|host| {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    });
    match url.scheme() {
        "https" => url.host_str().is_some(),
        "http" => is_local,
        _ => false,
    }
}
