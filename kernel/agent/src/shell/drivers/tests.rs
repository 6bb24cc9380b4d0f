//! Against a plugin that notes what it is asked, and does as it is told.

use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use tokio::net::UnixListener;

use super::*;

#[derive(Debug, Default)]
struct Plugin {
    asked: Mutex<Vec<String>>,
    volumes: Mutex<BTreeMap<String, Vec<String>>>,
    refuses_unmount: AtomicBool,
    hangs: AtomicBool,
    place: Mutex<PathBuf>,
}

impl Plugin {
    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    fn answer(&self, method: &str, question: &Value) -> Value {
        let text = |name: &str| question[name].as_str().unwrap_or_default().to_owned();
        let (name, id) = (text("Name"), text("ID"));
        self.asked.lock().unwrap().push(format!("{method} {name} {id}").trim().to_owned());
        let mut volumes = self.volumes.lock().unwrap();
        let fault = |words: &str| json!({ "Err": words });
        match (method, volumes.get_mut(&name)) {
            ("Create", None) => {
                assert_eq!(question["Opts"]["size"], "1G");
                volumes.insert(name, Vec::new());
                json!({ "Err": "" })
            }
            (_, None) => fault("no such volume"),
            ("Get", Some(_)) => json!({ "Volume": { "Name": name }, "Err": "" }),
            ("Mount", Some(mounted)) => {
                mounted.push(id);
                json!({ "Mountpoint": *self.place.lock().unwrap(), "Err": "" })
            }
            ("Unmount", Some(_)) if self.refuses_unmount.load(Ordering::SeqCst) => fault("busy"),
            ("Unmount", Some(mounted)) => match mounted.iter().position(|one| *one == id) {
                Some(at) => {
                    mounted.remove(at);
                    json!({ "Err": "" })
                }
                None => fault("not mounted"),
            },
            _ => fault("what?"),
        }
    }
}

async fn serve(State(plugin): State<Arc<Plugin>>, uri: http::Uri, body: String) -> axum::response::Response {
    let method = uri.path().trim_start_matches("/VolumeDriver.").to_owned();
    let answer = plugin.answer(&method, &serde_json::from_str(&body).unwrap());
    if plugin.hangs.load(Ordering::SeqCst) && method == "Mount" {
        std::future::pending::<()>().await;
    }
    answer.to_string().into_response()
}

struct World {
    folder: tempfile::TempDir,
    plugin: Arc<Plugin>,
    config: Config,
    drivers: Drivers,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let plugin = Arc::new(Plugin::default());
    *plugin.place.lock().unwrap() = folder.path().join("data");
    std::fs::create_dir(folder.path().join("data")).unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let listener = UnixListener::bind(folder.path().join("stand-in.sock")).unwrap();
    let router = Router::new().fallback(serve).with_state(plugin.clone());
    tokio::spawn(async move { axum::serve(listener, router).await });
    let config = Config {
        volume_drivers: vec!["stand-in".to_owned(), "none".to_owned()],
        volume_plugins: vec![folder.path().to_path_buf()],
        volume_driver_timeout: 2,
        ..Config::default()
    };
    let drivers = Drivers::open(&config, &folder.path().join("work")).unwrap();
    World { folder, plugin, config, drivers }
}

fn volume(driver: &str) -> DriverVolume {
    let options = BTreeMap::from([("size".to_owned(), "1G".to_owned())]);
    DriverVolume { driver: driver.to_owned(), name: "v".to_owned(), options }
}

impl World {
    fn again(&self) -> Drivers {
        Drivers::open(&self.config, &self.folder.path().join("work")).unwrap()
    }

    fn records(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("work/volume_drivers")).unwrap().count()
    }

    async fn until(&self, done: impl Fn() -> bool) {
        for _ in 0..1000 {
            if done() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it does not come to that: {:?}", self.plugin);
    }
}

#[tokio::test]
async fn a_volume_is_made_mounted_and_given_back() {
    let world = world();
    let (drivers, wanted) = (&world.drivers, volume("stand-in"));
    drivers.mount("c1", &[&wanted, &wanted]).await.unwrap();
    assert_eq!(drivers.mountpoint("c1", &wanted), Some(world.folder.path().join("data")));
    assert_eq!(world.plugin.asked(), ["Get v", "Create v", "Mount v c1"], "one mount for two places");
    drivers.mount("c2", &[&wanted]).await.unwrap();
    assert_eq!(world.plugin.asked(), ["Get v", "Mount v c2"], "it is there now");
    assert_eq!(world.records(), 2);
    drivers.release("c1");
    drivers.release("none");
    world.until(|| world.records() == 1).await;
    assert_eq!(world.plugin.asked(), ["Unmount v c1"]);
    assert_eq!(world.plugin.volumes.lock().unwrap()["v"], ["c2"]);
}

#[tokio::test]
async fn what_an_agent_that_was_killed_left_is_given_back() {
    let world = world();
    let wanted = volume("stand-in");
    world.drivers.mount("c1", &[&wanted]).await.unwrap();
    // Killed while the plugin mounts: it did, and nobody heard.
    world.plugin.hangs.store(true, Ordering::SeqCst);
    let one = [&wanted];
    let given_up = tokio::time::timeout(Duration::from_millis(200), world.drivers.mount("c2", &one));
    assert!(given_up.await.is_err());
    let late = world.drivers.mount("c3", &[&wanted]).await.unwrap_err();
    assert!(late.contains("stand-in") && late.contains("no answer within 2 s"), "{late}");
    world.plugin.hangs.store(false, Ordering::SeqCst);
    assert_eq!(world.plugin.volumes.lock().unwrap()["v"], ["c1", "c2", "c3"]);
    let later = world.again();
    assert_eq!(later.found(), ["c1", "c2", "c3"]);
    assert!(later.mountpoint("c1", &wanted).is_some() && later.mountpoint("c2", &wanted).is_none());
    for container in ["c2", "c3"] {
        later.release(container);
    }
    world.until(|| world.records() == 1).await;
    assert_eq!(world.plugin.volumes.lock().unwrap()["v"], ["c1"], "what lives keeps its own");
}

#[tokio::test]
async fn a_plugin_that_cannot_unmount_yet_is_asked_again() {
    let world = world();
    let wanted = volume("stand-in");
    world.drivers.mount("c1", &[&wanted]).await.unwrap();
    world.plugin.asked();
    world.plugin.refuses_unmount.store(true, Ordering::SeqCst);
    world.drivers.release("c1");
    world.until(|| world.plugin.asked.lock().unwrap().len() >= 2).await;
    assert_eq!(world.plugin.asked(), ["Unmount v c1", "Get v"]);
    assert_eq!(world.records(), 1);
    world.plugin.refuses_unmount.store(false, Ordering::SeqCst);
    world.until(|| world.records() == 0).await;
    // Its volume was removed behind everybody's back.
    world.drivers.mount("c2", &[&wanted]).await.unwrap();
    world.plugin.volumes.lock().unwrap().clear();
    world.drivers.release("c2");
    world.until(|| world.records() == 0).await;
}

#[tokio::test]
async fn refusals_name_the_driver_and_what_helps() {
    let world = world();
    for (driver, place, word) in [
        ("other", "data", "agent.volume_drivers"),
        ("none", "data", "no plugin of this name"),
        ("stand-in", "missing", "where no folder is"),
        ("stand-in", "data/../..", "as the place of the volume"),
    ] {
        *world.plugin.place.lock().unwrap() = world.folder.path().join(place);
        let words = world.drivers.mount("c", &[&volume(driver)]).await.unwrap_err();
        assert!(words.contains(driver) && words.contains(word), "{words}");
    }
}
