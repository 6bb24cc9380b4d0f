//! A framework's record: made, described, changed, forgotten. UPDATE_FRAMEWORK.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use plenum_api::internal::{self, master_message::Kind};
use plenum_api::{Millis, mesos, scheduler};
use plenum_store::Op;

use super::event::{Answer, Caller, ReplyId};
use super::registry::{self, FrameworkRecord};
use super::state::{Abilities, AgentKey, Framework, FrameworkKey, Stream};
use super::{Master, Pending, Turn, validate};

/// A description that is to be in force once it is stored.
#[derive(Debug)]
pub(super) struct Change {
    pub info: mesos::FrameworkInfo,
    pub suppressed: BTreeSet<String>,
    pub constraints: Option<scheduler::OfferConstraints>,
}

/// A subscription that waits for the store.
#[derive(Debug)]
pub(super) struct Subscription {
    pub stream: Stream,
    pub change: Change,
}

/// The roles a framework takes resources for.
pub(super) fn roles(info: &mesos::FrameworkInfo) -> Vec<String> {
    if Abilities::of(info).multi_role {
        info.roles.clone()
    } else {
        vec![info.role.clone().unwrap_or_else(|| "*".into())]
    }
}

impl Master {
    /// A record for a framework nobody knows yet. It is shown and offered to once it is stored.
    pub(super) fn add_framework(
        &mut self,
        t: &mut Turn<'_>,
        id: Option<String>,
        info: &mesos::FrameworkInfo,
        caller: &Caller,
    ) -> FrameworkKey {
        let id = id.unwrap_or_else(|| {
            let id = format!("{}-{:04}", self.id, self.next.framework);
            self.next.framework += 1;
            id
        });
        let mut info = info.clone();
        info.id = Some(mesos::FrameworkId { value: id.clone() });
        self.insert_framework(id.into(), info, Arc::clone(&caller.uid), t.now.wall)
    }

    pub(super) fn insert_framework(
        &mut self,
        id: Arc<str>,
        info: mesos::FrameworkInfo,
        principal: Arc<str>,
        registered: Millis,
    ) -> FrameworkKey {
        let key = self.next_framework;
        self.next_framework += 1;
        let framework = Framework {
            id: Arc::clone(&id),
            abilities: Abilities::of(&info),
            info: Arc::new(info),
            principal,
            registered,
            reregistered: registered,
            recovered: false,
            stream: None,
            subscribing: None,
            stored: false,
            seen: false,
            announced: false,
            leaving: false,
            suppressed: BTreeSet::new(),
            constraints: None,
            tasks: HashMap::new(),
            unreachable: BTreeMap::new(),
            completed: VecDeque::new(),
            offers: BTreeSet::new(),
            heartbeat_at: Millis(0),
            failover_at: None,
            view: None,
        };
        self.frameworks.insert(key, framework);
        self.framework_keys.insert(id, key);
        key
    }

    /// Forgets a framework that was never stored.
    pub(super) fn forget_framework(&mut self, key: FrameworkKey) {
        if let Some(framework) = self.frameworks.remove(&key) {
            self.framework_keys.remove(&framework.id);
        }
    }

    /// What a (re)subscription or an update makes of the description. Fields that cannot change keep what they were.
    pub(super) fn prepare_change(
        &self,
        key: FrameworkKey,
        mut info: mesos::FrameworkInfo,
        suppressed: Vec<String>,
        constraints: Option<scheduler::OfferConstraints>,
    ) -> Result<Change, String> {
        let framework = self.frameworks.get(&key).ok_or("Framework has been removed")?;
        info.id = Some(mesos::FrameworkId { value: framework.id.to_string() });
        if framework.stored {
            if info.principal != framework.info.principal {
                return Err("Changing framework's principal is not allowed.".into());
            }
            info.user.clone_from(&framework.info.user);
            info.checkpoint = framework.info.checkpoint;
        }
        Ok(Change { info, suppressed: suppressed.into_iter().collect(), constraints })
    }

    /// Stores the description.
    pub(super) fn framework_op(&self, key: FrameworkKey, info: &mesos::FrameworkInfo) -> Op {
        let framework = self.frameworks.get(&key);
        let record = FrameworkRecord {
            info: info.clone(),
            principal: framework.map(|f| f.principal.to_string()).unwrap_or_default(),
            registered: framework.map(|f| f.registered).unwrap_or_default(),
        };
        let id = framework.map(|f| f.id.to_string()).unwrap_or_default();
        registry::put_framework(&id, &record)
    }

    /// UPDATE_FRAMEWORK: a new description without a new stream.
    pub(super) fn update_framework(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        key: FrameworkKey,
        update: scheduler::call::UpdateFramework,
    ) {
        match self.check_update(key, update) {
            Ok(change) => {
                let op = self.framework_op(key, &change.info);
                self.commit(t, vec![op], Pending::Update(reply, key, Box::new(change)));
            }
            Err(reason) => t.reply(reply, Answer::bad(reason)),
        }
    }

    fn check_update(
        &self,
        key: FrameworkKey,
        update: scheduler::call::UpdateFramework,
    ) -> Result<Change, String> {
        let framework = self.frameworks.get(&key).ok_or("Framework cannot be found")?;
        let info = update.framework_info;
        validate::framework_info(&info)?;
        validate::roles_subset(&info, &update.suppressed_roles, update.offer_constraints.as_ref())?;
        if info.id.as_ref().map(|id| id.value.as_str()) != Some(&framework.id) {
            return Err("'UpdateFramework.framework_info.id' must be the framework's id".into());
        }
        if info.user != framework.info.user {
            return Err(format!(
                "Updating 'FrameworkInfo.user' is unsupported; attempted to update from '{}' to '{}'",
                framework.info.user, info.user
            ));
        }
        if info.checkpoint.unwrap_or(false) != framework.info.checkpoint.unwrap_or(false) {
            return Err("Updating 'FrameworkInfo.checkpoint' is unsupported".into());
        }
        if info.principal != framework.info.principal {
            return Err("Changing framework's principal is not allowed.".into());
        }
        self.prepare_change(key, info, update.suppressed_roles, update.offer_constraints)
    }

    pub(super) fn update_committed(
        &mut self,
        t: &mut Turn<'_>,
        reply: ReplyId,
        key: FrameworkKey,
        change: Change,
        result: Result<(), String>,
    ) {
        if let Err(reason) = result {
            t.reply(reply, Answer::Refused(503, format!("the update could not be stored: {reason}")));
            return;
        }
        t.reply(reply, Answer::Done);
        let keep: BTreeSet<String> = roles(&change.info).into_iter().collect();
        self.rescind_roles(t, key, &keep);
        self.apply_change(t, key, change);
        self.allocate_soon(t);
        self.framework_changed(t, key);
    }

    /// Tells each agent with something of the framework what it is like now.
    pub(super) fn tell_agents_of(&self, t: &mut Turn<'_>, key: FrameworkKey, info: &mesos::FrameworkInfo) {
        for agent in self.agents_of(key) {
            self.tell(
                t,
                agent,
                Kind::UpdateFramework(internal::UpdateFramework { framework_info: info.clone() }),
            );
        }
    }

    /// Agents that run tasks or executors of the framework.
    pub(super) fn agents_of(&self, key: FrameworkKey) -> BTreeSet<AgentKey> {
        let Some(framework) = self.frameworks.get(&key) else { return BTreeSet::new() };
        let mut agents: BTreeSet<AgentKey> = framework
            .tasks
            .values()
            .filter_map(|task| self.tasks.get(*task))
            .map(|task| task.agent)
            .collect();
        for (agent_key, agent) in self.agents.iter() {
            if agent.executors.keys().any(|(framework, _)| *framework == key) {
                agents.insert(agent_key);
            }
        }
        agents
    }

    /// The framework's view is stale.
    pub(super) fn touch_framework(&mut self, key: FrameworkKey) {
        if let Some(framework) = self.frameworks.get_mut(&key) {
            framework.view = None;
        }
        self.touch();
    }
}
