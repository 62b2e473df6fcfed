//! `postrider domain mailbox ADDRESS`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use domains::{OnFull, Storage, StorageId};
use mail_types::Mailbox;
use mda::Held;
use serde::Serialize;

use crate::cli::{Output, Target};
use crate::config::Config;
use crate::domain_command::in_force;
use crate::output;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    address: String,
    storage_id: StorageId,
    /// `None` when a mailbox server has it.
    directory: Option<PathBuf>,
    /// `None` when the mailboxes are not here.
    used_bytes: Option<u64>,
    messages: Option<u64>,
    quota_bytes: Option<u64>,
    on_full: OnFull,
}

pub(crate) async fn show(address: &Mailbox, target: &Target) -> anyhow::Result<()> {
    let config = Config::load(&target.config)?;
    let table = in_force(&config).await?;
    let Some((own, storage)) = table.stored(address) else {
        bail!("{address} is no mailbox: `postrider domain list` shows the domains that there are");
    };
    let root = config.maildirs();
    let directory = root.as_ref().map(|root| root.join(storage.id.directory()));
    let held = held(root.as_deref(), directory.as_deref())?;
    let Storage { id, quota_bytes, on_full } = storage;
    let shown = Shown {
        address: own.to_string(),
        storage_id: id,
        directory,
        used_bytes: held.map(|held| held.bytes),
        messages: held.map(|held| held.messages),
        quota_bytes,
        on_full,
    };
    match target.output {
        Output::Json => output::json(&shown),
        Output::Table => {
            print(&shown, storage.is_full(shown.used_bytes.unwrap_or_default()));
            Ok(())
        }
    }
}

/// What is in a Maildir, if there are any on this machine.
fn held(root: Option<&Path>, directory: Option<&Path>) -> anyhow::Result<Option<Held>> {
    let (Some(root), Some(directory)) = (root, directory) else { return Ok(None) };
    if !root.is_dir() {
        return Ok(None);
    }
    let held = mda::count(directory);
    held.map(Some).with_context(|| format!("cannot look into {}", directory.display()))
}

fn print(shown: &Shown, is_full: bool) {
    let directory = shown.directory.as_ref().map(|directory| directory.display().to_string());
    let used = match (shown.used_bytes, shown.messages) {
        (Some(bytes), Some(messages)) => {
            let full = if is_full { ", full" } else { "" };
            let plural = if messages == 1 { "" } else { "s" };
            format!("{bytes} octets in {messages} message{plural}{full}")
        }
        _ => "not known: its mail is not on this machine".to_owned(),
    };
    let on_full = match shown.on_full {
        OnFull::Defer => "452",
        OnFull::Reject => "552",
    };
    let quota = match shown.quota_bytes {
        Some(bytes) => format!("{bytes} octets, then {on_full} at RCPT"),
        None => "none".to_owned(),
    };
    let directory = directory.unwrap_or_else(|| "none: a mailbox server has its mail".to_owned());
    for (name, value) in [
        ("address", shown.address.clone()),
        ("storage id", shown.storage_id.to_string()),
        ("directory", directory),
        ("quota", quota),
        ("used", used),
    ] {
        output::line(&format!("{name:<10}  {value}"));
    }
}
