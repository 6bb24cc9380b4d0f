//! What this machine lets the runtime do, said once and in words.

/// Something that separates or limits containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// Stable name, such as `pid namespace` or `memory limit`.
    pub name: &'static str,
    /// Whether it is in force for containers launched now.
    pub on: bool,
    /// How, or why not.
    pub why: String,
}

/// Everything that is on or off.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Isolation {
    /// In a fixed order.
    pub features: Vec<Feature>,
}

impl Isolation {
    /// Notes a feature.
    pub fn note(&mut self, name: &'static str, on: bool, why: impl Into<String>) {
        self.features.push(Feature { name, on, why: why.into() });
    }

    /// Whether a feature is on; false for one that is unknown.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature.name == name && feature.on)
    }

    /// The features that are off.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.features.iter().filter(|feature| !feature.on)
    }
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for feature in &self.features {
            writeln!(f, "{:<22} {:<4} {}", feature.name, if feature.on { "on" } else { "off" }, feature.why)?;
        }
        Ok(())
    }
}
