//! One process, all roles: faults, slow clients, a recovered destination.

mod admin_port;
mod backup;
mod credentials;
mod fairness;
mod faults;
mod limits;
mod quota;
mod recovery;
mod reload;
mod table_large;
mod trace;
