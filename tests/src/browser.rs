//! A real Chromium from Debian's packages, driven by WebDriver as a person uses it. Needs root.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::{namespace, ports, tools, wait};

/// What one step of the browser may take.
const LIMIT: Duration = Duration::from_secs(60);
/// Of an element in an answer (WebDriver §11).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// As root there is no sandbox; nothing is asked of any host but the one under test.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
];

const SCRIPT: &str = r#"
set -eu
export HOME="$STATE" LANG=C.UTF-8
exec "$PACKAGES/bin/chromedriver" --port="$(cat "$STATE/port")" >"$STATE/log" 2>&1
"#;

/// A browser with one page; dropped, it ends with all its processes.
pub struct Browser {
    address: SocketAddr,
    /// The path of the session.
    session: String,
    _driver: namespace::Running,
}

impl Browser {
    /// Starts it with an empty profile in `dir`.
    pub async fn start(dir: &Path) -> Result<Self> {
        let program = tools::path("bin/chromium")?;
        let packages = program.parent().and_then(Path::parent).context("no directory of tools")?;
        let state = dir.join("browser");
        std::fs::create_dir_all(&state)?;
        let address = ports::free_address()?;
        std::fs::write(state.join("port"), address.port().to_string())?;
        let driver = namespace::start("Chromium", packages, &state, SCRIPT)?;
        let mut browser = Self { address, session: "/session".to_owned(), _driver: driver };
        wait::until("chromedriver", LIMIT, async || TcpStream::connect(address).await.ok()).await?;
        let profile = format!("--user-data-dir={}", state.join("profile").display());
        let arguments: Vec<&str> = ARGUMENTS.into_iter().chain([&*profile]).collect();
        let wanted = json!({
            "goog:chromeOptions": {"binary": program, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        });
        let session = browser.post("", json!({"capabilities": {"alwaysMatch": wanted}})).await?;
        let id = session["sessionId"].as_str().context("no session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    pub async fn open(&self, url: &str) -> Result<()> {
        self.post("/url", json!({"url": url})).await.map(drop)
    }

    /// What a script in the page returns.
    pub async fn script(&self, script: &str) -> Result<Value> {
        self.post("/execute/sync", json!({"script": script, "args": []})).await
    }

    /// Clicks what a CSS selector finds first, as a mouse does: it must be visible.
    pub async fn click(&self, selector: &str) -> Result<()> {
        let element = self.element(selector).await?;
        self.post(&format!("/element/{element}/click"), json!({})).await.map(drop)
    }

    /// Types into a field in place of what is there.
    pub async fn fill(&self, selector: &str, text: &str) -> Result<()> {
        let element = self.element(selector).await?;
        self.post(&format!("/element/{element}/clear"), json!({})).await?;
        self.post(&format!("/element/{element}/value"), json!({"text": text})).await.map(drop)
    }

    /// The text that a person sees of an element; of one that is not shown there is none.
    pub async fn text(&self, selector: &str) -> Result<String> {
        let element = self.element(selector).await?;
        let text = self.ask("GET", &format!("/element/{element}/text"), None).await?;
        Ok(text.as_str().context("no text")?.to_owned())
    }

    /// Waits until an element shows a text that satisfies `is_it`.
    pub async fn shows(&self, selector: &str, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let mut seen = String::new();
        let shown = wait::until(selector, LIMIT, async || {
            seen = self.text(selector).await.ok()?;
            is_it(&seen).then(|| seen.clone())
        });
        shown.await.with_context(|| format!("{selector} shows {seen:?}"))
    }

    /// Says yes to the question that the page asks.
    pub async fn accept(&self) -> Result<()> {
        self.post("/alert/accept", json!({})).await.map(drop)
    }

    /// What the console says since it was last asked.
    pub async fn console(&self) -> Result<Vec<String>> {
        self.log("browser").await
    }

    /// The addresses that pages asked for anything since this was last asked; the browser's own
    /// first page is none of them.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await? {
            let entry: Value = serde_json::from_str(&entry)?;
            let (method, sent) = (&entry["message"]["method"], &entry["message"]["params"]);
            let is_own = sent["documentURL"].as_str().is_some_and(|of| of.starts_with("chrome://"));
            if method == "Network.requestWillBeSent" && !is_own {
                urls.push(sent["request"]["url"].as_str().context("no url")?.to_owned());
            }
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> Result<Vec<String>> {
        let entries = self.post("/se/log", json!({"type": kind})).await?;
        let entries = entries.as_array().context("no log")?.iter();
        entries.map(|entry| Ok(entry["message"].as_str().context("no text")?.into())).collect()
    }

    /// A window of this width, for somebody who likes it `light` or `dark`.
    pub async fn dress(&self, width: u32, scheme: &str) -> Result<()> {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [feature]})).await?;
        let window = json!({"width": width, "height": 900, "deviceScaleFactor": 1,
            "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", window).await.map(drop)
    }

    /// A PNG of the whole page.
    pub async fn picture(&self) -> Result<Vec<u8>> {
        let size = "const e = document.documentElement; return [e.clientWidth, e.scrollHeight];";
        let size = self.script(size).await?;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let wanted = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let taken = self.devtools("Page.captureScreenshot", wanted).await?;
        Ok(STANDARD.decode(taken["data"].as_str().context("no picture")?)?)
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Result<Value> {
        self.post("/goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    async fn element(&self, selector: &str) -> Result<String> {
        let by_selector = json!({"using": "css selector", "value": selector});
        let found = self.post("/element", by_selector).await?;
        Ok(found[ELEMENT].as_str().context("no element")?.to_owned())
    }

    async fn post(&self, path: &str, body: Value) -> Result<Value> {
        self.ask("POST", path, Some(body)).await
    }

    /// One command; anything but success is an error with what the driver says.
    async fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let path = format!("{}{path}", self.session);
        let asked = tokio::time::timeout(LIMIT, self.exchange(method, &path, body)).await;
        let answer = asked.with_context(|| format!("{path}: no answer in {LIMIT:?}"))??;
        let value = &answer["value"];
        ensure!(value["error"].is_null(), "{path}: {} {}", value["error"], value["message"]);
        Ok(value.clone())
    }

    async fn exchange(&self, method: &str, path: &str, body: Option<Value>) -> Result<Value> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut talking = JoinSet::new();
        talking.spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", "application/json")
            .body(Full::new(body.map(|body| Bytes::from(body.to_string())).unwrap_or_default()))?;
        let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
        Ok(serde_json::from_slice(&answer)?)
    }
}
