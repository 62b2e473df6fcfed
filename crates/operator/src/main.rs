//! `postrider-operator`: turns resources of Kubernetes into what the roles work with.
#![allow(clippy::print_stdout)] // `crds` prints

mod crds;
mod resources;

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
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Crds => print!("{}", crds::yaml()?),
    }
    Ok(())
}
