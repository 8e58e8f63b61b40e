//! Identities of CI jobs for tokens, with an issuer of the test's own: what gets one, and all that must not.

use std::fs;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firn_index::Meta as _;
use firn_server::config::Config;
use firn_server::oidc::Rule;
use firn_testkit::file_server::{FileServer, Trouble};
use firn_testkit::http::{Answer, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Settings, World};

/// The time at which worlds begin.
const NOW: u64 = 1_000_000;

/// A key of an issuer.
enum Secret {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Secret {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn p256() -> Self {
        Self::P256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn ed25519() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::P256(_) => "ES256",
            Self::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// Returns the public half as issuers publish it.
    fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rsa(key) => {
                // PKCS #1: a sequence of two numbers, the first of 256 bytes behind a zero, the second 65537.
                let der = key.public_key().as_ref();
                let n = &der[der.len() - 5 - 256..der.len() - 5];
                json!({ "kty": "RSA", "kid": id, "use": "sig", "alg": "RS256", "n": text(n), "e": "AQAB" })
            }
            Self::P256(key) => {
                let point = key.public_key().as_ref();
                json!({ "kty": "EC", "kid": id, "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]) })
            }
            Self::Ed25519(key) => {
                json!({ "kty": "OKP", "kid": id, "crv": "Ed25519", "x": text(key.public_key().as_ref()) })
            }
        }
    }
}

/// Writes a token with any header and signature.
fn compact(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn signed(claims: &Value, secret: &Secret, id: Option<&str>) -> String {
    let mut header = json!({ "alg": secret.algorithm(), "typ": "JWT" });
    if let Some(id) = id {
        header["kid"] = id.into();
    }
    compact(&header, claims, |message| secret.sign(message))
}

/// An issuer, and a server with a rule for it.
struct Trusted {
    world: World,
    folder: TempDir,
    issuer: FileServer,
    rsa: Secret,
    p256: Secret,
    ed25519: Secret,
}

impl Trusted {
    fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issuer = FileServer::start(folder.path()).unwrap();
        let text = format!(
            "[[oidc]]\nname = 'ci'\nissuer = '{}'\naudience = 'https://cache.example'\ngrants = ['pub:push', 'priv:pull']\n\
             claims = {{ repository = 'acme/*', ref = ['refs/heads/main', 'refs/tags/*'] }}\nbuilder = 'ci/{{repository}}'\n{more}",
            issuer.url()
        );
        let config = Config::parse(&text).unwrap();
        config.check("the test").unwrap();
        let rules: Vec<Rule> = config.oidc;
        let (rsa, p256, ed25519) = (Secret::rsa(), Secret::p256(), Secret::ed25519());
        let world = World::with(Settings { oidc: rules, ..Settings::default() });
        let trusted = Self { world, folder, issuer, rsa, p256, ed25519 };
        let keys = [
            trusted.rsa.jwk("rsa"),
            trusted.p256.jwk("ec"),
            trusted.ed25519.jwk("ed"),
            json!({ "kty": "oct", "kid": "shared", "k": "c2VjcmV0", "alg": "HS256" }),
            json!({ "kty": "new", "kid": "unknown-kind" }),
        ];
        trusted.publish(&keys);
        trusted
    }

    fn publish(&self, keys: &[Value]) {
        let place = self.folder.path().join(".well-known");
        fs::create_dir_all(&place).unwrap();
        let url = self.issuer.url();
        let discovery = json!({ "issuer": url, "jwks_uri": format!("{url}/keys"), "more": [1] });
        fs::write(place.join("openid-configuration"), discovery.to_string()).unwrap();
        fs::write(self.folder.path().join("keys"), json!({ "keys": keys }).to_string()).unwrap();
    }

    /// What a good identity says.
    fn claims(&self) -> Value {
        json!({
            "iss": self.issuer.url(), "aud": "https://cache.example", "sub": "repo:acme/tool", "exp": NOW + 300, "iat": NOW,
            "nbf": NOW, "repository": "acme/tool", "ref": "refs/heads/main",
        })
    }

    fn good(&self, claims: &Value) -> String {
        signed(claims, &self.rsa, Some("rsa"))
    }

    fn exchange(&self, identity: &str) -> Answer {
        let body = json!({ "token": identity }).to_string();
        self.world.send(Request::new("POST", "/api/v1/oidc/token").body(body))
    }

    fn refusal(&self, identity: &str) -> (u16, String) {
        let answer = self.exchange(identity);
        let text: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(!answer.text().contains("firn_"), "{}", answer.text());
        (answer.status, text["code"].as_str().unwrap().to_owned())
    }

    /// Exchanges an identity for a token.
    fn token(&self, identity: &str) -> String {
        let answer = self.exchange(identity);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        answer["token"].as_str().unwrap().to_owned()
    }

    fn may_push(&self, token: &str) -> u16 {
        self.world.send(Request::new("POST", "/api/v1/caches/pub/sessions").token(token)).status
    }
}

fn with(claims: &Value, name: &str, value: Value) -> Value {
    let mut claims = claims.clone();
    claims[name] = value;
    claims
}

#[test]
fn a_good_identity_gets_a_token_that_ends() {
    let trusted = Trusted::new("");
    for (secret, id) in [(&trusted.rsa, "rsa"), (&trusted.p256, "ec"), (&trusted.ed25519, "ed")] {
        for id in [Some(id), None] {
            let token = trusted.token(&signed(&trusted.claims(), secret, id));
            assert_eq!(trusted.may_push(&token), 200, "{}", secret.algorithm());
            // What the rule grants, and no more.
            let of = |target: &str| trusted.world.send(Request::get(target).token(&token)).status;
            assert_eq!((of("/priv/nix-cache-info"), of("/api/v1/usage")), (200, 403));
            let push = Request::new("POST", "/api/v1/caches/priv/sessions").token(&token);
            assert_eq!(trusted.world.send(push).status, 403);
        }
    }
    // All keys came with one question.
    assert_eq!((trusted.issuer.requests("openid-configuration"), trusted.issuer.requests("keys")), (1, 1));
    let issued = trusted.world.meta.issued().unwrap();
    assert_eq!(issued.len(), 6);
    let (_, row) = &issued[0];
    assert_eq!((row.token.builder.as_str(), row.origin.rule.as_str()), ("ci/acme/tool", "ci"));
    assert_eq!((row.origin.subject.as_str(), row.token.expires_at), ("repo:acme/tool", Some(NOW + 3600)));
    assert!(trusted.world.meta.tokens().unwrap().iter().all(|(id, _)| issued.iter().all(|(other, _)| id != other)));

    let token = trusted.token(&trusted.good(&trusted.claims()));
    trusted.world.pass(3599);
    assert_eq!(trusted.may_push(&token), 200);
    trusted.world.pass(1);
    assert_eq!(trusted.may_push(&token), 401);
    // Those whose time has long been over are forgotten when the next one is made.
    trusted.world.pass(3600);
    let claims = with(&with(&trusted.claims(), "exp", json!(NOW + 9000)), "nbf", json!(NOW));
    trusted.token(&trusted.good(&claims));
    assert_eq!(trusted.world.meta.issued().unwrap().len(), 1);
}

#[test]
fn what_an_identity_says_must_fit() {
    let trusted = Trusted::new("");
    let claims = trusted.claims();
    let late = json!(NOW - 61);
    for (name, value, code) in [
        ("aud", json!("https://cache.example/"), "identity-audience"),
        ("aud", json!(["x", "y"]), "identity-audience"),
        ("aud", Value::Null, "identity-audience"),
        ("iss", json!(format!("{}/", trusted.issuer.url())), "identity-issuer"),
        ("iss", json!("https://token.actions.githubusercontent.com"), "identity-issuer"),
        ("iss", json!(5), "identity-malformed"),
        ("exp", late.clone(), "identity-expired"),
        ("exp", Value::Null, "identity-malformed"),
        ("exp", json!("soon"), "identity-malformed"),
        ("iat", json!(NOW + 61), "identity-not-yet"),
        ("iat", json!(NOW - 90_000), "identity-expired"),
        ("nbf", json!(NOW + 61), "identity-not-yet"),
        ("repository", json!("evil/tool"), "identity-not-granted"),
        ("repository", Value::Null, "identity-not-granted"),
        ("ref", json!("refs/heads/mainx"), "identity-not-granted"),
        ("ref", json!(["refs/heads/x"]), "identity-not-granted"),
    ] {
        let (status, found) = trusted.refusal(&trusted.good(&with(&claims, name, value.clone())));
        assert_eq!(found, code, "{name} {value}");
        assert!((400..500).contains(&status));
    }
    for (name, value) in [
        ("aud", json!(["x", "https://cache.example"])),
        ("exp", json!(NOW - 59)),
        ("nbf", json!(NOW + 60)),
        ("ref", json!("refs/tags/v1")),
        ("ref", json!(["x", "refs/heads/main"])),
    ] {
        trusted.token(&trusted.good(&with(&claims, name, value)));
    }
}

#[test]
fn a_signature_is_by_the_issuers_key_in_the_way_of_that_key() {
    let trusted = Trusted::new("");
    let claims = trusted.claims();
    let b64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    // Another key, with the names of the issuer's.
    for (other, id) in [(Secret::p256(), "ec"), (Secret::rsa(), "rsa"), (Secret::ed25519(), "ed")] {
        for id in [Some(id), None] {
            assert_eq!(trusted.refusal(&signed(&claims, &other, id)), (401, "identity-signature".to_owned()));
        }
    }
    // A key of another kind than the algorithm.
    for id in ["rsa", "ed", "shared", "none"] {
        let identity = signed(&claims, &trusted.p256, Some(id));
        assert_eq!(trusted.refusal(&identity), (401, "identity-key".to_owned()), "{id}");
    }
    // What is shared or published as a key is no secret to sign with.
    let public_rsa = trusted.rsa.jwk("rsa").to_string();
    for (secret, id) in [("secret", "shared"), (public_rsa.as_str(), "rsa"), ("", "rsa")] {
        let header = json!({ "alg": "HS256", "kid": id });
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let identity = compact(&header, &claims, |message| hmac::sign(&key, message).as_ref().to_vec());
        assert_eq!(trusted.refusal(&identity), (401, "identity-algorithm".to_owned()), "{id}");
    }
    // No signature at all, however it is spelled; RSA in other ways.
    for algorithm in ["none", "None", "NONE", "", "RS512", "PS256"] {
        let head = b64(&json!({ "alg": algorithm, "kid": "rsa" }));
        for signature in ["", "AAAA"] {
            let (status, code) = trusted.refusal(&format!("{head}.{}.{signature}", b64(&claims)));
            assert!(
                status < 500 && matches!(code.as_str(), "identity-malformed" | "identity-algorithm"),
                "{algorithm}: {code}"
            );
        }
    }
    // Another's claims under a good signature.
    let good = trusted.good(&claims);
    let parts: Vec<&str> = good.split('.').collect();
    let other = b64(&with(&claims, "repository", json!("acme/other")));
    assert_eq!(trusted.refusal(&format!("{}.{other}.{}", parts[0], parts[2])).1, "identity-signature");
    for text in ["", "x", "a.b.c", "....", &good[..good.len() - 200], &format!("{good}.x"), &"x".repeat(20_000)] {
        let (status, code) = trusted.refusal(text);
        assert!(status < 500 && code.starts_with("identity-"), "{code}");
    }
    assert_eq!(trusted.world.meta.issued().unwrap(), []);
}

#[test]
fn an_unknown_key_is_asked_for_once_in_a_while() {
    let trusted = Trusted::new("");
    let new = Secret::p256();
    let identity = |id: &str| signed(&trusted.claims(), &new, Some(id));
    for _ in 0..5 {
        assert_eq!(trusted.refusal(&identity("new")).1, "identity-key");
    }
    assert_eq!(trusted.issuer.requests("keys"), 1);
    // The issuer has a new key; it is found at the next question.
    trusted.publish(&[new.jwk("new")]);
    assert_eq!(trusted.refusal(&identity("new")).1, "identity-key");
    trusted.world.pass(30);
    trusted.token(&identity("new"));
    assert_eq!(trusted.issuer.requests("keys"), 2);
    // The old ones are gone with it.
    assert_eq!(trusted.refusal(&trusted.good(&trusted.claims())).1, "identity-key");
}

#[test]
fn an_issuer_that_is_away_is_done_without_for_a_day() {
    let trusted = Trusted::new("");
    trusted.issuer.set_trouble("", Trouble::Status(500));
    let good = || {
        let now = trusted.world.app.now();
        let claims = with(&with(&trusted.claims(), "exp", json!(now + 300)), "iat", json!(now));
        trusted.good(&with(&claims, "nbf", json!(now)))
    };
    assert_eq!(trusted.refusal(&good()), (503, "issuer-unreachable".to_owned()));
    assert_eq!(trusted.refusal(&good()), (503, "issuer-unreachable".to_owned()));
    assert_eq!(trusted.issuer.requests(""), 1, "it is left alone for a while");
    trusted.issuer.set_trouble("", Trouble::None);
    trusted.world.pass(30);
    trusted.token(&good());
    trusted.issuer.set_trouble("", Trouble::Status(500));
    trusted.world.pass(23 * 3600);
    trusted.token(&good());
    trusted.world.pass(3600);
    assert_eq!(trusted.refusal(&good()).0, 503);
    // One that speaks for another is none.
    trusted.issuer.set_trouble("", Trouble::None);
    let place = trusted.folder.path().join(".well-known/openid-configuration");
    fs::write(place, json!({ "issuer": "https://other", "jwks_uri": trusted.issuer.url() }).to_string()).unwrap();
    trusted.world.pass(30);
    assert_eq!(trusted.refusal(&good()).0, 503);
}

#[test]
fn tokens_of_a_rule_may_stay_in_memory() {
    let trusted = Trusted::new("on-disk = false\nlifetime = '2 m'\n");
    let token = trusted.token(&trusted.good(&trusted.claims()));
    assert_eq!(trusted.may_push(&token), 200);
    assert_eq!(trusted.world.meta.issued().unwrap(), []);
    // A change of other tokens does not lose it.
    trusted.world.app.tokens.refresh(trusted.world.meta.as_ref()).unwrap();
    assert_eq!(trusted.may_push(&token), 200);
    trusted.world.pass(120);
    assert_eq!(trusted.may_push(&token), 401);
}

#[test]
fn a_server_without_rules_takes_no_identities() {
    let world = World::new();
    let post = |body: &str| world.send(Request::new("POST", "/api/v1/oidc/token").body(body));
    assert_eq!(post("{}").status, 404);
    let trusted = Trusted::new("");
    let post = |body: &str| trusted.world.send(Request::new("POST", "/api/v1/oidc/token").body(body)).status;
    assert_eq!((post("{}"), post(""), post(&"x".repeat(100_000))), (400, 400, 413));
    assert_eq!(trusted.world.send(Request::get("/api/v1/oidc/token")).status, 405);
}
