//! Routes of the operators' port.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use heliograph_cluster::{AdminError, ClusterAdmin, model::DeviceId};
use http::{HeaderValue, Method, Request, StatusCode, header, request::Parts};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::AdminToken;
use crate::{
    metrics,
    mosa::{RateConfig, RateLimiter, bearer, json},
    problem::{Code, Problem},
    server::handler::{Answer, Handler, Reply},
};

/// How long the cluster may take for one request: an election and a little.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What one person with a dashboard and a script does not reach.
const RATE: RateConfig = RateConfig { per_second: 20, burst: 60 };

/// The operators' front door of one node.
pub(super) struct Door {
    token: AdminToken,
    admin: Arc<dyn ClusterAdmin>,
    limiter: RateLimiter,
    operator: DeviceId,
    stranger: DeviceId,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Status,
}

impl Route {
    fn find(path: &str) -> Option<Self> {
        match path.strip_prefix("/admin/v1/")? {
            "status" => Some(Self::Status),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Status => "admin_status",
        }
    }

    fn method(self) -> Method {
        match self {
            Self::Status => Method::GET,
        }
    }
}

impl Door {
    pub(super) fn new(token: AdminToken, admin: Arc<dyn ClusterAdmin>) -> Self {
        let name = |text| DeviceId::new(text).expect("a plain word");
        Self {
            token,
            admin,
            limiter: RateLimiter::new(RATE),
            operator: name("operator"),
            stranger: name("stranger"),
        }
    }

    async fn dispatch(self: Arc<Self>, request: Request<Incoming>) -> Reply {
        let began = Instant::now();
        let (parts, _body) = request.into_parts();
        let route = Route::find(parts.uri.path());
        let answer = match self.route(route, &parts).await {
            Ok(answer) => answer,
            Err(problem) => problem.into_response(),
        };
        let name = route.map_or("admin_none", Route::name);
        metrics::request(name, answer.status().as_u16(), began.elapsed().as_secs_f64());
        Reply::Answer(answer)
    }

    async fn route(&self, route: Option<Route>, parts: &Parts) -> Result<Answer, Problem> {
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

fn problem(error: AdminError) -> Problem {
    let code = match &error {
        AdminError::NotFormed => Code::NotReady,
        _ => Code::Internal,
    };
    Problem::from(code).detail(error.to_string())
}
