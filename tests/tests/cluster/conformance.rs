//! The suite of the queue's contract, on a real server with JetStream.

type OnOne = tests::contract::On<1>;

queue::conformance_suite!(OnOne);
