//! Where DSNs go: to a mailbox of ours, or out.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use domains::{Destination, Resolution, Table};
use mail_types::{ForwardPath, Host, Mailbox, Recipient};
use outcome::Route;
use queue::{NewJob, NextHop};

/// Asks the table that is in force when a DSN is made.
pub(crate) fn route(table: &Arc<ArcSwapOption<Table>>) -> Route {
    let table = table.clone();
    Route::new(move |address| table.load().as_ref().map_or_else(Vec::new, |t| jobs(t, address)))
}

fn jobs(table: &Table, address: &Mailbox) -> Vec<NewJob> {
    match table.resolve(&ForwardPath::Mailbox(address.clone())) {
        Resolution::Local(destinations) => destinations.iter().filter_map(job).collect(),
        Resolution::Remote(host) => {
            vec![new_job(NextHop::smtp(&host), address)]
        }
        Resolution::UnknownRecipient => Vec::new(),
    }
}

fn job(destination: &Destination) -> Option<NewJob> {
    match destination {
        Destination::Mailbox { address } => {
            let Host::Domain(domain) = address.host() else { return None };
            Some(new_job(NextHop::mailbox(domain), address))
        }
        Destination::Remote { address } => Some(new_job(NextHop::smtp(address.host()), address)),
    }
}

fn new_job(next_hop: NextHop, address: &Mailbox) -> NewJob {
    NewJob { next_hop, recipients: vec![Recipient::new(address.clone())] }
}
