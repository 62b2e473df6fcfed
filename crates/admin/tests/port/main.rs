//! The port of operators: who is let in, what the page may do, and whether the document of the API
//! tells the truth.
#![allow(clippy::unwrap_used)] // helpers of tests, outside of a #[test] function

mod access;
mod document;
mod page;
mod schema;
mod served;
mod trace;
