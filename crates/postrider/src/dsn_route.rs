//! Where DSNs go: to a mailbox of ours, or out. One to whoever sent us mail that we had forwarded
//! goes to its first sender.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use domains::{Destination, Resolution, Srs, Table};
use mail_types::{ForwardPath, Host, Mailbox, Recipient};
use outcome::Route;
use queue::{NewJob, NextHop};

/// Asks the table that is in force when a DSN is made.
pub(crate) fn route(table: &Arc<ArcSwapOption<Table>>, srs: Option<Arc<Srs>>) -> Route {
    let table = table.clone();
    Route::new(move |address| {
        let table = table.load();
        let Some(table) = table.as_ref() else { return Vec::new() };
        let now = runtime::clock::now();
        let first = srs.as_ref().and_then(|srs| table.forwarded_sender(srs, address, now));
        jobs(table, first.as_ref().unwrap_or(address))
    })
}

fn jobs(table: &Table, address: &Mailbox) -> Vec<NewJob> {
    match table.resolve(&ForwardPath::Mailbox(address.clone())) {
        Resolution::Local(destinations) => destinations.iter().filter_map(job).collect(),
        // It has sent the mail that the DSN is about, or somebody in its name: its server knows.
        Resolution::CallAhead { address, .. } => {
            vec![new_job(NextHop::smtp(address.host()), &address)]
        }
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
        Destination::Gateway { address } | Destination::Remote { address } => {
            Some(new_job(NextHop::smtp(address.host()), address))
        }
    }
}

fn new_job(next_hop: NextHop, address: &Mailbox) -> NewJob {
    NewJob::new(next_hop, vec![Recipient::new(address.clone())])
}
