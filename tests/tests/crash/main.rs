//! `kill -9` under load loses nothing.

mod deferred;
mod kill;
