//! Every path of the old REST, in the order of its description.
//!
//! Invariant: this is the only place where a path of `/v1.0` or `/n1.0` is written.

use goperation::{Error, Reason, Result};
use percent_encoding::percent_decode_str;

use super::{
    Call, agents, answers, caches, calls, commands, endpoints, entitys,
    envelope::Envelope,
    outcome::{DUPLICATE, INVALID, LOGICAL, MISSING, Outcome},
    ports, requests,
};

/// What answers a call.
pub(super) type Handler =
    fn(Call) -> std::pin::Pin<Box<dyn Future<Output = Result<Envelope>> + Send>>;

/// What is done with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    Ignored,
    /// It is read when there is one.
    Optional,
    /// There must be one.
    Required,
}

/// One way of calling the old REST.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    /// Whether a suffix such as `.json` may follow; it is ignored.
    suffix: bool,
    pub(super) body: Body,
    /// None where the rest of the system is not there yet.
    pub(super) handler: Option<Handler>,
    /// Reasons that are something else here than elsewhere.
    pub(super) except: &'static [(Reason, Outcome)],
}

macro_rules! routes {
    (@suffix any) => { true };
    (@suffix exact) => { false };
    (@body no) => { Body::Ignored };
    (@body may) => { Body::Optional };
    (@body must) => { Body::Required };
    (@handler later) => { None };
    (@handler $($handler:ident)::+) => { Some(|call| Box::pin($($handler)::+(call))) };
    ($($method:ident $path:literal $suffix:ident $body:ident $($handler:ident)::+
        $(, $reason:ident = $outcome:ident)*;)*) => {
        &[$(Route {
            method: stringify!($method),
            path: $path,
            suffix: routes!(@suffix $suffix),
            body: routes!(@body $body),
            handler: routes!(@handler $($handler)::+),
            except: &[$((Reason::$reason, $outcome)),*],
        },)*]
    };
}

/// The table. After the path: whether `any` suffix is ignored or it must be `exact`; whether there
/// is `no` body, or it `may` or `must` be there; the handler, `later` when it is not built yet; and
/// the reasons with another outcome than elsewhere.
static ROUTES: &[Route] = routes! {
    GET    "/v1.0/allagents"                 exact no   agents::all;
    GET    "/v1.0/agents"                    any   may  agents::index;
    POST   "/v1.0/agents"                    any   must agents::create,
           AlreadyExists = LOGICAL, IdentityTaken = LOGICAL;
    GET    "/v1.0/agents/{agent_id}"         any   may  agents::show;
    PUT    "/v1.0/agents/{agent_id}"         any   may  later;
    DELETE "/v1.0/agents/{agent_id}"         any   may  agents::delete,
           StateRefused = LOGICAL, MethodFailed = LOGICAL, Locked = LOGICAL;
    POST   "/v1.0/agents/{agent_id}/clean"   any   no   agents::clean,
           AgentNotFound = MISSING, StateRefused = INVALID;
    PATCH  "/v1.0/agents/{agent_id}/active"  any   may  agents::active;
    PATCH  "/v1.0/agents/{agent_id}/edit"    any   must agents::edit, StateRefused = INVALID;
    GET    "/v1.0/agents/{agent_id}/status"  any   may  commands::status;
    POST   "/v1.0/agents/{agent_id}/upgrade" any   may  commands::upgrade;
    POST   "/v1.0/agents/{agent_id}/report"  any   must agents::report,
           StateRefused = INVALID, PermissionDenied = INVALID;
    GET    "/v1.0/agents/{agent_id}/readlog" any   may  calls::agent_readlog;

    GET    "/v1.0/agent/{agent_id}/endpoints"            any   no   endpoints::index;
    POST   "/v1.0/agent/{agent_id}/endpoints"            any   must endpoints::create,
           AlreadyExists = DUPLICATE, StateRefused = INVALID;
    GET    "/v1.0/agent/{agent_id}/endpoints/{endpoint}" any   no   endpoints::show,
           EndpointNotFound = MISSING;
    DELETE "/v1.0/agent/{agent_id}/endpoints/{endpoint}" any   no   endpoints::delete,
           EntitiesRemain = LOGICAL, StateRefused = INVALID;
    GET    "/v1.0/endpoints/{endpoint}/agents"           exact no   endpoints::agents;
    GET    "/v1.0/endpoints/{endpoint}/entitys"          exact no   endpoints::entitys;
    GET    "/v1.0/endpoints/{endpoint}/count"            exact no   endpoints::count;
    GET    "/v1.0/endpoints/{endpoint}/chioces"          exact may  endpoints::chioces;

    GET    "/v1.0/agent/{agent_id}/endpoint/{endpoint}/entitys"  any may entitys::index;
    POST   "/v1.0/agent/{agent_id}/endpoint/{endpoint}/entitys"  any may entitys::create,
           AgentNotActive = INVALID, AgentOffline = INVALID, NamespaceNotFound = INVALID,
           AlreadyExists = INVALID;
    GET    "/v1.0/endpoint/{endpoint}/entitys/{entity}"          any may entitys::show;
    DELETE "/v1.0/endpoint/{endpoint}/entitys/{entity}"          any may entitys::delete,
           AgentOffline = INVALID;
    GET    "/v1.0/endpoint/{endpoint}/entitys/{entity}/logs"     any may calls::entity_logs,
           AgentOffline = INVALID;
    GET    "/v1.0/endpoint/{endpoint}/entitys/{entity}/readlog"  any may calls::entity_readlog,
           AgentOffline = INVALID;

    GET    "/v1.0/agent/{agent_id}/ports"
           exact no   ports::allocated;
    GET    "/v1.0/agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports"
           any   no   ports::index;
    POST   "/v1.0/agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports"
           any   must ports::create, EntityNotFound = MISSING;
    DELETE "/v1.0/agent/{agent_id}/endpoint/{endpoint}/entity/{entity}/ports/{ports}"
           any   may  ports::delete;

    GET    "/v1.0/asyncrequests"                         any   may  requests::index;
    GET    "/v1.0/asyncrequests/{request_id}"            any   may  requests::show;
    PUT    "/v1.0/asyncrequests/{request_id}"            any   may  later;
    POST   "/v1.0/asyncrequests/{request_id}/response"   any   must answers::response,
           PermissionDenied = INVALID;
    PUT    "/v1.0/asyncrequests/{request_id}/overtime"   any   must answers::overtime;

    POST   "/v1.0/caches"                    any   must caches::create;
    GET    "/v1.0/caches/{key}"              any   no   caches::show, CacheNotFound = LOGICAL;
    DELETE "/v1.0/caches/{key}"              any   no   caches::delete;
    PUT    "/v1.0/caches/{key}"              any   may  later;
    POST   "/v1.0/caches/flush"              any   must caches::flush;
    POST   "/v1.0/caches/host/{host}/online" exact must caches::online;

    GET    "/v1.0/files"                            any may later;
    POST   "/v1.0/files"                            any may later;
    GET    "/v1.0/files/{md5}"                      any may later;
    PUT    "/v1.0/files/{md5}"                      any may later;
    DELETE "/v1.0/files/{md5}"                      any may later;
    GET    "/v1.0/agents/{agent_id}/files"          any may later;
    PUT    "/v1.0/agents/{agent_id}/files/{md5}"    any may later;
    DELETE "/v1.0/agents/{agent_id}/files/{md5}"    any may later;

    POST   "/v1.0/schedulers"                any   may  later;
    GET    "/v1.0/schedulers/{job_id}"       any   may  later;
    PUT    "/v1.0/schedulers/{job_id}"       any   may  later;
    DELETE "/v1.0/schedulers/{job_id}"       any   may  later;
    POST   "/v1.0/schedulers/{job_id}/stop"  any   may  later;
    POST   "/v1.0/schedulers/{job_id}/start" any   may  later;

    POST   "/n1.0/goperation/login/{username}"         exact may later;
    DELETE "/v1.0/goperation/login/{username}/{token}" exact may later;
    POST   "/v1.0/goperation/login/{username}/{token}" exact may later;
};

/// Method and path of every route of the old REST, those that are not built yet included.
pub fn legacy_routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|route| (route.method, route.path))
}

/// Every route.
#[cfg(test)]
pub(super) fn every() -> impl Iterator<Item = &'static Route> {
    ROUTES.iter()
}

/// A route with the variables of its path.
pub(super) struct Found {
    pub(super) route: &'static Route,
    pub(super) params: Vec<(&'static str, String)>,
}

/// The route of a request.
pub(super) fn find(method: &str, path: &str) -> Result<Found> {
    for route in ROUTES.iter().filter(|route| route.method == method) {
        if let Some(params) = route.matches(path) {
            return Ok(Found { route, params: params? });
        }
    }
    // What is not public there is for administrators, whom there is no way to name.
    let private = path.strip_prefix("/n1.0").map(|rest| format!("/v1.0{rest}"));
    if let Some(private) = private
        && ROUTES.iter().any(|route| route.method == method && route.matches(&private).is_some())
    {
        return Err(Error::new(Reason::Unauthenticated, "this is for the admin: ask below /v1.0"));
    }
    Err(Error::new(Reason::RouteNotFound, format!("there is no {method} {path}")))
}

impl Route {
    /// The variables of a path that is this route's.
    fn matches(&self, path: &str) -> Option<Result<Vec<(&'static str, String)>>> {
        let mut wanted = self.path.split('/').peekable();
        let mut given = path.split('/');
        let mut raw = Vec::new();
        while let Some(wanted_segment) = wanted.next() {
            let mut segment = given.next()?;
            if self.suffix && wanted.peek().is_none() {
                segment = without_suffix(segment);
            }
            match wanted_segment.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
                Some(name) if !segment.is_empty() => raw.push((name, segment)),
                None if segment == wanted_segment => {}
                _ => return None,
            }
        }
        if given.next().is_some() {
            return None;
        }
        Some(raw.into_iter().map(decoded).collect())
    }
}

fn decoded((name, text): (&'static str, &str)) -> Result<(&'static str, String)> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok((name, text.into_owned())),
        Err(_) => Err(Error::invalid(name, "is not UTF-8")),
    }
}

/// A segment up to its first dot, when something stands on both sides of that.
fn without_suffix(segment: &str) -> &str {
    match segment.split_once('.') {
        Some((name, suffix)) if !name.is_empty() && !suffix.is_empty() => name,
        _ => segment,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn found(method: &str, path: &str) -> Option<(&'static str, Vec<String>)> {
        let found = find(method, path).ok()?;
        Some((found.route.path, found.params.into_iter().map(|(_, value)| value).collect()))
    }

    #[test]
    fn each_route_is_found_by_its_own_path_and_stands_once() {
        let mut seen = HashSet::new();
        for route in ROUTES {
            assert!(seen.insert((route.method, route.path)), "{} {}", route.method, route.path);
            let path = route.path.replace(['{', '}'], "");
            let found = find(route.method, &path).unwrap_or_else(|e| panic!("{path}: {e}"));
            assert_eq!(found.route.path, route.path, "{path}");
        }
    }

    #[test]
    fn paths_as_the_old_router_took_them() {
        for (method, path, route, params) in [
            ("GET", "/v1.0/agents", "/v1.0/agents", &[][..]),
            ("GET", "/v1.0/agents.json", "/v1.0/agents", &[]),
            ("GET", "/v1.0/agents/7.json", "/v1.0/agents/{agent_id}", &["7"]),
            ("GET", "/v1.0/agents/1%2C2", "/v1.0/agents/{agent_id}", &["1,2"]),
            ("POST", "/v1.0/caches/flush.json", "/v1.0/caches/flush", &[]),
            (
                "POST",
                "/v1.0/caches/host/a.b.c/online",
                "/v1.0/caches/host/{host}/online",
                &["a.b.c"],
            ),
            ("GET", "/v1.0/endpoints/a,b/count", "/v1.0/endpoints/{endpoint}/count", &["a,b"]),
        ] {
            let params = params.iter().map(|&p| p.to_owned()).collect();
            assert_eq!(found(method, path), Some((route, params)), "{method} {path}");
        }
        for (method, path) in [
            ("GET", "/v1.0/agents/"),
            ("GET", "/v1.0/agents//status"),
            ("GET", "/v1.0/allagents.json"),
            ("GET", "/v1.0/endpoints/db/agents.json"),
            ("GET", "/v1.0"),
            ("GET", "/v1.0/asyncrequests/x/details"),
            ("GET", "/v1.0/schedulers"),
            ("HEAD", "/v1.0/agents"),
            ("PATCH", "/v1.0/agents"),
        ] {
            let error = find(method, path).err().map(|error| error.reason);
            assert_eq!(error, Some(Reason::RouteNotFound), "{method} {path}");
        }
    }

    #[test]
    fn what_is_not_public_is_refused_below_the_public_prefix() {
        let reason = |path| find("GET", path).err().map(|error| error.reason);
        assert_eq!(reason("/n1.0/agents"), Some(Reason::Unauthenticated));
        assert_eq!(reason("/n1.0/nothing"), Some(Reason::RouteNotFound));
        assert!(find("POST", "/n1.0/goperation/login/admin").is_ok());
    }

    #[test]
    fn a_path_that_is_no_text_is_a_fault_of_the_request() {
        let error = find("GET", "/v1.0/agents/%ff").err().unwrap();
        assert_eq!(error.reason, Reason::InvalidArgument);
    }
}
