//! What the role counts, by names that begin with `ingress_` under the registry's own prefix.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use senders::Scope;
use smtp::framing::{ContentFault, LineError};
use smtp::{ListenerKind, Note};

/// Counters and gauges; a clone counts into the same.
#[derive(Debug, Clone)]
pub struct Metrics {
    connections: Family<ListenerLabel, Counter>,
    connections_refused: Family<ReasonLabel, Counter>,
    pub(crate) connections_open: Gauge,
    pub(crate) content_memory_bytes: Gauge,
    pub(crate) messages_accepted: Counter,
    pub(crate) octets_accepted: Counter,
    pub(crate) recipients_accepted: Counter,
    pub(crate) commit_seconds: Histogram,
    refusals: Family<RefusalLabel, Counter>,
    client_faults: Family<FaultLabel, Counter>,
    authentications: Family<ResultLabel, Counter>,
    handshakes: Family<ResultLabel, Counter>,
    sessions_ended: Family<ReasonLabel, Counter>,
    tolerated: Family<ReasonLabel, Counter>,
    sending_limited: Family<ScopeLabel, Counter>,
    call_aheads: Family<CallAheadLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallAheadLabel {
    result: &'static str,
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabel {
    fault: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ScopeLabel {
    scope: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusalLabel {
    at: &'static str,
    code: u16,
    status: String,
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// QUIT, or we closed after a reply.
    Closed,
    /// The client went away.
    Disconnected,
    Timeout,
    /// The process stops.
    Stopped,
    /// The stop's grace was over.
    Aborted,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            connections: Family::default(),
            connections_refused: Family::default(),
            connections_open: Gauge::default(),
            content_memory_bytes: Gauge::default(),
            messages_accepted: Counter::default(),
            octets_accepted: Counter::default(),
            recipients_accepted: Counter::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 14)),
            refusals: Family::default(),
            client_faults: Family::default(),
            authentications: Family::default(),
            handshakes: Family::default(),
            sessions_ended: Family::default(),
            tolerated: Family::default(),
            sending_limited: Family::default(),
            call_aheads: Family::default(),
        }
    }
}

impl Metrics {
    /// Metrics that `registry` shows.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_prefix("ingress");
        registry.register("connections", "Connections accepted", metrics.connections.clone());
        registry.register(
            "connections_refused",
            "Connections answered with 421 at once, or closed for want of a PROXY header",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "connections_open",
            "Sessions open now",
            metrics.connections_open.clone(),
        );
        registry.register(
            "content_memory_bytes",
            "Share of the memory budget that content being received holds",
            metrics.content_memory_bytes.clone(),
        );
        registry.register("messages", "Messages accepted", metrics.messages_accepted.clone());
        registry.register("octets", "Octets of messages accepted", metrics.octets_accepted.clone());
        registry.register(
            "recipients",
            "Recipients of messages accepted",
            metrics.recipients_accepted.clone(),
        );
        registry.register(
            "commit_seconds",
            "How long it took from the end of content until it was durable, in seconds",
            metrics.commit_seconds.clone(),
        );
        registry.register(
            "refusals",
            "Refusals by policy or for want of room",
            metrics.refusals.clone(),
        );
        registry.register(
            "client_faults",
            "Limits hit and rules broken by clients",
            metrics.client_faults.clone(),
        );
        registry.register("authentications", "AUTH by result", metrics.authentications.clone());
        registry.register("tls_handshakes", "TLS handshakes by result", metrics.handshakes.clone());
        registry.register("sessions_ended", "Sessions ended", metrics.sessions_ended.clone());
        registry.register(
            "tolerated",
            "Messages accepted although they break a rule",
            metrics.tolerated.clone(),
        );
        registry.register(
            "sending_limited",
            "Recipients refused because a mailbox or a domain has sent enough",
            metrics.sending_limited.clone(),
        );
        // There from the start: whoever is alarmed by its growth sees the first one, too.
        for scope in [Scope::Mailbox, Scope::Domain] {
            metrics.limits_of(scope).inc_by(0);
        }
        registry.register(
            "call_aheads",
            "Recipients of gateway domains whose server was to be asked",
            metrics.call_aheads.clone(),
        );
        metrics
    }

    pub(crate) fn connected(&self, kind: ListenerKind) {
        self.connections.get_or_create(&ListenerLabel { listener: listener(kind) }).inc();
    }

    pub(crate) fn refused_connection(&self, reason: &'static str) {
        self.connections_refused.get_or_create(&ReasonLabel { reason }).inc();
    }

    pub(crate) fn refused(&self, at: &'static str, reply: &mail_types::Reply) {
        let status = reply.status_or_general().to_string();
        let label = RefusalLabel { at, code: reply.code.value(), status };
        self.refusals.get_or_create(&label).inc();
    }

    pub(crate) fn noted(&self, note: Note) {
        self.client_faults.get_or_create(&FaultLabel { fault: fault(note) }).inc();
    }

    pub(crate) fn authenticated(&self, result: &'static str) {
        self.authentications.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn shook_hands(&self, result: &'static str) {
        self.handshakes.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn ended(&self, end: End) {
        let reason = match end {
            End::Closed => "closed",
            End::Disconnected => "disconnected",
            End::Timeout => "timeout",
            End::Stopped => "stopped",
            End::Aborted => "aborted",
        };
        self.sessions_ended.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Without a name: who it was is in the log.
    pub(crate) fn limited(&self, scope: Scope) {
        self.limits_of(scope).inc();
    }

    fn limits_of(&self, scope: Scope) -> Counter {
        let scope = match scope {
            Scope::Mailbox => "mailbox",
            Scope::Domain => "domain",
        };
        self.sending_limited.get_or_create_owned(&ScopeLabel { scope })
    }

    /// `by`: the server itself, or what is remembered of it.
    pub(crate) fn called_ahead(&self, result: &'static str, by: &'static str) {
        self.call_aheads.get_or_create(&CallAheadLabel { result, by }).inc();
    }

    pub(crate) fn tolerated(&self, reason: &'static str) {
        self.tolerated.get_or_create(&ReasonLabel { reason }).inc();
    }
}

pub(crate) fn listener(kind: ListenerKind) -> &'static str {
    match kind {
        ListenerKind::Relay => "relay",
        ListenerKind::Submission => "submission",
        ListenerKind::Submissions => "submissions",
    }
}

pub(crate) fn fault(note: Note) -> &'static str {
    match note {
        Note::UnauthorizedPipelining => "unauthorized_pipelining",
        Note::Line(LineError::TooLong) => "command_line_too_long",
        Note::Line(LineError::BareCr) => "bare_cr_in_command",
        Note::Line(LineError::BareLf) => "bare_lf_in_command",
        Note::Line(LineError::Nul) => "nul_in_command",
        Note::Content(ContentFault::BareCr) => "bare_cr_in_content",
        Note::Content(ContentFault::BareLf) => "bare_lf_in_content",
        Note::Content(ContentFault::LineTooLong) => "text_line_too_long",
        Note::MessageTooLarge => "message_too_large",
        Note::TooManyRecipients => "too_many_recipients",
        Note::TooManyErrors => "too_many_errors",
        Note::TooManyCommands => "too_many_commands",
        Note::TooManyAuthFailures => "too_many_auth_failures",
    }
}
