//! Running other programs: their output shown as it comes, a sign of life when there is none.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// After this long without a line, a line of ours says that the work goes on.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The cargo that runs us, in the checkout.
pub(crate) fn cargo() -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = Command::new(program);
    cargo.current_dir(crate::workspace::root());
    cargo
}

/// Runs to the end and gives stdout; a failure's error holds stderr.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run `{name}`: is it installed?"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{name}` failed ({}): {}", output.status, stderr.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs with its output shown; fails when it fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = run_watched(command, |_| ())?;
    let name = describe(command);
    ensure!(status.success(), "`{name}` failed ({status})");
    Ok(())
}

/// Runs with its output shown, and each line of it given to `see`: stdout and stderr in one, in
/// the order in which they were written.
pub(crate) fn run_watched(command: &mut Command, mut see: impl FnMut(&str)) -> Result<ExitStatus> {
    let name = describe(command);
    let started = Instant::now();
    let (output, written) = std::io::pipe()?;
    command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written);
    let spawned = command.spawn();
    // Our own ends of the pipe, which would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawned.with_context(|| format!("cannot run `{name}`: is it installed?"))?;
    let (lines, received) = mpsc::sync_channel(64);
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    loop {
        match received.recv_timeout(SILENCE_MAX) {
            Ok(line) => {
                println!("{line}");
                see(&line);
            }
            Err(RecvTimeoutError::Timeout) => {
                let minutes = started.elapsed().as_secs_f64() / 60.0;
                println!("… `{name}` goes on after {minutes:.0} min");
                std::io::stdout().flush()?;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let _ = reader.join();
    child.wait().with_context(|| format!("cannot wait for `{name}`"))
}

/// The command as a person would type it, without the path of the program.
pub(crate) fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy()];
    words.extend(command.get_args().map(|argument| argument.to_string_lossy()));
    words.join(" ")
}
