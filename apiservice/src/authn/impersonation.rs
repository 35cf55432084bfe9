//! `Impersonate-*` headers: a caller who wants to be treated as somebody else, and may.
//!
//! In: the real caller and the headers. Out: the caller to go on with. Each name, group and extra value that is asked
//! for needs a permission of its own (verb `impersonate`). A control plane in front of this server does the same and
//! removes the headers; here it matters to those who come directly. Ignoring the headers would be worse than refusing
//! them: `kubectl --as=somebody` would act with more power than it asked for.

use std::collections::BTreeMap;

use http::HeaderMap;

use super::trust::{decode_extra_key, text};
use crate::authz::Authorizer;
use crate::error::ApiError;
use crate::request::{ANONYMOUS, Caller, RequestInfo, UNAUTHENTICATED_GROUP};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION_GROUP: &str = "authentication.k8s.io";
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The caller to go on with; the headers are removed.
///
/// # Errors
/// 403 if the caller may not be who it wants to be; 400 for groups without a user.
pub async fn impersonate(authorizer: &Authorizer, caller: Caller, headers: &mut HeaderMap) -> Result<Caller, ApiError> {
    let Some(wanted) = Wanted::read(headers)? else { return Ok(caller) };
    for request in wanted.permissions() {
        authorizer.authorize(&caller, &request).await?;
    }
    Wanted::remove(headers);
    tracing::debug!(caller = %caller.username, as_user = %wanted.user, "impersonation");
    Ok(wanted.into_caller())
}

struct Wanted {
    user: String,
    groups: Vec<String>,
    uid: Option<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        if !headers.keys().any(|name| is_impersonation(name.as_str())) {
            return Ok(None);
        }
        let one = |name: &str| headers.get(name).map(text).transpose();
        let Some(user) = one(USER)?.filter(|user| !user.is_empty()) else {
            return Err(ApiError::bad_request("impersonation of groups, uid or extra values needs Impersonate-User"));
        };
        let groups = headers.get_all(GROUP).iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                extra.entry(decode_extra_key(key)).or_default().push(text(value)?);
            }
        }
        Ok(Some(Self { user, groups, uid: one(UID)?.filter(|uid| !uid.is_empty()), extra }))
    }

    fn remove(headers: &mut HeaderMap) {
        let doomed: Vec<_> = headers.keys().filter(|name| is_impersonation(name.as_str())).cloned().collect();
        for name in doomed {
            headers.remove(name);
        }
    }

    fn service_account(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')
    }

    fn permissions(&self) -> Vec<RequestInfo> {
        let ask = |group: &str, resource: &str, name: &str| RequestInfo {
            is_resource_request: true,
            verb: "impersonate".to_owned(),
            api_group: group.to_owned(),
            api_version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let mut asked = vec![match self.service_account() {
            Some((namespace, name)) => {
                RequestInfo { namespace: namespace.to_owned(), ..ask("", "serviceaccounts", name) }
            }
            None => ask("", "users", &self.user),
        }];
        asked.extend(self.groups.iter().map(|group| ask("", "groups", group)));
        asked.extend(self.uid.iter().map(|uid| ask(AUTHENTICATION_GROUP, "uids", uid)));
        for (key, values) in &self.extra {
            let value = |value: &String| RequestInfo {
                subresource: key.clone(),
                ..ask(AUTHENTICATION_GROUP, "userextras", value)
            };
            asked.extend(values.iter().map(value));
        }
        asked
    }

    fn into_caller(mut self) -> Caller {
        if self.groups.is_empty() {
            if let Some((namespace, _)) = self.service_account() {
                self.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            } else if self.user == ANONYMOUS {
                self.groups = vec![UNAUTHENTICATED_GROUP.to_owned()];
            }
        }
        Caller { uid: self.uid, extra: self.extra, ..Caller::authenticated(self.user, self.groups) }
    }
}

fn is_impersonation(header: &str) -> bool {
    matches!(header, USER | GROUP | UID) || header.starts_with(EXTRA)
}
