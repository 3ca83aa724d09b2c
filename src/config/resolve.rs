//! Resolves a configuration: the file takes precedence over the preset, and the preset over the default.

use std::sync::Arc;

use super::{Config, MetricConfig};
use crate::rank::{RankPlan, Roles};
use crate::reward::{MetricSettings, PresetValues, TokenCounter, WeightedMetric, build_metric, metric_kinds};
use crate::rollout::{DEFAULT_POLICY_TOKENS, ModelRole, ReplySettings, RolloutSettings};
use crate::{Error, Result};

impl Config {
    /// Resolves the configuration for rankings. `count_tokens` counts the tokens of a text by the policy's tokenizer.
    ///
    /// # Errors
    /// As [`Config::validate`], or a role or a metric names a model that isn't there.
    pub fn plan(&self, count_tokens: TokenCounter) -> Result<RankPlan> {
        self.plan_with(count_tokens, &[])
    }

    /// As [`Config::plan`], where the host brings the models `hosts` itself.
    pub(crate) fn plan_with(&self, count_tokens: TokenCounter, hosts: &[String]) -> Result<RankPlan> {
        self.resolve(count_tokens, hosts).map_err(|error| self.locate(error))
    }

    fn resolve(&self, count_tokens: TokenCounter, hosts: &[String]) -> Result<RankPlan> {
        self.validate_sections()?;
        let preset = self.preset_values()?;
        let default = RankPlan::new(count_tokens);
        let rollout = &self.rollout;
        let roles = self.resolve_roles(hosts)?;
        let metrics = self.build_metrics()?;
        self.check_models(&metrics, hosts)?;
        let role_style = rollout.role_style.or(preset.as_ref().map(|preset| preset.role_style)).unwrap_or_default();
        Ok(RankPlan {
            window: rollout.window.or(preset.as_ref().map(|preset| preset.window)).unwrap_or(default.window),
            samples: rollout.samples.or(preset.as_ref().map(|preset| preset.samples)).unwrap_or(default.samples),
            seed: self.seed.unwrap_or(default.seed),
            rollout: RolloutSettings {
                policy: self.generation(&roles, ModelRole::Policy, rollout.max_policy_tokens, DEFAULT_POLICY_TOKENS),
                user: self.generation(&roles, ModelRole::User, rollout.max_user_tokens, role_style.max_tokens()),
                common_random_numbers: rollout.common_random_numbers.unwrap_or(default.rollout.common_random_numbers),
                on_role_confusion: rollout.on_role_confusion.unwrap_or_default(),
            },
            allocation: rollout.allocation.as_ref().map(|allocation| allocation.settings()).unwrap_or_default(),
            prune_after_first_turn: rollout.prune_after_first_turn.unwrap_or_default(),
            real_users: rollout.real_users.clone(),
            simulator: rollout.simulator(role_style),
            metrics,
            combination: preset.as_ref().map(|preset| preset.combination).unwrap_or_default(),
            on_metric_failure: self.on_metric_failure,
            on_rollout_failure: rollout.on_failure,
            roles,
            ..default
        })
    }

    fn generation(&self, roles: &Roles, role: ModelRole, limit: Option<usize>, default: usize) -> ReplySettings {
        let model = roles.resolve(role).and_then(|(_, name)| self.models.get(name));
        ReplySettings {
            max_tokens: limit.or(model.and_then(|model| model.max_tokens)).unwrap_or(default),
            sampling: model.map(|model| model.sampling()).unwrap_or_default(),
        }
    }

    fn preset_values(&self) -> Result<Option<PresetValues>> {
        self.preset.map(|preset| preset.values(self.task)).transpose()
    }

    /// The policy's model: the one that is named, or the only one.
    ///
    /// # Errors
    /// A role names a model that isn't there.
    pub(crate) fn policy_model(&self, hosts: &[String]) -> Result<Option<String>> {
        let roles = self.resolve_roles(hosts).map_err(|error| self.locate(error))?;
        Ok(roles.resolve(ModelRole::Policy).map(|(_, name)| name.to_owned()))
    }

    /// The model of each role: the one that is named, or the only one. The extractor is not filled in, because the
    /// judge extracts where there is none.
    fn resolve_roles(&self, hosts: &[String]) -> Result<Roles> {
        let mut names = self.models.keys().chain(hosts);
        let only = names.next().filter(|_| names.next().is_none());
        let mut roles = Roles::default();
        for (role, named, fallback) in [
            (ModelRole::Policy, &self.roles.policy, only),
            (ModelRole::User, &self.roles.user, only),
            (ModelRole::Judge, &self.roles.judge, only),
            (ModelRole::Extractor, &self.roles.extractor, None),
        ] {
            if let Some(name) = named {
                self.check_known(name, hosts)
                    .map_err(|e| e.context(format!("roles.{} = \"{name}\"", role.as_str())))?;
            }
            if let Some(name) = named.as_ref().or(fallback) {
                roles.models.insert(role, name.clone());
            }
        }
        Ok(roles)
    }

    /// Refuses a metric that asks a model which is not there.
    fn check_models(&self, metrics: &[WeightedMetric], hosts: &[String]) -> Result<()> {
        for (at, WeightedMetric { name, metric, .. }) in metrics.iter().enumerate() {
            for model in metric.models() {
                self.check_known(&model, hosts)
                    .map_err(|e| e.context(format!("metrics[{at}]: metric `{name}` asks `{model}`")))?;
            }
        }
        Ok(())
    }

    fn check_known(&self, model: &str, hosts: &[String]) -> Result<()> {
        let known: Vec<&str> = self.models.keys().chain(hosts).map(String::as_str).collect();
        if known.contains(&model) {
            return Ok(());
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Err(Error::invalid_config(format!("there is no [models.{model}]. Models: {known}")))
    }

    /// Builds the metrics that are listed, or the preset's. There may be none: a configuration without metrics can
    /// still generate, and only rankings refuse it.
    pub(super) fn build_metrics(&self) -> Result<Vec<WeightedMetric>> {
        let preset = self.preset_values()?;
        if let Some(listed) = &self.metrics {
            let of = |(at, config)| build(config, preset.as_ref()).map_err(|e| e.context(format!("metrics[{at}]")));
            let metrics = listed.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?;
            WeightedMetric::check_all(&metrics)?;
            return Ok(metrics);
        }
        let Some(preset) = preset else { return Ok(Vec::new()) };
        let of_kind = |kind: &str| {
            if !metric_kinds().any(|known| known == kind) {
                return Err(Error::unsupported(format!(
                    "the preset scores this task by metric `{kind}`, which this version doesn't have: list the metrics to use under [[metrics]]"
                )));
            }
            build(&MetricConfig { kind: kind.to_owned(), ..MetricConfig::default() }, Some(&preset))
        };
        preset.kinds()?.into_iter().map(of_kind).collect()
    }
}

/// Builds one metric. Its own settings take precedence over the preset's for its kind.
fn build(config: &MetricConfig, preset: Option<&PresetValues>) -> Result<WeightedMetric> {
    let kind = config.kind.as_str();
    let presets = preset.map(|preset| MetricSettings::new(preset.settings(kind))).unwrap_or_default();
    let settings = config.settings.clone().or(presets);
    let weight = config.weight.or(preset.map(|preset| preset.weight(kind))).unwrap_or(1.0);
    let extract = config.extract.clone().or(preset.and_then(|preset| preset.extract(kind)));
    let thought = preset.is_some_and(|preset| preset.thought);
    let extract = extract.map(|extract| extract.build(thought).map(Arc::new)).transpose()?;
    let metric = WeightedMetric::new(build_metric(kind, settings)?, weight);
    if config.extract.is_some() && !metric.metric.takes_extract() {
        return Err(Error::invalid_config(format!(
            "extract is set, and metric `{kind}` looks at the conversation alone: leave extract out"
        )));
    }
    Ok(WeightedMetric { name: config.name.clone().unwrap_or(metric.name), extract, ..metric })
}
