//! `cargo xtask bench`: Postrider and Postfix side by side on one machine, or Postrider on
//! JetStream by what the servers under it can do.
//!
//! The bench runs itself in private mount and network namespaces: ports are always free, nothing
//! listens on the machine and no packet can leave. For every measurement the server starts from an
//! empty state in a control group of its own, so the CPU of dead children counts too. Each message
//! has an id, so the sink tells loss and duplicates from slowness. With several runs the servers
//! alternate and the order turns each time: slow drifts of the machine cancel.
//!
//! Rules: durability and logging as the product ships them; stock limits.

mod audit;
mod client;
mod generator;
mod group;
mod jetstream;
mod measure;
mod nameserver;
mod postfix;
mod postrider;
mod report;
mod scenario;
mod server;
mod sink;
mod view;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::machine::Need;
use crate::tools::{self, Tool};
use crate::{command, workspace};
use measure::Bench;
use report::Runs;
use scenario::{Kind, SCENARIOS, Scenario};
pub(crate) use server::{Product, Setup, serve};
use sink::Sink;

/// Tells the process that it is in the namespaces of the bench.
const INSIDE: &str = "POSTRIDER_BENCH_INSIDE";

/// Every session is an open file, here and in the server.
const RAISE_OPEN_FILES: &str = "ulimit -n $(ulimit -Hn); exec \"$@\"";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Scenarios to run; all when none is named.
    scenarios: Vec<String>,
    /// Runs of each scenario, in turning order.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Measure the roles on JetStream by what its servers can do, instead of against Postfix.
    #[arg(long, conflicts_with_all = ["scenarios", "only"])]
    jetstream: bool,
    /// On JetStream, only with so many copies: 1 or 3.
    #[arg(long, requires = "jetstream")]
    replicas: Option<u16>,
    /// Only these servers.
    #[arg(long, value_enum)]
    only: Vec<Product>,
    /// Fail when a goal is missed.
    #[arg(long)]
    gate: bool,
    /// Write the report to this file, too.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Messages in each scenario that sends some, instead of its own number.
    #[arg(long)]
    messages: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if std::env::var_os(INSIDE).is_none() {
        return enter(arguments);
    }
    command::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    nameserver::start((Ipv4Addr::LOCALHOST, 53).into())?;
    let sink = Sink::start((Ipv4Addr::LOCALHOST, server::SINK_PORT).into())?;
    let dir = state_dir()?;
    let (text, has_failed, is_good) = if arguments.jetstream {
        let rounds = jetstream::run(&sink, &dir, arguments)?;
        (rounds.markdown(&machine()), !rounds.failures.is_empty(), rounds.is_good())
    } else {
        let runs = run_all(&Bench { sink: &sink, dir: &dir }, arguments)?;
        (runs.markdown(&machine()), !runs.failures.is_empty(), runs.is_good())
    };
    println!("\n{text}");
    if let Some(path) = &arguments.report {
        let path = workspace::root().join(path);
        fs::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let is_good = !has_failed && (!arguments.gate || is_good);
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds and brings what is needed, then runs itself in namespaces.
fn enter(arguments: &Arguments) -> Result<ExitCode> {
    let only: &[Product] =
        if arguments.jetstream { &[Product::Postrider] } else { &arguments.only };
    for need in [
        Need::Root,
        Need::Namespaces,
        Need::Program("strace", "strace"),
        Need::Program("ip", "iproute2"),
    ] {
        need.check()?;
    }
    if arguments.jetstream {
        tools::bring(Tool::Nats)?;
    }
    if wants(only, Product::Postfix) {
        tools::bring(Tool::Postfix)?;
    }
    if wants(only, Product::Postrider) {
        let mut cargo = command::cargo();
        command::run(cargo.args(["build", "--locked", "--release", "--package", "postrider"]))?;
    }
    let programs = keep_programs(only)?;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--net", "--propagation", "private", "sh", "-c"]);
    unshare.args([RAISE_OPEN_FILES, "sh"]).arg(programs.join("xtask"));
    let status = unshare.args(std::env::args_os().skip(1)).env(INSIDE, "1").status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Copies what is measured: a build beside the bench must not change it between two runs.
fn keep_programs(only: &[Product]) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(2).context("the tooling lies in no target directory")?;
    let programs = target.join("bench/bin");
    fs::create_dir_all(&programs)?;
    fs::copy(&exe, programs.join("xtask"))?;
    if wants(only, Product::Postrider) {
        fs::copy(exe.with_file_name("postrider"), programs.join("postrider"))?;
    }
    Ok(programs)
}

fn wants(only: &[Product], product: Product) -> bool {
    only.is_empty() || only.contains(&product)
}

/// Below the target directory: on the disk of the checkout, and away from what is committed.
fn state_dir() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let dir = exe.ancestors().nth(2).context("the bench's programs lie in no directory")?;
    Ok(dir.to_owned())
}

fn run_all(bench: &Bench<'_>, arguments: &Arguments) -> Result<Runs> {
    let scenarios = chosen(arguments)?;
    let mut results = fs::File::create(bench.dir.join("results.jsonl"))?;
    let mut runs = Runs::default();
    for number in 0..arguments.runs.max(1) {
        for scenario in &scenarios {
            if matches!(scenario.name, "accept1" | "acceptN") {
                let ceiling = bench.ceiling(scenario)?;
                runs.ceilings.entry(scenario.name).or_default().push(ceiling);
            }
            for product in order(number, &arguments.only) {
                run_one(bench, scenario, product, &mut runs, &mut results)?;
            }
        }
    }
    Ok(runs)
}

fn run_one(
    bench: &Bench<'_>,
    scenario: &Scenario,
    product: Product,
    runs: &mut Runs,
    results: &mut impl std::io::Write,
) -> Result<()> {
    let place = format!("{} {}", scenario.name, product.name());
    match bench.run(product, scenario) {
        Ok((figures, version)) => {
            let line = serde_json::json!({
                "scenario": scenario.name, "server": product.name(), "figures": figures,
            });
            writeln!(results, "{line}")?;
            println!("{place:18} {}", serde_json::to_string(&figures)?);
            runs.versions.insert(product, version);
            runs.figures.entry((scenario.name, product)).or_default().push(figures);
        }
        Err(error) => {
            println!("{place}: {error:#}");
            runs.failures.push(format!("{place}: {error:#}"));
        }
    }
    Ok(())
}

fn chosen(arguments: &Arguments) -> Result<Vec<Scenario>> {
    for name in &arguments.scenarios {
        let known = SCENARIOS.iter().any(|scenario| scenario.name == name);
        let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        ensure!(known, "there is no scenario `{name}`, but {names:?}");
    }
    let all = arguments.scenarios.is_empty();
    let wanted = |s: &&Scenario| all || arguments.scenarios.iter().any(|name| name == s.name);
    let mut scenarios: Vec<Scenario> = SCENARIOS.iter().filter(wanted).copied().collect();
    for scenario in scenarios.iter_mut().filter(|scenario| scenario.kind != Kind::Idle) {
        scenario.load.messages = arguments.messages.unwrap_or(scenario.load.messages);
    }
    Ok(scenarios)
}

/// Both servers, the other one first in each second run.
fn order(run: usize, only: &[Product]) -> Vec<Product> {
    let mut order = vec![Product::Postfix, Product::Postrider];
    if run % 2 == 1 {
        order.reverse();
    }
    order.retain(|product| wants(only, *product));
    order
}

fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |text| text.trim_start_matches(['\t', ':', ' ']));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} cores of {model}, Linux {}, load at the end {load}.", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_the_servers_turns() {
        assert_eq!(order(0, &[]), [Product::Postfix, Product::Postrider]);
        assert_eq!(order(1, &[]), [Product::Postrider, Product::Postfix]);
        assert_eq!(order(1, &[Product::Postfix]), [Product::Postfix]);
    }
}
