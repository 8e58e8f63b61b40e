//! No path leads out of what it names.

use firn_testkit::http::Request;
use firn_testkit::nar::Node;

use crate::support::{Package, World, hash_of};

#[test]
fn leads_nowhere_else() {
    let world = World::new();
    let package = Package::of(1, &Node::directory([("a", Node::directory([("b", Node::file("inside"))]))]));
    world.put_path("pub", &package);
    world.put_path("priv", &package);
    let hash = package.hash();
    let nar = package.nar_hash().to_nix32();
    let ups = ["..", "%2e%2e", ".%2e", "..%2f", "%2e%2e%2f", "..%5c", "..;", "%252e%252e", "..%00", "%c0%ae%c0%ae"];
    for up in ups {
        for target in [
            format!("/{up}/etc/passwd"),
            format!("/pub/{up}/priv/{hash}.narinfo"),
            format!("/pub/{up}%2fpriv/{hash}.narinfo"),
            format!("/pub/nar/{up}/{up}/etc/passwd"),
            format!("/pub/nar/{up}%2f{nar}.nar"),
            format!("/pub/log/{up}/{hash}"),
            format!("/pub/log/{up}%2f{hash}"),
            format!("/pub/realisations/{up}/x.doi"),
            format!("/pub/realisations/sha256:{}!{up}%2fout.doi", "0".repeat(64)),
            format!("/pub/build-trace-v2/{up}/out.doi"),
            format!("/pub/build-trace-v2/{hash}-x.drv/{up}%2fx.doi"),
            format!("/pub/debuginfo/{up}/{}", "0".repeat(40)),
            format!("/pub/serve/{up}/{hash}/a"),
            format!("/pub/serve/{hash}/a/{up}/a/b"),
            format!("/pub/serve/{hash}/{up}/{up}/etc/passwd"),
            format!("/pub/{hash}.narinfo/{up}"),
            format!("/pub/{up}{hash}.narinfo"),
        ] {
            for method in ["GET", "HEAD"] {
                let status = world.send(Request::new(method, &target)).status;
                assert!([403, 404].contains(&status), "{method} {target}: {status}");
            }
            let status = world.put(&target, "x").status;
            assert!([400, 404, 405, 415].contains(&status), "PUT {target}: {status}");
        }
    }
    assert_eq!(world.get(&format!("/pub/serve/{hash}/a/b")).text(), "inside");
}

#[test]
fn survives_nonsense() {
    let world = World::new();
    for target in [
        "/%",
        "/%zz",
        "/pub/%ff%fe",
        "/pub/\u{7f}",
        "/pub/nar/%00.nar",
        "/pub/nar/.nar.",
        "*",
        "/pub?x=%",
        "/pub/%2f%2f",
    ] {
        if let Ok(answer) = Request::get(target).send(world.address) {
            assert!(answer.status < 500, "{target}: {}", answer.status);
        }
    }
    for range in ["bytes=", "bytes=-", "bytes=0-18446744073709551616", "\u{7f}", "bytes=1-\t"] {
        let target = format!("/pub/nar/{}.nar", hash_of(1));
        if let Ok(answer) = Request::get(&target).header("Range", range).send(world.address) {
            assert!(answer.status < 500, "{range}: {}", answer.status);
        }
    }
}
