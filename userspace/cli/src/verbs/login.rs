//! `plenum login` and `plenum logout`.

use clap::Args;
use serde_json::json;

use crate::Global;
use crate::api::{Session, checked_url};
use crate::context::{Context, Contexts};
use crate::error::{CliError, Result};
use crate::screen::Screen;
use crate::{trust, verbs};

/// Shown by `plenum login --help`.
pub(crate) const EXAMPLES: &str = "Examples:
  plenum login                                                the cluster on this machine
  plenum login --instance lab --url https://lab.example       another one, to be known as lab
  plenum login --username ann --password-stdin < secret       without a terminal
  plenum login --url https://lab.example --fingerprint AB:CD…   trust this certificate authority

The password is never an argument, since other users can see those.";

/// Arguments of `plenum login`.
#[derive(Args, Debug)]
pub struct LoginArguments {
    /// The account; asked for where it is missing
    #[arg(long, short, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password from the standard input
    #[arg(long)]
    pub password_stdin: bool,
    /// The cluster's CA certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<String>,
    /// SHA-256 fingerprint of the cluster's CA certificate, which is then fetched from the cluster
    #[arg(long, value_name = "HEX", conflicts_with = "ca_file")]
    pub fingerprint: Option<String>,
}

pub(crate) async fn login(
    contexts: &Contexts,
    global: &Global,
    login: &LoginArguments,
    screen: &mut Screen,
) -> Result<()> {
    let instance = &global.instance;
    let known = contexts.known(instance, global.url())?;
    let url = match (global.url(), &known) {
        (Some(url), _) => checked_url(url)?,
        (None, Some(context)) => checked_url(&context.url)?,
        (None, None) => {
            return Err(CliError::Usage(format!(
                "no cluster is known as {instance}; name its address with --url https://HOST"
            )));
        }
    };
    let mut ca = authority(login, known.as_ref(), &url, screen).await?;
    let user = user(login, known.as_ref(), screen)?;
    let password = password(login, &user, screen)?;
    let mut done = Session::login(instance.as_str(), &url, &ca, &user, &password).await;
    if let Err(CliError::Unreachable(text)) = &done
        && text.contains("certificate")
        && login.ca_file.is_none()
        && login.fingerprint.is_none()
    {
        // The cluster was made anew, or somebody is in between: only a person can tell.
        screen.note("the cluster shows another certificate authority than before")?;
        ca = ask_trust(&url, screen).await?;
        done = Session::login(instance.as_str(), &url, &ca, &user, &password).await;
    }
    let (_, token) = done?;
    let context = Context { url: url.clone(), ca, token: Some(token), user: Some(user.clone()) };
    contexts.save(instance, &context)?;
    let value = json!({"instance": instance, "url": url, "user": user});
    screen.outcome(global.output, &value, &format!("logged in to {url} as {user}"))
}

/// The CA certificate to trust.
async fn authority(
    login: &LoginArguments,
    known: Option<&Context>,
    url: &str,
    screen: &mut Screen,
) -> Result<String> {
    if let Some(file) = &login.ca_file {
        let ca = verbs::read_file(file, screen)?;
        trust::fingerprint(&ca).map_err(|_| CliError::Usage(format!("{file} holds no PEM certificate")))?;
        return Ok(ca);
    }
    if url.starts_with("http://") {
        return Ok(String::new());
    }
    if let Some(wanted) = &login.fingerprint {
        let ca = trust::fetch(url).await?;
        let given = trust::fingerprint(&ca)?;
        if trust::same(wanted, &given) {
            return Ok(ca);
        }
        return Err(CliError::Local(format!(
            "the certificate authority of {url} has the fingerprint {given}, not the one given; nothing was sent. Ask its administrator which \
             is right: somebody may be in between"
        )));
    }
    match known.filter(|context| !context.ca.is_empty()) {
        Some(context) => Ok(context.ca.clone()),
        None => ask_trust(url, screen).await,
    }
}

async fn ask_trust(url: &str, screen: &mut Screen) -> Result<String> {
    let ca = trust::fetch(url).await?;
    let given = trust::fingerprint(&ca)?;
    if !screen.asks {
        return Err(CliError::Usage(format!(
            "the certificate authority of {url} is not trusted yet: give --ca-file FILE, or, if it is the right one, --fingerprint {given}"
        )));
    }
    let question =
        format!("The certificate authority of {url} has the SHA-256 fingerprint\n  {given}\nTrust it?");
    if screen.agrees(&question)? {
        return Ok(ca);
    }
    Err(CliError::Local(
        "nothing was sent; `plenum login --ca-file FILE` takes a certificate you have already".to_owned(),
    ))
}

fn user(login: &LoginArguments, known: Option<&Context>, screen: &mut Screen) -> Result<String> {
    if let Some(user) = &login.username {
        return Ok(user.clone());
    }
    let before = known.and_then(|context| context.user.clone()).unwrap_or_else(|| "admin".to_owned());
    if !screen.asks {
        return Err(CliError::Usage("who are you? Give --username NAME".to_owned()));
    }
    let typed = screen.ask(&format!("User [{before}]: "))?;
    let typed = typed.trim();
    Ok(if typed.is_empty() { before } else { typed.to_owned() })
}

fn password(login: &LoginArguments, user: &str, screen: &mut Screen) -> Result<String> {
    let password = if login.password_stdin {
        screen.read_line()?
    } else if screen.asks {
        screen.ask_secret(&format!("Password of {user}: "))?
    } else {
        return Err(CliError::Usage(
            "there is no terminal to ask for the password; use --password-stdin".to_owned(),
        ));
    };
    if password.is_empty() {
        return Err(CliError::Usage("the password is empty".to_owned()));
    }
    Ok(password)
}

pub(crate) fn logout(contexts: &Contexts, global: &Global, screen: &mut Screen) -> Result<()> {
    let instance = &global.instance;
    // The address and the authority stay known, so that the next login needs no questions about trust.
    let (url, sentence) = match contexts.load(instance)? {
        Some(context) if context.token.is_some() => {
            let url = context.url.clone();
            contexts.save(instance, &Context { token: None, ..context })?;
            (Some(url.clone()), format!("logged out of {url}"))
        }
        _ => (None, format!("there was no login for {instance}")),
    };
    screen.outcome(global.output, &json!({"instance": instance, "url": url}), &sentence)
}
