//! Routes of the operators' port.

use std::{str::FromStr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use heliograph_cluster::{
    AdminCommand, AdminError, AdminOutcome, ClusterAdmin, NodeId, model::DeviceId,
};
use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::json as value;
use tokio::time::Instant;

use super::{AdminToken, backup};
use crate::{
    metrics,
    mosa::{RateConfig, RateLimiter, bearer, json},
    problem::{Code, FieldError, Problem},
    server::{
        Limits, body,
        handler::{Answer, Handler, Reply},
    },
};

/// How long the cluster may take for one request: an election and a little.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What one person with a dashboard and a script does not reach.
const RATE: RateConfig = RateConfig { per_second: 20, burst: 60 };

/// The operators' front door of one node.
pub(super) struct Door {
    token: AdminToken,
    limits: Limits,
    admin: Arc<dyn ClusterAdmin>,
    limiter: RateLimiter,
    operator: DeviceId,
    stranger: DeviceId,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Status,
    Change(NodeId, Change),
    Rebalance,
    /// A copy of a group.
    Copy(u32),
    /// A piece of a copy.
    Piece,
}

/// What is to become of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Invite,
    Replace,
    Drain,
    Undrain,
    Remove,
}

impl Route {
    fn find(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/admin/v1/")?;
        if rest == "status" {
            return Some(Self::Status);
        }
        if rest == "rebalance" {
            return Some(Self::Rebalance);
        }
        if let Some(what) = rest.strip_prefix("backup/") {
            return match what.strip_prefix("groups/") {
                Some(group) => plain(group).map(Self::Copy),
                None => (what == "pieces").then_some(Self::Piece),
            };
        }
        let (node, change) = rest.strip_prefix("nodes/")?.split_once('/')?;
        let id: u16 = plain(node)?;
        let change = match change {
            "invite" => Change::Invite,
            "replace" => Change::Replace,
            "drain" => Change::Drain,
            "undrain" => Change::Undrain,
            "remove" => Change::Remove,
            _ => return None,
        };
        Some(Self::Change(NodeId(id), change))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Status => "admin_status",
            Self::Change(_, Change::Invite) => "admin_invite",
            Self::Change(_, Change::Replace) => "admin_replace",
            Self::Change(_, Change::Drain) => "admin_drain",
            Self::Change(_, Change::Undrain) => "admin_undrain",
            Self::Change(_, Change::Remove) => "admin_remove",
            Self::Rebalance => "admin_rebalance",
            Self::Copy(_) => "admin_copy",
            Self::Piece => "admin_piece",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Status => Method::GET,
            Self::Change(..) | Self::Rebalance | Self::Copy(_) | Self::Piece => Method::POST,
        }
    }
}

/// A number in its plain form: "+4" and "04" are none.
fn plain<N: FromStr + ToString>(text: &str) -> Option<N> {
    text.parse().ok().filter(|number: &N| number.to_string() == text)
}

/// The body of an invitation.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Invitation {
    address: String,
    #[serde(default)]
    zone: String,
}

impl Door {
    pub(super) fn new(token: AdminToken, limits: Limits, admin: Arc<dyn ClusterAdmin>) -> Self {
        let name = |text| DeviceId::new(text).expect("a plain word");
        Self {
            token,
            limits,
            admin,
            limiter: RateLimiter::new(RATE),
            operator: name("operator"),
            stranger: name("stranger"),
        }
    }

    async fn dispatch(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let began = Instant::now();
        let (parts, body) = request.into_parts();
        let route = Route::find(parts.uri.path());
        let answer = match self.route(route, &parts, body).await {
            Ok(answer) => answer,
            Err(problem) => problem.into_response(),
        };
        let name = route.map_or("admin_none", Route::name);
        metrics::request(name, answer.status().as_u16(), began.elapsed().as_secs_f64());
        Reply::Answer(answer)
    }

    async fn route(
        &self,
        route: Option<Route>,
        parts: &Parts,
        body: Incoming,
    ) -> Result<Answer, Problem> {
        self.authorize(parts)?;
        let route = route.ok_or_else(|| {
            Problem::from(Code::NotFound).detail("See docs/reference/admin-http.md for the paths.")
        })?;
        if parts.method != route.method() {
            let allow = HeaderValue::from_str(route.method().as_str()).expect("a method's name");
            return Err(Problem::from(Code::MethodNotAllowed).header(header::ALLOW, allow));
        }
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        match route {
            Route::Status => {
                let status = self.admin.status(deadline).await.map_err(problem)?;
                Ok(json(StatusCode::OK, &status))
            }
            Route::Change(node, change) => {
                let command = match change {
                    Change::Invite => self.invitation(node, parts, body).await?,
                    Change::Replace => AdminCommand::Replace { node },
                    Change::Drain => AdminCommand::Drain { node },
                    Change::Undrain => AdminCommand::Undrain { node },
                    Change::Remove => AdminCommand::Remove { node },
                };
                self.change(command, deadline).await
            }
            Route::Rebalance => {
                self.admin.rebalance(deadline).await.map_err(problem)?;
                tracing::info!(action = "rebalance", "an operator changed the cluster");
                Ok(json(StatusCode::OK, &value!({ "outcome": "begun" })))
            }
            Route::Copy(group) => backup::copy(self.admin.as_ref(), group).await,
            Route::Piece => {
                backup::piece(self.admin.as_ref(), &self.limits, parts, body, deadline).await
            }
        }
    }

    async fn invitation(
        &self,
        node: NodeId,
        parts: &Parts,
        body: Incoming,
    ) -> Result<AdminCommand, Problem> {
        body::check_declared(&parts.headers, self.limits.body_bytes_max)?;
        let body = body::read(body, self.limits.body_bytes_max, self.limits.body_timeout).await?;
        let Invitation { address, zone } = serde_json::from_slice(&body).map_err(|_| {
            Problem::from(Code::BadJson)
                .detail("Send {\"address\": \"host:port\", \"zone\": \"…\"}; zone may be left out.")
        })?;
        Ok(AdminCommand::Invite { node, address, zone })
    }

    /// Each change leaves a line in the log: what, which node, what came of it.
    async fn change(&self, command: AdminCommand, deadline: Instant) -> Result<Answer, Problem> {
        let (action, node) = (command.name(), command.node());
        match self.admin.change(command, deadline).await {
            Ok(outcome) => {
                tracing::info!(action, %node, "an operator changed the cluster");
                let answer = match outcome {
                    AdminOutcome::Token(token) => {
                        value!({ "outcome": "done", "token": token.expose() })
                    }
                    AdminOutcome::Begun => value!({ "outcome": "begun" }),
                    _ => value!({ "outcome": "done" }),
                };
                Ok(json(StatusCode::OK, &answer))
            }
            Err(error) => {
                tracing::info!(action, %node, %error, "an operator's change was not made");
                Err(problem(error))
            }
        }
    }

    /// Refuses who does not have the token. Strangers have an allowance of their own, so that
    /// guessing neither goes on for long nor keeps operators out.
    fn authorize(&self, parts: &Parts) -> Result<(), Problem> {
        let now = Instant::now();
        let offered = bearer(&parts.headers);
        let refused = match offered {
            Ok(offered) if self.token.is(offered.expose()) => {
                return self.limiter.take(&self.operator, now).check();
            }
            Ok(_) => Problem::from(Code::TokenInvalid)
                .detail("Send the token of the node's `admin.token-file`."),
            Err(problem) => {
                problem.detail("Send `Authorization: Bearer` and the token of `admin.token-file`.")
            }
        };
        self.limiter.take(&self.stranger, now).check()?;
        let realm = HeaderValue::from_static("Bearer realm=\"heliograph-admin\"");
        Err(refused.header(header::WWW_AUTHENTICATE, realm))
    }
}

impl Handler for Door {
    fn handle(self: Arc<Self>, request: Request<Incoming>) -> BoxFuture<'static, Reply> {
        Box::pin(self.dispatch(request))
    }
}

pub(super) fn problem(error: AdminError) -> Problem {
    let field = |field| {
        let detail = error.to_string().into();
        Problem::from(vec![FieldError { field, code: "invalid", detail }])
    };
    let code = match &error {
        AdminError::Address => return field("address"),
        AdminError::Zone => return field("zone"),
        AdminError::NotFormed => Code::NotReady,
        AdminError::NoLeader | AdminError::Unknown | AdminError::GroupWithoutLeader(_) => {
            Code::Unavailable
        }
        AdminError::CopyFailed { .. } => Code::StorageFailed,
        AdminError::UnknownNode(_) | AdminError::UnknownGroup(_) | AdminError::NodeIdZero => {
            Code::NotFound
        }
        _ => Code::Conflict,
    };
    Problem::from(code).detail(error.to_string())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use heliograph_cluster::{ClusterStatus, GroupCopy};

    use super::*;

    /// Nobody gets as far.
    struct NoCluster;

    impl ClusterAdmin for NoCluster {
        fn status(&self, _: Instant) -> BoxFuture<'_, Result<ClusterStatus, AdminError>> {
            Box::pin(std::future::ready(Err(AdminError::NotFormed)))
        }

        fn change(
            &self,
            _: AdminCommand,
            _: Instant,
        ) -> BoxFuture<'_, Result<AdminOutcome, AdminError>> {
            Box::pin(std::future::ready(Err(AdminError::NotFormed)))
        }

        fn rebalance(&self, _: Instant) -> BoxFuture<'_, Result<(), AdminError>> {
            Box::pin(std::future::ready(Err(AdminError::NotFormed)))
        }

        fn copy(&self, _: u32, _: Instant) -> BoxFuture<'_, Result<GroupCopy, AdminError>> {
            Box::pin(std::future::ready(Err(AdminError::NotFormed)))
        }

        fn piece(
            &self,
            _: GroupCopy,
            _: u64,
            _: Instant,
        ) -> BoxFuture<'_, Result<Bytes, AdminError>> {
            Box::pin(std::future::ready(Err(AdminError::NotFormed)))
        }
    }

    #[test]
    fn guessing_ends_soon_and_keeps_no_operator_out() {
        let secret = "0123456789abcdef".repeat(2);
        let token = AdminToken::from_text(&secret).unwrap();
        let door = Door::new(token, Limits::default(), Arc::new(NoCluster));
        let ask = |token: Option<&str>| {
            let mut request = Request::builder();
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let (parts, ()) = request.body(()).unwrap().into_parts();
            door.authorize(&parts).map_err(|problem| problem.code())
        };
        assert_eq!(ask(None), Err(Code::TokenMissing));
        assert_eq!(ask(Some("guess")), Err(Code::TokenInvalid));
        let guesses = (0..1_000).map(|_| ask(Some("guess")));
        assert!(guesses.into_iter().any(|answer| answer == Err(Code::RateLimited)));
        assert_eq!(ask(Some(&secret)), Ok(()));
        let operator = (0..1_000).map(|_| ask(Some(&secret)));
        assert!(operator.into_iter().any(|answer| answer == Err(Code::RateLimited)));
    }

    #[test]
    fn paths_name_nodes_in_one_way_alone() {
        let find = |path| Route::find(path);
        assert_eq!(find("/admin/v1/status"), Some(Route::Status));
        let drain = Route::Change(NodeId(4), Change::Drain);
        assert_eq!(find("/admin/v1/nodes/4/drain"), Some(drain));
        assert_eq!(find("/admin/v1/backup/groups/0"), Some(Route::Copy(0)));
        assert_eq!(find("/admin/v1/backup/pieces"), Some(Route::Piece));
        for strange in [
            "/admin/v1/",
            "/admin/v1/nodes/4",
            "/admin/v1/nodes/+4/drain",
            "/admin/v1/nodes/04/drain",
            "/admin/v1/nodes/70000/drain",
            "/admin/v1/nodes/4/dance",
            "/admin/v1/nodes/4/drain/",
            "/admin/v1/backup/groups/",
            "/admin/v1/backup/groups/01",
            "/admin/v1/backup/groups/-1",
            "/admin/v1/backup/pieces/",
            "/status",
        ] {
            assert_eq!(find(strange), None, "{strange}");
        }
    }
}
