//! Apps that leave the number of their instances to the scheduler.

use super::super::super::app::App;
use super::super::super::id::PathId;
use super::rules_of;

#[test]
fn rules_of_autoscaling() {
    let cpu = r#""metrics":[{"type":"cpu","target":0.5}]"#;
    let asked = |more: &str| format!(r#"{{"autoscale":{{{more}}}}}"#);
    let requests = r#""metrics":[{"type":"requests","target":9,"counter":"c","portIndex":1}]"#;
    let index = "must address an element of the ports array or container port mappings.";
    let blind = "must be at least 1: of no instance nothing is measured";
    let at = |start: &str, min: u32| {
        asked(&format!(
            r#""min":0,"max":5,"schedules":[{{"start":"{start}","minutes":60,"min":{min},"max":3}}]"#
        ))
    };
    let night = |max: u32| {
        let hours = format!(r#""schedules":[{{"start":"22:00","minutes":60,"min":0,"max":{max}}}]"#);
        asked(&format!(r#""min":1,"max":5,{cpu},{hours}"#))
    };
    let single = r#"{"labels":{"MARATHON_SINGLE_INSTANCE_APP":"true"},"upgradeStrategy":{"minimumHealthCapacity":0,"maximumOverCapacity":0},
        "autoscale":{"min":1,"max":2,"metrics":[{"type":"cpu","target":0.5}]}}"#;
    let cases = [
        (asked(&format!(r#""min":1,"max":5,{cpu}"#)), None),
        (at("08:00", 0), None),
        (night(0), None),
        (night(3), Some(("/autoscale/schedules(0)/min", blind))),
        (
            asked(&format!(r#""min":6,"max":5,{cpu}"#)),
            Some(("/autoscale/min", "(6) must be less or equal to max, which is 5")),
        ),
        (asked(r#""min":1,"max":5"#), Some(("/autoscale", "needs metrics or schedules"))),
        (asked(&format!(r#""min":0,"max":5,{cpu}"#)), Some(("/autoscale/min", blind))),
        (
            asked(r#""min":1,"max":5,"metrics":[{"type":"cpu","target":0.5},{"type":"cpu","target":0.6}]"#),
            Some(("/autoscale/metrics", "each type may be there once")),
        ),
        (asked(&format!(r#""min":1,"max":5,{requests}"#)), Some(("/autoscale/metrics(0)/portIndex", index))),
        (at("25:00", 1), Some(("/autoscale/schedules(0)/start", "must be a time of day, HH:MM (UTC)"))),
        (
            at("08:00", 4),
            Some(("/autoscale/schedules(0)/min", "(4) must be less or equal to max, which is 3")),
        ),
        (
            r#"{"mem":0,"autoscale":{"min":1,"max":5,"metrics":[{"type":"memory","target":0.5}]}}"#
                .to_owned(),
            Some(("/autoscale/metrics(0)", "is a share of mem, of which the app asks for none")),
        ),
        (single.to_owned(), Some(("/autoscale", "Single instance app may only have one instance"))),
    ];
    for (body, wrong) in &cases {
        let wrong: Vec<(&str, &str)> = wrong.iter().copied().collect();
        rules_of(serde_json::from_str(body).unwrap(), &wrong);
    }
}

#[test]
fn why_there_are_none_is_stored_and_not_shown() {
    let mut app = App::new(PathId::parse("/a").unwrap(), "*");
    app.resting = true;
    assert!(app.to_json().get("resting").is_none());
    assert_eq!(serde_json::to_value(&app).unwrap()["resting"], true);
}
