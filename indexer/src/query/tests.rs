//! What people type, and what it means.

use proptest::prelude::*;
use rstest::rstest;

use super::document::{Document, Facts};
use super::evaluate::Evaluator;
use super::*;
use crate::entry::LabelSet;
use crate::resource::{ApiResource, ClusterName, GroupVersionResource};

const NGINX: &str = r#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"nginx-web","namespace":"shop",
"uid":"u-1","creationTimestamp":"2026-03-03T12:00:00Z","labels":{"app.kubernetes.io/name":"nginx","app":"web"},
"annotations":{"note":"Rolling update at night","x/y.z":""},
"ownerReferences":[{"kind":"Application","name":"shop","uid":"o-1"}]},
"spec":{"replicas":3,"paused":false,"strategy":{"type":"RollingUpdate"},"template":{"spec":{
"initContainers":[{"name":"init","image":"busybox:1.36"}],
"containers":[{"name":"web","image":"registry.example/nginx:1.27","args":["--listen=8080"],
"resources":{"limits":{"cpu":"500m","memory":"1Gi"}}}]}}},
"status":{"readyReplicas":2,"conditions":[{"type":"Available","status":"True","message":"all is well",
"lastUpdateTime":"2026-03-04T11:30:00Z"},{"type":"Progressing","status":"False"}]}}"#;

const SECRET: &str = r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"keys","namespace":"shop",
"annotations":{"kubectl.kubernetes.io/last-applied-configuration":"hidden"}},"type":"Opaque","data":{"token":"aGlkZGVu"}}"#;

fn found(query: &str, object: &str) -> bool {
    let document = Document::read(object.as_bytes()).unwrap();
    let value: serde_json::Value = serde_json::from_str(object).unwrap();
    let text = |pointer: &str| value.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
    let kind = text("/kind");
    let served = ApiResource {
        gvr: GroupVersionResource::new(group, version, &format!("{}s", kind.to_lowercase())),
        kind: kind.into(),
        namespaced: true,
        watchable: true,
    };
    let labels = value.pointer("/metadata/labels").and_then(serde_json::Value::as_object).into_iter().flatten();
    let pairs = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()));
    let (labels, cluster) = (LabelSet::new(pairs.collect()), ClusterName::from("pegasus"));
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let facts = Facts { cluster: &cluster, served: &served, namespace, name, labels: &labels };
    let evaluator = Evaluator::new(parse(query).unwrap(), "2026-03-04T12:00:00Z".parse().unwrap());
    let matches = evaluator.matches(&facts, &document);
    if let Some(decided) = evaluator.on_facts(&facts) {
        assert_eq!(decided, matches, "{query}: what is known without opening the object says otherwise");
    }
    if let Some(decided) = evaluator.on_part(&cluster, &served) {
        assert_eq!(decided, matches, "{query}: what all objects of its kind share says otherwise");
    }
    matches
}

#[rstest]
#[case("")]
#[case("*")]
#[case("nginx")]
#[case("NGINX")]
#[case("\"rolling update\"")]
#[case("rolling-update")]
#[case("ngin*")]
#[case("nginx web")]
#[case("busybox")]
#[case("8080")]
#[case("\"all is well\"")]
#[case("kind:Deployment cluster:(pegasus OR pegasus-2)")]
#[case("kind:Deploy*")]
#[case("label.app.kubernetes.io/name:nginx")]
#[case("label.app:web")]
#[case("label.app:*")]
#[case("annotation.x/y.z:*")]
#[case("annotation.note:*night")]
#[case("image:*nginx*")]
#[case("image:busybox\\:1.36")]
#[case("image:busybox:1.36")]
#[case("image:registry.example/nginx:1.2?")]
#[case("owner:shop")]
#[case("owner:Application/shop")]
#[case("uid:u-1")]
#[case("group:apps version:v1 resource:deployments")]
#[case("spec.replicas:3")]
#[case("spec.replicas:3.0")]
#[case("spec.replicas:>2")]
#[case("spec.replicas:>=3 spec.replicas:<=3")]
#[case("spec.replicas:[2 TO 5]")]
#[case("spec.replicas:{2 TO 3]")]
#[case("spec.replicas:[* TO 3]")]
#[case("spec.paused:false")]
#[case("spec.strategy.type:RollingUpdate")]
#[case("spec.template.spec.containers.resources.limits.cpu:500m")]
#[case("spec.template.spec.containers.resources.limits.cpu:0.5")]
#[case("spec.template.spec.containers.resources.limits.cpu:<1")]
#[case("spec.template.spec.containers.resources.limits.memory:>=1024Mi")]
#[case("status.conditions.type:Progressing")]
#[case("status.conditions.lastUpdateTime:>now-1h")]
#[case("created:>now-2d created:<now")]
#[case("created:2026-03-03")]
#[case("created:[2026-03-01 TO 2026-03-04]")]
#[case("NOT kind:Pod")]
#[case("-kind:Pod -cluster:other")]
#[case("kind:(NOT Pod)")]
#[case("(kind:Pod OR kind:Deployment) AND namespace:shop")]
#[case("kind:Pod OR nginx namespace:shop")]
#[case("metadata.labels.app\\.kubernetes\\.io/name:nginx")]
#[case(".metadata.name:nginx-web")]
#[case("container:init container:web")]
#[case("container:{name:web resources.limits.cpu:>400m}")]
#[case("container:{NOT resources.limits.cpu:*}")]
#[case("container:{(name:x OR name:web) -image:busybox*}")]
#[case("spec.template.spec.containers:{name:web}")]
#[case("status.conditions:{type:Progressing status:False}")]
#[case("spec.template:{spec.containers:{resources:{limits.memory:1Gi}}}")]
#[case("spec.template:{spec.containers:*}")]
#[case("changed:2026-03-03 changed:<now")]
fn the_deployment_is_found(#[case] query: &str) {
    assert!(found(query, NGINX), "{query} = {:?}", parse(query));
}

#[rstest]
#[case("apache")]
#[case("\"update rolling\"")]
#[case("ngin")]
#[case("kind:deployment")]
#[case("label.app.kubernetes:nginx")]
#[case("label.app.name:web")]
#[case("spec.replicas:>3")]
#[case("spec.replicas:{2 TO 3}")]
#[case("spec.replicas:three")]
#[case("spec.strategy:RollingUpdate")]
#[case("spec.strategy.type:>1")]
#[case("spec.template.spec.containers.resources.limits.cpu:>500m")]
#[case("created:>now-1h")]
#[case("created:2026-03-02")]
#[case("status.conditions.type:Ready")]
#[case("image:nginx")]
#[case("annotation.missing:*")]
#[case("-nginx")]
#[case("kind:Pod OR kind:Service")]
#[case("namespace:shop kind:Pod")]
#[case("container:{name:init resources.limits.cpu:*}")]
#[case("container:{NOT image:*}")]
#[case("status.conditions:{type:Available status:False}")]
#[case("spec.template.spec.containers:{NOT resources.limits.cpu:*}")]
#[case("spec.replicas:{NOT x:*}")]
#[case("container:nginx")]
#[case("changed:>now-1d")]
fn the_deployment_is_not_found(#[case] query: &str) {
    assert!(!found(query, NGINX), "{query} = {:?}", parse(query));
}

#[test]
fn what_a_secret_keeps_can_be_asked_for_by_nobody() {
    assert!(found("kind:Secret name:keys type:Opaque", SECRET));
    for query in [
        "data.token:*",
        "aGlkZGVu",
        "hidden",
        "data:*",
        "annotation.kubectl.kubernetes.io/last-applied-configuration:*",
    ] {
        assert!(!found(query, SECRET), "{query}");
    }
}

#[rstest]
#[case("kind:", 6, "write kind:*")]
#[case("kind: Pod", 6, "a value is missing")]
#[case("namspace:shop", 1, "did you mean namespace?")]
#[case("a b labels.app:x", 5, "did you mean label.app?")]
#[case("label.:x", 1, "write label.app:value")]
#[case("(a OR b", 1, "this ( is not closed")]
#[case("a)", 2, "there is no ( for this )")]
#[case("\"a", 1, "this quote is not closed")]
#[case("a\\", 2, "nothing follows the backslash")]
#[case("a OR", 5, "something is missing at the end")]
#[case("OR a", 1, "OR has nothing before it")]
#[case("()", 2, "there is nothing before this )")]
#[case("spec.replicas:>", 16, "a value is missing behind the comparison")]
#[case("spec.replicas:[1 2]", 18, "TO is missing")]
#[case("spec.replicas:[1 TO 2", 15, "this range is not closed")]
#[case("created:yesterday", 1, "is no time")]
#[case("created:>3", 1, "is no time")]
#[case("---", 3, "no letter or digit")]
#[case("spec..replicas:1", 1, "is no field")]
#[case("container:{web}", 12, "write field:value")]
#[case("container:{1 5}", 12, "{1 TO 5}")]
#[case("container:{name:web", 11, "this { is not closed")]
#[case("container:{}", 12, "there is nothing before this }")]
#[case("image:{name:web}", 1, "image has no elements")]
#[case("changed:lately", 1, "is no time")]
fn a_mistake_is_shown_where_it_is_with_what_to_write(
    #[case] query: &str,
    #[case] character: usize,
    #[case] says: &str,
) {
    let error = parse(query).unwrap_err();
    assert!(error.to_string().contains(says), "{query}: {error}");
    assert_eq!(error.character, character, "{query}: {error}");
}

#[test]
fn a_query_that_nobody_would_type_is_refused() {
    assert!(parse(&"(".repeat(100_000)).is_err());
    assert!(parse(&"-".repeat(5000)).is_err());
    assert!(parse(&"a ".repeat(300)).unwrap_err().problem.contains("more than 200"));
    assert!(parse(&"NOT ".repeat(100)).is_err());
}

fn word() -> impl Strategy<Value = String> {
    "[a-z0-9]{1,6}"
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![".{1,8}", word(), Just("AND".to_owned()), Just("TO".to_owned()), "[-*?:()\\[\\]{}\"\\\\<> ]{1,4}"]
}

fn field() -> impl Strategy<Value = Field> {
    let named: Vec<Field> = NAMED
        .iter()
        .map(|(_, field)| field.clone())
        .filter(|field| !matches!(field, Field::Created | Field::Changed))
        .collect();
    prop_oneof![
        prop::sample::select(named),
        "[a-z./]{1,10}".prop_map(Field::Label),
        ".{1,6}".prop_map(Field::Annotation),
        prop::collection::vec("[a-zA-Z./ :]{1,6}", 1..4).prop_map(Field::Path),
    ]
}

fn bound() -> impl Strategy<Value = Option<Bound>> {
    let some = (prop_oneof![9 => value(), 1 => Just(String::new())], any::<bool>())
        .prop_map(|(text, is_inclusive)| Some(Bound { value: value::Literal::read(&text), is_inclusive }));
    prop_oneof![some, Just(None)]
}

fn test() -> impl Strategy<Value = Test> {
    prop_oneof![
        Just(Test::Exists),
        value().prop_map(Test::Is),
        Just(Test::Is(String::new())),
        (word(), word()).prop_map(|(one, other)| Test::Like(Pattern {
            parts: vec![PatternPart::Text(one), PatternPart::Many, PatternPart::Text(other), PatternPart::One],
        })),
        (bound(), bound()).prop_map(|(lower, upper)| Test::Within { lower, upper }),
    ]
}

/// What is asked of an element: paths only.
fn of_element() -> impl Strategy<Value = Expression> {
    let span = Span::default();
    let path = prop::collection::vec("[a-zA-Z./ :}{]{1,6}", 1..3).prop_map(Field::Path);
    let leaf = (path, test()).prop_map(move |(field, test)| Expression::Field(FieldClause { field, test, span }));
    leaf.prop_recursive(3, 8, 2, move |inner| {
        let of = prop_oneof![Just(vec!["container".to_owned()]), Just(vec!["ports".to_owned(), "a b".to_owned()])];
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..3).prop_map(Expression::All),
            prop::collection::vec(inner.clone(), 2..3).prop_map(Expression::Any),
            inner.clone().prop_map(|part| Expression::Not(Box::new(part))),
            (of, inner).prop_map(move |(of, inner)| {
                Expression::Element(ElementClause { of: Field::Path(of), inner: Box::new(inner), span })
            }),
        ]
    })
}

fn expression() -> impl Strategy<Value = Expression> {
    let span = Span::default();
    let of = prop_oneof![Just(Field::Container), Just(Field::Path(vec!["spec".to_owned(), "ports".to_owned()]))];
    let leaf = prop_oneof![
        prop::collection::vec(word().prop_map(|word| Pattern::plain(&word)), 1..3)
            .prop_map(move |words| Expression::Text(TextClause { words, span })),
        (of, of_element())
            .prop_map(move |(of, inner)| { Expression::Element(ElementClause { of, inner: Box::new(inner), span }) }),
        (field(), test()).prop_map(move |(field, test)| Expression::Field(FieldClause { field, test, span })),
    ];
    leaf.prop_recursive(4, 20, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expression::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expression::Any),
            inner.prop_map(|part| Expression::Not(Box::new(part))),
        ]
    })
}

#[test]
fn everything_is_printed_as_a_star_where_it_is_a_part() {
    for (text, printed) in [("NOT *", "NOT *"), ("*", ""), ("", "")] {
        let read = parse(text).unwrap();
        assert_eq!(read.to_string(), printed);
        assert_eq!(parse(printed).unwrap(), read);
    }
}

proptest! {
    #[test]
    fn what_is_printed_reads_the_same(expression in expression()) {
        let printed = expression.to_string();
        let read = parse(&printed);
        prop_assert_eq!(read.as_ref(), Ok(&expression), "{}", printed);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,60}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_words_of_the_grammar_make_it_panic(text in "([-()\"\\\\:*?<>=\\[\\]{}. ]|AND|OR|NOT|TO|kind|created|now|container:|[a-z0-9]){0,30}") {
        if let Ok(expression) = parse(&text) {
            prop_assert_eq!(parse(&expression.to_string()), Ok(expression));
        }
    }

    #[test]
    fn a_pattern_matches_as_a_regular_expression_would(pattern in "[ab*?]{0,8}", text in "[ab]{0,10}") {
        let Ok(Expression::Field(clause)) = parse(&format!("name:x{pattern}")) else { return Ok(()) };
        let regex = format!("^x{}$", pattern.replace('*', ".*").replace('?', "."));
        let expected = regex::Regex::new(&regex).unwrap().is_match(&format!("x{text}"));
        let found = match clause.test {
            Test::Like(pattern) => pattern.matches(&format!("x{text}")),
            Test::Is(wanted) => wanted == format!("x{text}"),
            _ => return Ok(()),
        };
        prop_assert_eq!(found, expected);
    }
}
