//! What the operator says of a resource.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What became of it, as kstatus reads it.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// Of the spec that this is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) observed_generation: Option<i64>,
    /// `Ready` is the summary.
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) conditions: Vec<Condition>,
    /// The spec that was accepted last: it stays in force when a change of it is refused.
    #[schemars(schema_with = "any_object")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) in_force: Option<Value>,
}

/// The schema's rules were kept when it was a spec.
fn any_object(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

/// A condition, before it is known since when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Stated {
    pub(crate) kind: &'static str,
    pub(crate) holds: bool,
    /// A word in CamelCase: it is part of the API.
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Status {
    /// This status with what is stated now; what holds as before does so since then.
    pub(crate) fn state(
        &self,
        generation: Option<i64>,
        stated: Vec<Stated>,
        in_force: Option<Value>,
        now: &Time,
    ) -> Self {
        let conditions = stated.into_iter().map(|stated| {
            let status = if stated.holds { "True" } else { "False" };
            let before = self.condition(stated.kind).filter(|it| it.status == status);
            Condition {
                type_: stated.kind.to_owned(),
                status: status.to_owned(),
                reason: stated.reason.to_owned(),
                message: stated.message,
                observed_generation: generation,
                last_transition_time: before
                    .map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
            }
        });
        let conditions = conditions.collect();
        Self { observed_generation: generation, conditions, in_force }
    }

    pub(crate) fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.type_ == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_as_before_does_so_since_then() {
        let at = |second: i64| Time(k8s_openapi::jiff::Timestamp::from_second(second).unwrap());
        let ready = |holds| Stated { kind: "Ready", holds, reason: "R", message: "m".to_owned() };
        let first = Status::default().state(Some(1), vec![ready(true)], None, &at(10));
        let same = first.state(Some(2), vec![ready(true)], None, &at(20));
        assert_eq!(same.condition("Ready").unwrap().last_transition_time, at(10));
        assert_eq!(same.condition("Ready").unwrap().observed_generation, Some(2));
        let changed = same.state(Some(2), vec![ready(false)], None, &at(30));
        assert_eq!(changed.condition("Ready").unwrap().last_transition_time, at(30));
    }
}
