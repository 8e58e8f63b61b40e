use firn_nix::SecretKey;
use proptest::prelude::*;

use super::*;

const HASH: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";

fn path(name: &str) -> StorePath {
    format!("{HASH}-{name}").parse().unwrap()
}

fn item(name: &str) -> PathItem {
    PathItem {
        path: path(name),
        nar_hash: Sha256([1; 32]),
        nar_size: 120,
        references: vec![path("glibc"), path(name)],
        deriver: Some(path("x.drv")),
        ca: None,
        signatures: vec![SecretKey::generate("k-1", [1; 32]).unwrap().sign(b"x")],
        recipe: RecipeId([3; 32]),
        recipe_bytes: None,
        slots: vec![path("glibc").hash()],
    }
}

fn proof() -> Proof {
    let signature = SecretKey::generate("up-1", [1; 32]).unwrap().sign(b"");
    Proof {
        path: path("up"),
        nar_hash: Sha256([2; 32]),
        nar_size: 9,
        references: vec![path("up"), path("a")],
        signature,
    }
}

fn body(paths: &[(&str, Option<&[u8]>)]) -> Vec<u8> {
    let mut writer = CommitWriter::new(Limits::default());
    for (name, recipe) in paths {
        writer.push(&item(name), *recipe).unwrap();
    }
    writer.push_proof(&proof()).unwrap();
    let expected = writer.body_bytes();
    let body = writer.finish();
    assert!(body.len() <= expected && expected <= body.len() + 2, "{} {expected}", body.len());
    body
}

#[test]
fn refuses_what_is_cut_or_goes_on() {
    let whole = body(&[("a", Some(b"abc")), ("b", None), ("c", Some(b"de"))]);
    for end in 0..whole.len() {
        assert!(Commit::decode(&whole[..end], &Limits::default()).is_err(), "{end}");
    }
    assert!(Commit::decode(&[&whole[..], b"x"].concat(), &Limits::default()).is_err());
}

#[test]
fn refuses_more_than_the_limits() {
    let whole = body(&[("a", Some(b"abc")), ("b", None)]);
    let limits = Limits::default();
    for limits in [
        Limits { body_bytes: whole.len() - 1, ..limits },
        Limits { commit_paths: 1, ..limits },
        Limits { proofs: 0, ..limits },
        Limits { recipe_bytes: 2, ..limits },
    ] {
        assert!(matches!(Commit::decode(&whole, &limits), Err(Error::TooMany { .. })), "{limits:?}");
    }
    let absurd = String::from_utf8(body(&[("a", None)])).unwrap();
    let absurd = absurd.replace("\"recipe\"", &format!("\"recipe_bytes\":{},\"recipe\"", u64::MAX));
    assert!(Commit::decode(absurd.as_bytes(), &limits).is_err());
}

#[test]
fn refuses_what_is_no_commit() {
    for bad in [
        "",
        "\n",
        "x\n",
        "[]\n",
        "null\n",
        "{}",
        "{\"paths\":{}}\n",
        "{\"paths\":[{}]}\n",
        "{\"paths\":[],\"paths\":[]}\n",
        "{\"upstream\":[1]}\n",
        "{\n}\n",
    ] {
        assert!(Commit::decode(bad.as_bytes(), &Limits::default()).is_err(), "{bad}");
    }
    let good = String::from_utf8(body(&[("a", None)])).unwrap();
    for (from, to) in [
        ("-a\"", "/a\""),
        ("sha256:", "md5:"),
        ("120", "-1"),
        ("120", "1e2"),
        ("k-1:", "k-1"),
        ("03030303", "0303030"),
        ("\"slots\":[\"0", "\"slots\":[\"e"),
        ("\"recipe\"", "\"recipes\""),
    ] {
        assert_ne!(good.replace(from, to), good, "{from}");
        assert!(Commit::decode(good.replace(from, to).as_bytes(), &Limits::default()).is_err(), "{from}");
    }
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{{\"x\":{}\n", "[".repeat(1 << 20));
    assert!(Commit::decode(deep.as_bytes(), &Limits::default()).is_err());
}

#[test]
fn ignores_what_it_does_not_know_and_has_defaults() {
    let id = RecipeId([3; 32]);
    let hash = Sha256([1; 32]);
    let text = format!(
        r#"{{"later":[{{}}],"paths":[{{"path":"{HASH}-a","nar_hash":"{hash}","nar_size":1,"recipe":"{id}","x":null}}]}}"#
    );
    let body = [text.as_bytes(), b"\n"].concat();
    let commit = Commit::decode(&body, &Limits::default()).unwrap();
    let minimal = &commit.paths[0];
    assert!(minimal.item.references.is_empty() && minimal.item.slots.is_empty() && minimal.recipe.is_none());
    assert!(commit.upstream.is_empty());
    assert_eq!(Commit::decode(b"{}\n", &Limits::default()).unwrap().paths, []);
}

#[test]
fn tells_what_goes_later_from_what_never_goes() {
    let limits = Limits { commit_paths: 2, body_bytes: 4000, recipe_bytes: 2000, proofs: 1, ..Limits::default() };
    let mut writer = CommitWriter::new(limits);
    assert_eq!(writer.push(&item("a"), Some(&[0; 2001])), Err(Full::Never));
    let endless = PathItem { references: vec![path("r"); 200], ..item("a") };
    assert_eq!(writer.push(&endless, None), Err(Full::Never));
    writer.push(&item("a"), Some(&[0; 2000])).unwrap();
    assert_eq!(writer.push(&item("b"), Some(&[0; 2000])), Err(Full::Later));
    writer.push(&item("b"), None).unwrap();
    assert_eq!(writer.push(&item("c"), None), Err(Full::Later));
    writer.push_proof(&proof()).unwrap();
    assert_eq!(writer.push_proof(&proof()), Err(Full::Later));
    assert_eq!(writer.len(), 2);
    let body = writer.finish();
    assert!(Commit::decode(&body, &limits).is_ok());
}

#[test]
fn a_proof_is_what_the_upstream_signed() {
    let key = SecretKey::generate("up-1", [7; 32]).unwrap();
    let mut proof = proof();
    proof.signature = key.sign(proof.fingerprint("/nix/store").as_bytes());
    assert!(proof.is_by(&key.public(), "/nix/store"));
    assert!(!proof.is_by(&key.public(), "/other/store"));
    assert!(!proof.is_by(&SecretKey::generate("up-1", [8; 32]).unwrap().public(), "/nix/store"));
    assert!(!proof.is_by(&SecretKey::generate("up-2", [7; 32]).unwrap().public(), "/nix/store"));
    // The order of references does not count: it is a set.
    proof.references.reverse();
    assert!(proof.is_by(&key.public(), "/nix/store"));
    for false_one in [
        Proof { path: path("other"), ..proof.clone() },
        Proof { nar_hash: Sha256([9; 32]), ..proof.clone() },
        Proof { nar_size: 10, ..proof.clone() },
        Proof { references: vec![], ..proof.clone() },
    ] {
        assert!(!false_one.is_by(&key.public(), "/nix/store"));
    }
}

proptest! {
    #[test]
    fn comes_back(recipes in proptest::collection::vec(any::<Option<Vec<u8>>>(), 0..5)) {
        let names: Vec<_> = (0..recipes.len()).map(|i| format!("p{i}")).collect();
        let paths: Vec<_> = names.iter().zip(&recipes).map(|(name, recipe)| (name.as_str(), recipe.as_deref())).collect();
        let body = body(&paths);
        let commit = Commit::decode(&body, &Limits::default()).unwrap();
        prop_assert_eq!(&commit.upstream, &vec![proof()]);
        for (uploaded, (name, recipe)) in commit.paths.iter().zip(&paths) {
            prop_assert_eq!(uploaded.recipe, *recipe);
            let recipe_bytes = recipe.map(|recipe| recipe.len() as u64);
            prop_assert_eq!(&uploaded.item, &PathItem { recipe_bytes, ..item(name) });
        }
        prop_assert_eq!(commit.paths.len(), paths.len());
    }
}
