//! How much a mailbox may hold, and send.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::rule;

/// How much a mailbox may hold, and what is said of it when it is full.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Quota {
    /// Octets; any number without it.
    #[x_kube(validation = rule("self >= 65536 && self <= 1125899906842624",
        "spec.quota.bytes: is out of range; write 65536 to 1125899906842624, or leave it out for \
        any number"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bytes: Option<i64>,
    /// What RCPT for a full mailbox is answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) on_full: Option<OnFull>,
}

/// What the sender of mail for a full mailbox is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OnFull {
    /// `452 4.2.2`: his server tries again.
    Defer,
    /// `552 5.2.2`.
    Reject,
}

/// How many recipients may be sent to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SendingLimits {
    /// In any 60 minutes.
    #[x_kube(validation = rule("self >= 1 && self <= 10000000",
        "spec.sendingLimits.recipientsPerHour: is out of range; write 1 to 10000000; who must not \
         send at all has no passwords"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipients_per_hour: Option<i64>,
    /// In any 24 hours.
    #[x_kube(validation = rule("self >= 1 && self <= 10000000",
        "spec.sendingLimits.recipientsPerDay: is out of range; write 1 to 10000000; who must not \
         send at all has no passwords"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) recipients_per_day: Option<i64>,
}
