//! Requests signed as Amazon's services want it (AWS Signature Version 4), seen from the server: the header that a request with
//! these keys must carry.

use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// All that is not unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Keys of an account, and what they are used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The key's name.
    pub id: String,
    /// The key.
    pub key: String,
    /// Where the service runs.
    pub region: String,
    /// Which service it is.
    pub service: String,
}

impl Keys {
    /// The `Authorization` that the request must have, for the headers that it says are signed; none if it lacks something.
    pub(super) fn authorization(&self, head: &Parts, body: &[u8]) -> Option<String> {
        let header = |name: &str| head.headers.get(name)?.to_str().ok();
        let shown = header(AUTHORIZATION.as_str())?;
        let signed = shown.split("SignedHeaders=").nth(1)?.split(',').next()?;
        let (time, payload) = (header("x-amz-date")?, hex(&Sha256::digest(body)));
        if header("x-amz-content-sha256")? != payload || !signed.split(';').any(|name| name == "host") {
            return None;
        }
        let headers: String =
            signed.split(';').map(|name| Some(format!("{name}:{}\n", header(name)?.trim()))).collect::<Option<_>>()?;
        let path = utf8_percent_encode(head.uri.path(), ENCODED).to_string().replace("%2F", "/");
        let request = [head.method.as_str(), &path, &query(head), &headers, signed, &payload].join("\n");
        let scope = format!("{}/{}/{}/aws4_request", time.get(..8)?, self.region, self.service);
        let text = [ALGORITHM, time, &scope, &hex(&Sha256::digest(request))].join("\n");
        let steps = [time.get(..8)?, &self.region, &self.service, "aws4_request", &text];
        let signature = steps.into_iter().fold(format!("AWS4{}", self.key).into_bytes(), |key, step| keyed(&key, step));
        let credential = format!("{}/{scope}", self.id);
        Some(format!("{ALGORITHM} Credential={credential}, SignedHeaders={signed}, Signature={}", hex(&signature)))
    }
}

fn query(head: &Parts) -> String {
    let encoded = |text: &str| {
        let text = percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        utf8_percent_encode(&text, ENCODED).to_string()
    };
    let pairs = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    let mut pairs: Vec<String> = pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            format!("{}={}", encoded(name), encoded(value))
        })
        .collect();
    pairs.sort();
    pairs.join("&")
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    sign(&Key::new(HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
