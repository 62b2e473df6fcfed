//! The README's first commands, taken from the README, in a clean clone.
//!
//! The `sh` blocks of the section "Try it" run in order. The one with `serve` stays in the
//! background. A block that only looks (no `curl`) is repeated until it shows what the blocks
//! before it have sent: at last, mail in a Maildir and mail that waits in the queue.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::context::Context;
use super::summary::Outcome;
use crate::{cache, command, workspace};

const SECTION: &str = "## Try it";
/// For a block to show what it should; the first one may have to link the binary.
const BLOCK_MAX: Duration = Duration::from_secs(60);
const START_MAX: Duration = Duration::from_secs(15 * 60);

pub(super) fn run(context: &Context) -> Result<Outcome> {
    // Outside of this checkout, whose files must not help.
    let parent = cache::dir()?.join("readme");
    let clone = clone(&parent)?;
    let other = age(&clone)?;
    let readme = fs::read_to_string(clone.join("README.md")).context("there is no README.md")?;
    let shell = Shell::new(clone, context.target_directory.clone())?;
    let ran = run_blocks(&shell, &blocks(&readme));
    // What is committed has been built in the place of these: cargo is to see that they are others.
    if !other.is_empty() {
        command::output(Command::new("touch").arg("--no-create").args(other))?;
    }
    ran?;
    fs::remove_dir_all(&parent)?;
    Ok(Outcome::ONE)
}

/// What is committed, as a newcomer gets it.
fn clone(parent: &Path) -> Result<PathBuf> {
    if parent.exists() {
        fs::remove_dir_all(parent)?;
    }
    fs::create_dir_all(parent)?;
    let clone = parent.join("postrider");
    let mut git = Command::new("git");
    git.args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace::root()).arg(&clone);
    command::run(&mut git)?;
    Ok(clone)
}

/// Files that are as they are here have not changed since, to cargo. Gives those here that are not
/// as they are committed.
fn age(clone: &Path) -> Result<Vec<PathBuf>> {
    let mut other = Vec::new();
    let listed = command::output(Command::new("git").current_dir(clone).args(["ls-files", "-z"]))?;
    for name in listed.split_terminator('\0') {
        let (own, cloned) = (workspace::root().join(name), clone.join(name));
        let Ok(content) = fs::read(&own) else { continue };
        if content == fs::read(&cloned)? {
            fs::File::open(&cloned)?.set_modified(fs::metadata(own)?.modified()?)?;
        } else {
            other.push(own);
        }
    }
    Ok(other)
}

fn run_blocks(shell: &Shell, blocks: &[String]) -> Result<()> {
    let (serve, others) = blocks.split_first().context("the README has no commands to try")?;
    ensure!(serve.contains(" serve "), "the README's first command must start it: {serve}");
    println!("$ {serve}");
    let mut server = Server::start(shell, serve)?;
    let mut sent = Vec::new();
    for block in others {
        println!("$ {block}");
        server.check_alive()?;
        if block.contains("curl") {
            shell.output(block)?;
            sent.extend(recipient(block));
        } else if block.contains("queue list") {
            let waiting = sent.last().context("nothing was sent before the queue was listed")?;
            shell.wait_for(block, "the mail that waits", |shown| shown.contains(waiting))?;
        } else if block.contains("domain mailbox") {
            shell.wait_for(block, "a mailbox with mail", |shown| shown.contains("in 1 message"))?;
        } else {
            shell.wait_for(block, "mail in a Maildir", |shown| shown.contains("/new/"))?;
        }
    }
    ensure!(sent.len() >= 2, "the README's commands must send to a mailbox and to elsewhere");
    server.stop()
}

/// The `sh` blocks of the section to try.
fn blocks(readme: &str) -> Vec<String> {
    let (mut in_section, mut block, mut found) = (false, None::<String>, Vec::new());
    for line in readme.lines() {
        match (&mut block, line.trim_end()) {
            (Some(_), "```") => found.extend(block.take()),
            (Some(text), line) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, line) if line.starts_with("## ") => in_section = line == SECTION,
            (None, "```sh") if in_section => block = Some(String::new()),
            (None, _) => {}
        }
    }
    found.iter().map(|text| text.trim_end().to_owned()).collect()
}

/// Whom a block sends mail to.
fn recipient(block: &str) -> Option<String> {
    let mut words = block.split_whitespace();
    words.find(|word| matches!(*word, "--mail-rcpt" | "--to"))?;
    words.next().map(|word| word.trim_matches(['<', '>', '\'', '"']).to_owned())
}

/// Runs blocks in the clone, in the place of this checkout: to cargo they are one, and what it has
/// built for this one is not built again.
struct Shell {
    clone: PathBuf,
    target: PathBuf,
}

/// In mounts of its own: the clone over the checkout, and in it the directory of what is built.
const IN_PLACE: &str = r#"
case "$TARGET" in "$CHECKOUT"/*) mount --bind "$TARGET" "$CLONE/${TARGET#"$CHECKOUT"/}" ;; esac
mount --rbind "$CLONE" "$CHECKOUT"
cd "$CHECKOUT"
export CARGO_TARGET_DIR="$TARGET"
exec sh -euc "$BLOCK"
"#;

impl Shell {
    fn new(clone: PathBuf, target: PathBuf) -> Result<Self> {
        if let Ok(inside) = target.strip_prefix(workspace::root()) {
            fs::create_dir_all(clone.join(inside))?;
        }
        Ok(Self { clone, target })
    }

    fn command(&self, block: &str) -> Command {
        let mut shell = Command::new("unshare");
        shell.args(["-m", "--propagation", "private", "sh", "-euc", IN_PLACE]);
        shell.env("CLONE", &self.clone).env("CHECKOUT", workspace::root());
        shell.env("TARGET", &self.target).env("BLOCK", block).stdin(Stdio::null());
        shell
    }

    fn output(&self, block: &str) -> Result<String> {
        command::output(&mut self.command(block))
    }

    fn wait_for(&self, block: &str, what: &str, is_there: impl Fn(&str) -> bool) -> Result<()> {
        let started = Instant::now();
        loop {
            let shown = self.output(block);
            match &shown {
                Ok(text) if is_there(text) => {
                    print!("{text}");
                    return Ok(());
                }
                // It may fail as long as there is nothing to show.
                Ok(_) | Err(_) if started.elapsed() < BLOCK_MAX => {}
                Ok(text) => bail!("`{block}` did not show {what} within {BLOCK_MAX:?}: {text}"),
                Err(error) => bail!("`{block}` did not show {what}: {error:#}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

/// The first block, in the background; dropped, it is killed.
struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits for the line that says it is ready.
    fn start(shell: &Shell, block: &str) -> Result<Self> {
        // In place of the shell, and cargo puts the program in its own place: one process.
        let mut command = shell.command(&format!("exec {block}"));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let server = Self { child };
        let (ready, is_ready) = mpsc::sync_channel(1);
        // Reads to the end: a full pipe would stop the server.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                println!("  {line}");
                if line.starts_with("ready") {
                    let _ = ready.try_send(());
                }
            }
        });
        is_ready
            .recv_timeout(START_MAX)
            .context("the README's first command ended, or was not ready in time")?;
        Ok(server)
    }

    fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the README's first command has ended by itself ({status})"),
        }
    }

    /// SIGTERM, as Ctrl-C in the first terminal would be SIGINT.
    fn stop(mut self) -> Result<()> {
        let started = Instant::now();
        command::output(Command::new("kill").arg(self.child.id().to_string()))?;
        while started.elapsed() < BLOCK_MAX {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the README's first command did not end within {BLOCK_MAX:?} of SIGTERM")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_shell_blocks_of_one_section() {
        let readme = "# P\n```sh\nno\n```\n## Try it\nIn:\n```sh\na serve b\n```\n```yaml\nx: y\n\
                      ```\n```sh\ncurl \\\n  x\n```\n## Test it\n```sh\nno\n```\n";
        assert_eq!(blocks(readme), ["a serve b", "curl \\\n  x"]);
    }

    #[test]
    fn finds_the_recipient_of_a_sending_block() {
        let block = "curl smtp://x --mail-from a@b.c --mail-rcpt '<d@e.f>' --upload-file g";
        assert_eq!(recipient(block).as_deref(), Some("d@e.f"));
        assert_eq!(recipient("find . -type f"), None);
    }
}
