//! Name, connection, encryption.

use std::env;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::Finding;
use crate::cache_ref::CacheUrl;

/// How long a name or a connection may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many of a name's addresses are tried.
const MAX_ADDRESSES: usize = 8;

/// Looks the name up and connects. What a proxy does for us is not looked at.
pub(super) async fn examine(url: &CacheUrl) -> Vec<Finding> {
    let mut findings = vec![encryption(url)];
    if let Some(variable) = proxy(url) {
        let detail = format!("not tried: {variable} names a proxy, which looks the name up and connects");
        findings.push(Finding::skipped("address", detail.clone()));
        findings.push(Finding::skipped("connection", detail));
        return findings;
    }
    match timeout(PATIENCE, lookup_host((url.host(), url.port()))).await {
        Err(_) => {
            let detail = format!("no answer about {} within {} s", url.host(), PATIENCE.as_secs());
            findings.push(Finding::fail("address", detail, "check this machine's name servers"));
        }
        Ok(Err(error)) => {
            let detail = format!("{} has no address: {error}", url.host());
            findings.push(Finding::fail(
                "address",
                detail,
                "check the URL's host name and this machine's name servers",
            ));
        }
        Ok(Ok(addresses)) => {
            let addresses: Vec<SocketAddr> = addresses.take(MAX_ADDRESSES).collect();
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            findings.push(Finding::ok("address", format!("{} is {}", url.host(), shown.join(", "))));
            findings.push(connection(&addresses).await);
        }
    }
    findings
}

fn encryption(url: &CacheUrl) -> Finding {
    if url.is_plain_http() && !url.is_loopback() {
        return Finding::warn(
            "encryption",
            "the URL is http://: whoever is on the way can read tokens and what is pushed",
            "serve it by https, with server.tls-cert of firnd or a proxy before it",
        );
    }
    let detail = if url.is_plain_http() { "none needed: the server is this machine" } else { "https" };
    Finding::ok("encryption", detail)
}

async fn connection(addresses: &[SocketAddr]) -> Finding {
    let mut refused = Vec::new();
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) if refused.is_empty() => {
                return Finding::ok("connection", format!("{address} takes connections"));
            }
            Ok(Ok(_)) => {
                return Finding::warn(
                    "connection",
                    format!("{address} takes connections; before it: {}", refused.join("; ")),
                    "every request tries the others first: take them out of the name, or repair them",
                );
            }
            Ok(Err(error)) => refused.push(format!("{address}: {error}")),
            Err(_) => refused.push(format!("{address}: no answer within {} s", PATIENCE.as_secs())),
        }
    }
    Finding::fail(
        "connection",
        refused.join("; "),
        "check that firnd runs, listens there, and that no firewall is between",
    )
}

/// Returns the variable that sends requests to this URL through a proxy.
fn proxy(url: &CacheUrl) -> Option<&'static str> {
    let names: &[&str] = if url.is_plain_http() {
        &["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]
    } else {
        &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]
    };
    let excluded = ["no_proxy", "NO_PROXY"].iter().filter_map(|name| env::var(name).ok()).any(|list| {
        let mut patterns = list.split(',').map(str::trim).filter(|pattern| !pattern.is_empty());
        patterns.any(|pattern| pattern == "*" || is_below(url.host(), pattern.trim_start_matches('.')))
    });
    let set = |name: &&&str| env::var(name).is_ok_and(|value| !value.is_empty());
    if excluded { None } else { names.iter().find(set).copied() }
}

fn is_below(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
}
