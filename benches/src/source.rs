//! Pulling from a builder with a large store: what a sync reads of it when a few paths are new.

use std::fmt::Write as _;
use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use firn_nix::{Sha256, StorePath};
use firn_testkit::firnd::Firnd;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::nix::{Nix, Store, Version};
use firn_testkit::random::Random;
use firn_testkit::sshd::Sshd;
use serde_json::Value;

/// Pulls from a real Nix store behind a real sshd. `$FIRND` and `$FIRN` are the programs.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Paths that the builder has before
    #[arg(long, default_value_t = 100_000)]
    paths: u64,
    /// Paths that are built then
    #[arg(long, default_value_t = 100)]
    new: u64,
    /// KB of each of them
    #[arg(long, default_value_t = 100)]
    kilobytes: u64,
    /// Seconds to wait before the first sync: the next one looks 15 minutes further back, and would find a store that was just made all new
    #[arg(long, default_value_t = 930)]
    settle: u64,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let nix = Nix::require(Version::V2_26).context("find Nix 2.26")?;
    let builder = nix.store()?;
    fill(&builder, arguments.paths)?;
    let sshd = Sshd::start(&builder)?;
    let firnd = Firnd::start()?;
    firnd.cache("main", &["--public"])?;
    let firn = firn_testkit::firn::binary()?;
    let (address, root) = (sshd.address(), builder.root());
    let url = format!("ssh-ng://root@{address}?remote-store={}&remote-firn={}", root.display(), firn.display());
    let key = sshd.user_key().display().to_string();
    let wanted = ["--include", "new-*", "--trust", "--every", "0 s", "--use-firn", "false", "--ssh-key", &key];
    firnd.admin(["source", "add", "builder", &url, "--cache", "main"].into_iter().chain(wanted))?;
    println!(
        "| sync | listed | came | metadata, bytes | NARs, bytes | sent by firn, bytes |\n|---|---:|---:|---:|---:|---:|"
    );
    thread::sleep(Duration::from_secs(arguments.settle));
    sync(&firnd, &format!("the first, of {} paths that the filter leaves out", arguments.paths))?;
    let first = builder.build_one(&packages("new", arguments, ""))?;
    let view = sync(&firnd, &format!("{} new ones, by stock Nix", arguments.new))?;
    ensure!(view["last"]["paths"].as_u64() == Some(arguments.new + 1), "not all came: {view:#}");

    builder.build_one(&packages("new-again", arguments, &first))?;
    firnd.admin(["source", "set", "builder", "--use-firn", "true"])?;
    let view = sync(&firnd, &format!("{} that are like those, by the builder's firn", arguments.new))?;
    ensure!(view["last"]["paths"].as_u64() == Some(arguments.new + 1), "not all came: {view:#}");
    ensure!(view["note"].is_null(), "firn did not send all: {view:#}");
    sync(&firnd, "nothing new")?;
    Ok(())
}

/// Registers so many paths, each an empty file.
fn fill(builder: &Store, paths: u64) -> anyhow::Result<()> {
    builder.check("nix-store", ["--init"])?.done()?;
    let nar = Node::file(Vec::new()).encode();
    let (hash, size) = (Sha256::of(&nar), nar.len());
    let mut random = Random::new(1);
    let mut rows = String::new();
    let folder = builder.root().join("nix/store");
    fs::create_dir_all(&folder)?;
    for n in 0..paths {
        // About as long as names are.
        let path: StorePath = format!("{}-filler-of-a-builders-store-{n}", random.store_hash()).parse()?;
        fs::write(folder.join(path.base_name()), "")?;
        writeln!(rows, "/nix/store/{path}\n{}\n{size}\n\n0", hash.to_hex())?;
    }
    let file = builder.write("registrations", &rows)?;
    let mut command = builder.command("nix-store");
    command.arg("--load-db").stdin(Stdio::from(fs::File::open(file)?));
    ensure!(command.status().context("run nix-store --load-db")?.success(), "nix-store --load-db failed");
    Ok(())
}

/// Returns an expression of so many packages, and one that refers to all of them. Those that are like others hold what these hold, and a line.
fn packages(name: &str, arguments: &Arguments, like: &str) -> String {
    let Arguments { new, kilobytes, .. } = arguments;
    let (like, own, script) = match like {
        "" => (String::new(), "", format!("head -c {kilobytes}000 /dev/urandom > $out")),
        like => (
            format!(r#"like = builtins.storePath "{like}";"#),
            "inherit like;",
            "cat $(sed -n ${toString (n + 1)}p $like) > $out; echo more >> $out".to_owned(),
        ),
    };
    format!(
        r#"let
  {like}
  each = n: build {{ name = "{name}-${{toString n}}"; {own} script = "{script}"; }};
in build {{ name = "{name}-all"; all = map each (builtins.genList (n: n) {new}); script = "for one in $all; do echo $one; done > $out"; }}"#
    )
}

/// Syncs, and prints what that read.
fn sync(firnd: &Firnd, what: &str) -> anyhow::Result<Value> {
    let before = received(firnd)?;
    let view = firnd.json(&["source", "sync", "builder"])?;
    let sent = received(firnd)? - before;
    let number = |field: &str| view["last"][field].as_u64().unwrap_or_default();
    let [listed, came, metadata, nars] = ["listed", "paths", "metadata_bytes", "nar_bytes"].map(number);
    println!("| {what} | {listed} | {came} | {metadata} | {nars} | {sent} |");
    Ok(view)
}

/// Returns how many bytes the server was sent over HTTP.
fn received(firnd: &Firnd) -> anyhow::Result<u64> {
    let token = firnd.token("*:usage")?;
    let text = firnd.send(&Request::get("/metrics").token(&token))?.text();
    let lines = text.lines().filter(|line| line.contains("http_received_bytes"));
    let sum: f64 = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    Ok(sum as u64)
}
