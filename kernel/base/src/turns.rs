//! In which order the servers of a role are asked: the one that answered last, then the others. One server that is off costs its
//! deadline once, not each time.

use std::future::Future;

use crate::cluster::Masters;
use crate::places::Role;

/// The servers of one role, as a caller remembers them.
#[derive(Debug, Clone)]
pub struct Turns {
    masters: Masters,
    role: Role,
    configured: Vec<String>,
    last: Option<String>,
}

impl Turns {
    /// `role` on every master in a fleet, the configured base URLs on a single machine.
    #[must_use]
    pub fn new(masters: Masters, role: Role, configured: Vec<String>) -> Self {
        Self { masters, role, configured, last: None }
    }

    /// These base URLs, whoever the masters are.
    #[must_use]
    pub fn fixed(role: Role, urls: Vec<String>) -> Self {
        Self::new(Masters::fixed(&[]), role, urls)
    }

    /// The base URLs in the order in which to ask now.
    #[must_use]
    pub fn order(&self) -> Vec<String> {
        let mut urls = self.masters.or(self.role, &self.configured);
        if let Some(place) = urls.iter().position(|url| Some(url) == self.last.as_ref())
            && let Some(before) = urls.get_mut(..=place)
        {
            before.rotate_right(1);
        }
        urls
    }

    /// The server at `url` answered: it is asked first from now on.
    pub fn answered(&mut self, url: &str) {
        self.last = Some(url.to_owned());
    }

    /// Asks one after the other until one answers; each has the deadline that `ask` gives it. The last error is returned; `None` when
    /// there is nobody to ask.
    ///
    /// # Errors
    /// The error of the last one asked.
    pub async fn ask<T, E, F, Fut>(&mut self, mut ask: F) -> Option<Result<T, E>>
    where
        F: FnMut(String) -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut last = None;
        for url in self.order() {
            match ask(url.clone()).await {
                Ok(value) => {
                    self.answered(&url);
                    return Some(Ok(value));
                }
                Err(error) => last = Some(Err(error)),
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_good_one_is_first_and_the_rest_keep_their_order() {
        let urls = ["a", "b", "c"].map(str::to_owned);
        let mut turns = Turns::fixed(Role::Identity, urls.to_vec());
        let asked = std::cell::RefCell::new(Vec::new());
        let ask = |good: &'static str| {
            let asked = &asked;
            move |url: String| {
                asked.borrow_mut().push(url.clone());
                async move { if url == good { Ok(url) } else { Err(format!("{url} is dead")) } }
            }
        };
        assert_eq!(turns.ask(ask("c")).await, Some(Ok("c".to_owned())));
        assert_eq!(turns.ask(ask("c")).await, Some(Ok("c".to_owned())));
        assert_eq!(turns.ask(ask("a")).await, Some(Ok("a".to_owned())));
        assert_eq!(asked.into_inner(), ["a", "b", "c", "c", "c", "a"]);
        let dead: Option<Result<(), &str>> = turns.ask(|_| async { Err("dead") }).await;
        assert_eq!(dead, Some(Err("dead")));
        let nobody: Option<Result<(), &str>> =
            Turns::fixed(Role::Identity, vec![]).ask(|_| async { Ok(()) }).await;
        assert_eq!(nobody, None);
    }
}
