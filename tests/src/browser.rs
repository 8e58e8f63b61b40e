//! A headless Chromium, driven over WebDriver: one request of `chromedriver` for each step, so that a plain client does.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};

use firn_testkit::http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::builder::Result;

/// The variable that leaves tests out which need a browser, by any value.
pub const WITHOUT: &str = "FIRN_TESTS_WITHOUT_BROWSER";

/// The keys that tests press, as WebDriver writes them.
pub const TAB: &str = "\u{e004}";
/// See [`TAB`].
pub const ENTER: &str = "\u{e007}";

/// How a page is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Width in CSS pixels.
    pub width: u32,
    /// Whether the system asks for dark colours.
    pub is_dark: bool,
}

/// A browser window; ends with its processes when dropped.
#[derive(Debug)]
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    /// What it keeps: an empty folder of its own.
    _profile: TempDir,
}

impl Browser {
    /// Starts a browser; `None`, loudly, if the tests are to do without one.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub fn start() -> Result<Option<Self>> {
        if env::var_os(WITHOUT).is_some() {
            eprintln!("SKIPPED: {WITHOUT} is set, so that no page is looked at in a browser");
            return Ok(None);
        }
        let mut command = Command::new("chromedriver");
        command.args(["--port=0", "--log-level=SEVERE"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut driver = command.stderr(Stdio::null()).spawn().map_err(|error| {
            format!(
                "chromedriver does not start ({error}): install chromium and chromium-driver (scripts/setup --tests does, \
                 as root on Debian), or set {WITHOUT}=1 to leave the tests out that need them"
            )
        })?;
        let output = driver.stdout.take().ok_or("chromedriver has no output")?;
        let mut lines = BufReader::new(output).lines();
        let port = loop {
            let line = lines.next().ok_or("chromedriver ended before it said its port")??;
            let port = line.split("on port ").nth(1).and_then(|rest| rest.trim_end_matches('.').parse::<u16>().ok());
            // First it says port 0: that it is about to look for one.
            if let Some(port) = port.filter(|port| *port != 0) {
                break port;
            }
        };
        let profile = tempfile::Builder::new().prefix("firn-browser-").tempdir()?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        browser.open()?;
        Ok(Some(browser))
    }

    fn open(&mut self) -> Result<()> {
        let mut arguments: Vec<String> = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ]
        .map(str::to_owned)
        .into();
        arguments.push(format!("--user-data-dir={}", self._profile.path().display()));
        let wanted = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let made = self.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }))?;
        let id = made["sessionId"].as_str().ok_or_else(|| format!("no session: {made}"))?;
        self.session = format!("/session/{id}");
        Ok(())
    }

    fn ask(&self, method: &str, target: &str, body: &Value) -> Result<Value> {
        let mut request = Request::new(method, target).header("Host", "localhost");
        if method == "POST" {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = request.send(self.address)?;
        let mut value: Value = serde_json::from_slice(&answer.body)?;
        match answer.status {
            200 => Ok(value["value"].take()),
            status => Err(format!("{method} {target}: {status}: {value}").into()),
        }
    }

    fn step(&self, method: &str, command: &str, body: &Value) -> Result<Value> {
        self.ask(method, &format!("{}/{command}", self.session), body)
    }

    fn tell(&self, command: &str, parameters: &Value) -> Result<Value> {
        self.step("POST", "goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    /// Opens a page and waits until it is loaded.
    ///
    /// # Errors
    /// Errors of the driver, as everywhere here.
    pub fn go(&self, url: &str) -> Result<()> {
        self.step("POST", "url", &json!({ "url": url })).map(drop)
    }

    /// Returns where the browser is.
    pub fn url(&self) -> Result<String> {
        let url = self.step("GET", "url", &Value::Null)?;
        Ok(url.as_str().unwrap_or_default().to_owned())
    }

    /// Sets the window's width and the colours that the system asks for.
    pub fn set_view(&self, view: View) -> Result<()> {
        let scheme = if view.is_dark { "dark" } else { "light" };
        self.tell(
            "Emulation.setEmulatedMedia",
            &json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] }),
        )?;
        let size = json!({ "width": view.width, "height": 800, "deviceScaleFactor": 1, "mobile": view.width < 600 });
        self.tell("Emulation.setDeviceMetricsOverride", &size).map(drop)
    }

    /// Returns what a script in the page returns.
    pub fn evaluate(&self, script: &str) -> Result<Value> {
        self.step("POST", "execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Presses keys, one after the other, wherever the focus is.
    pub fn press(&self, keys: &str) -> Result<()> {
        let strokes: Vec<Value> = keys
            .chars()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({ "type": kind, "value": key.to_string() })))
            .collect();
        let actions = json!({ "actions": [{ "type": "key", "id": "keys", "actions": strokes }] });
        self.step("POST", "actions", &actions).map(drop)
    }

    /// Returns what the console got since the last time, with its level: what a policy forbade is among it.
    pub fn console(&self) -> Result<Vec<(String, String)>> {
        let entries = self.step("POST", "se/log", &json!({ "type": "browser" }))?;
        let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
        let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(entries.iter().map(|entry| (text(entry, "level"), text(entry, "message"))).collect())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let _ = self.ask("DELETE", &self.session, &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
