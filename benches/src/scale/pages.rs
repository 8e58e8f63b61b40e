//! Times the pages for people, over a store of any size: from the request to the last byte.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;

use super::made::{self, Shape};
use crate::load::client::Connection;
use crate::report::{Latencies, Table};
use crate::server::{Server, Setup};

/// How often each page is asked for.
const REPEATS: u64 = 40;

/// Has a server count the store, then asks for every page, one after the other.
pub(super) fn run(shape: &Shape, data: &Path, firnd: &Path) -> anyhow::Result<()> {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), made::SERVER_CONFIG)?;
    let setup = Setup { firnd, config: Some(config.path()), perf: None };
    let server = Server::start_on(&setup, data, &config.path().with_extension("log"))?;
    let token = server.admin(&["token", "create", "--grant", "*:usage,pull", "--name", "bench"])?;
    server.admin(&["usage", "--fresh"])?;
    let mut connection = Connection::open(server.address)?;
    connection.set_token(&token);
    let mut table = Table::new(&["page", "requests", "bytes", "p50 ms", "p99 ms"]);
    // The last tenths are there whatever was collected before.
    let path = |n: u64| {
        let first = shape.paths / 2;
        shape.hash(first + made::word(n) % (shape.paths - first))
    };
    let pages: [(&str, &dyn Fn(u64) -> String); 10] = [
        ("overview", &|_| "/-/overview".to_owned()),
        ("caches", &|_| "/-/caches".to_owned()),
        ("a cache", &|_| format!("/-/caches/{}", made::CACHE)),
        ("builders", &|_| "/-/builders".to_owned()),
        ("packages", &|_| "/-/packages".to_owned()),
        ("state", &|_| "/-/state".to_owned()),
        ("a path, another each time", &|n| format!("/-/paths/{}/{}", made::CACHE, path(n))),
        ("search by hash", &|n| format!("/-/search?q={}", path(n))),
        ("search for a package", &|n| format!("/-/search?q=package{}-1", 100 + n)),
        ("search for what is nowhere", &|n| format!("/-/search?q=nothing-has-this-name-{n}")),
    ];
    for (name, target) in pages {
        let (mut times, mut bytes) = (Vec::new(), 0);
        for n in 0..REPEATS {
            let began = Instant::now();
            bytes = connection.fetch(&target(n))?;
            times.push(began.elapsed());
        }
        ensure!(bytes > 0, "{name} is empty");
        let times = Latencies::new(times);
        let mut row = vec![name.to_owned(), times.count().to_string(), bytes.to_string()];
        row.extend([0.5, 0.99].map(|share| format!("{:.1}", times.milliseconds(share))));
        table.row(row);
    }
    println!("{}", table.text());
    server.stop()?;
    Ok(())
}
