//! Dumps of what real Nix has built.

use firn_nix::{Sha256, StorePath};
use firn_nix_store::{Database, Error, Location, dump};
use firn_testkit::nix::Nix;

/// Something of everything: files of all modes, empty ones, links that lead nowhere, names of bytes.
const TREE: &str = r#"build {
  name = "tree";
  script = ''
    mkdir -p $out/bin $out/empty $out/a/b/c
    echo run > $out/bin/run; chmod +x $out/bin/run
    : > $out/none
    ln -s /nowhere $out/link
    ln -s ../bin/run $out/a/b/c/link
    head -c 3000000 /dev/zero > $out/large
    printf x > $out/$(printf 'name \303\251 \377')
    printf x > $out/a.b; printf x > $out/a/x
  '';
}"#;

#[test]
fn dumps_are_what_nix_dumps() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let built = store.build_one(TREE).unwrap();
        let path = StorePath::parse_absolute(&built, "/nix/store").unwrap();
        let location = Location::for_root(&store.root());
        let info = Database::open(&location).unwrap().info(&path).unwrap().unwrap();
        let mut nar = Vec::new();
        let dumped = dump(&location, &path, &mut nar).unwrap();
        assert!(nar == store.dump(&built).unwrap(), "{}", nix.version());
        assert_eq!((dumped.bytes, Sha256::of(&nar)), (info.nar_size, info.nar_hash));

        store.check("nix-store", ["--delete", &built]).unwrap().done().unwrap();
        let error = dump(&location, &path, &mut Vec::new()).unwrap_err();
        assert!(matches!(error, Error::Vanished { .. }), "{error}");
    }
}
