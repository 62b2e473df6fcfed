//! The page of operators in a real browser: it tells what the API tells, finds, acts and traces,
//! and asks nobody else.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::admin_port::{self, TOKEN, get};
use tests::browser::Browser;
use tests::client::Client;
use tests::home::{Home, Kind};
use tests::ledger::content;
use tests::load::SENDER;
use tests::process::{PASSWORD, Postrider};
use tests::sink::Sink;
use tests::wait;

const LIMIT: Duration = Duration::from_secs(60);
/// What a next hop says to be shown as it is.
const HOSTILE: &str = "451 4.7.1 <img src=x onerror=alert(1)>Greylisted";

fn verdict(recipient: &str) -> Option<&'static str> {
    match recipient.split_once('@')?.1 {
        "slow.test" => Some(HOSTILE),
        "busy.test" => Some("450 4.7.0 Too many messages, try again later"),
        "full.test" => Some("452 4.2.2 The mailbox is full"),
        "gone.test" => Some("550 5.1.1 No such user here"),
        _ => None,
    }
}

/// Recipients' domains, and how many messages go there.
const MAIL: [(&str, usize); 5] =
    [("remote.test", 25), ("busy.test", 9), ("full.test", 5), ("gone.test", 3), ("slow.test", 1)];

/// Sends all of [`MAIL`]; gives the ids of the last two.
async fn send_all(postrider: &Postrider) -> Result<(String, String)> {
    let mut client = Client::submission(postrider.address("submission"), SENDER, PASSWORD).await?;
    let mut ids = Vec::new();
    for (domain, count) in MAIL {
        for n in 0..count {
            let message = content(&format!("{domain}-{n}"), SENDER, &"text ".repeat(200));
            let recipient = format!("friend{n}@{domain}");
            let reply = client.transaction(SENDER, &[&recipient], &message).await?;
            ensure!(reply.code == 250, "{}", reply.text);
            ids.push(reply.text.split_whitespace().last().context("no queue id")?.to_owned());
        }
    }
    let slow = ids.pop().context("no id")?;
    Ok((ids.pop().context("no id")?, slow))
}

struct Scene {
    home: Home,
    browser: Browser,
    /// A message that was bounced, and one that is deferred.
    bounced: String,
    slow: String,
    _sink: Sink,
}

impl Scene {
    async fn set(kind: Kind, dir: &Path) -> Result<Self> {
        let sink = Sink::with_verdict(Arc::new(verdict)).await?;
        let home = admin_port::home(kind, dir, &sink).await?;
        let (bounced, slow) = send_all(home.ingress()).await?;
        home.worker().cli(&["queue", "hold", "--recipient-domain", "full.test"]).await?;
        let port = home.worker().address("admin");
        wait::until("every outcome", LIMIT, async || {
            let outcomes = get(port, "/v1/outcomes").await.ok()?;
            // Three DSNs are stored; who was held before the first attempt has no outcome.
            let of = |name| count(&outcomes, name);
            let stats = get(port, "/v1/stats").await.ok()?;
            let all = of("delivered") == 28 && of("bounced") == 3 && of("deferred") >= 10;
            (all && stats["held"] == 5 && stats["deferred"] == 10).then_some(())
        })
        .await?;
        let browser = Browser::start(dir).await?;
        Ok(Self { home, browser, bounced, slow, _sink: sink })
    }

    async fn api(&self, path: &str) -> Result<Value> {
        get(self.home.worker().address("admin"), path).await
    }

    fn origin(&self) -> String {
        format!("http://{}/", self.home.worker().address("admin"))
    }

    /// With the token, the queue is shown; without it or with another it is not.
    async fn enter(&self) -> Result<()> {
        let Self { browser, .. } = self;
        browser.requests().await?;
        browser.open(&self.origin()).await?;
        ensure!(browser.text("#inside").await?.is_empty(), "shown without a token");
        browser.fill("#token", "ffffffffffffffffffffffffffffffff").await?;
        browser.click("#enter button").await?;
        browser.shows("#said", |said| said == "this is not the token").await?;
        ensure!(browser.text("#inside").await?.is_empty(), "shown with a wrong token");
        // It had asked three questions.
        let mut refusals = Vec::new();
        wait::until("the refusals", LIMIT, async || {
            refusals.extend(browser.console().await.ok()?);
            (refusals.len() >= 3).then_some(())
        })
        .await?;
        let is_refusal = |line: &String| line.contains("401 (Unauthorized)");
        ensure!(refusals.len() == 3 && refusals.iter().all(is_refusal), "{refusals:?}");
        browser.fill("#token", TOKEN).await?;
        browser.click("#enter button").await?;
        browser.shows("#said", |said| said.starts_with("as of ")).await?;
        Ok(())
    }

    /// Every number on the page is the API's.
    async fn compare(&self) -> Result<()> {
        let stats = self.api("/v1/stats").await?;
        for phase in ["ready", "active", "deferred", "held", "quarantined"] {
            let wanted = stats[phase].to_string();
            let selector = format!("#stats [data-phase={phase}]");
            self.browser.shows(&selector, |shown| shown == wanted).await?;
        }
        let messages = format!("{}, ", stats["messages"]);
        self.browser.shows("#store", |shown| shown.contains(&messages)).await?;
        for (table, path) in [
            ("by-next-hop", "/v1/top?by=nextHop"),
            ("by-reason", "/v1/top?by=reason&phase=deferred"),
        ] {
            let top = self.api(path).await?;
            let row = |row: &Value| (row["name"].clone(), row["jobs"].to_string());
            let rows = top["rows"].as_array().context("no rows")?.iter().map(row).collect();
            self.compare_table(table, rows).await?;
        }
        let outcomes = self.api("/v1/outcomes").await?;
        for name in ["delivered", "deferred", "bounced"] {
            let rows = outcomes["rows"].as_array().context("no rows")?.iter();
            let rows = rows.filter(|row| row["outcome"] == name);
            let row = |row: &Value| (row["reason"].clone(), row["recipients"].to_string());
            let table = format!("outcomes-{name}");
            self.compare_table(&table, rows.map(row).collect()).await?;
            let sum = count(&outcomes, name).to_string();
            self.browser.shows(&format!("#{table} caption b"), |shown| shown == sum).await?;
        }
        Ok(())
    }

    /// The rows of a table are names and numbers, and there is at least one.
    async fn compare_table(&self, table: &str, rows: Vec<(Value, String)>) -> Result<()> {
        let script = format!(
            "return [...document.querySelectorAll('#{table} tbody tr')].map((row) =>
               [row.cells[0].textContent, row.cells[row.cells.length - 1].textContent]);"
        );
        let wanted = json!(rows);
        ensure!(!rows.is_empty(), "{table}: nothing to compare");
        let mut shown = Value::Null;
        let equal = wait::until(table, LIMIT, async || {
            shown = self.browser.script(&script).await.ok()?;
            (shown == wanted).then_some(())
        });
        equal.await.with_context(|| format!("{table}: {shown:#} instead of {wanted:#}"))
    }

    /// Finds the deferred message by its domain and reads what the next hop said.
    async fn find(&self) -> Result<()> {
        let Self { browser, slow, .. } = self;
        browser.fill("#find-domain", "slow.test").await?;
        browser.click("#find button").await?;
        browser.shows("#found-count", |shown| shown == "1 job").await?;
        browser.shows("#found tbody td a", |shown| shown.starts_with(slow)).await?;
        browser.click("#found tbody td a").await?;
        browser.shows("#message-title", |title| title.ends_with(slow)).await?;
        let shown = browser.shows("#way", |way| way.contains("Greylisted")).await?;
        for told in ["to submission", "TLSv1.3", "HELO client.test", SENDER, "friend0@slow.test"] {
            ensure!(shown.contains(told), "{told}: {shown}");
        }
        ensure!(shown.contains("<img src=x onerror=alert(1)>"), "text stays text: {shown}");
        let images = browser.script("return document.querySelectorAll('img').length;").await?;
        ensure!(images == 0, "a reply made an element");
        Ok(())
    }

    /// Holds the message and lets it go again.
    async fn act(&self) -> Result<()> {
        let path = format!("/v1/messages/{}", self.slow);
        for (action, is_it) in [("hold", true), ("release", false)] {
            self.browser.click(&format!("#acts [data-action={action}]")).await?;
            self.browser.accept().await?;
            self.browser.shows("#acted", |said| said.ends_with(": done")).await?;
            wait::until(action, LIMIT, async || {
                let jobs = self.api(&path).await.ok()?;
                ((jobs[0]["phase"] == "held") == is_it).then_some(())
            })
            .await?;
            if is_it {
                self.browser.shows("#way .badge", |badge| badge == "held").await?;
            }
        }
        Ok(())
    }

    /// A message that is done shows its way to the DSN, and the DSN its way into the mailbox.
    async fn trace(&self) -> Result<()> {
        let Self { browser, bounced, .. } = self;
        browser.fill("#find-message", bounced).await?;
        browser.click("#find button").await?;
        browser.shows("#message-title", |title| title.ends_with(bounced)).await?;
        let shown = browser.shows("#way", |way| way.contains("DSN of a failure")).await?;
        for told in ["ended", "550 5.1.1 No such user here", "friend2@gone.test", "mailbox:local"] {
            ensure!(shown.contains(told), "{told}: {shown}");
        }
        browser.click("#way article h3 a").await?;
        browser.shows("#message-title", |title| !title.ends_with(bounced)).await?;
        browser.shows("#way", |way| way.contains("we made it") && way.contains(bounced)).await?;
        Ok(())
    }

    /// Nothing was asked of others, nothing went wrong, and the token is in no address.
    async fn look_back(&self) -> Result<()> {
        let console = self.browser.console().await?;
        ensure!(console.is_empty(), "{console:?}");
        let requests = self.browser.requests().await?;
        ensure!(requests.len() > 10, "{requests:?}");
        for url in requests {
            ensure!(url.starts_with(&self.origin()) && !url.contains(TOKEN), "{url}");
        }
        Ok(())
    }

    async fn leave(&self) -> Result<()> {
        self.browser.click("#leave").await?;
        self.browser.shows("#said", |said| said == "the token is forgotten").await?;
        let left = "return [sessionStorage.length, localStorage.length,
            document.querySelector('#way').textContent,
            document.querySelector('#stats').textContent];";
        let left = self.browser.script(left).await?;
        ensure!(left == json!([0, 0, "", ""]), "{left}");
        Ok(())
    }

    /// The page fits a telephone, light and dark, and a picture of it can be had.
    async fn picture(&self) -> Result<()> {
        let Self { browser, slow, .. } = self;
        browser.script(&format!("location.hash = 'message={slow}';")).await?;
        browser.shows("#way", |way| way.contains("Greylisted")).await?;
        // What is shown over time has gone some way: phases, and each next hop.
        for line in ["#chart polyline", "#by-next-hop tr:last-child .spark polyline"] {
            let way = format!(
                "return [...document.querySelector('{line}').points].some((point) => point.x > 0);"
            );
            wait::until(line, LIMIT, async || {
                browser.script(&way).await.ok().filter(|is_there| *is_there == true)
            })
            .await?;
        }
        for (width, scheme) in [(390, "dark"), (390, "light"), (1280, "dark"), (1280, "light")] {
            browser.dress(width, scheme).await?;
            let wider = "const e = document.documentElement; return e.scrollWidth > e.clientWidth;";
            ensure!(browser.script(wider).await? == false, "{width} is too narrow for the page");
            let png = browser.picture().await?;
            ensure!(png.starts_with(b"\x89PNG\r\n"), "no picture");
            if let Some(directory) = std::env::var_os("POSTRIDER_PICTURES") {
                std::fs::write(Path::new(&directory).join(format!("{width}-{scheme}.png")), png)?;
            }
        }
        Ok(())
    }
}

/// Recipients of an outcome, whatever was said.
fn count(outcomes: &Value, name: &str) -> u64 {
    let rows = outcomes["rows"].as_array().into_iter().flatten();
    let of_outcome = rows.filter(|row| row["outcome"] == name);
    of_outcome.filter_map(|row| row["recipients"].as_u64()).sum()
}

async fn check(kind: Kind) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut scene = Scene::set(kind, dir.path()).await?;
    scene.enter().await?;
    scene.compare().await?;
    scene.find().await?;
    scene.act().await?;
    scene.trace().await?;
    scene.picture().await?;
    scene.look_back().await?;
    scene.leave().await?;
    scene.home.stop(LIMIT).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_tells_finds_acts_and_traces() -> Result<()> {
    check(Kind::OneProcess).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_a_worker_tells_finds_acts_and_traces() -> Result<()> {
    check(Kind::Roles).await
}
