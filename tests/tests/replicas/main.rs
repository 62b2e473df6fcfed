//! On three servers: the contract, backups, sabotage of the checkers.

mod backup;
mod conformance;
mod sabotage;
