//! Networks in namespaces of the test's own: nothing of the machine's is touched, and whatever a test started ends with its namespaces.

#[cfg(test)]
mod bridge;
#[cfg(test)]
mod cni;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod overlay;
#[cfg(test)]
mod world;
