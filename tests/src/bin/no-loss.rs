//! The no-loss harness as a tool: a cluster under load and faults, and books that must balance.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tests::noloss::{self, Kind, Options, Order};

/// Kills, stops, partitions and starves a cluster under load, and accounts for every message.
#[derive(Parser)]
#[command(name = "no-loss")]
struct Cli {
    /// Draws faults, victims and mail; without it a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long there is load before the first fault.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    calm: u64,
    /// How long faults are drawn.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// Only these kinds, of kill, stop, restart, replace, partition, disk-full, power-cut, clock.
    #[arg(long, value_delimiter = ',', value_parser = kind)]
    faults: Vec<Kind>,
    /// Mount the servers' stores as ext4 does by default, not as docs/queue.md asks for.
    #[arg(long)]
    any_order: bool,
    /// An empty directory to run in, which is left with the logs of all processes.
    #[arg(long)]
    dir: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Output::Human)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Human,
    Json,
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::parse(name).ok_or_else(|| {
        let known: Vec<String> =
            Kind::ALL.iter().map(|kind| format!("{}: {}", kind.name(), kind.about())).collect();
        format!("no such kind of faults; there are\n  {}", known.join("\n  "))
    })
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let minutes = Duration::try_from_secs_f64(cli.minutes * 60.0).context("--minutes")?;
    let mut options = Options::new(cli.seed.unwrap_or_else(rand::random), minutes);
    options.calm = Duration::from_secs(cli.calm);
    options.dir = cli.dir;
    if cli.any_order {
        options.order = Order::Any;
    }
    if !cli.faults.is_empty() {
        options.faults = cli.faults;
    }
    let is_human = cli.output == Output::Human;
    if is_human {
        println!("seed {}", options.seed);
    }
    let report = noloss::run(&options, |round| {
        if is_human {
            println!("{round}");
        }
    });
    let report = report.await.with_context(|| format!("seed {}", options.seed))?;
    match cli.output {
        Output::Human => println!("{report}"),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
