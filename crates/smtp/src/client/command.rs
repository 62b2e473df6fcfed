//! MAIL and RCPT as a client writes them.

use std::fmt::Write;

use mail_types::{BodyType, EnvId, Notify, OriginalRecipient, Recipient, Ret, ReversePath};

use super::capabilities::Capabilities;

/// What a client says in MAIL; a parameter is written only when the server offers its extension.
#[derive(Clone, Debug)]
pub struct Mail<'a> {
    pub reverse_path: &'a ReversePath,
    /// Octets of the content (RFC 1870 §5).
    pub size: u64,
    pub body: BodyType,
    /// Content or an address needs SMTPUTF8 (RFC 6531 §3.4). The caller has seen to it that the
    /// server offers it.
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envid: Option<&'a EnvId>,
}

impl Mail<'_> {
    pub(super) fn write(&self, offered: &Capabilities, out: &mut String) {
        push(out, format_args!("MAIL FROM:{}", self.reverse_path));
        if offered.size.is_offered() {
            push(out, format_args!(" SIZE={}", self.size));
        }
        if offered.eight_bit_mime && self.body == BodyType::EightBitMime {
            out.push_str(" BODY=8BITMIME");
        }
        if offered.smtputf8 && self.smtputf8 {
            out.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            match self.ret {
                Some(Ret::Full) => out.push_str(" RET=FULL"),
                Some(Ret::Hdrs) => out.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envid) = self.envid {
                out.push_str(" ENVID=");
                push_xtext(out, envid.as_str());
            }
        }
        out.push_str("\r\n");
    }
}

pub(super) fn write_rcpt(recipient: &Recipient, offered: &Capabilities, out: &mut String) {
    push(out, format_args!("RCPT TO:<{}>", recipient.address));
    if offered.dsn {
        if let Some(notify) = recipient.notify {
            push_notify(out, notify);
        }
        if let Some(orcpt) = &recipient.orcpt {
            push_orcpt(out, orcpt);
        }
    }
    out.push_str("\r\n");
}

fn push(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a `String` cannot fail.
    let _ = out.write_fmt(arguments);
}

/// RFC 3461 §4.1.
fn push_notify(out: &mut String, notify: Notify) {
    let Notify::On { success, failure, delay } = notify else {
        out.push_str(" NOTIFY=NEVER");
        return;
    };
    let asked = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
    let mut separator = " NOTIFY=";
    for (_, word) in asked.into_iter().filter(|(asked, _)| *asked) {
        out.push_str(separator);
        out.push_str(word);
        separator = ",";
    }
}

/// RFC 3461 §4.2; an address of type `utf-8` as RFC 6533 §3 writes it in ASCII.
fn push_orcpt(out: &mut String, orcpt: &OriginalRecipient) {
    push(out, format_args!(" ORCPT={};", orcpt.addr_type()));
    if orcpt.addr_type().eq_ignore_ascii_case("utf-8") {
        push_utf8_addr_xtext(out, orcpt.address());
    } else {
        push_xtext(out, orcpt.address());
    }
}

/// xtext (RFC 3461 §4).
fn push_xtext(out: &mut String, text: &str) {
    for octet in text.bytes() {
        match octet {
            b'!'..=b'~' if !matches!(octet, b'+' | b'=') => out.push(char::from(octet)),
            _ => push(out, format_args!("+{octet:02X}")),
        }
    }
}

/// utf-8-addr-xtext (RFC 6533 §3).
fn push_utf8_addr_xtext(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '!'..='~' if !matches!(c, '+' | '=' | '\\') => out.push(c),
            _ => push(out, format_args!("\\x{{{:02X}}}", u32::from(c))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::SizeLimit;
    use mail_types::Mailbox;

    const ALL: Capabilities = Capabilities {
        pipelining: true,
        chunking: true,
        eight_bit_mime: true,
        smtputf8: true,
        dsn: true,
        starttls: false,
        size: SizeLimit::Unlimited,
        auth_plain: false,
        auth_login: false,
    };

    #[test]
    fn parameters_only_when_offered() {
        let reverse_path = ReversePath::parse("a@b.example").unwrap();
        let envid = EnvId::new("a+b=c d").unwrap();
        let mail = Mail {
            reverse_path: &reverse_path,
            size: 7,
            body: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Hdrs),
            envid: Some(&envid),
        };
        let (mut all, mut none) = (String::new(), String::new());
        mail.write(&ALL, &mut all);
        mail.write(&Capabilities::default(), &mut none);
        assert_eq!(
            all,
            "MAIL FROM:<a@b.example> SIZE=7 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc+20d\r\n"
        );
        assert_eq!(none, "MAIL FROM:<a@b.example>\r\n");
    }

    #[test]
    fn recipients() {
        let mut recipient = Recipient::new(Mailbox::parse("\"a b\"@c.example").unwrap());
        recipient.notify = Some(Notify::On { success: true, failure: false, delay: true });
        recipient.orcpt = OriginalRecipient::new("utf-8", "gr\u{fc}n+x@c.example").ok();
        let mut line = String::new();
        write_rcpt(&recipient, &ALL, &mut line);
        assert_eq!(
            line,
            "RCPT TO:<\"a b\"@c.example> NOTIFY=SUCCESS,DELAY \
             ORCPT=utf-8;gr\\x{FC}n\\x{2B}x@c.example\r\n"
        );
        line.clear();
        write_rcpt(&recipient, &Capabilities::default(), &mut line);
        assert_eq!(line, "RCPT TO:<\"a b\"@c.example>\r\n");
    }
}
