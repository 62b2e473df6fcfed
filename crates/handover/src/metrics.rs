//! What is counted while content is sent.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Cheap to clone, all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub(crate) eight_bit_unannounced: Counter,
    pub(crate) line_breaks_mended: Counter,
}

impl Metrics {
    /// Makes them known among those of a role.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { eight_bit_unannounced, line_breaks_mended } = metrics.clone();
        registry.register(
            "eight_bit_unannounced",
            "8BITMIME messages sent as they are to hosts that do not offer it",
            eight_bit_unannounced,
        );
        registry.register(
            "line_breaks_mended",
            "Bare CRs and LFs in stored content, sent as CRLF",
            line_breaks_mended,
        );
        metrics
    }
}
