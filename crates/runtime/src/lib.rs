//! What every role of the process needs that is not mail: clock, configuration, private files,
//! telemetry, shutdown, health and metrics.
//!
//! It knows nothing of SMTP, queues or domains. Failure behaviour: what is wrong at start is an
//! error that names file, line and remedy; nothing here fails later.

pub mod clock;
pub mod config;
pub mod http;
pub mod private_file;
pub mod readiness;
pub mod shutdown;
pub mod telemetry;
pub mod trace;
