//! The suite of the queue's contract, on three servers of which one is killed at each crash.

type OnThree = tests::contract::On<3>;

queue::conformance_suite!(OnThree);
