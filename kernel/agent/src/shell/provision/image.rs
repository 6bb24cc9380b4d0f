//! A container's image: found or pulled, held, and what its configuration says about the container.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use plenum_api::mesos::CommandInfo;
use plenum_containers::{Command, ContainerSpec, Root};
use plenum_images::{Auth, Image, ImageConfig, ImageError, Images, LayerProgress, Listener, Platform, Stage};

use super::{Failure, Provided, Provisioner, blocking};
use crate::core::{Launch, LaunchStage};
use crate::shell::voice::Voice;
use crate::shell::wanted::{VolumeSource, Wanted, WantedImage};

/// The largest file with credentials.
const CREDENTIALS_MAX: u64 = 1 << 20;
/// Between a container and the number of a volume in the name of a hold.
const VOLUME: &str = ".volume-";
/// Where a task with an image finds its sandbox.
const SANDBOX: &str = plenum_containers::inside::SANDBOX;

impl Provisioner {
    pub(super) async fn provide_image(
        &self,
        spec: &mut ContainerSpec,
        launch: &Launch,
        wanted: &WantedImage,
        provided: &mut Provided,
    ) -> Result<(), Failure> {
        let Some(images) = &self.images else {
            let words = "this agent does not run as root, so it cannot run images";
            return Err((LaunchStage::Image, words.to_owned()));
        };
        self.note(&launch.container, |kept| kept.image = true);
        let image = self.find_or_pull(images, launch, &launch.container, wanted).await.map_err(said)?;
        provided.image = image.pinned.name();
        let scratch = self.scratch.join(&launch.container);
        self.note(&launch.container, |kept| {
            kept.scratch = true;
            kept.stop_signal = stop_signal(&image.config);
        });
        follow(spec, &image.config, &launch.command).map_err(|reason| (LaunchStage::Image, reason))?;
        let (upper, work) = (scratch.join("upper"), scratch.join("work"));
        spec.root = Root::Image { layers: image.layers.clone(), upper: upper.clone(), work: work.clone() };
        let (sandbox, wants) = (PathBuf::from(&launch.directory), who(launch, &image.config));
        let user = blocking(LaunchStage::Image, move || {
            for folder in [&scratch, &upper, &work] {
                // The container's `/` is seen by every user in it.
                std::fs::create_dir_all(folder)
                    .and_then(|()| std::fs::set_permissions(folder, mode(0o755)))
                    .map_err(|error| format!("{}: {error}", folder.display()))?;
            }
            std::fs::set_permissions(&scratch, mode(0o700))
                .map_err(|error| format!("{}: {error}", scratch.display()))?;
            let user = resolve(&image, &wants)?;
            give(&sandbox, user.uid, user.gid)
                .map_err(|error| format!("{} cannot be given away: {error}", sandbox.display()))?;
            Ok(user)
        });
        let user = user.await?;
        spec.user = Some(format!("{}:{}", user.uid, user.gid));
        if let Some(home) = user.home {
            spec.env.entry("HOME".to_owned()).or_insert(home);
        }
        Ok(())
    }

    /// What is here is used without a question, as in Mesos, unless the task wants it fresh.
    async fn find_or_pull(
        &self,
        images: &Images,
        launch: &Launch,
        holder: &str,
        wanted: &WantedImage,
    ) -> Result<Image, ImageError> {
        let (reference, platform) = (images.reference(&wanted.name)?, Platform::here());
        if !wanted.refresh {
            let (store, reference, platform) = (images.clone(), reference.clone(), platform.clone());
            let known = tokio::task::spawn_blocking(move || store.known(&reference, &platform)).await;
            if let Ok(Some(image)) = known {
                images.hold(holder, &image.pinned).await?;
                return Ok(image);
            }
        }
        let progress = Progress::open(Path::new(&launch.directory));
        progress.say(&format!("Pulling image {}", wanted.name));
        let deadline = self.config.images.pull_deadline();
        let pulled = tokio::time::timeout(deadline, async {
            let auth = self.auth(launch, wanted)?;
            let pinned = images.resolve(&reference, &auth, &platform).await?;
            images.hold(holder, &pinned).await?;
            let listener = progress.clone();
            images.pull(&pinned, &auth, &Listener::new(move |layer| listener.hear(&layer))).await
        });
        let late = || ImageError::Unreachable {
            registry: reference.registry().to_owned(),
            reason: format!("the image was not complete after {} s", deadline.as_secs()),
        };
        let image = pulled.await.unwrap_or_else(|_| Err(late()))?;
        progress.say(&format!("Image {} is here", image.pinned));
        for note in &image.notes {
            progress.say(note);
        }
        Ok(image)
    }

    pub(super) async fn provide_image_volumes(
        &self,
        launch: &Launch,
        wanted: &mut Wanted,
    ) -> Result<(), Failure> {
        let Some(images) = &self.images else {
            let words = "this agent does not run as root, so it cannot mount images";
            return Err((LaunchStage::Volume, words.to_owned()));
        };
        let mut number = 0;
        for volume in &mut wanted.volumes {
            let VolumeSource::Image(image) = &volume.source else { continue };
            let holder = of_volume(&launch.container, number);
            number = number.saturating_add(1);
            self.note(&launch.container, |kept| kept.image_volumes = number);
            let found = self.find_or_pull(images, launch, &holder, image).await.map_err(said)?;
            volume.source = VolumeSource::Layers(found.layers);
        }
        Ok(())
    }

    /// The text of the credentials that a task fetched, else of the node's own.
    pub fn credentials(&self, launch: &Launch) -> Option<String> {
        let own = || std::fs::read_to_string(self.config.images.docker_config.as_ref()?).ok();
        fetched(Path::new(&launch.directory)).or_else(own)
    }

    /// What came with the image, else what the task fetched, else the node's own.
    fn auth(&self, launch: &Launch, wanted: &WantedImage) -> Result<Auth, ImageError> {
        let own = self.config.images.auth()?;
        let given = wanted.credentials.as_deref().map(Auth::from_docker_config).transpose()?;
        let fetched = fetched(Path::new(&launch.directory)).map(|text| Auth::from_docker_config(&text));
        Ok(given.unwrap_or_default().or(&fetched.transpose()?.unwrap_or_default()).or(&own))
    }
}

/// The name under which the image of a container's volume is held.
pub(super) fn of_volume(container: &str, number: u32) -> String {
    format!("{container}{VOLUME}{number}")
}

/// Whose volume, and which, such a name means.
pub(super) fn volume_of(held: &str) -> Option<(&str, u32)> {
    let (container, number) = held.rsplit_once(VOLUME)?;
    Some((container, number.parse().ok()?))
}

fn said(error: ImageError) -> Failure {
    (LaunchStage::Image, error.to_string())
}

fn mode(bits: u32) -> std::fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

/// Credentials that the task's URIs brought into its sandbox. Nothing of the task runs yet; links are not followed.
fn fetched(sandbox: &Path) -> Option<String> {
    let plain = |path: &Path| path.symlink_metadata().ok().filter(std::fs::Metadata::is_file);
    let folder = sandbox.join(".docker");
    let real = folder.symlink_metadata().is_ok_and(|found| found.is_dir());
    let paths = [real.then(|| folder.join("config.json")), Some(sandbox.join(".dockercfg"))];
    let path = paths.into_iter().flatten().find(|path| plain(path).is_some())?;
    plain(&path).filter(|found| found.len() <= CREDENTIALS_MAX)?;
    std::fs::read_to_string(path).ok()
}

/// Lets the description follow an image's configuration, where the task says nothing else. The table is that of Mesos' `docker/runtime`.
fn follow(spec: &mut ContainerSpec, config: &ImageConfig, command: &CommandInfo) -> Result<(), String> {
    let own = std::mem::take(&mut spec.env);
    spec.env.insert("PATH".to_owned(), crate::config::TASK_PATH.to_owned());
    spec.env.extend(config.env.iter().cloned());
    // The node's `PATH` is none of the image's business.
    spec.env.extend(own.into_iter().filter(|(name, _)| name != "PATH"));
    for variable in command.environment.iter().flat_map(|environment| &environment.variables) {
        if let (true, Some(value)) = (variable.name == "PATH", &variable.value) {
            spec.env.insert("PATH".to_owned(), value.clone());
        }
    }
    spec.env.insert("MESOS_SANDBOX".to_owned(), SANDBOX.to_owned());
    spec.working_dir = config.working_dir.as_ref().map(PathBuf::from);
    spec.volumes = config.volumes.iter().map(PathBuf::from).collect();
    if command.shell() || command.value.as_ref().is_some_and(|value| !value.is_empty()) {
        return Ok(());
    }
    let arguments = &command.arguments;
    let mut argv = config.entrypoint.clone();
    match (argv.is_empty(), arguments.is_empty()) {
        (false, false) => argv.extend(arguments.iter().cloned()),
        (_, true) => argv.extend(config.cmd.iter().cloned()),
        // Without an entry point the image's program gets the arguments; without either the first of them is the program.
        (true, false) => {
            argv.extend(config.cmd.first().cloned());
            argv.extend(arguments.iter().cloned());
        }
    }
    if argv.is_empty() {
        return Err("the task has no command, and its image names none either".to_owned());
    }
    spec.command = Command::Argv(argv);
    Ok(())
}

/// Names to look for, best first. The image's own user counts where the framework might run it as root anyway.
fn who(launch: &Launch, config: &ImageConfig) -> String {
    let own = config.user.clone().filter(|user| !user.is_empty());
    match own {
        Some(own) if !launch.user_named && matches!(launch.user.as_str(), "" | "root" | "0") => own,
        _ => launch.user.clone(),
    }
}

fn resolve(image: &Image, wanted: &str) -> Result<plenum_images::User, String> {
    let missing = match image.user(wanted) {
        Ok(user) => return Ok(user),
        Err(missing) => missing,
    };
    // A user of the machine, as Mesos has it: images without users can then run as one, too.
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    match plenum_containers::user::resolve(wanted, &read("/etc/passwd"), &read("/etc/group")) {
        Ok(user) => Ok(plenum_images::User { uid: user.uid, gid: user.gid, groups: user.groups, home: None }),
        Err(_) => Err(missing.to_string()),
    }
}

/// Gives the sandbox with what was fetched into it to its user. Follows no link.
fn give(folder: &Path, uid: u32, gid: u32) -> std::io::Result<()> {
    if (uid, gid) == (0, 0) {
        return Ok(());
    }
    std::os::unix::fs::lchown(folder, Some(uid), Some(gid))?;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), uid, gid)?;
        } else {
            std::os::unix::fs::lchown(entry.path(), Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// The number of a signal by number or name, with or without `SIG`.
pub(super) fn stop_signal(config: &ImageConfig) -> Option<i32> {
    let text = config.stop_signal.as_deref()?.trim().to_ascii_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = if text.starts_with("SIG") { text } else { format!("SIG{text}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Tells the user what is being pulled.
#[derive(Clone)]
struct Progress {
    voice: Arc<Voice>,
    /// Ready layers.
    ready: Arc<Mutex<std::collections::BTreeSet<usize>>>,
}

impl Progress {
    fn open(sandbox: &Path) -> Self {
        Self { voice: Arc::new(Voice::new(sandbox)), ready: Arc::default() }
    }

    fn say(&self, line: &str) {
        self.voice.say(line);
    }

    fn hear(&self, layer: &LayerProgress) {
        if layer.stage != Stage::Ready {
            return;
        }
        let ready = {
            let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
            ready.insert(layer.index).then_some(ready.len())
        };
        if let Some(ready) = ready {
            let mib = layer.total as f64 / 1_048_576.0;
            self.say(&format!("Layer {ready} of {} is here ({mib:.1} MiB)", layer.layers));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn followed(config: &ImageConfig, command: &CommandInfo) -> Result<Vec<String>, String> {
        let mut spec = ContainerSpec::new("c", "/s", Command::Shell("said".to_owned()));
        follow(&mut spec, config, command)?;
        Ok(match spec.command {
            Command::Shell(line) => vec!["sh".to_owned(), line],
            Command::Argv(argv) => argv,
            Command::Hold => Vec::new(),
        })
    }

    #[test]
    fn commands_are_put_together_as_mesos_does() {
        let words = |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        let image = |entrypoint: &str, cmd: &str| ImageConfig {
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            ..ImageConfig::default()
        };
        let task = |shell: bool, value: Option<&str>, arguments: &str| CommandInfo {
            shell: Some(shell),
            value: value.map(str::to_owned),
            arguments: words(arguments),
            ..CommandInfo::default()
        };
        for (image, task, expect) in [
            (image("e f", "c d"), task(false, None, ""), "e f c d"),
            (image("e f", "c d"), task(false, None, "x y"), "e f x y"),
            (image("", "c d"), task(false, None, ""), "c d"),
            (image("", "c d"), task(false, None, "x y"), "c x y"),
            (image("", ""), task(false, None, "x y"), "x y"),
            (image("e", "c"), task(true, Some("said"), ""), "sh said"),
            (image("e", "c"), task(false, Some("v"), "v x"), "sh said"),
        ] {
            assert_eq!(followed(&image, &task).unwrap().join(" "), expect, "{image:?} {task:?}");
        }
        assert!(followed(&image("", ""), &task(false, None, "")).unwrap_err().contains("no command"));
    }

    #[test]
    fn environment_and_folder_are_the_images_unless_the_task_says_so() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let config = ImageConfig {
            env: vec![pair("PATH", "/image"), pair("A", "image"), pair("B", "image")],
            working_dir: Some("/srv".to_owned()),
            ..ImageConfig::default()
        };
        let mut spec = ContainerSpec::new("c", "/s", Command::Shell("x".to_owned()));
        spec.env.extend([pair("PATH", "/node"), pair("B", "task"), pair("MESOS_SANDBOX", "/s")]);
        follow(&mut spec, &config, &CommandInfo { value: Some("x".to_owned()), ..Default::default() })
            .unwrap();
        let env: Vec<(&str, &str)> = spec.env.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(env, [("A", "image"), ("B", "task"), ("MESOS_SANDBOX", SANDBOX), ("PATH", "/image")]);
        assert_eq!(spec.working_dir, Some(PathBuf::from("/srv")));
    }

    #[test]
    fn stop_signals_have_names_and_numbers() {
        for (text, expect) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("15", Some(15)),
            ("0", None),
            ("99", None),
            ("SIGNOT", None),
        ] {
            let config = ImageConfig { stop_signal: Some(text.to_owned()), ..ImageConfig::default() };
            assert_eq!(stop_signal(&config), expect, "{text}");
        }
    }
}
