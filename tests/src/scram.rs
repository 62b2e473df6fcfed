//! The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677) by another implementation of everything.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::tools;

/// A password, and its hash as `doveadm pw -s SCRAM-SHA-256` would write it.
pub const PASSWORD: &str = "pencil";
pub const HASH: &str = "{SCRAM-SHA-256}4096,W22ZaJ0SNY7soEsUEjb6gQ==,\
     WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=,\
     wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

/// Logs in and sends a message.
const SCRIPT: &str = "
import base64, hashlib, hmac, os, smtplib, ssl, sys
host, port, user, password = sys.argv[1:]
session = smtplib.SMTP(host, int(port), local_hostname='client.test')
session.starttls(context=ssl._create_unverified_context())
session.ehlo()
assert 'SCRAM-SHA-256' in session.esmtp_features['auth'].split(), session.esmtp_features
nonce = base64.b64encode(os.urandom(18)).decode()
bare = 'n=%s,r=%s' % (user, nonce)
state = {}
def mac(key, text):
    return hmac.new(key, text.encode(), 'sha256').digest()
def answer(challenge=None):
    if challenge is None:
        return 'n,,' + bare
    fields = dict(field.split('=', 1) for field in challenge.decode().split(','))
    if 'v' in fields:
        assert fields['v'] == state['signature'], 'the server does not know the password'
        print('verified')
        return ''
    assert fields['r'].startswith(nonce)
    salt, count = base64.b64decode(fields['s']), int(fields['i'])
    salted = hashlib.pbkdf2_hmac('sha256', password.encode(), salt, count)
    key = mac(salted, 'Client Key')
    last = 'c=biws,r=' + fields['r']
    signed = ','.join([bare, challenge.decode(), last])
    signature = mac(hashlib.sha256(key).digest(), signed)
    state['signature'] = base64.b64encode(mac(mac(salted, 'Server Key'), signed)).decode()
    proof = bytes(a ^ b for a, b in zip(key, signature))
    return last + ',p=' + base64.b64encode(proof).decode()
print(session.auth('SCRAM-SHA-256', answer))
session.sendmail(user, ['friend@remote.test'], 'From: <%s>\\r\\n\\r\\nbody\\r\\n' % user)
session.quit()
";

/// Logs in and sends a message to `friend@remote.test`; the server has proved that it knows the
/// password, too. Fails with what was said.
pub async fn send(submission: SocketAddr, login: &str, password: &str) -> Result<()> {
    let port = submission.port().to_string();
    let mut command = Command::new(tools::path("python/bin/python3")?);
    command.args(["-c", SCRIPT, "127.0.0.1", &port, login, password]);
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    ensure!(output.status.success(), "{said}");
    ensure!(said.contains("verified") && said.contains("235"), "{said}");
    Ok(())
}
