//! The one binary of the data plane: every role, and the command line for operators.
//!
//! It names the concrete backends (the embedded log, JetStream, DNS) and nothing else: what the
//! roles do is in their crates.

mod accounts;
mod backend;
mod backup;
mod check;
mod cli;
mod config;
mod documents;
mod domain_command;
mod domain_mailbox;
mod dovecot;
mod dsn_route;
mod fullness;
mod last_use_file;
mod nats_command;
mod output;
mod password;
mod passwords;
mod past;
mod process;
mod progress;
mod queue_command;
mod queue_metrics;
mod reload;
mod reloads;
mod resources;
mod restore;
mod secrets;
mod serve;
mod srs;
mod table;
mod trace_command;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, DomainCommand, MailboxCommand, Start};
use crate::serve::Role;

/// Fewer page faults and steadier memory than the system's with many small sessions.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_CONFIG` is 78, but 64 is what supervisors of this family take for "do not restart".
const EXIT_USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::DovecotLogin(command) = &cli.command {
        return dovecot::login::run(command);
    }
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            if error.is::<config::Refused>() {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Mailbox(MailboxCommand::HashPassword { scheme }) => {
            return password::hash_from_stdin(scheme);
        }
        Command::Nats(command) => {
            nats_command::run(&command);
            return Ok(());
        }
        Command::Domain(DomainCommand::Keys { directory, classes }) => {
            return secrets::make(&directory, &classes);
        }
        Command::Check(check) => return check::run(check),
        Command::Completions { shell } => return documents::completions(shell),
        Command::Man { directory } => return documents::manual(&directory),
        Command::Serve(_)
        | Command::Ingress(_)
        | Command::Worker(_)
        | Command::Mda(_)
        | Command::Admin(_)
        | Command::Domain(_)
        | Command::DovecotLogin(_)
        | Command::Queue(_)
        | Command::Trace(_)
        | Command::Reload(_)
        | Command::Backup { .. }
        | Command::Restore { .. } => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Serve(start) => serve(&start, &Role::ALL).await,
            Command::Ingress(start) => serve(&start, &[Role::Ingress]).await,
            Command::Worker(start) => serve(&start, &[Role::Worker]).await,
            Command::Mda(start) => serve(&start, &[Role::Mda]).await,
            Command::Admin(start) => serve(&start, &[]).await,
            Command::Queue(command) => queue_command::run(command).await,
            Command::Trace(trace) => trace_command::run(&trace).await,
            Command::Domain(command) => domain_command::run(command).await,
            Command::Reload(target) => reload::ask(&target).await,
            Command::Backup { directory, target } => backup::run(directory, target).await,
            Command::Restore { directory, hold, target } => {
                let mail = if hold { restore::Mail::Held } else { restore::Mail::GoesOn };
                restore::run(&directory, mail, target).await
            }
            Command::Check(_) | Command::Mailbox(_) | Command::Nats(_) => Ok(()),
            Command::Completions { .. } | Command::Man { .. } | Command::DovecotLogin(_) => Ok(()),
        }
    })
}

async fn serve(start: &Start, roles: &[Role]) -> anyhow::Result<()> {
    serve::serve(&start.directory.path, roles, start.log).await
}
