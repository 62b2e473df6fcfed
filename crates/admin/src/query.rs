//! Filters and actions as they travel.

use std::time::Duration;

use mail_types::{Domain, QueueId, TenantId};
use queue::{Action, Filter, Phase};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A [`Filter`] as a query string or JSON.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, IntoParams, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Query {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<QueueId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    /// The reverse-path, without angle brackets; empty for the null sender; `@domain` for all of
    /// one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Some recipient is in this domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient_domain: Option<Domain>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Arrived longer ago than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub older_than_seconds: Option<u64>,
}

/// What is to be done, and to which jobs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActRequest {
    pub action: Action,
    pub filter: Query,
    /// Must be said when the filter is empty: nobody means the whole queue by forgetting.
    #[serde(default)]
    pub all: bool,
}

impl From<Filter> for Query {
    fn from(filter: Filter) -> Self {
        Self {
            message: filter.message,
            tenant: filter.tenant,
            sender: filter.sender,
            recipient_domain: filter.recipient_domain,
            phase: filter.phase,
            older_than_seconds: filter.older_than.map(|age| age.as_secs()),
        }
    }
}

impl From<Query> for Filter {
    fn from(query: Query) -> Self {
        Self {
            message: query.message,
            tenant: query.tenant,
            sender: query.sender,
            recipient_domain: query.recipient_domain,
            phase: query.phase,
            older_than: query.older_than_seconds.map(Duration::from_secs),
        }
    }
}

/// Whose passwords.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Login {
    /// The mailbox's address.
    pub(crate) login: String,
}
