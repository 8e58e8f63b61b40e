use firn_nix::{Compression, NarInfo, SecretKey};

use super::*;
use crate::push::samples::info;

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::generate(name, [seed; 32]).unwrap()
}

fn signed(name: &str, by: &SecretKey) -> PathInfo {
    let mut info = info(name, 100);
    info.references = vec![info.path.clone()];
    let mut narinfo = NarInfo {
        store_path: info.path.clone(),
        url: "x".to_owned(),
        compression: Compression::None,
        file_hash: None,
        file_size: None,
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.iter().cloned().collect(),
        deriver: None,
        signatures: Default::default(),
        ca: None,
    };
    narinfo.sign(by, "/nix/store");
    info.signatures = narinfo.signatures.iter().map(ToString::to_string).collect();
    info
}

#[test]
fn only_genuine_signatures_by_known_keys_count() {
    let upstream = key("up-1", 1);
    let keys = [upstream.public()];
    let good = signed("good", &upstream);
    let proof_of = |info: &PathInfo| proof(info, &keys, "/nix/store");
    assert_eq!(proof_of(&good).unwrap().signature.key_name(), "up-1");

    assert!(proof_of(&signed("anothers", &key("other-1", 1)).clone()).is_none(), "another key's name");
    assert!(proof_of(&signed("forged", &key("up-1", 2))).is_none(), "another key under this name");
    assert!(proof_of(&PathInfo { nar_size: 101, ..good.clone() }).is_none(), "another size");
    assert!(proof_of(&PathInfo { references: vec![], ..good.clone() }).is_none(), "other references");
    assert!(proof(&good, &keys, "/gnu/store").is_none(), "another store");
    assert!(proof(&good, &[], "/nix/store").is_none(), "no keys");
    let odd = PathInfo { signatures: vec![String::new(), "up-1:x".to_owned(), good.signatures[0].clone()], ..good };
    assert!(proof_of(&odd).is_some(), "odd ones do no harm");
}

#[test]
fn what_is_upstreams_is_skipped_and_proven() {
    let upstream = key("up-1", 1);
    let mut plan = Plan::default();
    let (mine, theirs, beside) = (info("mine", 7), signed("theirs", &upstream), signed("beside", &upstream));
    let keys = [upstream.public()];
    skip_upstream(&mut plan, vec![mine.clone(), theirs.clone()], &keys, "/nix/store");
    prove(&mut plan, vec![beside.clone(), info("other", 1)], &keys, "/nix/store");
    assert_eq!((plan.paths.as_slice(), plan.logical_bytes()), (&[mine][..], 7));
    assert_eq!(plan.skipped_counts(), [(Skip::Upstream("up-1".to_owned()), 1)].into());
    assert!(plan.proofs.contains_key(&theirs.path) && plan.proofs.contains_key(&beside.path) && plan.proofs.len() == 2);
}

#[test]
fn names_are_filtered() {
    let patterns = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    let names = |options: &PlanOptions| {
        let mut plan = Plan::default();
        let left = exclude(vec![info("a.drv", 1), info("b", 1), info("c-doc", 1)], options, &mut plan);
        assert_eq!(plan.skipped.len() + left.len(), 3);
        left.iter().map(|info| info.path.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&PlanOptions::default()).len(), 3);
    assert_eq!(names(&PlanOptions { exclude: patterns(&["*.drv", "*-doc"]), ..PlanOptions::default() }), ["b"]);
    let both = PlanOptions { include: patterns(&["?", "*-doc"]), exclude: patterns(&["b"]), ..PlanOptions::default() };
    assert_eq!(names(&both), ["c-doc"]);
}
