//! `firn login --oidc`: a CI job's identity for a token, with a real server and an issuer of the test's own.

use std::fs;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use firn_testkit::Result;
use firn_testkit::file_server::FileServer;
use firn_testkit::firnd::Firnd;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An issuer, and a server that trusts it.
struct Trusted {
    firnd: Firnd,
    folder: TempDir,
    issuer: FileServer,
    home: TempDir,
    key: EcdsaKeyPair,
}

impl Trusted {
    fn new() -> Result<Self> {
        let (folder, home) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let issuer = FileServer::start(folder.path())?;
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = key.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k1", "x": x, "y": y });
        let discovery = json!({ "issuer": issuer.url(), "jwks_uri": format!("{}/keys", issuer.url()) });
        fs::create_dir(folder.path().join(".well-known")).expect("made");
        let write = |name: &str, text: &Value| fs::write(folder.path().join(name), text.to_string()).expect("written");
        write(".well-known/openid-configuration", &discovery);
        write("keys", &json!({ "keys": [jwk] }));
        let config = format!(
            "[[oidc]]\nname = \"ci\"\nissuer = \"{}\"\naudience = \"firn\"\nclaims = {{ project_path = \"acme/*\" }}\n\
             grants = [\"main:push\"]\nbuilder = \"ci/{{project_path}}\"\n",
            issuer.url()
        );
        let firnd = Firnd::start_with(&config)?;
        firnd.cache("main", &["--public"])?;
        Ok(Self { firnd, folder, issuer, home, key })
    }

    fn identity(&self, project: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let header = json!({ "alg": "ES256", "kid": "k1" });
        let claims = json!({
            "iss": self.issuer.url(), "aud": "firn", "sub": "job", "exp": now + 300, "iat": now, "project_path": project,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    fn firn(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Output> {
        let mut command = Command::new(firn_testkit::firn::binary()?);
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.home.path());
        command.args(arguments).envs(environment.iter().copied());
        Ok(command.output().expect("firn runs"))
    }
}

fn said(ran: &Output) -> String {
    String::from_utf8_lossy(&ran.stderr).into_owned()
}

#[test]
fn a_job_logs_in_with_its_identity() -> Result<()> {
    let trusted = Trusted::new()?;
    let url = trusted.firnd.url("main");
    let login = ["login", &url, "--oidc"];
    let ran = trusted.firn(&login, &[])?;
    assert_eq!(ran.status.code(), Some(2), "{}", said(&ran));
    assert!(said(&ran).contains("FIRN_ID_TOKEN"), "{}", said(&ran));

    let ran = trusted.firn(&login, &[("FIRN_ID_TOKEN", &trusted.identity("evil/tool"))])?;
    assert!(!ran.status.success() && said(&ran).contains("no rule"), "{}", said(&ran));

    let ran = trusted.firn(&login, &[("FIRN_ID_TOKEN", &trusted.identity("acme/tool"))])?;
    assert!(ran.status.success(), "{}", said(&ran));
    assert!(said(&ran).contains("ci/acme/tool"), "{}", said(&ran));
    let tokens = trusted.firnd.json(&["token", "list"])?;
    let ours = tokens.as_array().into_iter().flatten().find(|token| token["origin"]["rule"] == "ci");
    let ours = ours.unwrap_or_else(|| panic!("{tokens}"));
    assert_eq!((&ours["origin"]["subject"], &ours["state"]), (&json!("job"), &json!("active")));

    let status = trusted.firn(&["status", "main", "--json"], &[])?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains("\"can_push\":true"), "{text} {}", said(&status));
    // Revoked, it ends at once.
    let id = ours["id"].as_str().expect("an id");
    trusted.firnd.admin(["token", "revoke", id])?;
    let kept = fs::read_to_string(trusted.home.path().join(".config/firn/tokens/main")).expect("a token");
    let request = firn_testkit::http::Request::new("POST", "/api/v1/caches/main/sessions").token(kept.trim());
    assert_eq!(trusted.firnd.send(&request)?.status, 401);
    Ok(())
}

#[test]
fn github_is_asked_for_the_identity_and_tokens_outlive_a_restart() -> Result<()> {
    let mut trusted = Trusted::new()?;
    let url = trusted.firnd.url("main");
    fs::write(trusted.folder.path().join("id"), json!({ "value": trusted.identity("acme/a") }).to_string())
        .expect("written");
    let place = format!("{}/id?api-version=2", trusted.issuer.url());
    let github = [("ACTIONS_ID_TOKEN_REQUEST_URL", place.as_str()), ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret")];
    let ran = trusted.firn(&["login", &url, "--oidc", "--audience", "firn"], &github)?;
    assert!(ran.status.success(), "{}", said(&ran));
    assert_eq!(trusted.issuer.requests("id"), 2, "the discovery has it in its name too");
    trusted.firnd.terminate()?;
    trusted.firnd.launch()?;
    let kept = fs::read_to_string(trusted.home.path().join(".config/firn/tokens/main")).expect("a token");
    let request = firn_testkit::http::Request::new("POST", "/api/v1/caches/main/sessions").token(kept.trim());
    assert_eq!(trusted.firnd.send(&request)?.status, 200);
    Ok(())
}
