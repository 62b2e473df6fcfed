//! Rules of the schema, in CEL: what is wrong, where, and what to do.

use kube::core::Rule;

const ADDRESS: &str = "write the whole address, such as alice@example.org";
const ADDRESSES: &str = "self.all(address, address.contains('@'))";

pub(super) fn rule(condition: &str, message: &str) -> Rule {
    Rule::new(condition).message(message)
}

/// Whether a text may be a domain. What it is exactly says the compiler.
pub(super) fn domain_rule(field: &str) -> Rule {
    let remedy = "is no domain; write a name such as example.org";
    rule("self.matches('^[^\\\\s@:/*.]+([.][^\\\\s@:/*.]+)*$')", &format!("{field}: {remedy}"))
}

/// Whether a text may be the name of a Secret.
pub(super) fn name_rule(field: &str) -> Rule {
    let remedy = "is no name of a Secret; write lower-case letters, digits, hyphens and dots";
    rule("self.matches('^[a-z0-9-]+([.][a-z0-9-]+)*$')", &format!("{field}: {remedy}"))
}

/// Whether a text may be an address.
pub(super) fn address_rule(field: &str) -> Rule {
    rule("self.matches('^[^@]+@[^\\\\s@]+$')", &format!("{field}: is no address; {ADDRESS}"))
}

/// The same of each of many: less exactly, for what that costs is bounded.
pub(super) fn addresses_rule(field: &str) -> Rule {
    rule(ADDRESSES, &format!("{field}: has what is no address; {ADDRESS}"))
}

/// The same where one may stand for all of a domain.
pub(super) fn identities_rule(field: &str) -> Rule {
    let remedy = format!("{ADDRESS}, or *@ and a domain");
    rule(ADDRESSES, &format!("{field}: has what is no address; {remedy}"))
}

/// So many entries of a list at most.
pub(super) fn at_most(field: &str, most: usize) -> Rule {
    let message = format!("{field}: has too many entries; write 0 to {most}");
    rule(&format!("size(self) <= {most}"), &message)
}

/// The same, and one at least.
pub(super) fn one_to(field: &str, most: usize) -> Rule {
    let message = format!("{field}: has too few entries, or too many; write 1 to {most}");
    rule(&format!("size(self) >= 1 && size(self) <= {most}"), &message)
}
