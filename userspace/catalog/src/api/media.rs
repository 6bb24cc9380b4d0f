//! Media types of the Cosmos API: one request and some response types an endpoint, told apart by vendor name and `version`. Clients
//! compare texts, so the answers' types are written with no blanks and in this order.

use super::error::CosmosError;

/// One endpoint's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The vendor name, such as `package.search`.
    pub name: &'static str,
    /// Versions of the response, the preferred first.
    pub versions: &'static [u8],
}

/// `/package/search`.
pub const SEARCH: Endpoint = Endpoint { name: "package.search", versions: &[1] };
/// `/package/describe`: version 2 is flat, version 3 nests the definition.
pub const DESCRIBE: Endpoint = Endpoint { name: "package.describe", versions: &[3, 2] };
/// `/package/list-versions`.
pub const LIST_VERSIONS: Endpoint = Endpoint { name: "package.list-versions", versions: &[1] };
/// `/package/list`.
pub const LIST: Endpoint = Endpoint { name: "package.list", versions: &[1] };
/// `/package/render`.
pub const RENDER: Endpoint = Endpoint { name: "package.render", versions: &[1] };
/// `/package/install`: version 1 needs an app, version 2 does not.
pub const INSTALL: Endpoint = Endpoint { name: "package.install", versions: &[2, 1] };
/// `/package/uninstall`.
pub const UNINSTALL: Endpoint = Endpoint { name: "package.uninstall", versions: &[1] };
/// `/package/repository/list`.
pub const REPOSITORY_LIST: Endpoint = Endpoint { name: "package.repository.list", versions: &[1] };
/// `/package/repository/add`.
pub const REPOSITORY_ADD: Endpoint = Endpoint { name: "package.repository.add", versions: &[1] };
/// `/package/repository/delete`.
pub const REPOSITORY_DELETE: Endpoint = Endpoint { name: "package.repository.delete", versions: &[1] };

impl Endpoint {
    /// The type of a request.
    pub fn request(self) -> String {
        format!("application/vnd.dcos.{}-request+json;charset=utf-8;version=v1", self.name)
    }

    /// The type of a response of this version.
    pub fn response(self, version: u8) -> String {
        format!("application/vnd.dcos.{}-response+json;charset=utf-8;version=v{version}", self.name)
    }

    /// Checks a request's type and chooses the response's version by what the client takes, in the client's order.
    pub fn negotiate(self, content_type: Option<&str>, accept: Option<&str>) -> Result<u8, CosmosError> {
        let wanted = self.request();
        if !content_type.is_some_and(|given| fits(given, &wanted)) {
            return Err(CosmosError::content_type(content_type, &wanted));
        }
        let offered: Vec<String> = self.versions.iter().map(|version| self.response(*version)).collect();
        accept
            .unwrap_or_default()
            .split(',')
            .find_map(|given| {
                self.versions
                    .iter()
                    .zip(&offered)
                    .find(|(_, offer)| fits(given, offer))
                    .map(|(version, _)| *version)
            })
            .ok_or_else(|| CosmosError::accept(accept, &offered))
    }
}

/// Whether a type that a client names is this one: each parameter may be missing, none may differ; `q` does not count.
fn fits(given: &str, ours: &str) -> bool {
    let split = |text: &str| {
        let mut parts = text.split(';').map(|part| part.trim().to_ascii_lowercase());
        (parts.next().unwrap_or_default(), parts.collect::<Vec<_>>())
    };
    let ((given_type, given_parameters), (our_type, our_parameters)) = (split(given), split(ours));
    let known = |parameter: &String| {
        parameter.is_empty()
            || parameter.starts_with("q=")
            || our_parameters.contains(&parameter.replace('"', ""))
    };
    given_type == our_type && given_parameters.iter().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_chosen_by_what_the_client_takes() {
        let request = DESCRIBE.request();
        let negotiate =
            |accept: &str| DESCRIBE.negotiate(Some(&request), Some(accept)).map_err(|error| error.kind);
        let v2 = "application/vnd.dcos.package.describe-response+json;charset=utf-8;version=v2";
        let v3 = "application/vnd.dcos.package.describe-response+json; charset=utf-8; version=v3";
        assert_eq!(negotiate(v2), Ok(2));
        assert_eq!(negotiate(&format!("{v3},{v2};q=0.9")), Ok(3));
        assert_eq!(negotiate("application/vnd.dcos.package.describe-response+json"), Ok(3));
        for refused in
            ["*/*", "application/json", "application/vnd.dcos.package.describe-response+json;version=v9", ""]
        {
            assert_eq!(negotiate(refused), Err("UnsupportedAccept"), "{refused:?}");
        }
        let error = DESCRIBE.negotiate(Some("application/json"), Some(v2)).unwrap_err();
        assert_eq!(error.kind, "UnsupportedContentType");
    }
}
