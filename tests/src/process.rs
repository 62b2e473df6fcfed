//! A real `postrider` in a directory of its own: all roles, or one.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::log_lines;

/// A million mailboxes in files take more than a minute to read.
const START_MAX: Duration = Duration::from_secs(180);

/// The binary under test: `$POSTRIDER_BIN`, or the one that cargo built beside this program, or
/// beside the directory of this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("POSTRIDER_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let mut places = own.ancestors().skip(1).take(2).map(|dir| dir.join("postrider"));
    let found = places.find(|path| path.is_file());
    found.with_context(|| {
        format!("there is no postrider beside {}: run `cargo build --release`", own.display())
    })
}

/// A directory with a configuration, and the process that serves it.
pub struct Postrider {
    dir: PathBuf,
    /// The subcommand: `serve`, or one role.
    role: String,
    running: Option<Running>,
    /// Environment of the process.
    env: Vec<(String, String)>,
    /// Whom it runs as, if not as the test, and a binary that he can reach.
    user: Option<(u32, PathBuf)>,
}

struct Running {
    child: Child,
    /// Kept open: a closed pipe would end the process.
    _stdout: tokio::io::Lines<BufReader<ChildStdout>>,
    listening: HashMap<String, SocketAddr>,
}

/// The password of every mailbox that [`Postrider::write_domain`] makes.
pub const PASSWORD: &str = "correct horse";

/// An argon2id hash of [`PASSWORD`] with the smallest parameters, so that tests are quick.
pub const PASSWORD_HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$cG9zdHJpZGVydGVzdCE$\
                             dtVUC3i4NMEgQwr0y6TKgIs3oFWNg7H/sICDLoUAHdk";

impl Postrider {
    /// Writes `config` (`postrider.yaml`) into `dir`, which must be empty.
    pub fn new(dir: &Path, config: &str) -> Result<Self> {
        Self::of_role("serve", dir, config)
    }

    /// The same for a process that is to run one role.
    pub fn of_role(role: &str, dir: &Path, config: &str) -> Result<Self> {
        fs::create_dir_all(dir.join("domains"))?;
        fs::write(dir.join("postrider.yaml"), config)?;
        let (dir, role) = (dir.to_owned(), role.to_owned());
        Ok(Self { dir, role, running: None, env: Vec::new(), user: None })
    }

    /// Whether it was started and not stopped or killed.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The subcommand that it runs.
    pub fn role(&self) -> &str {
        &self.role
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.into(), value.into()));
    }

    /// Runs it as another user from now on, which needs root.
    pub fn set_user(&mut self, user: u32) -> Result<()> {
        let reachable = self.dir.join("postrider");
        fs::copy(binary()?, &reachable)?;
        self.user = Some((user, reachable));
        Ok(())
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Adds a hosted domain with mailboxes whose password is [`PASSWORD`]; the first one is
    /// postmaster.
    pub fn write_domain(&self, domain: &str, mailboxes: &[&str]) -> Result<()> {
        let yaml = domain_yaml(domain, mailboxes)?;
        Ok(fs::write(self.dir.join("domains").join(format!("{domain}.yaml")), yaml)?)
    }

    /// Starts the process and waits until it serves.
    pub async fn start(&mut self) -> Result<()> {
        assert!(self.running.is_none(), "already running");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = match &self.user {
            None => Command::new(binary()?),
            Some((user, binary)) => {
                let mut command = Command::new(binary);
                command.uid(*user).gid(*user);
                command
            }
        };
        let mut child = command
            .args([&*self.role, "--log", "json"])
            .arg(&self.dir)
            .envs(self.env.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("cannot start postrider")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let started = tokio::time::timeout(START_MAX, read_listening(&mut lines));
        match started.await {
            Ok(Ok(listening)) => {
                self.running = Some(Running { child, _stdout: lines, listening });
                Ok(())
            }
            Ok(Err(error)) => Err(error.context(self.log_tail())),
            Err(_) => bail!("postrider did not start within {START_MAX:?}\n{}", self.log_tail()),
        }
    }

    /// Where a listener is, by its kind: `relay`, `submission`, `submissions`, `http`.
    pub fn address(&self, kind: &str) -> SocketAddr {
        let running = self.running.as_ref().expect("postrider is running");
        *running.listening.get(kind).unwrap_or_else(|| panic!("no listener {kind}"))
    }

    pub fn pid(&self) -> u32 {
        self.running.as_ref().and_then(|running| running.child.id()).expect("postrider is running")
    }

    /// Whether the process has ended by itself.
    pub fn has_exited(&mut self) -> bool {
        self.running.as_mut().is_some_and(|r| matches!(r.child.try_wait(), Ok(Some(_))))
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Result<()> {
        let mut running = self.running.take().context("not running")?;
        running.child.kill().await?;
        Ok(())
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    pub async fn freeze(&self) -> Result<()> {
        self.signal("-STOP").await
    }

    /// SIGCONT.
    pub async fn thaw(&self) -> Result<()> {
        self.signal("-CONT").await
    }

    /// SIGHUP.
    pub async fn hang_up(&self) -> Result<()> {
        self.signal("-HUP").await
    }

    async fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().await?;
        anyhow::ensure!(status.success(), "`kill {signal} {pid}` failed ({status})");
        Ok(())
    }

    /// SIGTERM, and waits until it is gone; gives its exit code. What it has logged must be as
    /// `docs/log.md` shows.
    pub async fn stop(&mut self, limit: Duration) -> Result<Option<i32>> {
        let mut running = self.running.take().context("not running")?;
        let pid = running.child.id().context("already gone")?;
        Command::new("kill").arg(pid.to_string()).status().await?;
        let status = tokio::time::timeout(limit, running.child.wait())
            .await
            .with_context(|| format!("postrider did not stop within {limit:?}"))??;
        log_lines::check(&self.log()?)?;
        Ok(status.code())
    }

    /// Runs the command line on this directory, `postrider ARGS… --config DIR`; gives its stdout.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let output =
            Command::new(binary()?).args(args).arg("--config").arg(&self.dir).output().await?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        let stderr = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "postrider {args:?} failed: {stdout}{stderr}");
        Ok(stdout)
    }

    /// What `postrider check --live` finds in the directory for this role, and its exit code.
    pub async fn check_live(&self) -> Result<(Vec<serde_json::Value>, Option<i32>)> {
        let mut command = Command::new(binary()?);
        command.arg("check").arg(&self.dir).args(["--live", "--output", "json"]);
        if self.role != "serve" {
            command.args(["--role", &self.role]);
        }
        let output = command.output().await?;
        let lines = String::from_utf8(output.stdout)?;
        let findings = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
        let stderr = String::from_utf8_lossy(&output.stderr);
        Ok((findings.with_context(|| format!("{lines}{stderr}"))?, output.status.code()))
    }

    /// All that the process has logged, one JSON object a line.
    pub fn log(&self) -> Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.log_path())?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("postrider.log")
    }

    fn log_tail(&self) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

/// What tests send is no flood.
const LIMITS: &str = "{recipientsPerHour: 10000000, recipientsPerDay: 10000000}";

/// A MailDomain and its Mailboxes, whose password is [`PASSWORD`].
pub fn domain_yaml(domain: &str, mailboxes: &[&str]) -> Result<String> {
    let postmaster = mailboxes.first().context("a domain needs a mailbox")?;
    let mut yaml = format!(
        "apiVersion: postrider.dev/v1alpha1\nkind: MailDomain\nmetadata: {{name: d}}\n\
         spec:\n  domain: {domain}\n  sendingLimits: {LIMITS}\n  inbound:\n    aliases:\n    \
         - {{match: postmaster, to: [\"{postmaster}@{domain}\"]}}\n"
    );
    for name in mailboxes {
        yaml += &format!(
            "---\napiVersion: postrider.dev/v1alpha1\nkind: Mailbox\n\
             metadata: {{name: m-{name}}}\nspec:\n  address: {name}@{domain}\n  \
             sendingLimits: {LIMITS}\n  passwords:\n  \
             - {{name: test, hash: \"{PASSWORD_HASH}\"}}\n"
        );
    }
    Ok(yaml)
}

/// Reads `listening KIND ADDRESS` lines up to the line `ready`.
async fn read_listening(
    lines: &mut tokio::io::Lines<BufReader<ChildStdout>>,
) -> Result<HashMap<String, SocketAddr>> {
    let mut listening = HashMap::new();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["listening", kind, address] => {
                listening.insert(kind.to_owned(), address.parse()?);
            }
            ["ready", ..] => return Ok(listening),
            _ => {}
        }
    }
    bail!("postrider ended before it was ready")
}
