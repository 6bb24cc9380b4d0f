//! This node's part in the overlay network: its slice, which is written down so that containers keep their addresses over a restart of the
//! agent, and what the master says about the others, which the shell carries out.

use plenum_api::internal;

use super::event::{Effect, Level};
use super::records::{self, OverlayRecord};
use super::{Agent, Cx};

impl Agent {
    /// The master says which slice is ours, or where others are.
    pub(super) fn overlay(&mut self, news: internal::Overlay, cx: &mut Cx<'_>) {
        if self.settings.overlay.is_none() {
            return;
        }
        if news.whole && news.slice.is_none() {
            let words = "The range of the overlay has no slice left: containers of this node cannot join it; \
                         remove nodes that are gone, or widen the range";
            cx.report(Level::Warn, words.to_owned());
        }
        if let Some(slice) = news.slice.filter(|slice| self.slice != Some(*slice)) {
            if let Some(before) = self.slice {
                let words =
                    format!("The master gives this node slice {slice} of the overlay instead of {before}");
                cx.report(Level::Warn, words);
            }
            self.slice = Some(slice);
            cx.writes.push(records::put("overlay".to_owned(), &OverlayRecord { slice }));
        }
        cx.out.push(Effect::Overlay(Box::new(news)));
    }

    pub(super) fn read_overlay(&mut self, record: &OverlayRecord, cx: &mut Cx<'_>) {
        self.slice = Some(record.slice);
        let news = internal::Overlay { slice: self.slice, ..Default::default() };
        cx.out.push(Effect::Overlay(Box::new(news)));
    }
}
