//! `postrider-operator`: turns resources of Kubernetes into what the roles work with.
#![allow(clippy::print_stdout)] // `crds` prints

mod certificate;
mod claims;
mod config;
mod crds;
mod installation;
mod leader;
mod metrics;
mod operator;
mod report;
mod resources;
mod run;
mod secrets;
mod store;
mod tenant;
mod watch;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "postrider-operator", version, about = "Postrider on Kubernetes")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the definitions of the resources, for `kubectl apply -f -`.
    Crds,
    /// Make the installation's keys, and keep the domain table as the resources say.
    Run {
        /// What the chart tells of the installation.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crds => print!("{}", crds::yaml()?),
        Command::Run { config } => {
            let config = config::Config::load(&config)?;
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(run::run(config))?;
        }
    }
    Ok(())
}
