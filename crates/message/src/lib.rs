//! Message content as far as a transfer agent reads or writes it: fields, trace fields, DSNs.
//!
//! Nothing here re-serialises a message: fields are slices of the block they stand in, and what we
//! write stands in front. The crate knows neither SMTP nor the queue, and has no clock.

pub mod dsn;
pub mod from;
pub mod header;
pub mod trace;
