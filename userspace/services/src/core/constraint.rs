//! Placement rules: how they are written and what they allow. Source: Marathon's constraint operators.

use std::collections::BTreeMap;

use regex::Regex;

/// A rule that is well-formed.
#[derive(Clone, Debug)]
pub struct Constraint {
    /// `hostname`, `@region`, `@zone` or an attribute's name.
    pub field: String,
    rule: Rule,
}

#[derive(Clone, Debug)]
enum Rule {
    Unique,
    Cluster(Option<String>),
    GroupBy(usize),
    Like(Regex),
    Unlike(Regex),
    Is(String),
    MaxPer(usize),
}

/// Where something is or would be: what rules look at.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Location {
    /// The node's name.
    pub host: String,
    /// The node's attributes, as text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
    /// The node's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The node's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

impl Location {
    /// The value of a field of a rule.
    pub fn field(&self, name: &str) -> Option<&str> {
        match name {
            "hostname" | "@hostname" => Some(&self.host),
            "@region" => self.region.as_deref(),
            "@zone" => self.zone.as_deref(),
            attribute => self.attributes.get(attribute).map(String::as_str),
        }
    }
}

impl Constraint {
    /// Reads `[field, OPERATOR, value?]`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(parts: &[String]) -> Result<Self, String> {
        let (field, operator, value) = match parts {
            [field, operator] => (field, operator, None),
            [field, operator, value] => (field, operator, Some(value.as_str())),
            _ => return Err("Each constraint must have either 2 or 3 fields".to_owned()),
        };
        if field.is_empty() {
            return Err("The field must not be empty".to_owned());
        }
        let number = |what: &str| match value.map(str::parse::<usize>) {
            Some(Ok(n)) if n > 0 => Ok(n),
            _ => Err(format!("Value was specified but is not a number: {what} needs one above 0")),
        };
        let regex = |what: &str| {
            let text =
                value.ok_or_else(|| format!("A regular expression value must be provided for {what}"))?;
            Regex::new(&format!("^(?:{text})$")).map_err(|_| format!("Invalid regular expression: {text}"))
        };
        let rule = match operator.as_str() {
            "UNIQUE" if value.is_some_and(|v| !v.is_empty()) => {
                return Err("Value specified but not used".to_owned());
            }
            "UNIQUE" => Rule::Unique,
            "CLUSTER" => Rule::Cluster(value.filter(|v| !v.is_empty()).map(str::to_owned)),
            "GROUP_BY" if value.is_none_or(str::is_empty) => Rule::GroupBy(1),
            "GROUP_BY" => Rule::GroupBy(number("GROUP_BY")?),
            "LIKE" => Rule::Like(regex("LIKE")?),
            "UNLIKE" => Rule::Unlike(regex("UNLIKE")?),
            "IS" => Rule::Is(value.ok_or("IS needs a value")?.to_owned()),
            "MAX_PER" => Rule::MaxPer(number("MAX_PER")?),
            _ => {
                let known = "UNIQUE, CLUSTER, GROUP_BY, LIKE, UNLIKE, MAX_PER, IS";
                return Err(format!("Operator must be one of the following {known}"));
            }
        };
        Ok(Self { field: field.clone(), rule })
    }

    /// Whether it wants instances apart.
    pub fn spreads(&self) -> bool {
        matches!(self.rule, Rule::GroupBy(_) | Rule::MaxPer(_))
    }

    /// Whether it matters where the other instances are.
    fn counts(&self) -> bool {
        self.spreads() || matches!(self.rule, Rule::Unique | Rule::Cluster(None))
    }

    /// Whether an instance may go to `there`, with the others of its app as `neighbours` says.
    ///
    /// # Errors
    /// `(needed, had)` in words.
    pub fn check(&self, there: &Location, neighbours: &Neighbours) -> Result<(), (String, String)> {
        let field = &self.field;
        let Some(value) = there.field(field) else {
            if matches!(self.rule, Rule::Unlike(_)) {
                return Ok(());
            }
            return Err((format!("a value for {field}"), "none".to_owned()));
        };
        let had = || format!("{field} is {value}");
        let verdict = |good: bool, needed: String| if good { Ok(()) } else { Err((needed, had())) };
        match &self.rule {
            Rule::Is(want) => verdict(want == value, format!("{field} is {want}")),
            Rule::Like(regex) => verdict(regex.is_match(value), format!("{field} matches {}", bare(regex))),
            Rule::Unlike(regex) => {
                verdict(!regex.is_match(value), format!("{field} does not match {}", bare(regex)))
            }
            Rule::Cluster(Some(want)) => verdict(want == value, format!("{field} is {want}")),
            rule => self.check_counts(rule, value, neighbours),
        }
    }

    fn check_counts(
        &self,
        rule: &Rule,
        value: &str,
        neighbours: &Neighbours,
    ) -> Result<(), (String, String)> {
        let field = &self.field;
        let none = BTreeMap::new();
        let counts = neighbours.0.get(field).unwrap_or(&none);
        let here = counts.get(value).copied().unwrap_or(0);
        let had = format!("{here} at {field} {value}");
        match rule {
            Rule::Unique if here > 0 => Err((format!("no other instance at the same {field}"), had)),
            Rule::MaxPer(most) if here >= *most => {
                Err((format!("fewer than {most} at the same {field}"), had))
            }
            Rule::Cluster(_) => match counts.keys().next() {
                Some(first) if first != value => Err((format!("{field} is {first}, as for the others"), had)),
                _ => Ok(()),
            },
            Rule::GroupBy(groups) => {
                let least =
                    if counts.len() < *groups { 0 } else { counts.values().copied().min().unwrap_or(0) };
                if here <= least {
                    Ok(())
                } else {
                    Err((format!("at most {least} at the same {field}"), had))
                }
            }
            _ => Ok(()),
        }
    }
}

/// Where the other instances of an app are, as far as its rules ask: how many have which value of a field.
#[derive(Clone, Debug, Default)]
pub struct Neighbours(BTreeMap<String, BTreeMap<String, usize>>);

impl Neighbours {
    /// Without any, for the fields that `rules` count by.
    pub fn new<'a>(rules: impl Iterator<Item = &'a Constraint>) -> Self {
        let counting = rules.filter(|rule| rule.counts());
        Self(counting.map(|rule| (rule.field.clone(), BTreeMap::new())).collect())
    }

    /// Whether any rule looks at them.
    pub fn matter(&self) -> bool {
        !self.0.is_empty()
    }

    /// One more, at `at`.
    pub fn add(&mut self, at: &Location) {
        for (field, counts) in &mut self.0 {
            let Some(value) = at.field(field) else { continue };
            match counts.get_mut(value) {
                Some(count) => *count = count.saturating_add(1),
                None => drop(counts.insert(value.to_owned(), 1)),
            }
        }
    }

    /// How many have the same value of the rule's field as `there`.
    pub fn beside(&self, rule: &Constraint, there: &Location) -> usize {
        let count = |value| self.0.get(&rule.field)?.get(value).copied();
        there.field(&rule.field).and_then(count).unwrap_or(0)
    }
}

/// Whether a text is a regular expression.
pub(super) fn is_regex(text: &str) -> bool {
    Regex::new(&format!("^(?:{text})$")).is_ok()
}

fn bare(regex: &Regex) -> &str {
    let text = regex.as_str();
    text.strip_prefix("^(?:").and_then(|t| t.strip_suffix(")$")).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: &str, rack: &str) -> Location {
        let attributes = [("rack".to_owned(), rack.to_owned())].into();
        Location { host: host.to_owned(), attributes, ..Location::default() }
    }

    #[test]
    fn operators() {
        let placed = [at("h1", "a"), at("h2", "a"), at("h3", "b")];
        // rule, host, rack, allowed
        for (rule, host, rack, good) in [
            ("hostname UNIQUE", "h1", "a", false),
            ("hostname UNIQUE", "h9", "a", true),
            ("rack CLUSTER a", "h9", "b", false),
            ("rack CLUSTER a", "h9", "a", true),
            ("rack CLUSTER", "h9", "z", false),
            ("rack MAX_PER 2", "h9", "a", false),
            ("rack MAX_PER 2", "h9", "b", true),
            ("rack GROUP_BY 2", "h9", "a", false),
            ("rack GROUP_BY 2", "h9", "b", true),
            ("rack GROUP_BY 3", "h9", "b", false),
            ("rack GROUP_BY 3", "h9", "c", true),
            ("rack LIKE [ab]", "h9", "b", true),
            ("rack LIKE [ab]", "h9", "bb", false),
            ("rack UNLIKE [ab]", "h9", "b", false),
            ("none UNLIKE x", "h9", "b", true),
            ("none LIKE x", "h9", "b", false),
            ("@hostname IS h9", "h9", "b", true),
            ("@zone IS z", "h9", "b", false),
        ] {
            let parts: Vec<String> = rule.split(' ').map(str::to_owned).collect();
            let rule_ = Constraint::parse(&parts).unwrap();
            let mut neighbours = Neighbours::new(std::iter::once(&rule_));
            placed.iter().for_each(|one| neighbours.add(one));
            assert_eq!(rule_.check(&at(host, rack), &neighbours).is_ok(), good, "{rule} at {host} {rack}");
        }
    }

    #[test]
    fn malformed_rules_are_refused() {
        for bad in [
            "rack",
            "rack NEAR",
            "rack MAX_PER x",
            "rack MAX_PER",
            "rack LIKE (",
            "rack LIKE",
            "rack UNIQUE 3",
        ] {
            let parts: Vec<String> = bad.split(' ').map(str::to_owned).collect();
            assert!(Constraint::parse(&parts).is_err(), "{bad}");
        }
    }
}
