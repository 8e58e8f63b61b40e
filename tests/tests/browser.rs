//! The pages in a real browser: they fit a phone, follow the system's colours, load nothing that their policy forbids, can
//! be used by keyboard alone, and no link on them leads nowhere.

use std::collections::BTreeSet;

use firn_nix::StoreHash;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;
use firn_tests::Package;
use firn_tests::browser::{Browser, ENTER, TAB, View};
use firn_tests::builder::Result;
use serde_json::Value;

/// A server with what pages show: paths that refer to each other, a conflict, a pin, a log, and a report.
struct World {
    firnd: Firnd,
    main: Cache,
    watcher: String,
}

const LONG: &str = "a-package-whose-name-is-as-long-as-names-may-be-without-any-place-to-break-it-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-1";

fn world() -> Result<World> {
    let firnd = Firnd::start()?;
    let main = firnd.cache("main", &["--public"])?;
    let private = firnd.cache("a-private-cache-with-quite-a-long-name", &["--keep", "90 d", "--quota", "1 GiB"])?;
    let watcher = firnd.admin(["token", "create", "--name", "watcher", "--grant", "*:usage,pull"])?;
    let other =
        firnd.admin(["token", "create", "--name", "a-builder-with-a-long-name.example.org", "--grant", "main:push"])?;
    let first = format!("{}-{LONG}", hash(1));
    put(&firnd, &main, 1, LONG, 1, &[])?;
    put(&firnd, &main, 2, "package-2.0", 2, &[&first])?;
    put(&firnd, &main, 3, "package-3.0", 3, &[&first])?;
    put(&firnd, &private, 9, "private-1", 9, &[])?;
    // Another NAR for a path that is there.
    put(&firnd, &Cache { token: other, ..main.clone() }, 2, "package-2.0", 77, &[&first])?;
    let log = Request::put(&format!("/main/log/{}-x.drv", hash(2)), "built\n").token(&main.token);
    assert_eq!(firnd.send(&log)?.status, 200);
    firnd.admin(["pin", "add", "--cache", "main", "release", &format!("{}-package-3.0", hash(3))])?;
    firnd.admin(["usage", "--fresh"])?;
    Ok(World { firnd, main, watcher })
}

impl World {
    fn url(&self, page: &str) -> String {
        format!("http://{}{page}", self.firnd.address())
    }

    fn pages(&self) -> Vec<String> {
        let mut pages: Vec<String> = [
            "overview",
            "caches",
            "builders",
            "packages",
            "packages?sort=growth",
            "state",
            "conflicts",
            "search?q=package",
            "login",
        ]
        .iter()
        .map(|page| format!("/-/{page}"))
        .collect();
        pages.extend(["/-/caches/main".to_owned(), "/-/caches/a-private-cache-with-quite-a-long-name".to_owned()]);
        pages.extend([1, 2, 3].map(|n| format!("/-/paths/main/{}", hash(n))));
        pages
    }
}

fn hash(n: u8) -> StoreHash {
    StoreHash([n; 20])
}

/// Puts a path into a cache: its store hash is made of `n`, some of its bytes of `seed`.
fn put(firnd: &Firnd, cache: &Cache, n: u8, name: &str, seed: u64, references: &[&str]) -> Result<()> {
    let program = Node::Regular { executable: true, contents: Random::new(seed).noise(40_000) };
    let tree = Node::directory([
        ("bin", Node::directory([("program", program)])),
        ("refers-to", Node::file(references.iter().map(|to| format!("/nix/store/{to}\n")).collect::<String>())),
        ("share", Node::directory([(LONG, Node::file(Random::new(1).noise(60_000)))])),
    ]);
    let references = references.iter().map(|to| (*to).to_owned()).collect();
    let package = Package { base_name: format!("{}-{name}", hash(n)), nar: tree.encode(), references };
    let nar = package.put_nar(firnd, cache)?;
    assert_eq!(nar.status, 200, "{}", nar.text());
    let text = format!("{}Deriver: {}-x.drv\n", package.narinfo(), hash(2));
    let narinfo = firnd.send(&Request::put(&package.narinfo_target(&cache.name), text).token(&cache.token))?;
    assert_eq!(narinfo.status, 200, "{}", narinfo.text());
    Ok(())
}

/// Logs in with nothing but the keyboard, beginning at a page's first link.
fn log_in(browser: &Browser, world: &World) -> Result<()> {
    browser.go(&world.url("/-/login?next=/-/overview"))?;
    for _ in 0..20 {
        browser.press(TAB)?;
        let focus = browser.evaluate("const e = document.activeElement; const s = getComputedStyle(e); return [e.id, s.outlineStyle, s.outlineWidth]")?;
        assert_eq!(
            (focus[1].as_str(), focus[2].as_str()),
            (Some("solid"), Some("3px")),
            "what has the focus can be seen: {focus}"
        );
        if focus[0] == "token" {
            browser.press(&format!("{}{ENTER}", world.watcher))?;
            return wait_for(browser, &world.url("/-/overview"));
        }
    }
    Err("the field for the token can't be reached by keyboard".into())
}

/// Waits until the browser is at a page, for a number of questions to it and not for a time.
fn wait_for(browser: &Browser, url: &str) -> Result<()> {
    for _ in 0..2000 {
        if browser.url()? == url && browser.evaluate("return document.readyState")? == "complete" {
            return Ok(());
        }
    }
    Err(format!("the browser never came to {url}; it is at {}", browser.url()?).into())
}

/// What is wrong with the page as it is shown, in words.
const FAULTS: &str = include_str!("../src/page_faults.js");

/// Returns the address in a URL without what follows, if it is of the server and answers to GET.
fn local(world: &World, links: &Value) -> BTreeSet<String> {
    let base = world.url("");
    let links = links.as_array().into_iter().flatten().filter_map(Value::as_str);
    links
        .filter_map(|link| link.strip_prefix(&base))
        .map(|link| link.split('#').next().unwrap_or(link).to_owned())
        .collect()
}

#[test]
fn pages_are_whole_in_a_browser() -> Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let world = world()?;
    let views =
        [(1200, false), (1200, true), (390, false), (390, true)].map(|(width, is_dark)| View { width, is_dark });
    browser.set_view(views[0])?;
    // A stranger sees the public cache, and a form.
    browser.go(&world.url("/"))?;
    assert_eq!(browser.evaluate("return document.querySelectorAll('a[href=\"/-/caches/main\"]').length")?, 1);
    log_in(&browser, &world)?;
    assert_eq!(browser.evaluate("return document.cookie")?, "", "no script can read the token");
    let (mut links, mut backs) = (BTreeSet::new(), BTreeSet::new());
    for page in world.pages() {
        browser.go(&world.url(&page))?;
        for view in views {
            browser.set_view(view)?;
            let faults = browser.evaluate(FAULTS)?;
            assert_eq!(faults, serde_json::json!([]), "{page} at {view:?}");
            let back = browser.evaluate("return getComputedStyle(document.body).backgroundColor")?;
            backs.insert((view.is_dark, back.to_string()));
        }
        let said: Vec<_> = browser.console()?.into_iter().filter(|(level, _)| level != "DEBUG").collect();
        assert_eq!(said, [], "{page}: on the console");
        links.extend(local(
            &world,
            &browser.evaluate("return [...document.querySelectorAll('a[href], link[href]')].map(e => e.href)")?,
        ));
    }
    assert_eq!(backs.len(), 2, "one background when it is light, another when it is dark: {backs:?}");
    assert!(links.len() > 30, "{links:?}");
    for link in links {
        let request = Request::get(&link)
            .header("Accept", "text/html")
            .header("Cookie", &format!("firn-token={}", world.watcher));
        let answer = world.firnd.send(&request)?;
        assert_eq!(answer.status, 200, "{link}: {}", answer.text());
    }
    // What finds no fault does find those that are there.
    browser.evaluate(
        "const e = document.createElement('p'); e.textContent = 'x'; document.body.append(e); \
         Object.assign(e.style, { color: '#888', background: '#999', width: '3000px', maxWidth: 'none' })",
    )?;
    let found = browser.evaluate(FAULTS)?.to_string();
    assert!(found.contains("px wide") && found.contains("contrast 1."), "{found}");
    // The conflict names its file, and what the first has is still what is served.
    browser.go(&world.url(&format!("/-/paths/main/{}", hash(2))))?;
    let text = browser.evaluate("return document.querySelector('section.alarm').innerText")?;
    assert!(text.as_str().is_some_and(|text| text.contains("bin/program")), "{text}");
    let narinfo = world.firnd.send(&Request::get(&format!("/{}/{}.narinfo", world.main.name, hash(2))))?;
    assert_eq!(narinfo.status, 200);
    Ok(())
}

#[test]
fn a_private_cache_needs_a_token_in_the_browser_too() -> Result<()> {
    let Some(browser) = Browser::start()? else { return Ok(()) };
    let world = world()?;
    browser.set_view(View { width: 390, is_dark: true })?;
    let private = world.url("/-/caches/a-private-cache-with-quite-a-long-name");
    let text = |browser: &Browser| -> Result<String> {
        Ok(browser.evaluate("return document.querySelector('main').innerText")?.as_str().unwrap_or_default().to_owned())
    };
    browser.go(&private)?;
    assert!(text(&browser)?.contains("Not for everybody"), "{}", text(&browser)?);
    log_in(&browser, &world)?;
    browser.go(&private)?;
    assert!(text(&browser)?.contains("extra-substituters"), "{}", text(&browser)?);
    // Logging out is a button, and works.
    browser.evaluate("document.querySelector('form[action=\"/-/logout\"] button').click()")?;
    for _ in 0..2000 {
        if browser.evaluate("return document.querySelectorAll('a[href=\"/-/login\"]').length")?.as_u64() > Some(0) {
            break;
        }
    }
    browser.go(&private)?;
    assert!(text(&browser)?.contains("Not for everybody"), "{}", text(&browser)?);
    Ok(())
}
