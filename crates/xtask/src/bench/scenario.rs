//! What is measured.

/// How a scenario is run and judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// To the `250`, with delivery held.
    Accept,
    /// To the sink behind the server.
    Relay,
    /// Sessions that do nothing.
    Idle,
    /// Under strace: whether a sync precedes every `250`.
    Audit,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) kind: Kind,
    pub(crate) load: Load,
}

/// What the generator sends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) messages: u64,
    pub(crate) size_bytes: usize,
    pub(crate) sessions: usize,
    /// `None`: as many as there are.
    pub(crate) messages_per_session: Option<u64>,
    /// Open loop: messages are due at this rate. `None`: as fast as they are accepted.
    pub(crate) per_second: Option<f64>,
}

const LOAD: Load = Load {
    messages: 5000,
    size_bytes: 10 * 1024,
    sessions: 20,
    messages_per_session: None,
    per_second: None,
};

const ONE_EACH: Load = Load { messages_per_session: Some(1), ..LOAD };

pub(crate) const SCENARIOS: [Scenario; 8] = [
    Scenario {
        name: "accept1",
        about: "10 KB, 20 sessions, one message each, delivery held",
        kind: Kind::Accept,
        load: ONE_EACH,
    },
    Scenario {
        name: "acceptN",
        about: "10 KB, 20 sessions, many messages each, delivery held",
        kind: Kind::Accept,
        load: LOAD,
    },
    Scenario {
        name: "relay1",
        about: "10 KB, 20 sessions, one message each, to the last arrival at the sink",
        kind: Kind::Relay,
        load: ONE_EACH,
    },
    Scenario {
        name: "relayN",
        about: "10 KB, 20 sessions, many messages each, to the last arrival at the sink",
        kind: Kind::Relay,
        load: LOAD,
    },
    Scenario {
        name: "lat100",
        about: "100 messages/s in an open loop: latency counts from when a message was due",
        kind: Kind::Relay,
        load: Load {
            messages: 2000,
            sessions: 50,
            messages_per_session: Some(20),
            per_second: Some(100.0),
            ..LOAD
        },
    },
    Scenario {
        name: "big5m",
        about: "5 MB messages, 5 sessions, to the last arrival at the sink",
        kind: Kind::Relay,
        load: Load { messages: 40, size_bytes: 5 << 20, sessions: 5, ..LOAD },
    },
    Scenario {
        name: "idle",
        about: "idle sessions from 200 addresses",
        kind: Kind::Idle,
        load: Load { messages: 0, sessions: 10_000, ..LOAD },
    },
    Scenario {
        name: "audit",
        about: "whether a sync precedes each 250 (strace; no rate)",
        kind: Kind::Audit,
        load: Load { messages: 50, sessions: 1, ..LOAD },
    },
];
