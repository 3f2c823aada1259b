//! Where a workload would rather be: `home`, `placement`.

use tombolo_core::draining::{Back, Leaning};
use tombolo_core::{Name, SiteId};

use super::node::Node;
use super::read::Reader;
use super::table;

impl Reader<'_, '_> {
    /// A site's name.
    pub fn site_name(&mut self, node: &Node) -> Option<SiteId> {
        let name = self.name(node)?;
        Name::new(name).ok().map(SiteId)
    }

    pub fn leaning(&mut self, node: &Node) -> Option<Leaning> {
        let fields = self.fields(node, &table::PLACEMENT, &[], "`placement`")?;
        let prefer = fields.get("prefer").and_then(|node| self.selector(node));
        let burst = fields.get("burst").and_then(|node| self.selector(node));
        let after = fields.get("burst_after").and_then(|node| self.duration(node));
        let back = fields.get("back").and_then(|node| self.back(node));
        let at_most = fields.get("back_at_most").and_then(|node| self.duration(node));
        if let (Some(span), None | Some(Back::Never)) = (fields.span("back_at_most"), back) {
            self.fault(span, "`back_at_most` means nothing without `back: when-free`", "add it, or leave this out");
        }
        fields.finish();
        Some(Leaning {
            prefer: prefer?,
            burst,
            burst_after: after.unwrap_or(Leaning::BURST_AFTER_DEFAULT),
            back: back.unwrap_or_default(),
            back_at_most: at_most.unwrap_or(Leaning::BACK_AT_MOST_DEFAULT),
        })
    }

    fn back(&mut self, node: &Node) -> Option<Back> {
        match node.text() {
            Some("never") => Some(Back::Never),
            Some("when-free") => Some(Back::WhenFree),
            _ => {
                self.wrong_type(node, "`never` or `when-free`");
                None
            }
        }
    }
}
