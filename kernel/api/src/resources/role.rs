//! Names of roles: a path of components separated by slashes; `*` is everybody.

/// The role of everybody.
pub const STAR: &str = "*";

/// Why a text is not the name of a role.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("role `{role}` is not valid: {reason}")]
pub struct RoleError {
    /// The text.
    pub role: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Checks the name of a role by Mesos' rules.
pub fn validate(role: &str) -> Result<(), RoleError> {
    let refuse = |reason| Err(RoleError { role: role.to_string(), reason });
    if role == STAR {
        return Ok(());
    }
    if role.is_empty() {
        return refuse("it is empty");
    }
    for part in role.split('/') {
        match part {
            "" => return refuse("it starts or ends with a slash, or has two in a row"),
            "." | ".." => return refuse("`.` and `..` cannot be components"),
            STAR => return refuse("`*` cannot be a component"),
            _ if part.starts_with('-') => return refuse("a component starts with a dash"),
            _ if part.contains(|c: char| matches!(c, '\x08'..='\x0d' | ' ' | '\x7f')) => {
                return refuse("a component has a space or control character");
            }
            _ => {}
        }
    }
    Ok(())
}

/// True when `role` is below `ancestor`: `a/b` is below `a`, `a` is not.
pub fn is_strict_subrole(role: &str, ancestor: &str) -> bool {
    role.strip_prefix(ancestor).is_some_and(|rest| rest.starts_with('/'))
}

/// The roles above `role`, nearest first: of `a/b/c` these are `a/b` and `a`.
pub fn ancestors(role: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(role.rsplit_once('/').map(|p| p.0), |r| r.rsplit_once('/').map(|p| p.0))
}
