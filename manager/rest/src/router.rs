//! Which binding a path is: a tree over the segments of all templates.
//!
//! Invariant: of all templates that match a path the one whose segments say most wins, from left
//! to right: a literal before `*` before `**`. That template owns the path: a method that only a
//! less exact one has is not allowed there.

use std::{collections::HashMap, sync::Arc};

use http::Method;

use crate::{
    percent,
    rule::{self, Binding},
    template::{Segment, Template},
};

/// Finds bindings by path.
#[derive(Debug, Default)]
pub(crate) struct Router {
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    one: Option<Box<Node>>,
    rest: Option<Box<Node>>,
    /// What ends here, by custom verb.
    ends: HashMap<Option<String>, Vec<Arc<Binding>>>,
}

/// What a path is.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    /// Its bindings, one for each HTTP method.
    pub(crate) bindings: &'a [Arc<Binding>],
    segments: Vec<&'a str>,
}

impl Router {
    /// A router over these bindings.
    pub(crate) fn new(bindings: Vec<Binding>) -> Result<Self, rule::Error> {
        let mut router = Self::default();
        for binding in bindings {
            let node = router.root.reach(&binding.template);
            let ends = node.ends.entry(binding.template.verb.clone()).or_default();
            if let Some(other) = ends.iter().find(|other| other.verb == binding.verb) {
                let other = other.method.full_name();
                let what = format!("{other} has the same path and HTTP method");
                return Err(rule::Error::rule(&binding.method, what));
            }
            ends.push(Arc::new(binding));
        }
        Ok(router)
    }

    /// What a path is; nothing when no template matches it.
    pub(crate) fn find<'a>(&'a self, path: &'a str) -> Result<Option<Found<'a>>, percent::Error> {
        let Some(path) = path.strip_prefix('/') else { return Ok(None) };
        let mut raw: Vec<&str> = path.split('/').collect();
        let mut decoded = Vec::with_capacity(raw.len());
        for segment in &raw {
            decoded.push(percent::decode(segment)?.into_owned());
        }
        // A path that ends in a slash is another one.
        let Some(last) = raw.pop().filter(|last| !last.is_empty()) else { return Ok(None) };
        decoded.pop();
        if let Some((before, verb)) = last.rsplit_once(':') {
            decoded.push(percent::decode(before)?.into_owned());
            if let Some(bindings) = self.root.find(&decoded, &Some(verb.to_owned())) {
                raw.push(before);
                return Ok(Some(Found { bindings, segments: raw }));
            }
            decoded.pop();
        }
        decoded.push(percent::decode(last)?.into_owned());
        raw.push(last);
        let bindings = self.root.find(&decoded, &None);
        Ok(bindings.map(|bindings| Found { bindings, segments: raw }))
    }
}

impl Node {
    fn reach(&mut self, template: &Template) -> &mut Self {
        template.segments.iter().fold(self, |node, segment| match segment {
            Segment::Literal(text) => node.literals.entry(text.clone()).or_default(),
            Segment::One => node.one.get_or_insert_default(),
            Segment::Rest => node.rest.get_or_insert_default(),
        })
    }

    /// Goes back at most once for each segment and kind of it: templates are few, and a path that
    /// is long leaves the tree at once.
    fn find(&self, path: &[String], verb: &Option<String>) -> Option<&[Arc<Binding>]> {
        let Some((segment, after)) = path.split_first() else {
            let rest = || self.rest.as_ref().and_then(|rest| rest.ends.get(verb));
            return self.ends.get(verb).or_else(rest).map(Vec::as_slice);
        };
        let literal = || self.literals.get(segment)?.find(after, verb);
        let one = || self.one.as_ref().filter(|_| !segment.is_empty())?.find(after, verb);
        let rest = || self.rest.as_ref()?.ends.get(verb).map(Vec::as_slice);
        literal().or_else(one).or_else(rest)
    }
}

impl<'a> Found<'a> {
    /// The binding for an HTTP method.
    pub(crate) fn binding(&self, method: &Method) -> Option<&'a Arc<Binding>> {
        self.bindings.iter().find(|binding| binding.verb == *method)
    }

    /// The text of each variable of a binding of this path.
    pub(crate) fn values(&self, binding: &Binding) -> Result<Vec<String>, percent::Error> {
        let template = &binding.template;
        let mut values = Vec::with_capacity(template.variables.len());
        for variable in &template.variables {
            let end = variable.first + variable.count;
            // `**` is the last segment, and takes all that is left.
            let end = if template.segments.get(end - 1) == Some(&Segment::Rest) {
                self.segments.len()
            } else {
                end
            };
            let covered = self.segments.get(variable.first..end).unwrap_or_default();
            values.push(if template.is_multi(variable) {
                let parts: Result<Vec<_>, _> =
                    covered.iter().map(|part| percent::decode_but_slash(part)).collect();
                parts?.join("/")
            } else {
                percent::decode(covered.first().copied().unwrap_or_default())?.into_owned()
            });
        }
        Ok(values)
    }

    /// The methods of this path, as in `Allow`.
    pub(crate) fn allow(&self) -> String {
        let mut methods: Vec<&str> = self.bindings.iter().map(|b| b.verb.as_str()).collect();
        if self.binding(&Method::GET).is_some_and(|b| !b.method.is_server_streaming()) {
            methods.push("HEAD");
        }
        methods.push("OPTIONS");
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::testing;

    /// An API: its bindings and their router.
    type Api = LazyLock<(Vec<Binding>, Router)>;

    static OURS: Api =
        LazyLock::new(|| api(&DescriptorPool::decode(goperation::DESCRIPTOR).unwrap()));
    static LIBRARY: Api = LazyLock::new(|| api(&testing::library()));

    fn api(pool: &DescriptorPool) -> (Vec<Binding>, Router) {
        let bindings = rule::bindings(pool).unwrap();
        (bindings.clone(), Router::new(bindings).unwrap())
    }

    /// `Method value value`, or what else became of it.
    fn look(router: &Router, method: &str, path: &str) -> String {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        match router.find(path) {
            Err(error) => error.to_string(),
            Ok(None) => "nothing".to_owned(),
            Ok(Some(found)) => match found.binding(&method) {
                None => format!("allow {}", found.allow()),
                Some(binding) => {
                    let values = found.values(binding).unwrap();
                    [vec![binding.method.name().to_owned()], values].concat().join(" ")
                }
            },
        }
    }

    #[test]
    fn paths_of_our_api_are_found() {
        let router = &OURS.1;
        for (method, path, expected) in [
            ("GET", "/v1/agents", "IndexAgents"),
            ("GET", "/v1/agents/new", "NewAgent"),
            ("GET", "/v1/agents/5", "ShowAgent 5"),
            ("PATCH", "/v1/agents/5", "EditAgent 5"),
            ("POST", "/v1/agents/5:activate", "ActivateAgent 5"),
            ("POST", "/v1/agents/5/messages/m:claim", "ClaimMessage 5 m"),
            ("POST", "/v1/bridge:cast", "Cast"),
            ("GET", "/v1/queues/dead/letters", "IndexDeadLetters"),
            ("GET", "/v1/queues/dead", "ShowQueue dead"),
            ("GET", "/v1/queues/notify.a:receive", "Receive notify.a"),
            ("PUT", "/v1/queues/agents/application/h1", "CreateAgentQueues application h1"),
            ("GET", "/v1/endpoints:count", "CountEndpoints"),
            ("GET", "/v1/agents/7/endpoints/game", "ShowEndpoint 7 game"),
            ("GET", "/v1/caches/a%2Fb", "ShowCache a/b"),
            ("GET", "/v1/%61gents/5", "ShowAgent 5"),
            ("GET", "/v1/caches/a%3Ab", "ShowCache a:b"),
            ("GET", "/v1/caches/a:b", "ShowCache a:b"),
            ("GET", "/v1/agents/", "nothing"),
            ("GET", "/v1/agents/5/", "nothing"),
            ("GET", "/v1//agents", "nothing"),
            ("GET", "/v1", "nothing"),
            ("GET", "/", "nothing"),
            ("GET", "*", "nothing"),
            ("GET", "/v1/nothing", "nothing"),
            ("PATCH", "/v1/agents", "allow GET, HEAD, OPTIONS, POST"),
            ("PUT", "/v1/agents/new", "allow GET, HEAD, OPTIONS"),
            ("GET", "/v1/agents/5:activate", "allow OPTIONS, POST"),
            ("HEAD", "/v1/queues/q:receive", "allow GET, OPTIONS"),
            ("GET", "/v1/caches/%ff", "is not UTF-8 when it is decoded"),
            ("GET", "/v1/nothing/%g", "has a % that is not followed by two hexadecimal digits"),
        ] {
            assert_eq!(look(router, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_variable_may_cover_many_segments() {
        let router = &LIBRARY.1;
        for (path, expected) in [
            ("/t1/shelves/1/books/a/b%2Fc%20", "ShowBook shelves/1/books/a/b%2Fc "),
            ("/t1/shelves/1/books", "ShowBook shelves/1/books"),
            ("/t1/shelves/1/books/a:b", "ShowBook shelves/1/books/a:b"),
            ("/t1/shelves/1/books/a//b", "ShowBook shelves/1/books/a//b"),
            ("/t1/shelves/1/books/", "nothing"),
            ("/t1/shelves//books/a", "nothing"),
            ("/t1/titles/new", "NewBook new"),
            ("/t1/titles/newer", "ShowBook newer"),
        ] {
            // A template without variables has no values.
            let expected = expected.replace("NewBook new", "NewBook");
            assert_eq!(look(router, "GET", path), expected, "{path}");
        }
    }

    #[test]
    fn two_methods_with_one_path_are_refused() {
        let pool = testing::compile(
            r#"syntax = "proto3"; package t; import "google/api/annotations.proto";
            message M { string a = 1; string b = 2; }
            service S {
              rpc A(M) returns (M) { option (google.api.http) = {get: "/x/{a}"}; }
              rpc B(M) returns (M) { option (google.api.http) = {get: "/x/{b}"}; }
            }"#,
        );
        let error = Router::new(rule::bindings(&pool).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "t.S.B: t.S.A has the same path and HTTP method");
    }

    fn build(template: &Template, values: &[String], rest: &[String]) -> String {
        let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let mut values = values.iter();
        let mut parts = Vec::new();
        for segment in &template.segments {
            match segment {
                Segment::Literal(text) => parts.push(encode(text)),
                Segment::One => parts.push(encode(values.next().unwrap())),
                Segment::Rest => parts.extend(rest.iter().map(|part| encode(part))),
            }
        }
        let verb = template.verb.as_ref().map(|verb| format!(":{verb}")).unwrap_or_default();
        format!("/{}{verb}", parts.join("/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn a_path_built_from_a_template_is_matched_back(
            pick in any::<prop::sample::Index>(),
            library in any::<bool>(),
            values in prop::collection::vec("[^/]{1,12}", 8),
            rest in prop::collection::vec("[^/]{1,8}", 0..4),
        ) {
            let (bindings, router) = if library { &*LIBRARY } else { &*OURS };
            let binding = pick.get(bindings);
            // A variable that is also a literal elsewhere belongs to that.
            let literal = |text: &String| bindings.iter().any(|b| {
                b.template.segments.contains(&Segment::Literal(text.clone()))
            });
            prop_assume!(!values.iter().any(literal));
            let path = build(&binding.template, &values, &rest);
            let found = router.find(&path).unwrap().unwrap();
            let matched = found.binding(&binding.verb).unwrap();
            prop_assert_eq!(&matched.method, &binding.method);
            prop_assert_eq!(&matched.template, &binding.template);
            let got = found.values(matched).unwrap();
            let single: Vec<_> = binding.template.variables.iter().zip(&got)
                .filter(|(variable, _)| !binding.template.is_multi(variable))
                .map(|(_, value)| value.clone())
                .collect();
            let multi = binding.template.variables.iter().filter(|v| binding.template.is_multi(v));
            if multi.count() == 0 {
                prop_assert_eq!(&single[..], &values[..single.len()]);
            } else {
                let end = [&["".to_owned()][..], &rest[..]].concat().join("/");
                prop_assert_eq!(&got[0], &format!("shelves/{}/books{end}", values[0]));
            }
        }

        #[test]
        fn no_path_panics(path in any::<String>(), tail in "(/[a-z*:%0-9{}.]{0,6}){0,6}") {
            for path in [path.clone(), format!("/v1{tail}"), format!("/v1/agents{path}")] {
                if let Ok(Some(found)) = OURS.1.find(&path) {
                    for binding in found.bindings {
                        let _ = found.values(binding);
                    }
                }
            }
        }
    }
}
