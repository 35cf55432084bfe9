//! Where a backend is and how one logs in there: what registries and Secrets say, made sure of before anything connects.
//!
//! The keys of a Secret are `username` (or `userName`) and `password`, or `token`, or `tls.crt` and `tls.key`, or `awsRegion`,
//! `awsAccessKeyID` and `awsSecretAccessKey`; beside any of them `ca.crt` and `tlsServerName`. A Secret that lacks what it should have is an error:
//! nobody is asked anonymously because a password is missing. One that has anything else was made for something else, as those of
//! service accounts and of clusters are: what it holds is sent to nobody, whoever names it in a registry.

use std::collections::BTreeMap;

use opensearch::http::Url;
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};

use crate::plan::{BackendReference, SecretReference};

/// The keys of a Secret that say whom to trust, not who asks.
const AUTHORITY: &str = "ca.crt";
const SERVER_NAME: &str = "tlsServerName";
/// All that a Secret for a backend may have.
const KEYS: [&str; 13] = [
    AUTHORITY,
    SERVER_NAME,
    "username",
    "userName",
    "password",
    "token",
    "tls.crt",
    "tls.key",
    "awsRegion",
    "awsService",
    "awsAccessKeyID",
    "awsSecretAccessKey",
    "awsSessionToken",
];

/// Why a backend can't be asked at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// There is nothing to connect to.
    #[error("spec.backendStore.openSearch.addresses is empty: name the URL of at least one node")]
    NoAddress,
    /// An address is no URL of a node.
    #[error("address {address:?} is no http or https URL of a node: {error}")]
    BadAddress {
        /// Without credentials.
        address: String,
        /// Why.
        error: String,
    },
    /// Credentials would go over the network for everybody to read.
    #[error(
        "{address} is http, and credentials for it would be sent in plain text: use https, or allow it with \
         --opensearch-plaintext-credentials"
    )]
    PlainText {
        /// Without credentials.
        address: String,
    },
    /// A client certificate is of no use there.
    #[error("{address} is http, and the Secret has a client certificate, which is shown over https only")]
    NoTls {
        /// Without credentials.
        address: String,
    },
    /// Nodes of one cluster have the same users.
    #[error("the addresses carry different credentials: write the same into each, or use a Secret")]
    LoginsDiffer,
    /// There is no such Secret.
    #[error("Secret {0}, which the registry names, is not there")]
    NoSecret(SecretReference),
    /// The Secret has not been read yet.
    #[error("Secret {0} is being read")]
    SecretPending(SecretReference),
    /// The Secret can't be read.
    #[error("Secret {secret} can't be read: {error}")]
    SecretUnreadable {
        /// Which.
        secret: SecretReference,
        /// Why.
        error: String,
    },
    /// The Secret doesn't say how to log in.
    #[error("Secret {secret}: {problem}")]
    BadSecret {
        /// Which.
        secret: SecretReference,
        /// What is wrong with it, and what is expected.
        problem: String,
    },
}

/// How to log in.
#[derive(Debug, Clone)]
pub(super) enum Login {
    /// Not at all.
    Anonymous,
    /// User name and password.
    Basic(String, SecretString),
    /// A token.
    Bearer(SecretString),
    /// Certificate and key, PEM.
    Certificate(SecretString),
    /// Requests signed for Amazon's service.
    Aws(AwsLogin),
}

/// Keys of an Amazon account.
#[derive(Debug, Clone)]
pub(super) struct AwsLogin {
    pub(super) region: String,
    pub(super) service: String,
    pub(super) key_id: String,
    pub(super) key: SecretString,
    pub(super) session: Option<SecretString>,
}

/// A backend that can be connected to.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Without credentials; at least one.
    pub(super) nodes: Vec<Url>,
    pub(super) login: Login,
    /// Further authorities whose certificates are trusted, PEM.
    pub(super) authority: Option<Vec<u8>>,
    /// The name that the nodes' certificates bear, if it isn't that of their addresses.
    pub(super) server_name: Option<String>,
}

/// What is known of a Secret's contents.
pub(super) type SecretData = BTreeMap<String, Vec<u8>>;

impl Target {
    /// Puts together what registry and Secret say.
    pub(super) fn new(
        reference: &BackendReference,
        secret: Option<&SecretData>,
        may_be_plain: bool,
    ) -> Result<Self, TargetError> {
        let (mut login, mut authority, mut server_name) = (Login::Anonymous, None, None);
        if let (Some(name), Some(data)) = (&reference.secret, secret) {
            let bad = |problem: String| TargetError::BadSecret { secret: name.clone(), problem };
            login = login_of(data).map_err(bad)?;
            authority = data.get(AUTHORITY).filter(|pem| !pem.is_empty()).cloned();
            server_name = server_name_of(data).map_err(bad)?;
        }
        let read = reference.addresses.iter().map(|address| node(address)).collect::<Result<Vec<_>, _>>()?;
        let (nodes, own): (Vec<Url>, Vec<Option<Login>>) = read.into_iter().unzip();
        let Some(first) = own.first() else { return Err(TargetError::NoAddress) };
        if own.iter().any(|other| !is_same_login(first.as_ref(), other.as_ref())) {
            return Err(TargetError::LoginsDiffer);
        }
        // As with karmada-search, what stands in the addresses counts more.
        login = first.clone().unwrap_or(login);
        if let Some(plain) = nodes.iter().find(|node| node.scheme() == "http") {
            login.may_go_over_http(plain, may_be_plain)?;
        }
        Ok(Self { nodes, login, authority, server_name })
    }

    /// Whether credentials would go over http.
    pub(super) fn check_http(&self) -> Result<(), TargetError> {
        let plain = self.nodes.iter().find(|node| node.scheme() == "http");
        plain.map_or(Ok(()), |plain| self.login.may_go_over_http(plain, false))
    }

    /// The same for every way to write the same nodes.
    pub(super) fn name(&self) -> String {
        let mut names: Vec<&str> = self.nodes.iter().map(|node| node.as_str().trim_end_matches('/')).collect();
        names.sort_unstable();
        names.dedup();
        names.join(",")
    }

    /// Whether connections of one serve the other.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (&self.nodes, &self.authority, &self.server_name) == (&other.nodes, &other.authority, &other.server_name)
            && self.login.is_same(&other.login)
    }
}

fn is_same_login(one: Option<&Login>, other: Option<&Login>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => one.is_same(other),
        (one, other) => one.is_none() && other.is_none(),
    }
}

impl Login {
    fn may_go_over_http(&self, node: &Url, may_be_plain: bool) -> Result<(), TargetError> {
        let address = node.to_string();
        match self {
            Self::Anonymous => Ok(()),
            // Without TLS there is nobody to show it to, and nobody is to be asked without it.
            Self::Certificate(_) => Err(TargetError::NoTls { address }),
            Self::Basic(..) | Self::Bearer(_) | Self::Aws(_) if may_be_plain => Ok(()),
            Self::Basic(..) | Self::Bearer(_) | Self::Aws(_) => Err(TargetError::PlainText { address }),
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let same = |left: &SecretString, right: &SecretString| left.expose_secret() == right.expose_secret();
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (Self::Basic(user, password), Self::Basic(other, others)) => user == other && same(password, others),
            (Self::Bearer(one), Self::Bearer(other)) | (Self::Certificate(one), Self::Certificate(other)) => {
                same(one, other)
            }
            (Self::Aws(one), Self::Aws(other)) => {
                let session = |login: &AwsLogin| login.session.as_ref().map(|token| token.expose_secret().to_owned());
                (&one.region, &one.service, &one.key_id) == (&other.region, &other.service, &other.key_id)
                    && same(&one.key, &other.key)
                    && session(one) == session(other)
            }
            _ => false,
        }
    }
}

/// A node's URL without credentials, and those that stood in it.
fn node(address: &str) -> Result<(Url, Option<Login>), TargetError> {
    let bad = |error: String| TargetError::BadAddress { address: without_userinfo(address), error };
    let mut url: Url = address.trim().parse().map_err(|error| bad(format!("{error}")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(bad(format!("its scheme is {:?}", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = match url.password() {
        Some(password) => Some(Login::Basic(decoded(url.username()), decoded(password).into())),
        None if !url.username().is_empty() => return Err(bad("it has a user name but no password".to_owned())),
        None => None,
    };
    // Neither fails for a URL that has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    Ok((url, login))
}

fn without_userinfo(address: &str) -> String {
    match address.split_once("://").zip(address.rsplit_once('@')) {
        Some(((scheme, _), (_, rest))) => format!("{scheme}://{rest}"),
        None => address.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

/// What a key of a Secret says; nothing if it is empty.
fn text_of(data: &SecretData, key: &str) -> Result<Option<String>, String> {
    let Some(bytes) = data.get(key).filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = str::from_utf8(bytes).map_err(|_| format!("its {key} is not text"))?;
    // Files end with a line's end, and so do Secrets made of them.
    let text = if key.starts_with("tls.") { text } else { text.trim_end_matches(['\r', '\n']) };
    match text.chars().any(char::is_control) && !key.starts_with("tls.") {
        true => Err(format!("its {key} has control characters in it")),
        false => Ok(Some(text.to_owned())),
    }
}

fn server_name_of(data: &SecretData) -> Result<Option<String>, String> {
    let Some(name) = text_of(data, SERVER_NAME)? else { return Ok(None) };
    let read: Result<Url, _> = format!("https://{name}/").parse();
    match read {
        Ok(url) if url.host_str() == Some(&*name.to_ascii_lowercase()) => Ok(Some(name)),
        _ => Err(format!("its {SERVER_NAME} is no name of a host")),
    }
}

fn login_of(data: &SecretData) -> Result<Login, String> {
    let text = |key: &str| text_of(data, key);
    let user = text("username")?.or(text("userName")?);
    let password = text("password")?;
    let token = text("token")?;
    let pair = (text("tls.crt")?, text("tls.key")?);
    let keys = (text("awsAccessKeyID")?, text("awsSecretAccessKey")?);
    let logins = [
        match (user, password) {
            (Some(user), Some(password)) => Some(Login::Basic(user, password.into())),
            (Some(_), None) => return Err("it has a username but no password".to_owned()),
            (None, Some(_)) => return Err("it has a password but no username".to_owned()),
            (None, None) => None,
        },
        token.map(|token| Login::Bearer(token.into())),
        match pair {
            (Some(certificate), Some(key)) => Some(Login::Certificate(format!("{certificate}\n{key}").into())),
            (None, None) => None,
            _ => return Err("it has only one of tls.crt and tls.key".to_owned()),
        },
        match keys {
            (Some(key_id), Some(key)) => Some(Login::Aws(AwsLogin {
                region: text("awsRegion")?.ok_or("it has keys of Amazon but no awsRegion")?,
                service: text("awsService")?.unwrap_or_else(|| "es".to_owned()),
                key_id,
                key: key.into(),
                session: text("awsSessionToken")?.map(Into::into),
            })),
            (None, None) => None,
            _ => return Err("it has only one of awsAccessKeyID and awsSecretAccessKey".to_owned()),
        },
    ];
    let mut logins = logins.into_iter().flatten();
    let other = data.keys().find(|key| !KEYS.contains(&key.as_str()));
    match (logins.next(), logins.next()) {
        // karmada-search takes a user's password out of any Secret.
        (Some(login @ Login::Basic(..)), None) => Ok(login),
        (Some(_), None) if let Some(other) = other => Err(format!(
            "it has {other:?}, so it was made for something else than a backend: put what is meant into one of its own"
        )),
        (Some(login), None) => Ok(login),
        // Anything else beside it was meant to be something.
        (None, _) if data.keys().all(|key| key == AUTHORITY || key == SERVER_NAME) && !data.is_empty() => {
            Ok(Login::Anonymous)
        }
        (None, _) => {
            Err("it has no credentials: expected are username and password, or token, or tls.crt and tls.key, or \
                          awsRegion, awsAccessKeyID and awsSecretAccessKey"
                .to_owned())
        }
        (Some(_), Some(_)) => Err("it has credentials of more than one kind: keep one of them".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(addresses: &[&str], has_secret: bool) -> BackendReference {
        let secret = SecretReference { namespace: "search".into(), name: "opensearch".into() };
        BackendReference {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            secret: has_secret.then_some(secret),
        }
    }

    fn secret(pairs: &[(&str, &str)]) -> SecretData {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    fn login(pairs: &[(&str, &str)]) -> Result<Login, TargetError> {
        let target = Target::new(&reference(&["https://search:9200"], true), Some(&secret(pairs)), false)?;
        Ok(target.login)
    }

    fn problem(pairs: &[(&str, &str)]) -> String {
        login(pairs).unwrap_err().to_string()
    }

    #[test]
    fn addresses_alone_are_asked_without_credentials() {
        let target = Target::new(&reference(&["http://b:9200/", "http://a:9200"], false), None, false).unwrap();
        assert!(matches!(target.login, Login::Anonymous));
        assert_eq!(target.name(), "http://a:9200,http://b:9200");
    }

    #[test]
    fn each_kind_of_credentials_is_taken() {
        assert!(matches!(login(&[("username", "u"), ("password", "p")]), Ok(Login::Basic(user, _)) if user == "u"));
        assert!(matches!(login(&[("userName", "u"), ("password", "p")]), Ok(Login::Basic(user, _)) if user == "u"));
        assert!(matches!(login(&[("token", "t\n")]), Ok(Login::Bearer(token)) if token.expose_secret() == "t"));
        assert!(matches!(login(&[("tls.crt", "c"), ("tls.key", "k")]), Ok(Login::Certificate(_))));
        let aws = [("awsRegion", "eu-west-1"), ("awsAccessKeyID", "i"), ("awsSecretAccessKey", "s")];
        assert!(matches!(login(&aws), Ok(Login::Aws(AwsLogin { service, .. })) if service == "es"));
        assert!(matches!(login(&[("ca.crt", "pem")]), Ok(Login::Anonymous)));
    }

    #[test]
    fn a_secret_that_lacks_something_is_refused_and_never_anonymous() {
        assert!(problem(&[]).contains("it has no credentials"));
        assert!(problem(&[("username", "u")]).contains("no password"));
        assert!(problem(&[("username", "u"), ("password", "")]).contains("no password"));
        assert!(problem(&[("password", "p")]).contains("no username"));
        assert!(problem(&[("tls.crt", "c")]).contains("only one of tls.crt and tls.key"));
        assert!(problem(&[("awsAccessKeyID", "i"), ("awsSecretAccessKey", "s")]).contains("awsRegion"));
        assert!(problem(&[("token", "t"), ("username", "u"), ("password", "p")]).contains("more than one kind"));
        assert!(problem(&[("ca.crt", "pem"), ("username", ""), ("password", "")]).contains("no credentials"));
        assert!(problem(&[("ca.crt", "pem"), ("Username", "u"), ("Password", "p")]).contains("no credentials"));
        assert!(problem(&[("token", "a\nb")]).contains("control characters"));
    }

    #[test]
    fn what_a_secret_of_a_service_account_or_a_cluster_holds_is_sent_to_nobody() {
        let account = [("token", "t"), ("ca.crt", "pem"), ("namespace", "kube-system")];
        assert!(problem(&account).contains("made for something else"));
        assert!(problem(&[("token", "t"), ("caBundle", "pem")]).contains("caBundle"));
        assert!(login(&[("username", "u"), ("password", "p"), ("note", "of ours")]).is_ok());
    }

    #[test]
    fn credentials_go_over_http_only_where_that_is_allowed() {
        let plain = reference(&["http://search:9200"], true);
        let data = secret(&[("token", "t")]);
        let refused = Target::new(&plain, Some(&data), false).unwrap_err();
        assert_eq!(refused, TargetError::PlainText { address: "http://search:9200/".into() });
        assert!(Target::new(&plain, Some(&data), true).is_ok());
        let certificate = secret(&[("tls.crt", "c"), ("tls.key", "k")]);
        let refused = Target::new(&plain, Some(&certificate), true).unwrap_err();
        assert_eq!(refused, TargetError::NoTls { address: "http://search:9200/".into() });
    }

    #[test]
    fn a_name_for_certificates_must_be_one() {
        let target = |name: &str| {
            let data = secret(&[("token", "t"), ("tlsServerName", name)]);
            Target::new(&reference(&["https://10.0.0.7:9200"], true), Some(&data), false)
        };
        assert_eq!(target("search.example\n").unwrap().server_name.as_deref(), Some("search.example"));
        assert_eq!(target("").unwrap().server_name, None);
        assert!(target("search.example").unwrap().is_same(&target("search.example").unwrap()));
        assert!(!target("search.example").unwrap().is_same(&target("other.example").unwrap()));
        for wrong in ["search.example:9200", "https://search.example", "search.example/x", "me@search.example", "a b"] {
            let error = target(wrong).unwrap_err().to_string();
            assert!(error.contains("tlsServerName is no name of a host"), "{wrong}: {error}");
        }
        assert!(matches!(login(&[("tlsServerName", "search.example")]), Ok(Login::Anonymous)));
    }

    #[test]
    fn no_node_is_told_the_credentials_of_another() {
        let mixed = reference(&["https://me:secret@inside:9200", "https://outside:9200"], false);
        assert_eq!(Target::new(&mixed, None, false).unwrap_err(), TargetError::LoginsDiffer);
        let user = Target::new(&reference(&["https://me@inside:9200"], false), None, false).unwrap_err().to_string();
        assert!(user.contains("no password"), "{user}");
    }

    #[test]
    fn what_stands_in_an_address_counts_more_and_is_never_told() {
        let named = reference(&["https://me:p%40ss@search:9200"], true);
        let target = Target::new(&named, Some(&secret(&[("token", "t")])), false).unwrap();
        assert!(
            matches!(&target.login, Login::Basic(user, password) if user == "me" && password.expose_secret() == "p@ss")
        );
        assert_eq!(target.name(), "https://search:9200");
        assert!(!format!("{target:?}").contains("p@ss"));
        let wrong = Target::new(&reference(&["ftp://me:secret@search"], false), None, false).unwrap_err().to_string();
        assert!(!wrong.contains("secret") && wrong.contains("ftp"), "{wrong}");
    }

    #[test]
    fn no_address_and_bad_addresses_are_named() {
        assert_eq!(Target::new(&reference(&[], false), None, false).unwrap_err(), TargetError::NoAddress);
        let error = Target::new(&reference(&["search:9200"], false), None, false).unwrap_err().to_string();
        assert!(error.contains("search"), "{error}");
    }
}
