//! Realisations and build traces: who may say what an output became, for how long that holds, and who signs it.

use std::collections::BTreeMap;

use firn_index::{ConflictPolicy, Meta as _, ReferencePolicy};
use firn_nix::{SecretKey, Signature, build_trace_fingerprint, realisation_fingerprint};
use firn_testkit::http::Answer;
use serde_json::{Value, json};

use crate::support::{Package, World, cache_row, code};

/// The two forms of what says that an output is a package: up to Nix 2.34, and since.
#[derive(Clone, Copy)]
enum Form {
    Realisation,
    BuildTrace,
}

const FORMS: [Form; 2] = [Form::Realisation, Form::BuildTrace];
const DRV: &str = "krlfd98sj7hc7q31kg1zx139kxnmpwgv-catop-1.drv";

fn id() -> String {
    format!("sha256:{}!out", "a7".repeat(32))
}

impl Form {
    fn target(self) -> String {
        match self {
            Self::Realisation => format!("/pub/realisations/{}.doi", id().replace('!', "%21")),
            Self::BuildTrace => format!("/pub/build-trace-v2/{DRV}/out.doi"),
        }
    }

    fn fingerprint(self, package: &Package) -> String {
        match self {
            Self::Realisation => realisation_fingerprint(&id(), &package.path, &BTreeMap::new()),
            Self::BuildTrace => build_trace_fingerprint(&DRV.parse().unwrap(), "out", &package.path),
        }
    }

    /// Returns the document, signed by these keys.
    fn of(self, package: &Package, keys: &[&SecretKey]) -> String {
        let signed = keys.iter().map(|key| key.sign(self.fingerprint(package).as_bytes()));
        let signatures: Vec<Value> = match self {
            Self::Realisation => signed.map(|signature| json!(signature.to_string())).collect(),
            Self::BuildTrace => {
                signed.map(|sign| json!({"keyName": sign.key_name(), "sig": sign.to_base64()})).collect()
            }
        };
        match self {
            Self::Realisation => {
                json!({"dependentRealisations": {}, "id": id(), "outPath": package.path, "signatures": signatures})
            }
            Self::BuildTrace => json!({"outPath": package.path, "signatures": signatures}),
        }
        .to_string()
    }

    fn get(self, world: &World) -> Value {
        serde_json::from_slice(&world.get(&self.target()).body).unwrap()
    }
}

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::generate(name, [seed; 32]).unwrap()
}

fn refused(answer: &Answer) -> (u16, String) {
    (answer.status, code(answer))
}

#[test]
fn a_cache_with_trusted_keys_takes_only_what_they_signed() {
    let world = World::new();
    let (trusted, other) = (key("trusted-1", 7), key("trusted-1", 8));
    let [package, wrong] = [1, 2].map(|seed| Package::new(seed, 1000));
    world.put_path("pub", &package);
    world.put_path("pub", &wrong);
    // It came before the cache trusted anybody.
    assert_eq!(world.put(&FORMS[0].target(), FORMS[0].of(&wrong, &[])).status, 200);
    world.set_cache("pub", |row| row.trusted_keys = vec![trusted.public().to_string()]);
    for form in FORMS {
        let for_another = form.of(&package, &[&trusted]).replace(&package.path.to_string(), &wrong.path.to_string());
        for unsigned in [form.of(&package, &[]), form.of(&package, &[&other]), for_another] {
            let answer = world.put(&form.target(), unsigned);
            assert_eq!(refused(&answer), (403, "signature-required".to_owned()), "{}", answer.text());
        }
        assert_eq!(world.put(&form.target(), form.of(&package, &[&other, &trusted])).status, 200);
        assert_eq!(form.get(&world)["outPath"], json!(package.path));
    }
}

#[test]
fn an_output_has_to_be_in_a_cache_that_wants_to_be_complete() {
    let world = World::new();
    let package = Package::new(1, 1000);
    for policy in [ReferencePolicy::Strict, ReferencePolicy::Present] {
        world.set_cache("pub", |row| row.references = policy);
        for form in FORMS {
            let answer = world.put(&form.target(), form.of(&package, &[]));
            assert_eq!(refused(&answer), (400, "references-missing".to_owned()), "{}", answer.text());
            assert_eq!(world.get(&form.target()).status, 404);
        }
    }
    world.set_cache("pub", |row| row.references = ReferencePolicy::Any);
    assert_eq!(world.put(&FORMS[0].target(), FORMS[0].of(&package, &[])).status, 200);
    world.set_cache("pub", |row| row.references = ReferencePolicy::Strict);
    world.put_path("pub", &package);
    assert_eq!(world.put(&FORMS[1].target(), FORMS[1].of(&package, &[])).status, 200);
}

#[test]
fn a_realisation_whose_path_is_gone_gives_way() {
    let world = World::new();
    let [first, second] = [1, 2].map(|seed| Package::new(seed, 1000));
    world.put_path("pub", &first);
    world.put_path("pub", &second);
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    for form in FORMS {
        assert_eq!(world.put(&form.target(), form.of(&first, &[])).status, 200);
        assert_eq!(world.put(&form.target(), form.of(&second, &[])).status, 409);
    }
    assert!(world.meta.path(&"pub".parse().unwrap(), &first.path.hash()).unwrap().is_some());
    world.remove_path("pub", &first);
    for form in FORMS {
        assert_eq!(world.put(&form.target(), form.of(&second, &[])).status, 200);
        assert_eq!(form.get(&world)["outPath"], json!(second.path));
        assert_eq!(refused(&world.put(&form.target(), form.of(&first, &[]))).0, 400);
    }
}

#[test]
fn every_key_of_the_cache_signs() {
    let world = World::new();
    let package = Package::new(1, 1000);
    world.put_path("pub", &package);
    let (builder, second) = (key("builder-1", 7), key("test-2", 8));
    for form in FORMS {
        let signed = |document: &Value| -> Vec<Signature> {
            let text = |value: &Value| match form {
                Form::Realisation => value.as_str().unwrap().to_owned(),
                Form::BuildTrace => {
                    format!("{}:{}", value["keyName"].as_str().unwrap(), value["sig"].as_str().unwrap())
                }
            };
            document["signatures"].as_array().unwrap().iter().map(|value| text(value).parse().unwrap()).collect()
        };
        world.set_cache("pub", |row| row.signing_keys = cache_row().signing_keys);
        assert_eq!(world.put(&form.target(), form.of(&package, &[&builder])).status, 200);
        let before = form.get(&world);
        let names = |document: &Value| -> Vec<String> {
            signed(document).iter().map(|signature| signature.key_name().to_owned()).collect()
        };
        assert_eq!(names(&before), ["builder-1", "test-1"]);
        let key = key("test-1", 5).public();
        assert!(key.verify(form.fingerprint(&package).as_bytes(), &signed(&before)[1]));
        // Nothing new: nothing is written.
        assert_eq!(world.put(&form.target(), form.of(&package, &[&builder])).status, 200);
        assert_eq!(form.get(&world), before);
        world.set_cache("pub", |row| row.signing_keys.push(second.to_text().to_string()));
        assert_eq!(world.put(&form.target(), form.of(&package, &[])).status, 200);
        assert_eq!(names(&form.get(&world)), ["builder-1", "test-1", "test-2"]);
    }
}

#[test]
fn a_realisation_that_depends_on_others_is_signed_for_each_nix() {
    let world = World::new();
    let [package, other] = [1, 2].map(|seed| Package::new(seed, 1000));
    world.put_path("pub", &package);
    let dependents = BTreeMap::from([(id().replace("a7", "b7"), other.path.to_string())]);
    let text = json!({"dependentRealisations": dependents, "id": id(), "outPath": package.path}).to_string();
    assert_eq!(world.put(&Form::Realisation.target(), text).status, 200);
    let stored = Form::Realisation.get(&world);
    assert_eq!(stored["dependentRealisations"], json!(dependents));
    let signatures: Vec<Signature> =
        stored["signatures"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().parse().unwrap()).collect();
    let key = key("test-1", 5).public();
    for dependents in [&dependents, &BTreeMap::new()] {
        let fingerprint = realisation_fingerprint(&id(), &package.path, dependents);
        assert!(signatures.iter().any(|signature| key.verify(fingerprint.as_bytes(), signature)), "{dependents:?}");
    }
}

/// Returns a signature in the form of a document, by nobody.
fn made_up(form: Form, name: &str, seed: usize) -> Value {
    let signature = key("x", 9).sign(seed.to_string().as_bytes());
    match form {
        Form::Realisation => json!(signature.to_string().replacen('x', name, 1)),
        Form::BuildTrace => json!({"keyName": name, "sig": signature.to_base64()}),
    }
}

#[test]
fn made_up_signatures_keep_no_real_ones_out() {
    let world = World::new();
    let package = Package::new(1, 1000);
    world.put_path("pub", &package);
    let [upstream, builder] = [key("upstream-1", 7), key("builder-1", 8)];
    world.set_cache("pub", |row| row.upstream_keys = vec![upstream.public().to_string()]);
    for form in FORMS {
        let flood = |from: usize, signer: &SecretKey| {
            let mut document: Value = serde_json::from_str(&form.of(&package, &[signer])).unwrap();
            let list = document["signatures"].as_array_mut().unwrap();
            for n in from..from + 300 {
                list.push(made_up(form, ["evil-1", "test-1", "upstream-1"][n % 3], n));
            }
            world.put(&form.target(), document.to_string()).status
        };
        let names = || -> Vec<String> {
            let document = form.get(&world);
            let name = |value: &Value| match form {
                Form::Realisation => value.as_str().unwrap().split(':').next().unwrap().to_owned(),
                Form::BuildTrace => value["keyName"].as_str().unwrap().to_owned(),
            };
            document["signatures"].as_array().unwrap().iter().map(name).collect()
        };
        let count = |name: &str| names().iter().filter(|other| *other == name).count();
        for round in 0..4 {
            assert_eq!(flood(1000 * round, &builder), 200);
        }
        assert_eq!(["builder-1", "test-1", "upstream-1", "evil-1"].map(count), [1, 1, 0, 62]);
        // There is room for a key that the cache knows.
        assert_eq!(world.put(&form.target(), form.of(&package, &[&upstream])).status, 200);
        assert_eq!(["builder-1", "test-1", "upstream-1", "evil-1"].map(count), [1, 1, 1, 61]);
    }
}
