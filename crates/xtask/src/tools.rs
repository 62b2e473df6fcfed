//! The tools of the tests, at pinned versions, in the cache. Nothing is installed.
//!
//! ```text
//! ~/.cache/postrider/
//!   bin/swaks  bin/smtp-source  bin/smtp-sink     run as they are
//!   postfix/{usr,etc}  swaks/usr                  Debian packages, unpacked
//!   dovecot/usr  exim/usr                         the same
//!   bin/chromium  bin/chromedriver                as they are; chromium/usr
//!   python/bin/python3                            with flufl.bounce
//!   cargo-deny/bin/cargo-deny
//!   nats-server/bin/nats-server  nats-cli/bin/nats
//!   kubernetes/bin/kubectl and others             for `cargo xtask cluster`
//!   containers/{bin,usr}                          containerd and what it calls
//!   faketime/usr/lib/TRIPLET/faketime/libfaketimeMT.so.1
//! ```

mod debian;
mod deny;
mod kubernetes;
mod nats;
mod python;

use std::path::PathBuf;

use anyhow::Result;

use crate::cache;

/// A tool that a part of the test run needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tool {
    Deny,
    Postfix,
    Exim,
    Dovecot,
    Swaks,
    Bounce,
    Nats,
    NatsCli,
    Faketime,
    Chromium,
    Kubernetes,
}

/// Those of the test run.
pub(crate) const ALL: [Tool; 10] = [
    Tool::Deny,
    Tool::Postfix,
    Tool::Exim,
    Tool::Dovecot,
    Tool::Swaks,
    Tool::Bounce,
    Tool::Nats,
    Tool::NatsCli,
    Tool::Faketime,
    Tool::Chromium,
];

/// Where the tools are.
pub(crate) struct Brought {
    pub(crate) dir: PathBuf,
    /// Whether the tool had to be brought now.
    pub(crate) now: bool,
}

/// Brings one tool unless it is there.
pub(crate) fn bring(tool: Tool) -> Result<Brought> {
    let dir = cache::dir()?;
    let now = match tool {
        Tool::Deny => deny::bring(&dir)?,
        Tool::Postfix => debian::bring_postfix(&dir)?,
        Tool::Exim => debian::bring_exim(&dir)?,
        Tool::Dovecot => debian::bring_dovecot(&dir)?,
        Tool::Swaks => debian::bring_swaks(&dir)?,
        Tool::Bounce => python::bring(&dir)?,
        Tool::Nats => nats::bring_server(&dir)?,
        Tool::NatsCli => nats::bring_cli(&dir)?,
        Tool::Faketime => debian::bring_faketime(&dir)?,
        Tool::Chromium => debian::bring_chromium(&dir)?,
        Tool::Kubernetes => kubernetes::bring(&dir)?,
    };
    Ok(Brought { dir, now })
}

pub(crate) fn bring_all() -> Result<()> {
    for tool in ALL {
        bring(tool)?;
    }
    println!("the tools are in {}", cache::dir()?.display());
    Ok(())
}
