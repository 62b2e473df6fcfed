//! Postfix, Exim, Dovecot, swaks, curl and Chromium.

mod chromium;
mod clients;
mod dovecot;
mod dovecot_logins;
mod exim;
mod flufl;
mod gateway;
mod migration;
mod postfix;
