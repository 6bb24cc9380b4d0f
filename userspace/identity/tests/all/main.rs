//! Identity over real sockets: bootstrap, login, accounts, admission, renewal, crash and restart.

mod accounts;
mod admission;
mod bootstrap;
mod crash;
mod fixture;
mod login;
