//! `postrider nats …`.

use clap::{Args, Subcommand};
use queue_jetstream::permissions::{self, User};

use crate::output;

#[derive(Debug, Subcommand)]
pub(crate) enum NatsCommand {
    /// Print what each role may do, as the block `authorization` of nats-server's configuration.
    Permissions(Permissions),
}

#[derive(Debug, Args)]
pub(crate) struct Permissions {
    /// A role and the public nkey it logs in with, such as `ingress=UABC…`: ingress, worker, mda
    /// or admin. May be given more than once.
    #[arg(long = "role", value_name = "ROLE=NKEY", required = true)]
    users: Vec<User>,
    /// `jetstream.partitions` of the configuration.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    partitions: u16,
}

pub(crate) fn run(command: &NatsCommand) {
    let NatsCommand::Permissions(Permissions { users, partitions }) = command;
    output::line(permissions::authorization(users, *partitions).trim_end());
}
