//! Credentials of registries from the text of a `config.json`. Pure. Nothing here shows a secret in an error.

use crate::reference::HUB;
use base64::Engine;
use bollard::auth::DockerCredentials;
use serde_json::Value;

/// What the text holds for a registry (see [`crate::reference::Reference::registry`]); `None` if nothing.
pub fn find(text: &str, registry: &str) -> Result<Option<DockerCredentials>, String> {
    let value: Value = serde_json::from_str(text)
        .map_err(|error| format!("the credentials for images are not JSON (line {})", error.line()))?;
    // The older form, `.dockercfg`, has the registries at the top.
    let table = value.get("auths").unwrap_or(&value);
    let Some(table) = table.as_object() else {
        return Err("the credentials for images have no object `auths`".into());
    };
    let wanted = host(registry);
    let Some((name, entry)) = table.iter().find(|(name, _)| host(name) == wanted) else {
        if let Some(helper) = helper(&value, registry) {
            return Err(format!(
                "the credentials for {registry} are kept by the helper {helper:?}, which an agent does not run; \
                 write them into `auths`"
            ));
        }
        return Ok(None);
    };
    let word = |field: &str| {
        entry.get(field).and_then(Value::as_str).filter(|text| !text.is_empty()).map(str::to_owned)
    };
    let (mut username, mut password) = (word("username"), word("password"));
    if let Some(packed) = word("auth") {
        let (user, secret) =
            unpack(&packed).ok_or_else(|| format!("`auth` of {name} is not base64 of user:password"))?;
        (username, password) = (Some(user), Some(secret));
    }
    Ok(Some(DockerCredentials {
        username,
        password,
        identitytoken: word("identitytoken"),
        registrytoken: word("registrytoken"),
        serveraddress: Some(registry.to_owned()),
        ..DockerCredentials::default()
    }))
}

fn helper(value: &Value, registry: &str) -> Option<String> {
    let helpers = value.get("credHelpers").and_then(Value::as_object)?;
    helpers.iter().find(|(name, _)| host(name) == host(registry))?.1.as_str().map(str::to_owned)
}

fn unpack(packed: &str) -> Option<(String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed.trim()).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, secret) = text.split_once(':')?;
    Some((user.to_owned(), secret.trim_end_matches('\0').to_owned()))
}

/// Registries are written with and without scheme and path.
fn host(name: &str) -> &str {
    let rest = name.split_once("://").map_or(name, |(_, rest)| rest);
    match rest.split('/').next().unwrap_or(rest) {
        "docker.io" | "registry-1.docker.io" | "index.docker.io" => HUB,
        host => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_the_file() {
        let auths = r#"{"auths":{"https://r.example:5000/v2/":{"auth":"dTpwOnc="},"other":{}}}"#;
        let old = r#"{"r.example:5000":{"username":"u","password":"p:w"}}"#;
        for text in [auths, old] {
            let found = find(text, "r.example:5000").unwrap().unwrap();
            assert_eq!((found.username.as_deref(), found.password.as_deref()), (Some("u"), Some("p:w")));
            assert_eq!(find(text, "r.example").unwrap(), None);
        }
        let hub = r#"{"auths":{"docker.io":{"identitytoken":"t"}}}"#;
        assert_eq!(find(hub, HUB).unwrap().unwrap().identitytoken.as_deref(), Some("t"));
        for (bad, want) in [
            ("{", "not JSON"),
            ("[]", "auths"),
            (r#"{"auths":{"r":{"auth":"secret!"}}}"#, "base64"),
            (r#"{"auths":{},"credHelpers":{"r":"ecr"}}"#, "helper"),
        ] {
            let said = find(bad, "r").unwrap_err();
            assert!(said.contains(want) && !said.contains("secret!"), "{said}");
        }
    }
}
