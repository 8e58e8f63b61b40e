//! The text form of a token: `firn_` + 16 hex digits of its id + `_` + 43 characters of base64url (32 random bytes) +
//! 4 characters of base64url: a checksum of all that, which tells a mistyped token from a foreign one.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firn_index::TokenId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const PREFIX: &str = "firn_";
const ID_LEN: usize = 16;
const SECRET_LEN: usize = 43;
const CHECKSUM_LEN: usize = 4;
const TEXT_LEN: usize = PREFIX.len() + ID_LEN + 1 + SECRET_LEN + CHECKSUM_LEN;

/// A token with its secret. Shown in full by [`Token::reveal`] only, once, to who made it.
pub struct Token {
    id: TokenId,
    secret: Zeroizing<[u8; 32]>,
}

/// Why a text is no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It doesn't have the form of one.
    #[error("read a token: tokens have {TEXT_LEN} characters and begin with '{PREFIX}'")]
    NotAToken,
    /// It has the form, and its checksum is wrong.
    #[error("read a token: it is mistyped or cut short")]
    Mistyped,
}

impl Token {
    /// Makes a token of random bytes.
    pub fn new(id: TokenId, secret: [u8; 32]) -> Self {
        Self { id, secret: Zeroizing::new(secret) }
    }

    /// Returns the public part.
    pub fn id(&self) -> TokenId {
        self.id
    }

    /// Returns the BLAKE3 of the secret's 32 bytes: all that the server keeps.
    pub fn secret_hash(&self) -> [u8; 32] {
        *blake3::hash(self.secret.as_slice()).as_bytes()
    }

    /// Says in constant time whether a kept hash is this token's.
    pub fn matches(&self, secret_hash: &[u8; 32]) -> bool {
        self.secret_hash().ct_eq(secret_hash).into()
    }

    /// Returns the whole token, to be shown once.
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut text = format!("{PREFIX}{}_{}", self.id, URL_SAFE_NO_PAD.encode(self.secret.as_slice()));
        text.push_str(&checksum(&text));
        Zeroizing::new(text)
    }
}

/// Returns 24 bits: one typo in 16 million passes, and is refused by its secret then.
fn checksum(text: &str) -> String {
    let hash = blake3::hash(text.as_bytes());
    let [a, b, c, ..] = *hash.as_bytes();
    URL_SAFE_NO_PAD.encode([a, b, c])
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(TokenError::NotAToken)?;
        let plain = rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        // A copy that lost or won a few characters is told apart from something else that begins alike.
        if !plain || rest.len() <= ID_LEN || rest.len() > 2 * TEXT_LEN {
            return Err(TokenError::NotAToken);
        }
        if text.len() != TEXT_LEN {
            return Err(TokenError::Mistyped);
        }
        let (body, sum) = text.split_at(TEXT_LEN - CHECKSUM_LEN);
        if checksum(body) != sum {
            return Err(TokenError::Mistyped);
        }
        let (id, secret) = rest.split_at(ID_LEN);
        let id = id.parse().map_err(|_| TokenError::NotAToken)?;
        let secret =
            secret.strip_prefix('_').and_then(|secret| secret.get(..SECRET_LEN)).ok_or(TokenError::NotAToken)?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.decode(secret).map_err(|_| TokenError::NotAToken)?);
        let secret = <[u8; 32]>::try_from(secret.as_slice()).map_err(|_| TokenError::NotAToken)?;
        Ok(Self::new(id, secret))
    }
}
