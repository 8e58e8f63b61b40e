//! What is asked for or offered again is used: a collection is told before the answer is looked up, so that what was told is there
//! stays.

use firn_index::{CacheName, Meta as _, Op, UnixSeconds};
use firn_nix::StoreHash;
use firn_server::http::codec::Codec;

use crate::support::{Package, World, hash_of};

const DAY: u64 = 86_400;

fn last_use(world: &World, hash: &StoreHash) -> Option<UnixSeconds> {
    world.app.engine.flush_uses().unwrap();
    world.meta.last_use(&"pub".parse().unwrap(), hash).unwrap()
}

#[test]
fn an_upload_of_what_is_known_is_a_use() {
    let world = World::new();
    let package = Package::new(1, 1000);
    world.put_path("pub", &package);
    world.pass(20 * DAY);
    world.put_path("pub", &package);
    assert_eq!(last_use(&world, &package.path.hash()), Some(world.now()));
}

#[test]
fn what_goes_while_it_is_uploaded_again_is_taken_anew() {
    let world = World::new();
    let package = Package::new(2, 1000);
    world.put_path("pub", &package);
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let is_gone = world.change_when_used(Op::DeletePath("pub".parse().unwrap(), package.path.hash()));
    let target = format!("/pub/{}.narinfo", package.hash());
    assert_eq!(world.put(&target, package.narinfo(&name, "zstd")).status, 200);
    assert!(is_gone());
    assert_eq!(world.get(&target).status, 200);
}

#[test]
fn what_goes_while_it_is_asked_for_is_not_there() {
    let world = World::new();
    let package = Package::new(3, 1000);
    world.put_path("pub", &package);
    let (cache, nar) = ("pub".parse::<CacheName>().unwrap(), package.nar_hash());
    let narinfo = format!("/pub/{}.narinfo", package.hash());
    // It is in memory then.
    assert_eq!(world.get(&narinfo).status, 200);
    let is_gone = world.change_when_used(Op::DeletePath(cache.clone(), package.path.hash()));
    assert_eq!((world.get(&narinfo).status, is_gone()), (404, true));
    for (extension, codec) in [(".nar", Codec::Identity), (".nar.zst", Codec::Zstd), ("", Codec::Xz)] {
        let uploaded = world.put_nar("pub", &package.nar, codec);
        let file = if codec == Codec::Xz { uploaded } else { format!("{}{extension}", nar.to_nix32()) };
        let is_gone = world.change_when_used(Op::DeleteNar(cache.clone(), nar));
        assert_eq!((world.get(&format!("/pub/nar/{file}")).status, is_gone()), (404, true), "{file}");
    }
}

#[test]
fn nothing_is_noted_of_what_nobody_has() {
    let world = World::new();
    let package = Package::new(4, 1000);
    for target in [format!("{}.narinfo", hash_of(9)), format!("nar/{}.nar", package.nar_hash().to_nix32())] {
        assert_eq!(world.get(&format!("/pub/{target}")).status, 404);
    }
    world.app.engine.flush_uses().unwrap();
    assert_eq!(world.meta.uses(&"pub".parse().unwrap(), None, 9).unwrap(), []);
}
