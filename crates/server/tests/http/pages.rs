//! Pages for people: they show what there is, to those who may see it, and nothing that a name says is taken for markup.

use firn_index::Verb;
use firn_testkit::http::{Answer, Request};
use firn_testkit::nar::Node;

use crate::support::{Package, World};

fn browse(world: &World, target: &str, token: Option<&str>) -> Answer {
    let request = Request::get(target).header("Accept", "text/html,*/*;q=0.8");
    world.send(match token {
        Some(token) => request.header("Cookie", &format!("a=b; firn-token={token}")),
        None => request,
    })
}

const NASTY: &str = "<script>alert('x')</script>\"&";

fn filled() -> (World, String, Package) {
    let mut world = World::new();
    let watcher = world.make_token(50, "*", &[Verb::Usage, Verb::Pull], |row| row.builder = NASTY.to_owned());
    let nasty_name = NASTY.replace('/', "");
    let tree = Node::directory([
        ("bin", Node::directory([("hello", Node::file("hello"))])),
        // A slash is in no file's name.
        (nasty_name.as_str(), Node::file("x")),
        ("link", Node::Symlink { target: NASTY.as_bytes().to_vec() }),
    ]);
    let package = Package::of(1, &tree);
    let pusher = world.make_token(52, "*", &[Verb::Push], |row| row.builder = NASTY.to_owned());
    world.token = pusher;
    world.put_path("pub", &package);
    world.put_path("priv", &package);
    let report = world.send(Request::get("/api/v1/usage?fresh=1").token(&watcher));
    assert_eq!(report.status, 200, "{}", report.text());
    (world, watcher, package)
}

/// All pages that there are, for a path.
fn pages(package: &Package) -> Vec<String> {
    let mut pages: Vec<String> =
        ["", "overview", "caches", "builders", "packages", "state", "search?q=tree", "search", "login"]
            .iter()
            .map(|page| format!("/-/{page}"))
            .collect();
    pages.extend(["/".to_owned(), "/pub".to_owned(), "/priv".to_owned(), "/-/caches/priv".to_owned()]);
    pages.push(format!("/-/paths/pub/{}", package.hash()));
    pages
}

#[test]
fn every_page_is_whole_and_lets_nothing_in() {
    let (world, watcher, package) = filled();
    let mut pages = pages(&package);
    pages.push(format!("/-/search?q={}", "%3Cscript%3Ealert(1)%3C/script%3E%22"));
    pages.push("/-/login?next=%22%3E%3Cscript%3E".to_owned());
    for page in pages {
        let answer = browse(&world, &page, Some(&watcher));
        let text = answer.text();
        assert_eq!(answer.status, 200, "{page}: {text}");
        assert!(text.starts_with("<!DOCTYPE html>") && text.ends_with("</html>"), "{page}");
        assert!(!text.contains("<script") && !text.contains(" style=") && !text.contains("onload"), "{page}: {text}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{page}");
        assert!(text.contains("lang=\"en\"") && text.contains("name=\"viewport\""), "{page}");
        // Every field has a label.
        for id in text.split("<input id=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(text.contains(&format!("for=\"{id}\"")), "{page}: {id}");
        }
    }
}

#[test]
fn pages_say_what_is_there() {
    let (world, watcher, package) = filled();
    let shown = |page: &str| browse(&world, page, Some(&watcher)).text();
    assert!(shown("/").contains("What saves how much"));
    assert!(shown("/-/packages").contains(">tree</a>"));
    assert!(shown("/-/builders").contains("&lt;script&gt;"));
    let path = shown(&format!("/-/paths/pub/{}", package.hash()));
    for part in ["bin/hello", "Who pushed it", "created", "&lt;script&gt;", &package.path.base_name(), "nar.zst"] {
        assert!(path.contains(part), "{part}: {path}");
    }
    // A name's bytes are no URL: what a link leads to is the file.
    let link = path.split("href=\"").find(|rest| rest.contains("/serve/") && rest.contains("%3Cscript")).unwrap();
    let file = world.send(Request::get(link.split('"').next().unwrap()));
    assert_eq!((file.status, file.text().as_str()), (200, "x"));
    assert!(shown("/-/search?q=tree").contains(&package.path.base_name()));
    assert!(shown("/pub").contains("extra-substituters"));
    assert_eq!(browse(&world, "/-/nothing", Some(&watcher)).status, 404);
    assert_eq!(browse(&world, &format!("/-/paths/pub/{}", "0".repeat(32)), Some(&watcher)).status, 404);
}

#[test]
fn builders_are_shown_with_their_hours() {
    let (world, watcher, _) = filled();
    let page = browse(&world, "/-/builders", Some(&watcher)).text();
    // The clock stands at 1970-01-12 13:46; two paths came.
    for part in ["By hour and builder", ">1970-01-12 13:00</th>"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert_eq!(page.matches("aria-label=\"2 in all, 2 at most\"").count(), 1, "{page}");
    world.pass(3 * 86_400);
    let report = world.send(Request::get("/api/v1/usage?fresh=1").token(&watcher));
    assert_eq!(report.status, 200);
    let page = browse(&world, "/-/builders", Some(&watcher)).text();
    assert!(page.contains("None came in these hours") && !page.contains("class=\"spark\""), "{page}");
}

#[test]
fn references_to_what_is_elsewhere_are_no_links() {
    let (world, watcher, package) = filled();
    world.set_cache("pub", |row| row.references = firn_index::ReferencePolicy::Any);
    let elsewhere = Package::new(90, 10).path;
    let tree = Node::directory([("x", Node::file(format!("/nix/store/{elsewhere}")))]);
    let referrer = Package { references: vec![package.path.clone(), elsewhere.clone()], ..Package::of(8, &tree) };
    world.put_path("pub", &referrer);
    let page = browse(&world, &format!("/-/paths/pub/{}", referrer.hash()), Some(&watcher)).text();
    assert!(page.contains(&format!("href=\"/-/paths/pub/{}\"", package.hash())), "{page}");
    assert!(page.contains(&format!("{elsewhere} <span class=\"quiet\">not in this cache")), "{page}");
    assert!(!page.contains(&format!("/-/paths/pub/{}", elsewhere.hash())), "{page}");
    let page = browse(&world, &format!("/-/paths/pub/{}", package.hash()), Some(&watcher)).text();
    assert!(page.contains("Referred to by") && page.contains(&format!("/-/paths/pub/{}", referrer.hash())), "{page}");
}

#[test]
fn debug_information_is_shown_by_build_id() {
    let (world, watcher, package) = filled();
    let ids = ["ab", "cd"].map(|start| format!("{start}{}", "0123456789".repeat(4).split_at(2).1));
    let file = |id: &String| Node::directory([(format!("{}.debug", &id[2..]), Node::file("dwarf"))]);
    let folders = ids.iter().map(|id| (id[..2].to_owned(), file(id)));
    let debug = Node::directory([("debug", Node::directory([(".build-id", Node::directory(folders))]))]);
    let with = Package::of(7, &Node::directory([("lib", debug)]));
    world.put_path("pub", &with);
    let document =
        format!("{{\"archive\":\"../nar/x.nar\",\"member\":\"lib/debug/.build-id/ab/{}.debug\"}}", &ids[0][2..]);
    assert_eq!(world.put(&format!("/pub/debuginfo/{}", ids[0]), document).status, 200);
    let page = browse(&world, &format!("/-/paths/pub/{}", with.hash()), Some(&watcher)).text();
    let link = format!("/pub/serve/{}/lib/debug/.build-id/cd/{}.debug", with.hash(), &ids[1][2..]);
    assert!(page.contains(&format!("href=\"{link}\"")), "{page}");
    assert_eq!(world.get(&link).text(), "dwarf");
    assert!(page.contains(&format!("href=\"/pub/debuginfo/{}\"", ids[0])), "{page}");
    assert_eq!(page.matches("not indexed").count(), 1, "{page}");
    let without = browse(&world, &format!("/-/paths/pub/{}", package.hash()), Some(&watcher)).text();
    assert!(!without.contains("Debug information"));
}

#[test]
fn nix_and_curl_get_what_they_always_got() {
    let (world, ..) = filled();
    for target in ["/", "/pub"] {
        let answer = world.send(Request::get(target).header("Accept", "*/*"));
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"), "{target}");
    }
    let info = world.send(Request::get("/pub/nix-cache-info").header("Accept", "text/html"));
    assert!(info.text().starts_with("StoreDir: /nix/store"));
}

#[test]
fn strangers_see_what_is_public_and_no_more() {
    let (world, _, package) = filled();
    let caches = browse(&world, "/", None).text();
    assert!(caches.contains("/-/caches/pub") && !caches.contains("/-/caches/priv"));
    for page in ["/-/builders", "/-/packages", "/-/state"] {
        let answer = browse(&world, page, None);
        assert_eq!(answer.status, 403, "{page}");
        assert!(answer.text().contains("name=\"token\""));
    }
    let path = browse(&world, &format!("/-/paths/pub/{}", package.hash()), None);
    assert_eq!(path.status, 200);
    assert!(!path.text().contains("Who pushed it"));
    let without_name = |answer: Answer| (answer.status, answer.text());
    let (private, absent) = (browse(&world, "/priv", None), browse(&world, "/nowhere", None));
    assert_eq!(without_name(private), without_name(absent));
    let private = browse(&world, &format!("/-/paths/priv/{}", package.hash()), None);
    assert_eq!(private.status, 403);
    assert!(!browse(&world, "/-/search?q=tree", None).text().contains("/-/paths/priv/"));
}

#[test]
fn logging_in_sets_a_cookie_that_counts_for_reading_alone() {
    let (world, watcher, _) = filled();
    let post = |body: &str, headers: &[(&str, &str)]| {
        let request = Request::new("POST", "/-/login").body(body);
        world.send(headers.iter().fold(request, |request, (name, value)| request.header(name, value)))
    };
    let answer = post(&format!("token={watcher}&next=/-/state"), &[]);
    assert_eq!((answer.status, answer.header("location")), (303, Some("/-/state")));
    let cookie = answer.header("set-cookie").unwrap();
    for part in [&format!("firn-token={watcher};"), "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age="] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert_eq!(post(&format!("token={watcher}&next=//evil.example"), &[]).header("location"), Some("/-/overview"));
    for headers in [[("Origin", "https://evil.example")], [("Sec-Fetch-Site", "cross-site")]] {
        let refused = post(&format!("token={watcher}"), &headers);
        assert_eq!((refused.status, refused.header("set-cookie")), (403, None));
    }
    let wrong = post("token=nonsense", &[]);
    assert_eq!((wrong.status, wrong.header("set-cookie")), (403, None));
    assert!(!wrong.text().contains("nonsense"));
    assert_eq!(post(&"x".repeat(10_000), &[]).status, 400);
    // The cookie opens private files, and takes no upload.
    let file = browse(&world, "/priv/nix-cache-info", Some(&watcher));
    assert_eq!(file.status, 200);
    let upload = Request::put("/pub/nix-cache-info", "StoreDir: /nix/store\n");
    let pusher = format!("firn-token={}", world.token);
    assert_eq!(world.send(upload.header("Cookie", &pusher)).status, 401);
    let out = world.send(Request::new("POST", "/-/logout"));
    assert!(out.header("set-cookie").unwrap().contains("Max-Age=0"));
    // One that counts no more is forgotten, and what is public is shown.
    let stale = browse(&world, "/-/caches", Some("firn_nonsense"));
    assert_eq!(stale.status, 200);
    assert!(stale.header("set-cookie").unwrap().contains("Max-Age=0"));
}
