//! Servers from Debian's packages, each in a mount namespace of its own. Needs root.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::{Child, Command};

/// Writes `etc/passwd` and `etc/group` below `state`: this machine's, with these lines added.
pub(crate) fn add_users(state: &Path, passwd: &str, group: &str) -> Result<()> {
    fs::create_dir_all(state.join("etc"))?;
    for (file, lines) in [("passwd", passwd), ("group", group)] {
        let own = fs::read_to_string(Path::new("/etc").join(file))?;
        fs::write(state.join("etc").join(file), own + lines)?;
    }
    Ok(())
}

/// A server in its namespace; dropped, it and all its processes end.
pub(crate) struct Running(Child);

/// Runs `script`, which finds the unpacked packages in `$PACKAGES` and its own directory in
/// `$STATE`, and becomes the server.
pub(crate) fn start(server: &str, packages: &Path, state: &Path, script: &str) -> Result<Running> {
    Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .args(["sh", "-c", script])
        .env("PACKAGES", packages)
        .env("STATE", state)
        .stdout(Stdio::null())
        // It may outlive a test program that was killed, and holds nobody's pipe open then.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map(Running)
        .with_context(|| format!("{server} needs root and namespaces; without: --without interop"))
}

impl Drop for Running {
    /// The first process of a namespace takes all others along. That it is to end with its parent
    /// is forgotten when it changes its user, as Postfix does.
    fn drop(&mut self) {
        let Some(parent) = self.0.id() else { return };
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        for first in children.unwrap_or_default().split_whitespace() {
            let _ = std::process::Command::new("kill").args(["-KILL", first]).status();
        }
    }
}
