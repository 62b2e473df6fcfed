//! What every role of the process needs that is not mail: clock, configuration, telemetry,
//! shutdown, health and metrics.
//!
//! It knows nothing of SMTP, queues or domains.

pub mod clock;
