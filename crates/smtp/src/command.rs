//! The grammar of commands (RFC 5321 §4.1.1 and the extensions we offer).

mod parameters;
mod path;

use mail_types::{BodyType, EnvId, ForwardPath, Notify, OriginalRecipient, Ret, ReversePath};

/// One command line, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Helo(String),
    Ehlo(String),
    Mail(Box<MailCommand>),
    Rcpt(Box<RcptCommand>),
    Data,
    /// RFC 3030 §2.
    Bdat {
        octets: u64,
        last: bool,
    },
    Rset,
    Noop,
    Quit,
    Vrfy,
    Expn,
    Help,
    /// RFC 3207 §4.
    StartTls,
    /// RFC 4954 §4.
    Auth {
        mechanism: Mechanism,
        initial: Option<String>,
    },
}

/// MAIL with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailCommand {
    pub reverse_path: ReversePath,
    /// In octets (RFC 1870 §6).
    pub size: Option<u64>,
    pub body: BodyType,
    pub smtputf8: bool,
    pub ret: Option<Ret>,
    pub envid: Option<EnvId>,
    /// Some parameter stood in the command.
    pub extended: bool,
}

/// RCPT with its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RcptCommand {
    pub forward_path: ForwardPath,
    pub notify: Option<Notify>,
    pub orcpt: Option<OriginalRecipient>,
    /// Some octet of the command was not ASCII: only with SMTPUTF8 (RFC 6531 §3.4).
    pub needs_smtputf8: bool,
    /// Some parameter stood in the command.
    pub extended: bool,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// Never standardised, and used by much of what submits mail.
    Login,
    /// RFC 7677.
    ScramSha256,
}

/// Why a line is no command. Each has its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("not UTF-8")]
    NotUtf8,
    #[error("unknown command")]
    Unknown,
    #[error("a command of HTTP")]
    Http,
    #[error("unexpected argument")]
    Argument,
    #[error("HELO and EHLO need a host name")]
    HostName,
    #[error("MAIL is not followed by FROM:<path>")]
    MailSyntax,
    #[error("RCPT is not followed by TO:<path>")]
    RcptSyntax,
    #[error("reverse-path is no address")]
    ReversePath,
    #[error("forward-path is no address")]
    ForwardPath,
    #[error("address needs SMTPUTF8")]
    NeedsSmtpUtf8,
    #[error("unknown parameter")]
    UnknownParameter,
    #[error("parameter is not well-formed, or given twice")]
    Parameter,
    #[error("BDAT is not followed by a number of octets")]
    BdatSyntax,
    #[error("mechanism is not offered")]
    Mechanism,
}

impl CommandError {
    /// The reply line without CR LF.
    pub fn reply(self) -> &'static str {
        match self {
            Self::NotUtf8 => "501 5.5.2 Command is not UTF-8",
            Self::Unknown => "500 5.5.1 Command not recognized",
            Self::Http => "421 4.7.0 This is not an HTTP server, closing",
            Self::Argument => "501 5.5.4 Unexpected argument",
            Self::HostName => "501 5.5.4 A host name or an address literal must follow",
            Self::MailSyntax => "501 5.5.4 Syntax: MAIL FROM:<address>, without a space",
            Self::RcptSyntax => "501 5.5.4 Syntax: RCPT TO:<address>, without a space",
            Self::ReversePath => "501 5.1.7 Bad sender address syntax",
            Self::ForwardPath => "501 5.1.3 Bad recipient address syntax",
            Self::NeedsSmtpUtf8 => "553 5.6.7 Address needs SMTPUTF8",
            Self::UnknownParameter => "555 5.5.4 Unsupported parameter",
            Self::Parameter => "501 5.5.4 Bad parameter syntax",
            Self::BdatSyntax => "501 5.5.4 Syntax: BDAT octets [LAST]",
            Self::Mechanism => "504 5.5.4 Mechanism not supported",
        }
    }
}

impl Command {
    /// Reads a command line without its CR LF.
    pub fn parse(line: &[u8]) -> Result<Self, CommandError> {
        let line = std::str::from_utf8(line).map_err(|_| CommandError::NotUtf8)?;
        // RFC 5321 §4.1.1: trailing white space SHOULD be tolerated.
        let line = line.trim_end_matches([' ', '\t']);
        let (verb, rest) = line.split_at(line.find(' ').unwrap_or(line.len()));
        let argument = rest.strip_prefix(' ').unwrap_or(rest);
        let bare = |command: Self| if rest.is_empty() { Ok(command) } else { refuse_argument() };
        match verb.to_ascii_uppercase().as_str() {
            "HELO" => Ok(Self::Helo(host_name(argument)?)),
            "EHLO" => Ok(Self::Ehlo(host_name(argument)?)),
            "MAIL" => parse_mail(argument).map(|mail| Self::Mail(Box::new(mail))),
            "RCPT" => parse_rcpt(argument).map(|rcpt| Self::Rcpt(Box::new(rcpt))),
            "DATA" => bare(Self::Data),
            "BDAT" => parse_bdat(argument),
            "RSET" => bare(Self::Rset),
            // RFC 5321 §4.1.1.9: the parameter is to be ignored.
            "NOOP" => Ok(Self::Noop),
            "QUIT" => bare(Self::Quit),
            "VRFY" if argument.is_empty() => Err(CommandError::Parameter),
            "VRFY" => Ok(Self::Vrfy),
            "EXPN" => Ok(Self::Expn),
            "HELP" => Ok(Self::Help),
            "STARTTLS" => bare(Self::StartTls),
            "AUTH" => parse_auth(argument),
            "GET" | "POST" | "PUT" | "HEAD" | "OPTIONS" | "CONNECT" | "HOST:" => {
                Err(CommandError::Http)
            }
            _ => Err(CommandError::Unknown),
        }
    }

    /// Whether nothing may follow before its reply has been seen (RFC 2920 §3.1).
    ///
    /// What follows BDAT LAST is as plain as what follows the final dot of DATA, and clients that
    /// send QUIT along with it exist.
    pub fn ends_group(&self) -> bool {
        match self {
            Self::Helo(_) | Self::Ehlo(_) | Self::Data | Self::Noop | Self::Quit => true,
            Self::Vrfy | Self::Expn | Self::Help | Self::StartTls | Self::Auth { .. } => true,
            Self::Mail(_) | Self::Rcpt(_) | Self::Bdat { .. } | Self::Rset => false,
        }
    }
}

fn refuse_argument() -> Result<Command, CommandError> {
    Err(CommandError::Argument)
}

/// The argument of HELO or EHLO.
///
/// Hosts that call themselves `my_pc` or `localhost.` are many and harmless, so any name is taken
/// whose characters can neither break a Received field nor a terminal (RFC 5321 §4.1.4 forbids to
/// refuse a name because it does not fit the client).
fn host_name(argument: &str) -> Result<String, CommandError> {
    let ok = |c: char| {
        c.is_ascii_alphanumeric() || "-._:[]+".contains(c) || (!c.is_ascii() && c.is_alphanumeric())
    };
    if argument.is_empty() || argument.len() > 255 || !argument.chars().all(ok) {
        return Err(CommandError::HostName);
    }
    Ok(argument.to_owned())
}

fn parse_mail(argument: &str) -> Result<MailCommand, CommandError> {
    let rest = path::keyword(argument, "FROM:").ok_or(CommandError::MailSyntax)?;
    let (inner, rest) = path::bracketed(rest).ok_or(CommandError::MailSyntax)?;
    let reverse_path = ReversePath::parse(inner).map_err(|_| CommandError::ReversePath)?;
    let mut mail = MailCommand {
        reverse_path,
        size: None,
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        extended: !rest.is_empty(),
    };
    parameters::apply_to_mail(rest, &mut mail)?;
    if !argument.is_ascii() && !mail.smtputf8 {
        return Err(CommandError::NeedsSmtpUtf8);
    }
    Ok(mail)
}

fn parse_rcpt(argument: &str) -> Result<RcptCommand, CommandError> {
    let rest = path::keyword(argument, "TO:").ok_or(CommandError::RcptSyntax)?;
    let (inner, rest) = path::bracketed(rest).ok_or(CommandError::RcptSyntax)?;
    let forward_path = ForwardPath::parse(inner).map_err(|_| CommandError::ForwardPath)?;
    let mut rcpt = RcptCommand {
        forward_path,
        notify: None,
        orcpt: None,
        needs_smtputf8: !argument.is_ascii(),
        extended: !rest.is_empty(),
    };
    parameters::apply_to_rcpt(rest, &mut rcpt)?;
    Ok(rcpt)
}

fn parse_bdat(argument: &str) -> Result<Command, CommandError> {
    let (octets, last) = match argument.split_once(' ') {
        Some((octets, last)) if last.eq_ignore_ascii_case("LAST") => (octets, true),
        Some(_) => return Err(CommandError::BdatSyntax),
        None => (argument, false),
    };
    let octets = parameters::number(octets).ok_or(CommandError::BdatSyntax)?;
    Ok(Command::Bdat { octets, last })
}

fn parse_auth(argument: &str) -> Result<Command, CommandError> {
    let (name, initial) = match argument.split_once(' ') {
        Some((name, initial)) => (name, Some(initial.to_owned())),
        None => (argument, None),
    };
    let mechanism = match name.to_ascii_uppercase().as_str() {
        "PLAIN" => Mechanism::Plain,
        "LOGIN" => Mechanism::Login,
        "SCRAM-SHA-256" => Mechanism::ScramSha256,
        "" => return Err(CommandError::Parameter),
        _ => return Err(CommandError::Mechanism),
    };
    Ok(Command::Auth { mechanism, initial })
}
