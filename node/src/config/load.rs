//! Reads the configuration: file, then environment, then the checks that types cannot do.

use std::{
    io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    error::Kind,
    providers::{Format as _, Toml},
    value::{Dict, Map, Value},
};

use super::{
    Config,
    check::{self, CheckError},
};

/// What every variable that overrides a key begins with.
const ENV_PREFIX: &str = "HELIOGRAPH_";
/// What separates a section from its key in a variable's name. Names without it are not ours:
/// Kubernetes sets `HELIOGRAPH_SERVICE_HOST` for a service of that name.
const ENV_SEPARATOR: &str = "__";

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key is unknown, missing, or has a value of the wrong kind.
    #[error("{place}: {problem}")]
    Shape {
        /// The file, or the environment variable.
        place: String,
        /// The key and what is wrong with it.
        problem: String,
    },
    /// A value is well formed and still cannot work.
    #[error("{path}: {source}")]
    Check {
        /// The file.
        path: PathBuf,
        /// Which key, and the fix.
        source: CheckError,
    },
}

/// Reads `path`, applies overrides from `environment` and checks the whole.
///
/// Paths in it are relative to the file's directory.
///
/// # Errors
/// The first thing that is wrong, with its key and the fix.
pub(crate) fn load(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let mut figment = Figment::from(Toml::string(&text));
    for (name, value) in environment {
        if let Some(variable) = Variable::new(name, &value) {
            figment = figment.merge(variable);
        }
    }
    let mut config: Config = figment.extract().map_err(|error| explain(path, error))?;
    let base = path.parent().unwrap_or(Path::new("")).to_owned();
    config.paths_mut().for_each(|path| *path = base.join(&*path));
    check::check(&config).map_err(|source| ConfigError::Check { path: path.to_owned(), source })?;
    Ok(config)
}

impl Config {
    fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        [
            &mut self.node.data_dir,
            &mut self.peer.certificate_file,
            &mut self.peer.private_key_file,
            &mut self.peer.ca_file,
        ]
        .into_iter()
        .chain(&mut self.client.certificate_file)
        .chain(&mut self.client.private_key_file)
        .chain(&mut self.admin.token_file)
        .chain(&mut self.node.join_token_file)
        .chain(&mut self.storage.key_dir)
    }
}

/// One environment variable that overrides a key.
struct Variable {
    name: String,
    key: String,
    value: Value,
}

impl Variable {
    fn new(name: String, value: &str) -> Option<Self> {
        let rest = name.strip_prefix(ENV_PREFIX)?;
        if !rest.contains(ENV_SEPARATOR) {
            return None;
        }
        let key = rest.replace(ENV_SEPARATOR, ".").replace('_', "-").to_ascii_lowercase();
        // The cluster id may look like a number; a text it stays.
        let value = if key == "cluster.id" {
            Value::from(value)
        } else {
            value.parse().unwrap_or_else(|never| match never {})
        };
        Some(Self { name, key, value })
    }
}

impl Provider for Variable {
    fn metadata(&self) -> Metadata {
        Metadata::from("environment variable", figment::Source::Custom(self.name.clone()))
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let nested = figment::util::nest(&self.key, self.value.clone());
        Ok(Profile::Default.collect(nested.into_dict().unwrap_or_default()))
    }
}

/// One sentence on the first error: where, which key, what to write instead.
fn explain(path: &Path, errors: figment::Error) -> ConfigError {
    // The first of the chain is the root of the others.
    let count = errors.count();
    let error = errors.clone().into_iter().nth(count - 1).unwrap_or(errors);
    let variable = error
        .metadata
        .as_ref()
        .and_then(|metadata| metadata.source.as_ref())
        .and_then(|source| source.custom().map(str::to_owned));
    let place = match variable {
        Some(name) => format!("environment variable {name}"),
        None => path.display().to_string(),
    };
    ConfigError::Shape { place, problem: problem(&error) }
}

fn problem(error: &figment::Error) -> String {
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(field, known) => {
            // serde's path may or may not end in the field itself.
            let section = key.strip_suffix(field.as_str()).unwrap_or(&key).trim_end_matches('.');
            let known = known.join(", ");
            if section.is_empty() {
                format!("there is no section `{field}`; there are: {known}")
            } else {
                format!("there is no key `{section}.{field}`; in `{section}` there are: {known}")
            }
        }
        Kind::MissingField(field) if key.is_empty() => {
            format!("the section `{field}` is missing")
        }
        Kind::MissingField(field) => format!("`{key}.{field}` is missing"),
        Kind::UnknownVariant(variant, known) => {
            let known = known.join("\" or \"");
            format!("`{key}` is \"{variant}\"; write \"{known}\"")
        }
        kind if key.is_empty() => kind.to_string(),
        kind => format!("`{key}`: {kind}"),
    }
}
