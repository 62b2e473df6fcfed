//! The project's tooling: `cargo xtask test | tools | cluster | bench | tidy`.
//!
//! One language for everything: whoever can build the project can run and read its tools. Nothing
//! is installed on the machine; what a part needs is unpacked or built into a cache of its own. A
//! part that cannot run fails and says what is missing: none is skipped silently.
#![allow(clippy::print_stdout, reason = "a tool of the command line")]

mod bench;
mod cache;
mod cluster;
mod command;
mod containers;
mod image;
mod machine;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Postrider's tooling")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the parts of the test run, all or those named.
    Test(test::Arguments),
    /// Brings the tools of the tests into the cache, at pinned versions.
    Tools,
    /// A real Kubernetes of one node for the tests, in namespaces of its own.
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    /// Writes the images of the product, and of nats-server, as archives for `ctr images import` or
    /// `kind load image-archive`.
    Image,
    /// Checks the rules of the code that no other tool checks.
    Tidy,
    /// Measures Postrider and Postfix side by side, or Postrider on JetStream.
    Bench(bench::Arguments),
    /// Becomes a server of the bench, inside its namespaces.
    #[command(hide = true)]
    BenchServe(bench::Setup),
    /// Keeps the daemons of the cluster running, inside its namespaces.
    #[command(hide = true)]
    ClusterNode,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<ExitCode> {
    match task {
        Task::Test(arguments) => test::run(&arguments),
        Task::Tools => tools::bring_all().map(|()| ExitCode::SUCCESS),
        Task::Cluster(command) => cluster::run(&command),
        Task::Image => {
            for archive in containers::write(&containers::build()?, &containers::directory())? {
                println!("{}", archive.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Task::ClusterNode => cluster::run_node().map(|()| ExitCode::SUCCESS),
        Task::Tidy => tidy::run().map(|()| ExitCode::SUCCESS),
        Task::Bench(arguments) => bench::run(&arguments),
        Task::BenchServe(setup) => bench::serve(&setup).map(|()| ExitCode::SUCCESS),
    }
}
