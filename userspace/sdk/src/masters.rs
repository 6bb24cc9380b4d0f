//! Which master is asked next: the leader as far as it is known, then the list in turn. Redirects lead to members of
//! the list and nowhere else, since credentials go with each call.

use std::time::Duration;

use plenum_base::leading::{Leader, Leading, member};

use crate::stream::CallError;

/// The masters, as one driver tries them.
#[derive(Debug, Clone)]
pub(crate) struct Masters {
    given: Vec<String>,
    leading: Option<Leading>,
    path: &'static str,
    next: usize,
    hint: Option<String>,
    tried: Option<String>,
}

impl Masters {
    /// From addresses such as `http://10.0.0.1:5050`; without a scheme it is `http`. `leading` knows more, where there is a fleet.
    pub(crate) fn new(given: Vec<String>, leading: Option<Leading>, path: &'static str) -> Self {
        let whole = |address: String| {
            let address = address.trim_end_matches('/');
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
        };
        let given = given.into_iter().map(whole).collect();
        Self { given, leading, path, next: 0, hint: None, tried: None }
    }

    /// The base URLs, as of now.
    pub(crate) fn list(&self) -> Vec<String> {
        self.leading.as_ref().map(Leading::list).filter(|list| !list.is_empty()).unwrap_or(self.given.clone())
    }

    fn fleet(&self) -> Option<&Leading> {
        self.leading.as_ref().filter(|leading| leading.is_fleet())
    }

    /// The URL to ask now. In a fleet the leader, unless it was tried last, else the next one in turn; elsewhere the one that led, once, and
    /// then all in turn.
    pub(crate) fn pick(&mut self) -> String {
        let first = match self.fleet() {
            Some(leading) => {
                leading.leader().map(|leader| leader.url).filter(|leader| Some(leader) != self.tried.as_ref())
            }
            None => self.hint.take(),
        };
        let base = first.unwrap_or_else(|| self.in_turn());
        let url = format!("{base}{}", self.path);
        self.tried = Some(base);
        url
    }

    fn in_turn(&mut self) -> String {
        let list = self.list();
        let mut turn = || {
            let base = list.get(self.next % list.len().max(1)).cloned().unwrap_or_default();
            self.next = self.next.wrapping_add(1);
            base
        };
        let base = turn();
        if self.leading.is_some() && list.len() > 1 && Some(&base) == self.tried.as_ref() {
            turn()
        } else {
            base
        }
    }

    /// Where a redirect from `from` leads.
    pub(crate) fn follow(&self, from: &str, location: &str) -> Result<String, CallError> {
        match member(&self.list(), location) {
            Some(base) => Ok(format!("{base}{}", self.path)),
            None => {
                let reason = format!("it points to {location}, which is not in the list of masters");
                Err(CallError::NotLeading { url: from.to_owned(), reason })
            }
        }
    }

    /// The base of one of our URLs.
    pub(crate) fn base(&self, url: &str) -> String {
        url.strip_suffix(self.path).unwrap_or(url).to_owned()
    }

    /// This one led.
    pub(crate) fn lead(&mut self, url: &str) {
        let base = self.base(url);
        self.hint = Some(base.clone());
        self.tried = Some(base);
    }

    /// Something failed: look who leads now.
    pub(crate) fn look(&self) {
        if let Some(leading) = &self.leading {
            leading.look();
        }
    }

    /// Waits until another than the one behind `url` is known to lead, in a newer term than the one that was known when this is called. Only in
    /// a fleet; else it never returns.
    pub(crate) fn moved_from(&self, url: &str) -> impl Future<Output = ()> + Send + 'static {
        let (base, leading) = (self.base(url), self.leading.clone());
        let term = self.fleet().and_then(Leading::leader).map_or(0, |leader| leader.term);
        async move {
            let Some(leading) = leading else { return std::future::pending().await };
            let newer =
                |now: &Option<Leader>| now.as_ref().is_some_and(|now| now.url != base && now.term > term);
            if leading.changes().wait_for(newer).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for `pause`; in a fleet a second at most, and not longer than until there is a leader that was not tried last.
    pub(crate) async fn pause(&self, pause: Duration) {
        let Some(leading) = self.fleet() else { return tokio::time::sleep(pause).await };
        let mut changes = leading.changes();
        let untried = changes.wait_for(|leader| {
            leader.as_ref().is_some_and(|leader| Some(&leader.url) != self.tried.as_ref())
        });
        tokio::select! {
            () = tokio::time::sleep(pause.min(Duration::from_secs(1))) => {}
            Ok(_) = untried => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masters_take_turns() {
        let mut masters = Masters::new(vec!["a:1".to_owned(), "https://b:2/".to_owned()], None, "/p");
        assert_eq!(
            [masters.pick(), masters.pick(), masters.pick()],
            ["http://a:1/p", "https://b:2/p", "http://a:1/p"]
        );
        masters.lead("https://b:2/p");
        assert_eq!([masters.pick(), masters.pick()], ["https://b:2/p", "https://b:2/p"]);
        assert_eq!(masters.follow("x", "//b:2/other").unwrap(), "https://b:2/p");
        for elsewhere in ["//c:2/p", "https://evil/b:2", "/p", ""] {
            assert!(masters.follow("x", elsewhere).is_err(), "{elsewhere}");
        }
    }
}
