//! Rules of the schema, in CEL: what is wrong, where, and what to do.

use kube::core::Rule;

pub(super) fn rule(condition: &str, message: &str) -> Rule {
    Rule::new(condition).message(message)
}

/// Whether a text may be a domain. What it is exactly says the compiler.
pub(super) fn domain_rule(field: &str) -> Rule {
    let remedy = "is no domain; write a name such as example.org";
    rule("self.matches('^[^\\\\s@:/*.]+([.][^\\\\s@:/*.]+)*$')", &format!("{field}: {remedy}"))
}

/// Whether a text may be an address.
pub(super) fn address_rule(field: &str) -> Rule {
    let remedy = "is no address; write the whole address, such as alice@example.org";
    rule("self.matches('^[^@]+@[^\\\\s@]+$')", &format!("{field}: {remedy}"))
}
